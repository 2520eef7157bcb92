"""Tiny images: the pixels of a picture shrunk to a few (Torralba et al. 2008)."""

from __future__ import annotations

from typing import Any, Literal

import keras
from keras import ops

from kerascv_course.tasks.scenes.fixed import FixedLayer, to_float32

__all__ = ["TinyImage"]


@keras.saving.register_keras_serializable(package="kerascv_course")
class TinyImage(FixedLayer):
    """Pixels to a vector: (batch, height, width, channels) of 0–255 to float32 (batch, height · width · channels).

    The shrinking is done where pictures are read (`kerascv_course.core.images.read_image`), in training and in use alike.

    Args:
        center: subtract the image's mean.
        norm: ``"l1"``: absolute values add up to 1; ``"l2"``: Euclidean norm 1; ``"none"``: values of 0–255. An image of one
            colour, centred, stays zero.
    """

    def __init__(self, center: bool = True, norm: Literal["none", "l1", "l2"] = "l1", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.center, self.norm = center, norm

    def get_config(self) -> dict[str, Any]:
        """The arguments."""
        return {**super().get_config(), "center": self.center, "norm": self.norm}

    def compute_output_spec(self, images: Any) -> keras.KerasTensor:
        """Shape and type of the result."""
        return keras.KerasTensor((images.shape[0], images.shape[1] * images.shape[2] * images.shape[3]), dtype="float32")

    def call(self, images: Any) -> Any:
        """The vector, computed in float64."""
        x = ops.cast(ops.reshape(images, (-1, images.shape[1] * images.shape[2] * images.shape[3])), "float64")
        if self.center:
            x = x - ops.mean(x, axis=1, keepdims=True)
        if self.norm != "none":
            size = ops.sum(ops.abs(x), axis=1, keepdims=True)
            if self.norm == "l2":
                size = ops.sqrt(ops.sum(x * x, axis=1, keepdims=True))
            x = x / ops.maximum(size, 1e-9)
        return to_float32(x, 1 if self.norm != "none" else 256)
