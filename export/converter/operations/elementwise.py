"""Operations on each value: arithmetic, comparisons, activation functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from export.converter.graph import GraphConstant, GraphTensor, Operand, natural, onnx_type, stored_dtype
from export.converter.native import Converter, operation
from export.converter.trace import NotConvertible, Step

__all__ = ["aligned", "binary", "cast", "number", "operand"]

#: Integers that onnxruntime has no arithmetic for.
SMALL = ("int8", "uint8", "int16", "uint16")


def number(value: Any, dtype: str) -> GraphConstant:
    """A Python number as a constant."""
    return GraphConstant(np.asarray(value, stored_dtype(dtype)))


def operand(value: Any, dtype: str) -> Operand:
    """An argument that may be a Python number."""
    return value if isinstance(value, (GraphTensor, GraphConstant)) else number(value, dtype)


def cast(c: Converter, x: Operand, dtype: str) -> Operand:
    """The values in another dtype; 16-bit floats are float32 in the file."""
    if stored_dtype(x.dtype) == stored_dtype(dtype):
        return x
    if isinstance(x, GraphConstant):
        return GraphConstant(x.array.astype(stored_dtype(dtype)), x.name)
    return c.graph.node("Cast", [x], shape=x.shape, dtype=dtype, like=x, to=int(onnx_type(dtype)))


def aligned(c: Converter, items: Sequence[Operand]) -> tuple[list[Operand], dict[str, Any]]:
    """Operands whose axes lie alike, for an operation on each value; and the axes that its result has."""
    tensors = [item for item in items if isinstance(item, GraphTensor)]
    if not tensors:
        tensors = [c.graph.as_tensor(items[0])]
        items = [tensors[0], *items[1:]]
    rank = max(item.rank for item in items)
    leader = next((x for x in tensors if x.rank == rank and not x.plain), None)
    same = all(x.rank == rank and (x.flattened is None or x.flattened == _flattened(leader)) for x in tensors)
    if leader is not None and leader.flattened is not None and any(x.flattened != leader.flattened for x in tensors):
        same = False
    if leader is None or not same or any(item.rank > leader.rank for item in items):
        moved = [c.graph.plain(item) for item in items]
        return moved, {"axes": natural(rank)}
    moved = []
    for item in items:
        if isinstance(item, GraphTensor):
            moved.append(item if leader.flattened is not None else c.graph.ordered(item, leader.axes))
        elif leader.flattened is not None:
            moved.append(_flattened_constant(item, leader.flattened))
        elif item.array.size == 1:
            moved.append(GraphConstant(item.array.reshape(()), item.name) if item.rank else item)
        else:
            array = item.array.reshape((1,) * (rank - item.rank) + item.shape)
            moved.append(GraphConstant(array.transpose(leader.axes), item.name))
    return moved, {"like": leader}


def _flattened(x: GraphTensor | None) -> tuple[int, ...] | None:
    return None if x is None else x.flattened


def _flattened_constant(item: GraphConstant, sizes: tuple[int, ...]) -> GraphConstant:
    if item.array.shape[-1:] in ((), (1,)):
        return item
    *space, channels = sizes
    array = item.array.reshape(-1, *space, channels)
    return GraphConstant(np.moveaxis(array, -1, 1).reshape(item.shape), item.name)


def binary(c: Converter, kind: str, x1: Any, x2: Any, *, compare: bool = False) -> GraphTensor:
    """An ONNX operator of two tensors with NumPy's broadcasting and Keras's types."""
    if compare:
        kinds = [x.dtype if isinstance(x, (GraphTensor, GraphConstant)) else type(x) for x in (x1, x2)]
        dtype = keras.backend.result_type(*kinds)
        if dtype == "bool" and kind not in ("And", "Or", "Xor", "Equal"):
            dtype = "int32"
    else:
        dtype = c.graph.result.dtype
    small = not compare and dtype in SMALL
    working = "int32" if small else dtype
    items = [cast(c, operand(x, working), working) for x in (x1, x2)]
    items, axes = aligned(c, items)
    result = c.graph.node(kind, items, dtype="bool" if compare else working, **axes)
    return _tensor(cast(c, result, dtype)) if small else result


def _tensor(x: Operand) -> GraphTensor:
    assert isinstance(x, GraphTensor)
    return x


#: ONNX operators of two tensors, by the operations of Keras.
ARITHMETIC = {
    "Add": "Add",
    "Subtract": "Sub",
    "Multiply": "Mul",
    "Divide": "Div",
    "TrueDivide": "Div",
    "Maximum": "Max",
    "Minimum": "Min",
    "Power": "Pow",
}

#: What arithmetic is on truth values, and the number that changes nothing.
_OF_TRUTH = {"Mul": "And", "Add": "Or", "Max": "Or", "Min": "And"}
_NEUTRAL = {"Add": 0, "Sub": 0, "Mul": 1, "Div": 1}


@operation(*ARITHMETIC)
def _arithmetic(c: Converter, step: Step, x1: Any, x2: Any) -> Any:
    kind, dtype = ARITHMETIC[step.kind], c.graph.result.dtype
    if dtype == "bool":
        kind = _OF_TRUTH.get(kind, kind)
    same = isinstance(x1, GraphTensor) and x1.dtype == dtype
    if same and kind in _NEUTRAL and isinstance(x2, (int, float)) and x2 == _NEUTRAL[kind]:
        return x1
    return binary(c, kind, x1, x2)


COMPARISONS = {
    "Greater": "Greater",
    "GreaterEqual": "GreaterOrEqual",
    "Less": "Less",
    "LessEqual": "LessOrEqual",
    "Equal": "Equal",
}


@operation(*COMPARISONS)
def _comparison(c: Converter, step: Step, x1: Any, x2: Any) -> Any:
    return binary(c, COMPARISONS[step.kind], x1, x2, compare=True)


@operation("NotEqual")
def _not_equal(c: Converter, step: Step, x1: Any, x2: Any) -> Any:
    equal = binary(c, "Equal", x1, x2, compare=True)
    return c.graph.node("Not", [equal], like=equal)


LOGIC = {"LogicalAnd": "And", "LogicalOr": "Or", "LogicalXor": "Xor"}


@operation(*LOGIC)
def _logical(c: Converter, step: Step, x1: Any, x2: Any) -> Any:
    items, axes = aligned(c, [_truth(c, operand(x, "bool")) for x in (x1, x2)])
    return c.graph.node(LOGIC[step.kind], items, dtype="bool", **axes)


def _truth(c: Converter, x: Operand) -> Operand:
    if x.dtype == "bool":
        return x
    return cast(c, x, "bool")


@operation("LogicalNot")
def _not(c: Converter, step: Step, x: Operand) -> Any:
    x = _truth(c, x)
    return unary(c, "Not", x, dtype="bool")


@operation("Mod", "FloorDivide")
def _mod(c: Converter, step: Step, x1: Any, x2: Any) -> Any:
    floating = "float" in c.graph.result.dtype
    if floating:
        quotient = c.graph.node("Floor", [ratio := binary(c, "Div", x1, x2)], like=ratio)
        if step.kind == "FloorDivide":
            return quotient
        return binary(c, "Sub", x1, binary(c, "Mul", quotient, x2))
    remainder = binary(c, "Mod", x1, x2)
    if step.kind == "Mod":
        return remainder
    return binary(c, "Div", binary(c, "Sub", x1, remainder), x2)


@operation("DivideNoNan")
def _divide_no_nan(c: Converter, step: Step, x1: Any, x2: Any) -> Any:
    dtype = c.graph.result.dtype
    if isinstance(x2, (int, float)):
        return binary(c, "Div", x1, x2) if x2 else unary(c, "Abs", binary(c, "Mul", x1, 0))
    zero = binary(c, "Equal", cast(c, operand(x2, dtype), dtype), number(0, dtype), compare=True)
    return where(c, zero, number(0, dtype), binary(c, "Div", x1, x2))


@operation("Where")
def _where(c: Converter, step: Step, condition: Operand, x1: Any = None, x2: Any = None) -> Any:
    if x1 is None:
        raise NotConvertible(
            "places where a condition holds, whose number depends on the values: use where with three arguments"
        )
    return where(c, _truth(c, condition), x1, x2)


@operation("BitwiseAnd", "BitwiseOr", "BitwiseXor")
def _bitwise(c: Converter, step: Step, x1: Any, x2: Any) -> Any:
    if c.graph.result.dtype != "bool" and c.graph.opset < 18:
        raise NotConvertible("operations on bits need opset 18 or later")
    return binary(c, step.kind.removeprefix("Bitwise") if c.graph.result.dtype == "bool" else step.kind, x1, x2)


@operation("BitwiseNot", "BitwiseInvert")
def _bitwise_not(c: Converter, step: Step, x: Operand) -> Any:
    if c.graph.result.dtype == "bool":
        return unary(c, "Not", x)
    return c.call(lambda x: -1 - x, x)


def where(c: Converter, condition: Operand, x1: Any, x2: Any) -> GraphTensor:
    """Values of `x1` where the condition holds, else of `x2`."""
    dtype = c.graph.result.dtype
    items, axes = aligned(c, [condition, *(cast(c, operand(x, dtype), dtype) for x in (x1, x2))])
    return c.graph.node("Where", items, dtype=dtype, **axes)


def unary(c: Converter, kind: str, x: Operand, *, dtype: str | None = None, **attributes: Any) -> GraphTensor:
    """An ONNX operator of one tensor that works on each value."""
    dtype = c.graph.result.dtype if dtype is None else dtype
    x = c.graph.as_tensor(x)
    if kind not in ("Not", "Cast"):
        x = _tensor(cast(c, x, dtype))
    return c.graph.node(kind, [x], shape=x.shape, dtype=dtype, like=x, **attributes)


#: ONNX operators of one tensor, by the operations of Keras.
FUNCTIONS = {
    "Absolute": "Abs",
    "Fabs": "Abs",
    "Arccos": "Acos",
    "Arccosh": "Acosh",
    "Arcsin": "Asin",
    "Arcsinh": "Asinh",
    "Arctan": "Atan",
    "Arctanh": "Atanh",
    "Ceil": "Ceil",
    "Cos": "Cos",
    "Cosh": "Cosh",
    "Erf": "Erf",
    "Exp": "Exp",
    "Floor": "Floor",
    "Log": "Log",
    "Negative": "Neg",
    "Reciprocal": "Reciprocal",
    "Relu": "Relu",
    "Sigmoid": "Sigmoid",
    "Sign": "Sign",
    "Sin": "Sin",
    "Sinh": "Sinh",
    "Softplus": "Softplus",
    "Softsign": "Softsign",
    "Sqrt": "Sqrt",
    "Tan": "Tan",
    "Tanh": "Tanh",
}


@operation(*FUNCTIONS)
def _unary(c: Converter, step: Step, x: Operand) -> Any:
    return unary(c, FUNCTIONS[step.kind], x)


@operation("Isnan", "Isinf", "Isfinite")
def _is_special(c: Converter, step: Step, x: Operand) -> Any:
    x = c.graph.as_tensor(cast(c, x, x.dtype if "float" in x.dtype else "float32"))
    kind = step.kind
    if kind != "Isfinite":
        return c.graph.node({"Isnan": "IsNaN", "Isinf": "IsInf"}[kind], [x], dtype="bool", like=x)
    special = [c.graph.node(name, [x], shape=x.shape, dtype="bool", like=x) for name in ("IsNaN", "IsInf")]
    either = c.graph.node("Or", special, dtype="bool", like=x)
    return c.graph.node("Not", [either], dtype="bool", like=x)


@operation("Elu", "Selu", "Celu", "LeakyRelu")
def _elu(c: Converter, step: Step, x: Operand) -> Any:
    kind = step.kind
    if kind == "LeakyRelu":
        return unary(c, kind, x, alpha=float(step.negative_slope))
    if kind == "Selu":
        return unary(c, kind, x, alpha=1.6732632423543772, gamma=1.0507009873554805)
    return unary(c, kind, x, alpha=float(step.alpha))


@operation("HardSilu")
def _hard_silu(c: Converter, step: Step, x: Operand) -> Any:
    return unary(c, "HardSwish", x)


@operation("ReLU")
def _relu(c: Converter, step: Step, x: Operand) -> Any:
    slope, most, threshold = step.negative_slope, step.max_value, step.threshold
    if threshold == 0 and slope and most is None:
        return unary(c, "LeakyRelu", x, alpha=float(slope))
    if threshold == 0 and not slope:
        return unary(c, "Relu", x) if most is None else clip(c, x, 0.0, most)

    def compute(x: Any) -> Any:  # as keras.activations.relu states it
        above = keras.ops.where(x > threshold, x, 0.0)
        above = above if most is None else keras.ops.clip(above, 0.0, most)
        return above - slope * keras.ops.maximum(threshold - x, 0.0) if slope else above

    return c.call(compute, x)


@operation("Clip")
def _clip(c: Converter, step: Step, x: Operand) -> Any:
    return clip(c, x, step.x_min, step.x_max)


def clip(c: Converter, x: Operand, least: Any, most: Any) -> GraphTensor:
    """The values between two bounds."""
    dtype = c.graph.result.dtype
    x = c.graph.as_tensor(cast(c, x, dtype))
    arrays = [np.asarray(keras.ops.convert_to_numpy(bound)) for bound in (least, most) if bound is not None]
    if dtype in SMALL or any(array.size != 1 for array in arrays):
        low, high = (GraphConstant(array.astype(stored_dtype(dtype))) for array in arrays)
        return binary(c, "Min", binary(c, "Max", x, low), high)
    bounds = [number(np.asarray(bound).reshape(()), dtype) for bound in arrays]
    return c.graph.node("Clip", [x, *bounds], shape=x.shape, dtype=dtype, like=x)


@operation("Gelu")
def _gelu(c: Converter, step: Step, x: Operand) -> Any:
    x = c.graph.as_tensor(x)
    if c.graph.opset >= 20:
        return unary(c, "Gelu", x, approximate="tanh" if step.approximate else "none")
    ops = keras.ops
    if step.approximate:
        return c.call(lambda x: 0.5 * x * (1 + ops.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x))), x)
    return c.call(lambda x: 0.5 * x * (1 + ops.erf(x * math.sqrt(0.5))), x)


@operation("Glu")
def _glu(c: Converter, step: Step, x: Operand) -> Any:
    def compute(x: Any) -> Any:
        left, right = keras.ops.split(x, 2, axis=step.axis)
        return left * keras.ops.sigmoid(right)

    return c.call(compute, x)


@operation("Cast", "SaturateCast")
def _cast(c: Converter, step: Step, x: Operand) -> Any:
    x = c.graph.as_tensor(x)
    dtype = c.graph.result.dtype
    if step.kind == "SaturateCast" and "int" in dtype:
        limits = np.iinfo(dtype)
        if "float" in x.dtype:
            bounds = [number(limits.min, x.dtype), number(limits.max, x.dtype)]
            x = c.graph.node("Clip", [x, *bounds], shape=x.shape, dtype=x.dtype, like=x)
    if dtype in SMALL and "float" in x.dtype:  # whose result for values out of range then is that of integers
        x = _tensor(cast(c, x, "int32"))
    return cast(c, x, dtype)


@operation("Round")
def _round(c: Converter, step: Step, x: Operand) -> Any:
    if step.decimals == 0:
        return unary(c, "Round", x) if "float" in x.dtype else x
    factor = 10.0**step.decimals
    return c.call(lambda x: keras.ops.round(x * factor) / factor, x)


@operation("StopGradient", "Copy", "ConvertToTensor", "Array", "Real", "Conjugate")
def _same(c: Converter, step: Step, x: Operand) -> Any:
    return cast(c, x, c.graph.result.dtype)


@operation("OnesLike", "ZerosLike", "FullLike")
def _like(c: Converter, step: Step, x: Operand, fill_value: Any = None) -> Any:
    value = {"OnesLike": 1, "ZerosLike": 0}.get(step.kind, fill_value)
    dtype = c.graph.result.dtype
    array = np.asarray(value, stored_dtype(dtype)) if not isinstance(value, GraphConstant) else value.array.astype(dtype)
    shape = c.graph.result.shape
    return c.graph.node("Expand", [GraphConstant(array), c.graph.sizes(shape)])
