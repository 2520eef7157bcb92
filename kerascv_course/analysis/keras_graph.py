"""Keras models read into a `Graph`: Functional and Sequential ones, nested ones flattened.

Layers are recognised by the class they are, or inherit ``call`` from, in Keras itself: a subclass that computes something else
is reported as unknown rather than counted wrongly. Nothing is run: shapes come from the symbolic tensors. Keras itself is not
imported here; whoever has a model has it already.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from kerascv_course.analysis.graph import Graph, Kind, Node, Tensor, Window, ordered
from kerascv_course.analysis.keras_model import Shapes, calls, functional_of, nested
from kerascv_course.core.errors import InputError

__all__ = ["read_keras"]

_CONV = {"Conv1D", "Conv2D", "Conv3D", "DepthwiseConv1D", "DepthwiseConv2D"}
_SEPARABLE = {"SeparableConv1D", "SeparableConv2D"}
_TRANSPOSE = {"Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"}
_POOL = {f"{kind}Pooling{n}D": kind.lower() for kind in ("Max", "Average") for n in (1, 2, 3)}
_GLOBAL = {f"Global{kind}Pooling{n}D": kind.lower() for kind in ("Max", "Average") for n in (1, 2, 3)}
_RESIZE = {"UpSampling1D", "UpSampling2D", "UpSampling3D", "Resizing"}
_IDENTITY = {
    "Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D", "GaussianDropout", "GaussianNoise",
    "AlphaDropout",
    "ActivityRegularization", "Identity", "Cast", "StopGradient", "RandomFlip", "RandomBrightness", "RandomContrast", "StochasticDepth",
}  # fmt: skip
_ACTIVATION = {
    "Activation", "ReLU", "LeakyReLU", "PReLU", "ELU", "Softmax", "Relu", "Relu6", "Sigmoid", "HardSigmoid", "Silu", "HardSilu",
    "HardSwish", "Swish", "Tanh", "Elu", "Selu", "Gelu", "LeakyRelu", "Softplus", "Softsign", "LogSoftmax", "Exp", "Log",
    "Sqrt",
    "Rsqrt", "Square", "Absolute", "Abs", "Negative", "Reciprocal", "Clip", "Erf", "Sin", "Cos", "Round", "Floor", "HardTanh",
}  # fmt: skip
_MERGE = {"CustomScaleLayer", "Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Divide", "TrueDivide", "Power"}
_NORM = {"BatchNormalization", "LayerNormalization", "GroupNormalization", "UnitNormalization", "RMSNormalization", "Normalize"}


def read_keras(model: Any, input_shape: Sequence[int] | None = None) -> Graph:
    """The graph of a Functional or Sequential Keras model.

    Args:
        model: a built model, or one that `input_shape` lets us build.
        input_shape: (height, width, channels) or whatever the input has after the batch axis; needed where the model leaves an
            axis open, allowed elsewhere (all shapes are then worked out anew, weights are left alone).

    Raises:
        InputError: a subclassed model (it has no graph), open axes without `input_shape`, a shape that the model refuses.
    """
    functional = functional_of(model, input_shape)
    shapes = Shapes(functional, input_shape)
    reader = _Reader(shapes)
    inputs = [reader.key(t) for t in functional.inputs]
    outputs = reader.run(functional, inputs, prefix="")
    return Graph(
        name=model.name,
        source="keras",
        channels_last=reader.channels_last,
        nodes=ordered(reader.nodes, outputs),
        tensors=reader.tensors,
        outputs=tuple(outputs),
    )


class _Reader:
    def __init__(self, shapes: Shapes) -> None:
        self.shapes = shapes
        self.nodes: list[Node] = []
        self.tensors: dict[str, Tensor] = {}
        self.seen: set[int] = set()
        self.channels_last = True
        self._alias: dict[int, str] = {}
        self._count = 0

    # --- walking ------------------------------------------------------------------------------------------------------------

    def key(self, tensor: Any) -> str:
        """The key of a model input, entered as an input node."""
        out = self._new(self.shapes(tensor), tensor.dtype)
        history = tensor._keras_history.operation
        self.nodes.append(Node("input", type(history).__name__, history.name, (), (out,)))
        return out

    def run(self, functional: Any, inputs: list[str], prefix: str) -> list[str]:
        """Read one functional graph, whose inputs are tensors already known; returns the keys of its outputs."""
        table = {id(t): key for t, key in zip(functional.inputs, inputs, strict=True)}
        for node in calls(functional):
            keys = [table[id(t)] for t in node.arguments.keras_tensors]
            inner = nested(node.operation)
            if inner is not None and len(inner.inputs) == len(keys):
                name = f"{prefix}{node.operation.name}/"
                if any(self.shapes(t) != self.tensors[k].shape for t, k in zip(inner.inputs, keys, strict=True)):
                    self.shapes.propagate(inner, [self.tensors[k].shape[1:] for k in keys])
                outs = self.run(inner, keys, name)
            else:
                outs = [self._new(self.shapes(t), t.dtype) for t in node.output_tensors]
                self._layer(node, keys, outs, f"{prefix}{node.operation.name}")
            table.update({id(t): key for t, key in zip(node.output_tensors, outs, strict=True)})
        return [table[id(t)] for t in functional.outputs]

    def _new(self, shape: tuple[int, ...], dtype: Any) -> str:
        self._count += 1
        key = f"t{self._count}"
        digits = "".join(c for c in str(dtype) if c.isdigit())
        self.tensors[key] = Tensor(shape, max(1, int(digits) // 8) if digits else 4)
        return key

    # --- one layer ----------------------------------------------------------------------------------------------------------

    def _layer(self, call: Any, keys: list[str], outs: list[str], name: str) -> None:
        layer = call.operation
        base = _base(layer)
        node = Node("unknown", type(layer).__name__, name, tuple(keys), tuple(outs), **self._parameters(layer))
        kind, fields = self._describe(base, layer, call, node)
        node = node.replace(kind=kind, **fields)
        if base in _SEPARABLE:
            self._separable(layer, node)
        else:
            self._with_activation(layer, node)

    def _parameters(self, layer: Any) -> dict[str, Any]:
        first = id(layer) not in self.seen
        self.seen.add(id(layer))
        if not first:
            return {}
        trainable = sum(math.prod(w.shape) for w in getattr(layer, "trainable_weights", ()))
        frozen = sum(math.prod(w.shape) for w in getattr(layer, "non_trainable_weights", ()))
        bias: Any = getattr(layer, "bias", None)
        return {"trainable": trainable, "frozen": frozen, "bias": math.prod(bias.shape) if hasattr(bias, "shape") else 0}

    def _with_activation(self, layer: Any, node: Node) -> None:
        """Enter a node; an activation written inside a convolution or dense layer becomes a node of its own."""
        function = getattr(layer, "activation", None)
        named = getattr(function, "__name__", None) or type(function).__name__
        if node.kind not in ("conv", "conv_transpose", "dense") or function is None or named == "linear":
            self.nodes.append(node)
            return
        before = self._new(self.tensors[node.outputs[0]].shape, "float32")
        self.tensors[before] = self.tensors[node.outputs[0]]
        self.nodes.append(node.replace(outputs=(before,)))
        self.nodes.append(Node("activation", named, f"{node.name}/{named}", (before,), node.outputs, mode=named))

    def _separable(self, layer: Any, node: Node) -> None:
        """A depthwise and a pointwise convolution, as the layer computes them."""
        assert node.window is not None and node.channels is not None
        depth, point = math.prod(layer.depthwise_kernel.shape), math.prod(layer.pointwise_kernel.shape)
        total, middle_channels = node.channels[1], node.channels[0] * layer.depth_multiplier
        shape = list(self.tensors[node.outputs[0]].shape)
        shape[-1 if layer.data_format == "channels_last" else 1] = middle_channels
        middle = self._new(tuple(shape), "float32")
        first = node.trainable + node.frozen > 0
        split = (depth, 0) if layer.trainable else (0, depth)
        self.nodes.append(
            node.replace(
                type="DepthwiseConv", name=f"{node.name}/depthwise", outputs=(middle,), weight=depth, groups=node.channels[0],
                channels=(node.channels[0], middle_channels), bias=0,
                trainable=split[0] if first else 0, frozen=split[1] if first else 0,
            )
        )  # fmt: skip
        rank = len(node.window.axes)
        ones = dataclasses.replace(
            node.window, kernel=(1,) * rank, stride=(1,) * rank, padding=((0, 0),) * rank, dilation=(1,) * rank
        )
        rest = point + node.bias
        pointwise = node.replace(
            type="PointwiseConv", name=f"{node.name}/pointwise", inputs=(middle,), window=ones, weight=point, groups=1,
            channels=(middle_channels, total),
            trainable=rest if first and layer.trainable else 0, frozen=rest if first and not layer.trainable else 0,
        )  # fmt: skip
        self._with_activation(layer, pointwise)

    def _describe(self, base: str, layer: Any, call: Any, node: Node) -> tuple[Kind, dict[str, Any]]:
        """Kind and further fields of a layer of this Keras class."""
        if not node.inputs:
            return "unknown", {}
        shape, out = self.tensors[node.inputs[0]].shape, self.tensors[node.outputs[0]].shape
        rank = len(shape)
        last = getattr(layer, "data_format", "channels_last") != "channels_first"
        axes = tuple(range(1, rank - 1)) if last else tuple(range(2, rank))
        channel = rank - 1 if last else 1

        if base in _CONV | _SEPARABLE:
            self.channels_last = last
            depthwise = base.startswith(("Depthwise", "Separable"))
            separable = base in _SEPARABLE
            kernel = layer.depthwise_kernel if separable else layer.kernel
            weight = math.prod(kernel.shape)
            return "conv", {
                "window": _window(axes, shape, layer.kernel_size, layer.strides, layer.dilation_rate, layer.padding),
                "groups": shape[channel] if depthwise else layer.groups,
                "channels": (shape[channel], out[channel]),
                "weight": weight,
            }
        if base in _TRANSPOSE:
            self.channels_last = last
            window = _transposed_window(axes, shape, out, layer)
            return "conv_transpose", {
                "window": window,
                "groups": getattr(layer, "groups", 1),
                "channels": (shape[channel], out[channel]),
                "weight": math.prod(layer.kernel.shape),
            }
        if base == "Dense":
            if layer.kernel.shape[0] != shape[-1]:
                raise InputError(
                    f"layer {node.name!r} takes {layer.kernel.shape[0]} features and this input_shape gives it {shape[-1]}: the "
                    "network is made for another size"
                )
            return "dense", {"channels": (shape[-1], out[-1]), "weight": math.prod(layer.kernel.shape)}
        if base in _POOL:
            window = _window(axes, shape, layer.pool_size, layer.strides, (1,) * len(axes), layer.padding)
            return "pool", {"window": window, "mode": _POOL[base]}
        if base in _GLOBAL:
            return "global_pool", {"axes": axes, "mode": _GLOBAL[base]}
        if base in _RESIZE:
            return self._resize(base, layer, axes)
        if base in _NORM:
            return self._norm(base, layer, shape, channel)
        if base in ("Rescaling", "Normalization", "LayerScale"):
            return "affine", {}
        if base in _IDENTITY:
            return "identity", {}
        if base in _ACTIVATION:
            function = getattr(layer, "activation", None)
            mode = getattr(function, "__name__", base.lower()) if base == "Activation" else base.lower()
            if mode == "linear":
                return "identity", {}
            return "activation", {"mode": mode}
        if base in _MERGE:
            return ("merge" if len(node.inputs) > 1 else "affine"), {}
        if base in ("Concatenate", "Concat"):
            return "concat", {"axes": (layer.axis % rank,)}
        if base.startswith("ZeroPadding"):
            return "pad", {"pads": _axis_pads(rank, axes, layer.padding), "mode": "constant"}
        if base.startswith("Cropping"):
            return "crop", {"pads": tuple((-a, -b) for a, b in _axis_pads(rank, axes, layer.cropping))}
        if base in ("Flatten", "Reshape", "ExpandDims", "Squeeze"):
            return "reshape", {}
        if base == "Permute":
            return "transpose", {"perm": (0, *layer.dims)}
        if base == "Transpose" and layer.axes is not None:
            return "transpose", {"perm": tuple(layer.axes)}
        if base in ("Mean", "Max", "Sum") and getattr(layer, "axis", None) is not None:
            over = layer.axis if isinstance(layer.axis, list | tuple) else (layer.axis,)
            return "global_pool", {"axes": tuple(a % rank for a in over), "mode": base.lower()}
        if base == "Matmul":
            return ("matmul" if len(node.inputs) == 2 else "unknown"), {}
        if base == "GetItem":
            return _get_item(call, shape)
        return "unknown", {}

    def _resize(self, base: str, layer: Any, axes: tuple[int, ...]) -> tuple[Kind, dict[str, Any]]:
        mode = {"bilinear": "linear", "nearest": "nearest"}.get(getattr(layer, "interpolation", "nearest"), "other")
        plain = not any(getattr(layer, f, False) for f in ("crop_to_aspect_ratio", "pad_to_aspect_ratio", "antialias"))
        return "resize", {"axes": axes, "mode": mode if plain else "other"}

    def _norm(self, base: str, layer: Any, shape: tuple[int, ...], channel: int) -> tuple[Kind, dict[str, Any]]:
        axis = getattr(layer, "axis", -1)
        over = tuple(a % len(shape) for a in (axis if isinstance(axis, list | tuple) else (axis,)))
        if base == "BatchNormalization":
            return "norm", {"mode": "batch", "channels": (shape[over[0]], shape[over[0]])}
        if base == "GroupNormalization":
            return "norm", {"mode": "group", "axes": tuple(range(1, len(shape)))}
        return "norm", {"mode": "layer", "axes": over}


def _base(layer: Any) -> str:
    """The Keras class whose computation this is: the class itself, or the ancestor that its ``call`` is inherited from."""
    for cls in type(layer).__mro__:
        if cls.__module__.startswith("keras."):
            if all(getattr(type(layer), method, None) is getattr(cls, method, None) for method in ("call", "__call__")):
                return cls.__name__
            break
    return "?"


def _axis_pads(rank: int, axes: tuple[int, ...], pads: Any) -> tuple[tuple[int, int], ...]:
    if pads and not isinstance(pads[0], list | tuple):
        pads = (pads,)
    table = dict(zip(axes, pads, strict=True))
    return tuple((int(table[i][0]), int(table[i][1])) if i in table else (0, 0) for i in range(rank))


def _window(axes: tuple[int, ...], shape: tuple[int, ...], kernel: Any, stride: Any, dilation: Any, padding: str) -> Window:
    """The window with Keras's padding word turned into zeros before and after (TensorFlow: the odd one goes after)."""
    pads = []
    for axis, k, s, d in zip(axes, kernel, stride, dilation, strict=True):
        reach = d * (k - 1) + 1
        if padding == "same":
            total = max((math.ceil(shape[axis] / s) - 1) * s + reach - shape[axis], 0)
            pads.append((total // 2, total - total // 2))
        else:
            pads.append((reach - 1, 0) if padding == "causal" else (0, 0))
    return Window(axes, tuple(kernel), tuple(stride), tuple(pads), tuple(dilation))


def _transposed_window(axes: tuple[int, ...], shape: tuple[int, ...], out: tuple[int, ...], layer: Any) -> Window:
    """What a transposed convolution cuts from its full output: as the gradient of a convolution with the same padding word."""
    pads = []
    for axis, k, s, d in zip(axes, layer.kernel_size, layer.strides, layer.dilation_rate, strict=True):
        reach = d * (k - 1) + 1
        full = (shape[axis] - 1) * s + reach
        before = max((shape[axis] - 1) * s + reach - out[axis], 0) // 2 if layer.padding == "same" else 0
        pads.append((before, full - out[axis] - before))
    return Window(axes, tuple(layer.kernel_size), tuple(layer.strides), tuple(pads), tuple(layer.dilation_rate))


def _get_item(call: Any, shape: tuple[int, ...]) -> tuple[Kind, dict[str, Any]]:
    """Slicing with steps of one is cropping; anything else is not claimed to be understood."""
    arguments = call.arguments
    index = arguments.args[1] if len(arguments.args) > 1 else arguments.kwargs.get("key")
    index = index if isinstance(index, tuple) else (index,)
    if Ellipsis in index:
        at = index.index(Ellipsis)
        index = (*index[:at], *(slice(None),) * (len(shape) - len(index) + 1), *index[at + 1 :])
    if not all(isinstance(i, slice) and i.step in (None, 1) for i in index):
        return "unknown", {}
    pads = [
        (-r.start, r.stop - n)
        for r, n in zip((range(*i.indices(n)) for i, n in zip(index, shape, strict=False)), shape, strict=False)
    ]
    return "crop", {"pads": tuple(pads + [(0, 0)] * (len(shape) - len(pads)))}
