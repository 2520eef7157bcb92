"""Scenes: one label an image, by vision without a network; what is fitted ends as one Keras graph like everything else."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
from matplotlib.figure import Figure

from kerascv_course import plots
from kerascv_course.data import DataInfo, Dataset, Split
from kerascv_course.tasks.base import FittedTask, Trained
from kerascv_course.tasks.classification.task import class_samples
from kerascv_course.tasks.scenes.classifiers import check_classes, check_neighbors
from kerascv_course.tasks.scenes.config import SceneRecipe
from kerascv_course.tasks.scenes.features import Grid
from kerascv_course.tasks.scenes.pipeline import Features, classifier_fitter, scores

__all__ = ["SHORT_NAMES", "SceneTask", "asymmetry", "confused_pairs", "confusion", "short_names"]

#: Names of the fifteen scenes as report 002 abbreviates them.
SHORT_NAMES = {
    "Kitchen": "Kit", "Store": "Sto", "Bedroom": "Bed", "LivingRoom": "Liv", "Office": "Off", "Industrial": "Ind", "Suburb": "Sub",
    "InsideCity": "Cty", "TallBuilding": "Bld", "Street": "St", "Highway": "HW", "OpenCountry": "OC", "Coast": "Cst",
    "Mountain": "Mnt", "Forest": "For",
}  # fmt: skip


def short_names(labels: tuple[str, ...]) -> tuple[tuple[str, ...], list[int]]:
    """Names for the axes of a confusion matrix, and the order in which they stand there.

    The fifteen scenes are abbreviated and put into report 002's order, indoor scenes first; other labels stay as they are.
    """
    if set(labels) != set(SHORT_NAMES):
        return labels, list(range(len(labels)))
    return tuple(SHORT_NAMES.values()), [labels.index(name) for name in SHORT_NAMES]


def confusion(answers: np.ndarray, targets: np.ndarray, classes: int) -> np.ndarray:
    """Counts (classes, classes): rows are the true classes, columns the answers."""
    return np.bincount(targets * classes + answers, minlength=classes**2).reshape(classes, classes)


def asymmetry(counts: np.ndarray) -> float:
    """How one-sided confusions are: Σ |m_ij − m_ji| / Σ (m_ij + m_ji) over pairs i < j of the row-normalised matrix.

    0: every pair is confused both ways alike; 1: each only one way.
    """
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    upper = np.triu_indices(len(shares), 1)
    one, other = shares[upper], shares.T[upper]
    total = (one + other).sum()
    return float(np.abs(one - other).sum() / total) if total else 0.0


def confused_pairs(counts: np.ndarray, count: int) -> list[tuple[int, int, int]]:
    """The pairs of classes that are most often taken for one another: (class, class, images), both ways added up."""
    both = counts + counts.T
    rows, columns = np.triu_indices(len(counts), 1)
    order = np.argsort(-both[rows, columns], kind="stable")[:count]
    return [(int(rows[i]), int(columns[i]), int(both[rows[i], columns[i]])) for i in order if both[rows[i], columns[i]]]


class SceneTask(FittedTask[SceneRecipe]):
    """The task scenes."""

    answer = "probabilities"
    #: Inside, images are run one by one: a batch is a loop, and other sizes of it are the same computation.
    batch_sizes = (7,)
    captions: Mapping[str, str] = {
        "confusion_matrix": "Confusion matrix of the test split; rows are true classes.",
        "class_accuracy": "Accuracy of each class on the test split.",
        "confused_pairs": "Test images of the pairs of classes that are most often confused.",
    }

    def label(self, data: Dataset, run_dir: Path | None) -> Dataset:
        """The source's own classes; data that cannot be fitted is refused before hours of work.

        Raises:
            InputError: images smaller than a descriptor, more neighbors than training images, or for support vector machines a
                class without training images. Neighbors never answer such a class.
        """
        config = self.recipe.scenes
        if config.feature != "tiny":
            for size in config.bin_sizes:
                Grid(*data.info.image_shape[:2], config.step, size)
        if config.classifier == "knn":
            check_neighbors(config.k, len(data.train))
        else:
            check_classes(data.train.targets, data.info.labels)
        return data

    def fit(self, data: Dataset) -> tuple[keras.Model, list[dict[str, float]], int]:
        """Learn words, encode, fit a classifier.

        The words and each setting of the classifier are learnt from train and measured on validation; the best setting is then
        fitted once more to both, where the recipe says so.

        Returns:
            The model; a row a setting that was tried; and which of them is best.
        """
        config, classes = self.recipe.scenes, len(data.info.labels)
        features = Features.learn(config, data.train.images)
        train, validation = (
            features.encode(split.images, name) for name, split in (("train", data.train), ("validation", data.validation))
        )
        settings = [float(config.k)] if config.classifier == "knn" else list(config.penalties)
        fit, rows = classifier_fitter(config, train, data.train.targets, classes), []
        for number, setting in enumerate(settings, 1):
            started = time.perf_counter()
            classify = fit(setting)
            accuracies = {
                name: float((classify(vectors).argmax(axis=1) == split.targets).mean())
                for name, vectors, split in (("", train, data.train), ("val_", validation, data.validation))
            }
            seconds = round(time.perf_counter() - started, 3)
            rows.append(
                {
                    "epoch": float(number),
                    "k" if config.classifier == "knn" else "penalty": setting,
                    **{f"{name}accuracy": value for name, value in accuracies.items()},
                    "seconds": seconds,
                }
            )
        best = int(np.argmax([row["val_accuracy"] for row in rows]))
        if config.refit:
            vectors = np.concatenate([train, validation])
            targets = np.concatenate([data.train.targets, data.validation.targets])
            fit = classifier_fitter(config, vectors, targets, classes)
        return fit(settings[best]).whole(features), rows, best

    def predict(self, model: keras.Model, split: Split) -> np.ndarray:
        """Class numbers (N,)."""
        answers: np.ndarray = scores(model, split.images).argmax(axis=1)
        return answers

    def evaluate(self, trained: Trained) -> dict[str, Any]:
        """Accuracy, confusion matrix and its asymmetry; of test also without the images that are in train or validation as well.

        Validation is left out if the final classifier was fitted to it.
        """
        data = trained.data
        seen = {image.tobytes() for split in (data.train, data.validation) for image in split.images}
        metrics: dict[str, Any] = {}
        for name, split in data.items():
            if name == "validation" and self.recipe.scenes.refit:
                continue
            answers = trained.predictions if name == "test" else self.predict(trained.model, split)
            right, counts = answers == split.targets, confusion(answers, split.targets, len(data.info.labels))
            metrics[name] = {"images": len(split), "accuracy": float(right.mean())}
            if name == "test":
                new = np.array([image.tobytes() not in seen for image in split.images])
                metrics[name] |= {
                    "accuracy_without_duplicates": float(right[new].mean()) if new.any() else 0.0,
                    "duplicates": int((~new).sum()),
                }
            totals = counts.sum(axis=1)
            metrics[name] |= {
                "asymmetry": asymmetry(counts),
                "confusion": counts.tolist(),
                "class_accuracy": [float(counts[c, c] / n) if n else None for c, n in enumerate(totals)],
            }
        return metrics

    def figures(self, trained: Trained) -> dict[str, Figure]:
        """Confusion matrix, accuracy by class and the most confused pairs of the test split."""
        test, split, labels = trained.metrics["test"], trained.data.test, trained.data.info.labels
        names, order = short_names(labels)
        counts = np.array(test["confusion"])
        figures = {
            "confusion_matrix": plots.confusion_matrix(counts[np.ix_(order, order)], names, test["accuracy"]),
            "class_accuracy": plots.class_accuracy(test["class_accuracy"], labels),
        }
        images, captions = [], []
        for pair in confused_pairs(counts, 6):
            for true, answer in (pair[:2], pair[1::-1]):
                found = np.flatnonzero((split.targets == true) & (trained.predictions == answer))
                if len(found):
                    images.append(split.images[found[0]])
                    captions.append(f"{labels[true]} taken for\n{labels[answer]} ({len(found)})")
        if images:
            figures["confused_pairs"] = plots.image_grid(
                np.stack(images), captions, title="Most confused pairs of the test split (number of such images)", columns=4
            )
        return figures

    def samples(self, data: Dataset, count: int) -> dict[str, np.ndarray]:
        """The first test image of each of the first classes."""
        return class_samples(data, count)

    def serving_graph(self, model: keras.Model, info: DataInfo) -> keras.Model:
        """uint8 images to probabilities: shares of the votes, or the softmax of margins, which are then an output ``logits``."""
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
        """Labels, accuracies, and that pixels are taken as they are."""
        return {**super().describe(trained), "preprocessing": "pixels"}


TASK = SceneTask
