"""Comparison layer by layer: the first tensor of a file that differs from its Keras model, and the weights behind it.

tf2onnx writes the Keras layer's name into the names of nodes (``model/stage1_block1_conv1_1/convolution``). Where layers were folded
into one node, only the last of them has a tensor; a layer counts as different only if the layers that read it differ too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from export.diagnostics.report import LayerDifference, WeightDifference
from export.diagnostics.runners import KerasReference, LayerRecord, RawGraph
from kerascv_course.core.lazy import keras

__all__ = ["IMAGES", "first_difference"]

#: Largest difference of a layer that is rounding, relative to its largest value.
ROUNDING = 5e-5

#: The same for stored weights (batch normalization is folded in float32).
WEIGHT_ROUNDING = 1e-5

#: Images to compare on.
IMAGES = 4


@dataclass(frozen=True)
class _LayerMatch:
    """A layer's tensor in the file, and its difference from Keras."""

    tensor: str
    difference: float
    equal: bool


def first_difference(graph: RawGraph, reference: KerasReference, fed: np.ndarray, pixels: np.ndarray) -> LayerDifference | None:
    """The first layer whose tensor differs; None if none differs that was found in the file.

    Args:
        graph: the file.
        reference: the Keras model.
        fed: input of the file, (N, height, width, channels) of 0–255.
        pixels: input of Keras, uint8.
    """
    tensors = graph.tensors(fed[:IMAGES])
    records = reference.record(pixels[:IMAGES])
    matches = _match_all(graph.model, tensors, records)
    readers: dict[int, list[int]] = {}
    for number, record in enumerate(records):
        for source in record.sources:
            readers.setdefault(source, []).append(number)
    for number, record in enumerate(records):
        match = matches[number]
        if match is None or match.equal or _is_folded(number, records, matches, readers):
            continue
        before, between = _last_equal(number, records, matches)
        equal = None if before is None else matches[before]
        node = next(node for node in graph.model.graph.node if match.tensor in node.output)
        return LayerDifference(
            layer=record.layer.name,
            kind=type(record.layer).__name__,
            tensor=match.tensor,
            operator=node.op_type,
            shape=tensors[match.tensor].shape[1:],
            max_absolute=match.difference,
            largest=float(np.abs(record.output).max()),
            after=None if before is None else records[before].layer.name,
            after_absolute=0.0 if equal is None else equal.difference,
            between=tuple(records[i].layer.name for i in between),
            compared=sum(match is not None for match in matches),
            weights=tuple(_weight_differences(graph.model, node, records, number)),
        )
    return None


def _is_folded(
    number: int, records: Sequence[LayerRecord], matches: Sequence[_LayerMatch | None], readers: Mapping[int, list[int]]
) -> bool:
    """Whether a layer was folded into one that reads it, which has the same tensor or is equal again."""
    own = matches[number]
    for reader in readers.get(number, ()):
        match = matches[reader]
        shared = match is not None and own is not None and match.tensor == own.tensor
        if shared and not np.array_equal(records[reader].output, records[number].output):
            return True
        if match.equal if match is not None else _is_folded(reader, records, matches, readers):
            return True
    return False


def _last_equal(
    number: int, records: Sequence[LayerRecord], matches: Sequence[_LayerMatch | None]
) -> tuple[int | None, list[int]]:
    """The nearest earlier layer that is equal, and those between."""
    todo, between = list(records[number].sources), list[int]()
    while todo:
        source = todo.pop(0)
        match = matches[source]
        if match is not None and match.equal:
            return source, sorted(between)
        between.append(source)
        todo += records[source].sources
    return None, sorted(between)


# --- tensors ----------------------------------------------------------------------------------------------------------


def _match_all(
    model: onnx.ModelProto, tensors: Mapping[str, np.ndarray], records: Sequence[LayerRecord]
) -> list[_LayerMatch | None]:
    by_layer: dict[str, list[str]] = {}
    by_shape: dict[tuple[int, ...], list[str]] = {}
    stored = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        for name in node.output:
            if name in tensors:
                by_shape.setdefault(_sizes(tensors[name]), []).append(name)
                # a folded node has a name of its own; its weights still carry the layers' names
                names = (node.name, name, *(source for source in node.input if source in stored))
                for part in {part for path in names for part in _path_parts(path)}:
                    by_layer.setdefault(part, []).append(name)
    matches = []
    for record in records:
        alike = by_shape.get(_sizes(record.output), [])
        named = [name for name in alike if name in by_layer.get(record.layer.name, [])]
        matches.append(_match(_possible_outputs(record, records), tensors, named, alike))
    return matches


def _possible_outputs(record: LayerRecord, records: Sequence[LayerRecord]) -> list[np.ndarray]:
    """A layer's output as the file may hold it: an image may have been flattened with its channels first."""
    if isinstance(record.layer, keras.layers.Flatten) and len(record.sources) == 1:
        image = records[record.sources[0]].output
        if image.ndim == 4:
            return [record.output, image.transpose(0, 3, 1, 2).reshape(record.output.shape)]
    return [record.output]


def _path_parts(name: str) -> list[str]:
    """Segments of a node's path, each also without the number that Keras appends."""
    parts = name.split(":")[0].split("/")
    return [*parts, *(re.sub(r"_\d+$", "", part) for part in parts)]


def _sizes(array: np.ndarray) -> tuple[int, ...]:
    return (len(array), *sorted(array.shape[1:])) if array.ndim else ()


def _match(
    expected: Sequence[np.ndarray], tensors: Mapping[str, np.ndarray], named: Sequence[str], alike: Sequence[str]
) -> _LayerMatch | None:
    """The tensor that holds one of the expected arrays: those named after the layer first, the last of them by default."""
    first = expected[0]
    if first.dtype not in (np.float32, np.float16) or first.ndim == 0:
        return None
    limit = ROUNDING * max(float(np.abs(first).max()), 1e-3)
    default: _LayerMatch | None = None
    for name in [*reversed(named), *(name for name in alike if name not in named)]:
        difference = min(_distance(tensors[name], values) for values in expected)
        if difference <= limit:
            return _LayerMatch(name, difference, True)
        if name in named and default is None:
            default = _LayerMatch(name, difference, False)
    return default


def _distance(tensor: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference, in the order of axes where it is smallest (NHWC against NCHW)."""
    orders = permutations(range(1, tensor.ndim)) if tensor.ndim == 4 else [range(1, tensor.ndim)]
    turned = [tensor.transpose(0, *order) for order in orders]
    return min(
        (float(np.nan_to_num(np.abs(x - expected), nan=np.inf).max(initial=0)) for x in turned if x.shape == expected.shape),
        default=float("inf"),
    )


# --- weights ----------------------------------------------------------------------------------------------------------


def _weight_differences(
    model: onnx.ModelProto, node: onnx.NodeProto, records: Sequence[LayerRecord], number: int
) -> Iterator[WeightDifference]:
    """Constants that the layer's nodes read, against the variables of the layer and of those folded into it."""
    layers = [records[number].layer]
    sources = records[number].sources
    while len(sources) == 1 and len(layers) < 3:
        layers.append(records[sources[0]].layer)
        sources = records[sources[0]].sources
    expected = list(_expected_weights(layers))
    for name, values in _constants(model, node, {layer.name for layer in layers[:2]}).items():
        candidates = [(label, array.reshape(values.shape)) for label, array in expected if _fits(array, values)]
        if candidates:  # of several, the nearest is meant
            label, array = min(candidates, key=lambda item: float(np.median(np.abs(item[1] - values))))
            difference = np.nan_to_num(np.abs(values - array), nan=np.inf)
            wrong = difference > WEIGHT_ROUNDING * max(float(np.abs(array).max()), 1e-6)
            if wrong.any():
                index = tuple(int(i) for i in np.unravel_index(int(difference.argmax()), values.shape))
                at_index = float(values[index]), float(array[index])
                yield WeightDifference(name, label, int(wrong.sum()), values.size, index, *at_index)


def _constants(model: onnx.ModelProto, node: onnx.NodeProto, layers: set[str]) -> dict[str, np.ndarray]:
    """Floating-point constants of a node, and of those before it that belong to the same layers (bias, scale, activation)."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    makers = {name: maker for maker in model.graph.node for name in maker.output}
    nodes, names = [node], list[str]()
    while nodes and len(names) < 8:
        reader = nodes.pop(0)
        names += [name for name in reader.input if name in stored]
        before = [makers[name] for name in reader.input if name in makers]
        nodes += [maker for maker in before if layers & set(_path_parts(maker.name)) or not reader.name]
    arrays = {name: numpy_helper.to_array(stored[name]) for name in names}
    return {name: values for name, values in arrays.items() if values.dtype in (np.float32, np.float16)}


def _fits(array: np.ndarray, values: np.ndarray) -> bool:
    """Whether shapes are equal but for axes of length 1."""
    ours, theirs = ([size for size in one.shape if size > 1] for one in (array, values))
    return ours == theirs


def _expected_weights(layers: Sequence[keras.Layer]) -> Iterator[tuple[str, np.ndarray]]:
    """Constants that the file may hold for a layer: variables in ONNX's order of axes, also with batch normalization folded in.

    Args:
        layers: the layer, the one before it, and so on.
    """
    for position, layer in enumerate(layers[:2]):
        for label, array in _variables(layer):
            yield f"{layer.name}/{label}", array
            if label == "kernel" and array.ndim == 2 and (flat := _flattened_shape(layers[position + 1 :])):
                height, width, channels = flat
                rows = array.reshape(height, width, channels, -1).transpose(2, 0, 1, 3)
                yield f"{layer.name}/{label} (rows with channels first)", rows.reshape(array.shape)
        previous = layers[position + 1] if position + 1 < len(layers) else None
        if isinstance(layer, keras.layers.BatchNormalization) and previous is not None:
            scale, offset = _batch_norm(layer)
            weights = dict(_variables(previous))
            if "kernel" in weights:
                kernel = weights["kernel"]
                axis = 1 if isinstance(previous, keras.layers.Conv2DTranspose) or kernel.ndim == 2 else 0
                shape = [1] * kernel.ndim
                shape[axis] = -1
                yield f"{previous.name}/kernel with {layer.name} folded in", kernel * scale.reshape(shape)
                yield f"the offset of {layer.name} with {previous.name} folded in", offset + weights.get("bias", 0) * scale


def _flattened_shape(layers: Sequence[keras.Layer]) -> tuple[int, int, int] | None:
    """(height, width, channels) of the image that a dense layer reads flattened."""
    flatten = next((layer for layer in layers if isinstance(layer, keras.layers.Flatten)), None)
    shape = tuple(flatten.input.shape[1:]) if flatten is not None else ()
    return shape if len(shape) == 3 and None not in shape else None


def _variables(layer: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Names and values of a layer's variables, kernels in ONNX's order of axes."""
    if isinstance(layer, keras.layers.BatchNormalization):
        yield from zip(("scale", "offset"), _batch_norm(layer), strict=True)
    if isinstance(layer, keras.layers.Rescaling):
        yield "scale", np.asarray(layer.scale, np.float32)
        yield "offset", np.asarray(layer.offset, np.float32)
    for variable in layer.weights:
        array = keras.ops.convert_to_numpy(variable)
        if variable.name in ("kernel", "depthwise_kernel") and array.ndim == 4:
            # (height, width, in, out) to (out, in, height, width); transposed convolutions have in and out swapped
            array = array.transpose(3, 2, 0, 1)
            if isinstance(layer, keras.layers.DepthwiseConv2D):
                array = array.transpose(1, 0, 2, 3).reshape(-1, 1, *array.shape[2:])
        yield variable.name.replace("depthwise_", ""), array


def _batch_norm(layer: Any) -> tuple[np.ndarray, np.ndarray]:
    """Scale and offset in inference mode, float64."""
    gamma, beta, mean, variance = (
        None if value is None else keras.ops.convert_to_numpy(value).astype(np.float64)
        for value in (layer.gamma, layer.beta, layer.moving_mean, layer.moving_variance)
    )
    assert mean is not None and variance is not None  # a built layer has them
    scale = (1.0 if gamma is None else gamma) / np.sqrt(variance + layer.epsilon)
    return scale, (0.0 if beta is None else beta) - mean * scale
