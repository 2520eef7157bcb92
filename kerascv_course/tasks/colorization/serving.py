"""The served colorizer: layers for images of any size, decoding of logits to colors, and the reach of a pixel."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from kerascv_course.analysis import summarize

__all__ = ["MULTIPLE", "CropLike", "Decode", "PadToMultiple", "for_any_size", "reach"]

#: The networks downsample by 2 twice.
MULTIPLE = 4


@keras.saving.register_keras_serializable("kerascv_course")
class PadToMultiple(keras.layers.Layer):
    """Replicate the last row and column up to a multiple: (N, H, W, C) to (N, ⌈H/m⌉m, ⌈W/m⌉m, C)."""

    def __init__(self, multiple: int, **options: Any) -> None:
        super().__init__(**options)
        self.multiple = multiple

    def call(self, image: Any) -> Any:
        """Pad a batch."""
        for axis in (1, 2):
            shape = list(ops.shape(image))
            shape[axis] = -shape[axis] % self.multiple
            last = image[:, -1:] if axis == 1 else image[:, :, -1:]
            image = ops.concatenate([image, ops.broadcast_to(last, shape)], axis=axis)
        return image

    def compute_output_spec(self, image: Any) -> Any:
        """Height and width are the next multiples, where they are known."""
        sizes = [None if size is None else size + -size % self.multiple for size in image.shape[1:3]]
        return keras.KerasTensor((image.shape[0], *sizes, image.shape[3]), image.dtype)


@keras.saving.register_keras_serializable("kerascv_course")
class CropLike(keras.layers.Layer):
    """Crop (N, ≥H, ≥W, C) to the height and width of another tensor (N, H, W, …)."""

    def call(self, values: Any, like: Any) -> Any:
        """Crop a batch."""
        shape = ops.shape(like)
        return values[:, : shape[1], : shape[2]]

    def compute_output_spec(self, values: Any, like: Any) -> Any:
        """Height and width of `like`."""
        return keras.KerasTensor((*like.shape[:3], values.shape[3]), values.dtype)


@keras.saving.register_keras_serializable("kerascv_course")
class Decode(keras.layers.Layer):
    """Decode logits to classes and colors (Zhang, Isola, Efros: "Colorful Image Colorization", ECCV 2016, section 2.3).

    Args:
        palette: (colors, 3), red, green, blue, 0–255.
        decode: ``"argmax"``, or ``"annealed-mean"``: the mean of the palette weighted by softmax(logits / temperature).
        temperature: of the annealed mean.
        keep_gray: shift the channels of each pixel equally, so that their mean is the input's; then clip to 0–255.
    """

    def __init__(self, palette: Any, decode: str, temperature: float, keep_gray: bool, **options: Any) -> None:
        super().__init__(**options)
        self.palette, self.decode = np.asarray(palette, np.float32), decode
        self.temperature, self.keep_gray = temperature, keep_gray

    def call(self, logits: Any, image: Any) -> tuple[Any, Any]:
        """Decode a batch.

        Args:
            logits: (N, H, W, colors).
            image: uint8 (N, H, W, 3), the input.

        Returns:
            uint8 classes (N, H, W), and uint8 colors (N, H, W, 3).
        """
        classes = ops.argmax(logits, axis=-1)
        if self.decode == "argmax":
            shown = ops.take(self.palette, classes, axis=0)
        else:
            shown = ops.matmul(ops.softmax(logits / self.temperature), self.palette)
        if self.keep_gray:
            gray = ops.mean(ops.cast(image, "float32"), axis=-1, keepdims=True)
            shown = shown + (gray - ops.mean(shown, axis=-1, keepdims=True))
        shown = ops.cast(ops.clip(ops.round(shown), 0.0, 255.0), "uint8")
        return ops.cast(classes, "uint8"), shown

    def compute_output_spec(self, logits: Any, image: Any) -> tuple[Any, Any]:
        """Classes and colors, both uint8."""
        return keras.KerasTensor(logits.shape[:3], "uint8"), keras.KerasTensor((*logits.shape[:3], 3), "uint8")


def for_any_size(network: keras.Model) -> keras.Model:
    """Copy of a fully convolutional network, with its weights, for any height and width."""
    free = keras.models.clone_model(network, input_tensors=keras.Input((None, None, network.input_shape[-1])))
    free.set_weights(network.get_weights())
    return free


def reach(network: keras.Model) -> int:
    """Largest distance, in any direction, from an output pixel to an input pixel that affects it, pixels.

    Args:
        network: fully convolutional, of period `MULTIPLE`.
    """
    size = 128
    summary = summarize(for_any_size(network), (size, size, network.input_shape[-1]))
    positions = range(size // 2, size // 2 + MULTIPLE)
    fields = [(at, summary.unit_field(summary.rows[-1].name, (at, at))) for at in positions]
    return max(max(at - span[0], span[1] - at) for at, spans in fields for span in spans if span is not None)
