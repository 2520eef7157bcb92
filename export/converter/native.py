"""Keras models to ONNX graphs, on any backend of Keras.

A model is a layer whose call is traced (`export.converter.trace`), and so is each layer in it, down to operations of `keras.ops`.
These have a converter each, in `export.converter.operations`; layers that are one ONNX operator, or that do not call `keras.ops`,
have one too (`export.converter.layers`). So custom layers and subclassed models need nothing of their own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

from export.converter.graph import GraphConstant, GraphTensor, GraphWriter, Operand, stored_dtype
from export.converter.trace import NotConvertible, OpenArray, Step, Symbol, trace

__all__ = ["ACTIVATIONS", "LAYERS", "ONE_SIZE", "OPERATIONS", "Converter", "converter_of", "layer", "operation", "traceable"]

#: What to do where a model of open sizes fails on the sizes that are tried.
ONE_SIZE = (
    "; if it takes images of one size only, give it an input of that size: keras.Model(x := keras.Input((H, W, C)), model(x))"
)

#: Converters of operations by the name of their class, of layers by their class.
OPERATIONS: dict[str, Callable[..., Any]] = {}
LAYERS: dict[type, Callable[..., Any]] = {}

#: Activation functions that do not accept symbolic tensors, by what they compute.
ACTIVATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    keras.activations.hard_silu: keras.ops.hard_silu,
    keras.activations.sparsemax: keras.ops.sparsemax,
    keras.activations.hard_swish: keras.ops.hard_silu,
    keras.activations.mish: lambda x: x * keras.ops.tanh(keras.ops.softplus(x)),
}


def operation(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register the converter of operations: ``f(converter, step, *args, **kwargs)`` with tensors and constants as arguments."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        OPERATIONS.update(dict.fromkeys(names, function))
        return function

    return register


def layer(*kinds: type) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register the converter of layers: ``f(converter, layer, *args, **kwargs)``; `NotImplemented` leaves it to the tracing."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        LAYERS.update(dict.fromkeys(kinds, function))
        return function

    return register


#: What a class derived from a layer may define without changing what the layer does to tensors in inference.
_HARMLESS = frozenset(
    {"__init__", "build", "get_config", "from_config", "compute_output_shape", "get_build_config", "build_from_config"}
)


def converter_of(kind: type) -> Callable[..., Any] | None:
    """The converter of a layer's class: Keras's own, or one derived from it that changes nothing that counts."""
    for base in kind.__mro__:
        if base in LAYERS:
            return LAYERS[base]
        if (
            base.__module__.startswith("keras.src.")
            or {n for n in vars(base) if callable(getattr(base, n)) or isinstance(vars(base)[n], property)} - _HARMLESS
        ):
            return None
    return None


class Converter:
    """Writes what layers and functions do into a graph.

    Args:
        graph: to write into.
        trials: number of sizes that open dimensions take, see `export.converter.trace`.
        name: of the exported model; a model of that name inside it adds nothing to the names of nodes.
    """

    def __init__(self, graph: GraphWriter, trials: int, name: str = "") -> None:
        self.graph = graph
        self.trials = trials
        self.name = name
        self._variables: dict[int, tuple[Any, np.ndarray]] = {}

    def weight(self, variable: Any) -> GraphConstant:
        """A variable as a constant, called after it."""
        if isinstance(variable, GraphConstant):
            return variable
        if not isinstance(variable, keras.Variable):
            return GraphConstant(np.asarray(keras.ops.convert_to_numpy(variable)))
        if id(variable) not in self._variables:
            array = np.asarray(keras.ops.convert_to_numpy(variable))
            self._variables[id(variable)] = (variable, array)
        return GraphConstant(self._variables[id(variable)][1], "/".join([*self.graph.scope, variable.name]))

    def forget_weights(self) -> None:
        """Free the copies of the variables that stand in the graph in another order of axes."""
        self._variables.clear()

    def activate(self, function: Callable[..., Any] | None, x: Operand) -> Any:
        """What an activation function makes of a tensor."""
        return x if function is None else self.call(ACTIVATIONS.get(function, function), x)

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What a function of Keras operations makes of tensors.

        Args:
            function: takes and returns tensors, in any structure.
            *args: tensors, constants and other values.
            **kwargs: likewise.

        Returns:
            The structure with an `Operand` for each tensor.
        """
        return self.call_masked(function, args, kwargs, ())

    def call_masked(
        self, function: Callable[..., Any], args: Any, kwargs: dict[str, Any], masks: Sequence[tuple[Operand, Operand]]
    ) -> Any:
        """As `call`, with masks that Keras attaches to tensors."""
        known: dict[Symbol, Operand] = {}

        def symbol(value: Any) -> Any:
            if isinstance(value, GraphConstant):
                one = Symbol(value.shape, value.dtype)
                known[one] = value
                return one
            if isinstance(value, GraphTensor):
                known[value] = value
            return value

        inside = isinstance(getattr(function, "__self__", None), (keras.Model, keras.Sequential))
        pairs = [(symbol(x), symbol(mask)) for x, mask in masks if isinstance(x, GraphTensor)]
        steps, result = trace(function, _leaves(symbol, args), _leaves(symbol, kwargs), self.trials, pairs)
        for step in steps:
            outputs = self._step(step, known, named=inside)
            known.update(zip(step.outputs, outputs, strict=True))
        return _leaves(lambda value: known[value] if isinstance(value, Symbol) else self._argument(value, known), result)

    def _argument(self, value: Any, known: Mapping[Symbol, Operand]) -> Any:
        if isinstance(value, Symbol):
            return known[value]
        if isinstance(value, OpenArray):
            return self.graph.open_array(value, str(value.array.dtype))
        if isinstance(value, keras.Variable) or keras.ops.is_tensor(value):
            return self.weight(value)
        if isinstance(value, (np.ndarray, np.generic)):
            return GraphConstant(np.asarray(value))
        return value

    def _step(self, step: Step, known: Mapping[Symbol, Operand], *, named: bool) -> list[Operand]:
        args = _leaves(lambda value: self._argument(value, known), step.args)
        kwargs = _leaves(lambda value: self._argument(value, known), step.kwargs)
        what, graph = step.operations[0], self.graph
        is_layer = isinstance(what, keras.Layer)
        own_level = isinstance(what, keras.Model) and what.name == self.name and not graph.scope
        before = graph.result
        with graph.named(what.name if (is_layer or named) and not own_level else ""):
            if step.outputs:
                graph.result = step.outputs[0]
            try:
                result = self._layer(step, args, kwargs, known) if is_layer else self._operation(step, args, kwargs)
            except NotConvertible as error:
                if "\n" in str(error):
                    raise
                place = "/".join(graph.scope) or self.name
                kind = f"{type(what).__name__}"
                raise NotConvertible(f"{place} ({kind})\n{error}") from error
            finally:
                graph.result = before
            results = [item for item in _flat(result) if isinstance(item, (GraphTensor, GraphConstant))]
            outputs = [_described(item, symbol) for item, symbol in zip(results, step.outputs, strict=True)]
            if (is_layer or named) and graph.scope:
                graph.name_outputs([item.value for item in outputs if isinstance(item, GraphTensor)])
        return outputs

    def _operation(self, step: Step, args: Any, kwargs: Any) -> Any:
        what = step.operations[0]
        own = type(what).__module__.startswith("keras.src.")
        converter = OPERATIONS.get(type(what).__name__) if own else None
        if converter is not None:
            return converter(self, step, *args, **kwargs)
        if not own and self.trials and hasattr(what, "call"):
            return self.call(what.call, *args, **kwargs)
        raise NotConvertible(f"the operation {type(what).__name__} of keras.ops has no converter")

    def _layer(self, step: Step, args: Any, kwargs: Any, known: Mapping[Symbol, Operand]) -> Any:
        what = step.operations[0]
        if getattr(what, "quantization_mode", None) is not None:
            raise NotConvertible("the layer is quantized by Keras: export the model before, and quantize the file")
        converter = converter_of(type(what))
        if converter is not None:
            stated = {k: v for k, v in kwargs.items() if v is not None and not (k == "training" and not v)}
            result = converter(self, what, *args, **stated)
            if result is not NotImplemented:
                return result
        kwargs = {key: value for key, value in kwargs.items() if key != "training" or value}
        if "training" in inspect.signature(what.call).parameters:
            kwargs.setdefault("training", False)

        def call(*args: Any, **kwargs: Any) -> Any:
            def cast(x: Any) -> Any:
                y = what.dtype_policy.convert_input(x, what.autocast, what.input_dtype)
                if y is not x and (mask := getattr(x, "_keras_mask", None)) is not None:
                    y._keras_mask = mask
                return y

            if what._convert_input_args:
                args, kwargs = keras.tree.map_structure(cast, (args, kwargs))
            return what.call(*args, **kwargs)

        call.__self__ = what  # type: ignore[attr-defined]
        try:
            with traceable(what):
                masks = [(known[x], known[mask]) for x, mask in step.masks]
                return self.call_masked(call, args, kwargs, masks)
        except NotConvertible:
            raise
        except Exception as error:
            text = str(error).strip().split("\n")[0][:300]
            if "KerasTensor" in text:
                text = "it calls the backend's functions: write them in keras.ops, or do this before the model"
            hint = ONE_SIZE if self.trials > 2 else ""
            kind = type(error).__name__
            raise NotConvertible(f"its call does more than operations of keras.ops: {kind}: {text}{hint}") from error


@contextmanager
def traceable(*layers: Any) -> Iterator[None]:
    """Give layers activation functions that accept symbolic tensors, in the place of those that do not."""
    before = [(vars(one), name, value) for one in layers for name, value in vars(one).items() if _is_opaque(value)]
    try:
        for attributes, name, value in before:
            attributes[name] = ACTIVATIONS[value]
        yield
    finally:
        for attributes, name, value in before:
            attributes[name] = value


def _is_opaque(value: Any) -> bool:
    return inspect.isroutine(value) and value in ACTIVATIONS


def _leaves(function: Callable[[Any], Any], value: Any) -> Any:
    """`value` with the function applied to the leaves of its tuples, lists and dicts."""
    if isinstance(value, (tuple, list)):
        items = [_leaves(function, item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, dict):
        return {key: _leaves(function, item) for key, item in value.items()}
    return function(value)


def _flat(value: Any) -> list[Any]:
    """The leaves, in Keras's order (that of sorted keys in dicts)."""
    if isinstance(value, (tuple, list)):
        return [leaf for item in value for leaf in _flat(item)]
    if isinstance(value, dict):
        return [leaf for key in sorted(value) for leaf in _flat(value[key])]
    return [value]


def _described(item: Operand, symbol: Symbol) -> Operand:
    """An operand with the 16-bit dtype that Keras states; some layers state wrong shapes, or less than they know."""
    if isinstance(item, GraphConstant):
        return item
    shape = symbol.shape if None in item.shape and len(symbol.shape) == item.rank else item.shape
    dtype = symbol.dtype if stored_dtype(symbol.dtype) == stored_dtype(item.dtype) else item.dtype
    return GraphTensor(shape, dtype, item.value, item.axes, item.flattened)
