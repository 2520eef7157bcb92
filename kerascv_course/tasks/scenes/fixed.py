"""The base of the layers here: nothing in them is trained by gradients."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

__all__ = ["FixedLayer", "to_float32"]


class FixedLayer(keras.layers.Layer):
    """A layer without trainable weights, which takes float64 as it is (Keras would cast it to float32)."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(autocast=False, **{**kwargs, "trainable": False})


def to_float32(values: Any, largest: int) -> Any:
    """Round float64 to whole multiples of ``largest`` · 2⁻²⁴ and make them float32, which then is exact.

    A plain cast is not enough before a layer that goes on in float64: the ONNX converter takes a cast and its opposite out, though
    that one rounds, and the file would go on with other numbers.

    Args:
        values: float64, absolute values of at most `largest`.
        largest: a power of two.
    """
    grid = 2.0**24 / largest
    return ops.cast(ops.round(values * grid) / grid, "float32")
