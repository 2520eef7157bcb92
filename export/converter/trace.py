"""Calls of Keras layers and functions as lists of the operations that they make.

Keras records every operation on symbolic tensors as a node, so that a call with `KerasTensor` arguments tells what a layer does,
whichever backend Keras runs on and whether the layer is Keras's own or not. Open dimensions (the batch; height and width of a model
for images of any size) take several sizes, one in each trial: a number that is the same in all trials is a constant of the layer,
and one that varies depends on open dimensions.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

__all__ = ["NotConvertible", "OpenArray", "Size", "Step", "Symbol", "clean_up", "common", "trace"]


#: Python's operators of two values.
_OPERATORS = [
    f"__{name}__"
    for name in (
        *("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor"),
        *("lt", "le", "gt", "ge", "eq", "ne"),
    )
]


class NotConvertible(Exception):
    """There is no converter for what a layer does; the text tells what it is."""


@dataclass(frozen=True)
class Size:
    """An open dimension, or a number that depends on open dimensions: its value in each trial."""

    trials: tuple[int, ...]

    def at(self, trial: int) -> int:
        """The value in one trial."""
        return self.trials[trial]


@dataclass(frozen=True, eq=False)
class OpenArray:
    """An array with the same values along its open dimensions, which have size 1 in `array`."""

    array: np.ndarray
    shape: tuple[int | Size, ...]


@dataclass(frozen=True, eq=False)
class Symbol:
    """A tensor as the tracing sees it: `shape` and `dtype` are Keras's."""

    shape: tuple[int | Size, ...]
    dtype: str


@dataclass(frozen=True, eq=False)
class Step:
    """A call of an operation.

    Attributes:
        operations: the operation in each trial: the same layer, or functions with the arguments of the trial.
        args: positional arguments; tensors are instances of `Symbol`, numbers may be instances of `Size`.
        kwargs: keyword arguments.
        outputs: what the operation returns, flattened.
        masks: for tensors among the arguments of a layer, the masks that Keras attaches to them.
    """

    operations: tuple[Any, ...]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: tuple[Symbol, ...]
    masks: tuple[tuple[Symbol, Symbol], ...] = ()

    @property
    def kind(self) -> str:
        """Name of the operation's class."""
        return type(self.operations[0]).__name__

    def __getattr__(self, name: str) -> Any:
        """An attribute of the operation, such as its axis."""
        if name.startswith("__"):
            raise AttributeError(name)
        return common([getattr(operation, name) for operation in self.operations])


def trace(
    function: Callable[..., Any],
    args: Sequence[Any],
    kwargs: dict[str, Any],
    trials: int,
    masks: Sequence[tuple[Symbol, Symbol]] = (),
) -> tuple[list[Step], Any]:
    """Call a function with symbolic tensors.

    Args:
        function: of Keras operations; it may hold variables.
        args: with a `Symbol` for each tensor.
        kwargs: likewise.
        trials: number of trials.
        masks: of tensors among the arguments, as Keras attaches them to tensors.

    Returns:
        The steps in order, and the result with a `Symbol` for each tensor.

    Raises:
        NotConvertible: the function does different things for different sizes.
    """
    runs = [_Trial(trial, dict(masks)) for trial in range(trials)]
    results = [run.call(function, args, kwargs) for run in runs]
    if len({tuple(type(node.operation) for node in run.nodes) for run in runs}) != 1:
        raise NotConvertible("its operations depend on the size of the batch or of the image")

    def symbol(values: Sequence[Any]) -> Any:
        """The tensor that has these symbolic tensors in the trials."""
        found = [run.symbols.get(id(value)) for value, run in zip(values, runs, strict=True)]
        if found[0] is None or any(one is not found[0] for one in found):
            raise NotConvertible("its operations depend on the size of the batch or of the image")
        return found[0]

    steps = []
    for nodes in zip(*(run.nodes for run in runs), strict=True):
        args_, kwargs_, masks_ = common([run.arguments(node) for run, node in zip(runs, nodes, strict=True)], symbol)
        outputs = []
        for tensors in zip(*(node.outputs for node in nodes), strict=True):
            if None in tensors[0].shape:
                operation = nodes[0].operation
                raise NotConvertible(
                    f"{operation.name} ({type(operation).__name__})\n"
                    "its compute_output_spec leaves a size open that follows from the input's; leave it to Keras"
                )
            outputs.append(Symbol(common([tuple(tensor.shape) for tensor in tensors]), tensors[0].dtype))
            for tensor, run in zip(tensors, runs, strict=True):
                run.symbols[id(tensor)] = outputs[-1]
        steps.append(Step(tuple(node.operation for node in nodes), args_, kwargs_, tuple(outputs), masks_))
    result = common(results, symbol)
    for run in runs:
        for node in reversed(run.nodes):
            _forget(node)
    return steps, result


class _Trial:
    """One call of a function, with one size for each open dimension.

    Attributes:
        nodes: Keras's nodes of the call, in order.
        symbols: what the symbolic tensors of this trial stand for, by their id.
    """

    def __init__(self, number: int, masks: dict[Symbol, Symbol]) -> None:
        self.number = number
        self._masks = masks
        self._calls: dict[int, tuple[Any, ...]] = {}  # of layers, by the id of their first output
        self.nodes: list[Any] = []
        self.symbols: dict[int, Symbol] = {}
        self._leaves: dict[int, Any] = {}  # which also keeps the ids from being used again

    def call(self, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Call the function with symbolic tensors."""
        with _recorded(self._calls):
            result = function(*_mapped(self._symbolic, tuple(args)), **_mapped(self._symbolic, kwargs))
        self.nodes = self._nodes(result)
        return result

    def arguments(self, node: Any) -> tuple[Any, Any, Any]:
        """Positional and keyword arguments of a node's call, and the masks of the tensors among them."""
        call = self._calls.get(id(node.outputs[0])) if node.outputs else None
        return (node.arguments.args, node.arguments.kwargs, ()) if call is None else call

    def _nodes(self, result: Any) -> list[Any]:
        """Keras's nodes between the leaves and a result, each after those that it depends on."""
        stop = {id(leaf) for leaf in self._leaves.values()}
        order: list[Any] = []
        seen: set[int] = set()
        todo = [(tensor, False) for tensor in reversed(_tensors(result))]
        while todo:
            item, done = todo.pop()
            if done:
                order.append(item)
                continue
            history = getattr(item, "_keras_history", None)
            if id(item) in stop or history is None or history.operation is None:
                continue
            node = history.operation._inbound_nodes[history.node_index]
            if id(node) in seen:
                continue
            seen.add(id(node))
            todo.append((node, True))
            todo += [(tensor, False) for tensor in reversed(_tensors(self.arguments(node)))]
        return order

    def _symbolic(self, value: Any) -> Any:
        if isinstance(value, Size):
            return value.at(self.number)
        if isinstance(value, OpenArray):
            return keras.ops.convert_to_tensor(np.broadcast_to(value.array, self._shape(value.shape)))
        if not isinstance(value, Symbol):
            return value
        if id(value) not in self._leaves:
            self._leaves[id(value)] = keras.KerasTensor(self._shape(value.shape), value.dtype)
            self.symbols[id(self._leaves[id(value)])] = value
            if value in self._masks:
                self._leaves[id(value)]._keras_mask = self._symbolic(self._masks[value])
        return self._leaves[id(value)]

    def _shape(self, shape: Sequence[int | Size]) -> list[int]:
        return [size.at(self.number) if isinstance(size, Size) else size for size in shape]


def _tensors(value: Any) -> list[Any]:
    return [tensor for tensor in keras.tree.flatten(value) if isinstance(tensor, keras.KerasTensor)]


def _mapped(function: Callable[[Any], Any], value: Any) -> Any:
    """`value` with the function applied to all leaves of its tuples, lists and dicts."""
    if isinstance(value, (tuple, list)):
        items = [_mapped(function, item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, dict):
        return {key: _mapped(function, item) for key, item in value.items()}
    return function(value)


def common(values: Sequence[Any], symbol: Callable[[Sequence[Any]], Any] | None = None) -> Any:
    """What the same place holds in all trials: the value, a `Size` or an `OpenArray`.

    Args:
        values: one a trial.
        symbol: makes one tensor of the symbolic tensors of all trials.

    Raises:
        NotConvertible: the values differ in another way.
    """
    first = values[0]
    if symbol is not None and isinstance(first, keras.KerasTensor):
        return symbol(values)
    if all(value is first for value in values):
        return first
    if isinstance(first, (tuple, list)) and all(len(value) == len(first) for value in values):
        items = [common(row, symbol) for row in zip(*values, strict=True)]
        return type(first)(*items) if hasattr(first, "_fields") else type(first)(items)
    if isinstance(first, dict) and all(value.keys() == first.keys() for value in values):
        return {key: common([value[key] for value in values], symbol) for key in first}
    if isinstance(first, slice):
        return slice(*common([(value.start, value.stop, value.step) for value in values], symbol))
    if isinstance(first, (int, np.integer)) and not isinstance(first, bool):
        numbers = tuple(int(value) for value in values)
        return first if len(set(numbers)) == 1 else Size(numbers)
    if isinstance(first, np.ndarray) or keras.ops.is_tensor(first):
        return _common_array([np.asarray(keras.ops.convert_to_numpy(value)) for value in values])
    if type(first).__eq__ is object.__eq__ or all(  # type: ignore[comparison-overlap]
        value == first for value in values
    ):
        return first
    raise NotConvertible(f"a value depends on the size of the batch or of the image: {values}")


def _common_array(arrays: Sequence[np.ndarray]) -> np.ndarray | OpenArray:
    first = arrays[0]
    if all(array.shape == first.shape for array in arrays):
        if all(np.array_equal(array, first, equal_nan=array.dtype.kind == "f") for array in arrays):
            return first
        raise NotConvertible("it draws random numbers, or its constants depend on the size of the batch or of the image")
    if len({array.ndim for array in arrays}) != 1:
        raise NotConvertible("the rank of a constant depends on the size of the batch or of the image")
    shape = common([array.shape for array in arrays])
    corner = tuple(slice(0, 1) if isinstance(size, Size) else slice(None) for size in shape)
    small = first[corner]
    if any(not np.array_equal(array, np.broadcast_to(small, array.shape)) for array in arrays):
        raise NotConvertible("the values of a constant depend on the size of the batch or of the image")
    return OpenArray(np.ascontiguousarray(small), shape)


@contextmanager
def _recorded(calls: dict[int, tuple[Any, ...]]) -> Iterator[None]:
    """Note the calls of layers with symbolic tensors, and let variables stand left of symbolic tensors.

    Keras's nodes lack the masks that it attaches to tensors, and passes on unseen; `keras.layers.MultiHeadAttention` takes them off
    its inputs when it runs, which is done here as well. A layer inside another may return more than tensors, such as None for a score
    that is not asked for: Keras's nodes hold the tensors. ``variable * tensor`` leaves Keras's functions at once for the backend's.
    """
    original = keras.Layer.symbolic_call
    layers = sys.modules[keras.Layer.__module__]
    original_node = layers.Node

    def symbolic_call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        masks = tuple((x, mask) for x in _tensors((args, kwargs)) if (mask := getattr(x, "_keras_mask", None)) is not None)
        try:
            outputs = original(layer, *args, **kwargs)
        except TypeError:  # its compute_output_spec does not take the arguments of its call
            outputs = layer.call(*args, **kwargs)
        if isinstance(layer, keras.layers.EinsumDense) and None in outputs.shape:  # it states less than it knows
            operands = [keras.KerasTensor(x.shape) for x in (*_tensors((args, kwargs))[:1], layer.kernel)]
            outputs = keras.KerasTensor(keras.ops.einsum(layer.equation, *operands).shape, outputs.dtype)
        if isinstance(layer, keras.layers.MultiHeadAttention):
            for tensor, _ in masks:
                tensor._keras_mask = None
        for tensor in _tensors(outputs)[:1]:
            calls[id(tensor)] = (args, kwargs, masks)
        return outputs

    def node(*args: Any, outputs: Any, **kwargs: Any) -> Any:
        return original_node(*args, outputs=_tensors(outputs), **kwargs)

    def left_of(operator: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        def apply(variable: Any, other: Any) -> Any:
            return NotImplemented if isinstance(other, keras.KerasTensor) else operator(variable, other)

        return apply

    base = next(kind for kind in keras.Variable.__mro__ if "__mul__" in vars(kind))
    replaced: list[tuple[Any, str, Any]] = [(keras.Layer, "symbolic_call", original), (layers, "Node", original_node)]
    replaced += [(base, name, vars(base)[name]) for name in _OPERATORS if name in vars(base)]
    try:
        keras.Layer.symbolic_call = symbolic_call
        setattr(layers, "Node", node)  # noqa: B010
        for kind, name, operator in replaced[2:]:
            setattr(kind, name, left_of(operator))
        yield
    finally:
        for kind, name, method in replaced:
            setattr(kind, name, method)


def _forget(node: Any) -> None:
    """Take a node out of its operations, which otherwise would seem to be used once more in the user's model."""
    if node in node.operation._inbound_nodes:
        node.operation._inbound_nodes.remove(node)
    for tensor in node.arguments.keras_tensors:
        operation = tensor._keras_history.operation
        if operation is not None and node in operation._outbound_nodes:
            operation._outbound_nodes.remove(node)


@contextmanager
def clean_up(model: keras.Model) -> Iterator[None]:
    """Leave the layers of a model as they were: without the nodes of calls whose results nothing uses."""
    layers = list(model._flatten_layers())
    before = [(len(layer._inbound_nodes), len(layer._outbound_nodes)) for layer in layers]
    try:
        yield
    finally:
        for layer, (inbound, outbound) in zip(layers, before, strict=True):
            del layer._inbound_nodes[inbound:]
            del layer._outbound_nodes[outbound:]
