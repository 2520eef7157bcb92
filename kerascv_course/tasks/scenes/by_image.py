"""A model run on the images of a batch one after the other, inside the graph: memory does not grow with the batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

__all__ = ["ByImage", "by_image"]

#: Images under way at once.
PARALLEL = 2


@keras.saving.register_keras_serializable(package="kerascv_course")
class ByImage(keras.layers.Wrapper):
    """Run a model of one input and one output on each image of a batch by itself; in ONNX this is one Loop node."""

    def compute_output_spec(self, images: Any) -> keras.KerasTensor:
        """Shape and type of the result."""
        one = self.layer.output
        return keras.KerasTensor((images.shape[0], *one.shape[1:]), dtype=one.dtype)

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        """Shape of the result."""
        return input_shape[0], *self.layer.output.shape[1:]

    def call(self, images: Any) -> Any:
        """(batch, …) to (batch, …)."""
        one = self.layer.output
        spec = tf.TensorSpec(one.shape[1:], one.dtype)
        return tf.map_fn(
            lambda image: self.layer(image[None])[0], images, parallel_iterations=PARALLEL, fn_output_signature=spec
        )


def by_image(model: keras.Model) -> keras.Model:
    """A model of uint8 images as one that takes any batch in the memory of a few images; it shares the weights."""
    image = keras.Input(model.inputs[0].shape[1:], dtype=model.inputs[0].dtype, name="image")
    return keras.Model(image, ByImage(model, name="by_image")(image), name=model.name)
