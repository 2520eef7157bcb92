"""Classification: one label an image."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from matplotlib.figure import Figure

from export.serving import normalization, normalized, serving_classifier
from kerascv_course import plots
from kerascv_course.config import Recipe
from kerascv_course.data import DataInfo, Split, Splits
from kerascv_course.models import adapter, create_model
from kerascv_course.tasks.classification.transfer import freeze_before, load_all_but_head
from kerascv_course.tasks.classification.tta import mean_over_views

__all__ = [
    "Classify",
    "class_samples",
    "classification_report",
]

EVALUATION_BATCH = 256

#: Training images that a network may take its first figures from.
ADAPTATION_IMAGES = 5000


def classification_report(logits: np.ndarray, targets: np.ndarray) -> dict[str, Any]:
    """Loss, accuracy and confusion matrix.

    Args:
        logits: float (N, classes).
        targets: int (N,).

    Returns:
        ``images``; ``loss``: mean cross-entropy in nats; ``accuracy``: share of right answers; ``confusion``: counts, rows are
        the true classes, columns the predicted ones; ``class_accuracy``: the share of each true class that was recognised
        (None for a class without images).
    """
    logits = logits.astype(np.float64)
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    classes = logits.shape[1]
    confusion = np.bincount(targets * classes + logits.argmax(axis=1), minlength=classes**2).reshape(classes, classes)
    totals = confusion.sum(axis=1)
    return {
        "images": len(targets),
        "loss": float(-log_probabilities[np.arange(len(targets)), targets].mean()),
        "accuracy": float(np.trace(confusion) / len(targets)),
        "confusion": confusion.tolist(),
        "class_accuracy": [float(confusion[c, c] / n) if n else None for c, n in enumerate(totals)],
    }


def class_samples(splits: Splits, info: DataInfo, count: int) -> dict[str, np.ndarray]:
    """The first test picture of each of the first classes, by file stem."""
    samples = {}
    for target, label in enumerate(info.labels[:count]):
        found = (splits.test.targets == target).nonzero()[0]
        if len(found):
            safe = re.sub(r"[^\w-]+", "_", label) or "class"
            samples[f"{target}_{safe}"] = splits.test.images[found[0]]
    return samples


class Classify:
    """The classification task (see `kerascv_course.tasks.base.Task`)."""

    curve = "accuracy"
    more_curves: tuple[str, ...] = ()
    answer = "logits"
    targets = "classes"
    captions: Mapping[str, str] = {
        "confusion_matrix": "Confusion matrix of the test split: rows are true classes, numbers are images.",
        "class_accuracy": "Share of each class that was recognised, test split.",
        "worst_mistakes": "The wrong answers on the test split that the network was surest of.",
    }

    def label(self, recipe: Recipe, splits: Splits, info: DataInfo, run_dir: Path | None) -> tuple[Splits, DataInfo]:
        """The source's own classes."""
        return splits, info

    def files(self, info: DataInfo) -> dict[str, str]:
        """None: nothing is chosen."""
        return {}

    def relabel(self, info: DataInfo) -> None:
        """None: a class stays what it is when its image changes."""

    def build(self, recipe: Recipe, splits: Splits, info: DataInfo) -> keras.Model:
        """A network of the registry behind its normalisation: uint8 images to logits."""
        options: dict[str, Any] = dict(recipe.model_options)
        height, width, channels = info.image_shape
        shape = (recipe.resize, recipe.resize, channels) if recipe.resize else (height, width, channels)
        network = create_model(recipe.model, len(info.labels), shape, **options)
        mean, std = recipe.data.normalize_mean, recipe.data.normalize_std
        if recipe.weights:
            load_all_but_head(network, recipe.weights, recipe.model)
        elif adapt := adapter(recipe.model):
            adapt(
                network, keras.ops.convert_to_numpy(normalization(mean, std, channels)(splits.train.images[:ADAPTATION_IMAGES]))
            )
        if recipe.train_from:
            freeze_before(network, recipe.train_from)
        return normalized(network, mean, std, image_shape=info.image_shape)

    def compile_arguments(self, recipe: Recipe, splits: Splits, info: DataInfo) -> dict[str, Any]:
        """Softmax cross-entropy on logits, accuracy."""
        if not recipe.label_smoothing and not recipe.augmentation.mixes:
            return {"loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True), "metrics": ["accuracy"]}
        # Keras's own "accuracy" is for one kind of targets: mixed images have probabilities, those of validation have classes.
        accuracy = keras.metrics.MeanMetricWrapper(_is_right, name="accuracy") if recipe.augmentation.mixes else "accuracy"
        return {"loss": _SmoothedCrossentropy(recipe.label_smoothing), "metrics": [accuracy]}

    def order(self, recipe: Recipe, splits: Splits) -> None:
        """None: every image once an epoch."""

    def validate(self, model: keras.Model, recipe: Recipe, splits: Splits, info: DataInfo) -> dict[str, float]:
        """Nothing further."""
        return {}

    def snapshot(self, model: keras.Model, recipe: Recipe, splits: Splits, info: DataInfo) -> None:
        """Nothing is drawn."""

    def evaluate(self, model: keras.Model, recipe: Recipe, splits: Splits, info: DataInfo) -> dict[str, Any]:
        """`classification_report` of each split, in inference mode over the whole of it.

        With test-time augmentation validation and test are measured with it, and ``single_view_accuracy`` of the test split is the
        accuracy without; train is measured without.
        """
        answering = mean_over_views(model, recipe.views)
        metrics = {
            name: classification_report(self._logits(model if name == "train" else answering, split), split.targets)
            for name, split in splits.items()
        }
        if answering is not model:
            single = classification_report(self._logits(model, splits.test), splits.test.targets)
            metrics["test"]["single_view_accuracy"] = single["accuracy"]
        return metrics

    def headline(self, metrics: Mapping[str, Any]) -> dict[str, str]:
        """Accuracy of each split."""
        return {f"{name} accuracy": f"{metrics[name]['accuracy']:.4f}" for name in ("train", "validation", "test")}

    def figures(
        self, model: keras.Model, recipe: Recipe, splits: Splits, info: DataInfo, metrics: Mapping[str, Any]
    ) -> dict[str, Figure]:
        """Confusion matrix, accuracy by class and the worst mistakes of the test split."""
        test = metrics["test"]
        logits = self._logits(mean_over_views(model, recipe.views), splits.test)
        figures = {
            "confusion_matrix": plots.confusion_matrix(np.array(test["confusion"]), info.labels, test["accuracy"]),
            "class_accuracy": plots.class_accuracy(test["class_accuracy"], info.labels),
        }
        if mistakes := _worst_mistakes(logits, splits.test, info.labels, count=12):
            figures["worst_mistakes"] = plots.image_grid(*mistakes, title="Worst mistakes on the test split")
        return figures

    def samples(self, splits: Splits, info: DataInfo, count: int) -> dict[str, np.ndarray]:
        """The first test picture of each of the first classes."""
        return class_samples(splits, info, count)

    def serving_graph(self, model: keras.Model, recipe: Recipe, info: DataInfo) -> keras.Model:
        """uint8 images to logits and probabilities."""
        return serving_classifier(mean_over_views(model, recipe.views))

    def describe(self, model: keras.Model, recipe: Recipe, info: DataInfo, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Labels and the accuracy on each split."""
        return {
            "labels": info.labels,
            "metrics": {split: {"accuracy": metrics[split]["accuracy"]} for split in ("train", "validation", "test")},
        }

    def _logits(self, model: keras.Model, split: Split) -> np.ndarray:
        from kerascv_course.data.pipeline import evaluation_batches

        return model.predict(evaluation_batches(split, EVALUATION_BATCH), verbose=0)


class _SmoothedCrossentropy(keras.losses.Loss):
    """Softmax cross-entropy with label smoothing (Szegedy et al. 2016, section 7), of classes or of their probabilities."""

    def __init__(self, smoothing: float) -> None:
        super().__init__(name="smoothed_crossentropy")
        self.smoothing = smoothing

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Loss of each image, (batch,), from targets, classes (batch,) or probabilities (batch, classes), and logits."""
        classes = y_pred.shape[-1]
        target = y_true
        if not _are_probabilities(y_true, y_pred):
            target = keras.ops.one_hot(keras.ops.reshape(y_true, (-1,)), classes, dtype=y_pred.dtype)
        target = keras.ops.cast(target, y_pred.dtype) * (1 - self.smoothing) + self.smoothing / classes
        return keras.losses.categorical_crossentropy(target, y_pred, from_logits=True)


def _are_probabilities(targets: Any, logits: Any) -> bool:
    return len(targets.shape) == 2 and targets.shape[-1] == logits.shape[-1]


def _is_right(y_true: Any, y_pred: Any) -> Any:
    """Whether the likeliest class is the true one, or the one that has most of a mixed image: 0 or 1, (batch,)."""
    if _are_probabilities(y_true, y_pred):
        y_true = keras.ops.argmax(y_true, axis=-1)
    answers = keras.ops.argmax(y_pred, axis=-1)
    return keras.ops.equal(keras.ops.cast(keras.ops.reshape(y_true, (-1,)), answers.dtype), answers)


def _worst_mistakes(logits: np.ndarray, split: Split, labels: Sequence[str], count: int) -> tuple[np.ndarray, list[str]] | None:
    """The wrong answers given with the highest probability: images and captions, or None where all are right."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = shifted / shifted.sum(axis=1, keepdims=True)
    answers = probabilities.argmax(axis=1)
    wrong = np.flatnonzero(answers != split.targets)
    if not len(wrong):
        return None
    worst = wrong[np.argsort(-probabilities[wrong, answers[wrong]], kind="stable")][:count]
    captions = [
        f"{labels[split.targets[i]]} taken for\n{labels[answers[i]]} ({probabilities[i, answers[i]]:.0%})" for i in worst
    ]
    return split.images[worst], captions
