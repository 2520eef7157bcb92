"""Layers that compute what Keras's own do, through TensorFlow's fused operations; for training on the TensorFlow backend.

On a CPU Keras's batch norm is a dozen passes over memory in float32, and a smooth activation in bfloat16 is as many. Each is one
here. Weights, configuration and results are those of the layer replaced, so weights move freely between the two.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

__all__ = ["FusedActivation", "FusedBatchNormalization", "fused_layer"]


class FusedBatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` of maps (N, H, W, C) over the last axis, in one operation while training."""

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Normalise; in inference as Keras does."""
        if not (training and self.trainable) or len(inputs.shape) != 4 or mask is not None or self.renorm or self.synchronized:
            return super().call(inputs, training=training, mask=mask)
        channels = inputs.shape[-1]
        result = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=self.gamma.value if self.scale else tf.ones([channels]),
            offset=self.beta.value if self.center else tf.zeros([channels]),
            mean=tf.zeros([0]),
            variance=tf.zeros([0]),
            epsilon=self.epsilon,
            is_training=True,
        )
        # The operation gives the unbiased variance; Keras's moving variance is the biased one.
        count = tf.cast(tf.size(inputs) // channels, tf.float32)
        for moving, batch in (
            (self.moving_mean, result.batch_mean),
            (self.moving_variance, result.batch_variance * (count - 1) / count),
        ):
            moving.assign(moving * self.momentum + batch * (1 - self.momentum))
        return result.y


class FusedActivation(keras.layers.Activation):
    """`keras.layers.Activation`, compiled by XLA into one pass forward and one backward, inside in float32."""

    def build(self, input_shape: Any) -> None:
        """Compile."""
        function, dtype = self.activation, tf.as_dtype(self.compute_dtype)

        @tf.function(jit_compile=True)
        def forward(x: tf.Tensor) -> tf.Tensor:
            return tf.cast(function(tf.cast(x, tf.float32)), dtype)

        @tf.function(jit_compile=True)
        def backward(x: tf.Tensor, upstream: tf.Tensor) -> tf.Tensor:
            wide = tf.cast(x, tf.float32)
            with tf.GradientTape() as tape:
                tape.watch(wide)
                y = function(wide)
            return tf.cast(tape.gradient(y, wide, tf.cast(upstream, tf.float32)), dtype)

        @tf.custom_gradient
        def call(x: tf.Tensor) -> Any:
            return forward(x), lambda upstream: backward(x, upstream)

        self._fused = call
        super().build(input_shape)

    def call(self, inputs: Any) -> Any:
        """Apply the activation."""
        return self._fused(inputs)


def fused_layer(layer: keras.layers.Layer) -> type[keras.layers.Layer]:
    """The class to take for a layer while training: its own, unless there is a fused one."""
    if type(layer) is keras.layers.BatchNormalization and layer.axis in (-1, 3):
        return FusedBatchNormalization
    smooth = (keras.activations.silu, keras.activations.gelu, keras.activations.elu, keras.activations.tanh)
    if type(layer) is keras.layers.Activation and layer.activation in smooth:
        return FusedActivation
    return type(layer)
