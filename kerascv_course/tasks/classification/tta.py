"""Test-time augmentation: one answer from several views of a picture, as a Keras graph that is exported whole."""

from __future__ import annotations

from typing import Any, Literal

import keras
import numpy as np
from keras import ops

__all__ = ["Views", "mean_over_views"]

#: ``flip``: the picture and its mirror image. ``flip-translate``: and both shifted one pixel down and right, and up and left, the
#: border mirrored; the unshifted ones count half (Jordan 2024, section 3.1 and listing 4).
Views = Literal["none", "flip", "flip-translate"]


def mean_over_views(model: keras.Model, views: Views) -> keras.Model:
    """A classifier whose scores are means over views of each picture.

    Args:
        model: from images (N, H, W, C) of any dtype to scores (N, classes).
        views: which.

    Returns:
        A model of the same input and output, which runs `model` on a batch of all views at once; or `model` for ``"none"``.
    """
    if views == "none":
        return model
    image = keras.Input(model.inputs[0].shape[1:], dtype=model.inputs[0].dtype, name="image")
    pictures, weights = [image], [1.0]
    if views == "flip-translate":
        pictures += [_shift(image, 1), _shift(image, -1)]
        weights = [0.5, 0.25, 0.25]
    pictures += [picture[:, :, ::-1] for picture in pictures]
    scores = model(ops.concatenate(pictures, axis=0))
    share = np.array(weights * 2, np.float32).reshape(-1, 1, 1) / 2
    stacked = ops.reshape(scores, (len(pictures), -1, scores.shape[-1]))
    return keras.Model(image, ops.sum(stacked * share, axis=0), name=model.name)


def _shift(image: Any, pixels: int) -> Any:
    """Shift down and right by 1 or −1 pixel; the row and column that come in mirror their second neighbours ("reflect")."""
    if pixels > 0:
        image = ops.concatenate([image[:, 1:2], image[:, :-1]], axis=1)
        return ops.concatenate([image[:, :, 1:2], image[:, :, :-1]], axis=2)
    image = ops.concatenate([image[:, 1:], image[:, -2:-1]], axis=1)
    return ops.concatenate([image[:, :, 1:], image[:, :, -2:-1]], axis=2)
