"""Attention and masks by the native converter: what Keras attaches to tensors unseen counts as what is passed."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from against_keras import compare, disturb, images
from keras import layers, ops

QUERY, VALUE = (6, 8), (5, 8)


def some(*shape: int) -> np.ndarray:
    """A mask with something in every row."""
    mask = np.random.default_rng(0).integers(0, 2, shape).astype(bool)
    mask[..., 0] = True
    return mask


@pytest.mark.parametrize("kind", [layers.Attention, layers.AdditiveAttention])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("call", [{}, {"use_causal_mask": True, "return_attention_scores": True}])
@pytest.mark.parametrize("use_scale", [False, True])
def test_attention(kind, masked, call, use_scale):
    inputs = [keras.Input(QUERY), keras.Input(VALUE), keras.Input(VALUE)]
    masks = [keras.Input(QUERY[:1], dtype="bool"), keras.Input(VALUE[:1], dtype="bool")] if masked else []
    layer = kind(use_scale=use_scale)
    model = keras.Model([*inputs, *masks], layer(inputs, mask=masks or None, **call))
    disturb(model)
    compare(model, *(images(3, *x.shape[1:]) for x in inputs), *(some(3, *x.shape[1:]) for x in masks))


def test_attention_by_concatenation():
    inputs = [keras.Input(QUERY), keras.Input(VALUE)]
    model = keras.Model(inputs, layers.Attention(score_mode="concat", use_scale=True)(inputs))
    compare(model, images(3, *QUERY), images(3, *VALUE))


HEADS: dict[str, Any] = {
    "several": lambda: layers.MultiHeadAttention(2, 4, value_dim=3),
    "grouped": lambda: layers.GroupQueryAttention(4, 4, 2),
    "over two axes": lambda: layers.MultiHeadAttention(2, 4, attention_axes=(1,), use_bias=False),
}


@pytest.mark.parametrize("mask", ["none", "attention", "padding"])
@pytest.mark.parametrize("call", [{}, {"use_causal_mask": True, "return_attention_scores": True}])
@pytest.mark.parametrize("heads", HEADS)
def test_heads(heads, mask, call):
    query, value = keras.Input(QUERY), keras.Input(VALUE)
    shapes = {
        "none": {},
        "attention": {"attention_mask": (6, 5)},
        "padding": {"query_mask": (6,), "value_mask": (5,)},
    }[mask]
    masks = {name: keras.Input(shape, dtype="bool") for name, shape in shapes.items()}
    model = keras.Model([query, value, *masks.values()], HEADS[heads]()(query, value, **masks, **call))
    disturb(model)
    compare(model, images(3, *QUERY), images(3, *VALUE), *(some(3, *shape) for shape in shapes.values()))


class Hidden(keras.layers.Layer):
    """A layer that says nothing of masks, with one inside that Keras passes the mask to."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = layers.LSTM(3)

    def build(self, shape):
        self.inner.build(shape)

    def call(self, x):
        return self.inner(x)


MASKED: dict[str, Any] = {
    "heads": lambda x: layers.MultiHeadAttention(2, 4)(x, x),
    "heads twice": lambda x: layers.MultiHeadAttention(2, 4)(layers.MultiHeadAttention(2, 4)(x, x), x),
    "attention": lambda x: layers.Attention()([x, x]),
    "additive": lambda x: layers.AdditiveAttention()([x, x]),
    "average": lambda x: layers.GlobalAveragePooling1D()(x),
    "normalization": lambda x: layers.BatchNormalization()(x),
    "sum": lambda x: layers.LSTM(4)(layers.Add()([x, layers.Dense(8)(x)])),
    "joined": lambda x: layers.LSTM(4)(layers.Concatenate()([x, layers.Dense(8)(x)])),
    "hidden": lambda x: Hidden()(x),
    "nested": lambda x: keras.Sequential([keras.Input((6, 8)), layers.LSTM(4)])(x),
    "hidden in nested": lambda x: keras.Sequential([keras.Input((6, 8)), Hidden()])(x),
}


@pytest.mark.parametrize("case", MASKED)
def test_masks_that_keras_attaches(case):
    words = keras.Input((6,), dtype="int32")
    model = keras.Model(words, MASKED[case](layers.Embedding(5, 8, mask_zero=True)(words)))
    disturb(model)
    compare(model, np.random.default_rng(0).integers(0, 4, (4, 6)).astype(np.int32))


class Left(keras.layers.Layer):
    """Variables on the left of operators."""

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), name="scale")

    def call(self, x):
        return self.scale * x - ops.cast(self.scale > x, "float32") + ops.convert_to_tensor(np.ones(8, np.float32)) * x


def test_variables_left_of_tensors():
    inputs = keras.Input(QUERY)
    model = keras.Model(inputs, Left()(inputs))
    compare(model, images(3, *QUERY))


class Doubled(layers.Dense):
    """A layer derived from Keras's that changes what it does."""

    @property
    def kernel(self):
        return super().kernel * 2.0

    def call(self, inputs, training=None):
        return super().call(inputs) + 1.0


def test_layers_derived_from_keras_do_what_they_do():
    inputs = keras.Input((6,))
    model = keras.Model(inputs, Doubled(4)(inputs))
    compare(model, images(3, 6))


@pytest.mark.parametrize("kind", ["Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum"])
def test_merging_of_different_ranks(kind):
    inputs = [keras.Input((5, 6, 4)), keras.Input((4,))]
    compare(keras.Model(inputs, getattr(layers, kind)()(inputs)), images(3, 5, 6, 4), images(3, 4))


def test_a_causal_mask_alone():
    query, value = keras.Input(QUERY), keras.Input(VALUE)
    model = keras.Model([query, value], layers.MultiHeadAttention(2, 4)(query, value, use_causal_mask=True))
    compare(model, images(3, *QUERY), images(3, *VALUE))
