"""Pictures of the inside of a network: filters, and what they answer to a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from kerascv_course import plots
from kerascv_course.analysis.activations import activations, check_channels, convolutions, filters, layer_names
from kerascv_course.core.errors import InputError, UnknownNameError

if TYPE_CHECKING:
    import keras
    from matplotlib.figure import Figure

__all__ = ["CAPTIONS", "first_and_last", "look"]

#: Channels that are drawn where none are named.
DEFAULT = 10

#: Caption of each figure of `first_and_last`.
CAPTIONS = {
    "first_convolution": "Filters of the first convolution (grey: zero; each scaled by its largest weight) above their outputs for a "
    "test picture; each map from its least value, dark, to its largest.",
    "last_convolution": "Outputs of the last convolution for the same picture: coarser, and of larger structures.",
}


def look(
    model: keras.Model, picture: np.ndarray, layer: str, channels: Sequence[int] = (), *, shown: np.ndarray | None = None
) -> Figure:
    """A layer's maps for one picture, with its filters above them where it convolves the picture itself.

    Args:
        model: Functional or Sequential.
        picture: what the model takes, (height, width, channels).
        layer: name.
        channels: numbers of the layer's filters, from 0; none: the first ten.
        shown: uint8 (height, width, 1 or 3), the picture as it is to be drawn; None: `picture` itself.

    Raises:
        UnknownNameError: there is no such layer; the nearest names are shown.
        InputError: the layer gives no maps, or has not so many filters.
    """
    if layer not in (names := layer_names(model)):
        raise UnknownNameError("layer", layer, names)
    maps = activations(model, picture[None], [layer])[layer][0]
    if maps.ndim != 3:
        raise InputError(
            f"maps of (height, width, filters) are drawn; layer {layer!r} gives {'×'.join(map(str, maps.shape))}: choose a layer "
            f"before it, such as {(convolutions(model) or names)[-1]!r}"
        )
    check_channels(channels, maps.shape[-1], layer)
    chosen = list(channels) or list(range(min(DEFAULT, maps.shape[-1])))
    kernel = filters(model, layer) if layer in convolutions(model) else None
    if kernel is not None and kernel.shape[2] not in (1, 3):
        kernel = None  # it looks at other maps, not at colours
    size = "×".join(map(str, maps.shape[:2]))
    return plots.filters_and_maps(
        picture if shown is None else shown,
        np.moveaxis(maps[..., chosen], -1, 0),
        None if kernel is None else np.moveaxis(kernel[..., chosen], -1, 0),
        [str(channel) for channel in chosen],
        title=f"{layer}: {len(chosen)} of {maps.shape[-1]} maps of {size}",
    )


def first_and_last(model: keras.Model, picture: np.ndarray) -> dict[str, Figure]:
    """`look` at the first convolution and at the last one, by file stem; nothing where there is none.

    A convolution of 1×1 maps at the end, which is a dense layer (MobileNet's), is passed over.

    Args:
        model: from uint8 images.
        picture: uint8 (height, width, 1 or 3).
    """
    names = convolutions(model)
    figures = {"first_convolution": look(model, picture, names[0])} if names else {}
    spread = (name for name in reversed(names[1:]) if activations(model, picture[None], [name])[name].shape[1:3] != (1, 1))
    last = next(spread, None)
    return figures | ({"last_convolution": look(model, picture, last)} if last else {})
