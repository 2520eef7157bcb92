"""What a network sees: the filters of its convolutions, and the output of any layer for an image; as arrays and as figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kerascv_course import plots
from kerascv_course.analysis.keras_graph import calls, functional_of, is_keras, nested
from kerascv_course.core.errors import InputError, UnknownNameError
from kerascv_course.core.lazy import keras

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CAPTIONS", "activations", "convolutions", "filters", "first_and_last", "layer_names", "look"]

#: Number of channels drawn by default.
DEFAULT_CHANNELS = 10

#: Caption of each figure of `first_and_last`.
CAPTIONS = {
    "first_convolution": "Filters of the first convolution (gray: zero; each scaled by its largest weight) above their outputs for a "
    "test image; each map from its minimum (dark) to its maximum.",
    "last_convolution": "Outputs of the last convolution for the same image: coarser, and responding to larger structures.",
}


def layer_names(model: keras.Model) -> list[str]:
    """Names of a model's layers in computing order; a nested model is replaced by its layers.

    Raises:
        InputError: the model has no graph.
    """
    return [op.name for op in _operations(functional_of(model))]


def convolutions(model: keras.Model) -> list[str]:
    """Names of the 2D convolutions in computing order, without depthwise and transposed ones.

    Raises:
        InputError: the model has no graph.
    """
    return [op.name for op in _operations(functional_of(model)) if _is_convolution(op)]


def filters(model: keras.Model, layer: str) -> np.ndarray:
    """The kernel of a convolution: float (height, width, input channels, output channels).

    Raises:
        UnknownNameError: no such layer; the nearest names are shown.
        InputError: the layer is not a convolution.
    """
    for op in _operations(functional_of(model)):
        if op.name == layer:
            if not _is_convolution(op):
                raise InputError(f"only convolutions have filters; layer {layer!r} is a {type(op).__name__}")
            return np.asarray(keras.ops.convert_to_numpy(op.kernel))
    raise UnknownNameError("layer", layer, convolutions(model))


def activations(model: keras.Model, images: Any, layers: Sequence[str]) -> dict[str, np.ndarray]:
    """Outputs of layers in inference mode, including layers of nested models.

    The graph is computed call by call up to the last requested layer. A layer that is called more than once gives its last output.

    Args:
        model: Functional or Sequential, with one input.
        images: the model's input, (N, H, W, C).
        layers: names of the layers whose outputs are returned.

    Returns:
        Name to float32 output (N, …).

    Raises:
        UnknownNameError: no such layer; the nearest names are shown.
        InputError: the model has no graph, or more than one input.
    """
    functional = functional_of(model)
    known = layer_names(model)
    for layer in layers:
        if layer not in known:
            raise UnknownNameError("layer", layer, known)
    if len(functional.inputs) != 1:
        raise InputError(f"activations need a model with one input; {functional.name!r} has {len(functional.inputs)}")
    found: dict[str, Any] = {}
    tensor = keras.ops.convert_to_tensor(images, dtype=functional.inputs[0].dtype)
    _compute(functional, [tensor], set(layers), found)
    return {layer: keras.ops.convert_to_numpy(keras.ops.cast(found[layer], "float32")) for layer in layers}


def _operations(functional: Any) -> Iterator[Any]:
    for node in calls(functional):
        inner = nested(node.operation)
        if inner is None:
            yield node.operation
        else:
            yield from _operations(inner)


def _is_convolution(op: Any) -> bool:
    return is_keras(op, "Conv2D") and not is_keras(op, "Conv2DTranspose")


def _compute(functional: Any, inputs: Sequence[Any], wanted: set[str], found: dict[str, Any]) -> Any:
    """Compute a graph and collect the wanted outputs; None if the last of them was found before the graph's end."""
    values = {id(t): value for t, value in zip(functional.inputs, inputs, strict=True)}
    for node in calls(functional):
        op, inner = node.operation, nested(node.operation)
        if inner is None:
            args, kwargs = node.arguments.fill_in(values)
            outputs = op(*args, **kwargs)
        else:
            outputs = _compute(inner, [values[id(t)] for t in node.arguments.keras_tensors], wanted, found)
        flat = list(outputs) if isinstance(outputs, list | tuple) else [outputs]
        if op.name in wanted:
            found[op.name] = flat[0]
        if wanted <= found.keys():
            return None
        values |= {id(t): value for t, value in zip(node.output_tensors, flat, strict=True)}
    results = [values[id(t)] for t in functional.outputs]
    return results[0] if len(results) == 1 else results


# --- figures ----------------------------------------------------------------------------------------------------------


def look(
    model: keras.Model, image: np.ndarray, layer: str, channels: Sequence[int] = (), *, shown: np.ndarray | None = None
) -> Figure:
    """Draw a layer's maps for one image, below its filters if it convolves the image itself.

    Args:
        model: Functional or Sequential, with one input.
        image: the model's input, (H, W, C).
        layer: name of the layer that is drawn.
        channels: channels to draw, from 0; empty: the first ten.
        shown: uint8 (H, W, 1 or 3), the image as drawn; None: `image`.

    Raises:
        UnknownNameError: no such layer; the nearest names are shown.
        InputError: the layer's output is not a map, or it has no such channel.
    """
    if layer not in (names := layer_names(model)):
        raise UnknownNameError("layer", layer, names)
    maps = activations(model, image[None], [layer])[layer][0]
    if maps.ndim != 3:
        raise InputError(
            f"only maps of (height, width, channels) can be drawn; the output of layer {layer!r} is "
            f"{'×'.join(map(str, maps.shape))}: choose an earlier layer, such as {(convolutions(model) or names)[-1]!r}"
        )
    count = maps.shape[-1]
    for channel in channels:
        if not 0 <= channel < count:
            raise InputError(f"the channels of layer {layer!r} are 0 to {count - 1}; received {channel}")
    chosen = list(channels) or list(range(min(DEFAULT_CHANNELS, count)))
    kernel = filters(model, layer) if layer in convolutions(model) else None
    if kernel is not None and kernel.shape[2] not in (1, 3):
        kernel = None  # its input is other maps, not colors
    size = "×".join(map(str, maps.shape[:2]))
    return plots.filters_and_maps(
        image if shown is None else shown,
        np.moveaxis(maps[..., chosen], -1, 0),
        None if kernel is None else np.moveaxis(kernel[..., chosen], -1, 0),
        [str(channel) for channel in chosen],
        title=f"{layer}: {len(chosen)} of {count} maps of {size}",
    )


def first_and_last(model: keras.Model, image: np.ndarray) -> dict[str, Figure]:
    """`look` at the first and at the last convolution, by file stem; empty if there is none.

    A final convolution of 1×1 maps, which is a dense layer (as in MobileNet), is skipped.

    Args:
        model: a network that takes uint8 images.
        image: uint8 (H, W, 1 or 3).
    """
    names = convolutions(model)
    figures = {"first_convolution": look(model, image, names[0])} if names else {}
    spread = (name for name in reversed(names[1:]) if activations(model, image[None], [name])[name].shape[1:3] != (1, 1))
    last = next(spread, None)
    return figures | ({"last_convolution": look(model, image, last)} if last else {})
