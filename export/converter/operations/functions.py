"""Functions on each value that ONNX has no operator for."""

from __future__ import annotations

import math
from typing import Any

import keras

from export.converter.graph import Operand
from export.converter.native import Converter, operation
from export.converter.operations.elementwise import cast, operand
from export.converter.trace import Step

__all__: list[str] = []

#: Functions that ONNX has no operator for, by what they are made of; called with `keras.ops`.
_COMPOSED = {
    "Rsqrt": lambda ops, x, step: 1.0 / ops.sqrt(x),
    "Square": lambda ops, x, step: x * x,
    "Log1p": lambda ops, x, step: ops.where(ops.absolute(x) < 1e-2, x - x * x * (0.5 - x * (1 / 3 - x / 4)), ops.log(x + 1)),
    "Log2": lambda ops, x, step: ops.log(x) / math.log(2.0),
    "Log10": lambda ops, x, step: ops.log(x) / math.log(10.0),
    "Exp2": lambda ops, x, step: ops.exp(x * math.log(2.0)),
    "Expm1": lambda ops, x, step: ops.where(ops.absolute(x) < 1e-2, x + x * x * (0.5 + x * (1 / 6 + x / 24)), ops.exp(x) - 1),
    "Erfc": lambda ops, x, step: 1 - ops.erf(x),
    "Deg2rad": lambda ops, x, step: x * (math.pi / 180),
    "Rad2deg": lambda ops, x, step: x * (180 / math.pi),
    "Relu6": lambda ops, x, step: ops.clip(x, 0, 6),
    "Silu": lambda ops, x, step: x * ops.sigmoid(x),
    "HardTanh": lambda ops, x, step: ops.clip(x, -1, 1),
    "HardSigmoid": lambda ops, x, step: ops.clip(x / 6 + 0.5, 0, 1),
    "TanhShrink": lambda ops, x, step: x - ops.tanh(x),
    "LogSigmoid": lambda ops, x, step: -ops.softplus(-x),
    "SoftShrink": lambda ops, x, step: ops.sign(x) * ops.maximum(ops.absolute(x) - step.threshold, 0),
    "HardShrink": lambda ops, x, step: ops.where(ops.absolute(x) > step.threshold, x, 0),
    "Squareplus": lambda ops, x, step: (x + ops.sqrt(x * x + step.b)) / 2,
    "SparsePlus": lambda ops, x, step: ops.where(x <= -1, 0, ops.where(x < 1, (x + 1) * (x + 1) / 4, x)),
    "SparseSigmoid": lambda ops, x, step: ops.clip((x + 1) / 2, 0, 1),
    "Sinc": lambda ops, x, step: ops.where(
        ops.equal(x, 0), 1, ops.sin(x * math.pi) / ops.where(ops.equal(x, 0), 1, x * math.pi)
    ),
    "Mish": lambda ops, x, step: x * ops.tanh(ops.softplus(x)),
    "Trunc": lambda ops, x, step: ops.sign(x) * ops.floor(ops.absolute(x)),
    "Cbrt": lambda ops, x, step: ops.sign(x) * ops.power(ops.absolute(x), 1 / 3),
}


@operation(*_COMPOSED)
def _composed(c: Converter, step: Step, x: Operand) -> Any:
    dtype = c.graph.result.dtype

    def compute(x: Any) -> Any:
        return _COMPOSED[step.kind](keras.ops, x if x.dtype == dtype else keras.ops.cast(x, dtype), step)

    return c.call(compute, x)


@operation("Arctan2")
def _arctan2(c: Converter, step: Step, x1: Any, x2: Any) -> Any:
    def compute(y: Any, x: Any) -> Any:
        ops = keras.ops
        base = ops.arctan(y / ops.where(ops.equal(x, 0), 1.0, x))
        turned = base + ops.where(x < 0, ops.where(y < 0, -math.pi, math.pi), 0.0)
        return ops.where(ops.equal(x, 0), ops.sign(y) * (math.pi / 2), turned)

    dtype = c.graph.result.dtype
    return c.call(compute, cast(c, operand(x1, dtype), dtype), cast(c, operand(x2, dtype), dtype))


@operation("Hypot")
def _hypot(c: Converter, step: Step, x1: Any, x2: Any) -> Any:
    dtype = c.graph.result.dtype
    return c.call(lambda a, b: keras.ops.sqrt(a * a + b * b), *(cast(c, operand(x, dtype), dtype) for x in (x1, x2)))


@operation("Logaddexp")
def _logaddexp(c: Converter, step: Step, x1: Any, x2: Any) -> Any:
    dtype = c.graph.result.dtype

    def compute(a: Any, b: Any) -> Any:
        return keras.ops.maximum(a, b) + keras.ops.log(1 + keras.ops.exp(-keras.ops.absolute(a - b)))

    return c.call(compute, *(cast(c, operand(x, dtype), dtype) for x in (x1, x2)))
