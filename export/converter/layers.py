"""Layers that have a converter of their own: those that are one ONNX operator, and those that do not call `keras.ops`."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from export.converter.graph import GraphConstant, GraphTensor, Operand
from export.converter.native import Converter, layer
from export.converter.operations.elementwise import cast
from export.converter.operations.images import batch_normalization, convolution, convolution_transpose, depthwise
from export.converter.operations.linear import dense
from export.converter.operations.shapes import enlarge

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
