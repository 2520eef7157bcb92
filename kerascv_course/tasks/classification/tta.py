"""Test-time augmentation: scores averaged over several views of an image, inside the Keras graph and so in the exported file."""

from __future__ import annotations

from typing import Any, Literal

import keras
import numpy as np
from keras import ops

__all__ = ["Views", "mean_over_views"]

#: ``flip``: the image and its mirror image. ``flip-translate``: also both shifted by one pixel down and right, and up and left, with
#: reflected borders; the unshifted ones have half the weight (Jordan 2024, section 3.1 and listing 4).
Views = Literal["none", "flip", "flip-translate"]


def mean_over_views(model: keras.Model, views: Views) -> keras.Model:
    """A classifier whose scores are averaged over views of each image.

    Args:
        model: from images (N, H, W, C) of any dtype to scores (N, classes).
        views: which views are averaged; ``"none"``: the image itself only.

    Returns:
        A model of the same input and output, which runs `model` on a batch of all views at once; or `model` for ``"none"``.
    """
    if views == "none":
        return model
    image = keras.Input(model.inputs[0].shape[1:], dtype=model.inputs[0].dtype, name="image")
    shifted, weights = [image], [1.0]
    if views == "flip-translate":
        shifted += [_shift(image, 1), _shift(image, -1)]
        weights = [0.5, 0.25, 0.25]
    shifted += [ops.flip(view, axis=2) for view in shifted]
    scores = model(ops.concatenate(shifted, axis=0))
    share = np.array(weights * 2, np.float32).reshape(-1, 1, 1) / 2
    stacked = ops.reshape(scores, (len(shifted), -1, scores.shape[-1]))
    return keras.Model(image, ops.sum(stacked * share, axis=0), name=model.name)


def _shift(image: Any, pixels: int) -> Any:
    """Shift down and right by 1 or −1 pixel; the new row and column mirror their second neighbors ("reflect")."""
    if pixels > 0:
        image = ops.concatenate([image[:, 1:2], image[:, :-1]], axis=1)
        return ops.concatenate([image[:, :, 1:2], image[:, :, :-1]], axis=2)
    image = ops.concatenate([image[:, 1:], image[:, -2:-1]], axis=1)
    return ops.concatenate([image[:, :, 1:], image[:, :, -2:-1]], axis=2)
