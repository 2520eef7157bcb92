"""Simplification of a converted ONNX graph; the results stay the same.

The passes change the model that they are given and return how many places they changed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import permutations
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

__all__ = ["collapse_nearest_upsampling", "drop_idle_nodes", "fold_crops", "fold_flattening", "optimize_graph"]

#: Sizes of open dimensions that a graph is tried with: small and large, odd and even, with every remainder of 4.
TRIAL_SIZES = ((1, 2), (5, 7), (8, 11), (16, 4), (21, 33))

Shapes = dict[str, list[int | None]]


def optimize_graph(model: onnx.ModelProto) -> onnx.ModelProto:
    """Run every pass that pays for a fresh conversion of fixed or open sizes.

    Args:
        model: as `tf2onnx.convert` gives it.

    Returns:
        The model, or a new one with the same inputs and outputs.
    """
    fold_crops(model)
    fold_flattening(model)
    if not collapse_nearest_upsampling(model):
        return model
    # tf2onnx moves transposes through the graph until they cancel; the up-sampling chains were in their way before.
    from tf2onnx.graph import GraphUtil

    tidied = GraphUtil.optimize_model_proto(model)
    for ours, theirs in zip(
        [*tidied.graph.input, *tidied.graph.output], [*model.graph.input, *model.graph.output], strict=True
    ):
        if ours.name != theirs.name:
            return model
        ours.type.CopyFrom(theirs.type)
    return tidied


# --- helpers ---


def _links(graph: onnx.GraphProto) -> tuple[dict[str, onnx.NodeProto], Counter[str]]:
    """The node that makes each tensor, and how many nodes or outputs read it."""
    makers, readers = {}, Counter(output.name for output in graph.output)
    for node in graph.node:
        makers.update(dict.fromkeys(node.output, node))
        readers.update(_inputs(node))
    return makers, readers


def _inputs(node: onnx.NodeProto) -> Iterable[str]:
    """Tensors that a node reads, those of its subgraphs included."""
    yield from node.input
    for attribute in node.attribute:
        for graph in [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]:
            for inner in graph.node:
                yield from _inputs(inner)
            yield from (output.name for output in graph.output)


def _prune(graph: onnx.GraphProto) -> None:
    """Remove nodes, constants and type information that nothing needs any more."""
    needed = {output.name for output in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(_inputs(node))
    _set(graph.node, reversed(kept))
    for entries in (graph.initializer, graph.value_info):
        _set(entries, [entry for entry in entries if entry.name in needed])


def _set(field: Any, values: Iterable[Any]) -> None:
    values = list(values)
    del field[:]
    field.extend(values)


def _shapes(model: onnx.ModelProto) -> Shapes:
    """Inferred shapes by tensor, None for an open dimension."""
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {}
    for info in [*graph.input, *graph.value_info, *graph.output]:
        if info.type.tensor_type.HasField("shape"):
            shapes[info.name] = [d.dim_value or None for d in info.type.tensor_type.shape.dim]
    return shapes


# --- crops after a transposed convolution ---


def fold_crops(model: onnx.ModelProto) -> int:
    """Make a crop of height and width after a transposed convolution that convolution's padding, which never computes the rim."""
    graph = model.graph
    slices = [node for node in graph.node if node.op_type == "Slice"]
    makers, readers = _links(graph) if slices else ({}, Counter())
    constants = {entry.name: entry for entry in graph.initializer}
    done = 0
    for node in slices:
        source = makers.get(node.input[0])
        if source is None or source.op_type != "ConvTranspose" or readers[node.input[0]] != 1:
            continue
        if pads := _cropped_pads(source, [constants.get(name) for name in node.input[1:]]):
            _set(source.attribute, [part for part in source.attribute if part.name not in ("pads", "auto_pad")])
            source.attribute.append(helper.make_attribute("pads", pads))
            cropped = node.output[0]
            graph.node.remove(node)
            source.output[0] = cropped
            done += 1
    if done:
        _prune(graph)
    return done


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


# --- flattening before a dense layer ---


def fold_flattening(model: onnx.ModelProto) -> int:
    """Flatten (channels, height, width) before a dense layer instead of (height, width, channels), and reorder its kernel to fit.

    Keras flattens channels last; in ONNX, whose convolutions put channels first, that takes a Transpose of every image.
    """
    graph = model.graph
    makers, readers = _links(graph)
    kernels = {tensor.name: tensor for tensor in graph.initializer if len(tensor.dims) == 2}
    shapes: Shapes = {}
    done = 0
    for dense in graph.node:
        kernel = kernels.get(dense.input[1]) if dense.op_type in ("MatMul", "Gemm") else None
        reshape = makers.get(dense.input[0])
        if kernel is None or reshape is None or reshape.op_type != "Reshape":
            continue
        transpose = makers.get(reshape.input[0])
        if transpose is None or transpose.op_type != "Transpose" or list(transpose.attribute[0].ints) != [0, 2, 3, 1]:
            continue
        shapes = shapes or _shapes(model)
        image, flat = transpose.input[0], dense.input[0]
        channels, height, width = shapes.get(image, [None] * 4)[1:]
        known = channels and height and width and channels * height * width == kernel.dims[0] and len(shapes.get(flat, ())) == 2
        alone = readers[transpose.output[0]] == readers[flat] == readers[kernel.name] == 1
        if known and alone and not any(part.name.startswith("trans") and part.i for part in dense.attribute):
            values = numpy_helper.to_array(kernel)
            moved = values.reshape(height, width, channels, -1).transpose(2, 0, 1, 3).reshape(values.shape)
            kernel.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(moved), kernel.name))
            reshape.CopyFrom(helper.make_node("Flatten", [image], list(reshape.output), name=reshape.name, axis=1))
            done += 1
    if done:
        _prune(graph)
    return done


# --- nearest-neighbor up-sampling ---

#: Operators that move values without changing them: what TensorFlow's repeat is made of.
_MOVERS = {"Unsqueeze", "Squeeze", "Tile", "Expand", "Reshape", "Transpose", "Identity"}
#: Operators that such a chain computes its shapes with.
_SHAPE_OPERATORS = {"Shape", "Gather", "Cast", "Slice", "Concat", "Mul", "Unsqueeze", "Squeeze", "Constant"}
#: Sizes of open dimensions in trials; two rounds, so that a shape fixed by accident shows.
_TRIAL_SHAPES = ((2, 3, 5, 7), (3, 5, 7, 4))


class _UpSampling(NamedTuple):
    source: str
    target: str
    order: tuple[int, ...]
    scales: tuple[int, ...]


def collapse_nearest_upsampling(model: onnx.ModelProto) -> int:
    """Make every nearest-neighbor up-sampling by whole factors one Resize node.

    tf2onnx writes Keras's ``UpSampling2D`` as some 27 nodes (Unsqueeze, Tile, Reshape, and the arithmetic of their shapes). A
    chain of nodes that only move values is an up-sampling if it does to a tensor of running numbers exactly what a Resize would
    do, for two sizes of every open dimension; nothing is matched by name. The Resize has integer scales, asymmetric coordinates
    and floor rounding, on which all runtimes agree. Models below opset 13 stay as they are.
    """
    graph = model.graph
    opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    if opset < 13 or not any(node.op_type in ("Tile", "Expand") for node in graph.node):
        return 0
    done = 0
    # The shapes anew each time: inference sees through a Resize, but not always through the chain that it replaces.
    while match := next(_matches(graph, _shapes(model)), None):
        _replace(graph, match, done)
        done += 1
    if done:
        _prune(graph)
    return done


def _matches(graph: onnx.GraphProto, shapes: Shapes) -> Iterator[_UpSampling]:
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
    shapes: Shapes,
) -> _UpSampling | None:
    """The transposition and scales that take `source` to `target`, if there are any."""
    shape = shapes.get(source)
    nodes = _between(source, target, producers, {entry.name for entry in graph.initializer})
    if shape is None or len(shape) != 4 or nodes is None:
        return None
    found: set[tuple[tuple[int, ...], tuple[int, ...]]] = set()
    for sizes in _TRIAL_SHAPES:
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
    return _UpSampling(source, target, order, scales) if scales and max(scales) > 1 else None


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


def _replace(graph: onnx.GraphProto, match: _UpSampling, index: int) -> None:
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


# --- nodes without effect ---


def drop_idle_nodes(model: onnx.ModelProto) -> int:
    """Remove every Slice and Pad that leaves its tensor whole, whatever the size of the image.

    Where sizes are open, tf2onnx puts a Slice and a Pad behind each transposed convolution, and some forty nodes that compute
    their bounds, to make its output the size that TensorFlow states. ONNX computes that size already. The graph is run on
    images of several sizes (`TRIAL_SIZES`); a node whose result has its input's shape for all of them is idle. (A Slice must step
    by 1: one that steps back keeps the shape as well.)

    Args:
        model: one uint8 or float32 image input (batch, height, width, channels) or (batch, channels, height, width), height and
            width open and called so.
    """
    graph = model.graph
    constants = {entry.name: numpy_helper.to_array(entry) for entry in graph.initializer}
    outputs = {value.name for value in graph.output}
    found = []
    for node in graph.node:
        steps = node.input[4] if node.op_type == "Slice" and len(node.input) > 4 else ""
        by_one = not steps or (steps in constants and bool((constants[steps] == 1).all()))
        if node.op_type in ("Slice", "Pad") and by_one and node.output[0] not in outputs:
            found.append(node)
    idle = _idle(model, found) if found else set()
    instead: dict[str, str] = {}
    kept = []
    for node in graph.node:
        node.input[:] = [instead.get(name, name) for name in node.input]
        if node.output[0] in idle:
            instead[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    if idle:
        _set(graph.node, kept)
        _prune(graph)
    return len(idle)


def _idle(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> set[str]:
    """Outputs of the nodes that keep their input's shape in every trial."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    # Only shapes are compared: the tensors themselves may be large.
    names = {}
    for node in nodes:
        for tensor in (node.input[0], node.output[0]):
            names[tensor] = f"shape of {tensor}"
    for tensor, shape in names.items():
        probe.graph.node.append(helper.make_node("Shape", [tensor], [shape]))
        probe.graph.output.append(helper.make_tensor_value_info(shape, onnx.TensorProto.INT64, [None]))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
    image = session.get_inputs()[0]
    kind = np.uint8 if image.type == "tensor(uint8)" else np.float32
    idle = {node.output[0] for node in nodes}
    for height, width in TRIAL_SIZES:
        sizes = {"height": height, "width": width}
        pixels = np.zeros((1, *(sizes.get(size, size) for size in image.shape[1:])), kind)
        shapes = dict(zip(names, session.run(list(names.values()), {image.name: pixels}), strict=True))
        idle -= {node.output[0] for node in nodes if shapes[node.input[0]].tolist() != shapes[node.output[0]].tolist()}
    return idle
