"""Preprocessing arithmetic.

The one place for it: tasks train behind `normalization`, and what runs a file of float32 input uses `preprocess`. Keras is imported by
the functions that build layers, so that prediction does without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import keras

    from export.contract import Preprocessing

__all__ = ["normalization", "normalized", "preprocess"]


def preprocess(pixels: np.ndarray, steps: Preprocessing) -> np.ndarray:
    """``(pixel · scale − mean) / std`` of pixels of 0–255.

    Args:
        pixels: uint8 (N, height, width, channels).
        steps: the contract's preprocessing.

    Returns:
        float32 of the same shape.
    """
    if steps.channels == "BGR":
        pixels = pixels[..., ::-1]
    values = pixels.astype(np.float32) * np.float32(steps.scale)
    return (values - np.asarray(steps.mean, np.float32)) / np.asarray(steps.std, np.float32)


def normalization(mean: Sequence[float], std: Sequence[float], channels: int, *, scale: float = 1 / 255) -> keras.layers.Layer:
    """The layer ``normalize``: ``(pixel · scale − mean) / std``.

    Args:
        mean: one value or one a channel, of scaled pixels.
        std: standard deviation: one value or one a channel, of scaled pixels.
        channels: of the images.
        scale: factor on pixels of 0–255.
    """
    import keras

    means, stds = (np.broadcast_to(np.asarray(values, np.float64), (channels,)) for values in (mean, std))
    return keras.layers.Rescaling((scale / stds).tolist(), (-means / stds).tolist(), name="normalize")


def normalized(
    network: keras.Model,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    dtype: str = "uint8",
    image_shape: tuple[int, int, int] | None = None,
) -> keras.Model:
    """Put ``(pixel/255 − mean) / std`` in front of a network.

    Args:
        network: from float32 (batch, height, width, channels).
        mean: one value or one a channel, of pixels scaled to 0–1.
        std: standard deviation: one value or one a channel, of pixels scaled to 0–1.
        dtype: of the new input: ``"uint8"``, or ``"float32"`` for pixels of 0–255 in floating point.
        image_shape: (height, width, channels) of images that are resized to the network's input (bilinear); None: no resizing.
    """
    import keras

    shape = network.input_shape[1:]
    image = keras.Input(image_shape or shape, dtype=dtype, name="image")
    x = normalization(mean, std, shape[-1])(image)
    if image_shape is not None and image_shape != shape:
        x = keras.layers.Resizing(*shape[:2], interpolation="bilinear", name="resize")(x)
    return keras.Model(image, network(x), name=network.name)
