"""The native converter's recurrent layers against Keras: every option, masks, initial states, an open number of steps."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from against_keras import compare, disturb, images
from keras import layers, ops

from export.converter.exporter import NotConvertible, build

KINDS = {"SimpleRNN": layers.SimpleRNN, "LSTM": layers.LSTM, "GRU": layers.GRU}
CELLS = {"SimpleRNN": layers.SimpleRNNCell, "LSTM": layers.LSTMCell, "GRU": layers.GRUCell}

OPTIONS = {
    "last": {},
    "all": {"return_sequences": True},
    "states": {"return_sequences": True, "return_state": True},
    "backwards": {"go_backwards": True, "return_state": True},
    "all backwards": {"go_backwards": True, "return_sequences": True},
    "without bias": {"use_bias": False},
    "relu": {"activation": "relu", "return_sequences": True},
    "linear": {"activation": None, "return_sequences": True},
    "hard silu, unrolled": {"activation": "hard_silu", "return_sequences": True},
}


def check(layer: keras.Layer, *shape: int | None) -> list[str]:
    """Compare a model of one layer; the operators of its file."""
    inputs = keras.Input(shape)
    model = keras.Model(inputs, layer(inputs))
    disturb(model)
    proto = compare(model, images(3, *(7 if size is None else size for size in shape)))
    return [node.op_type for node in proto.graph.node]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_options(kind, options):
    operators = check(KINDS[kind](5, **OPTIONS[options]), 6, 4)
    assert ("unrolled" in options) != (kind.removeprefix("Simple") in operators)


@pytest.mark.parametrize("options", [{"reset_after": False}, {"recurrent_activation": "hard_sigmoid"}])
def test_gru_is_one_operator(options):
    assert "GRU" in check(layers.GRU(5, return_sequences=True, **options), 6, 4)


@pytest.mark.parametrize("kind", KINDS)
def test_any_number_of_steps(kind):
    check(layers.Bidirectional(KINDS[kind](5, return_sequences=True)), None, 4)


@pytest.mark.parametrize("mode", ["concat", "sum", "ave", "mul", None])
@pytest.mark.parametrize("options", [{}, {"return_sequences": True, "return_state": True}])
def test_bidirectional(mode, options):
    check(layers.Bidirectional(layers.LSTM(5, **options), merge_mode=mode), 6, 4)


MASKED = {
    "last": {},
    "all": {"return_sequences": True},
    "zeros": {"return_sequences": True, "zero_output_for_mask": True},
    "backwards": {"return_sequences": True, "go_backwards": True, "return_state": True},
}


@pytest.mark.parametrize("options", MASKED)
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_masked_steps_change_nothing(kind, both, options):
    inputs = keras.Input((6, 4))
    layer = KINDS[kind](5, **MASKED[options])
    if both:
        layer = layers.Bidirectional(KINDS[kind](5, **{**MASKED[options], "go_backwards": False}))
    model = keras.Model(inputs, layer(layers.Masking()(inputs)))
    disturb(model)
    steps = images(5, 6, 4)
    steps[1, 3:] = steps[2, :2] = steps[3] = steps[4, [1, 3]] = 0  # at the end, at the start, all, between
    compare(model, steps)


def test_masks_of_an_embedding():
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(5, 4, mask_zero=True)(inputs)
    x = layers.TimeDistributed(layers.Dense(4))(x)
    model = keras.Model(inputs, layers.LSTM(3)(layers.GRU(5, return_sequences=True)(x)))
    compare(model, np.random.default_rng(0).integers(0, 5, (4, 6)).astype(np.int32))


@pytest.mark.parametrize("kind", KINDS)
def test_initial_states_are_inputs(kind):
    inputs = [keras.Input(shape) for shape in [(6, 4), (5,), (5,)][: 3 if kind == "LSTM" else 2]]
    model = keras.Model(inputs, KINDS[kind](5, return_state=True)(inputs[0], initial_state=inputs[1:]))
    compare(model, images(3, 6, 4), *(images(3, 5) for _ in inputs[1:]))


class Counting(keras.layers.Layer):
    """A cell of one's own."""

    state_size = output_size = 4

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 4))

    def call(self, x, states):
        state = ops.tanh(ops.matmul(x, self.kernel) + states[0])
        return state, [state]


@pytest.mark.parametrize("cells", ["SimpleRNN", "LSTM", "GRU", "mixed", "own"])
def test_cells(cells):
    mixed = [layers.LSTMCell(4), layers.GRUCell(5), layers.SimpleRNNCell(3)]
    cell = Counting() if cells == "own" else mixed if cells == "mixed" else [CELLS[cells](5), CELLS[cells](3)]
    check(layers.RNN(cell, return_sequences=True, return_state=True), 4, 4)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (layers.ConvLSTM1D(4, 3, padding="same", return_sequences=True), (3, 7, 2)),
        (layers.ConvLSTM2D(4, 3, strides=2, return_state=True, go_backwards=True), (3, 7, 6, 2)),
        (layers.ConvLSTM3D(4, 2), (2, 3, 4, 3, 2)),
        (layers.Bidirectional(layers.ConvLSTM2D(4, 3, return_sequences=True)), (3, 7, 6, 2)),
    ],
)
def test_convolutional(layer, shape):
    check(layer, *shape)


@pytest.mark.parametrize("steps", [4, None])
def test_time_distributed_is_done_once_for_all_steps(steps):
    assert check(layers.TimeDistributed(layers.Conv2D(4, 3)), steps, 7, 6, 3).count("Conv") == 1


@pytest.mark.parametrize(
    ("layer", "shape", "match"),
    [
        (layers.LSTM(4, stateful=True), (6, 4), "stateful=False"),
        (layers.ConvLSTM2D(4, 3), (None, 7, 6, 3), "open number of steps: give"),
        (keras.Sequential([layers.Masking(), layers.LSTM(4)]), (None, 4), "mask over an open number"),
    ],
)
def test_what_has_no_form_is_refused_with_a_way_out(layer, shape, match):
    inputs = keras.Input(shape, batch_size=2)
    with pytest.raises(NotConvertible, match=match):
        build(keras.Model(inputs, layer(inputs)), ["input"], 17)
