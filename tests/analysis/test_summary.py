"""Summaries of Keras models: sums, conventions, nested and shared layers, networks never seen, and what cannot be analyzed."""

from __future__ import annotations

import math

import keras
import pytest

import kerascv_course as kcc
from kerascv_course.analysis import Convention, summarize
from kerascv_course.core.errors import InputError
from kerascv_course.models import model_spec


@pytest.mark.parametrize("name", kcc.list_models())
def test_rows_sum_to_the_totals_and_parameters_are_keras_own(name):
    whole = model_spec(name).parameters < 50e6  # filling the dense layers of the others takes seconds each
    model = kcc.create_model(name, **({} if whole else {"include_top": False}))
    summary = summarize(model)
    if whole:
        assert summary.trainable == model_spec(name).parameters
    assert summary.parameters == model.count_params()
    for total in ("trainable", "frozen", "neurons", "connections", "macs", "activation_bytes"):
        assert getattr(summary, total) == sum(getattr(row, total) for row in summary.rows), total
    assert not summary.unknown
    assert summary.connections == summary.macs
    shapes = {layer.name: tuple(layer.output.shape[1:]) for layer in model.layers}
    assert all(shapes[r.name] == r.output_shape for r in summary.rows if r.name in shapes)
    assert set(shapes) <= {r.name for r in summary.rows}
    assert 0 < summary.peak_bytes <= summary.activation_bytes


def test_numbers_of_lenet5_by_hand():
    summary = summarize(kcc.create_model("lenet5"))
    macs = 28 * 28 * 6 * 25 + 10 * 10 * 16 * 25 * 6 + 400 * 120 + 120 * 84 + 84 * 10
    assert summary.macs == summary.connections == macs == 416_520
    assert summary.neurons == 4704 + 1176 + 1600 + 400 + 120 + 84 + 10
    # LeCun et al. 1998 count the biases of C1 as connections: 122,304
    biased = summary.count(Convention(biases=True))
    assert biased.connections == macs + 4704 + 1600 + 120 + 84 + 10
    assert summary.row("c1").connections + 4704 == 122_304
    assert biased.weights == 61_706
    assert summary.count(Convention(activations=True)).neurons == summary.neurons + 4704 + 1600 + 120 + 84
    assert summary.row("c1").activation_bytes == 4 * 4704
    assert summary.peak_bytes == 4 * 2 * 4704  # c1 before and after its ReLU
    assert (summary.row("s2").kernel, summary.row("s2").stride) == ((2, 2), (2, 2))


def test_exact_borders_by_hand():
    import keras

    image = keras.Input((5, 6, 2))
    model = keras.Model(image, keras.layers.Conv2D(3, 3, padding="same")(image))
    exact = summarize(model).count(Convention(exact_borders=True)).connections
    assert exact == (3 * 5 - 2) * (3 * 6 - 2) * 2 * 3
    padded = keras.Model(image, keras.layers.Conv2D(3, 3)(keras.layers.ZeroPadding2D(1)(image)))
    assert summarize(padded).count(Convention(exact_borders=True)).connections == exact


def test_exact_borders_of_a_transposed_convolution_count_what_lands_on_the_map():
    import keras

    image = keras.Input((2, 2, 1))
    x = keras.layers.Conv2DTranspose(1, 3, strides=2, name="t")(image)  # 5×5, all 4·9 products land
    model = keras.Model(image, x)
    assert summarize(model).count(Convention(exact_borders=True)).connections == 36
    cropped = keras.Model(image, keras.layers.Cropping2D(((1, 0), (1, 0)))(x))  # the first row and column are cut
    summary = summarize(cropped)
    assert summary.count(Convention(exact_borders=True)).connections == 5 * 5
    assert summary.neurons == 16
    assert summary.connections == 36


def test_nested_models_are_flattened_and_shared_layers_count_once():
    import keras

    layers = keras.layers
    inner = keras.Sequential([keras.Input((8, 8, 4)), layers.Conv2D(4, 3, padding="same", name="conv")], name="inner")
    image = keras.Input((8, 8, 4))
    shared = layers.Dense(4, name="shared")
    model = keras.Model(image, shared(inner(shared(inner(image)))))
    summary = summarize(model)
    assert [r.name for r in summary.rows[1:]] == ["inner/conv", "shared", "inner/conv", "shared"]
    assert [r.parameters for r in summary.rows[1:]] == [148, 20, 0, 0]
    assert summary.parameters == model.count_params() == 168
    assert summary.macs == 2 * (64 * 9 * 16 + 64 * 16)
    assert summary.rows[-1].receptive_field.size == (5, 5)


def test_frozen_layers_are_told_apart():
    model = kcc.create_model("lenet5")
    model.get_layer("c1").trainable = False
    summary = summarize(model)
    assert (summary.trainable, summary.frozen) == (61_550, 156)
    assert summary.row("c1").frozen == 156


def test_open_axes_need_a_shape_and_take_any():
    import keras

    image = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(4, 3, strides=2, padding="same", name="c")(image)
    model = keras.Model(image, keras.layers.GlobalAveragePooling2D()(x))
    with pytest.raises(InputError, match=r"\?×\?×3 with open axes: give input_shape"):
        summarize(model)
    assert summarize(model, (15, 20, 3)).row("c").output_shape == (8, 10, 4)
    with pytest.raises(InputError, match=r"input_shape 15×20×1 does not fit the input \?×\?×3"):
        summarize(model, (15, 20, 1))
    with pytest.raises(InputError, match="does not fit"):
        summarize(model, (15, 3))


def test_counts_are_for_one_image_whatever_the_batch():
    def model(batch):
        image = keras.Input(batch_shape=(batch, 16, 16, 3))
        x = keras.layers.MaxPooling2D(2)(keras.layers.Conv2D(4, 3, padding="same")(image))
        x = keras.layers.Dense(5)(keras.layers.Permute((2, 1))(keras.layers.Reshape((64, 4))(x)))
        return keras.Model(image, keras.layers.Dense(7)(keras.layers.Flatten()(x)))

    wanted = summarize(model(None))
    for batch in (1, 8):
        for shape in (None, (16, 16, 3)):
            found = summarize(model(batch), shape)
            assert (found.macs, found.neurons, found.connections) == (wanted.macs, wanted.neurons, wanted.connections)
            assert found.activation_bytes == wanted.activation_bytes
            assert [row.output_shape for row in found.rows] == [row.output_shape for row in wanted.rows]


def test_another_size_of_a_fixed_model():
    model = kcc.create_model("resnet18_cifar")
    assert summarize(model, (64, 64, 3)).macs > 3 * summarize(model).macs
    with pytest.raises(InputError, match="built for another size"):
        summarize(kcc.create_model("lenet5"), (64, 64, 1))
    with pytest.raises(InputError, match="layer 'stage3_pool' does not accept the shapes that follow from input_shape"):
        summarize(kcc.create_model("tdt4265_base"), (4, 4, 3))


def test_sequential_without_shapes_is_built_by_a_given_one():
    import keras

    model = keras.Sequential([keras.layers.Conv2D(2, 3), keras.layers.Flatten(), keras.layers.Dense(3)])
    with pytest.raises(InputError, match="has no shapes yet: give input_shape"):
        summarize(model)
    assert summarize(model, (8, 8, 1)).parameters == 20 + 72 * 3 + 3


def test_subclassed_models_are_rejected():
    import keras

    class Own(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(InputError, match=r"only Functional and Sequential Keras models .* 'own' is a Own"):
        summarize(Own(name="own"))


def test_unknown_layers_leave_totals_open_and_keep_parameters():
    import keras

    class Twist(keras.layers.Conv2D):
        """A subclass of a known layer that computes something else."""

        def call(self, x):
            return super().call(x[:, ::-1])

    image = keras.Input((8, 8, 3))
    model = keras.Model(image, Twist(4, 3, name="twist")(image))
    summary = summarize(model)
    assert summary.unknown == ("twist",)
    assert summary.macs is summary.neurons is summary.connections is None
    assert summary.parameters == model.count_params() == 112
    assert summary.count(Convention()).connections is None


@pytest.mark.parametrize(
    ("name", "options", "shape", "macs"),
    [  # MACs by the papers' tables: MobileNet 569 M, MobileNetV2 300 M, EfficientNet-B0 0.39 B (its FLOPS are MACs)
        ("MobileNet", {}, None, 569e6),
        ("MobileNetV2", {}, None, 300e6),
        ("MobileNetV3Large", {}, (224, 224, 3), 219e6),
        ("EfficientNetB0", {}, None, 0.39e9),
        ("InceptionV3", {}, None, 5.7e9),
        ("NASNetMobile", {}, None, 564e6),
    ],
)
def test_networks_never_seen(name, options, shape, macs):
    import keras

    model = getattr(keras.applications, name)(weights=None, **options)
    summary = summarize(model, shape)
    assert summary.parameters == model.count_params()
    assert summary.trainable == sum(math.prod(w.shape) for w in model.trainable_weights)
    assert summary.macs == pytest.approx(macs, rel=0.02)
    assert not summary.unknown


def test_group_dilation_and_other_windows():
    import keras

    layers = keras.layers
    image = keras.Input((20, 20, 8))
    x = layers.Conv2D(16, 3, groups=4, name="grouped")(image)
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, name="depthwise")(x)
    x = layers.SeparableConv2D(5, 3, dilation_rate=2, name="separable")(x)
    model = keras.Model(image, x)
    summary = summarize(model)
    assert summary.row("grouped").macs == 18 * 18 * 16 * 9 * 2
    assert summary.row("grouped").groups == 4
    assert summary.row("depthwise").macs == 16 * 16 * 32 * 9
    assert summary.row("separable/depthwise").macs == 12 * 12 * 32 * 9
    assert summary.row("separable/pointwise").macs == 12 * 12 * 32 * 5
    assert summary.row("separable/pointwise").dilation == (1, 1)
    assert summary.parameters == model.count_params()
    assert summary.receptive_field.size == (9, 9)


def test_network_with_the_most_layers():
    import keras

    model = keras.applications.NASNetMobile(weights=None)  # 932 rows, the most of all
    assert summarize(model).parameters == model.count_params()


def test_saved_models_and_run_folders(tmp_path):
    model = kcc.create_model("lenet5")
    model.save(tmp_path / "best.keras")
    assert summarize(tmp_path / "best.keras").parameters == 61_706
    assert summarize(str(tmp_path)).parameters == 61_706


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.keras", None, "no such file"),
        ("missing.onnx", None, "no such file"),
        ("damaged.keras", b"not a zip", "cannot be opened as a Keras model"),
        ("weights.h5", b"123", "only .onnx and .keras files can be analyzed; received"),
        ("net.pt", b"123", "only .onnx and .keras files can be analyzed; received"),
    ],
)
def test_files_that_cannot_be_analyzed(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        summarize(tmp_path / name)


def test_an_empty_folder_is_not_a_run(tmp_path):
    with pytest.raises(InputError, match=r"neither best\.keras nor model\.onnx"):
        summarize(tmp_path)


def test_a_lambda_in_a_saved_model_is_not_run(tmp_path):
    import keras

    image = keras.Input((4,))
    keras.Model(image, keras.layers.Lambda(lambda x: x * 2)(image)).save(tmp_path / "l.keras")
    with pytest.raises(InputError, match="cannot be opened as a Keras model"):
        summarize(tmp_path / "l.keras")


def test_row_of_an_unknown_name():
    with pytest.raises(InputError, match="unknown layer 'c9'"):
        summarize(kcc.create_model("lenet5")).row("c9")
