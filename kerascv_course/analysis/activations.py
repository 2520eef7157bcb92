"""What a network sees: the filters of its convolutions, and the outputs of any layer for any picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from kerascv_course.analysis.keras_model import calls, functional_of, is_keras, nested
from kerascv_course.core.errors import InputError, UnknownNameError

if TYPE_CHECKING:
    import keras
    import numpy as np

__all__ = ["activations", "check_channels", "convolutions", "filters", "layer_names"]


def layer_names(model: keras.Model) -> list[str]:
    """Names of the layers that a model computes, in that order; those of a model inside it stand in its place.

    Raises:
        InputError: the model has no graph.
    """
    return [op.name for op in _operations(functional_of(model, None))]


def convolutions(model: keras.Model) -> list[str]:
    """Names of the two-dimensional convolutions, in computing order (depthwise and transposed ones are not among them).

    Raises:
        InputError: the model has no graph.
    """
    return [op.name for op in _operations(functional_of(model, None)) if _is_convolution(op)]


def filters(model: keras.Model, layer: str) -> np.ndarray:
    """The kernel of a convolution: float (height, width, input channels, output channels).

    Raises:
        UnknownNameError: there is no such layer; the nearest names are shown.
        InputError: the layer is no convolution.
    """
    import keras

    for op in _operations(functional_of(model, None)):
        if op.name == layer:
            if not _is_convolution(op):
                raise InputError(f"filters belong to convolutions; received the {type(op).__name__} layer {layer!r}")
            return keras.ops.convert_to_numpy(op.kernel)
    raise UnknownNameError("layer", layer, convolutions(model))


def activations(model: keras.Model, images: Any, layers: Sequence[str]) -> dict[str, np.ndarray]:
    """Outputs of layers, in inference mode, also of those inside a nested model.

    The graph is computed call by call up to the last layer asked for. A layer that is called more than once gives its last output.

    Args:
        model: Functional or Sequential, with one input.
        images: what it takes, (batch, height, width, channels).
        layers: names.

    Returns:
        Name to output (batch, …).

    Raises:
        UnknownNameError: there is no such layer; the nearest names are shown.
        InputError: the model has no graph, or more than one input.
    """
    import keras

    functional = functional_of(model, None)
    known = layer_names(model)
    for layer in layers:
        if layer not in known:
            raise UnknownNameError("layer", layer, known)
    if len(functional.inputs) != 1:
        raise InputError(f"pictures go into models with one input; {functional.name!r} has {len(functional.inputs)}")
    found: dict[str, Any] = {}
    tensor = keras.ops.convert_to_tensor(images, dtype=functional.inputs[0].dtype)
    _compute(functional, [tensor], set(layers), found)
    return {layer: keras.ops.convert_to_numpy(keras.ops.cast(found[layer], "float32")) for layer in layers}


def check_channels(channels: Sequence[int], count: int, layer: str) -> None:
    """Refuse channels that a layer has not.

    Raises:
        InputError: a number below 0, or not below the layer's count.
    """
    for channel in channels:
        if not 0 <= channel < count:
            raise InputError(f"layer {layer!r} has the filters 0 to {count - 1}; received {channel}")


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
    """Compute a graph, noting the outputs that are wanted; None where the last of them was found before its end."""
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
