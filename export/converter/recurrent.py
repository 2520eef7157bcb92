"""Recurrent layers: ONNX's LSTM, GRU and RNN where their options permit, else a cell for each step of a stated number of steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import layers

from export.converter.graph import GraphConstant, GraphTensor, Operand
from export.converter.native import Converter, layer, traceable
from export.converter.trace import NotConvertible, Size

__all__: list[str] = []

#: Activation functions that ONNX's operators have inside, with their parameters alpha and beta.
_INSIDE: dict[Callable[..., Any], tuple[str, tuple[float, ...]]] = {
    keras.activations.tanh: ("Tanh", ()),
    keras.activations.sigmoid: ("Sigmoid", ()),
    keras.activations.relu: ("Relu", ()),
    keras.activations.softsign: ("Softsign", ()),
    keras.activations.softplus: ("Softplus", ()),
    keras.activations.linear: ("Affine", (1.0, 0.0)),
    keras.activations.hard_sigmoid: ("HardSigmoid", (1 / 6, 0.5)),
}

#: Operators by the cell: order of ONNX's gates in Keras's kernels, and which activations: of the gates, of the new values.
_FORMS: dict[type, tuple[str, tuple[int, ...], tuple[str, ...]]] = {
    layers.LSTMCell: ("LSTM", (0, 3, 1, 2), ("recurrent_activation", "activation", "activation")),
    layers.GRUCell: ("GRU", (0, 1, 2), ("recurrent_activation", "activation")),
    layers.SimpleRNNCell: ("RNN", (0,), ("activation",)),
}
_DEFAULTS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}


@layer(layers.RNN, layers.SimpleRNN, layers.LSTM, layers.GRU, layers.ConvLSTM1D, layers.ConvLSTM2D, layers.ConvLSTM3D)
def _recurrent(c: Converter, what: Any, x: Operand, initial_state: Any = None, mask: Any = None, training: bool = False) -> Any:
    if training:
        raise NotConvertible("a recurrent layer in training: call it without training=True")
    outputs, states = run(c, what, x, initial_state, mask)
    return (outputs, *states) if what.return_state else outputs


def run(
    c: Converter, what: Any, x: Operand, initial_state: Any, mask: Operand | None, *, in_order: bool = False
) -> tuple[Operand, list[Any]]:
    """What a recurrent layer makes of sequences.

    Args:
        c: the converter.
        what: `keras.layers.RNN`, or a layer derived from it.
        x: (batch, steps, features…).
        initial_state: a tensor or a list of them; None: zeros.
        mask: (batch, steps), True where a step counts; None: all do.
        in_order: the outputs of a layer that goes backwards come in the order of its input, not in its own.

    Returns:
        The last output or, of a layer that returns sequences, all; and the states.

    Raises:
        NotConvertible: the layer keeps its state between calls, or needs an operator that ONNX does not have for an open number of
            steps.
    """
    if what.stateful and initial_state is None:
        raise NotConvertible(
            "the layer is stateful, a file keeps nothing between calls: make it stateful=False, and its states inputs and "
            "outputs of the model by initial_state= and return_state=True"
        )
    x = c.graph.as_tensor(x)
    given = (
        None if initial_state is None else list(initial_state) if isinstance(initial_state, (list, tuple)) else [initial_state]
    )
    if mask is None and (parts := _parts(what)) is not None:
        return _fused(c, what, (x, given), parts, in_order=in_order)
    if isinstance(x.shape[1], Size):
        reason = "a mask" if mask is not None else f"the cell {type(what.cell).__name__} with these options"
        raise NotConvertible(
            f"{reason} over an open number of steps: give the model's input a stated length, as in keras.Input((20, features))"
        )
    return _unrolled(c, what, x, given, mask, in_order=in_order)


def _parts(what: Any) -> tuple[str, tuple[int, ...], list[tuple[str, tuple[float, ...]]]] | None:
    """The operator, the order of its gates and its activations; None: ONNX has no operator for the layer's cell."""
    form = _FORMS.get(type(what.cell))
    if form is None or not type(what).inner_loop.__module__.startswith("keras.src."):
        return None
    kind, order, names = form
    functions = [_INSIDE.get(getattr(what.cell, name)) for name in names]
    return None if None in functions else (kind, order, [found for found in functions if found is not None])


def _fused(c: Converter, what: Any, inputs: Any, parts: Any, *, in_order: bool) -> tuple[Operand, list[Any]]:
    """The layer as one ONNX operator; its tensors are (steps, batch, features)."""
    (x, given), (kind, order, functions), graph, cell = inputs, parts, c.graph, what.cell
    units, dtype = cell.units, what.compute_dtype
    batch, steps = x.shape[:2]
    names = [name for name, _ in functions]
    attributes: dict[str, Any] = {"hidden_size": units, "direction": "reverse" if what.go_backwards else None}
    if names != _DEFAULTS[kind]:
        numbers = [values for _, values in functions if values]
        attributes |= {"activations": names}
        attributes |= (
            {"activation_alpha": [a for a, _ in numbers], "activation_beta": [b for _, b in numbers]} if numbers else {}
        )
    if kind == "GRU" and cell.reset_after:
        attributes["linear_before_reset"] = 1
    weights = [_gates(c.weight(kernel), order) for kernel in (cell.kernel, cell.recurrent_kernel)]
    bias = _biases(c.weight(cell.bias), order) if cell.use_bias else None
    wide = [
        graph.node("Unsqueeze", [graph.plain(state), graph.ints([0])], shape=(1, *state.shape), dtype=dtype)
        for state in given or []
    ]
    values = [graph.ordered(x, (1, 0, 2)), *weights, bias, None, *wide]
    while values[-1] is None:
        values.pop()
    found = graph.emit(kind, values, 3 if kind == "LSTM" else 2, attributes)
    states = [graph.node("Squeeze", [value, graph.ints([0])], shape=(batch, units), dtype=dtype) for value in found[1:]]
    if not what.return_sequences:
        return states[0], states
    outputs = graph.node("Squeeze", [found[0], graph.ints([1])], shape=(batch, steps, units), dtype=dtype, axes=(1, 0, 2))
    if what.go_backwards and not in_order:
        outputs = graph.as_tensor(c.call(lambda x: keras.ops.flip(x, axis=1), outputs))
    return outputs, states


def _gates(kernel: GraphConstant, order: Sequence[int]) -> GraphConstant:
    """A kernel (inputs, gates · units) as ONNX has it: (1, gates · units, inputs)."""
    parts = np.split(np.asarray(kernel.array, np.float32), len(order), axis=1)
    return GraphConstant(np.concatenate([parts[i] for i in order], axis=1).T[None], kernel.name)


def _biases(bias: GraphConstant, order: Sequence[int]) -> GraphConstant:
    """A bias (gates · units), or (2, gates · units) of input and state, as ONNX has it: (1, 2 · gates · units)."""
    array = np.asarray(bias.array, np.float32)
    rows = array if array.ndim == 2 else np.stack([array, np.zeros_like(array)])
    parts = [np.split(row, len(order)) for row in rows]
    return GraphConstant(np.concatenate([part[i] for part in parts for i in order])[None], bias.name)


def _unrolled(
    c: Converter, what: Any, x: GraphTensor, given: Any, mask: Operand | None, *, in_order: bool
) -> tuple[Operand, list[Any]]:
    """The layer as a cell for each step; where a step is masked, outputs and states stay as they were."""
    ops, steps = keras.ops, range(int(x.shape[1]))  # type: ignore[arg-type]
    if x.rank > 3 and getattr(what, "data_format", None) == "channels_last":  # turned once, not a step at a time
        x = c.graph.as_tensor(c.graph.ordered(x, (0, 1, x.rank - 1, *range(2, x.rank - 1))))

    def where(mask: Any, new: Any, old: Any) -> Any:
        mask = ops.reshape(mask, (*mask.shape[:1], *[1] * (len(new.shape) - 1)))
        return ops.where(mask, new, 0.0 if old is None else old)

    def compute(x: Any, states: Any, mask: Any) -> Any:
        states = what.get_initial_state(batch_size=x.shape[0]) if states is None else states
        outputs: list[Any] = []
        for t in reversed(steps) if what.go_backwards else steps:
            output, new = _cell(what.cell, x[:, t], states)
            new = list(new) if isinstance(new, (list, tuple)) else [new]
            if mask is not None:
                now = mask[:, t]
                old = None if what.zero_output_for_mask or not outputs else outputs[-1]
                output = where(now, output, old)
                new = keras.tree.map_structure(lambda a, b, now=now: where(now, a, b), new, list(states))
            outputs.append(output)
            states = new
        if not what.return_sequences:
            return outputs[-1], states
        return ops.stack(outputs[::-1] if what.go_backwards and in_order else outputs, axis=1), states

    mask = mask if mask is None or mask.dtype == "bool" else c.call(lambda x: ops.cast(x, "bool"), mask)
    result, states = c.call(compute, x, given, mask)
    return result, states


def _cell(cell: Any, x: Any, states: Any) -> Any:
    """One step of a cell: its output and its new states; without `Layer.__call__`, which takes long on symbolic tensors."""
    if type(cell) is layers.StackedRNNCells:
        new = []
        for one, state in zip(cell.cells, states, strict=True):
            nested = isinstance(state, (list, tuple))
            x, after = _cell(one, x, list(state) if nested else [state])
            after = list(after) if isinstance(after, (list, tuple)) else [after]
            new.append(after if nested or len(after) > 1 else after[0])
        return x, new[0] if len(new) == 1 else new
    training = {"training": False} if getattr(cell, "_call_has_training_arg", False) else {}
    with traceable(cell):
        return cell.call(x, states, **training) if hasattr(cell, "call") else cell(x, states, **training)


@layer(layers.Bidirectional)
def _bidirectional(
    c: Converter, what: Any, x: Operand, initial_state: Any = None, mask: Any = None, training: bool = False
) -> Any:
    both = (what.forward_layer, what.backward_layer)
    if training or not all(isinstance(one, layers.RNN) for one in both):
        return NotImplemented
    half = 0 if initial_state is None else len(initial_state) // 2
    given = [None, None] if initial_state is None else [initial_state[:half], initial_state[half:]]
    outputs, states = [], []
    for one, state in zip(both, given, strict=True):
        with c.graph.named(one.name):
            found, after = run(c, one, x, state, mask, in_order=True)
        outputs.append(found)
        states += after
    ops = keras.ops
    merge: dict[str, Callable[[Any, Any], Any]] = {
        "concat": lambda a, b: ops.concatenate([a, b], axis=-1),
        "sum": lambda a, b: a + b,
        "ave": lambda a, b: (a + b) / 2,
        "mul": lambda a, b: a * b,
    }
    result = outputs if what.merge_mode is None else [c.call(merge[what.merge_mode], *outputs)]
    if what.return_state:
        return (*result, *states)
    return result if what.merge_mode is None else result[0]


@layer(layers.TimeDistributed)
def _time_distributed(c: Converter, what: Any, x: Operand, training: bool = False, mask: Any = None) -> Any:
    """The steps as further examples of the batch, where the layer is Keras's own, none of which mixes the examples of a batch."""
    inner = what.layer
    parts = inner._flatten_layers() if isinstance(inner, keras.Layer) else []
    own = all(type(part).__module__.startswith("keras.src.") for part in parts)
    if training or not own or (mask is not None and inner._call_has_mask_arg):
        if isinstance(x.shape[1], Size):
            raise NotConvertible("TimeDistributed over an open number of steps: give the model's input a stated length")
        return NotImplemented

    def compute(x: Any) -> Any:
        flat = inner(keras.ops.reshape(x, (x.shape[0] * x.shape[1], *x.shape[2:])))
        return keras.ops.reshape(flat, (x.shape[0], x.shape[1], *flat.shape[1:]))

    return c.call(compute, x)
