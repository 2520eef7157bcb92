"""An ONNX graph in the making: tensors that know how their axes lie, constants, and names taken from the Keras layers.

Keras's images are channels-last, ONNX's convolutions and pools want channels first. How the axes of a tensor lie is therefore a
property of the tensor (`GraphTensor.axes`): convolutions ask for channels first, most operations take what comes, and a Transpose is
written only where something needs another order.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from export.converter.trace import NotConvertible, OpenArray, Size, Symbol

__all__ = ["GraphConstant", "GraphTensor", "GraphWriter", "Operand", "channels_first", "natural", "onnx_type", "stored_dtype"]

#: Keras dtypes of 16-bit floating point, which files hold as float32.
HALVES = ("float16", "bfloat16")

Shape = tuple[int | Size, ...]


def natural(rank: int) -> tuple[int, ...]:
    """Axes in Keras's order."""
    return tuple(range(rank))


def channels_first(rank: int) -> tuple[int, ...]:
    """Axes of a channels-last tensor in the order batch, channels, space."""
    return (0, rank - 1, *range(1, rank - 1))


def stored_dtype(dtype: str) -> str:
    """The dtype that a tensor of a Keras dtype has in the file."""
    return "float32" if dtype in HALVES else dtype


def onnx_type(dtype: str) -> ir.DataType:
    """ONNX's number of a Keras dtype."""
    return ir.DataType.from_numpy(np.dtype(stored_dtype(dtype)))


@dataclass(frozen=True, eq=False)
class GraphTensor(Symbol):
    """A tensor of the graph.

    Attributes:
        shape: Keras's.
        dtype: Keras's.
        value: in the graph.
        axes: axis i of the value is Keras's axis ``axes[i]``.
        flattened: the value is (batch, C·H·W) where Keras has (batch, H·W·C): these H, W, C (any number of spatial axes); None: it is
            in Keras's order.
    """

    value: ir.Value = field(default_factory=ir.Value)
    axes: tuple[int, ...] = ()
    flattened: tuple[int, ...] | None = None

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def plain(self) -> bool:
        """Whether the value is as Keras has it."""
        return self.flattened is None and self.axes == natural(self.rank)

    def place(self, axis: int) -> int:
        """The axis of the value that is Keras's axis `axis`, which may be negative."""
        return self.axes.index(axis % self.rank)


@dataclass(frozen=True, eq=False)
class GraphConstant:
    """An array of the graph, in Keras's order of axes; `name`: of the weight, or empty."""

    array: np.ndarray
    name: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array."""
        return self.array.shape

    @property
    def rank(self) -> int:
        """Number of axes."""
        return self.array.ndim

    @property
    def dtype(self) -> str:
        """Of the array."""
        return str(self.array.dtype)


Operand = GraphTensor | GraphConstant


class GraphWriter:
    """The graph in the making.

    Args:
        name: of the model.
        opset: of the file.

    Attributes:
        result: shape and dtype of what the operation in work returns: its first output.
    """

    def __init__(self, name: str, opset: int) -> None:
        self.opset = opset
        self.ir = ir.Graph([], [], nodes=[], opset_imports={"": opset}, name=name)
        self.result = Symbol((), "float32")
        self.scope: list[str] = []
        self._names: dict[str, int] = {}
        self._taken: set[str] = set()
        self._constants: dict[tuple[Any, ...], ir.Value] = {}
        self._weights: dict[tuple[Any, ...], ir.Value] = {}
        self._transposed: dict[tuple[ir.Value, tuple[int, ...]], ir.Value] = {}
        self._sizes: dict[Size, tuple[ir.Value, int]] = {}
        self._size_values: dict[Size, ir.Value] = {}

    # --- names ---

    @contextmanager
    def named(self, name: str) -> Iterator[None]:
        """Name all that is written inside after a layer."""
        if not name:
            yield
            return
        self.scope.append(name)
        try:
            yield
        finally:
            self.scope.pop()

    def name(self, suffix: str = "") -> str:
        """A name of the layer in work that nothing has yet."""
        return self._free_name("/".join([*self.scope, suffix] if suffix else self.scope) or "model")

    def _free_name(self, base: str) -> str:
        number, free = self._names.get(base, 0), base
        while free in self._taken:
            number += 1
            free = f"{base}_{number}"
        self._names[base] = number
        self._taken.add(free)
        return free

    def name_outputs(self, values: Sequence[ir.Value]) -> None:
        """Call the outputs of the layer in work after it, where nodes inside it made them."""
        path = "/".join(self.scope)
        for value in dict.fromkeys(values):
            if (value.name or "").startswith(f"{path}/") and value.producer() is not None:
                value.name = self.name()

    # --- tensors ---

    def input(self, name: str, shape: Shape, dtype: str, *, axes: tuple[int, ...], dims: Sequence[int | str]) -> GraphTensor:
        """An input of the file; `dims`: its dimensions in the file, names for open ones."""
        value = ir.Value(name=name, shape=ir.Shape(dims), type=ir.TensorType(onnx_type(dtype)))
        self.ir.inputs.append(value)
        self._taken.add(name)
        return self.tensor(value, shape, dtype, axes)

    def tensor(
        self,
        value: ir.Value,
        shape: Shape,
        dtype: str,
        axes: tuple[int, ...] | None = None,
        flattened: tuple[int, ...] | None = None,
    ) -> GraphTensor:
        """A tensor around a value; its open dimensions become known."""
        tensor = GraphTensor(shape, dtype, value, natural(len(shape)) if axes is None else axes, flattened)
        if flattened is None:
            for axis, size in enumerate(shape):
                if isinstance(size, Size):
                    self._sizes.setdefault(size, (value, tensor.place(axis)))
        return tensor

    def node(
        self,
        kind: str,
        inputs: Sequence[Operand | ir.Value | None],
        *,
        shape: Shape | None = None,
        dtype: str | None = None,
        axes: tuple[int, ...] | None = None,
        like: GraphTensor | None = None,
        **attributes: Any,
    ) -> GraphTensor:
        """Write a node of one output.

        Args:
            kind: ONNX operator.
            inputs: tensors, constants and values; None for one that is left out.
            shape: of the output, Keras's; None: that of the operation in work.
            dtype: of the output; None: that of the operation in work.
            axes: of the output; None: as those of `like`, else in Keras's order.
            like: tensor whose axes and flattening the output has.
            **attributes: of the operator.
        """
        value = self.emit(kind, inputs, 1, attributes)[0]
        if shape is None:
            shape = self.result.shape
            if None in shape:  # some layers of Keras state less than they know
                wide = _broadcast([item.shape for item in inputs if isinstance(item, (GraphTensor, GraphConstant))])
                shape = (
                    tuple(a if b is None else b for a, b in zip(wide, shape, strict=True)) if len(wide) == len(shape) else wide
                )
        axes = like.axes if axes is None and like is not None else axes
        flattened = None if like is None else like.flattened
        return self.tensor(value, shape, self.result.dtype if dtype is None else dtype, axes, flattened)

    def emit(
        self, kind: str, inputs: Sequence[Operand | ir.Value | None], outputs: int, attributes: dict[str, Any]
    ) -> list[ir.Value]:
        """Write a node; returns its outputs."""
        values = [self.value(item) for item in inputs]
        name = self.name(kind)
        node = ir.node(kind, values, {k: v for k, v in attributes.items() if v is not None}, num_outputs=outputs, name=name)
        for number, value in enumerate(node.outputs):
            value.name = name if number == 0 else f"{name}:{number}"
        self.ir.append(node)
        return list(node.outputs)

    def value(self, item: Operand | ir.Value | None) -> ir.Value | None:
        """The value of an operand; constants are written."""
        if isinstance(item, GraphTensor):
            return item.value
        if isinstance(item, GraphConstant):
            return self.constant(item.array, item.name)
        return item

    # --- constants ---

    def constant(self, array: np.ndarray | np.generic, name: str = "") -> ir.Value:
        """An initializer; equal small ones, and the same arrays, are written once."""
        array = np.asarray(array)
        if str(array.dtype) in HALVES:
            array = array.astype(np.float32)
        array = np.ascontiguousarray(array) if array.ndim else array
        small = array.nbytes <= 1024
        key = (array.dtype.str, array.shape, array.tobytes()) if small else (id(array),)
        known = self._constants if small else self._weights
        if key not in known:
            unique = self._free_name(name or "/".join([*self.scope, "constant"]))
            value = ir.Value(
                name=unique,
                shape=ir.Shape(array.shape),
                type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
                const_value=ir.tensor(array, name=unique),
            )
            self.ir.register_initializer(value)
            known[key] = value
        return known[key]

    def ints(self, values: Sequence[int] | int) -> ir.Value:
        """A constant of int64."""
        return self.constant(np.asarray(values, np.int64))

    # --- order of axes ---

    def plain(self, x: Operand) -> Operand:
        """The tensor in Keras's order of axes."""
        if isinstance(x, GraphConstant) or x.plain:
            return x
        if x.flattened is not None:
            *space, channels = x.flattened
            whole = self.node(
                "Reshape", [x.value, self.ints([-1, channels, *space])], shape=(x.shape[0], *x.flattened), dtype=x.dtype
            )
            order = (0, *range(2, len(space) + 2), 1)
            turned = self._transpose(whole.value, order, (x.shape[0], channels, *space))
            return self.node("Reshape", [turned, self.ints([-1, int(np.prod(x.flattened))])], shape=x.shape, dtype=x.dtype)
        return self.ordered(x, natural(x.rank))

    def ordered(self, x: Operand, axes: tuple[int, ...]) -> Operand:
        """The tensor with its axes in another order."""
        if isinstance(x, GraphConstant):
            return x
        if x.flattened is not None:
            x = self._tensor(self.plain(x))
        if x.axes == axes:
            return x
        order = tuple(x.axes.index(axis) for axis in axes)
        value = self._transpose(x.value, order, tuple(x.shape[axis] for axis in x.axes))
        return GraphTensor(x.shape, x.dtype, value, axes)

    def first(self, x: Operand) -> GraphTensor:
        """The tensor with its channels first, as convolutions and pools want it."""
        x = self._tensor(x)
        return self._tensor(self.ordered(x, channels_first(x.rank)))

    def _tensor(self, x: Operand) -> GraphTensor:
        if isinstance(x, GraphTensor):
            return x
        return self.tensor(self.constant(x.array, x.name), tuple(x.shape), x.dtype)

    def as_tensor(self, x: Operand) -> GraphTensor:
        """A constant as a tensor of the graph; tensors stay."""
        return self._tensor(x)

    def _transpose(self, value: ir.Value, order: tuple[int, ...], shape: Shape) -> ir.Value:
        """A value with its axes in another order; `shape`: its dimensions."""
        if order == natural(len(order)):
            return value
        key = (value, order)
        if key in self._transposed:
            return self._transposed[key]
        producer = value.producer()
        source = None if producer is None or producer.op_type != "Transpose" else producer.inputs[0]
        if source is not None and producer is not None:
            before = producer.attributes["perm"].as_ints()
            back = tuple(np.argsort(before))
            result = self._transpose(source, tuple(before[i] for i in order), tuple(shape[i] for i in back))
        elif _keeps_order(order, shape):
            target = [shape[i] for i in order]
            result = self.emit("Reshape", [value, self.shape_of(target)], 1, {})[0]
        else:
            result = self.emit("Transpose", [value], 1, {"perm": order})[0]
        self._transposed[key] = result
        if result is not value:
            self._transposed[(result, tuple(int(i) for i in np.argsort(order)))] = value
        return result

    # --- sizes that are open ---

    def shape_of(self, shape: Sequence[int | Size]) -> ir.Value:
        """A shape as an int64 tensor, for Reshape (which may compute one dimension itself) and Expand.

        Raises:
            NotConvertible: an open dimension that no tensor has.
        """
        open_sizes = [size for size in shape if isinstance(size, Size)]
        if not open_sizes:
            return self.ints([int(size) for size in shape])  # type: ignore[arg-type]
        if len(open_sizes) == 1:
            return self.ints([-1 if isinstance(size, Size) else size for size in shape])
        return self.sizes(shape)

    def sizes(self, shape: Sequence[int | Size]) -> ir.Value:
        """A shape as an int64 tensor with every dimension computed."""
        if not any(isinstance(size, Size) for size in shape):
            return self.ints([int(size) for size in shape])  # type: ignore[arg-type]
        parts = [self.size(size) if isinstance(size, Size) else self.ints([size]) for size in shape]
        return self.emit("Concat", parts, 1, {"axis": 0})[0]

    def size(self, size: Size) -> ir.Value:
        """An open dimension as an int64 tensor of one element.

        Raises:
            NotConvertible: nothing in the graph tells it.
        """
        if size not in self._size_values:
            self._size_values[size] = self._computed(size)
        return self._size_values[size]

    def _computed(self, size: Size) -> ir.Value:
        if size in self._sizes:
            value, axis = self._sizes[size]
            return self.emit("Shape", [value], 1, {"start": axis, "end": axis + 1})[0]
        for known in list(self._sizes):  # a·d + b, (a·d + b) mod m, (d + b) // m
            if formula := _formula(known.trials, size.trials):
                factor, offset, modulus, divisor = formula
                x = self.size(known)
                if factor != 1:
                    x = self.emit("Mul", [x, self.ints([factor])], 1, {})[0]
                if offset:
                    x = self.emit("Add", [x, self.ints([offset])], 1, {})[0]
                if modulus:
                    x = self.emit("Mod", [x, self.ints([modulus])], 1, {})[0]
                if divisor:
                    x = self.emit("Div", [x, self.ints([divisor])], 1, {})[0]
                return x
        for one, other in itertools.combinations_with_replacement(list(self._sizes), 2):
            if all(a * b == n for a, b, n in zip(one.trials, other.trials, size.trials, strict=True)):
                return self.emit("Mul", [self.size(one), self.size(other)], 1, {})[0]
        raise NotConvertible("a number depends on the size of the batch or of the image in a way that is not known")

    def open_array(self, x: OpenArray, dtype: str) -> GraphTensor:
        """An array that is repeated along its open dimensions."""
        value = self.emit("Expand", [self.constant(x.array), self.sizes(x.shape)], 1, {})[0]
        return self.tensor(value, x.shape, dtype)


def _broadcast(shapes: Sequence[Shape]) -> Shape:
    """The shape of an operation on each value."""
    rank = max(len(shape) for shape in shapes)
    wide = [(1,) * (rank - len(shape)) + tuple(shape) for shape in shapes]
    return tuple(next((size for size in column if size != 1), 1) for column in zip(*wide, strict=True))


def _keeps_order(order: Sequence[int], shape: Shape) -> bool:
    """Whether only axes of size 1 change places."""
    moved = [axis for axis in order if shape[axis] != 1]
    return moved == sorted(moved)


def _formula(known: Sequence[int], wanted: Sequence[int]) -> tuple[int, int, int, int] | None:
    """Factor, offset, modulus and divisor (0: none) with which `wanted` follows from `known` in every trial."""
    span, rise = known[1] - known[0], wanted[1] - wanted[0]
    if span and rise % span == 0:
        factor = rise // span
        offset = wanted[0] - factor * known[0]
        if all(factor * k + offset == w for k, w in zip(known, wanted, strict=True)):
            return factor, offset, 0, 0
    if len(known) < 4:  # too few trials to tell such a rule from chance
        return None
    for modulus in range(2, 129):
        for sign in (1, -1):
            if all((sign * k) % modulus == w for k, w in zip(known, wanted, strict=True)):
                return sign, 0, modulus, 0
        for offset in (0, modulus - 1, -1, 1 - modulus, -modulus):
            if all((k + offset) // modulus == w for k, w in zip(known, wanted, strict=True)):
                return 1, offset, 0, modulus
            if offset and all((k + offset) // modulus + 1 == w for k, w in zip(known, wanted, strict=True)):
                return 1, offset + modulus, 0, modulus
    return None
