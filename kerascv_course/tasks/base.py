"""Tasks: the only place that knows what a target, a loss, a metric, a figure and a served answer are."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from kerascv_course.config import TASKS, Recipe, TrainedRecipe
from kerascv_course.core.errors import InputError
from kerascv_course.core.images import bounded_batch
from kerascv_course.core.lazy import keras
from kerascv_course.core.progress import part_of
from kerascv_course.data import DataInfo, Dataset, Split
from kerascv_course.data.pipeline import evaluation_batches, reading
from kerascv_course.training.callbacks import Counter

if TYPE_CHECKING:
    import numpy as np
    import tensorflow as tf
    from matplotlib.figure import Figure

__all__ = ["FittedTask", "Task", "Trained", "TrainedTask", "get_task"]

RecipeT = TypeVar("RecipeT", bound=Recipe)
TrainedRecipeT = TypeVar("TrainedRecipeT", bound=TrainedRecipe)


class Trained(Protocol):
    """What a task reads of a `kerascv_course.experiment.Experiment` whose model is trained."""

    @property
    def data(self) -> Dataset:
        """The dataset, with the task's targets."""

    @property
    def model(self) -> keras.Model:
        """The best weights."""

    @property
    def predictions(self) -> Any:
        """What `Task.predict` returns for the test split; computed once."""

    @property
    def metrics(self) -> dict[str, Any]:
        """What `Task.evaluate` returned; empty before."""


class Task(Generic[RecipeT]):
    """What trainer, export and reports need to know of a task; they never ask which one it is.

    Args:
        recipe: an instance of the task's recipe class (``RECIPE`` in its ``config.py``).
    """

    #: Key of the validation metric that the learning curves show beside the loss, and of further ones.
    curve = "accuracy"
    more_curves: tuple[str, ...] = ()
    #: Whether answers are among the labels of the run, so that images of other classes cannot be measured.
    closed_set = True
    #: Name of the output whose argmax over the last axis is the answer.
    answer = "logits"
    #: What the targets are called, in the plural.
    targets = "classes"
    #: Caption of each of the task's figures by file stem, in the order of the report.
    captions: Mapping[str, str] = {}
    #: Images per call in `predict`, of large ones fewer.
    evaluation_batch = 256
    #: Batch sizes at which the exported file is validated.
    batch_sizes: tuple[int, ...] = (1, 7, 64)

    def __init__(self, recipe: RecipeT) -> None:
        self.recipe = recipe

    def label(self, data: Dataset, run_dir: Path | None) -> Dataset:
        """The dataset with the task's targets and labels in place of the source's.

        Args:
            data: as the source gives it; of other data than the run's, which is only measured, a test split alone.
            run_dir: a run whose choices are reused; None for a new run.

        Raises:
            InputError: the data does not suit the recipe.
        """
        return data

    def files(self, data: Dataset) -> dict[str, str]:
        """Text files that a new run keeps beside its recipe, by name: what `label` has chosen."""
        return {}

    def predict(self, model: keras.Model, split: Split) -> Any:
        """Predictions for a split, in the form that `evaluate` and `figures` use; scores (N, …) by default."""
        batch = bounded_batch(self.evaluation_batch, split.images.shape)
        with reading(), part_of("measuring", len(split)) as wait:
            shown = [Counter(wait, len(split), batch)]
            return model.predict(evaluation_batches(split, batch), verbose=0, callbacks=shown)

    def outputs(self, predictions: Any) -> dict[str, np.ndarray]:
        """Outputs of the serving graph that are known from the predictions of a split, by name."""
        return {}

    def evaluate(self, trained: Trained) -> dict[str, Any]:
        """Every metric of metrics.json: a JSON-serializable dict for each split, whose plain numbers are shown in tables.

        ``baselines``, if present, is a dict of what simpler methods reach.
        """
        raise NotImplementedError

    def gate_accuracy(self, metrics: Mapping[str, Any]) -> float | None:
        """Keras's accuracy on the test split, as the parity gate must find it (`export.check_parity`); None: nothing comparable."""
        return float(metrics["test"]["accuracy"])

    def headline(self, metrics: Mapping[str, Any]) -> dict[str, str]:
        """The main metrics for the summary, name to text: the accuracy of each split that has one."""
        return {
            f"{name} accuracy": f"{metrics[name]['accuracy']:.4f}"
            for name in ("train", "validation", "test")
            if name in metrics
        }

    def figures(self, trained: Trained) -> dict[str, Figure]:
        """The task's figures by file stem."""
        return {}

    def samples(self, data: Dataset, count: int) -> dict[str, np.ndarray]:
        """A few test images to try the exported file with, by file stem: uint8 (height, width, 1 or 3)."""
        raise NotImplementedError

    def serving_graph(self, model: keras.Model, info: DataInfo) -> keras.Model:
        """The exported model: uint8 images to named outputs."""
        raise NotImplementedError

    def labels(self, info: DataInfo) -> tuple[str, ...]:
        """Labels of the exported file."""
        return info.labels

    def describe(self, trained: Trained) -> dict[str, Any]:
        """The task's part of the contract: labels and the accuracy of each split."""
        metrics = trained.metrics
        measured = {
            split: {"accuracy": metrics[split]["accuracy"]} for split in ("train", "validation", "test") if split in metrics
        }
        return {"labels": self.labels(trained.data.info), "metrics": measured}


class TrainedTask(Task[TrainedRecipeT]):
    """A task whose network is trained by gradient descent."""

    def build(self, data: Dataset) -> keras.Model:
        """The trainable model, from uint8 images to what the loss takes, normalization included."""
        raise NotImplementedError

    def compile_arguments(self, data: Dataset) -> dict[str, Any]:
        """Loss and metrics for `keras.Model.compile`."""
        raise NotImplementedError

    def relabel(self, info: DataInfo) -> Callable[[tf.Tensor], tf.Tensor] | None:
        """Targets computed from augmented images; None where augmentation does not change the targets."""
        return None

    def order(self, data: Dataset) -> Callable[[tf.Tensor], tf.Tensor] | None:
        """Indices of the training images of a step, int (batch,), from the step number; None: every image once an epoch."""
        return None

    def validate(self, model: keras.Model, data: Dataset) -> dict[str, float]:
        """Validation metrics that `compile_arguments` cannot give, for history.csv."""
        return {}

    def snapshot(self, model: keras.Model, data: Dataset) -> Figure | None:
        """A figure of predictions for validation images, drawn after each validation; None: no figure."""
        return None


class FittedTask(Task[RecipeT]):
    """A task that is fitted as a whole, without gradients."""

    def fit(self, data: Dataset) -> tuple[keras.Model, list[dict[str, float]], int]:
        """The fitted model, a row (``epoch``, ``val_accuracy``, ``seconds`` …) for each setting tried, and the index of the best."""
        raise NotImplementedError


def get_task(recipe: Recipe) -> Task[Any]:
    """The task of a recipe; its modules alone are imported.

    Raises:
        InputError: no such task.
    """
    if recipe.task not in TASKS:
        raise InputError(f"a recipe must belong to one of the tasks {', '.join(TASKS)}; received {recipe.task!r}")
    module = importlib.import_module(f"kerascv_course.tasks.{TASKS[recipe.task]}.task")
    task: Task[Any] = module.TASK(recipe)
    return task
