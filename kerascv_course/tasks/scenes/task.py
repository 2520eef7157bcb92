"""Scene recognition without a network: features and a classifier, fitted and exported as one Keras graph."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import confusion_matrix

from kerascv_course import plots
from kerascv_course.core.progress import track
from kerascv_course.data import DataInfo, Dataset, Split
from kerascv_course.tasks.base import FittedTask, Trained
from kerascv_course.tasks.classification.task import class_samples
from kerascv_course.tasks.scenes.classifiers import check_classes, check_neighbors
from kerascv_course.tasks.scenes.config import SceneRecipe
from kerascv_course.tasks.scenes.features import Grid
from kerascv_course.tasks.scenes.pipeline import Features, classifier_fitter, scores

__all__ = ["SceneTask"]

#: Abbreviations of the fifteen scenes, in the order of report 002: indoor scenes first.
SHORT_NAMES = {
    "Kitchen": "Kit", "Store": "Sto", "Bedroom": "Bed", "LivingRoom": "Liv", "Office": "Off", "Industrial": "Ind", "Suburb": "Sub",
    "InsideCity": "Cty", "TallBuilding": "Bld", "Street": "St", "Highway": "HW", "OpenCountry": "OC", "Coast": "Cst",
    "Mountain": "Mnt", "Forest": "For",
}  # fmt: skip


def short_names(labels: tuple[str, ...]) -> tuple[tuple[str, ...], list[int]]:
    """Axis labels of a confusion matrix and the order of its classes; only those of the fifteen scenes are changed."""
    if set(labels) != set(SHORT_NAMES):
        return labels, list(range(len(labels)))
    return tuple(SHORT_NAMES.values()), [labels.index(name) for name in SHORT_NAMES]


def asymmetry(counts: np.ndarray) -> float:
    """Asymmetry of confusions: Σ |m_ij − m_ji| / Σ (m_ij + m_ji) over pairs i < j of the row-normalized matrix.

    0: all pairs are confused equally both ways; 1: each only one way.
    """
    rates = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    upper = np.triu_indices(len(rates), 1)
    one, other = rates[upper], rates.T[upper]
    total = (one + other).sum()
    return float(np.abs(one - other).sum() / total) if total else 0.0


def confused_pairs(counts: np.ndarray, count: int) -> list[tuple[int, int, int]]:
    """The most frequently confused pairs: (class, class, number of images, both ways)."""
    both = counts + counts.T
    rows, columns = np.triu_indices(len(counts), 1)
    order = np.argsort(-both[rows, columns], kind="stable")[:count]
    return [(int(rows[i]), int(columns[i]), int(both[rows[i], columns[i]])) for i in order if both[rows[i], columns[i]]]


class SceneTask(FittedTask[SceneRecipe]):
    """Scene recognition; the predictions are class indices."""

    answer = "probabilities"
    #: The graph loops over images, so that all batch sizes are the same computation.
    batch_sizes = (7,)
    captions: Mapping[str, str] = {
        "confusion_matrix": "Confusion matrix of the test split; rows are true classes.",
        "class_accuracy": "Accuracy of each class on the test split.",
        "confused_pairs": "Test images of the pairs of classes that are most often confused.",
    }

    def label(self, data: Dataset, run_dir: Path | None) -> Dataset:
        """Check that the classifier can be fitted, before hours of work; targets stay as they are.

        Raises:
            InputError: images smaller than a descriptor, more neighbors than training images, or for support vector machines a
                class without training images (which neighbors never predict).
        """
        config = self.recipe.scenes
        if not len(data.train):
            return data
        if config.feature != "tiny":
            for size in config.bin_sizes:
                Grid(*data.info.image_shape[:2], config.step, size)
        if config.classifier == "knn":
            check_neighbors(config.k, len(data.train))
        else:
            check_classes(data.train.targets, data.info.labels)
        return data

    def fit(self, data: Dataset) -> tuple[keras.Model, list[dict[str, float]], int]:
        """Learn words, encode images and fit a classifier.

        Words and classifiers are fitted to the training split; the setting with the best validation accuracy is chosen and, if the
        recipe says so, fitted again to both splits.

        Returns:
            The model, a row per setting, and the index of the best.
        """
        config, classes = self.recipe.scenes, len(data.info.labels)
        features = Features.learn(config, data.train.images)
        train, validation = features.encode(data.train.images, "train"), features.encode(data.validation.images, "validation")
        name, settings = ("k", (float(config.k),)) if config.classifier == "knn" else ("penalty", config.penalties)
        fit, rows = classifier_fitter(config, train, data.train.targets, classes), []
        for number, setting in enumerate(track(settings, "fitting classifiers", "settings"), 1):
            started = time.perf_counter()
            classify = fit(setting)
            row = {
                "epoch": float(number),
                name: setting,
                "accuracy": float((classify(train).argmax(axis=1) == data.train.targets).mean()),
                "val_accuracy": float((classify(validation).argmax(axis=1) == data.validation.targets).mean()),
            }
            rows.append({**row, "seconds": round(time.perf_counter() - started, 3)})
        best = int(np.argmax([row["val_accuracy"] for row in rows]))
        if config.refit:
            targets = np.concatenate([data.train.targets, data.validation.targets])
            fit = classifier_fitter(config, np.concatenate([train, validation]), targets, classes)
        return fit(settings[best]).whole(features), rows, best

    def predict(self, model: keras.Model, split: Split) -> np.ndarray:
        """Class indices (N,)."""
        answers: np.ndarray = scores(model, split.images).argmax(axis=1)
        return answers

    def evaluate(self, trained: Trained) -> dict[str, Any]:
        """Accuracy, confusion matrix and its asymmetry; for test also without images that occur in train or validation.

        Validation is left out if the final classifier was fitted to it.
        """
        data, classes = trained.data, np.arange(len(trained.data.info.labels))
        known = {_digest(image) for split in (data.train, data.validation) for image in split.images}
        metrics: dict[str, Any] = {}
        for name, split in data.items():
            if name == "validation" and self.recipe.scenes.refit:
                continue
            predicted = trained.predictions if name == "test" else self.predict(trained.model, split)
            correct, counts = predicted == split.targets, confusion_matrix(split.targets, predicted, labels=classes)
            metrics[name] = {"images": len(split), "accuracy": float(correct.mean())}
            if name == "test":
                new = np.array([_digest(image) not in known for image in split.images])
                metrics[name] |= {
                    "accuracy_without_duplicates": float(correct[new].mean()) if new.any() else 0.0,
                    "duplicates": int((~new).sum()),
                }
            totals = counts.sum(axis=1)
            metrics[name] |= {
                "asymmetry": asymmetry(counts),
                "confusion": counts.tolist(),
                "class_accuracy": [float(counts[c, c] / total) if total else None for c, total in enumerate(totals)],
            }
        return metrics

    def figures(self, trained: Trained) -> dict[str, Figure]:
        """Confusion matrix, accuracy by class and most confused pairs of the test split."""
        test, split, labels = trained.metrics["test"], trained.data.test, trained.data.info.labels
        names, order = short_names(labels)
        counts = np.array(test["confusion"])
        figures = {
            "confusion_matrix": plots.confusion_matrix(counts[np.ix_(order, order)], names, test["accuracy"]),
            "class_accuracy": plots.class_accuracy(test["class_accuracy"], labels),
        }
        images, captions = [], []
        for pair in confused_pairs(counts, 6):
            for true, predicted in (pair[:2], pair[1::-1]):
                found = np.flatnonzero((split.targets == true) & (trained.predictions == predicted))
                if len(found):
                    images.append(split.images[found[0]])
                    captions.append(f"{labels[true]} as\n{labels[predicted]} ({len(found)})")
        if images:
            figures["confused_pairs"] = plots.image_grid(
                np.stack(images), captions, title="Most confused pairs of the test split (number of images)", columns=4
            )
        return figures

    def samples(self, data: Dataset, count: int) -> dict[str, np.ndarray]:
        """The first test image of each of the first classes."""
        return class_samples(data, count)

    def serving_graph(self, model: keras.Model, info: DataInfo) -> keras.Model:
        """uint8 images to ``probabilities``: fractions of votes, or the softmax of margins, which are then the output ``logits``."""
        image = keras.Input(info.image_shape, dtype="uint8", name="image")
        scores = model(image)
        if self.recipe.scenes.classifier == "knn":
            outputs = {"probabilities": keras.layers.Identity(name="probabilities")(scores)}
        else:
            outputs = {
                "logits": keras.layers.Identity(name="logits")(scores),
                "probabilities": keras.layers.Softmax(name="probabilities")(scores),
            }
        return keras.Model(image, outputs, name="scenes")

    def describe(self, trained: Trained) -> dict[str, Any]:
        """Labels and accuracies; pixels are not preprocessed outside the graph."""
        return {**super().describe(trained), "preprocessing": "pixels"}


TASK = SceneTask


def _digest(image: np.ndarray) -> bytes:
    return hashlib.sha256(image.tobytes()).digest()
