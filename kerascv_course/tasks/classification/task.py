"""Image classification: one label per image."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from matplotlib.figure import Figure
from scipy.special import log_softmax, softmax
from sklearn.metrics import confusion_matrix

from export.serving import normalization, normalized
from kerascv_course import plots
from kerascv_course.core.tables import format_percent
from kerascv_course.data import DataInfo, Dataset, Split
from kerascv_course.models import adapter, create_model
from kerascv_course.tasks.base import Trained, TrainedTask
from kerascv_course.tasks.classification.config import ClassificationRecipe
from kerascv_course.tasks.classification.transfer import freeze_before, load_all_but_head, warn_of_normalization
from kerascv_course.tasks.classification.tta import mean_over_views

__all__ = [
    "ClassificationTask",
    "class_samples",
    "classification_report",
]

#: Training images for networks whose first layer is computed from data (`kerascv_course.models.registry.adapter`).
ADAPTATION_IMAGES = 5000


def classification_report(logits: np.ndarray, targets: np.ndarray) -> dict[str, Any]:
    """Loss, accuracy and confusion matrix.

    Args:
        logits: float (N, classes), scores before the softmax.
        targets: int (N,), the true class of each image.

    Returns:
        ``images``; ``loss``: mean cross-entropy in nats; ``accuracy``; ``confusion``: counts, rows are true classes, columns
        predicted ones; ``class_accuracy``: recall of each class (None for a class without images).
    """
    logits = logits.astype(np.float64)
    confusion = confusion_matrix(targets, logits.argmax(axis=1), labels=np.arange(logits.shape[1]))
    return {
        "images": len(targets),
        "loss": float(-log_softmax(logits, axis=1)[np.arange(len(targets)), targets].mean()),
        "accuracy": float(np.trace(confusion) / len(targets)),
        "confusion": confusion.tolist(),
        "class_accuracy": [float(row[c] / row.sum()) if row.sum() else None for c, row in enumerate(confusion)],
    }


def class_samples(data: Dataset, count: int) -> dict[str, np.ndarray]:
    """The first test image of each of the first classes, by file stem."""
    samples = {}
    for target, label in enumerate(data.info.labels[:count]):
        found = (data.test.targets == target).nonzero()[0]
        if len(found):
            safe = re.sub(r"[^\w-]+", "_", label) or "class"
            samples[f"{target}_{safe}"] = data.test.images[found[0]]
    return samples


class ClassificationTask(TrainedTask[ClassificationRecipe]):
    """The task classify."""

    captions: Mapping[str, str] = {
        "confusion_matrix": "Confusion matrix of the test split; rows are true classes.",
        "class_accuracy": "Accuracy of each class on the test split.",
        "worst_mistakes": "Misclassified test images with the highest predicted probability.",
    }

    def build(self, data: Dataset) -> keras.Model:
        """A network of the registry behind its normalization: uint8 images to logits."""
        recipe, shape = self.recipe, data.info.image_shape
        size, channels = recipe.classification.resize, shape[2]
        options: dict[str, Any] = dict(recipe.model_options)
        network = create_model(recipe.model, len(data.info.labels), (size, size, channels) if size else shape, **options)
        mean, std = recipe.data.normalize_mean, recipe.data.normalize_std
        if recipe.weights:
            load_all_but_head(network, recipe.weights, recipe.model)
            warn_of_normalization(recipe.weights, recipe.data.normalize_mean, recipe.data.normalize_std)
        elif adapt := adapter(recipe.model):
            images = normalization(mean, std, channels)(data.train.images[:ADAPTATION_IMAGES])
            adapt(network, keras.ops.convert_to_numpy(images))
        if recipe.train_from:
            freeze_before(network, recipe.train_from)
        return normalized(network, mean, std, image_shape=shape)

    def compile_arguments(self, data: Dataset) -> dict[str, Any]:
        """Softmax cross-entropy on logits, and accuracy."""
        smoothing, mixes = self.recipe.classification.label_smoothing, self.recipe.augmentation.mixes
        if not smoothing and not mixes:
            return {"loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True), "metrics": ["accuracy"]}
        # Keras's own "accuracy" takes one kind of targets: mixed training images have probabilities, validation images classes.
        accuracy = keras.metrics.MeanMetricWrapper(_is_right, name="accuracy") if mixes else "accuracy"
        return {"loss": _SmoothedCrossentropy(smoothing), "metrics": [accuracy]}

    def predict(self, model: keras.Model, split: Split) -> np.ndarray:
        """Logits (N, classes), averaged over the views of test-time augmentation."""
        logits: np.ndarray = super().predict(mean_over_views(model, self.recipe.classification.tta), split)
        return logits

    def outputs(self, predictions: np.ndarray) -> dict[str, np.ndarray]:
        """The logits."""
        return {"logits": predictions}

    def evaluate(self, trained: Trained) -> dict[str, Any]:
        """`classification_report` of each whole split.

        With test-time augmentation validation and test are measured with it, train without; ``single_view_accuracy`` is the test
        accuracy without.
        """
        model, data = trained.model, trained.data
        predict = {"train": super().predict, "validation": self.predict, "test": lambda *_: trained.predictions}
        metrics = {name: classification_report(predict[name](model, split), split.targets) for name, split in data.items()}
        if self.recipe.classification.tta != "none":
            single = classification_report(super().predict(model, data.test), data.test.targets)
            metrics["test"]["single_view_accuracy"] = single["accuracy"]
        return metrics

    def figures(self, trained: Trained) -> dict[str, Figure]:
        """Confusion matrix, accuracy by class, and the most confident mistakes on the test split."""
        test, labels = trained.metrics["test"], trained.data.info.labels
        figures = {
            "confusion_matrix": plots.confusion_matrix(np.array(test["confusion"]), labels, test["accuracy"]),
            "class_accuracy": plots.class_accuracy(test["class_accuracy"], labels),
        }
        if mistakes := _worst_mistakes(trained.predictions, trained.data.test, labels, count=12):
            figures["worst_mistakes"] = plots.image_grid(*mistakes, title="Worst mistakes on the test split")
        return figures

    def samples(self, data: Dataset, count: int) -> dict[str, np.ndarray]:
        """The first test image of each of the first classes."""
        return class_samples(data, count)

    def serving_graph(self, model: keras.Model, info: DataInfo) -> keras.Model:
        """uint8 images to scores (batch, classes); the exporter names the outputs and adds the softmax."""
        return mean_over_views(model, self.recipe.classification.tta)


TASK = ClassificationTask


class _SmoothedCrossentropy(keras.losses.Loss):
    """Softmax cross-entropy with label smoothing (Szegedy et al. 2016, section 7), for classes or probabilities."""

    def __init__(self, smoothing: float) -> None:
        super().__init__(name="smoothed_crossentropy")
        self.smoothing = smoothing

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Loss of each image (batch,), from logits and targets: classes (batch,) or probabilities (batch, classes)."""
        classes = y_pred.shape[-1]
        target = y_true
        if not _are_probabilities(y_true, y_pred):
            target = keras.ops.one_hot(keras.ops.reshape(y_true, (-1,)), classes, dtype=y_pred.dtype)
        target = keras.ops.cast(target, y_pred.dtype) * (1 - self.smoothing) + self.smoothing / classes
        return keras.losses.categorical_crossentropy(target, y_pred, from_logits=True)


def _are_probabilities(targets: Any, logits: Any) -> bool:
    return len(targets.shape) == 2 and targets.shape[-1] == logits.shape[-1]


def _is_right(y_true: Any, y_pred: Any) -> Any:
    """Whether the predicted class is the true one, or the one with the largest share of a mixed image: 0 or 1, (batch,)."""
    if _are_probabilities(y_true, y_pred):
        y_true = keras.ops.argmax(y_true, axis=-1)
    answers = keras.ops.argmax(y_pred, axis=-1)
    return keras.ops.equal(keras.ops.cast(keras.ops.reshape(y_true, (-1,)), answers.dtype), answers)


def _worst_mistakes(logits: np.ndarray, split: Split, labels: Sequence[str], count: int) -> tuple[np.ndarray, list[str]] | None:
    """The wrong answers with the highest probability: images and captions; None if all answers are right."""
    probabilities = softmax(logits, axis=1)
    answers = probabilities.argmax(axis=1)
    wrong = np.flatnonzero(answers != split.targets)
    if not len(wrong):
        return None
    worst = wrong[np.argsort(-probabilities[wrong, answers[wrong]], kind="stable")][:count]
    captions = [
        f"true {labels[split.targets[i]]},\npredicted {labels[answers[i]]} ({format_percent(probabilities[i, answers[i]])})"
        for i in worst
    ]
    return split.images[worst], captions
