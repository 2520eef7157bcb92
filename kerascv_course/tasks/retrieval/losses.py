"""Losses for identities, usable with any `model.fit`, and the layers they need; keras.ops only, for every backend of Keras.

Targets are identities, int (batch,) or (batch, 1). Losses of pairs and triplets are one number per batch.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import keras
from keras import ops

from kerascv_course.core.errors import InputError

__all__ = [
    "AngularMarginLoss",
    "CenterDistances",
    "CenterLoss",
    "CosineLogits",
    "IdentityCrossentropy",
    "Mining",
    "PartLoss",
    "TripletLoss",
    "WeightedParts",
    "pair_distances",
    "pick",
]

Mining = Literal["random", "semi-hard", "batch-hard", "batch-all"]

#: Squared distances below this have a gradient of 0; that of the square root is unbounded at 0.
LEAST_SQUARE = 1e-12


def pair_distances(vectors: Any, distance: Literal["euclidean", "cosine"] = "euclidean") -> Any:
    """Distances between all pairs of a batch: (batch, width) to (batch, batch); Euclidean, or 1 − cosine."""
    if distance == "cosine":
        unit = vectors / ops.sqrt(ops.maximum(ops.sum(ops.square(vectors), axis=1, keepdims=True), LEAST_SQUARE))
        return 1.0 - ops.matmul(unit, ops.transpose(unit))
    squares = ops.sum(ops.square(vectors), axis=1)
    products = ops.matmul(vectors, ops.transpose(vectors))
    return ops.sqrt(ops.maximum(squares[:, None] - 2.0 * products + squares[None, :], LEAST_SQUARE))


def _classes(targets: Any) -> Any:
    return ops.cast(ops.reshape(targets, (-1,)), "int32")


class _IdentityLoss(keras.losses.Loss):
    #: Constructor arguments, which are attributes as well.
    arguments: ClassVar[tuple[str, ...]] = ()

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {name: getattr(self, name) for name in (*self.arguments, "name")}


@keras.saving.register_keras_serializable("kerascv_course")
class IdentityCrossentropy(_IdentityLoss):
    """Softmax cross-entropy of logits (batch, identities) with label smoothing (Szegedy et al. 2016, section 7).

    Identities without a logit, such as those of the validation split, are wrapped (modulo the number of logits): their loss is finite
    but meaningless (report 000 finds no trend in it either).

    Args:
        smoothing: target probability spread over all identities, 0 to below 1.
    """

    arguments = ("smoothing",)

    def __init__(self, smoothing: float = 0.0, name: str = "identity_crossentropy") -> None:
        super().__init__(name=name)
        self.smoothing = smoothing

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Loss of each image (batch,), nats."""
        classes = y_pred.shape[-1]
        target = ops.one_hot(_classes(y_true) % classes, classes, dtype=y_pred.dtype)
        target = target * (1 - self.smoothing) + self.smoothing / classes
        return keras.losses.categorical_crossentropy(target, y_pred, from_logits=True)


@keras.saving.register_keras_serializable("kerascv_course")
class AngularMarginLoss(_IdentityLoss):
    """ArcFace and CosFace on the cosines (batch, identities) of a `CosineLogits` layer.

    Softmax cross-entropy of scale · cosines with a penalty on the true identity: ``arcface``: cos(θ + margin) (Deng et al. 2019,
    equation 3; beyond θ = π − margin, where it would increase, cos θ − margin · sin margin as in the authors' code); ``cosface``:
    cos θ − margin (Wang et al. 2018, equation 4).

    Args:
        kind: which penalty, ``arcface`` or ``cosface``.
        margin: radians for ``arcface`` (0.5 in the paper), 0 to π/2; a cosine for ``cosface`` (0.35).
        scale: of the cosines (64 in the papers).
        smoothing: label smoothing, as in `IdentityCrossentropy`.
    """

    arguments = ("kind", "margin", "scale", "smoothing")

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
                "an angular margin loss must be arcface or cosface, with a margin of 0 to π/2 and a scale above 0; received "
                f"{kind!r}, {margin}, {scale}"
            )
        self.kind, self.margin, self.scale, self.smoothing = kind, margin, scale, smoothing

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Loss of each image (batch,), nats."""
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


@keras.saving.register_keras_serializable("kerascv_course")
class CenterLoss(_IdentityLoss):
    """Half the squared distance to the center of the true identity (Wen et al. 2016, equation 2).

    Predictions are the squared distances (batch, identities) of a `CenterDistances` layer, whose weights, the centers, are trained by
    the optimizer of the model.
    """

    def __init__(self, name: str = "center") -> None:
        super().__init__(name=name)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Loss of each image (batch,)."""
        classes = y_pred.shape[-1]
        own = ops.one_hot(_classes(y_true) % classes, classes, dtype=y_pred.dtype)
        return 0.5 * ops.sum(own * y_pred, axis=-1)


@keras.saving.register_keras_serializable("kerascv_course")
class TripletLoss(_IdentityLoss):
    """Triplet loss of vectors (batch, width): anchors should be closer to positives than to negatives by a margin.

    A triplet costs max(0, d(a, p) − d(a, n) + margin) (Schroff et al. 2015, equation 3), or with a soft margin
    log(1 + exp(d(a, p) − d(a, n))) (Hermans et al. 2017, section 2). Mining:

    - ``random``: one triplet per anchor, its positive and negative from anywhere in the batch. The positions drawn are fixed; the
      images at these positions are random already.
    - ``semi-hard``: triplets whose negative is farther than the positive, by less than the margin (Schroff et al., equation 4).
    - ``batch-hard``: the farthest positive and the closest negative of each anchor (Hermans et al., equation 5).
    - ``batch-all``: all triplets (Hermans et al., equation 6).

    Semi-hard and batch-all average over triplets with a nonzero cost, the others over all anchors that have a triplet. An identity
    with one image has no positives; a batch without triplets costs 0.

    Args:
        mining: how triplets are chosen, one of the list above.
        margin: of distances, above 0.
        soft_margin: use the soft margin; semi-hard mining still uses `margin`.
        distance: Euclidean, or 1 − cosine.
    """

    arguments = ("mining", "margin", "soft_margin", "distance")

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
                "mining must be random, semi-hard, batch-hard or batch-all, and distance euclidean or cosine; received "
                f"{mining!r} and {distance!r}"
            )
        if not margin > 0:
            raise InputError(f"the margin of triplets must be above 0; received {margin}")
        self.mining, self.margin, self.soft_margin, self.distance = mining, margin, soft_margin, distance

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Loss of the batch, a scalar."""
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


def _mean(values: Any, valid: Any) -> Any:
    chosen = ops.cast(valid, values.dtype)
    return ops.sum(ops.where(valid, values, 0.0)) / ops.maximum(ops.sum(chosen), 1.0)


def pick(where: Any) -> Any:
    """Choose a true column in each row of bool (batch, batch) by fixed pseudo-random keys; arbitrary in rows without one."""
    places = ops.arange(ops.shape(where)[0])
    rows, columns = ops.cast(places[:, None], "float32"), ops.cast(places[None, :], "float32")
    mixed = ops.sin(rows * 12.9898 + columns * 78.233) * 43758.5453
    keys = ops.where(where, mixed - ops.floor(mixed), -1.0)
    return ops.argmax(keys, axis=1)


@keras.saving.register_keras_serializable("kerascv_course")
class WeightedParts(keras.losses.Loss):
    """Weighted sum of losses of different columns of one output, in which vectors, logits and center distances are concatenated.

    Args:
        parts: name to (loss, weight, start, stop) of the columns, as in a slice.
    """

    def __init__(self, parts: dict[str, tuple[keras.losses.Loss, float, int | None, int | None]], name: str = "parts") -> None:
        super().__init__(name=name)
        self.parts = parts

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Loss of the batch, a scalar."""
        return sum(weight * self.part(name, y_true, y_pred) for name, (_, weight, *_) in self.parts.items())

    def part(self, name: str, y_true: Any, y_pred: Any) -> Any:
        """Unweighted loss of one part, a scalar."""
        loss, _, first, last = self.parts[name]
        return ops.mean(loss.call(y_true, y_pred[:, first:last]))

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        parts = {name: [keras.saving.serialize_keras_object(loss), *rest] for name, (loss, *rest) in self.parts.items()}
        return {"parts": parts, "name": self.name}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> WeightedParts:
        """Inverse of `get_config`."""
        parts = {name: (keras.saving.deserialize_keras_object(loss), *rest) for name, (loss, *rest) in config["parts"].items()}
        return cls(parts, config["name"])


@keras.saving.register_keras_serializable("kerascv_course")
class PartLoss(keras.metrics.Mean):
    """Mean unweighted loss of one part of a `WeightedParts` loss.

    Args:
        loss: that has the part.
        part: name of the part, which names the metric as well.
    """

    def __init__(self, loss: WeightedParts, part: str, **options: Any) -> None:
        super().__init__(**{"name": f"{part}_loss", **options})
        self.loss, self.part = loss, part

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Add a batch, weighted by its number of images."""
        super().update_state(self.loss.part(self.part, y_true, y_pred), ops.cast(ops.shape(y_pred)[0], self.dtype))

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {**super().get_config(), "loss": keras.saving.serialize_keras_object(self.loss), "part": self.part}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> PartLoss:
        """Inverse of `get_config`."""
        return cls(**{**config, "loss": keras.saving.deserialize_keras_object(config["loss"])})


class _IdentityLayer(keras.layers.Layer):
    """Layer with one output per identity: (batch, width) to (batch, units).

    Args:
        units: number of identities, the width of the output.
    """

    def __init__(self, units: int, **options: Any) -> None:
        super().__init__(**options)
        self.units = units

    def compute_output_shape(self, input_shape: Any) -> Any:
        """(batch, units)."""
        return (*input_shape[:-1], self.units)

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable("kerascv_course")
class CosineLogits(_IdentityLayer):
    """Cosines between vectors and one trainable direction per identity, −1 to 1."""

    def build(self, input_shape: Any) -> None:
        """Create the directions."""
        self.kernel = self.add_weight(shape=(input_shape[-1], self.units), initializer="glorot_uniform", name="kernel")
        self.built = True

    def call(self, vectors: Any) -> Any:
        """(batch, width) to (batch, units)."""
        return ops.matmul(ops.normalize(vectors, axis=-1), ops.normalize(self.kernel, axis=0))


@keras.saving.register_keras_serializable("kerascv_course")
class CenterDistances(_IdentityLayer):
    """Squared distances between vectors and one trainable center per identity."""

    def build(self, input_shape: Any) -> None:
        """Create the centers."""
        self.centers = self.add_weight(shape=(self.units, input_shape[-1]), initializer="zeros", name="centers")
        self.built = True

    def call(self, vectors: Any) -> Any:
        """(batch, width) to (batch, units)."""
        squares = ops.sum(ops.square(vectors), axis=1, keepdims=True) + ops.sum(ops.square(self.centers), axis=1)[None, :]
        return ops.maximum(squares - 2.0 * ops.matmul(vectors, ops.transpose(self.centers)), 0.0)
