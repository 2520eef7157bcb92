"""Losses for identities, as `keras.losses.Loss` that `model.fit` takes; keras.ops alone, so any backend of Keras.

Targets are identities, int (batch,) or (batch, 1). A loss over pairs and triplets is one number a batch.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import keras
from keras import ops

from kerascv_course.core.errors import InputError

__all__ = [
    "AngularMarginLoss",
    "CenterLoss",
    "IdentityCrossentropy",
    "Mining",
    "PartLoss",
    "TripletLoss",
    "WeightedParts",
    "pair_distances",
    "pick",
]

Mining = Literal["random", "semi-hard", "batch-hard", "batch-all"]

#: Below this squared distance the root's gradient, which has no bound at 0, is taken as 0.
LEAST_SQUARE = 1e-12


def pair_distances(vectors: Any, distance: Literal["euclidean", "cosine"] = "euclidean") -> Any:
    """Distances of all pairs of a batch: (batch, width) to (batch, batch); Euclidean, or 1 − cosine."""
    if distance == "cosine":
        unit = vectors / ops.sqrt(ops.maximum(ops.sum(ops.square(vectors), axis=1, keepdims=True), LEAST_SQUARE))
        return 1.0 - ops.matmul(unit, ops.transpose(unit))
    squares = ops.sum(ops.square(vectors), axis=1)
    products = ops.matmul(vectors, ops.transpose(vectors))
    return ops.sqrt(ops.maximum(squares[:, None] - 2.0 * products + squares[None, :], LEAST_SQUARE))


def _classes(targets: Any) -> Any:
    return ops.cast(ops.reshape(targets, (-1,)), "int32")


@keras.saving.register_keras_serializable("kerascv_course")
class IdentityCrossentropy(keras.losses.Loss):
    """Softmax cross-entropy with label smoothing (Szegedy et al. 2016, section 7): targets and logits (batch, identities).

    An identity beyond the head, as those of validation are, is folded back (modulo the head's width): the value is finite, and says
    nothing (report 000 finds no trend in it either).

    Args:
        smoothing: share of the target probability spread over all identities, 0 to below 1.
    """

    def __init__(self, smoothing: float = 0.0, name: str = "identity_crossentropy") -> None:
        super().__init__(name=name)
        self.smoothing = smoothing

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Loss of each image, (batch,), nats."""
        classes = y_pred.shape[-1]
        target = ops.one_hot(_classes(y_true) % classes, classes, dtype=y_pred.dtype)
        target = target * (1 - self.smoothing) + self.smoothing / classes
        return keras.losses.categorical_crossentropy(target, y_pred, from_logits=True)

    def get_config(self) -> dict[str, Any]:
        """The arguments."""
        return {"smoothing": self.smoothing, "name": self.name}


@keras.saving.register_keras_serializable("kerascv_course")
class AngularMarginLoss(keras.losses.Loss):
    """ArcFace and CosFace: targets and cosines (batch, identities) of a `CosineLogits` layer.

    Softmax cross-entropy of scale · cosines, where that of the true identity is made harder: ``arcface``: cos(θ + margin) (Deng et
    al. 2019, equation 3; beyond θ = π − margin, where it would rise again, cos θ − margin · sin margin as in the authors' program);
    ``cosface``: cos θ − margin (Wang et al. 2018, equation 4).

    Args:
        kind: which of them.
        margin: radians for ``arcface`` (the paper has 0.5), 0 to π/2; a cosine for ``cosface`` (0.35).
        scale: of the cosines (the papers have 64).
        smoothing: as for `IdentityCrossentropy`.
    """

    def __init__(
        self,
        kind: Literal["arcface", "cosface"] = "arcface",
        margin: float = 0.5,
        scale: float = 64.0,
        smoothing: float = 0.0,
        name: str = "angular_margin",
    ) -> None:
        super().__init__(name=name)
        if kind not in ("arcface", "cosface") or not 0 <= margin <= math.pi / 2 or not scale > 0:
            raise InputError(
                f"an angular margin is arcface or cosface, of 0 to π/2, with a scale above 0; received {kind!r}, {margin}, {scale}"
            )
        self.kind, self.margin, self.scale, self.smoothing = kind, margin, scale, smoothing

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Loss of each image, (batch,), nats."""
        classes = y_pred.shape[-1]
        if self.kind == "cosface":
            harder = y_pred - self.margin
        else:
            cosine = ops.clip(y_pred, -1 + 1e-7, 1 - 1e-7)
            turned = cosine * math.cos(self.margin) - ops.sqrt(1 - ops.square(cosine)) * math.sin(self.margin)
            harder = ops.where(cosine >= -math.cos(self.margin), turned, cosine - self.margin * math.sin(self.margin))
        own = ops.one_hot(_classes(y_true) % classes, classes, dtype=y_pred.dtype)
        logits = self.scale * (own * harder + (1 - own) * y_pred)
        return IdentityCrossentropy(self.smoothing).call(y_true, logits)

    def get_config(self) -> dict[str, Any]:
        """The arguments."""
        config = {"kind": self.kind, "margin": self.margin, "scale": self.scale}
        return {**config, "smoothing": self.smoothing, "name": self.name}


@keras.saving.register_keras_serializable("kerascv_course")
class CenterLoss(keras.losses.Loss):
    """Half the squared distance to the centre of the own identity (Wen et al. 2016, equation 2), mean over the batch.

    It takes targets and the squared distances to all centres (batch, identities), which a `CenterDistances` layer gives: the centres
    are that layer's weights and learn by the model's optimiser.
    """

    def __init__(self, name: str = "center") -> None:
        super().__init__(name=name)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Loss of each image, (batch,)."""
        classes = y_pred.shape[-1]
        own = ops.one_hot(_classes(y_true) % classes, classes, dtype=y_pred.dtype)
        return 0.5 * ops.sum(own * y_pred, axis=-1)

    def get_config(self) -> dict[str, Any]:
        """The arguments."""
        return {"name": self.name}


@keras.saving.register_keras_serializable("kerascv_course")
class TripletLoss(keras.losses.Loss):
    """An anchor shall be nearer to images of its identity than to others, by a margin: targets and vectors (batch, width).

    A triplet costs max(0, d(a, p) − d(a, n) + margin) (Schroff et al. 2015, equation 3), or with a soft margin
    log(1 + exp(d(a, p) − d(a, n))) (Hermans et al. 2017, section 2). Which of a batch's triplets count:

    - ``random``: one of each anchor, a positive and a negative from anywhere in the batch. The draw is a fixed one of places in the
      batch; what stands there is random already.
    - ``semi-hard``: all whose negative is farther than the positive, by less than the margin (Schroff et al., equation 4).
    - ``batch-hard``: of each anchor the farthest positive and the nearest negative (Hermans et al., equation 5).
    - ``batch-all``: all (Hermans et al., equation 6).

    Semi-hard and batch-all average over the triplets that cost something, the others over all anchors that have a triplet. An image
    alone with its identity is nobody's anchor or positive; a batch without triplets costs 0.

    Args:
        mining: which triplets count.
        margin: of distances, above 0.
        soft_margin: the smooth cost in place of the hinge; semi-hard still chooses by the margin.
        distance: Euclidean, or 1 − cosine.
    """

    def __init__(
        self,
        mining: Mining = "batch-hard",
        margin: float = 0.3,
        soft_margin: bool = False,
        distance: Literal["euclidean", "cosine"] = "euclidean",
        name: str = "triplet",
    ) -> None:
        super().__init__(name=name)
        if mining not in ("random", "semi-hard", "batch-hard", "batch-all") or distance not in ("euclidean", "cosine"):
            raise InputError(
                "triplets are random, semi-hard, batch-hard or batch-all, by euclidean or cosine distance; "
                f"received {mining!r} and {distance!r}"
            )
        if not margin > 0:
            raise InputError(f"a triplet's margin is above 0; received {margin}")
        self.mining, self.margin, self.soft_margin, self.distance = mining, margin, soft_margin, distance

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Loss of the batch, one number."""
        identities = _classes(y_true)
        distances = pair_distances(y_pred, self.distance)
        count = ops.shape(distances)[0]
        same = ops.equal(identities[:, None], identities[None, :])
        places = ops.arange(count)
        positive = ops.logical_and(same, ops.not_equal(places[:, None], places[None, :]))
        negative = ops.logical_not(same)
        if self.mining in ("random", "batch-hard"):
            if self.mining == "batch-hard":
                far = ops.max(ops.where(positive, distances, -math.inf), axis=1)
                near = ops.min(ops.where(negative, distances, math.inf), axis=1)
            else:
                far, near = (
                    ops.take_along_axis(distances, pick(where)[:, None], axis=1)[:, 0] for where in (positive, negative)
                )
            valid = ops.logical_and(ops.any(positive, axis=1), ops.any(negative, axis=1))
            gap = ops.where(valid, far, 0.0) - ops.where(valid, near, 0.0)
            return _mean(self._cost(gap), valid)
        gap = distances[:, :, None] - distances[:, None, :]  # anchor, positive, negative
        valid = ops.logical_and(positive[:, :, None], negative[:, None, :])
        if self.mining == "semi-hard":
            valid = ops.logical_and(valid, ops.logical_and(gap < 0, gap > -self.margin))
        cost = self._cost(gap)
        return _mean(cost, ops.logical_and(valid, cost > 0))

    def _cost(self, gap: Any) -> Any:
        return ops.softplus(gap) if self.soft_margin else ops.relu(gap + self.margin)

    def get_config(self) -> dict[str, Any]:
        """The arguments."""
        config = {"mining": self.mining, "margin": self.margin, "soft_margin": self.soft_margin}
        return {**config, "distance": self.distance, "name": self.name}


def _mean(values: Any, valid: Any) -> Any:
    chosen = ops.cast(valid, values.dtype)
    return ops.sum(ops.where(valid, values, 0.0)) / ops.maximum(ops.sum(chosen), 1.0)


def pick(where: Any) -> Any:
    """For each row of bool (batch, batch) the number of one marked column, by fixed pseudo-random keys; any where none is marked."""
    places = ops.arange(ops.shape(where)[0])
    rows, columns = ops.cast(places[:, None], "float32"), ops.cast(places[None, :], "float32")
    mixed = ops.sin(rows * 12.9898 + columns * 78.233) * 43758.5453
    keys = ops.where(where, mixed - ops.floor(mixed), -1.0)
    return ops.argmax(keys, axis=1)


@keras.saving.register_keras_serializable("kerascv_course")
class WeightedParts(keras.losses.Loss):
    """A weighted sum of losses, each of its own columns of one output.

    Networks here have a single output: vectors, logits and distances to centres stand side by side in it.

    Args:
        parts: name to (loss, weight, first column, column after the last), as slices have them: below 0 from the end, or None.
    """

    def __init__(self, parts: dict[str, tuple[keras.losses.Loss, float, int | None, int | None]], name: str = "parts") -> None:
        super().__init__(name=name)
        self.parts = parts

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Loss of the batch, one number."""
        return sum(weight * self.part(name, y_true, y_pred) for name, (_, weight, *_) in self.parts.items())

    def part(self, name: str, y_true: Any, y_pred: Any) -> Any:
        """One of the losses, without its weight: one number."""
        loss, _, first, last = self.parts[name]
        return ops.mean(loss.call(y_true, y_pred[:, first:last]))

    def get_config(self) -> dict[str, Any]:
        """The arguments."""
        parts = {name: [keras.saving.serialize_keras_object(loss), *rest] for name, (loss, *rest) in self.parts.items()}
        return {"parts": parts, "name": self.name}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> WeightedParts:
        """From the arguments."""
        parts = {name: (keras.saving.deserialize_keras_object(loss), *rest) for name, (loss, *rest) in config["parts"].items()}
        return cls(parts, config["name"])


@keras.saving.register_keras_serializable("kerascv_course")
class PartLoss(keras.metrics.Mean):
    """Mean of one of the losses of `WeightedParts`, without its weight.

    Args:
        loss: with the part.
        part: its name.
    """

    def __init__(self, loss: WeightedParts, part: str, **options: Any) -> None:
        super().__init__(**{"name": f"{part}_loss", **options})
        self.loss, self.part = loss, part

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Take a batch in, by its number of images."""
        super().update_state(self.loss.part(self.part, y_true, y_pred), ops.cast(ops.shape(y_pred)[0], self.dtype))

    def get_config(self) -> dict[str, Any]:
        """The arguments."""
        return {**super().get_config(), "loss": keras.saving.serialize_keras_object(self.loss), "part": self.part}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> PartLoss:
        """From the arguments."""
        return cls(**{**config, "loss": keras.saving.deserialize_keras_object(config["loss"])})
