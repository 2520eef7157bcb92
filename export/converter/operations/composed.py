"""Operations that are made of others: each is written in `keras.ops`, and converted as what it is made of."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from export.converter.graph import GraphConstant, GraphTensor
from export.converter.native import Converter, operation
from export.converter.operations.elementwise import cast
from export.converter.trace import NotConvertible, Size, Step

__all__: list[str] = []

ops = keras.ops


def composed(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register what operations are made of: ``f(step, *tensors)`` in `keras.ops`; its results get the dtypes that Keras states."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        def convert(c: Converter, step: Step, *args: Any, **kwargs: Any) -> Any:
            result = c.call(lambda *args, **kwargs: function(step, *args, **kwargs), *args, **kwargs)
            flat = list(result) if isinstance(result, (tuple, list)) else [result]
            tensors = [item for item in flat if isinstance(item, (GraphTensor, GraphConstant))]
            return [cast(c, item, output.dtype) for item, output in zip(tensors, step.outputs, strict=True)]

        operation(*names)(convert)
        return function

    return register


def _size(x: Any, axis: int) -> int:
    """The size of an axis, which must be stated."""
    return int(x.shape[axis])


def _take(x: Any, start: int | None, stop: int | None, axis: int) -> Any:
    return x[(slice(None),) * (axis % len(x.shape)) + (slice(start, stop),)]


def _flat(x: Any, axis: Any) -> tuple[Any, int]:
    """The tensor and the axis; for no axis, all values in one."""
    return (ops.reshape(x, (-1,)), 0) if axis is None else (x, axis)


# --- on each value ---

#: Of one tensor.
_UNARY: dict[str, Callable[[Any, Step], Any]] = {
    "Isneginf": lambda x, step: ops.equal(x, -math.inf),
    "Isposinf": lambda x, step: ops.equal(x, math.inf),
    "Isreal": lambda x, step: ops.ones_like(x, dtype="bool"),
    "Signbit": lambda x, step: ops.less(ops.where(ops.equal(x, 0), 1.0 / x, x), 0),
    "Imag": lambda x, step: ops.zeros_like(x),
    "EmptyLike": lambda x, step: ops.zeros_like(x),
    "Angle": lambda x, step: ops.where(ops.less(x, 0), math.pi, 0.0),
    "Threshold": lambda x, step: ops.where(ops.greater(x, step.threshold), x, step.default_value),
}


@composed(*_UNARY)
def _unary(step: Step, x: Any) -> Any:
    return _UNARY[step.kind](x, step)


#: Of two tensors.
_BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "Logaddexp2": lambda a, b: ops.maximum(a, b) + ops.log2(1 + ops.exp2(-ops.absolute(a - b))),
    "Fmax": lambda a, b: ops.where(ops.isnan(a), b, ops.where(ops.isnan(b), a, ops.maximum(a, b))),
    "Fmin": lambda a, b: ops.where(ops.isnan(a), b, ops.where(ops.isnan(b), a, ops.minimum(a, b))),
    "Fmod": lambda a, b: a - ops.trunc(a / b) * b,
    "Heaviside": lambda a, b: ops.where(ops.less(a, 0), 0.0, ops.where(ops.equal(a, 0), b, 1.0)),
    "Ldexp": lambda a, b: a * ops.power(2.0, ops.cast(b, "float32")),
    "BitwiseLeftShift": lambda a, b: a * ops.power(2, b),
    "LeftShift": lambda a, b: a * ops.power(2, b),
    "BitwiseRightShift": lambda a, b: ops.floor_divide(a, ops.power(2, b)),
    "RightShift": lambda a, b: ops.floor_divide(a, ops.power(2, b)),
    "Outer": lambda a, b: ops.reshape(a, (-1, 1)) * ops.reshape(b, (1, -1)),
    "Vdot": lambda a, b: ops.sum(ops.reshape(a, (-1,)) * ops.reshape(b, (-1,))),
    "Inner": lambda a, b: ops.tensordot(a, b, axes=[[-1], [-1]]),
    "CDist": lambda a, b: ops.sqrt(ops.sum(ops.square(ops.expand_dims(a, -2) - ops.expand_dims(b, -3)), axis=-1)),
}


@composed(*_BINARY)
def _binary(step: Step, a: Any, b: Any) -> Any:
    return _BINARY[step.kind](a, b)


@composed("NanToNum")
def _nan_to_num(step: Step, x: Any) -> Any:
    limits = np.finfo(np.float32)
    most = limits.max if step.posinf is None else step.posinf
    least = limits.min if step.neginf is None else step.neginf
    x = ops.where(ops.isnan(x), step.nan, x)
    return ops.where(ops.equal(x, math.inf), most, ops.where(ops.equal(x, -math.inf), least, x))


@composed("Isclose", "AllClose")
def _isclose(step: Step, a: Any, b: Any, rtol: float = 1e-5, atol: float = 1e-8) -> Any:
    if step.kind == "AllClose":
        rtol, atol = step.rtol, step.atol
    finite = ops.logical_and(ops.isfinite(a), ops.isfinite(b))
    near = ops.logical_and(finite, ops.less_equal(ops.absolute(a - b), atol + rtol * ops.absolute(b)))
    near = ops.logical_or(near, ops.equal(a, b))
    if step.equal_nan:
        near = ops.logical_or(near, ops.logical_and(ops.isnan(a), ops.isnan(b)))
    return ops.all(near) if step.kind == "AllClose" else near


@composed("Select")
def _select(step: Step, conditions: Any, choices: Any, default: Any = 0) -> Any:
    for condition, choice in zip(reversed(conditions), reversed(choices), strict=True):
        default = ops.where(condition, choice, default)
    return default


@composed("BinaryCrossentropy")
def _binary_crossentropy(step: Step, target: Any, output: Any) -> Any:
    if step.from_logits:
        return ops.maximum(output, 0.0) - output * target + ops.log1p(ops.exp(-ops.absolute(output)))
    epsilon = keras.config.epsilon()
    output = ops.clip(output, epsilon, 1 - epsilon)
    return -(target * ops.log(output) + (1 - target) * ops.log(1 - output))


@composed("CategoricalCrossentropy", "SparseCategoricalCrossentropy")
def _categorical_crossentropy(step: Step, target: Any, output: Any) -> Any:
    axis, epsilon = step.axis, keras.config.epsilon()
    if step.kind.startswith("Sparse"):
        target = ops.one_hot(target, _size(output, axis), axis=axis)
    if step.from_logits:
        return -ops.sum(target * ops.log_softmax(output, axis=axis), axis=axis)
    if step.kind.startswith("Categorical"):
        output = output / ops.sum(output, axis=axis, keepdims=True)
    output = ops.clip(output, epsilon, 1 - epsilon)
    if step.kind.startswith("Sparse"):
        output = output / ops.sum(output, axis=axis, keepdims=True)
    return -ops.sum(target * ops.log(output), axis=axis)


# --- along an axis ---


@composed("Sparsemax")
def _sparsemax(step: Step, x: Any) -> Any:
    """As Keras computes it, whose threshold is that of the paper for a support of one value only."""
    axis = step.axis % len(x.shape)
    falling = ops.flip(ops.sort(x, axis=axis), axis=axis)
    total = ops.cumsum(falling, axis=axis)
    counts = np.arange(1, _size(x, axis) + 1, dtype=np.float32).reshape([-1 if a == axis else 1 for a in range(len(x.shape))])
    support = ops.greater(falling - (total - 1) / counts, 0)
    number = ops.sum(ops.cast(support, "float32"), axis=axis, keepdims=True)
    threshold = (ops.sum(ops.where(support, total, 0.0), axis=axis, keepdims=True) - 1) / number
    return ops.maximum(x - threshold, 0.0)


@composed("Cumprod", "Nancumprod")
def _cumprod(step: Step, x: Any) -> Any:
    x, axis = _flat(x, step.axis)
    if step.kind == "Nancumprod":
        x = ops.where(ops.isnan(x), 1.0, x)
    parts = [_take(x, 0, 1, axis)]
    for i in range(1, _size(x, axis)):
        parts.append(parts[-1] * _take(x, i, i + 1, axis))
    return ops.concatenate(parts, axis=axis)


@composed("Nancumsum")
def _nancumsum(step: Step, x: Any) -> Any:
    x, axis = _flat(x, step.axis)
    return ops.cumsum(ops.where(ops.isnan(x), 0.0, x), axis=axis)


@composed("Nanmax", "Nanmin", "Nansum", "Nanprod", "Nanmean", "Nanvar", "Nanstd")
def _nan_reduction(step: Step, x: Any) -> Any:
    axis, keepdims, kind = step.axis, step.keepdims, step.kind.removeprefix("Nan")
    missing = ops.isnan(x)
    if kind in ("max", "min"):
        reduction = ops.max if kind == "max" else ops.min
        result = reduction(ops.where(missing, -math.inf if kind == "max" else math.inf, x), axis=axis, keepdims=keepdims)
        return ops.where(ops.all(missing, axis=axis, keepdims=keepdims), math.nan, result)
    if kind == "prod":
        return ops.prod(ops.where(missing, 1.0, x), axis=axis, keepdims=keepdims)
    total = ops.sum(ops.where(missing, 0.0, x), axis=axis, keepdims=True)
    if kind == "sum":
        return ops.sum(ops.where(missing, 0.0, x), axis=axis, keepdims=keepdims)
    present = ops.cast(ops.logical_not(missing), "float32")
    if kind == "mean":
        return ops.sum(ops.where(missing, 0.0, x), axis=axis, keepdims=keepdims) / ops.sum(
            present, axis=axis, keepdims=keepdims
        )
    deviation = ops.where(missing, 0.0, x - total / ops.sum(present, axis=axis, keepdims=True))
    variance = ops.sum(ops.square(deviation), axis=axis, keepdims=keepdims) / ops.sum(present, axis=axis, keepdims=keepdims)
    return ops.sqrt(variance) if kind == "std" else variance


@composed("Median", "Quantile", "Percentile")
def _quantile(step: Step, x: Any, q: Any = 0.5) -> Any:
    q = np.asarray(ops.convert_to_numpy(q.array if isinstance(q, GraphConstant) else q), np.float64)
    q = q / 100 if step.kind == "Percentile" else q
    method = "linear" if step.kind == "Median" else step.method
    axis = step.axis[0] if isinstance(step.axis, (list, tuple)) and len(step.axis) == 1 else step.axis
    if q.ndim or np.ndim(axis) or method not in _BETWEEN:
        raise NotConvertible(f"{step.kind} of several quantiles or axes, or with method={method!r}")
    rank = len(x.shape)
    x, place_axis = _flat(x, axis)
    place = float(q) * (_size(x, place_axis) - 1)
    share = _BETWEEN[method](place)
    ordered = ops.sort(x, axis=place_axis)
    low, high = (ops.take(ordered, int(f(place)), axis=place_axis) for f in (math.floor, math.ceil))
    result = low if share == 0 else high if share == 1 else low * (1 - share) + high * share
    if not step.keepdims:
        return result
    return ops.reshape(result, (1,) * rank) if axis is None else ops.expand_dims(result, axis)


#: How much of the higher neighbor counts, by the place between the two.
_BETWEEN: dict[str, Callable[[float], float]] = {
    "linear": lambda place: place - math.floor(place),
    "lower": lambda place: 0.0,
    "higher": lambda place: 1.0,
    "nearest": lambda place: float(round(place) > math.floor(place)),
    "midpoint": lambda place: 0.5 if place != math.floor(place) else 0.0,
}


@composed("Diff")
def _diff(step: Step, x: Any) -> Any:
    for _ in range(step.n):
        x = _take(x, 1, None, step.axis) - _take(x, None, -1, step.axis)
    return x


@composed("Trapezoid")
def _trapezoid(step: Step, y: Any) -> Any:
    if step.x is not None:
        raise NotConvertible("the trapezoidal rule at stated places")
    return ops.sum(_take(y, 1, None, step.axis) + _take(y, None, -1, step.axis), axis=step.axis) * (step.dx / 2)


@composed("Diagonal", "Trace")
def _diagonal(step: Step, x: Any) -> Any:
    rank = len(x.shape)
    x = ops.moveaxis(x, [step.axis1 % rank, step.axis2 % rank], [rank - 2, rank - 1])
    rows, columns = _size(x, -2), _size(x, -1)
    places = [i * columns + i + step.offset for i in range(rows) if 0 <= i + step.offset < columns]
    found = ops.take(ops.reshape(x, (*x.shape[:-2], rows * columns)), np.asarray(places, np.int64), axis=-1)
    return ops.sum(found, axis=-1) if step.kind == "Trace" else found


@composed("Cross")
def _cross(step: Step, a: Any, b: Any) -> Any:
    if {step.axisa, step.axisb, step.axisc} != {-1} or _size(a, -1) != 3 or _size(b, -1) != 3:
        raise NotConvertible("a cross product of other than three numbers in the last axis")
    (a1, a2, a3), (b1, b2, b3) = ([x[..., i] for i in range(3)] for x in (a, b))
    return ops.stack([a2 * b3 - a3 * b2, a3 * b1 - a1 * b3, a1 * b2 - a2 * b1], axis=-1)


@composed("IsIn")
def _isin(step: Step, x: Any, values: Any) -> Any:
    found = ops.any(ops.equal(ops.expand_dims(x, -1), ops.reshape(values, (-1,))), axis=-1)
    return ops.logical_not(found) if step.invert else found


@composed("SearchSorted")
def _searchsorted(step: Step, sequence: Any, values: Any) -> Any:
    if len(sequence.shape) != 1:
        raise NotConvertible("searching more than one sorted sequence")
    compare = ops.less if step.side == "left" else ops.less_equal
    return ops.sum(ops.cast(compare(sequence, ops.expand_dims(values, -1)), "int32"), axis=-1)


@composed("Digitize")
def _digitize(step: Step, x: Any, bins: Any) -> Any:
    return ops.sum(ops.cast(ops.greater_equal(ops.expand_dims(x, -1), bins), "int32"), axis=-1)


@composed("InTopK")
def _in_top_k(step: Step, targets: Any, predictions: Any) -> Any:
    value = ops.take_along_axis(predictions, ops.expand_dims(targets, -1), axis=-1)
    return ops.less(ops.sum(ops.cast(ops.greater(predictions, value), "int32"), axis=-1), step.k)


@operation("MultiHot")
def _multi_hot(c: Converter, step: Step, x: Any) -> Any:
    if step.axis not in (-1, x.rank):
        raise NotConvertible("multi_hot along another axis than the last")
    return c.call(lambda x: ops.max(ops.one_hot(x, step.num_classes, dtype=step.dtype), axis=-2), x)


@composed("PSNR")
def _psnr(step: Step, a: Any, b: Any) -> Any:
    return 20 * math.log10(step.max_val) - 10 * ops.log10(ops.mean(ops.square(a - b)))


@composed("Linspace")
def _linspace(step: Step, start: Any, stop: Any) -> Any:
    if step.retstep:
        raise NotConvertible("linspace with retstep=True")
    parts = max(step.num - int(step.endpoint), 1)
    return ops.stack([start + (stop - start) * (i / parts) for i in range(step.num)], axis=step.axis)


@composed("Vander")
def _vander(step: Step, x: Any) -> Any:
    number = step.outputs[0].shape[-1]
    if isinstance(number, Size):
        raise NotConvertible("a Vandermonde matrix of an open number of columns")
    powers = np.arange(number, dtype=np.float32)
    return ops.power(ops.expand_dims(x, -1), powers if step.increasing else powers[::-1].copy())


@composed("Kron")
def _kron(step: Step, a: Any, b: Any) -> Any:
    rank = len(a.shape)
    if len(b.shape) != rank:
        raise NotConvertible("a Kronecker product of tensors of different ranks")
    for axis in range(rank):
        a, b = ops.expand_dims(a, 2 * axis + 1), ops.expand_dims(b, 2 * axis)
    return ops.reshape(a * b, [a.shape[2 * i] * b.shape[2 * i + 1] for i in range(rank)])


@composed("Meshgrid")
def _meshgrid(step: Step, *items: Any) -> Any:
    count = len(items)
    places = list(range(count))
    if step.indexing == "xy" and count > 1:
        places[:2] = [1, 0]
    sizes = [0] * count
    for place, x in zip(places, items, strict=True):
        sizes[place] = x.shape[0]
    wide = [ops.reshape(x, [-1 if i == place else 1 for i in range(count)]) for place, x in zip(places, items, strict=True)]
    return [ops.broadcast_to(x, sizes) for x in wide]


@composed("ForiLoop")
def _fori_loop(step: Step, value: Any) -> Any:
    if isinstance(step.lower, Size) or isinstance(step.upper, Size):
        raise NotConvertible("a loop of an open number of turns")
    for i in range(int(step.lower), int(step.upper)):
        value = step.body_fun(i, value)
    return value


@composed("Unfold")
def _unfold(step: Step, x: Any) -> Any:
    def pair(value: Any) -> tuple[int, int]:
        return (value, value) if isinstance(value, int) else tuple(value)

    (rows, columns), (above, aside), channels = pair(step.kernel_size), pair(step.padding), _size(x, 1)
    kernel = np.eye(channels * rows * columns, dtype=np.float32).reshape(channels, rows, columns, -1).transpose(1, 2, 0, 3)
    x = ops.pad(x, [(0, 0), (0, 0), (above, above), (aside, aside)])
    options = {"strides": pair(step.stride), "dilation_rate": pair(step.dilation), "data_format": "channels_first"}
    found = ops.conv(x, kernel, padding="valid", **options)
    return ops.reshape(found, (found.shape[0], found.shape[1], -1))
