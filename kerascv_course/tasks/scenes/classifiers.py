"""Classifiers of vectors as Keras layers: k nearest neighbors; support vector machines, with kernels by feature maps.

Distances are summed in float64 and rounded to float32, so that engines that sum in another order agree and equal distances stay equal.
Ties between training images go to the first; ties between classes to the first class, or to the one with the closest image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import keras
import numpy as np
from keras import ops

from kerascv_course.core.errors import InputError
from kerascv_course.tasks.scenes.features import FixedLayer

__all__ = [
    "DISTANCES",
    "KNeighborsLayer",
    "KernelMap",
    "LinearMachine",
    "check_classes",
    "check_neighbors",
    "distances",
    "vote",
]

Distance = Literal["euclidean", "cityblock", "minkowski", "cosine", "chi2", "intersection"]
Vote = Literal["mode", "nearest", "distance"]

DISTANCES: tuple[Distance, ...] = get_args(Distance)

_TINY = 1e-12


def distances(queries: Any, references: Any, metric: Distance, power: float = 3.0) -> Any:
    """Distances between vectors.

    Args:
        queries: float (Q, values), the vectors to measure from.
        references: float (R, values), the vectors to measure to.
        metric: ``euclidean``; ``cityblock``: Σ |a − b|; ``minkowski``: (Σ |a − b|^p)^(1/p); ``cosine``: 1 − cos, 1 for zero
            vectors; ``chi2``: ½ Σ (a − b)² / (a + b), for nonnegative values; ``intersection``: 1 − Σ min(a, b), for histograms
            that sum to 1.
        power: p of ``minkowski``, above 0.

    Returns:
        float32 (Q, R), computed in float64; equal references are at equal distances.
    """
    a, b = ops.cast(queries, "float64"), ops.cast(references, "float64")
    if metric == "cosine":
        a, b = (x / ops.maximum(ops.sqrt(ops.sum(x * x, axis=1, keepdims=True)), _TINY) for x in (a, b))
    # pair by pair: a matrix product sums in an order that depends on the place of a vector among the others
    a, b = a[:, None], b[None]
    if metric == "cosine":
        return ops.cast(1.0 - ops.sum(a * b, axis=2), "float32")
    if metric == "intersection":
        return ops.cast(1.0 - ops.sum(ops.minimum(a, b), axis=2), "float32")
    difference = ops.abs(a - b)
    if metric == "euclidean":
        return ops.cast(ops.sqrt(ops.sum(difference * difference, axis=2)), "float32")
    if metric == "chi2":
        return ops.cast(0.5 * ops.sum(difference * difference / ops.maximum(a + b, _TINY), axis=2), "float32")
    if metric == "minkowski":
        return ops.cast(ops.sum(difference**power, axis=2) ** (1.0 / power), "float32")
    return ops.cast(ops.sum(difference, axis=2), "float32")


def vote(to_references: Any, one_hot_labels: Any, k: int, rule: Vote) -> Any:
    """Vote of the k nearest neighbors.

    Args:
        to_references: float32 (Q, R), distances.
        one_hot_labels: float32 (R, classes), 1 at the class of each reference.
        k: number of neighbors, 1 to R.
        rule: ``mode``: equal votes, ties to the first class; ``nearest``: equal votes, ties to the class with closer voters (the
            neighbor of rank r counts 1 + 2^−r); ``distance``: votes count 1 / distance.

    Returns:
        float32 (Q, classes), rows sum to 1.
    """
    negative, index = ops.top_k(-to_references, k)
    labels = ops.take(one_hot_labels, index, axis=0)
    if rule == "distance":
        weights = 1.0 / (ops.cast(-negative, "float64") + 1e-9)
    else:
        bonus = np.exp2(-np.arange(1.0, k + 1)) if rule == "nearest" else np.zeros(k)
        weights = ops.cast(ops.ones_like(negative), "float64") * (1.0 + bonus)
    votes = ops.sum(ops.cast(labels, "float64") * weights[..., None], axis=1)
    return ops.cast(votes / ops.sum(votes, axis=1, keepdims=True), "float32")


def check_neighbors(k: int, references: int) -> None:
    """Check the number of neighbors.

    Raises:
        InputError: `k` is below 1 or above the number of training images.
    """
    if not 1 <= k <= references:
        raise InputError(f"k must be 1 to the number of training images, {references}; received {k}")


@keras.saving.register_keras_serializable(package="kerascv_course")
class KNeighborsLayer(FixedLayer):
    """k nearest neighbors: (batch, values) to the fraction of votes for each class (batch, classes).

    Args:
        references: number of training images.
        values: length of a vector.
        classes: number of classes, the width of the output.
        k: number of neighbors that vote.
        metric: distance between vectors, one of those of `distances`.
        rule: how neighbors vote, one of the rules of `vote`.
        power: p of the distance ``minkowski``.

    Raises:
        InputError: k is below 1 or above the number of training images.
    """

    arguments = ("references", "values", "classes", "k", "metric", "rule", "power")

    def __init__(
        self,
        references: int,
        values: int,
        classes: int,
        k: int = 1,
        metric: Distance = "cityblock",
        rule: Vote = "mode",
        power: float = 3.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_neighbors(k, references)
        self.references, self.values, self.classes = references, values, classes
        self.k, self.metric, self.rule, self.power = k, metric, rule, power
        self.vectors = self.add_weight(shape=(references, values), initializer="zeros", name="vectors")
        self.labels = self.add_weight(shape=(references, classes), initializer="zeros", name="labels")

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        """(batch, classes)."""
        return input_shape[0], self.classes

    def call(self, vectors: Any) -> Any:
        """(batch, values) to (batch, classes)."""
        return vote(distances(vectors, self.vectors, self.metric, self.power), self.labels, self.k, self.rule)


def check_classes(targets: np.ndarray, labels: Sequence[str | int]) -> None:
    """Check that every class has training images.

    Raises:
        InputError: a class has none.
    """
    if missing := sorted(set(range(len(labels))) - set(targets.tolist())):
        raise InputError(f"support vector machines need images of every class; class {labels[missing[0]]} has none in train")


class LinearMachine:
    """Linear support vector machines, one versus rest.

    They are fitted on the Gram matrix of the training vectors, so that the cost hardly depends on the length of the vectors.

    Args:
        vectors: float32 (N, values), a training image each.
        targets: int (N,), the class of each training image.
        classes: number of classes, each with a machine.

    Raises:
        InputError: a class without images.
    """

    def __init__(self, vectors: np.ndarray, targets: np.ndarray, classes: int) -> None:
        check_classes(targets, range(classes))
        self.vectors, self.targets, self.classes = vectors, targets, classes
        self.gram = (vectors @ vectors.T).astype(np.float64)

    def fit(self, penalty: float) -> tuple[np.ndarray, np.ndarray]:
        """Fit with penalty C: float32 weights (values, classes) and biases (classes,).

        The loss is LIBSVM's hinge (not squared); the bias is not penalized.
        """
        from sklearn.svm import SVC

        dual, bias = np.zeros((len(self.vectors), self.classes)), np.zeros(self.classes)
        for target in range(self.classes):
            machine = SVC(C=penalty, kernel="precomputed", cache_size=100)
            machine.fit(self.gram, np.where(self.targets == target, 1, -1))
            dual[machine.support_, target] = machine.dual_coef_[0]
            bias[target] = machine.intercept_[0]
        return (self.vectors.T @ dual.astype(np.float32)), bias.astype(np.float32)


@keras.saving.register_keras_serializable(package="kerascv_course")
class KernelMap(FixedLayer):
    """Feature map whose dot products approximate a kernel on histograms (Vedaldi and Zisserman 2012, equation 18).

    Args:
        kernel: ``intersection``: Σ min(a, b); ``chi2``: Σ 2ab / (a + b).
        order: every value is mapped to 2 · order + 1 values.
        period: sampling step of the spectrum (L in section 5); None: that of VLFeat's ``homkermap``.
    """

    arguments = ("kernel", "order", "period")

    def __init__(
        self,
        kernel: Literal["intersection", "chi2"] = "intersection",
        order: int = 1,
        period: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.kernel, self.order = kernel, order
        usual = {"intersection": 2.38 * np.log(order + 0.8) + 5.6, "chi2": 5.86 * np.sqrt(order) + 3.65}
        self.period = period or float(2 * np.pi / usual[kernel])

    def compute_output_spec(self, vectors: Any) -> keras.KerasTensor:
        """Shape and type of the result."""
        return keras.KerasTensor((vectors.shape[0], vectors.shape[1] * (2 * self.order + 1)), dtype="float32")

    def spectrum(self, frequency: float) -> float:
        """κ(λ), table 1 of the paper."""
        if self.kernel == "intersection":
            return 2 / (np.pi * (1 + 4 * frequency**2))
        return 1 / float(np.cosh(np.pi * frequency))

    def call(self, vectors: Any) -> Any:
        """Nonnegative (batch, values) to (batch, values · (2 · order + 1)); zero stays zero."""
        root = ops.sqrt(vectors * self.period)
        logarithm = ops.log(ops.maximum(vectors, 1e-12))
        parts = [root * self.spectrum(0.0) ** 0.5]
        for number in range(1, self.order + 1):
            frequency = number * self.period
            weight = (2 * self.spectrum(frequency)) ** 0.5
            parts += [weight * root * ops.cos(frequency * logarithm), weight * root * ops.sin(frequency * logarithm)]
        return ops.concatenate(parts, axis=1)
