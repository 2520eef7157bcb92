"""Filters and activations: worked by hand for small networks, equal to Keras's own for others."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from export.serving import normalized
from kerascv_course import create_model
from kerascv_course.analysis.activations import activations, convolutions, filters, first_and_last, layer_names, look
from kerascv_course.core.errors import InputError, UnknownNameError

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)


@pytest.fixture(scope="module")
def model():
    """A network within a model that normalizes."""
    keras.utils.set_random_seed(0)
    return normalized(create_model("tdt4265_model1", 10, (16, 16, 3)), (0.5,), (0.25,))


def test_layer_names_of_a_nested_model(model):
    names = layer_names(model)
    assert names[:3] == ["normalize", "stage1_conv", "stage1_relu"] and names[-2:] == ["dropout", "logits"]
    assert convolutions(model) == ["stage1_conv", "stage2_conv", "stage3_conv"]
    np.testing.assert_array_equal(
        filters(model, "stage2_conv"), model.get_layer("tdt4265_model1").get_layer("stage2_conv").kernel
    )


def test_activations_are_those_of_the_whole_model(model):
    found = activations(model, PIXELS, ["normalize", "stage2_pool", "logits"])
    assert list(found) == ["normalize", "stage2_pool", "logits"]
    np.testing.assert_allclose(found["normalize"], (PIXELS / 255 - 0.5) / 0.25, atol=1e-6)
    np.testing.assert_allclose(found["logits"], model(PIXELS, training=False), rtol=1e-5, atol=1e-6)
    inner = model.get_layer("tdt4265_model1")
    part = keras.Model(inner.inputs[0], inner.get_layer("stage2_pool").output)
    np.testing.assert_allclose(found["stage2_pool"], part(found["normalize"], training=False), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["resnet18_cifar", "googlenet"])
def test_activations_of_branching_networks(name):
    network = create_model(name, 10, (32, 32, 3))
    image = np.random.default_rng(1).random((1, 32, 32, 3), np.float32)
    found = activations(network, image, [layer_names(network)[-1]])[layer_names(network)[-1]]
    np.testing.assert_allclose(found, network(image, training=False), rtol=1e-4, atol=1e-5)


def test_look_at_a_sobel_filter():
    """A Sobel filter answers to a vertical edge alone, and is drawn above its map."""
    image = keras.Input((5, 6, 1))
    network = keras.Sequential([image, keras.layers.Conv2D(2, 3, use_bias=False, name="sobel")])
    sobel = np.outer([1, 2, 1], [-1, 0, 1])
    network.layers[0].set_weights([np.stack([sobel, sobel.T], -1)[:, :, None].astype(np.float32)])
    edge = np.repeat([[0, 0, 0, 9, 9, 9]], 5, axis=0)[..., None].astype(np.float32)
    maps = activations(network, edge[None], ["sobel"])["sobel"][0]
    np.testing.assert_array_equal(maps[..., 0], np.repeat([[0, 36, 36, 0]], 3, axis=0))
    np.testing.assert_array_equal(maps[..., 1], 0)
    figure = look(network, edge, "sobel", (1, 0))
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == ["1", "0"] and figure._suptitle.get_text() == "sobel: 2 of 2 maps of 3×4"
    drawn = [np.asarray(axes.images[0].get_array()) for axes in figure.axes if axes.images]
    np.testing.assert_allclose(drawn[0], sobel.T / 4 + 0.5)  # the filters, then the image and the maps
    np.testing.assert_array_equal(drawn[-1], maps[..., 0])


def test_look_rejects_unknown_layers_and_channels(model):
    with pytest.raises(UnknownNameError, match="unknown layer 'stage1_cnv'; did you mean 'stage1_conv'"):
        look(model, PIXELS[0], "stage1_cnv")
    with pytest.raises(UnknownNameError, match="unknown layer"):
        activations(model, PIXELS, ["stage4_conv7"])
    with pytest.raises(UnknownNameError, match="unknown layer"):
        filters(model, "stage4_conv7")
    with pytest.raises(InputError, match="channels of layer 'stage1_conv' are 0 to 63; received 64"):
        look(model, PIXELS[0], "stage1_conv", (3, 64))
    with pytest.raises(InputError, match="layer 'logits' is 10: choose an earlier layer, such as 'stage3_conv'"):
        look(model, PIXELS[0], "logits")
    with pytest.raises(InputError, match="only convolutions have filters; layer 'stage1_pool' is a MaxPooling2D"):
        filters(model, "stage1_pool")


def test_first_and_last_of_models_with_and_without_convolutions(model):
    assert list(first_and_last(model, PIXELS[0])) == ["first_convolution", "last_convolution"]
    image = keras.Input((4, 4, 1), dtype="uint8")
    assert first_and_last(keras.Model(image, keras.layers.Flatten()(image)), PIXELS[0, :4, :4, :1]) == {}


def test_look_command(command, tiny_run, tmp_path):
    sample = tiny_run / "samples" / "3_3.png"
    done = command(
        "kerascv_course.look", tiny_run.path, "--image", sample, "--layer", "c3", "--filters", 0, 2, "--out", "c3.png"
    )
    assert done.returncode == 0 and done.stdout == "c3.png\n", done.stderr
    assert (tmp_path / "c3.png").is_file()
    done = command("kerascv_course.look", tiny_run.path)
    first = tiny_run / "samples" / "0_0.png"
    assert done.returncode == 0 and done.stdout == f"image: {first} (--image takes another)\nlook.png\n", done.stderr
    page = (tiny_run / "report.html").read_text()
    assert "Filters of the first convolution" in page and "Outputs of the last convolution" in page
    for words, told in (
        ([tiny_run.path, "--image", "none.png"], "no such image: none.png"),
        (["lenet5"], "--image is required: lenet5 is not a run folder with samples/"),
        (["lenet", "--image", sample], "unknown model 'lenet'"),
    ):
        done = command("kerascv_course.look", *words)
        assert done.returncode == 2 and told in done.stderr and "Traceback" not in done.stderr


def test_first_and_last_skips_a_convolution_of_1x1_maps():
    image = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, name="first")(image)
    x = keras.layers.Conv2D(5, 3, name="last")(x)
    x = keras.layers.Conv2D(10, 1, name="head")(keras.layers.GlobalAveragePooling2D(keepdims=True)(x))
    figures = first_and_last(keras.Model(image, x), PIXELS[0, :8, :8])
    assert figures["last_convolution"].get_suptitle().startswith("last")
