"""The colorization task: targets, loss, a whole run, bad settings."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest

from kerascv_course.config import Augmentation, Data
from kerascv_course.core.errors import InputError
from kerascv_course.core.keras_file import load_model
from kerascv_course.data import load
from kerascv_course.data.palette import load_palette, nearest_colors, palette_of
from kerascv_course.experiment import Experiment
from kerascv_course.recipes import get_recipe
from kerascv_course.tasks.colorization.config import Colorization
from kerascv_course.tasks.colorization.losses import color_weights
from kerascv_course.tasks.colorization.task import ColorizationTask, gray_levels
from kerascv_course.training.callbacks import describe_row
from kerascv_course.training.trainer import prepare


@pytest.fixture(scope="module")
def labeled(color_recipe, color_images):
    return ColorizationTask(color_recipe).label(load(color_recipe.data, color_images), None)


# --- targets and loss ---


def test_label_assigns_the_nearest_color(labeled):
    info, splits = labeled.info, labeled
    assert len(info.labels) == 6 and info.image_shape == (16, 20, 3)
    assert splits.train.targets.dtype == np.uint8 and splits.train.targets.shape == splits.train.images.shape[:3]
    assert (splits.test.targets == nearest_colors(splits.test.images, palette_of(info.labels))).all()


def test_relabel_follows_augmentation(labeled, color_recipe):
    from kerascv_course.data.pipeline import training_batches

    info, splits = labeled.info, labeled
    task = ColorizationTask(color_recipe)
    recipe = dataclasses.replace(color_recipe, augmentation=Augmentation(flip=True, translate=2))
    for images, targets in training_batches(splits.train, recipe, relabel=task.relabel(info)).take(3):
        assert (targets.numpy() == nearest_colors(images.numpy(), palette_of(info.labels))).all()
    plain = dataclasses.replace(color_recipe, augmentation=Augmentation(), shuffle=False)
    images, targets = next(iter(training_batches(splits.train, plain, relabel=task.relabel(info))))
    assert (images.numpy() == splits.train.images[:8]).all() and (targets.numpy() == splits.train.targets[:8]).all(), (
        "fixed order"
    )


def test_loss_is_the_weighted_mean_over_pixels(labeled, color_recipe):
    targets, logits = labeled.train.targets[:2], np.random.default_rng(0).normal(size=(2, 16, 20, 6)).astype(np.float32)
    losses = []
    for rebalance in (0.0, 1.0):
        recipe = dataclasses.replace(color_recipe, colorization=Colorization(colors=6, rebalance=rebalance))
        losses.append(float(ColorizationTask(recipe).compile_arguments(labeled)["loss"](targets, logits)))
    each = keras.ops.convert_to_numpy(
        keras.losses.sparse_categorical_crossentropy(targets.astype(int), logits, from_logits=True)
    )
    weights = color_weights(labeled.train.targets, 6, 1.0)
    assert losses == pytest.approx([each.mean(), (each * weights[targets]).mean()], rel=1e-5)


# --- a run ---


def test_run_writes_palette_snapshots_and_figures(color_run, labeled):
    info = labeled.info
    metrics = color_run.read_json("metrics.json")
    assert (load_palette(color_run / "palette.csv") == palette_of(info.labels)).all()
    expected = {"learning_curves.png", "step_curves.png", "color_grid.png", "palette.png", "parity.png"}
    expected |= {"first_convolution.png", "last_convolution.png"}
    assert {path.name for path in (color_run / "plots").iterdir()} == expected
    assert [path.name for path in sorted((color_run / "snapshots").iterdir())] == ["validation_0002.png", "validation_0004.png"]
    assert metrics["test"]["accuracy"] > metrics["baselines"]["majority_accuracy"]
    assert metrics["last"]["epoch"] == 4 and metrics["best"]["epoch"] == metrics["best_epoch"]
    assert metrics["baselines"]["palette_psnr"] > metrics["test"]["psnr"]
    page = (color_run / "report.html").read_text()
    assert "after each of 2 validations" in page and "Baselines:" in page and "Palette: fraction" in page


def test_evaluate_uses_the_palette_of_the_run(color_run, color_images):
    found, metrics = Experiment.open(color_run.path, color_images).evaluate(), color_run.read_json("metrics.json")
    assert found["test"] == metrics["test"]


def test_label_uses_a_palette_file(labeled, color_recipe, color_images, tmp_path):
    (tmp_path / "mine.csv").write_text("0,0,0\n255,128,0\n0,0,255\n")
    recipe = dataclasses.replace(color_recipe, colorization=Colorization(palette=str(tmp_path / "mine.csv")))
    data = ColorizationTask(recipe).label(load(recipe.data, color_images), None)
    assert data.info.labels == ("#000000", "#ff8000", "#0000ff") and data.train.targets.max() <= 2
    assert data.info.fingerprint != labeled.info.fingerprint


def test_input_small_depends_on_block_means_only(labeled, color_recipe):
    splits = labeled
    recipe = dataclasses.replace(color_recipe, colorization=Colorization(colors=6, input="small"))
    model = prepare(ColorizationTask(recipe), labeled).model
    assert model.get_layer("unet_colorizer").input_shape == (None, 16, 20, 3)
    blocks = splits.test.images[:2].reshape(2, 4, 4, 5, 4, 3).mean((2, 4))
    same = np.rint(blocks).astype(np.uint8).repeat(4, 1).repeat(4, 2)
    difference = model.predict(same, verbose=0) - model.predict(splits.test.images[:2], verbose=0)
    assert np.abs(difference).max() < 0.05, "only the block means matter"


def test_input_gray_is_the_mean_of_the_channels_over_256(labeled, color_recipe):
    model = prepare(ColorizationTask(color_recipe), labeled).model
    images = labeled.test.images[:2]
    network = model.get_layer("unet_colorizer")
    expected = network.predict(images.mean(-1, keepdims=True).astype(np.float32) / 256, verbose=0)
    np.testing.assert_allclose(model.predict(images, verbose=0), expected, atol=1e-5)
    assert gray_levels(np.array([[0, 1, 1]], np.uint8)).tolist() == [[1]]


def test_log_style_csc413(color_recipe):
    row = {
        "epoch": 3.0,
        "step": 9.0,
        "loss": 2.0,
        "val_loss": 1.58771,
        "val_accuracy": 0.4127,
        "learning_rate": 1e-3,
        "seconds": 1.0,
    }
    recipe = dataclasses.replace(color_recipe, epochs=25, log_style="csc413")
    assert describe_row(row, recipe) == "Epoch [3/25], Val Loss: 1.5877, Val Acc: 41.3%"


def test_networks_have_the_parameter_counts_of_the_report():
    from kerascv_course.models import model_spec

    counts = {
        name: model_spec(get_recipe(f"csc413-{name}").model).parameters for name in ("pool-upsample", "conv-transpose", "unet")
    }
    assert counts == {"pool-upsample": 49_728, "conv-transpose": 49_728, "unet": 56_856}


def test_load_cifar10_horses(cifar10_dir):
    splits = load(get_recipe("csc413-unet").data, cifar10_dir)
    assert splits.info.labels == ("horse",) and splits.info.sizes == {"train": 4900, "validation": 100, "test": 1000}
    assert set(splits.test.targets) == {0}


# --- bad settings ---


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"data": Data("folder", image_size=(18, 20), only=("shape",))},
            r"multiples of 4.*received 18×20: crop or pad .* 20×20",
        ),
        ({"data": Data("folder", image_size=(16, 20), only=("shape",), channels=1)}, r"received data\.channels=1: use 3"),
        ({"model": "tdt4265_base", "model_options": {}}, "an output for every pixel; the output of tdt4265_base has the shape"),
        ({"model_options": {"kernel": 8}}, r"option kernel of unet_colorizer must be an integer \(2 to 7\); received 8"),
        ({"model_options": {"kernel": 1}}, r"\(2 to 7\); received 1"),
        (
            {"colorization": Colorization(colors=6, input="small", shrink=8)},
            "colorization.shrink must divide height and width; received 8 for 16×20",
        ),
        ({"colorization": Colorization(palette="nowhere.npy")}, r"no such palette: nowhere\.npy"),
        ({"data": Data("folder", image_size=(16, 20), only=("shap",))}, "unknown class in .* 'shap'; did you mean 'shape'"),
    ],
)
def test_recipe_rejects_unsuitable_data_and_networks(color_recipe, color_images, changes, message):
    recipe = dataclasses.replace(color_recipe, **changes)
    task = ColorizationTask(recipe)
    with pytest.raises(InputError, match=message):
        prepare(task, task.label(load(recipe.data, color_images), None))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"colors": 1}, r"colorization.colors must be an integer \(2 to 256\); received 1"),
        ({"rebalance": 1.5}, r"colorization.rebalance must be a number \(0 to 1\)"),
        ({"temperature": 0.0}, r"colorization.temperature must be a number \(above 0 to 1\)"),
        ({"palette_seed": -1}, r"colorization.palette_seed must be an integer \(0 or more\)"),
        ({"keep_gray": True, "input": "small"}, "keep_gray requires the input gray"),
    ],
)
def test_config_rejects_values_out_of_range(values, message):
    with pytest.raises(InputError, match=message):
        Colorization(**values)


def test_even_kernels_keep_the_image_size(labeled, color_recipe):
    for kernel in (2, 4):
        recipe = dataclasses.replace(color_recipe, model_options={"filters": 2, "kernel": kernel})
        assert prepare(ColorizationTask(recipe), labeled).model.output_shape == (None, 16, 20, 6)


def test_extra_convolutions_keep_width_and_image_size(labeled, color_recipe):
    recipe = dataclasses.replace(color_recipe, model_options={"filters": 2, "extra": 2})
    model = prepare(ColorizationTask(recipe), labeled).model
    added = [layer.name for layer in model.get_layer("unet_colorizer").layers if layer.name.endswith(("_conv2", "_conv3"))]
    assert added == [f"block{block}_conv{number}" for block in (1, 2, 3) for number in (2, 3)]
    assert model.output_shape == (None, 16, 20, 6)


def test_load_model_of_a_run(color_run):
    model = load_model(color_run.path)
    assert model.input_shape == (None, 16, 20, 3) and model.inputs[0].dtype == "uint8"
