"""Layer by layer through a file and its Keras model, to the first tensor that differs and the weights behind it.

tf2onnx writes the Keras layer's name into the names of nodes (``model/stage1_block1_conv1_1/convolution``). Where layers were folded
into one node, only the last of them has a tensor; a layer counts as different only if what is computed from it differs as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import keras
import numpy as np
import onnx
from onnx import numpy_helper

from export.diagnostics.raw_graph import RawGraph
from export.diagnostics.reference import LayerRecord, Reference

__all__ = ["LayerDifference", "WeightDifference", "first_difference"]

#: Differences of a layer that are rounding, as shares of its largest value.
ROUNDING = 5e-5

#: Differences of a stored weight that are rounding, likewise (batch norm is folded in float32).
WEIGHT_ROUNDING = 1e-5

#: Pictures that are looked at.
PICTURES = 4


@dataclass(frozen=True)
class WeightDifference:
    """Stored weights that are not the layer's.

    Attributes:
        initializer: name in the file.
        variable: of the Keras layer, with what is folded into it.
        differing: how many values differ.
        values: how many there are.
        index: the largest difference stands here, in the file's order of axes.
        file: the file's value there.
        keras: the layer's.
    """

    initializer: str
    variable: str
    differing: int
    values: int
    index: tuple[int, ...]
    file: float
    keras: float

    def __str__(self) -> str:
        return (
            f"{self.differing:,} of {self.values:,} values of {self.initializer!r} are not those of {self.variable}; at "
            f"{list(self.index)} the file has {self.file:.6g}, Keras {self.keras:.6g}"
        )


@dataclass(frozen=True)
class LayerDifference:
    """The first layer whose tensor differs.

    Attributes:
        layer: its name.
        kind: its class.
        tensor: in the file.
        operator: that makes it.
        shape: of the tensor, without the batch.
        max_absolute: largest difference.
        largest: largest absolute value that Keras gives.
        after: the last layer before it whose tensor is the same, and
        after_absolute: the largest difference there; None where it is the first of all.
        between: layers between the two of which the file has no tensor that could be found, nearest last.
        compared: layers that were found in the file.
        weights: stored weights that differ.
    """

    layer: str
    kind: str
    tensor: str
    operator: str
    shape: tuple[int, ...]
    max_absolute: float
    largest: float
    after: str | None
    after_absolute: float
    between: tuple[str, ...]
    compared: int
    weights: tuple[WeightDifference, ...]

    def __str__(self) -> str:
        lines = [
            f"the first tensor that differs is that of the layer {self.layer!r} ({self.kind}): {self.operator} {self.tensor!r} "
            f"{list(self.shape)}, by {self.max_absolute:.3g} (its largest value is {self.largest:.3g})"
        ]
        if self.after:
            lines.append(
                f"its input, from the layer {self.after!r}, is the same (largest difference {self.after_absolute:.1e})"
            )
        lines += map(str, self.weights)
        if not self.weights:
            lines.append("its stored weights are Keras's, or it has none: what is computed with them differs")
        return "\n".join(lines)


@dataclass(frozen=True)
class _Found:
    """A layer's tensor in the file, and how far it is from Keras's."""

    tensor: str
    difference: float
    same: bool


def first_difference(graph: RawGraph, reference: Reference, fed: np.ndarray, pixels: np.ndarray) -> LayerDifference | None:
    """Compare layer by layer.

    Args:
        graph: the file.
        reference: the Keras model.
        fed: what the file is given, (N, height, width, channels), pixels of 0–255.
        pixels: what Keras is given, uint8.

    Returns:
        The first layer whose tensor differs; None if none does that could be found in the file.
    """
    fed, pixels = fed[:PICTURES], pixels[:PICTURES]
    tensors = graph.tensors(fed)
    records = reference.record(pixels)
    found = _find_all(graph.model, tensors, records)
    readers: dict[int, list[int]] = {}
    for number, record in enumerate(records):
        for source in record.sources:
            readers.setdefault(source, []).append(number)
    for number, record in enumerate(records):
        match = found[number]
        if match is None or match.same or _comes_right(number, records, found, readers):
            continue
        before, between = _last_same(number, records, found)
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
            after_absolute=0.0 if before is None else _difference(found[before]),
            between=tuple(records[i].layer.name for i in between),
            compared=sum(match is not None for match in found),
            weights=tuple(_weight_differences(graph.model, node, records, number)),
        )
    return None


def _difference(match: _Found | None) -> float:
    return 0.0 if match is None else match.difference


def _comes_right(
    number: int, records: Sequence[LayerRecord], found: Sequence[_Found | None], readers: Mapping[int, list[int]]
) -> bool:
    """Whether a layer was folded into one after it: that has the same tensor, or is the same again."""
    own = found[number]
    for reader in readers.get(number, ()):
        match = found[reader]
        folded = match is not None and own is not None and match.tensor == own.tensor
        if folded and not np.array_equal(records[reader].output, records[number].output):
            return True
        if match.same if match is not None else _comes_right(reader, records, found, readers):
            return True
    return False


def _last_same(number: int, records: Sequence[LayerRecord], found: Sequence[_Found | None]) -> tuple[int | None, list[int]]:
    """The nearest layer before one that was found to be the same, and those between."""
    todo, between = list(records[number].sources), list[int]()
    while todo:
        source = todo.pop(0)
        match = found[source]
        if match is not None and match.same:
            return source, sorted(between)
        between.append(source)
        todo += records[source].sources
    return None, sorted(between)


# --- a layer's tensor in the file -------------------------------------------------------------------------------------


def _find_all(model: onnx.ModelProto, tensors: Mapping[str, np.ndarray], records: Sequence[LayerRecord]) -> list[_Found | None]:
    by_layer: dict[str, list[str]] = {}
    by_shape: dict[tuple[int, ...], list[str]] = {}
    stored = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        for name in node.output:
            if name in tensors:
                by_shape.setdefault(_sizes(tensors[name]), []).append(name)
                # a node that was folded has a name of its own; its weights still bear the layers' names
                names = (node.name, name, *(source for source in node.input if source in stored))
                for part in {part for path in names for part in _parts(path)}:
                    by_layer.setdefault(part, []).append(name)
    return [_find(record, _orders(record, records), tensors, by_layer, by_shape) for record in records]


def _orders(record: LayerRecord, records: Sequence[LayerRecord]) -> list[np.ndarray]:
    """A layer's output as the file may hold it: a picture may have been flattened with its channels first."""
    if isinstance(record.layer, keras.layers.Flatten) and len(record.sources) == 1:
        picture = records[record.sources[0]].output
        if picture.ndim == 4:
            return [record.output, picture.transpose(0, 3, 1, 2).reshape(record.output.shape)]
    return [record.output]


def _parts(name: str) -> list[str]:
    """Segments of a node's path, each also without the number that Keras adds to it."""
    parts = name.split(":")[0].split("/")
    return [*parts, *(re.sub(r"_\d+$", "", part) for part in parts)]


def _sizes(array: np.ndarray) -> tuple[int, ...]:
    return (len(array), *sorted(array.shape[1:])) if array.ndim else ()


def _find(
    record: LayerRecord,
    orders: Sequence[np.ndarray],
    tensors: Mapping[str, np.ndarray],
    by_layer: Mapping[str, list[str]],
    by_shape: Mapping[tuple[int, ...], list[str]],
) -> _Found | None:
    expected = record.output
    if expected.dtype not in (np.float32, np.float16) or expected.ndim == 0:
        return None
    alike = by_shape.get(_sizes(expected), [])
    named = [name for name in alike if name in by_layer.get(record.layer.name, [])]
    limit = ROUNDING * max(float(np.abs(expected).max()), 1e-3)
    best: _Found | None = None
    for name in [*reversed(named), *(name for name in alike if name not in named)]:
        difference = min(_distance(tensors[name], values) for values in orders)
        if difference <= limit:
            return _Found(name, difference, True)
        if name in named and best is None:
            best = _Found(name, difference, False)
    return best


def _distance(tensor: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference, in the order of axes in which it is least (NHWC against NCHW)."""
    least = float("inf")
    for order in permutations(range(1, tensor.ndim)):
        turned = tensor.transpose(0, *order)
        if turned.shape == expected.shape:
            least = min(least, float(np.nan_to_num(np.abs(turned - expected), nan=np.inf).max(initial=0)))
        if tensor.ndim != 4:
            break
    return least


# --- the weights behind it --------------------------------------------------------------------------------------------


def _weight_differences(
    model: onnx.ModelProto, node: onnx.NodeProto, records: Sequence[LayerRecord], number: int
) -> Iterator[WeightDifference]:
    """Constants that the layer's nodes read, against the layer's variables and those of what is folded into it."""
    record = records[number]
    layers = [record.layer]
    sources = record.sources
    while len(sources) == 1 and len(layers) < 3:
        layers.append(records[sources[0]].layer)
        sources = records[sources[0]].sources
    expected = list(_expected(layers))
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    makers = {name: maker for maker in model.graph.node for name in maker.output}
    nodes, names = [node], list[str]()
    while nodes and len(names) < 8:
        reader = nodes.pop(0)
        names += [name for name in reader.input if name in stored]
        ours = {record.layer.name, *(layer.name for layer in layers[1:2])}
        # go back through what the same layer consists of: bias, scale, activation
        nodes += [
            makers[name] for name in reader.input if name in makers and (_layer_of(makers[name], ours) or not reader.name)
        ]
    for name in dict.fromkeys(names):
        values = numpy_helper.to_array(stored[name])
        if values.dtype not in (np.float32, np.float16):
            continue
        # several may have the shape: the nearest is meant
        candidates = [(label, array) for label, array in expected if array.size == values.size]
        candidates = [(label, array.reshape(values.shape)) for label, array in candidates if _fits(array, values)]
        if candidates:
            label, array = min(candidates, key=lambda item: float(np.median(np.abs(item[1] - values))))
            wrong = ~(np.abs(values - array) <= WEIGHT_ROUNDING * max(float(np.abs(array).max()), 1e-6))
            if wrong.any():
                distance = np.nan_to_num(np.abs(values - array), nan=np.inf)
                index = np.unravel_index(int(distance.argmax()), values.shape)
                place = tuple(int(i) for i in index)
                yield WeightDifference(
                    name, label, int(wrong.sum()), values.size, place, float(values[index]), float(array[index])
                )


def _layer_of(node: onnx.NodeProto, names: set[str]) -> bool:
    return bool(names & set(_parts(node.name)))


def _fits(array: np.ndarray, values: np.ndarray) -> bool:
    def essential(shape: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(size for size in shape if size > 1)

    return essential(array.shape) == essential(values.shape)


def _expected(layers: Sequence[keras.Layer]) -> Iterator[tuple[str, np.ndarray]]:
    """What may stand in the file for a layer: its variables in ONNX's order of axes, and with the batch norm folded in.

    Args:
        layers: the layer, the one before it, and so on.
    """
    for position, layer in enumerate(layers[:2]):
        for label, array in _variables(layer):
            yield f"{layer.name}/{label}", array
            if label == "kernel" and array.ndim == 2 and (flat := _flattened(layers[position + 1 :])):
                height, width, channels = flat
                rows = array.reshape(height, width, channels, -1).transpose(2, 0, 1, 3)
                yield f"{layer.name}/{label} (its rows with channels first)", rows.reshape(array.shape)
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
                yield f"{layer.name}'s offset with {previous.name} folded in", offset + weights.get("bias", 0) * scale


def _flattened(layers: Sequence[keras.Layer]) -> tuple[int, int, int] | None:
    """Height, width and channels of the picture that a dense layer reads flattened."""
    flatten = next((layer for layer in layers if isinstance(layer, keras.layers.Flatten)), None)
    shape = tuple(flatten.input.shape[1:]) if flatten is not None else ()
    return shape if len(shape) == 3 and None not in shape else None  # type: ignore[return-value]


def _variables(layer: Any) -> Iterator[tuple[str, np.ndarray]]:
    if isinstance(layer, keras.layers.BatchNormalization):
        scale, offset = _batch_norm(layer)
        yield "scale", scale
        yield "offset", offset
        for name in ("gamma", "beta", "moving_mean", "moving_variance"):
            if getattr(layer, name, None) is not None:
                yield name, keras.ops.convert_to_numpy(getattr(layer, name))
        return
    if isinstance(layer, keras.layers.Rescaling):
        yield "scale", np.asarray(layer.scale, np.float32)
        yield "offset", np.asarray(layer.offset, np.float32)
        return
    for variable in layer.weights:
        array = keras.ops.convert_to_numpy(variable)
        if variable.name in ("kernel", "depthwise_kernel") and array.ndim == 4:
            # height, width, in, out to out, in, height, width; transposed convolutions likewise in, out
            array = array.transpose(3, 2, 0, 1)
            if isinstance(layer, keras.layers.DepthwiseConv2D):
                array = array.transpose(1, 0, 2, 3).reshape(-1, 1, *array.shape[2:])
        yield variable.name.replace("depthwise_", ""), array


def _batch_norm(layer: Any) -> tuple[np.ndarray, np.ndarray]:
    """Scale and offset of inference."""
    gamma, beta, mean, variance = (
        None if value is None else keras.ops.convert_to_numpy(value).astype(np.float64)
        for value in (layer.gamma, layer.beta, layer.moving_mean, layer.moving_variance)
    )
    assert mean is not None and variance is not None  # a built layer has them
    scale = (1.0 if gamma is None else gamma) / np.sqrt(variance + layer.epsilon)
    return scale, (0.0 if beta is None else beta) - mean * scale
