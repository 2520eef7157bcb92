"""ONNX files read into a `Graph`: from our own export, from PyTorch, quantized or not.

Only the onnx package is needed. Weight values are never read, only their sizes, so external weight files need not exist. Shapes
come from onnx's shape inference, run for a batch of one on the file without its weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kerascv_course.analysis.arithmetic import same_padding
from kerascv_course.analysis.graph import Graph, GraphNode, NodeKind, Tensor, Window, ordered
from kerascv_course.analysis.onnx_file import OnnxFile, open_onnx
from kerascv_course.core.errors import InputError

__all__ = ["read_onnx"]

_CONV = {"Conv": (1, 2), "ConvInteger": (1, -1), "QLinearConv": (3, 8), "ConvTranspose": (1, 2)}  # inputs of weight and bias
_MATMUL = {"MatMul": 1, "MatMulInteger": 1, "QLinearMatMul": 3, "Gemm": 1}  # input of the weight
_POOL = {"MaxPool": "max", "AveragePool": "average", "LpPool": "lp"}
_REDUCE = {"ReduceMean": "average", "ReduceMax": "max", "ReduceSum": "sum", "ReduceMin": "min", "ReduceL2": "l2"}
_NORM = """BatchNormalization InstanceNormalization LayerNormalization GroupNormalization LRN SimplifiedLayerNormalization
    LpNormalization"""
_ACTIVATION = """Relu LeakyRelu Elu Selu Celu Gelu Sigmoid HardSigmoid HardSwish Tanh Softplus Softsign Softmax LogSoftmax Clip Mish
    ThresholdedRelu Erf Exp Log Sqrt Abs Neg Reciprocal Floor Ceil Round Sign Sin Cos Not Swish QuickGelu Hardmax"""
_IDENTITY = "Identity Dropout Cast CastLike QuantizeLinear DequantizeLinear DynamicQuantizeLinear"
_ARITHMETIC = """Add Sub Mul Div Pow Max Min Sum Mean PRelu Mod And Or Where Equal Greater GreaterOrEqual Less LessOrEqual"""
_RECURRENT = ("LSTM", "GRU", "RNN")
#: Operators with weights: without shapes their parameters are all that is counted.
_WEIGHTED = {*_CONV, *_MATMUL, *_NORM.split(), *_ARITHMETIC.split(), *_RECURRENT, "Gather"}
_MOVE = """Tile Expand Gather GatherElements GatherND DepthToSpace SpaceToDepth ArgMax ArgMin TopK ReverseSequence Trilu CumSum
    OneHot Compress"""

Described = tuple[NodeKind, dict[str, Any]]


def read_onnx(path: str | Path, input_shape: Sequence[int] | None = None) -> Graph:
    """The graph of an ONNX file.

    Args:
        path: where the file is.
        input_shape: the image input without its batch axis, in the file's own axis order (files from PyTorch: channels, height,
            width); required if the file has open axes.

    Raises:
        InputError: no such file, not ONNX, truncated, open axes without `input_shape`, a fixed batch size other than one.
    """
    return _OnnxReader(open_onnx(path, input_shape)).read()


class _OnnxReader:
    def __init__(self, file: OnnxFile) -> None:
        self.file = file
        self.nodes: list[GraphNode] = []
        self.tensors: dict[str, Tensor] = {}
        self.alias: dict[str, str] = {}
        self.weighted: set[str] = set()  # tensors behind a layer with weights
        self.reused: set[str] = set()  # tensors made by a layer that is used again
        self.seen: set[str] = set()  # weight tensors met so far

    def read(self) -> Graph:
        for name in self.file.inputs:
            self._tensor(name)
            self.nodes.append(GraphNode("input", "Input", name, (), (name,)))
        for proto in self.file.nodes:
            self._node(proto)
        return Graph(
            name=self.file.path.stem,
            source="onnx",
            channels_last=False,
            nodes=ordered(self.nodes, self.file.outputs),
            tensors=self.tensors,
            outputs=tuple(n for n in self.file.outputs if n in self.tensors),
            file_bytes=self.file.path.stat().st_size,
        )

    def _tensor(self, name: str) -> bool:
        shape = self.file.shapes.get(name)
        known = shape is not None and all(n is not None for n in shape)
        self.tensors[name] = Tensor(
            tuple(n or 1 for n in shape or ()) if known else (), self.file.itemsizes.get(name, 4), known
        )
        return known

    def _node(self, proto: Any) -> None:
        outs = [n for n in proto.output if n and n in self.file.data]
        if proto.op_type == "DynamicQuantizeLinear":
            outs = outs[:1]  # its scale and zero point belong to the encoding: they carry no pixels on
        ins = [n for n in proto.input if n in self.file.data and n in self.tensors]
        if not outs or not ins:
            return
        made = [self._tensor(n) for n in outs]
        known = all(made) and all(self.tensors[n].known for n in ins)
        name = proto.name or outs[0]
        node = GraphNode("unknown", proto.op_type, name, tuple(ins), tuple(outs))
        if proto.op_type == "Split" and known:
            self._split(node, proto)
            return
        kind, fields = self._describe(proto, node) if known or proto.op_type in _WEIGHTED else ("unknown", {})
        if kind == "reshape" and self.tensors[ins[0]].elements != self.tensors[outs[0]].elements:
            raise InputError(
                f"{self.file.path}: {name} reshapes {self.tensors[ins[0]].shape} to {self.tensors[outs[0]].shape}, which does not "
                "fit one image of this size: was the file exported with a fixed batch or image size?"
            )
        if not known:  # the parameters are known, counts that need shapes are not
            kind = "unknown"
        node = node.replace(kind=kind, **fields)
        if kind in ("conv", "conv_transpose", "dense", "norm") or node.parameters or any(n in self.weighted for n in ins):
            self.weighted.update(outs)
        self.nodes.append(node)

    # --- parameters -----------------------------------------------------------------------------------------------------------

    def _weight(self, proto: Any, at: int, bias_at: int = -1) -> dict[str, Any]:
        """Parameters of a layer with a weight tensor; none if the tensor was used before."""
        weight = self.file.constant(_input(proto, at))
        if weight is None:
            return {}
        bias = self.file.constant(_input(proto, bias_at)) if bias_at >= 0 else None
        again = weight.name in self.seen
        self.seen.add(weight.name)
        if again:
            self.reused.update(proto.output)
            return {"weight": weight.elements}
        number = bias.elements if bias is not None else 0
        return {"weight": weight.elements, "trainable": weight.elements + number, "bias": number}

    def _vectors(self, proto: Any, places: Sequence[int]) -> int:
        """Elements of per-channel constants.

        Converters merge equal constants, so they count at every use, unless the whole layer is used again.
        """
        names = [_input(proto, at) for at in places]
        found = [c for c in (self.file.constant(n) for n in names) if c is not None]
        if any(n in self.reused for n in proto.input) and all(c.name in self.seen for c in found):
            self.reused.update(proto.output)
            return 0
        self.seen.update(c.name for c in found)
        return sum(c.elements for c in found)

    # --- kinds ----------------------------------------------------------------------------------------------------------------

    def _describe(self, proto: Any, node: GraphNode) -> Described:
        describe = _DESCRIBE.get(proto.op_type)
        if describe is None or proto.domain not in ("", "ai.onnx", "com.microsoft"):
            return "unknown", {}
        return describe(self, proto, node)

    def _ends(self, node: GraphNode) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of the first input and the first output."""
        return self.tensors[node.inputs[0]].shape, self.tensors[node.outputs[0]].shape

    def _pool(self, proto: Any, node: GraphNode) -> Described:
        window = _window(proto, self._ends(node)[0], _ints(proto, "kernel_shape"))
        return "pool", {"window": window, "mode": _POOL[proto.op_type]}

    def _global_pool(self, proto: Any, node: GraphNode) -> Described:
        axes = tuple(range(2, len(self._ends(node)[0])))
        return "global_pool", {"axes": axes, "mode": "max" if "Max" in proto.op_type else "average"}

    def _reduce(self, proto: Any, node: GraphNode) -> Described:
        rank = len(self._ends(node)[0])
        axes = {axis % rank for axis in self.file.axes(proto)} or set(range(rank))
        return "global_pool", {"axes": tuple(sorted(axes - {0})), "mode": _REDUCE[proto.op_type]}

    def _activation(self, proto: Any, node: GraphNode) -> Described:
        mode = proto.op_type.lower()
        axis = _int(proto, "axis", -1) % max(len(self._ends(node)[0]), 1)
        return "activation", {"mode": mode, "axes": (axis,) if "max" in mode else ()}

    def _concat(self, proto: Any, node: GraphNode) -> Described:
        return "concat", {"axes": (_int(proto, "axis", 1) % len(self._ends(node)[1]),)}

    def _transpose(self, proto: Any, node: GraphNode) -> Described:
        return "transpose", {"perm": tuple(_ints(proto, "perm")) or tuple(reversed(range(len(self._ends(node)[0]))))}

    def _move(self, proto: Any, node: GraphNode) -> Described:
        shape, out = self._ends(node)
        if proto.op_type == "Gather" and proto.input[0] not in self.file.data:
            return "move", self._weight(proto, 0)  # an embedding's table
        return ("identity" if shape == out and proto.op_type in ("Tile", "Expand") else "move"), {}

    def _recurrent(self, proto: Any, _: GraphNode) -> Described:
        # as stored: ONNX has two biases a gate
        return "unknown", {"trainable": self._vectors(proto, (1, 2, 3))}

    def _convolution(self, proto: Any, node: GraphNode) -> Described:
        shape, out = self._ends(node)
        weight = self.file.constant(_input(proto, _CONV[proto.op_type][0]))
        fields = self._weight(proto, *_CONV[proto.op_type])
        if weight is None or len(shape) < 3 or len(out) < 3:
            return "unknown", fields
        kernel = tuple(weight.dims[2:])
        transposed = proto.op_type == "ConvTranspose"
        window = _window(proto, shape, kernel, out if transposed else None)
        return "conv_transpose" if transposed else "conv", {
            **fields, "window": window, "groups": _int(proto, "group", 1), "channels": (shape[1], out[1])
        }  # fmt: skip

    def _product(self, proto: Any, node: GraphNode) -> Described:
        at = _MATMUL[proto.op_type]
        weight = self.file.constant(_input(proto, at))
        shape, out = self._ends(node)
        if weight is None:
            left = self.file.constant(_input(proto, 0))
            if left is not None:
                return "unknown", self._weight(proto, 0)
            return ("matmul" if proto.op_type != "Gemm" and len(node.inputs) == 2 else "unknown"), {}
        fields = self._weight(proto, at, 2 if proto.op_type == "Gemm" else -1)
        if not shape or not out or len(weight.dims) != 2 or _int(proto, "transA", 0):
            return "unknown", fields
        return "dense", {**fields, "channels": (shape[-1], out[-1])}

    def _normalization(self, proto: Any, node: GraphNode) -> Described:
        op, shape = proto.op_type, self._ends(node)[0]
        fields: dict[str, Any] = {"trainable": self._vectors(proto, (1, 2)), "mode": "layer"}
        if op == "BatchNormalization":
            fields |= {"frozen": self._vectors(proto, (3, 4)), "mode": "batch"}
        if not shape:
            return "unknown", fields
        if op == "BatchNormalization":
            fields["channels"] = (shape[1], shape[1])
        elif op in ("InstanceNormalization", "GroupNormalization"):
            fields |= {"mode": "group", "axes": tuple(range(1 if op[0] == "G" else 2, len(shape)))}
        elif op != "LRN":
            axis = _int(proto, "axis", -1) % len(shape)
            fields["axes"] = (axis,) if op == "LpNormalization" else tuple(range(axis, len(shape)))
        return "norm", fields

    def _arithmetic(self, proto: Any, node: GraphNode) -> Described:
        """Arithmetic of several activations merges branches; with constants it may be a bias, a scale or a shift.

        A constant of one element is part of a formula (as in a hard sigmoid), not a parameter, unless it is the bias of a dense
        layer with one output. Constants before the first layer with weights are preprocessing, not parameters.
        """
        if len(node.inputs) > 1:
            return "merge", {}
        constants = [self.file.constant(n) for n in proto.input if n not in self.file.data]
        found = [c for c in constants if c is not None]
        elements = sum(c.elements for c in found)
        maker = next((n for n in reversed(self.nodes) if node.inputs[0] in n.outputs), None)
        product = maker is not None and maker.kind in ("conv", "conv_transpose", "dense") and not maker.bias
        bias = proto.op_type == "Add" and product and elements == (maker.channels or (0, 0))[1] if maker else False
        kind: NodeKind = "activation" if proto.op_type == "PRelu" else "affine"
        if (elements == 1 and not bias) or node.inputs[0] not in self.weighted:
            return kind, {}
        places = [i for i, n in enumerate(proto.input) if n not in self.file.data]
        number = self._vectors(proto, places)
        return kind, {"trainable": number, "bias": number if bias else 0, "mode": proto.op_type.lower()}

    def _pad(self, proto: Any, node: GraphNode) -> Described:
        shape = self._ends(node)[0]
        values = _ints(proto, "pads") or self.file.integers(_input(proto, 1))
        if not values or not shape:
            return "move", {}
        axes = self.file.integers(_input(proto, 3)) or list(range(len(shape)))
        half = len(values) // 2
        table = {a % len(shape): (values[i], values[half + i]) for i, a in enumerate(axes)}
        pads = tuple(table.get(a, (0, 0)) for a in range(len(shape)))
        return "pad", {"pads": pads, "mode": _text(proto, "mode", "constant")}

    def _slice(self, proto: Any, node: GraphNode) -> Described:
        shape, out = self._ends(node)
        starts = _ints(proto, "starts") or self.file.integers(_input(proto, 1))
        axes = _ints(proto, "axes") or self.file.integers(_input(proto, 3)) or list(range(len(starts)))
        steps = self.file.integers(_input(proto, 4)) or [1] * len(starts)
        if not starts or any(s != 1 for s in steps) or len(shape) != len(out):
            return "move", {}
        pads = [(0, 0)] * len(shape)
        for start, axis in zip(starts, axes, strict=False):
            n, a = shape[axis % len(shape)], axis % len(shape)
            first = max(start + n, 0) if start < 0 else min(start, n)
            pads[a] = (-first, out[a] - (n - first))
        return "crop", {"pads": tuple(pads)}

    def _split(self, node: GraphNode, proto: Any) -> None:
        axis = _int(proto, "axis", 0)
        shape = self.tensors[node.inputs[0]].shape
        axis %= len(shape)
        first = 0
        for i, key in enumerate(node.outputs):
            size = self.tensors[key].shape[axis]
            pads = tuple((-first, first + size - shape[axis]) if a == axis else (0, 0) for a in range(len(shape)))
            self.nodes.append(node.replace(kind="crop", name=f"{node.name}:{i}", outputs=(key,), pads=pads))
            first += size
        if node.inputs[0] in self.weighted:
            self.weighted.update(node.outputs)


# --- attributes of a node ----------------------------------------------------------------------------------------------------


def _input(proto: Any, at: int) -> str:
    return proto.input[at] if 0 <= at < len(proto.input) else ""


def _attribute(proto: Any, name: str, read: Callable[[Any], Any], default: Any) -> Any:
    return next((read(a) for a in proto.attribute if a.name == name), default)


def _int(proto: Any, name: str, default: int) -> int:
    return int(_attribute(proto, name, lambda a: a.i, default))


def _ints(proto: Any, name: str) -> list[int]:
    return list(_attribute(proto, name, lambda a: a.ints, []))


def _text(proto: Any, name: str, default: str) -> str:
    return str(_attribute(proto, name, lambda a: a.s.decode(), default))


def _window(proto: Any, shape: tuple[int, ...], kernel: Sequence[int], out: tuple[int, ...] | None = None) -> Window | None:
    """Kernel, stride, dilation and padding of a convolution or pooling; `out` only for a transposed convolution."""
    rank = len(kernel)
    if len(shape) != rank + 2:
        return None
    axes = tuple(range(2, rank + 2))
    stride = tuple(_ints(proto, "strides")) or (1,) * rank
    dilation = tuple(_ints(proto, "dilations")) or (1,) * rank
    given = _ints(proto, "pads") or [0] * 2 * rank
    auto = _text(proto, "auto_pad", "NOTSET")
    pads = []
    for i, axis in enumerate(axes):
        reach = dilation[i] * (kernel[i] - 1) + 1
        before, after = given[i], given[rank + i]
        if out is not None:
            full = (shape[axis] - 1) * stride[i] + reach
            if auto.startswith("SAME"):
                cut = max(full - out[axis], 0)
                before = cut // 2 if auto == "SAME_UPPER" else cut - cut // 2
            after = full - out[axis] - before
        elif auto.startswith("SAME"):
            before, after = same_padding(kernel[i], stride[i], dilation[i], shape[axis])
            before, after = (before, after) if auto == "SAME_UPPER" else (after, before)
        elif auto == "VALID":
            before = after = 0
        pads.append((before, after))
    return Window(axes, tuple(kernel), stride, tuple(pads), dilation)


def _resizing(reader: _OnnxReader, proto: Any, node: GraphNode) -> Described:
    shape, out = reader._ends(node)
    mode = _text(proto, "mode", "nearest")
    coordinates = _text(proto, "coordinate_transformation_mode", "half_pixel" if proto.op_type == "Resize" else "asymmetric")
    coordinates = {"pytorch_half_pixel": "half_pixel"}.get(coordinates, coordinates)
    followed = mode in ("nearest", "linear") and coordinates in ("half_pixel", "asymmetric", "align_corners")
    if mode == "nearest":  # with integer factors every rounding mode repeats each value; otherwise runtimes differ
        whole = all(n and o % n == 0 for n, o in zip(shape, out, strict=False))
        rounding = _text(proto, "nearest_mode", "round_prefer_floor")
        usual = rounding == "floor" if coordinates == "asymmetric" else rounding.startswith("round")
        followed = followed and whole and usual and coordinates != "align_corners"
        coordinates = "half_pixel"
    axes = tuple(a for a, (n, o) in enumerate(zip(shape, out, strict=False)) if n != o)
    return "resize", {"axes": axes, "mode": mode if followed else "other", "coordinates": coordinates}


def _always(kind: NodeKind) -> Callable[[_OnnxReader, Any, GraphNode], Described]:
    return lambda *_: (kind, {})


#: By operator: what it is.
_DESCRIBE: dict[str, Callable[[_OnnxReader, Any, GraphNode], Described]] = {
    **dict.fromkeys(_CONV, _OnnxReader._convolution),
    **dict.fromkeys(_MATMUL, _OnnxReader._product),
    **dict.fromkeys(_POOL, _OnnxReader._pool),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool"), _OnnxReader._global_pool),
    **dict.fromkeys(_REDUCE, _OnnxReader._reduce),
    **dict.fromkeys(_NORM.split(), _OnnxReader._normalization),
    **dict.fromkeys(_ACTIVATION.split(), _OnnxReader._activation),
    **dict.fromkeys(_IDENTITY.split(), _always("identity")),
    **dict.fromkeys(_ARITHMETIC.split(), _OnnxReader._arithmetic),
    "Concat": _OnnxReader._concat,
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), _always("reshape")),
    "Transpose": _OnnxReader._transpose,
    **dict.fromkeys(("Resize", "Upsample"), _resizing),
    "Pad": _OnnxReader._pad,
    "Slice": _OnnxReader._slice,
    **dict.fromkeys(_MOVE.split(), _OnnxReader._move),
    **dict.fromkeys(_RECURRENT, _OnnxReader._recurrent),
}
