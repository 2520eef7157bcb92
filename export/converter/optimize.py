"""Rewrites of an exported ONNX graph that leave its results as they are.

Only onnx and NumPy are imported at the top.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import permutations
from typing import NamedTuple

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from export.converter.flatten import fold_flattening
from export.converter.graph import inputs_of, prune

__all__ = ["collapse_nearest_upsampling", "fold_crops", "optimize_graph"]

#: Operators that move values without changing them: what TensorFlow's repeat is made of.
_MOVERS = {"Unsqueeze", "Squeeze", "Tile", "Expand", "Reshape", "Transpose", "Identity"}
#: Operators that such a chain computes its shapes with.
_SHAPE_OPERATORS = {"Shape", "Gather", "Cast", "Slice", "Concat", "Mul", "Unsqueeze", "Squeeze", "Constant"}
#: Stand-ins for dimensions that the graph leaves open; two rounds, so that a shape fixed by accident shows.
_TRIAL_SIZES = ((2, 3, 5, 7), (3, 5, 7, 4))


class _Match(NamedTuple):
    source: str
    target: str
    order: tuple[int, ...]
    scales: tuple[int, ...]


def optimize_graph(model: onnx.ModelProto) -> onnx.ModelProto:
    """Every rewrite that a fresh conversion gains from.

    Crops become the padding of the transposed convolution before them, up-samplings become one node, the transposes around those
    are taken out, and those before a dense layer go into its kernel.

    Args:
        model: as `tf2onnx.convert` gives it; it is left as it is.

    Returns:
        A new model with the same inputs and outputs, or the given one where there was nothing to do.
    """
    folded = fold_flattening(fold_crops(model))
    collapsed = collapse_nearest_upsampling(folded)
    if len(collapsed.graph.node) == len(folded.graph.node):
        return folded
    # tf2onnx moves transposes through the graph until they meet and cancel; the chains stood in their way before.
    from tf2onnx.graph import GraphUtil

    tidied = GraphUtil.optimize_model_proto(collapsed)
    for ours, theirs in zip(
        [*tidied.graph.input, *tidied.graph.output], [*model.graph.input, *model.graph.output], strict=True
    ):
        if ours.name != theirs.name:
            return collapsed
        ours.type.CopyFrom(theirs.type)
    return tidied


def fold_crops(model: onnx.ModelProto) -> onnx.ModelProto:
    """Make a crop of height and width after a transposed convolution that convolution's padding, which never computes the rim.

    Args:
        model: an ONNX model; it is left as it is.

    Returns:
        A new model, or the given one where there is nothing to fold.
    """
    producers = {name: index for index, node in enumerate(model.graph.node) for name in node.output}
    readers = Counter(name for node in model.graph.node for name in inputs_of(node))
    readers.update(output.name for output in model.graph.output)
    constants = {entry.name: entry for entry in model.graph.initializer}
    crops = {}
    for index, node in enumerate(model.graph.node):
        source = producers.get(node.input[0]) if node.op_type == "Slice" else None
        if source is not None and model.graph.node[source].op_type == "ConvTranspose" and readers[node.input[0]] == 1:
            pads = _cropped_pads(model.graph.node[source], [constants.get(name) for name in node.input[1:]])
            if pads:
                crops[index] = source, pads
    if not crops:
        return model
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for index, (source, pads) in crops.items():
        node = result.graph.node[source]
        kept = [attribute for attribute in node.attribute if attribute.name not in ("pads", "auto_pad")]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute("pads", pads)])
        node.output[0] = result.graph.node[index].output[0]
    for index in sorted(crops, reverse=True):
        del result.graph.node[index]
    prune(result.graph)
    return result


def _cropped_pads(node: onnx.NodeProto, arguments: list[onnx.TensorProto | None]) -> list[int] | None:
    """Pads of a two-dimensional ConvTranspose that do what a Slice with these starts, ends, axes and steps does after it."""
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    plain = attributes.get("auto_pad", b"NOTSET") == b"NOTSET" and not {"output_shape", "output_padding"} & set(attributes)
    if not plain or len(arguments) < 2 or None in arguments:
        return None
    starts, ends, *rest = (numpy_helper.to_array(tensor).tolist() for tensor in arguments if tensor is not None)
    axes = rest[0] if rest else list(range(len(starts)))
    if len(rest) > 1 and set(rest[1]) != {1}:
        return None
    pads = list(attributes.get("pads", [0, 0, 0, 0]))
    if len(pads) != 4:
        return None
    for axis, start, end in zip(axes, starts, ends, strict=True):
        open_end = end >= 2**31 - 1
        if start < 0 or not (open_end or end < 0) or (axis not in (2, 3) and (start, open_end) != (0, True)):
            return None
        if axis in (2, 3):
            pads[axis - 2] += start
            pads[axis] += 0 if open_end else -end
    return pads


def collapse_nearest_upsampling(model: onnx.ModelProto) -> onnx.ModelProto:
    """Make every nearest-neighbour up-sampling by whole factors one Resize node.

    tf2onnx writes Keras's ``UpSampling2D`` as some 27 nodes (Unsqueeze, Tile, Reshape, and the arithmetic of their shapes). A
    chain of nodes that only move values is taken for an up-sampling when it does to a tensor of running numbers exactly what a
    Resize would do, for two sizes of every open dimension; nothing is matched by name. The Resize has integer scales,
    asymmetric coordinates and floor rounding, on which all runtimes agree.

    Args:
        model: an ONNX model of opset 13 or more; it is left as it is.

    Returns:
        A new model, or the given one where there can be nothing to collapse.
    """
    opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    if opset < 13 or not any(node.op_type in ("Tile", "Expand") for node in model.graph.node):
        return model
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    done = 0
    # The shapes anew each time: inference sees through a Resize, but not always through the chain that it takes the place of.
    while match := next(_matches(graph, _shapes(result)), None):
        _replace(graph, match, done)
        done += 1
    if done:
        prune(graph)
    return result


def _matches(graph: onnx.GraphProto, shapes: dict[str, list[int | None]]) -> Iterator[_Match]:
    producers = {name: node for node in graph.node for name in node.output}
    consumers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            consumers.setdefault(name, []).append(node)
    for node in graph.node:
        # The last node of a chain: a mover whose result some other operator reads.
        if node.op_type not in _MOVERS or _only_moved(node.output[0], graph, consumers):
            continue
        chain = _chain(node, producers)
        # The longest stretch first: transposes at its ends then fold into it.
        for source in reversed(chain):
            if match := _as_resize(graph, source, node.output[0], producers, shapes):
                yield match
                break


def _only_moved(name: str, graph: onnx.GraphProto, consumers: dict[str, list[onnx.NodeProto]]) -> bool:
    """True where every reader moves the values on, so that a later node ends the chain (readers of the shape do not count)."""
    if any(output.name == name for output in graph.output):
        return False
    readers = [node for node in consumers.get(name, []) if node.op_type != "Shape"]
    return bool(readers) and all(node.op_type in _MOVERS and node.input[0] == name for node in readers)


def _chain(node: onnx.NodeProto, producers: dict[str, onnx.NodeProto]) -> list[str]:
    """Tensors before `node` that only movers lie between, nearest first, as far as they have a Tile or Expand after them."""
    tensors, repeats = [], 0
    current: onnx.NodeProto | None = node
    while current is not None and current.op_type in _MOVERS:
        repeats += current.op_type in ("Tile", "Expand")
        if repeats:
            tensors.append(current.input[0])
        current = producers.get(current.input[0])
    return tensors


def _as_resize(
    graph: onnx.GraphProto,
    source: str,
    target: str,
    producers: dict[str, onnx.NodeProto],
    shapes: dict[str, list[int | None]],
) -> _Match | None:
    """The transposition and scales that take `source` to `target`, if there are any."""
    shape = shapes.get(source)
    nodes = _between(source, target, producers, {entry.name for entry in graph.initializer})
    if shape is None or len(shape) != 4 or nodes is None:
        return None
    found: set[tuple[tuple[int, ...], tuple[int, ...]]] = set()
    for sizes in _TRIAL_SIZES:
        trial = np.arange(np.prod(dims := [n or size for n, size in zip(shape, sizes, strict=True)]), dtype=np.float32)
        trial = trial.reshape(dims)
        try:
            moved = _evaluate(graph, nodes, source, target, trial)
        except Exception:
            # A shape that is fixed in the graph need not fit the trial's: then it is no plain up-sampling.
            return None
        found.add(_explain(trial, moved))
    if len(found) != 1:
        return None
    order, scales = found.pop()
    return _Match(source, target, order, scales) if scales and max(scales) > 1 else None


def _between(
    source: str, target: str, producers: dict[str, onnx.NodeProto], constants: set[str]
) -> list[onnx.NodeProto] | None:
    """Nodes that compute `target` from `source` and constants alone, in order; None where something else is needed."""
    order: list[onnx.NodeProto] = []
    seen = {source, "", *constants}

    def visit(name: str) -> bool:
        if name in seen:
            return True
        node = producers.get(name)
        if node is None or node.op_type not in _MOVERS | _SHAPE_OPERATORS or not all(visit(part) for part in node.input):
            return False
        seen.update(node.output)
        order.append(node)
        return True

    return order if visit(target) else None


def _evaluate(graph: onnx.GraphProto, nodes: list[onnx.NodeProto], source: str, target: str, value: np.ndarray) -> np.ndarray:
    needed = {name for node in nodes for name in node.input}
    part = helper.make_graph(
        nodes,
        "part",
        [helper.make_tensor_value_info(source, onnx.TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info(target, onnx.TensorProto.FLOAT, None)],
        [entry for entry in graph.initializer if entry.name in needed],
    )
    model = helper.make_model(part, opset_imports=[helper.make_opsetid("", 17)])
    return np.asarray(ReferenceEvaluator(model).run(None, {source: value})[0])


def _explain(value: np.ndarray, moved: np.ndarray) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Order of axes and scales with ``moved == repeat(value.transpose(order), scales)``; scales () where there is none."""
    if moved.ndim != value.ndim:
        return (), ()
    for order in permutations(range(value.ndim)):
        turned = value.transpose(order)
        scales = tuple(after // before for after, before in zip(moved.shape, turned.shape, strict=True))
        if tuple(n * scale for n, scale in zip(turned.shape, scales, strict=True)) != moved.shape:
            continue
        for axis, scale in enumerate(scales):
            turned = turned.repeat(scale, axis)
        if np.array_equal(turned, moved):
            return order, scales
    return (), ()


def _replace(graph: onnx.GraphProto, match: _Match, index: int) -> None:
    """Put a Resize for the node that produces the target, and a Transpose where axes change places.

    The Resize stands on the side where the first two axes keep their size, (N, C, H, W), for which runtimes are fast.
    """
    prefix = f"upsample_{index}"
    order, scales = match.order, match.scales
    resize_first = tuple(scales[order.index(axis)] for axis in range(len(order)))
    first = resize_first[:2] == (1, 1)
    factors = numpy_helper.from_array(np.array(resize_first if first else scales, np.float32), f"{prefix}/scales")
    graph.initializer.append(factors)

    turned = order != tuple(range(len(order)))
    between = f"{prefix}/between"
    steps = ["Resize", "Transpose"] if first else ["Transpose", "Resize"]
    if not turned:
        steps.remove("Transpose")
    nodes = []
    for position, step in enumerate(steps):
        source = between if position else match.source
        target = between if position < len(steps) - 1 else match.target
        if step == "Transpose":
            nodes.append(helper.make_node(step, [source], [target], f"{prefix}/transpose", perm=order))
        else:
            modes = {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
            nodes.append(helper.make_node(step, [source, "", factors.name], [target], f"{prefix}/resize", None, None, **modes))
    rest = list(graph.node)
    place = next(i for i, node in enumerate(rest) if match.target in node.output)
    del graph.node[:]
    graph.node.extend([*rest[:place], *nodes, *rest[place + 1 :]])


def _shapes(model: onnx.ModelProto) -> dict[str, list[int | None]]:
    """Shapes by tensor, None for an open dimension."""
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {}
    for info in [*graph.input, *graph.value_info, *graph.output]:
        if info.type.tensor_type.HasField("shape"):
            shapes[info.name] = [d.dim_value or None for d in info.type.tensor_type.shape.dim]
    return shapes
