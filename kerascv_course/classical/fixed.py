"""The base of the layers here: nothing in them is trained by gradients."""

from __future__ import annotations

from typing import Any

import keras

__all__ = ["FixedLayer"]


class FixedLayer(keras.layers.Layer):
    """A layer without trainable weights, which takes float64 as it is (Keras would cast it to float32)."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(autocast=False, **{**kwargs, "trainable": False})
