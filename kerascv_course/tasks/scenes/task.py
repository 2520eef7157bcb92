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
from kerascv_course.config import Recipe
from kerascv_course.core.errors import InputError
from kerascv_course.data import DataInfo, Split, Splits
from kerascv_course.tasks.classification.task import class_samples
from kerascv_course.tasks.scenes.classifiers import check_classes, check_neighbors
from kerascv_course.tasks.scenes.features import Grid
from kerascv_course.tasks.scenes.pipeline import Features, classifier_fitter, scores

__all__ = ["SHORT_NAMES", "SceneRecognition", "asymmetry", "confused_pairs", "confusion", "short_names"]

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


class SceneRecognition:
    """The scenes task (see `kerascv_course.tasks.base.Task`)."""

    curve = "accuracy"
    more_curves: tuple[str, ...] = ()
    answer = "probabilities"
    targets = "classes"
    #: Inside, images are run one by one: a batch is a loop, and other sizes of it are the same computation.
    batch_sizes = (7,)
    captions: Mapping[str, str] = {
        "confusion_matrix": "Confusion matrix of the test split: rows are true classes, numbers are images.",
        "class_accuracy": "Share of each class that was recognised, test split.",
        "confused_pairs": "Test pictures of the pairs of classes that are most often taken for one another.",
    }

    def __init__(self) -> None:
        self._known: list[tuple[keras.Model, Split, np.ndarray]] = []

    def answers(self, model: keras.Model, split: Split) -> np.ndarray:
        """Answers (N,), class numbers; each split's are computed once."""
        for known, images, answers in self._known:
            if known is model and images is split:
                return answers
        self._known.append((model, split, scores(model, split.images).argmax(axis=1)))
        return self._known[-1][2]

    def label(self, recipe: Recipe, splits: Splits, info: DataInfo, run_dir: Path | None) -> tuple[Splits, DataInfo]:
        """The source's own classes; what the data cannot meet is refused here, before hours of work.

        Raises:
            InputError: images smaller than a descriptor, more neighbours than training images, or for support vector machines a
                class without training images. Neighbours never answer such a class.
        """
        config, train = recipe.scenes, splits.train
        if config.feature != "tiny":
            for size in config.bin_sizes:
                Grid(*info.image_shape[:2], config.step, size)
        if config.classifier == "knn":
            check_neighbors(config.k, len(train))
        else:
            check_classes(train.targets, info.labels)
        return splits, info

    def files(self, info: DataInfo) -> dict[str, str]:
        """None: nothing is chosen."""
        return {}

    def relabel(self, info: DataInfo) -> None:
        """None: images are not augmented."""

    def build(self, recipe: Recipe, splits: Splits, info: DataInfo) -> keras.Model:
        """There is nothing to be trained by gradients."""
        raise InputError("the task scenes is fitted as a whole; it has no network to build")

    def compile_arguments(self, recipe: Recipe, splits: Splits, info: DataInfo) -> dict[str, Any]:
        """None: nothing is compiled."""
        return {}

    def fit(self, recipe: Recipe, splits: Splits, info: DataInfo) -> tuple[keras.Model, list[dict[str, float]], int]:
        """Learn words, encode, fit a classifier.

        The words and each setting of the classifier are learnt from train and measured on validation; the best setting is then
        fitted once more to both, where the recipe says so.

        Returns:
            The model; a row a setting that was tried; and which of them is best.
        """
        config, classes = recipe.scenes, len(info.labels)
        features = Features.learn(config, splits.train.images)
        train, validation = (
            features.encode(split.images, name) for name, split in (("train", splits.train), ("validation", splits.validation))
        )
        settings = [float(config.k)] if config.classifier == "knn" else list(config.penalties)
        fit, rows = classifier_fitter(config, train, splits.train.targets, classes), []
        for number, setting in enumerate(settings, 1):
            started = time.perf_counter()
            classify = fit(setting)
            accuracies = {
                name: float((classify(vectors).argmax(axis=1) == split.targets).mean())
                for name, vectors, split in (("", train, splits.train), ("val_", validation, splits.validation))
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
            targets = np.concatenate([splits.train.targets, splits.validation.targets])
            fit = classifier_fitter(config, vectors, targets, classes)
        return fit(settings[best]).whole(features), rows, best

    def order(self, recipe: Recipe, splits: Splits) -> None:
        """None: every image once an epoch."""

    def validate(self, model: keras.Model, recipe: Recipe, splits: Splits, info: DataInfo) -> dict[str, float]:
        """Nothing further."""
        return {}

    def snapshot(self, model: keras.Model, recipe: Recipe, splits: Splits, info: DataInfo) -> None:
        """Nothing is drawn."""

    def evaluate(self, model: keras.Model, recipe: Recipe, splits: Splits, info: DataInfo) -> dict[str, Any]:
        """Accuracy, confusion matrix and its asymmetry; of test also without the images that train or validation hold as well.

        Validation stands here only where the classifier was not fitted to it in the end.
        """
        learnt = {"train": splits.train, "validation": splits.validation}
        seen = {image.tobytes() for split in learnt.values() for image in split.images}
        metrics: dict[str, Any] = {}
        for name, split in splits.items():
            if name == "validation" and recipe.scenes.refit:
                continue
            right, counts = self._measure(model, split, len(info.labels))
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

    def _measure(self, model: keras.Model, split: Split, classes: int) -> tuple[np.ndarray, np.ndarray]:
        answers = self.answers(model, split)
        return answers == split.targets, confusion(answers, split.targets, classes)

    def headline(self, metrics: Mapping[str, Any]) -> dict[str, str]:
        """Accuracies."""
        return {
            f"{name} accuracy": f"{metrics[name]['accuracy']:.4f}"
            for name in ("train", "validation", "test")
            if name in metrics
        }

    def figures(
        self, model: keras.Model, recipe: Recipe, splits: Splits, info: DataInfo, metrics: Mapping[str, Any]
    ) -> dict[str, Figure]:
        """Confusion matrix, accuracy by class and the most confused pairs of the test split."""
        test = metrics["test"]
        names, order = short_names(info.labels)
        counts = np.array(test["confusion"])
        figures = {
            "confusion_matrix": plots.confusion_matrix(counts[np.ix_(order, order)], names, test["accuracy"]),
            "class_accuracy": plots.class_accuracy(test["class_accuracy"], info.labels),
        }
        answers = self.answers(model, splits.test)
        images, captions = [], []
        for pair in confused_pairs(counts, 6):
            for true, answer in (pair[:2], pair[1::-1]):
                found = np.flatnonzero((splits.test.targets == true) & (answers == answer))
                if len(found):
                    images.append(splits.test.images[found[0]])
                    captions.append(f"{info.labels[true]} taken for\n{info.labels[answer]} ({len(found)})")
        if images:
            figures["confused_pairs"] = plots.image_grid(
                np.stack(images), captions, title="Most confused pairs of the test split (number of such images)", columns=4
            )
        return figures

    def samples(self, splits: Splits, info: DataInfo, count: int) -> dict[str, np.ndarray]:
        """The first test picture of each of the first classes."""
        return class_samples(splits, info, count)

    def serving_graph(self, model: keras.Model, recipe: Recipe, info: DataInfo) -> keras.Model:
        """uint8 images to probabilities: shares of the votes, or the softmax of margins, which are an output ``logits`` then."""
        image = keras.Input(info.image_shape, dtype="uint8", name="image")
        scores = model(image)
        if recipe.scenes.classifier == "knn":
            outputs = {"probabilities": keras.layers.Identity(name="probabilities")(scores)}
        else:
            outputs = {
                "logits": keras.layers.Identity(name="logits")(scores),
                "probabilities": keras.layers.Softmax(name="probabilities")(scores),
            }
        return keras.Model(image, outputs, name="scenes")

    def describe(self, model: keras.Model, recipe: Recipe, info: DataInfo, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Labels and the accuracy on each split."""
        measured = {
            split: {"accuracy": metrics[split]["accuracy"]} for split in ("train", "validation", "test") if split in metrics
        }
        return {"labels": info.labels, "metrics": measured, "preprocessing": "pixels"}
