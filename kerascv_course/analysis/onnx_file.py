"""An ONNX file without its weights: which tensors depend on the image, which are constants, and all shapes for one image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kerascv_course.core.errors import InputError

__all__ = ["Constant", "OnnxFile", "open_onnx"]

#: Bytes per element by TensorProto.DataType.
_ITEMSIZE = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 14: 8, 15: 16, 16: 2}
#: Operators whose output has all the elements of a constant input.
_THROUGH = {"Identity", "Cast", "DequantizeLinear", "QuantizeLinear", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten"}
#: Constants of up to this many elements keep their values: shapes, axes, pads.
_SMALL = 1024


@dataclass(frozen=True)
class Constant:
    """A stored tensor: its name and shape."""

    name: str
    dims: tuple[int, ...]

    @property
    def elements(self) -> int:
        """Number of values."""
        return math.prod(self.dims)


class OnnxFile:
    """A file's operators, shapes and constants.

    Attributes:
        path: where the file is.
        nodes: the operators in computing order.
        inputs, outputs: names of the model's inputs (without weights) and outputs.
        data: names of tensors that depend on the inputs' values; all others are constants or computed from shapes.
        shapes: by tensor name; None for an axis that shape inference leaves open.
        itemsizes: bytes per element by tensor name.
    """

    def __init__(self, path: Path, model: Any, inputs: list[str]) -> None:
        graph = model.graph
        self.path = path
        self.nodes = list(graph.node)
        self.inputs = inputs
        self.outputs = [o.name for o in graph.output]
        self._stored = {t.name: t for t in graph.initializer}
        self._makers = {name: node for node in self.nodes for name in node.output}
        self.data = self._flow()
        self.shapes: dict[str, tuple[int | None, ...]] = {}
        self.itemsizes: dict[str, int] = {}
        for info in (*graph.input, *graph.value_info, *graph.output):
            tensor = info.type.tensor_type
            self.itemsizes[info.name] = _ITEMSIZE.get(tensor.elem_type, 4)
            if tensor.HasField("shape"):
                self.shapes[info.name] = tuple(d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim)

    def _flow(self) -> set[str]:
        data = set(self.inputs)
        for node in self.nodes:
            if node.op_type not in ("Shape", "Size") and any(n in data for n in node.input):
                data.update(n for n in node.output if n)
        return data

    def constant(self, name: str) -> Constant | None:
        """The stored tensor behind a name, through casts, transpositions and dequantization; None if it is computed."""
        transposed: list[tuple[int, ...] | None] = []
        while name and name not in self._stored:
            node = self._makers.get(name)
            if node is None or name in self.data:
                return None
            if node.op_type == "Constant":
                value = next((a for a in node.attribute if a.name == "value"), None)
                return Constant(name, tuple(value.t.dims) if value is not None else (1,))
            if node.op_type not in _THROUGH:
                return None
            if node.op_type == "Transpose":
                transposed.append(next((tuple(a.ints) for a in node.attribute if a.name == "perm"), None))
            elif node.op_type in ("Reshape", "Squeeze", "Unsqueeze", "Flatten"):
                shape = self.shapes.get(name)
                stored = self.constant(node.input[0])
                if shape is None or stored is None or None in shape:
                    return stored
                return Constant(stored.name, tuple(n or 0 for n in shape))
            name = node.input[0]
        if not name:
            return None
        dims = tuple(self._stored[name].dims)
        for perm in reversed(transposed):
            dims = tuple(dims[i] for i in perm) if perm else dims[::-1]
        return Constant(name, dims)

    def integers(self, name: str) -> list[int]:
        """The values of a small integer constant; empty for other tensors."""
        if not name:
            return []
        import numpy as np
        from onnx import numpy_helper

        tensor = self._stored.get(name)
        node = self._makers.get(name)
        if tensor is None and node is not None and node.op_type == "Constant":
            tensor = next((a.t for a in node.attribute if a.name == "value"), None)
        if tensor is None and node is not None and node.op_type in ("Cast", "Identity"):
            return self.integers(node.input[0])
        if tensor is None or math.prod(tensor.dims) > _SMALL or tensor.data_location == 1:
            return []
        values = numpy_helper.to_array(tensor)
        return [int(v) for v in np.ravel(values)] if np.issubdtype(values.dtype, np.integer) else []

    def axes(self, node: Any) -> list[int]:
        """The axes of a reduction: an attribute in old opsets, an input in new ones."""
        given = next((list(a.ints) for a in node.attribute if a.name == "axes"), [])
        return given or (self.integers(node.input[1]) if len(node.input) > 1 else [])


def open_onnx(path: str | Path, input_shape: Sequence[int] | None = None) -> OnnxFile:
    """Read a file without its weights and infer all shapes for a batch of one.

    Raises:
        InputError: see `kerascv_course.analysis.onnx_graph.read_onnx`.
    """
    path = Path(path)
    model = _load(path)
    graph = model.graph
    stored = {t.name for t in graph.initializer}
    images = [i for i in graph.input if i.name not in stored]
    if not graph.node or not images:
        raise InputError(f"{path} holds no ONNX graph (no operators or no input): is it the right file?")
    inputs = _fix_shapes(path, images, input_shape)
    _strip(graph)
    model = _infer(path, model)
    return OnnxFile(path, model, inputs)


def _load(path: Path) -> Any:
    if not path.is_file():
        raise InputError(f"no such file: {path}" if not path.exists() else f"{path} is a folder, not an ONNX file")
    import onnx
    from google.protobuf.message import DecodeError

    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty: export it again")
    try:
        return onnx.load(path, load_external_data=False)
    except (DecodeError, ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not an ONNX file, or it is truncated: export or download it again") from error


def _fix_shapes(path: Path, images: list[Any], input_shape: Sequence[int] | None) -> list[str]:
    """Set the batch size 1 and the given shape in the inputs; returns their names."""
    import onnx

    first = images[0].type.tensor_type.shape.dim[:1]
    batch = first[0].dim_param if first else ""
    asked = [info for info in images if _is_open(info, batch)]
    if input_shape is not None and len(images) > 1 and len(asked) != 1:
        raise InputError(
            f"input_shape is for files with one input of open axes; {path} has {len(asked)} of {len(images)}: "
            f"{', '.join(i.name for i in images)}"
        )
    for info in images:
        tensor = info.type.tensor_type
        if not tensor.HasField("shape"):
            if input_shape is None:
                raise InputError(f"the input {info.name!r} of {path} has no declared shape: give input_shape (--input-shape)")
            tensor.shape.dim.extend(onnx.TensorShapeProto.Dimension() for _ in range(len(input_shape) + 1))
        dims = tensor.shape.dim
        if not dims:
            continue  # a scalar, as a rate of samples
        for dim in dims:
            if batch and dim.dim_param == batch:
                dim.dim_value = 1
        # a state may have its layers before the batch: where the first input's batch is open, a fixed first axis is none
        if info is images[0] or not batch or not dims[0].dim_value:
            dims[0].dim_value = 1
        given = input_shape if info in asked or len(images) == 1 else None
        for dim, size in zip(dims[1:], _sizes(path, info, given), strict=True):
            dim.dim_value = size
    return [i.name for i in images]


def _sizes(path: Path, info: Any, given: Sequence[int] | None) -> list[int]:
    """The sizes of an input's axes without the batch, open ones as given."""
    declared = [d.dim_value if d.dim_value > 0 else None for d in info.type.tensor_type.shape.dim[1:]]
    shown = "×".join("?" if n is None else str(n) for n in declared)
    if given is not None:
        fits = len(given) == len(declared) and all(n >= 1 and d in (None, n) for d, n in zip(declared, given, strict=True))
        if not fits:
            received = "×".join(map(str, given))
            raise InputError(f"input_shape {received} does not fit the input {info.name!r} of {path}, which is {shown}")
        return list(given)
    sizes = [n for n in declared if n is not None]
    if len(sizes) < len(declared):
        raise InputError(
            f"the input {info.name!r} of {path} is {shown} with open axes: give input_shape (--input-shape) in this order"
        )
    return sizes


def _is_open(info: Any, batch: str) -> bool:
    """Whether an input has no shape at all, or open axes besides the batch, which may have a name."""
    tensor = info.type.tensor_type
    return not tensor.HasField("shape") or any(
        not d.dim_value and not (batch and d.dim_param == batch) for d in tensor.shape.dim[1:]
    )


def _strip(graph: Any) -> None:
    """Drop the values of weights, and shapes declared for another batch size."""
    for tensor in graph.initializer:
        if math.prod(tensor.dims) > _SMALL:
            for field in ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
                tensor.ClearField(field)
    del graph.value_info[:]
    for output in graph.output:
        output.type.tensor_type.ClearField("shape")


def _infer(path: Path, model: Any) -> Any:
    import onnx
    from onnx import inliner, shape_inference

    if len(model.functions):
        model = inliner.inline_local_functions(model)
        del model.graph.value_info[:]
    try:
        return shape_inference.infer_shapes(model, data_prop=True)
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0]
        raise InputError(
            f"the shapes of {path} are inconsistent for one image ({first}): was it exported with a fixed batch or image size?"
        ) from error
