"""Layers that have a converter of their own: those that are one ONNX operator, and those that do not call `keras.ops`."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers

from export.converter.graph import GraphConstant, GraphTensor, Operand
from export.converter.native import Converter, layer
from export.converter.operations.elementwise import cast
from export.converter.operations.images import batch_normalization, convolution, convolution_transpose, depthwise
from export.converter.operations.linear import dense
from export.converter.operations.shapes import enlarge
from export.converter.trace import NotConvertible

__all__: list[str] = []


def _bias(c: Converter, what: Any) -> GraphConstant | None:
    return c.weight(what.bias) if getattr(what, "bias", None) is not None else None


def _options(what: Any, *more: str) -> dict[str, Any]:
    return {name: getattr(what, name) for name in ("strides", "padding", "data_format", "dilation_rate", *more)}


@layer(layers.Activation)
def _activation(c: Converter, what: Any, x: Operand) -> Any:
    return c.activate(what.activation, x)


@layer(layers.Dense)
def _dense(c: Converter, what: Any, x: Operand) -> Any:
    kernel = c.weight(what._kernel if not what.lora_enabled else what.kernel)
    return c.activate(what.activation, dense(c, x, kernel, _bias(c, what)))


@layer(layers.Conv1D, layers.Conv2D, layers.Conv3D)
def _conv(c: Converter, what: Any, x: Operand) -> Any:
    kernel = c.weight(what._kernel if not what.lora_enabled else what.kernel)
    options = _options(what)
    if what.padding == "causal":  # of one dimension
        before = (0, 0) if what.data_format == "channels_first" else ()
        pads = [(0, 0), *[before] * bool(before), (what.dilation_rate[0] * (what.kernel_size[0] - 1), 0), (0, 0)][: x.rank]
        x, options["padding"] = c.call(lambda x: keras.ops.pad(x, pads), x), "valid"
    return c.activate(what.activation, convolution(c, x, kernel, _bias(c, what), **options))


@layer(layers.DepthwiseConv1D, layers.DepthwiseConv2D)
def _depthwise(c: Converter, what: Any, x: Operand) -> Any:
    y = depthwise(c, x, c.weight(what.kernel), _bias(c, what), **_options(what))
    return c.activate(what.activation, y)


@layer(layers.SeparableConv1D, layers.SeparableConv2D)
def _separable(c: Converter, what: Any, x: Operand) -> Any:
    one = dict.fromkeys(("strides", "dilation_rate"), 1)
    result = c.graph.result
    kernels = [c.weight(kernel) for kernel in (what.depthwise_kernel, what.pointwise_kernel)]
    channels = kernels[1].shape[-2]
    last = what.data_format == "channels_last"
    middle_shape = (*result.shape[:-1], channels) if last else (result.shape[0], channels, *result.shape[2:])
    y = depthwise(c, x, kernels[0], **_options(what))
    y = GraphTensor(middle_shape, result.dtype, y.value, y.axes)
    options = {**_options(what), **one, "padding": "valid"}
    return c.activate(what.activation, convolution(c, y, kernels[1], _bias(c, what), **options))


@layer(layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
def _conv_transpose(c: Converter, what: Any, x: Operand) -> Any:
    options = _options(what, "output_padding")
    return c.activate(what.activation, convolution_transpose(c, x, c.weight(what.kernel), _bias(c, what), **options))


@layer(layers.BatchNormalization)
def _batch_normalization(c: Converter, what: Any, x: Operand, training: bool = False, mask: Any = None) -> Any:
    if mask is not None or (training and what.trainable):
        return NotImplemented
    parts = [what.moving_mean, what.moving_variance, what.beta if what.center else None, what.gamma if what.scale else None]
    weights = [None if part is None else c.weight(part) for part in parts]
    return batch_normalization(c, x, weights, what.axis, what.epsilon)


@layer(layers.Rescaling)
def _rescaling(c: Converter, what: Any, x: Operand) -> Any:
    scale, offset = (np.asarray(value, np.float32) for value in (what.scale, what.offset))
    dtype = c.graph.result.dtype

    def compute(x: Any) -> Any:
        x = keras.ops.cast(x, dtype)
        x = x if (scale == 1).all() else x * scale
        return x if (offset == 0).all() else x + offset

    return c.call(compute, x)


@layer(layers.Normalization)
def _normalization(c: Converter, what: Any, x: Operand) -> Any:
    mean, variance = (np.asarray(keras.ops.convert_to_numpy(value)) for value in (what.mean, what.variance))
    deviation = np.maximum(np.sqrt(variance), keras.config.epsilon())

    def compute(x: Any) -> Any:
        x = keras.ops.cast(x, what.compute_dtype)
        return mean + x * deviation if what.invert else (x - mean) / deviation

    return c.call(compute, x)


@layer(layers.Resizing)
def _resizing(c: Converter, what: Any, x: Operand) -> Any:
    options = {
        "interpolation": what.interpolation,
        "antialias": what.antialias,
        "crop_to_aspect_ratio": what.crop_to_aspect_ratio,
        "pad_to_aspect_ratio": what.pad_to_aspect_ratio,
        "fill_mode": what.fill_mode,
        "fill_value": what.fill_value,
        "data_format": what.data_format,
    }
    dtype = c.graph.result.dtype
    size = (what.height, what.width)
    return c.call(lambda x: keras.ops.cast(keras.ops.image.resize(keras.ops.cast(x, dtype), size, **options), dtype), x)


@layer(layers.CenterCrop)
def _center_crop(c: Converter, what: Any, x: Operand) -> Any:
    last = what.data_format == "channels_last"
    height, width = (x.shape[-3], x.shape[-2]) if last else (x.shape[-2], x.shape[-1])
    if not isinstance(height, int) or not isinstance(width, int):
        raise NotConvertible("CenterCrop of images of any size")
    x = cast(c, x, c.graph.result.dtype)
    if height < what.height or width < what.width:
        options = {"crop_to_aspect_ratio": True, "data_format": what.data_format}
        return c.call(lambda x: keras.ops.image.resize(x, (what.height, what.width), **options), x)
    top, left = (height - what.height) // 2, (width - what.width) // 2
    rows, columns = slice(top, top + what.height), slice(left, left + what.width)
    key = (..., rows, columns, slice(None)) if last else (..., rows, columns)
    return c.call(lambda x: x[key], x)


#: Layers that do nothing but to images of a training.
_ONLY_IN_TRAINING = [
    name
    for name in dir(layers)
    if name.startswith(("Random", "Rand", "AugMix", "CutMix", "MixUp")) and isinstance(getattr(layers, name), type)
]


@layer(*(getattr(layers, name) for name in _ONLY_IN_TRAINING))
def _augmentation(c: Converter, what: Any, x: Any, training: bool = False, **kwargs: Any) -> Any:
    if training:
        raise NotConvertible("augmentation that is switched on: call the layer without training=True")
    return cast(c, x, c.graph.result.dtype)


@layer(layers.Softmax)
def _softmax(c: Converter, what: Any, x: Operand, mask: Any = None) -> Any:
    ops, axis = keras.ops, what.axis
    axes = (axis,) if isinstance(axis, int) else tuple(axis)

    def soft(x: Any) -> Any:
        if len(axes) == 1:
            return ops.softmax(x, axis=axes[0])
        powers = ops.exp(x - ops.max(x, axis=axes, keepdims=True))
        return powers / ops.sum(powers, axis=axes, keepdims=True)

    if mask is None:
        return c.call(soft, x)
    mask = cast(c, mask, "bool")
    return c.call(lambda x, mask: ops.where(mask, soft(ops.where(mask, x, -1e9)), 0.0), x, mask)


@layer(layers.UpSampling1D, layers.UpSampling2D, layers.UpSampling3D)
def _upsampling(c: Converter, what: Any, x: Operand) -> Any:
    size = what.size if isinstance(what.size, (list, tuple)) else (what.size,)
    if getattr(what, "interpolation", "nearest") != "nearest" or "float" not in x.dtype:
        return NotImplemented
    last = getattr(what, "data_format", "channels_last") == "channels_last"
    return enlarge(c, x, [1, *size, 1] if last else [1, 1, *size])


@layer(*(getattr(layers, name) for name in ["Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum"]))
def _merge(c: Converter, what: Any, inputs: Any) -> Any:
    """Inputs of fewer axes get axes of size 1 after the batch; the layer's call asks for the number of axes as a tensor."""
    rank = max(x.rank for x in inputs)

    def compute(*inputs: Any) -> Any:
        shapes = [(*x.shape[:1], *(1,) * (rank - len(x.shape)), *x.shape[1:]) for x in inputs]
        return what._merge_function([keras.ops.reshape(x, shape) for x, shape in zip(inputs, shapes, strict=True)])

    return NotImplemented if all(x.rank == rank for x in inputs) else c.call(compute, *inputs)
