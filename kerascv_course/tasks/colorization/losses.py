"""Pixel-wise cross-entropy with weights for rare colors."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

__all__ = ["PixelCrossentropy", "color_weights"]


class PixelCrossentropy(keras.losses.Loss):
    """Softmax cross-entropy of each pixel, weighted by its true class.

    Args:
        weights: float32 (colors,); None: not weighted.
    """

    def __init__(self, weights: np.ndarray | None) -> None:
        super().__init__(name="pixel_crossentropy")
        self.weights = weights

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Loss of each pixel (N, H, W), nats, from classes (N, H, W) and logits (N, H, W, colors)."""
        classes = keras.ops.cast(y_true, "int32")
        loss = keras.ops.sparse_categorical_crossentropy(classes, y_pred, from_logits=True)
        return loss if self.weights is None else loss * keras.ops.take(keras.ops.convert_to_tensor(self.weights), classes)


def color_weights(targets: np.ndarray, colors: int, rebalance: float) -> np.ndarray | None:
    """Weight of each class, ∝ 1/((1 − λ)·p + λ/Q), with a mean of 1 over pixels (Zhang et al. 2016, equation 4).

    The frequencies p are not smoothed over neighboring colors, which is unnecessary for small palettes.

    Args:
        targets: classes of the training pixels.
        colors: number of color classes, Q.
        rebalance: 1 − λ; 0: no weights.

    Returns:
        float32 (colors,), or None.
    """
    if not rebalance:
        return None
    frequencies = np.bincount(targets.ravel(), minlength=colors) / targets.size
    weights = 1 / np.maximum(rebalance * frequencies + (1 - rebalance) / colors, 1e-6)
    return np.asarray(weights / (frequencies * weights).sum(), np.float32)
