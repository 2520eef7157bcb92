"""Batch norm over parts of a batch, as devices that do not synchronise have it, but on any number of devices."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from kerascv_course.training.devices import mean_over_replicas

__all__ = ["GroupedBatchNormalization"]


class GroupedBatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` over the last axis, each of `groups` equal parts of a training batch by itself.

    Hoffer et al. 2017, "Train longer, generalize better" (ghost batch norm): small parts of a large batch regularise as small
    batches do. The moving mean and variance move by the parts' means. Weights are those of the layer that it stands for.

    Args:
        groups: parts; a training batch divides by it.
        **kwargs: of `keras.layers.BatchNormalization`.
    """

    def __init__(self, groups: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.groups = groups

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Normalise; in inference as Keras does."""
        if not (training and self.trainable):
            return super().call(inputs, training=training, mask=mask)
        x = ops.cast(inputs, "float32")
        # the first axis in two, so that each device keeps the rows that it has
        x = ops.reshape(x, (self.groups, -1, *inputs.shape[1:]))
        mean, variance = ops.moments(x, axes=tuple(range(1, len(x.shape) - 1)), keepdims=True)
        for moving, part in ((self.moving_mean, mean), (self.moving_variance, variance)):
            average = mean_over_replicas(ops.mean(ops.reshape(part, (self.groups, -1)), axis=0))
            moving.assign(moving * self.momentum + average * (1 - self.momentum))
        scale = ops.rsqrt(variance + self.epsilon)
        if self.scale:
            scale = scale * ops.cast(self.gamma, "float32")
        offset = -mean * scale
        if self.center:
            offset = offset + ops.cast(self.beta, "float32")
        return ops.cast(ops.reshape(x * scale + offset, ops.shape(inputs)), self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        """The arguments."""
        return {**super().get_config(), "groups": self.groups}
