"""Convolutions, pooling, batch normalization, patches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from export.converter.graph import GraphConstant, GraphTensor, Operand, channels_first, natural
from export.converter.native import Converter, operation
from export.converter.operations.elementwise import cast
from export.converter.trace import NotConvertible, Size, Step

__all__ = [
    "batch_normalization",
    "channels_to_front",
    "convolution",
    "convolution_transpose",
    "depthwise",
    "is_last",
    "space_of",
]


def _numbers(value: Any, rank: int) -> list[int]:
    return [int(value)] * rank if isinstance(value, (int, np.integer)) else [int(item) for item in value]


def is_last(data_format: str | None) -> bool:
    """Whether the channels come last."""
    return (data_format or keras.config.image_data_format()) == "channels_last"


def space_of(x: GraphTensor, *, last: bool) -> tuple[int | Size, ...]:
    """Height and width, or as many axes as there are."""
    return x.shape[1:-1] if last else x.shape[2:]


def channels_to_front(c: Converter, x: Operand, *, last: bool) -> GraphTensor:
    """The tensor with channels first in the file."""
    return c.graph.first(x) if last else c.graph.as_tensor(c.graph.plain(x))


def _axes(rank: int, *, last: bool) -> tuple[int, ...]:
    return channels_first(rank) if last else natural(rank)


def _window(
    x: GraphTensor, kernel: Sequence[int], strides: Sequence[int], dilation: Sequence[int], step: Any
) -> dict[str, Any]:
    """Attributes of a window that slides over an image: strides, dilations and padding, as TensorFlow pads."""
    padding, last = step
    attributes: dict[str, Any] = {"strides": list(strides)} if set(strides) != {1} else {}
    if set(dilation) != {1}:
        attributes["dilations"] = list(dilation)
    if padding == "valid":
        return attributes
    before, after = [], []
    for size, width, stride, rate in zip(space_of(x, last=last), kernel, strides, dilation, strict=True):
        reach = (width - 1) * rate + 1
        if isinstance(size, Size):
            if stride == 1:
                total = reach - 1
            else:
                return {**attributes, "auto_pad": "SAME_UPPER"}
        else:
            total = max((-(-size // stride) - 1) * stride + reach - size, 0)
        before.append(total // 2)
        after.append(total - total // 2)
    return {**attributes, "pads": before + after} if any(after) else attributes


def _float(c: Converter, x: Operand) -> Operand:
    return cast(c, x, c.graph.result.dtype)


def _kernel(kernel: Any, order: Sequence[int], shape: Sequence[int] | None = None) -> GraphConstant:
    if not isinstance(kernel, GraphConstant):
        raise NotConvertible("a convolution whose kernel is computed")
    array = kernel.array.astype(np.float32) if str(kernel.array.dtype) in ("float16", "bfloat16") else kernel.array
    array = array if shape is None else array.reshape(shape)
    return GraphConstant(np.ascontiguousarray(array.transpose(order)), kernel.name)


def convolution(c: Converter, x: Operand, kernel: Any, bias: GraphConstant | None = None, **options: Any) -> GraphTensor:
    """`keras.ops.conv`: kernel (space…, input channels / groups, output channels)."""
    last, rank = is_last(options.get("data_format")), kernel.rank
    x = channels_to_front(c, _float(c, x), last=last)
    space, strides, dilation = rank - 2, options["strides"], options["dilation_rate"]
    weights = _kernel(kernel, (rank - 1, rank - 2, *range(rank - 2)))
    channels = x.shape[-1] if last else x.shape[1]
    groups = int(channels) // kernel.shape[-2]  # type: ignore[arg-type]
    window = _window(x, kernel.shape[:space], _numbers(strides, space), _numbers(dilation, space), (options["padding"], last))
    inputs: list[Any] = [x, weights, *([bias] if bias is not None else [])]
    group = groups if groups > 1 else None
    return c.graph.node(
        "Conv", inputs, axes=_axes(rank, last=last), kernel_shape=list(kernel.shape[:space]), group=group, **window
    )


def depthwise(c: Converter, x: Operand, kernel: Any, bias: GraphConstant | None = None, **options: Any) -> GraphTensor:
    """`keras.ops.depthwise_conv`: kernel (space…, channels, multiplier)."""
    *space, channels, multiplier = kernel.shape
    last, rank = is_last(options.get("data_format")), kernel.rank
    x = channels_to_front(c, _float(c, x), last=last)
    weights = _kernel(kernel, (rank - 1, rank - 2, *range(rank - 2)), (*space, 1, channels * multiplier))
    strides, dilation = (_numbers(options[name], len(space)) for name in ("strides", "dilation_rate"))
    window = _window(x, space, strides, dilation, (options["padding"], last))
    inputs: list[Any] = [x, weights, *([bias] if bias is not None else [])]
    return c.graph.node("Conv", inputs, axes=_axes(rank, last=last), kernel_shape=space, group=channels, **window)


def convolution_transpose(
    c: Converter, x: Operand, kernel: Any, bias: GraphConstant | None = None, **options: Any
) -> GraphTensor:
    """`keras.ops.conv_transpose`: kernel (space…, output channels, input channels).

    What Keras cuts off a transposed convolution follows from its output's size; the larger half is cut at the end.
    """
    last, rank = is_last(options.get("data_format")), kernel.rank
    x = channels_to_front(c, _float(c, x), last=last)
    space = rank - 2
    strides, dilation = (_numbers(options[name], space) for name in ("strides", "dilation_rate"))
    weights = _kernel(kernel, (rank - 1, rank - 2, *range(rank - 2)))
    begin, end, more, behind = [], [], [], []
    outputs = c.graph.result.shape[1:-1] if last else c.graph.result.shape[2:]
    for i in range(space):
        width, stride, rate = kernel.shape[i], strides[i], dilation[i]
        reach = (width - 1) * rate + 1
        size, result = space_of(x, last=last)[i], outputs[i]
        pairs = zip(size.trials, result.trials, strict=True) if isinstance(size, Size) else [(size, result)]  # type: ignore[union-attr]
        surplus = {(n - 1) * stride + reach - m for n, m in pairs}
        if len(surplus) != 1:
            raise NotConvertible("a transposed convolution whose padding depends on the size of the image")
        total = surplus.pop()
        first = _cut_before(options, total, reach)
        begin.append(max(first, 0))
        rest = total - first
        end.append(max(rest, 0))
        grow = max(-rest, 0)
        more.append(grow if grow < max(stride, rate) else 0)
        behind.append(grow if grow >= max(stride, rate) else 0)
    attributes: dict[str, Any] = {"strides": strides, "kernel_shape": list(kernel.shape[:space])}
    if set(dilation) != {1}:
        attributes["dilations"] = dilation
    if any(begin) or any(end):
        attributes["pads"] = begin + end
    if any(more):
        attributes["output_padding"] = more
    inputs: list[Any] = [x, weights, *([bias] if bias is not None and not any(behind) else [])]
    y = c.graph.node("ConvTranspose", inputs, axes=_axes(rank, last=last), **attributes)
    if any(behind):
        y = c.graph.node("Pad", [y, c.graph.ints([0] * (rank + 2) + behind)], axes=y.axes)
        if bias is not None:
            shape = (1, -1, *[1] * space)
            y = c.graph.node("Add", [y, GraphConstant(bias.array.reshape(shape), bias.name)], axes=y.axes)
    return y


def _cut_before(options: dict[str, Any], total: int, reach: int) -> int:
    """Rows that are cut off the beginning of the full transposed convolution, of `total` that are.

    With a stated output padding Keras's backends differ: TensorFlow cuts by the size of the output, the others by the kernel.
    """
    if options["padding"] == "valid":
        return 0
    if options.get("output_padding") is None or keras.backend.backend() == "tensorflow":
        return max(total, 0) // 2
    return reach // 2


@operation("Conv")
def _conv(c: Converter, step: Step, x: Operand, kernel: Any) -> Any:
    names = ("strides", "padding", "data_format", "dilation_rate")
    return convolution(c, x, kernel, **{name: getattr(step, name) for name in names})


@operation("DepthwiseConv")
def _depthwise(c: Converter, step: Step, x: Operand, kernel: Any) -> Any:
    names = ("strides", "padding", "data_format", "dilation_rate")
    return depthwise(c, x, kernel, **{name: getattr(step, name) for name in names})


@operation("SeparableConv")
def _separable(c: Converter, step: Step, x: Operand, first: Any, second: Any) -> Any:
    names = ("strides", "padding", "data_format", "dilation_rate")
    options = {name: getattr(step, name) for name in names}

    def compute(x: Any) -> Any:
        middle = keras.ops.depthwise_conv(x, first.array, **options)
        return keras.ops.conv(middle, second.array, data_format=step.data_format)

    return c.call(compute, x)


@operation("ConvTranspose")
def _conv_transpose(c: Converter, step: Step, x: Operand, kernel: Any, *rest: Any, **more: Any) -> Any:
    names = ("strides", "padding", "output_padding", "data_format", "dilation_rate")
    return convolution_transpose(c, x, kernel, **{name: getattr(step, name) for name in names})


@operation("MaxPool", "AveragePool")
def _pool(c: Converter, step: Step, x: Operand) -> Any:
    kind, last = step.kind, is_last(step.data_format)
    rank = len(c.graph.result.shape)
    x = channels_to_front(c, x if kind == "MaxPool" and x.dtype in ("uint8", "int8") else _float(c, x), last=last)
    size = _numbers(step.pool_size, rank - 2)
    strides = size if step.strides is None else _numbers(step.strides, rank - 2)
    window = _window(x, size, strides, [1] * (rank - 2), (step.padding, last))
    return c.graph.node(kind, [x], axes=_axes(rank, last=last), kernel_shape=size, **window)


@operation("AdaptiveMaxPool", "AdaptiveAveragePool")
def _adaptive_pool(c: Converter, step: Step, x: Operand) -> Any:
    kind = "MaxPool" if "Max" in step.kind else "AveragePool"
    last, rank = is_last(step.data_format), x.rank
    x = channels_to_front(c, _float(c, x), last=last)
    before, after = space_of(x, last=last), _numbers(step.output_size, rank - 2)
    axes = _axes(rank, last=last)
    channels = x.shape[-1] if last else x.shape[1]
    shape = (x.shape[0], *after, channels) if last else (x.shape[0], channels, *after)
    if any(isinstance(size, Size) for size in before):
        if set(after) != {1}:
            raise NotConvertible("adaptive pooling of images of any size")
        return c.graph.node(f"Global{kind}", [x], shape=shape, axes=axes)
    sizes = [int(size) for size in before]  # type: ignore[arg-type]
    if all(size % count == 0 for size, count in zip(sizes, after, strict=True)):
        window = [size // count for size, count in zip(sizes, after, strict=True)]
        return c.graph.node(kind, [x], shape=shape, axes=axes, kernel_shape=window, strides=window)
    for i, (size, count) in enumerate(zip(sizes, after, strict=True)):  # windows of unequal lengths, one axis after the other
        bounds = [(j * size // count, -(-(j + 1) * size // count)) for j in range(count)]
        parts = []
        for start, stop in bounds:
            ends = [c.graph.ints([value]) for value in (start, stop)]
            part = c.graph.emit("Slice", [x, *ends, c.graph.ints([i + 2])], 1, {})[0]
            reduction = "ReduceMax" if kind == "MaxPool" else "ReduceMean"
            inputs: list[Any] = [part, c.graph.ints([i + 2])] if c.graph.opset >= 18 else [part]
            attributes = {} if c.graph.opset >= 18 else {"axes": [i + 2]}
            parts.append(c.graph.emit(reduction, inputs, 1, attributes)[0])
        x = c.graph.node("Concat", parts, shape=shape, axes=axes, axis=i + 2)
    return x


def batch_normalization(
    c: Converter, x: Operand, parts: Sequence[GraphConstant | None], axis: int, epsilon: float
) -> GraphTensor:
    """``(x − mean) / sqrt(variance + ε) · scale + offset`` along an axis; `parts`: mean, variance, offset, scale."""
    mean, variance, offset, scale = parts
    if mean is None or variance is None or not all(isinstance(part, GraphConstant) for part in parts if part is not None):
        raise NotConvertible("batch normalization with computed statistics")
    x = c.graph.as_tensor(_float(c, x))
    axis %= x.rank
    if x.flattened is not None:
        x = c.graph.as_tensor(c.graph.plain(x))
    if x.place(axis) != 1:
        x = c.graph.as_tensor(c.graph.ordered(x, (0, axis, *(a for a in range(1, x.rank) if a != axis))))
    ones, zeros = np.ones(mean.shape, mean.array.dtype), np.zeros(mean.shape, mean.array.dtype)
    scope = "/".join(c.graph.scope)
    scale = GraphConstant(ones, f"{scope}/gamma") if scale is None else scale
    offset = GraphConstant(zeros, f"{scope}/beta") if offset is None else offset
    return c.graph.node("BatchNormalization", [x, scale, offset, mean, variance], axes=x.axes, epsilon=float(epsilon))


@operation("BatchNorm")
def _batch_norm(c: Converter, step: Step, x: Operand, *parts: Any, **named: Any) -> Any:
    names = ("mean", "variance", "offset", "scale")
    values = {**dict(zip(names, parts, strict=False)), **named}
    return batch_normalization(c, x, [values.get(name) for name in names], step.axis, step.epsilon)


@operation("RGBToGrayscale")
def _grayscale(c: Converter, step: Step, x: Operand) -> Any:
    last = is_last(step.data_format)
    weights = np.asarray([0.2989, 0.5870, 0.1140], np.float32)
    shape = (3,) if last else (3, 1, 1)
    dtype = c.graph.result.dtype

    def compute(x: Any) -> Any:
        gray = keras.ops.sum(keras.ops.cast(x, "float32") * weights.reshape(shape), axis=-1 if last else -3, keepdims=True)
        return keras.ops.cast(gray, dtype)

    return c.call(compute, x)


@operation("PadImages", "CropImages")
def _pad_images(c: Converter, step: Step, x: Operand) -> Any:
    last = is_last(step.data_format)
    rows, columns = (x.rank - 3, x.rank - 2) if last else (x.rank - 2, x.rank - 1)
    kind = "padding" if step.kind == "PadImages" else "cropping"
    after = c.graph.result.shape
    ends = {
        axis: (getattr(step, f"{a}_{kind}"), getattr(step, f"{b}_{kind}"))
        for axis, a, b in ((rows, "top", "bottom"), (columns, "left", "right"))
    }
    pairs = []
    for axis in range(x.rank):
        before, behind = ends.get(axis, (0, 0))
        size, result = x.shape[axis], after[axis]
        if isinstance(size, Size) and (before is None or behind is None):
            raise NotConvertible(f"{kind} images of any size to a stated size")
        change = abs(size - result) if isinstance(size, int) and isinstance(result, int) else 0
        before = change - behind if before is None else before
        behind = change - before if isinstance(size, int) else behind
        pairs.append((int(before), int(behind)))
    if kind == "padding":
        return c.call(lambda x: keras.ops.pad(x, pairs), x)
    key = tuple(slice(before, -behind if behind else None) for before, behind in pairs)
    return c.call(lambda x: x[key], x)


@operation("ExtractPatches", "ExtractPatches3D")
def _extract_patches(c: Converter, step: Step, x: Operand) -> Any:
    last = is_last(step.data_format)
    size = _numbers(step.size, 3 if step.kind.endswith("3D") else 2)
    channels = int(x.shape[-1] if last else x.shape[-1 - len(size)])  # type: ignore[arg-type]
    kernel = np.eye(math.prod(size) * channels, dtype=np.float32).reshape(*size, channels, -1)
    strides = tuple(size) if step.strides is None else step.strides

    def compute(x: Any) -> Any:
        return keras.ops.conv(x, kernel, strides, step.padding, step.data_format, step.dilation_rate)

    return c.call(compute, _float(c, x))
