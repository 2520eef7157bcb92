"""The symbolic graph inside a Keras model: which calls it is made of, and the shape of every tensor between them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from kerascv_course.core.errors import InputError

__all__ = ["Shapes", "calls", "functional_of", "is_keras", "nested"]


def functional_of(model: Any, input_shape: Sequence[int] | None) -> Any:
    """The functional graph of a model; builds a Sequential one that has no shapes yet.

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
        f"a Keras model is analysed through its graph, which Functional and Sequential models have; {name!r} is a "
        f"{type(model).__name__}: build it functionally, or export it and analyse the .onnx file"
    )


def is_keras(thing: Any, name: str) -> bool:
    """Whether a thing is of a Keras class of this name, or inherits from one."""
    return any(cls.__name__ == name and cls.__module__.startswith("keras.") for cls in type(thing).__mro__)


class Shapes:
    """The shape of every symbolic tensor of a model, worked out anew where an input shape is given."""

    def __init__(self, functional: Any, input_shape: Sequence[int] | None) -> None:
        self.known: dict[int, tuple[int, ...]] = {}
        inputs = functional.inputs
        declared = [tuple(t.shape[1:]) for t in inputs]
        if input_shape is None or declared == [tuple(input_shape)]:
            for shape in declared:
                if any(n is None for n in shape):
                    raise InputError(
                        f"the input of {functional.name!r} is {_show(shape)} with open axes: give input_shape "
                        f"(--input-shape), such as {_show(tuple(n or 224 for n in shape))}"
                    )
            return
        if len(inputs) != 1:
            raise InputError(f"input_shape is for models with one input; {functional.name!r} has {len(inputs)}")
        # a layer that the new size does not suit will say so; the channels cannot change
        whole = all(isinstance(n, int) and n > 0 for n in input_shape)
        if not whole or len(input_shape) != len(declared[0]) or declared[0][-1] not in (None, input_shape[-1]):
            raise InputError(
                f"input_shape {_show(input_shape)} does not fit the input {_show(declared[0])} of {functional.name!r}"
            )
        self.propagate(functional, [tuple(input_shape)])

    def propagate(self, functional: Any, shapes: list[tuple[int, ...]]) -> None:
        """Work out all shapes of a graph for these input shapes, without the batch axis."""
        tensor_type = type(functional.inputs[0])
        while tensor_type.__name__ != "KerasTensor":
            tensor_type = tensor_type.__mro__[1]
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
                    f"layer {op.name!r} refuses the shapes that follow from input_shape: {str(error).splitlines()[0]}"
                ) from error
            flat = list(_flat(out))
            for old, new in zip(node.output_tensors, flat, strict=True):
                specs[id(old)] = new
        for key, spec in specs.items():
            self.known[key] = tuple(spec.shape)

    def __call__(self, tensor: Any) -> tuple[int, ...]:
        """The shape of a symbolic tensor for one image; an axis still open counts 1."""
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


def nested(op: Any) -> Any | None:
    """The functional graph inside a layer that is itself a model."""
    if is_keras(op, "Sequential"):
        return getattr(op, "_functional", None)
    return op if is_keras(op, "Functional") else None


def calls(functional: Any) -> list[Any]:
    """Calls of layers in computing order, from the history that Keras keeps on its symbolic tensors."""
    found: dict[int, Any] = {}
    known = {id(t) for t in functional.inputs}
    stack = [(t, False) for t in reversed(functional.outputs)]
    while stack:
        tensor, ready = stack.pop()
        if id(tensor) in known:
            continue
        history = tensor._keras_history
        node = history.operation._inbound_nodes[history.node_index]
        if ready:
            found[id(node)] = node
            known.update(id(t) for t in node.output_tensors)
        else:
            stack.append((tensor, True))
            stack.extend((t, False) for t in reversed(node.input_tensors))
    return list(found.values())
