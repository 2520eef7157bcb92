"""Receptive fields: by hand, against published ones, and against the gradient of every network in the registry."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

import kerascv_course as kcc
from kerascv_course.analysis import summarize
from kerascv_course.core.errors import InputError
from kerascv_course.models import model_spec

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

#: Small enough to be quick, large enough that some layer's fields end inside the image.
SIDES = {"resnet18_reid": 64}
SIDE = 32


def positive_surrogate(model: Any) -> Any:
    """The same graph with positive weights and nothing that hides a pixel: averages for maxima, no ReLU; a batch norm is linear."""
    import keras

    layers = keras.layers

    def clone(layer: Any) -> Any:
        if isinstance(layer, layers.MaxPooling2D):
            return layers.AveragePooling2D(layer.pool_size, layer.strides, layer.padding, name=layer.name)
        if isinstance(layer, layers.ReLU | layers.Activation | layers.Dropout):
            return layers.Identity(name=layer.name)
        config = layer.get_config()
        if config.get("activation") not in (None, "linear") and hasattr(layer, "kernel"):
            config["activation"] = "linear"
        return type(layer).from_config(config)

    copy = keras.models.clone_model(model, clone_function=clone)
    for variable in copy.weights:
        variable.assign(np.full(variable.shape, 1 / max(1, int(np.prod(variable.shape[:-1])))))
    return copy


def gradient_box(model: Any, name: str, unit: tuple[int, int], shape: tuple[int, ...]) -> tuple[tuple[int, int] | None, ...]:
    """First and last input row and column that one unit's gradient reaches."""
    import keras
    import tensorflow as tf

    part = keras.Model(model.inputs, model.get_layer(name).output)
    image = tf.ones((1, *shape))
    with tf.GradientTape() as tape:
        tape.watch(image)
        out = part(image)
        value = tf.reduce_sum(out[0, unit[0], unit[1]] if len(out.shape) == 4 else out)
    reached = np.abs(tape.gradient(value, image).numpy()[0]).sum(axis=-1) > 0
    if not reached.any():
        return None, None  # padding only
    rows, columns = np.flatnonzero(reached.any(axis=1)), np.flatnonzero(reached.any(axis=0))
    return (int(rows[0]), int(rows[-1])), (int(columns[0]), int(columns[-1]))


@pytest.mark.parametrize("name", kcc.list_models())
def test_analytic_field_is_the_gradients(name):
    side = SIDES.get(name, 64 if model_spec(name).input_shape[0] > 128 else SIDE)
    channels = model_spec(name).input_shape[2]
    top = {} if model_spec(name).input_shape[0] <= 128 else {"include_top": False}
    model = kcc.create_model(name, input_shape=(side, side, channels), **top)
    surrogate = positive_surrogate(model)
    summary = summarize(model)
    maps = [r for r in summary.rows if r.output_shape is not None and len(r.output_shape) == 3 and r.kind != "input"]
    windows = [r for r in maps if r.kind in ("conv", "pool", "conv_transpose", "resize", "merge", "concat")]
    # first, last, and the last whose field is still smaller than the image
    inside = [r for r in windows if r.receptive_field.size and max(r.receptive_field.size) < side]
    for row in {r.index: r for r in (windows[0], inside[-1], windows[-1], summary.rows[-1])}.values():
        height, width = row.output_shape[:2] if len(row.output_shape) == 3 else (1, 1)
        for unit in {(0, width // 3), (height - 1, width // 2)}:
            layer = row.name.split("/")[0]
            assert summary.unit_field(row.name, unit) == gradient_box(surrogate, layer, unit, (side, side, channels)), (
                row,
                unit,
            )
            found = row.receptive_field
            if found.jump is not None:  # the regular description says the same, unclipped
                for axis, at in enumerate(unit):
                    first = found.start[axis] - (found.size[axis] - 1) / 2 + at * found.jump[axis]
                    clipped = max(0, first), min(side - 1, first + found.size[axis] - 1)
                    span = summary.unit_field(row.name, unit)[axis]
                    if span is None:  # a unit in the padding: its box misses the image along some axis
                        continue
                    low, high = span
                    assert clipped[0] <= low and high <= clipped[1]
                    if 0 < at < row.output_shape[axis] - 1:
                        assert (low, high) == clipped


#: Araujo, Norris, Sim: "Computing receptive fields of convolutional neural networks", Distill, 2019, table 1.
PUBLISHED = {"VGG16": 212, "MobileNet": 315, "ResNet50": 483, "InceptionV3": 1311}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_fields(name):
    import keras

    model = getattr(keras.applications, name)(weights=None, include_top=False, input_shape=(224, 224, 3))
    assert summarize(model).receptive_field.size == (PUBLISHED[name],) * 2


def test_published_fields_of_our_own_networks():
    """AlexNet 195 and VGG-16 212 as in that table; ResNet-18 435 (its strides sit in the 3×3 convolutions)."""
    for name, size in (("alexnet", 195), ("vgg16", 212), ("resnet18", 435)):
        rows = summarize(kcc.create_model(name, include_top=False)).rows
        last = [r.receptive_field for r in rows if r.receptive_field.jump is not None][-1]
        assert (last.size, last.jump) == ((size, size), (32, 32))


# --- by hand --------------------------------------------------------------------------------------------------------------------


def functional(build: Any, shape: tuple[int, ...] = (16, 16, 2)) -> Any:
    import keras

    image = keras.Input(shape, name="image")
    return keras.Model(image, build(keras.layers, image))


def test_two_convolutions_a_pool_and_a_dilation():
    summary = summarize(
        functional(
            lambda L, x: L.Conv2D(1, 3, dilation_rate=2, name="d")(L.MaxPooling2D(2, name="p")(L.Conv2D(1, 3, name="c")(x)))
        )
    )
    found = [summary.row(n).receptive_field for n in ("c", "p", "d")]
    assert [f.size for f in found] == [(3, 3), (4, 4), (12, 12)]
    assert [f.jump for f in found] == [(1, 1), (2, 2), (2, 2)]
    assert [f.start for f in found] == [(1.0, 1.0), (1.5, 1.5), (5.5, 5.5)]


def test_same_padding_with_a_stride_starts_where_tensorflow_starts():
    summary = summarize(functional(lambda L, x: L.Conv2D(1, 3, strides=2, padding="same", name="c")(x)))
    assert summary.row("c").padding == ((0, 1), (0, 1))
    assert summary.row("c").receptive_field.start == (1.0, 1.0)


def test_axes_are_told_apart():
    summary = summarize(functional(lambda L, x: L.Conv2D(1, (3, 5), strides=(2, 1), name="c")(x)))
    assert (summary.row("c").receptive_field.size, summary.row("c").receptive_field.jump) == ((3, 5), (2, 1))


def test_branches_of_equal_jump_give_the_smallest_box_around_them():
    def build(L: Any, x: Any) -> Any:
        shifted = L.Cropping2D(((2, 0), (2, 0)))(L.ZeroPadding2D(((0, 2), (0, 2)))(x))  # looks two pixels further
        return L.Add(name="sum")([L.Conv2D(2, 3, padding="same")(x), shifted])

    found = summarize(functional(build)).row("sum").receptive_field
    assert (found.size, found.start) == ((4, 4), (0.5, 0.5))  # −1…1 and 2


def test_branches_of_different_jumps_have_no_alignment_and_say_so():
    def build(L: Any, x: Any) -> Any:
        return L.Add(name="sum")([L.Conv2D(2, 2, strides=2)(x), L.Cropping2D(4)(x)])

    summary = summarize(functional(build))
    found = summary.row("sum").receptive_field
    assert found.jump is None and found.start is None
    assert "branches of jumps 2 and 1 meet" in found.note
    assert summary.unit_field("sum", (0, 0)) == ((0, 4), (0, 4))
    assert summary.unit_field("sum", (7, 7)) == ((11, 15), (11, 15))


def test_upsampling_and_transposed_convolution_have_exact_fields_but_no_jump():
    summary = summarize(functional(lambda L, x: L.UpSampling2D(2, name="u")(L.Conv2D(1, 3, name="c")(x))))
    assert "neighboring units share their field" in summary.row("u").receptive_field.note
    assert summary.unit_field("u", (0, 3)) == ((0, 2), (1, 3))
    summary = summarize(functional(lambda L, x: L.Conv2DTranspose(1, 3, strides=2, name="t")(x)))
    assert summary.row("t").receptive_field.size == (2, 2)
    assert "upsamples by 2" in summary.row("t").receptive_field.note
    assert summary.unit_field("t", (1, 2)) == ((0, 0), (0, 1))


def test_transposed_convolution_of_stride_one_is_regular():
    summary = summarize(functional(lambda L, x: L.Conv2DTranspose(1, 3, name="t")(x)))
    found = summary.row("t").receptive_field
    assert (found.size, found.jump, found.start) == ((3, 3), (1, 1), (-1.0, -1.0))


def test_dense_layers_see_all_and_broadcast_branches_too():
    def build(L: Any, x: Any) -> Any:
        gate = L.Reshape((1, 1, 2))(L.Dense(2, name="d")(L.GlobalAveragePooling2D(name="g")(x)))
        return L.Multiply(name="m")([L.Conv2D(2, 3, padding="same")(x), gate])

    summary = summarize(functional(build))
    for name in ("g", "d", "m"):
        found = summary.row(name).receptive_field
        assert (found.size, found.whole, found.jump) == ((16, 16), True, None)


def test_a_stride_can_leave_pixels_unseen():
    summary = summarize(functional(lambda L, x: L.Dense(1, name="d")(L.Flatten()(L.MaxPooling2D(3)(x)))))
    assert summary.row("d").receptive_field.size == (15, 15)


def test_unknown_layers_end_all_claims():
    import keras

    class Mirror(keras.layers.Layer):
        def call(self, x):
            return x[:, ::-1]

    summary = summarize(functional(lambda L, x: L.Conv2D(1, 3, name="c")(Mirror(name="mirror")(x))))
    found = summary.row("c").receptive_field
    assert found.size is None and "not known: Mirror (mirror)" in found.note
    with pytest.raises(InputError, match="is not known"):
        summary.unit_field("c", (0, 0))


def test_several_inputs_have_no_field():
    import keras

    a, b = keras.Input((4, 4, 1)), keras.Input((4, 4, 1))
    assert summarize(keras.Model([a, b], keras.layers.Add()([a, b]))).receptive_field is None
