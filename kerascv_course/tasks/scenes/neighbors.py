"""k nearest neighbours as a Keras layer.

Distances are summed in float64 and rounded to float32: engines that add in another order then still agree, and equal distances are
equal. Of equally distant training images the first comes first; of classes with equally many votes the first wins, or the one
with the nearest image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import keras
import numpy as np
from keras import ops

from kerascv_course.core.errors import InputError
from kerascv_course.tasks.scenes.fixed import FixedLayer

__all__ = ["DISTANCES", "Distance", "Neighbors", "Vote", "check_neighbors", "distances", "vote"]

Distance = Literal["euclidean", "cityblock", "minkowski", "cosine", "chi2", "intersection"]
Vote = Literal["mode", "nearest", "distance"]

DISTANCES: tuple[Distance, ...] = ("euclidean", "cityblock", "minkowski", "cosine", "chi2", "intersection")

_TINY = 1e-12


def distances(queries: Any, references: Any, metric: Distance, power: float = 3.0) -> Any:
    """Distances between vectors.

    Args:
        queries: (Q, values).
        references: (R, values).
        metric: ``euclidean``; ``cityblock``: Σ |a − b|; ``minkowski``: (Σ |a − b|^p)^(1/p); ``cosine``: 1 − cos, and 1 where
            a vector is zero; ``chi2``: ½ Σ (a − b)² / (a + b), for values of 0 or more; ``intersection``: 1 − Σ min(a, b), for
            histograms that add up to 1.
        power: p of ``minkowski``, above 0.

    Returns:
        float32 (Q, R), computed in float64.
    """
    a, b = ops.cast(queries, "float64"), ops.cast(references, "float64")
    if metric == "cosine":
        a, b = (x / ops.maximum(ops.sqrt(ops.sum(x * x, axis=1, keepdims=True)), _TINY) for x in (a, b))
        return ops.cast(1.0 - ops.matmul(a, ops.transpose(b)), "float32")
    if metric == "euclidean":
        square = ops.sum(a * a, axis=1)[:, None] + ops.sum(b * b, axis=1) - 2.0 * ops.matmul(a, ops.transpose(b))
        return ops.cast(ops.sqrt(ops.maximum(square, 0.0)), "float32")
    a, b = a[:, None], b[None]
    if metric == "intersection":
        return ops.cast(1.0 - ops.sum(ops.minimum(a, b), axis=2), "float32")
    difference = ops.abs(a - b)
    if metric == "chi2":
        return ops.cast(0.5 * ops.sum(difference * difference / ops.maximum(a + b, _TINY), axis=2), "float32")
    if metric == "minkowski":
        return ops.cast(ops.sum(difference**power, axis=2) ** (1.0 / power), "float32")
    return ops.cast(ops.sum(difference, axis=2), "float32")


def vote(away: Any, one_hot_labels: Any, k: int, rule: Vote) -> Any:
    """Shares of the votes of the k nearest.

    Args:
        away: float32 (Q, R), distances.
        one_hot_labels: float32 (R, classes).
        k: neighbours, 1 to R.
        rule: ``mode``: a vote each, ties to the first class; ``nearest``: likewise, ties to the class whose voters are nearer (the
            vote of the neighbour of rank r counts 1 + 2^−r); ``distance``: a vote counts 1 / distance.

    Returns:
        float32 (Q, classes), rows add up to 1.
    """
    negative, index = ops.top_k(-away, k)
    labels = ops.take(one_hot_labels, index, axis=0)
    if rule == "distance":
        weights = 1.0 / (ops.cast(-negative, "float64") + 1e-9)
    else:
        bonus = np.exp2(-np.arange(1.0, k + 1)) if rule == "nearest" else np.zeros(k)
        weights = ops.cast(ops.ones_like(negative), "float64") * (1.0 + bonus)
    votes = ops.sum(ops.cast(labels, "float64") * weights[..., None], axis=1)
    return ops.cast(votes / ops.sum(votes, axis=1, keepdims=True), "float32")


def check_neighbors(k: int, references: int) -> None:
    """Refuse more neighbours than there are training images.

    Raises:
        InputError: that is so, or `k` is below 1.
    """
    if not 1 <= k <= references:
        raise InputError(f"k is 1 to the number of training images, {references}; received {k}")


@keras.saving.register_keras_serializable(package="kerascv_course")
class Neighbors(FixedLayer):
    """Votes of the nearest training images: (batch, values) to shares of the votes (batch, classes).

    Args:
        references: number of training images.
        values: of a vector.
        classes: how many.
        k: neighbours that vote.
        metric: see `distances`.
        rule: see `vote`.
        power: p of ``minkowski``.

    Raises:
        InputError: k is below 1 or above the number of training images.
    """

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
        self.sizes = (references, values, classes)
        self.k, self.metric, self.rule, self.power = k, metric, rule, power
        self.vectors = self.add_weight(shape=(references, values), initializer="zeros", name="vectors")
        self.labels = self.add_weight(shape=(references, classes), initializer="zeros", name="labels")

    def get_config(self) -> dict[str, Any]:
        """The arguments."""
        sizes = dict(zip(("references", "values", "classes"), self.sizes, strict=True))
        return {
            **super().get_config(),
            **sizes,
            "k": self.k,
            "metric": self.metric,
            "rule": self.rule,
            "power": self.power,
        }

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        """(batch, classes)."""
        return input_shape[0], self.sizes[2]

    def call(self, vectors: Any) -> Any:
        """Shares of the votes."""
        return vote(distances(vectors, self.vectors, self.metric, self.power), self.labels, self.k, self.rule)
