"""Operations that read or write at places that a tensor tells."""

from __future__ import annotations

from typing import Any

import numpy as np

from export.converter.graph import GraphConstant, GraphTensor, Operand, stored_dtype
from export.converter.native import Converter, operation
from export.converter.operations.elementwise import cast, number
from export.converter.operations.shapes import flat_shape, reshape
from export.converter.trace import NotConvertible, Step

__all__: list[str] = []


@operation("Take")
def _take(c: Converter, step: Step, x: Operand, indices: Any) -> Any:
    axis = step.axis
    if axis is None:
        x, axis = reshape(c, x, flat_shape(c, x)), 0
    x = c.graph.plain(x)
    indices = indices if isinstance(indices, (GraphTensor, GraphConstant)) else GraphConstant(np.asarray(indices, np.int64))
    indices = cast(c, c.graph.plain(indices), "int64" if indices.dtype not in ("int32", "int64") else indices.dtype)
    return c.graph.node("Gather", [x, indices], axis=axis % x.rank)


@operation("TakeAlongAxis")
def _take_along_axis(c: Converter, step: Step, x: Operand, indices: Operand) -> Any:
    x, indices = c.graph.plain(x), cast(c, c.graph.plain(indices), "int64")
    if step.axis is None or x.rank != indices.rank:
        raise NotConvertible("take_along_axis without an axis, or of different ranks")
    axis = step.axis % x.rank
    shapes = [[*x.shape[:axis], *y.shape[axis : axis + 1], *x.shape[axis + 1 :]] for y in (x, indices)]
    for i, size in enumerate(indices.shape):
        if i != axis and x.shape[i] == 1:
            shapes[0][i] = shapes[1][i] = size
    wide = [x, indices]
    for i, shape in enumerate(shapes):
        if tuple(shape) != tuple(wide[i].shape):
            wide[i] = c.graph.node("Expand", [wide[i], c.graph.sizes(shape)], shape=tuple(shape), dtype=wide[i].dtype)
    x, indices = wide
    return c.graph.node("GatherElements", [x, indices], axis=step.axis % x.rank)


@operation("OneHot")
def _one_hot(c: Converter, step: Step, x: Operand) -> Any:
    x = cast(c, c.graph.plain(x), "int64")
    classes = GraphConstant(np.asarray([step.num_classes], np.int64))
    dtype = c.graph.result.dtype
    # an index beyond the classes gives zeros in Keras; ONNX counts a negative one from the end
    index = c.graph.node(
        "Where",
        [
            c.graph.node("Less", [x, number(0, "int64")], shape=x.shape, dtype="bool"),
            GraphConstant(np.asarray(step.num_classes, np.int64)),
            x,
        ],
        shape=x.shape,
        dtype="int64",
    )
    values = c.graph.constant(np.asarray([0, 1], stored_dtype(dtype)))
    return c.graph.node("OneHot", [index, classes, values], axis=step.axis)


@operation("Scatter", "ScatterUpdate")
def _scatter(c: Converter, step: Step, *args: Operand) -> Any:
    """`keras.ops.scatter` adds up what goes to the same place."""
    dtype, shape = c.graph.result.dtype, c.graph.result.shape
    *before, indices, values = (c.graph.plain(x) for x in args)
    if before:
        reductions = {None: None, "add": "add", "mul": "mul", "max": "max", "min": "min"}
        if step.reduction not in reductions:
            raise NotConvertible(f"scatter_update with reduction={step.reduction!r}")
        x, reduction = cast(c, before[0], dtype), reductions[step.reduction]
    else:
        zero = GraphConstant(np.zeros((), stored_dtype(dtype)))
        x, reduction = c.graph.node("Expand", [zero, c.graph.sizes(shape)], shape=shape, dtype=dtype), "add"
    if reduction and c.graph.opset < (18 if reduction in ("max", "min") else 16):
        raise NotConvertible(f"scatter with reduction={reduction!r} (opset {c.graph.opset})")
    inputs = [x, cast(c, indices, "int64"), cast(c, values, dtype)]
    return c.graph.node("ScatterND", inputs, shape=shape, dtype=dtype, reduction=reduction)
