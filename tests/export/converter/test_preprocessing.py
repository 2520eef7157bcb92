"""Layers of preprocessing by the native converter: integers, sizes that do not divide, categories; what is refused, and the way out."""

from __future__ import annotations

import itertools

import keras
import numpy as np
import pytest
from against_keras import compare, images
from keras import layers

from export.converter.exporter import NotConvertible, build

METHODS = ["nearest", "bilinear", "bicubic", "lanczos3"]


@pytest.mark.parametrize(("method", "antialias"), list(itertools.product(METHODS, [False, True])))
def test_resizing_to_every_size(method, antialias):
    image = keras.Input((9, 8, 3))
    sizes = [(4, 3), (12, 15), (4, 15), (13, 3), (9, 8), (18, 24)]
    outputs = [layers.Resizing(*size, interpolation=method, antialias=antialias)(image) for size in sizes]
    compare(keras.Model(image, outputs), images(2, 9, 8, 3))


@pytest.mark.parametrize("method", METHODS)
def test_resizing_of_other_orders_of_axes(method):
    """onnxruntime moves the Transpose behind the Resize, where it fails."""
    image = keras.Input((9, 8, 3))
    x = layers.ReLU()(layers.Permute((3, 1, 2))(image))
    compare(keras.Model(image, layers.Resizing(5, 4, interpolation=method)(x)), images(2, 9, 8, 3))


@pytest.mark.parametrize("keep", ["crop_to_aspect_ratio", "pad_to_aspect_ratio"])
def test_resizing_keeps_the_aspect_ratio_as_keras_does(keep):
    image = keras.Input((9, 8, 3))
    outputs = [layers.Resizing(*size, **{keep: True})(image) for size in [(4, 3), (12, 15), (4, 15), (13, 3)]]
    compare(keras.Model(image, outputs), images(2, 9, 8, 3))


@pytest.mark.parametrize(
    "layer",
    [
        *(layers.Resizing(5, 4, interpolation=method) for method in METHODS),
        layers.Rescaling(1 / 255, -0.5),
        layers.CenterCrop(5, 12),
        layers.RandomFlip(),
        layers.RandomCrop(5, 4),
        layers.RandomBrightness(0.2),
        layers.RandomRotation(0.2),
    ],
)
def test_uint8(layer):
    image = keras.Input((9, 8, 3), dtype="uint8")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 9, 8, 3)).astype(np.uint8)
    compare(keras.Model(image, layer(image)), pixels)


@pytest.mark.parametrize(
    "layer",
    [
        *(layers.Discretization([-0.5, 0.0, 0.5], output_mode=mode) for mode in ("int", "one_hot", "multi_hot", "count")),
        layers.Normalization(mean=[0.1, 0.2, 0.3], variance=[1, 2, 3.0], invert=True),
        layers.Normalization(axis=None, mean=0.1, variance=2.0),
    ],
)
def test_numbers(layer):
    numbers = keras.Input((3,))
    compare(keras.Model(numbers, layer(numbers)), images(4, 3))


@pytest.mark.parametrize("mode", ["one_hot", "multi_hot", "count"])
def test_categories(mode):
    numbers = keras.Input((4,), dtype="int32")
    model = keras.Model(numbers, layers.CategoryEncoding(6, output_mode=mode)(numbers))
    compare(model, np.random.default_rng(0).integers(0, 6, (3, 4)).astype(np.int32))


@pytest.mark.parametrize(
    ("layer", "dtype", "match"),
    [
        (layers.Hashing(5), "int32", r"(?s)\(Hashing\).*hash before the model"),
        (layers.IntegerLookup(vocabulary=[1, 2]), "int64", r"(?s)\(IntegerLookup\).*look them up before"),
        (layers.StringLookup(vocabulary=["a"]), "string", r"(?s)input.*strings: turn them into numbers"),
    ],
)
def test_what_is_refused_names_the_way_out(layer, dtype, match):
    inputs = keras.Input((4,), dtype=dtype)
    with pytest.raises(NotConvertible, match=match):
        build(keras.Model(inputs, layer(inputs)), ["input"], 17)
