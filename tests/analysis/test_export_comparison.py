"""A Keras model and its own ONNX export: parameters to the integer, MACs, connections, neurons and field, for every network."""

from __future__ import annotations

import math

import numpy as np
import pytest
from small_inputs import slim

import kerascv_course as kcc
from kerascv_course.analysis import compare, summarize
from kerascv_course.analysis.counting import exported_parameters
from kerascv_course.models import model_spec

#: Networks above this many parameters are converted with an eighth of their channels: conversion takes up to half a minute else,
#: and what it folds depends on the graph, not on the widths.
LARGE = 1_000_000


def perturb(model) -> None:
    """Vectors that are neither zeros nor ones: converters drop additions of zeros, and a folding error would not show."""
    rng = np.random.default_rng(0)
    for variable in model.weights:
        if len(variable.shape) == 1:
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))


@pytest.mark.parametrize("name", kcc.list_models())
def test_totals_of_a_model_and_of_its_export_agree(name, tmp_path):
    from export import export_model

    spec = model_spec(name)
    side = 32 if spec.input_shape[0] <= 128 else 64
    model = kcc.create_model(name, input_shape=(side, side, spec.input_shape[2]))
    if spec.parameters > LARGE:
        model = slim(model)
    perturb(model)
    path = export_model(model, tmp_path / "model.onnx", input_dtype="float32", task="tensor")
    ours, theirs = summarize(model), summarize(path)
    found = compare(ours, theirs)
    assert found.agrees, str(found)
    assert not theirs.unknown
    assert theirs.receptive_field.size == ours.receptive_field.size
    # what the file stores is the model's count, less what each batch norm lost on the way
    fixed = sum(math.prod(weight.shape) for weight in model.non_trainable_weights)
    assert found.keras_parameters == ours.trainable + fixed == model.count_params()
    assert found.onnx_parameters == exported_parameters(ours.graph)
    assert found.keras_inference <= found.onnx_parameters
    assert "they agree" in str(found)


def build_all_cases():
    """A batch norm in every possible place."""
    import keras

    layers = keras.layers
    x = image = keras.Input((16, 16, 3), name="image")
    norms = 0

    def norm(x):
        nonlocal norms
        norms += 1
        return layers.ReLU()(layers.BatchNormalization(name=f"norm{norms}")(x))

    x = norm(layers.Conv2D(4, 3, padding="same", use_bias=False)(x))  # folded: 4C become C
    x = norm(layers.Conv2D(4, 3, padding="same")(x))  # folded: 4C become 0
    x = norm(layers.MaxPooling2D(2)(layers.Conv2D(6, 3, padding="same")(x)))  # behind a pooling: 4C
    x = layers.Concatenate()([x, layers.Conv2D(5, 1, use_bias=False)(norm(x))])  # behind nothing that takes it: 4C
    x = norm(layers.Cropping2D(((1, 0), (1, 0)))(layers.Conv2DTranspose(4, 3, strides=2)(x)))  # behind a crop: 4C
    x = norm(layers.DepthwiseConv2D(3, use_bias=False)(x))
    x = norm(layers.SeparableConv2D(7, 3)(x))
    x = norm(layers.Dense(9)(layers.Flatten()(x)))
    return keras.Model(image, layers.Dense(1)(x))


def test_every_kind_of_folding_is_counted(tmp_path):
    from export import export_model

    model = build_all_cases()
    perturb(model)
    found = compare(summarize(model), summarize(export_model(model, tmp_path / "m.onnx", input_dtype="float32", task="tensor")))
    assert found.agrees, str(found)
    assert found.batch_norms == 8
    assert found.batch_norm_channels == 4 + 4 + 6 + 6 + 4 + 4 + 7 + 9
    assert found.kept == 6 + 6 + 4 and found.scaled == 0
    assert found.onnx_parameters == exported_parameters(summarize(model).graph)


def test_two_different_networks_do_not_agree(tmp_path):
    from export import export_model

    model, other = kcc.create_model("lenet5"), kcc.create_model("lenet5", num_classes=11)
    perturb(other)
    found = compare(summarize(model), summarize(export_model(other, tmp_path / "m.onnx", input_dtype="float32", task="tensor")))
    assert not found.agrees
    assert "THEY DIFFER" in str(found)


def test_preprocessing_in_the_file_is_no_parameter(tmp_path):
    from export import export_model

    model = kcc.create_model("tdt4265_base")
    perturb(model)
    statistics = ((0.5, 0.4, 0.3), (0.25, 0.2, 0.1))
    path = export_model(model, tmp_path / "m.onnx", input_dtype="uint8", preprocessing=statistics)
    assert summarize(path).parameters == 390_410
