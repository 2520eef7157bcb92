"""Tasks: the only place that knows what a target, a loss, a metric, a figure and a served answer are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from kerascv_course.core.errors import UnknownNameError

if TYPE_CHECKING:
    import keras
    import numpy as np
    import tensorflow as tf
    from matplotlib.figure import Figure

    from kerascv_course.config import Recipe
    from kerascv_course.data import DataInfo, Splits

__all__ = ["FittedTask", "Task", "get_task"]


class Task(Protocol):
    """What trainer, export and reports need to know of a task; they never ask which one it is."""

    #: Key of the metric that is drawn against the epoch, beside the loss.
    curve: str
    #: Further metrics of the validation that are drawn with it.
    more_curves: tuple[str, ...]
    #: Name of the output whose argmax over the last axis is the task's answer.
    answer: str
    #: What its targets are called, many.
    targets: str
    #: Caption of each of its plots by file stem, in the order of the report.
    captions: Mapping[str, str]

    def label(self, recipe: Recipe, splits: Splits, info: DataInfo, run_dir: Path | None) -> tuple[Splits, DataInfo]:
        """The splits with the task's targets in place of the source's, and with their names.

        Args:
            recipe: what is done.
            splits: as the source gives them.
            info: likewise.
            run_dir: a run whose choices are kept; None: a new one.
        """

    def files(self, info: DataInfo) -> dict[str, str]:
        """Texts that a new run keeps beside its recipe, by file name: what `label` has chosen."""

    def relabel(self, info: DataInfo) -> Callable[[tf.Tensor], tf.Tensor] | None:
        """Targets from images that augmentation has changed; None where they do not change with the images."""

    def build(self, recipe: Recipe, splits: Splits, info: DataInfo) -> keras.Model:
        """The trainable model, from uint8 images to what the loss takes, normalisation inside."""

    def compile_arguments(self, recipe: Recipe, splits: Splits, info: DataInfo) -> dict[str, Any]:
        """Loss and metrics for `keras.Model.compile`."""

    def order(self, recipe: Recipe, splits: Splits) -> Callable[[tf.Tensor], tf.Tensor] | None:
        """Numbers of the training images of each step, int (batch,), from the step's number; None: every image once an epoch."""

    def validate(self, model: keras.Model, recipe: Recipe, splits: Splits, info: DataInfo) -> dict[str, float]:
        """Figures of the validation split that `compile_arguments` cannot give, for history.csv; often none."""

    def snapshot(self, model: keras.Model, recipe: Recipe, splits: Splits, info: DataInfo) -> Figure | None:
        """How far the model has come, to be looked at, after each validation (of validation images); None: nothing is drawn."""

    def evaluate(self, model: keras.Model, recipe: Recipe, splits: Splits, info: DataInfo) -> dict[str, Any]:
        """Every figure of metrics.json: for each split a dict, JSON-able; its plain numbers are shown in tables.

        Where there is one, ``floors`` is a dict of what is had without learning.
        """

    def headline(self, metrics: Mapping[str, Any]) -> dict[str, str]:
        """The few figures of the summary: name to text."""

    def figures(
        self, model: keras.Model, recipe: Recipe, splits: Splits, info: DataInfo, metrics: Mapping[str, Any]
    ) -> dict[str, Figure]:
        """The task's own plots by file stem."""

    def samples(self, splits: Splits, info: DataInfo, count: int) -> dict[str, np.ndarray]:
        """A few test pictures to try the exported file with, by file stem: uint8 (height, width, 1 or 3)."""

    def serving_graph(self, model: keras.Model, recipe: Recipe, info: DataInfo) -> keras.Model:
        """What is exported: from uint8 images to named final answers."""

    def describe(self, model: keras.Model, recipe: Recipe, info: DataInfo, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """What the task puts into the exported file's contract."""


@runtime_checkable
class FittedTask(Protocol):
    """A task that learns by itself, without gradients; it has all that `Task` lists as well."""

    #: Images a call at which its exported file is checked.
    batch_sizes: tuple[int, ...]

    def fit(self, recipe: Recipe, splits: Splits, info: DataInfo) -> tuple[keras.Model, list[dict[str, float]], int]:
        """The fitted model; a row (``epoch``, ``val_accuracy``, ``seconds`` …) a setting that was tried; the best row's index."""


def get_task(name: str) -> Task:
    """The task of a name.

    Raises:
        UnknownNameError: there is none.
    """
    from kerascv_course.tasks.classification.task import Classify
    from kerascv_course.tasks.colorization.task import Colorizer
    from kerascv_course.tasks.retrieval.task import Retrieval
    from kerascv_course.tasks.scenes.task import SceneRecognition

    tasks: dict[str, type[Task]] = {
        "classify": Classify,
        "colorize": Colorizer,
        "retrieve": Retrieval,
        "scenes": SceneRecognition,
    }
    if name not in tasks:
        raise UnknownNameError("task", name, tasks)
    return tasks[name]()
