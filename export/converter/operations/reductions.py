"""Operations that reduce axes, sort and count."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from export.converter.graph import GraphTensor, Operand
from export.converter.native import Converter, operation
from export.converter.operations.elementwise import binary, cast, number
from export.converter.trace import NotConvertible, Step

__all__ = ["reduce"]

#: Reductions whose axes are an input of the operator in every opset from 17 on; the others' from 18 on.
_AXES_AS_INPUT = ("ReduceSum",)


def reduce(c: Converter, kind: str, x: Operand, axis: Any, *, keepdims: bool) -> GraphTensor:
    """A reduction over axes; None: over all."""
    x = c.graph.as_tensor(x)
    if x.flattened is not None:
        x = c.graph.as_tensor(c.graph.plain(x))
    axes = list(range(x.rank)) if axis is None else sorted({int(a) % x.rank for a in np.atleast_1d(axis)})
    left = [a for a in x.axes if keepdims or a not in axes]
    order = tuple(sorted(left).index(a) for a in left)
    places = sorted(x.place(a) for a in axes)
    if not axes:
        return x
    if kind == "ReduceMean" and keepdims and x.rank > 2 and places == list(range(2, x.rank)):
        return c.graph.node("GlobalAveragePool", [x], axes=order)
    if kind in _AXES_AS_INPUT or c.graph.opset >= 18:
        return c.graph.node(kind, [x, c.graph.ints(places)], axes=order, keepdims=int(keepdims))
    value = c.graph.emit(kind, [x], 1, {"axes": places, "keepdims": int(keepdims)})[0]
    return c.graph.tensor(value, c.graph.result.shape, c.graph.result.dtype, order)


#: ONNX operators, by the operations of Keras.
REDUCTIONS = {
    "Mean": "ReduceMean",
    "Sum": "ReduceSum",
    "Max": "ReduceMax",
    "Amax": "ReduceMax",
    "Min": "ReduceMin",
    "Amin": "ReduceMin",
    "Prod": "ReduceProd",
}


@operation(*REDUCTIONS)
def _reduction(c: Converter, step: Step, x: Operand) -> Any:
    kind, dtype = REDUCTIONS[step.kind], c.graph.result.dtype
    initial = getattr(step.operations[0], "initial", None)
    if initial is not None and kind in ("ReduceMax", "ReduceMin"):
        found = reduce_as(c, kind, cast(c, x, dtype), step, dtype)
        return binary(c, kind.removeprefix("Reduce"), found, initial)
    if initial is not None:
        raise NotConvertible("a reduction with an initial value")
    if dtype == "bool":
        return cast(c, reduce_as(c, kind, cast(c, x, "int32"), step, "int32"), "bool")
    return reduce_as(c, kind, cast(c, x, dtype), step, dtype)


def reduce_as(c: Converter, kind: str, x: Operand, step: Step, dtype: str) -> GraphTensor:
    """A reduction by the axis and keepdims of the operation."""
    result = reduce(c, kind, x, step.axis, keepdims=step.keepdims)
    return GraphTensor(result.shape, dtype, result.value, result.axes)


@operation("Any", "All", "CountNonzero")
def _any(c: Converter, step: Step, x: Operand) -> Any:
    kind = {"Any": "ReduceMax", "All": "ReduceMin"}.get(step.kind, "ReduceSum")
    numbers = cast(c, x if x.dtype == "bool" else cast(c, x, "bool"), "int32")
    if kind == "ReduceSum":
        return cast(c, reduce(c, kind, numbers, step.axis, keepdims=False), c.graph.result.dtype)
    return cast(c, reduce_as(c, kind, numbers, step, "int32"), "bool")


@operation("Var", "Std", "Moments")
def _variance(c: Converter, step: Step, x: Operand) -> Any:
    kind = step.kind
    axis, keepdims = (step.axes if kind == "Moments" else step.axis), step.keepdims

    def compute(x: Any) -> Any:
        ops = keras.ops
        mean = ops.mean(x, axis=axis, keepdims=True)
        variance = ops.mean(ops.square(x - mean), axis=axis, keepdims=keepdims)
        if kind == "Moments":
            return ops.mean(x, axis=axis, keepdims=keepdims), variance
        return ops.sqrt(variance) if kind == "Std" else variance

    return c.call(compute, cast(c, x, c.graph.result.dtype))


@operation("Ptp", "Logsumexp", "Norm", "Average")
def _composed(c: Converter, step: Step, x: Operand, weights: Any = None) -> Any:
    kind, axis, ops = step.kind, step.axis, keras.ops
    keepdims = getattr(step.operations[0], "keepdims", False)
    if weights is not None:
        return _weighted_average(c, step, x, weights)

    def compute(x: Any) -> Any:
        if kind == "Average":
            return ops.mean(x, axis=axis)
        if kind == "Ptp":
            return ops.max(x, axis=axis, keepdims=keepdims) - ops.min(x, axis=axis, keepdims=keepdims)
        if kind == "Logsumexp":
            most = ops.max(x, axis=axis, keepdims=True)
            total = ops.log(ops.sum(ops.exp(x - most), axis=axis, keepdims=keepdims))
            return total + (most if keepdims else ops.squeeze(most, axis=axis))
        absolute = ops.absolute(x)
        if step.ord in (None, 2, "fro"):
            return ops.sqrt(ops.sum(x * x, axis=axis, keepdims=keepdims))
        if step.ord == 1:
            return ops.sum(absolute, axis=axis, keepdims=keepdims)
        if abs(step.ord) == float("inf"):
            return (ops.max if step.ord > 0 else ops.min)(absolute, axis=axis, keepdims=keepdims)
        return ops.power(ops.sum(ops.power(absolute, step.ord), axis=axis, keepdims=keepdims), 1 / step.ord)

    if kind == "Norm" and (step.ord == 0 or (isinstance(step.ord, str) and step.ord != "fro")):
        raise NotConvertible(f"a norm of order {step.ord}")
    if kind == "Norm" and step.ord not in (None, "fro") and np.ndim(axis) and np.size(axis) > 1:
        raise NotConvertible("a norm of matrices")
    return c.call(compute, cast(c, x, c.graph.result.dtype))


def _weighted_average(c: Converter, step: Step, x: Operand, weights: Operand) -> Any:
    def compute(x: Any, weights: Any) -> Any:
        if len(weights.shape) != len(x.shape):  # one weight for each place along the axis
            weights = keras.ops.reshape(weights, [-1 if a == step.axis % len(x.shape) else 1 for a in range(len(x.shape))])
        weights = weights + keras.ops.zeros_like(x)
        return keras.ops.sum(x * weights, axis=step.axis) / keras.ops.sum(weights, axis=step.axis)

    return c.call(compute, cast(c, x, c.graph.result.dtype), cast(c, weights, c.graph.result.dtype))


@operation("Argmax", "Argmin")
def _argmax(c: Converter, step: Step, x: Operand) -> Any:
    kind = {"Argmax": "ArgMax", "Argmin": "ArgMin"}[step.kind]
    x = c.graph.plain(x)
    if x.dtype in ("bool", "int16", "uint16", "uint32", "uint64"):
        x = cast(c, x, "int32")
    shape = c.graph.result.shape
    if step.axis is None:
        function = keras.ops.argmax if kind == "ArgMax" else keras.ops.argmin
        found = c.call(lambda x: function(keras.ops.reshape(x, (-1,)), axis=0), x)
        return found if not shape else c.call(lambda x: keras.ops.reshape(x, shape), found)
    best = c.graph.node(kind, [x], shape=shape, dtype="int64", axis=step.axis % x.rank, keepdims=int(step.keepdims))
    return cast(c, best, c.graph.result.dtype)


@operation("TopK")
def _top_k(c: Converter, step: Step, x: Operand) -> Any:
    x = c.graph.plain(x)
    values, indices = step.outputs
    both = c.graph.emit("TopK", [x, c.graph.ints([step.k])], 2, {"axis": -1, "sorted": int(step.sorted)})
    wide = c.graph.tensor(both[1], indices.shape, "int64")
    return [c.graph.tensor(both[0], values.shape, values.dtype), cast(c, wide, indices.dtype)]


@operation("Sort", "Argsort")
def _sort(c: Converter, step: Step, x: Operand) -> Any:
    x = c.graph.plain(x)
    size = x.shape[step.axis]
    if not isinstance(size, int):
        raise NotConvertible("sorting along an open dimension")
    attributes = {"axis": step.axis, "largest": 0, "sorted": 1}
    both = c.graph.emit("TopK", [x, c.graph.ints([size])], 2, attributes)
    if step.kind == "Sort":
        return c.graph.tensor(both[0], x.shape, x.dtype)
    return cast(c, c.graph.tensor(both[1], x.shape, "int64"), c.graph.result.dtype)


@operation("Cumsum")
def _cumsum(c: Converter, step: Step, x: Operand) -> Any:
    if step.axis is None:
        return c.call(lambda x: keras.ops.cumsum(keras.ops.reshape(x, (-1,)), axis=0), x)
    x = cast(c, c.graph.plain(x), c.graph.result.dtype)
    return c.graph.node("CumSum", [x, c.graph.constant(np.int64(step.axis % x.rank))])


@operation("Softmax", "LogSoftmax")
def _softmax(c: Converter, step: Step, x: Operand) -> Any:
    x = c.graph.as_tensor(cast(c, x, c.graph.result.dtype))
    if x.flattened is not None:
        x = c.graph.as_tensor(c.graph.plain(x))
    if not isinstance(step.axis, int):
        raise NotConvertible("a softmax over several axes")
    return c.graph.node(step.kind, [x], axes=x.axes, axis=x.place(step.axis))


@operation("Normalize")
def _normalize(c: Converter, step: Step, x: Operand) -> Any:
    ops, axis, order = keras.ops, step.axis, step.order
    epsilon = step.epsilon if step.epsilon is not None else keras.config.epsilon()
    if order != 2:
        return c.call(lambda x: x / ops.maximum(ops.norm(x, ord=order, axis=axis, keepdims=True), epsilon), x)
    return c.call(lambda x: x / ops.sqrt(ops.maximum(ops.sum(x * x, axis=axis, keepdims=True), epsilon * epsilon)), x)


@operation("Size", "Ndim")
def _size(c: Converter, step: Step, x: Operand) -> Any:
    if step.kind == "Ndim":
        return number(x.rank, c.graph.result.dtype)
    sizes = c.graph.node("ReduceProd", [c.graph.sizes(x.shape)], shape=(), dtype="int64", keepdims=0)
    return cast(c, sizes, c.graph.result.dtype)
