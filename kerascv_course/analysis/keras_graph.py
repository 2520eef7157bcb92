"""Keras models read into a `Graph`: Functional and Sequential ones, nested models flattened.

A layer is recognized by its Keras class, or by the Keras class that it inherits ``call`` from: a subclass that computes
something else is reported as unknown instead of being counted wrongly. Nothing is executed; shapes come from the symbolic
tensors. Keras itself is not imported.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from kerascv_course.analysis.arithmetic import same_padding
from kerascv_course.analysis.graph import Graph, GraphNode, NodeKind, Tensor, Window, ordered
from kerascv_course.core.errors import InputError

__all__ = ["calls", "functional_of", "is_keras", "nested", "read_keras"]


def read_keras(model: Any, input_shape: Sequence[int] | None = None) -> Graph:
    """The graph of a Functional or Sequential Keras model.

    Args:
        model: a built model, or one that can be built with `input_shape`.
        input_shape: the input without its batch axis, usually (height, width, channels). Required if the model has open axes;
            otherwise optional: all shapes are then computed for it, the weights stay as they are.

    Raises:
        InputError: a subclassed model (it has no graph), open axes without `input_shape`, a shape the model does not accept.
    """
    functional = functional_of(model, input_shape)
    reader = _KerasReader(_Shapes(functional, input_shape))
    outputs = reader.run(functional, [reader.enter(tensor) for tensor in functional.inputs], prefix="")
    return Graph(
        name=model.name,
        source="keras",
        channels_last=reader.channels_last,
        nodes=ordered(reader.nodes, outputs),
        tensors=reader.tensors,
        outputs=tuple(outputs),
    )


# --- the symbolic graph inside a model --------------------------------------------------------------------------------


def functional_of(model: Any, input_shape: Sequence[int] | None = None) -> Any:
    """The functional graph of a model; builds a Sequential model that has no shapes yet.

    Raises:
        InputError: a model without a graph, or without shapes.
    """
    name = getattr(model, "name", type(model).__name__)
    if is_keras(model, "Sequential"):
        if not model.built and input_shape is not None:
            model.build((None, *input_shape))
        if not model.built:
            raise InputError(f"the Sequential model {name!r} has no shapes yet: give input_shape, or start it with keras.Input")
        functional = getattr(model, "_functional", None)
        if functional is not None:
            return functional
    if hasattr(model, "operations") and hasattr(model, "inputs"):
        return model
    raise InputError(
        f"only Functional and Sequential Keras models have a graph to analyze; {name!r} is a {type(model).__name__}: build it "
        "functionally, or export it and analyze the .onnx file"
    )


def is_keras(thing: Any, name: str) -> bool:
    """Whether an object is an instance of the Keras class of this name, or of a subclass."""
    return any(cls.__name__ == name and cls.__module__.startswith("keras.") for cls in type(thing).__mro__)


def nested(op: Any) -> Any | None:
    """The functional graph of a layer that is itself a model, else None."""
    if is_keras(op, "Sequential"):
        return getattr(op, "_functional", None)
    return op if is_keras(op, "Functional") else None


def calls(functional: Any) -> list[Any]:
    """Layer calls in computing order, from the history that Keras keeps on its symbolic tensors."""
    found: dict[int, Any] = {}
    known = {id(tensor) for tensor in functional.inputs}
    stack = [(tensor, False) for tensor in reversed(functional.outputs)]
    while stack:
        tensor, ready = stack.pop()
        if id(tensor) in known:
            continue
        history = tensor._keras_history
        node = history.operation._inbound_nodes[history.node_index]
        if ready:
            found[id(node)] = node
            known.update(id(output) for output in node.output_tensors)
        else:
            stack.append((tensor, True))
            stack.extend((parent, False) for parent in reversed(node.input_tensors))
    return list(found.values())


class _Shapes:
    """The shape of every symbolic tensor of a model, recomputed if an input shape is given."""

    def __init__(self, functional: Any, input_shape: Sequence[int] | None) -> None:
        self.known: dict[int, tuple[int, ...]] = {}
        inputs = functional.inputs
        declared = [tuple(tensor.shape[1:]) for tensor in inputs]
        if input_shape is None or declared == [tuple(input_shape)]:
            for shape in declared:
                if None in shape:
                    raise InputError(
                        f"the input of {functional.name!r} is {_show(shape)} with open axes: give input_shape "
                        f"(--input-shape), such as {_show(tuple(n or 224 for n in shape))}"
                    )
            if any(tensor.shape[0] is not None for tensor in inputs):  # counts are for one image, whatever the batch
                self.propagate(functional, declared)
            return
        if len(inputs) != 1:
            raise InputError(f"input_shape is for models with one input; {functional.name!r} has {len(inputs)}")
        # layers report a height and width that they cannot take; the channels are fixed
        whole = all(isinstance(n, int) and n > 0 for n in input_shape)
        if not whole or len(input_shape) != len(declared[0]) or declared[0][-1] not in (None, input_shape[-1]):
            raise InputError(
                f"input_shape {_show(input_shape)} does not fit the input {_show(declared[0])} of {functional.name!r}"
            )
        self.propagate(functional, [tuple(input_shape)])

    def propagate(self, functional: Any, shapes: list[tuple[int, ...]]) -> None:
        """Compute all shapes of a graph for these input shapes, without the batch axis."""
        tensor_type = next(cls for cls in type(functional.inputs[0]).__mro__ if cls.__name__ == "KerasTensor")
        specs = {id(t): tensor_type((None, *s), dtype=t.dtype) for t, s in zip(functional.inputs, shapes, strict=True)}
        for node in calls(functional):
            args, kwargs = node.arguments.fill_in(specs)
            op = node.operation
            try:
                inner = nested(op)
                if inner is not None:
                    self.propagate(inner, [tuple(specs[id(t)].shape[1:]) for t in node.arguments.keras_tensors])
                out = op.compute_output_spec(*args, **kwargs)
            except Exception as error:
                raise InputError(
                    f"layer {op.name!r} does not accept the shapes that follow from input_shape: {str(error).splitlines()[0]}"
                ) from error
            specs |= {id(old): new for old, new in zip(node.output_tensors, _flat(out), strict=True)}
        self.known |= {key: tuple(spec.shape) for key, spec in specs.items()}

    def __call__(self, tensor: Any) -> tuple[int, ...]:
        """The shape of a symbolic tensor for one image; an axis that is still open counts as 1."""
        shape = self.known.get(id(tensor), tuple(tensor.shape))
        return tuple(1 if n is None else int(n) for n in shape)


def _show(shape: Iterable[int | None]) -> str:
    return "×".join("?" if n is None else str(n) for n in shape)


def _flat(thing: Any) -> Iterator[Any]:
    if isinstance(thing, dict):
        thing = list(thing.values())
    if isinstance(thing, list | tuple):
        for item in thing:
            yield from _flat(item)
    else:
        yield thing


class _KerasReader:
    def __init__(self, shapes: _Shapes) -> None:
        self.shapes = shapes
        self.nodes: list[GraphNode] = []
        self.tensors: dict[str, Tensor] = {}
        self.seen: set[int] = set()
        self.channels_last = True

    def enter(self, tensor: Any) -> str:
        """Add a model input as an input node; returns its key."""
        key = self._new(self.shapes(tensor), tensor.dtype)
        layer = tensor._keras_history.operation
        self.nodes.append(GraphNode("input", type(layer).__name__, layer.name, (), (key,)))
        return key

    def run(self, functional: Any, inputs: list[str], prefix: str) -> list[str]:
        """Read a functional graph whose inputs have these keys; returns the keys of its outputs."""
        table = {id(t): key for t, key in zip(functional.inputs, inputs, strict=True)}
        for node in calls(functional):
            keys = [table[id(t)] for t in node.arguments.keras_tensors]
            inner = nested(node.operation)
            if inner is not None and len(inner.inputs) == len(keys):
                if any(self.shapes(t) != self.tensors[k].shape for t, k in zip(inner.inputs, keys, strict=True)):
                    self.shapes.propagate(inner, [self.tensors[k].shape[1:] for k in keys])
                outs = self.run(inner, keys, f"{prefix}{node.operation.name}/")
            else:
                outs = [self._new(self.shapes(t), t.dtype) for t in node.output_tensors]
                self._layer(node, keys, outs, f"{prefix}{node.operation.name}")
            table.update({id(t): key for t, key in zip(node.output_tensors, outs, strict=True)})
        return [table[id(t)] for t in functional.outputs]

    def _new(self, shape: tuple[int, ...], dtype: Any = "float32") -> str:
        key = f"t{len(self.tensors) + 1}"
        bits = "".join(c for c in str(dtype) if c.isdigit())
        self.tensors[key] = Tensor(shape, max(1, int(bits) // 8) if bits else 4)
        return key

    def _layer(self, call: Any, keys: list[str], outs: list[str], name: str) -> None:
        layer = call.operation
        base = _base(layer)
        node = GraphNode("unknown", type(layer).__name__, name, tuple(keys), tuple(outs), **self._parameters(layer))
        if keys and base in _DESCRIBE:
            known = _Call(
                layer, base, call.arguments, len(keys), name, self.tensors[keys[0]].shape, self.tensors[outs[0]].shape
            )
            kind, fields = _DESCRIBE[base](known)
            node = node.replace(kind=kind, **fields)
            if kind in ("conv", "conv_transpose"):
                self.channels_last = known.channels_last
        if base in _SEPARABLE:
            self._add_separable(layer, node)
        else:
            self._add(layer, node)

    def _parameters(self, layer: Any) -> dict[str, Any]:
        if id(layer) in self.seen:
            return {}
        self.seen.add(id(layer))
        trainable = sum(math.prod(w.shape) for w in getattr(layer, "trainable_weights", ()))
        frozen = sum(math.prod(w.shape) for w in getattr(layer, "non_trainable_weights", ()))
        bias: Any = getattr(layer, "bias", None)
        return {"trainable": trainable, "frozen": frozen, "bias": math.prod(bias.shape) if hasattr(bias, "shape") else 0}

    def _add(self, layer: Any, node: GraphNode) -> None:
        """Add a node; the activation argument of a convolution or dense layer becomes a node of its own."""
        function = getattr(layer, "activation", None)
        named = getattr(function, "__name__", None) or type(function).__name__
        if node.kind not in ("conv", "conv_transpose", "dense") or function is None or named == "linear":
            self.nodes.append(node)
            return
        before = self._new(())
        self.tensors[before] = self.tensors[node.outputs[0]]
        self.nodes.append(node.replace(outputs=(before,)))
        self.nodes.append(GraphNode("activation", named, f"{node.name}/{named}", (before,), node.outputs, mode=named))

    def _add_separable(self, layer: Any, node: GraphNode) -> None:
        """Add a separable convolution as the depthwise and the pointwise convolution that it computes."""
        assert node.window is not None and node.channels is not None
        channels, middle = node.channels[0], node.channels[0] * layer.depth_multiplier
        depth, point = math.prod(layer.depthwise_kernel.shape), math.prod(layer.pointwise_kernel.shape)
        shape = list(self.tensors[node.outputs[0]].shape)
        shape[-1 if layer.data_format == "channels_last" else 1] = middle
        between = self._new(tuple(shape))

        def counts(parameters: int) -> dict[str, int]:
            if not node.parameters:  # the layer was called before
                return {"trainable": 0, "frozen": 0}
            return {"trainable": parameters, "frozen": 0} if layer.trainable else {"trainable": 0, "frozen": parameters}

        self.nodes.append(
            node.replace(
                type="DepthwiseConv", name=f"{node.name}/depthwise", outputs=(between,), weight=depth, groups=channels,
                channels=(channels, middle), bias=0, **counts(depth),
            )
        )  # fmt: skip
        rank = len(node.window.axes)
        one = dataclasses.replace(
            node.window, kernel=(1,) * rank, stride=(1,) * rank, padding=((0, 0),) * rank, dilation=(1,) * rank
        )
        pointwise = node.replace(
            type="PointwiseConv", name=f"{node.name}/pointwise", inputs=(between,), weight=point, groups=1,
            channels=(middle, node.channels[1]), window=one, **counts(point + node.bias),
        )  # fmt: skip
        self._add(layer, pointwise)


def _base(layer: Any) -> str:
    """The Keras class that computes this layer: its own, or the ancestor that it inherits ``call`` from."""
    cls = next((cls for cls in type(layer).__mro__ if cls.__module__.startswith("keras.")), None)
    if cls and all(getattr(type(layer), method, None) is getattr(cls, method, None) for method in ("call", "__call__")):
        return cls.__name__
    return "?"


# --- what each Keras class is -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Call:
    """The call of a layer of a known class: its first input's and output's shapes, the number of its inputs."""

    layer: Any
    base: str
    arguments: Any
    inputs: int
    name: str
    shape: tuple[int, ...]
    out: tuple[int, ...]

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def channels_last(self) -> bool:
        return getattr(self.layer, "data_format", "channels_last") != "channels_first"

    @property
    def axes(self) -> tuple[int, ...]:
        """The spatial axes."""
        return tuple(range(1, self.rank - 1)) if self.channels_last else tuple(range(2, self.rank))

    @property
    def channels(self) -> tuple[int, int]:
        at = self.rank - 1 if self.channels_last else 1
        return self.shape[at], self.out[at]

    def over(self, axis: Any) -> tuple[int, ...]:
        """An axis or a list of axes, counted from the front."""
        return tuple(a % self.rank for a in (axis if isinstance(axis, list | tuple) else (axis,)))

    def pads(self, pads: Any) -> tuple[tuple[int, int], ...]:
        """(before, after) of the spatial axes, as a tuple for all axes."""
        pads = (pads,) if pads and not isinstance(pads[0], list | tuple) else pads
        table = dict(zip(self.axes, pads, strict=True))
        return tuple((int(table[i][0]), int(table[i][1])) if i in table else (0, 0) for i in range(self.rank))


Described = tuple[NodeKind, dict[str, Any]]


def _conv(call: _Call) -> Described:
    layer = call.layer
    depthwise = call.base.startswith(("Depthwise", "Separable"))
    kernel = layer.depthwise_kernel if call.base in _SEPARABLE else layer.kernel
    return "conv", {
        "window": _window(call, layer.kernel_size, layer.dilation_rate),
        "groups": call.channels[0] if depthwise else layer.groups,
        "channels": call.channels,
        "weight": math.prod(kernel.shape),
    }


def _conv_transpose(call: _Call) -> Described:
    """Crops the full output as the gradient of a convolution with the same padding argument does."""
    layer = call.layer
    pads = []
    for axis, k, s, d in zip(call.axes, layer.kernel_size, layer.strides, layer.dilation_rate, strict=True):
        full = (call.shape[axis] - 1) * s + d * (k - 1) + 1
        before = max(full - call.out[axis], 0) // 2 if layer.padding == "same" else 0
        pads.append((before, full - call.out[axis] - before))
    window = Window(call.axes, tuple(layer.kernel_size), tuple(layer.strides), tuple(pads), tuple(layer.dilation_rate))
    weight, groups = math.prod(layer.kernel.shape), getattr(layer, "groups", 1)
    return "conv_transpose", {"window": window, "groups": groups, "channels": call.channels, "weight": weight}


def _window(call: _Call, kernel: Any, dilation: Any) -> Window:
    """The window, with Keras's padding argument turned into zeros before and after (TensorFlow: the odd one goes after)."""
    layer, pads = call.layer, []
    for axis, k, s, d in zip(call.axes, kernel, layer.strides, dilation, strict=True):
        if layer.padding == "same":
            pads.append(same_padding(k, s, d, call.shape[axis]))
        else:
            pads.append((d * (k - 1), 0) if layer.padding == "causal" else (0, 0))
    return Window(call.axes, tuple(kernel), tuple(layer.strides), tuple(pads), tuple(dilation))


def _dense(call: _Call) -> Described:
    kernel = call.layer.kernel.shape
    if kernel[0] != call.shape[-1]:
        raise InputError(
            f"layer {call.name!r} takes {kernel[0]} features, but with this input_shape it gets {call.shape[-1]}: the model was "
            "built for another size"
        )
    return "dense", {"channels": (call.shape[-1], call.out[-1]), "weight": math.prod(kernel)}


def _pool(call: _Call) -> Described:
    mode = "max" if "Max" in call.base else "average"
    if call.base.startswith("Global"):
        return "global_pool", {"axes": call.axes, "mode": mode}
    return "pool", {"window": _window(call, call.layer.pool_size, (1,) * len(call.axes)), "mode": mode}


def _reduce(call: _Call) -> Described:
    axis = getattr(call.layer, "axis", None)
    return ("unknown", {}) if axis is None else ("global_pool", {"axes": call.over(axis), "mode": call.base.lower()})


def _resize(call: _Call) -> Described:
    mode = {"bilinear": "linear", "nearest": "nearest"}.get(getattr(call.layer, "interpolation", "nearest"), "other")
    plain = not any(getattr(call.layer, f, False) for f in ("crop_to_aspect_ratio", "pad_to_aspect_ratio", "antialias"))
    return "resize", {"axes": call.axes, "mode": mode if plain else "other"}


def _norm(call: _Call) -> Described:
    over = call.over(getattr(call.layer, "axis", -1))
    if call.base == "BatchNormalization":
        return "norm", {"mode": "batch", "channels": (call.shape[over[0]], call.shape[over[0]])}
    if call.base == "GroupNormalization":
        return "norm", {"mode": "group", "axes": tuple(range(1, call.rank))}
    return "norm", {"mode": "layer", "axes": over}


def _activation(call: _Call) -> Described:
    mode = call.base.lower()
    if call.base == "Activation":
        mode = getattr(getattr(call.layer, "activation", None), "__name__", mode)
    return ("identity", {}) if mode == "linear" else ("activation", {"mode": mode})


def _transpose(call: _Call) -> Described:
    axes = (0, *call.layer.dims) if call.base == "Permute" else call.layer.axes
    return ("unknown", {}) if axes is None else ("transpose", {"perm": tuple(axes)})


def _get_item(call: _Call) -> Described:
    """Slices with a step of one are crops; everything else is unknown."""
    args, shape = call.arguments.args, call.shape
    index = args[1] if len(args) > 1 else call.arguments.kwargs.get("key")
    index = index if isinstance(index, tuple) else (index,)
    if Ellipsis in index:
        at = index.index(Ellipsis)
        index = (*index[:at], *(slice(None),) * (len(shape) - len(index) + 1), *index[at + 1 :])
    if not all(isinstance(i, slice) and i.step in (None, 1) for i in index):
        return "unknown", {}
    ranges = [(range(*i.indices(n)), n) for i, n in zip(index, shape, strict=False)]
    pads = [(-r.start, r.stop - n) for r, n in ranges]
    return "crop", {"pads": tuple(pads + [(0, 0)] * (len(shape) - len(pads)))}


def _always(kind: NodeKind) -> Callable[[_Call], Described]:
    return lambda _: (kind, {})


_SEPARABLE = ("SeparableConv1D", "SeparableConv2D")
_IDENTITY = """Dropout SpatialDropout1D SpatialDropout2D SpatialDropout3D GaussianDropout GaussianNoise AlphaDropout
    ActivityRegularization Identity Cast StopGradient RandomFlip RandomBrightness RandomContrast StochasticDepth"""
_ACTIVATION = """Activation ReLU LeakyReLU PReLU ELU Softmax Relu Relu6 Sigmoid HardSigmoid Silu HardSilu HardSwish Swish Tanh Elu
    Selu Gelu LeakyRelu Softplus Softsign LogSoftmax Exp Log Sqrt Rsqrt Square Absolute Abs Negative Reciprocal Clip Erf Sin Cos
    Round Floor HardTanh"""
_MERGE = "CustomScaleLayer Add Subtract Multiply Average Maximum Minimum Divide TrueDivide Power"
_NORM = "BatchNormalization LayerNormalization GroupNormalization UnitNormalization RMSNormalization Normalize"

#: By Keras class: what a call of it is.
_DESCRIBE: dict[str, Callable[[_Call], Described]] = {
    **dict.fromkeys(("Conv1D", "Conv2D", "Conv3D", "DepthwiseConv1D", "DepthwiseConv2D", *_SEPARABLE), _conv),
    **dict.fromkeys(("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"), _conv_transpose),
    "Dense": _dense,
    **{f"{g}{kind}Pooling{n}D": _pool for g in ("", "Global") for kind in ("Max", "Average") for n in (1, 2, 3)},
    **dict.fromkeys(("Mean", "Max", "Sum"), _reduce),
    **dict.fromkeys(("UpSampling1D", "UpSampling2D", "UpSampling3D", "Resizing"), _resize),
    **dict.fromkeys(_NORM.split(), _norm),
    **dict.fromkeys(("Rescaling", "Normalization", "LayerScale"), _always("affine")),
    **dict.fromkeys(_IDENTITY.split(), _always("identity")),
    **dict.fromkeys(_ACTIVATION.split(), _activation),
    **dict.fromkeys(_MERGE.split(), lambda call: ("merge" if call.inputs > 1 else "affine", {})),
    **dict.fromkeys(("Concatenate", "Concat"), lambda call: ("concat", {"axes": call.over(call.layer.axis)})),
    **{
        f"ZeroPadding{n}D": lambda call: ("pad", {"pads": call.pads(call.layer.padding), "mode": "constant"}) for n in (1, 2, 3)
    },
    **{
        f"Cropping{n}D": lambda call: ("crop", {"pads": tuple((-a, -b) for a, b in call.pads(call.layer.cropping))})
        for n in (1, 2, 3)
    },
    **dict.fromkeys(("Flatten", "Reshape", "ExpandDims", "Squeeze"), _always("reshape")),
    **dict.fromkeys(("Permute", "Transpose"), _transpose),
    "Matmul": lambda call: ("matmul" if call.inputs == 2 else "unknown", {}),
    "GetItem": _get_item,
}
