"""The colourisation task: metrics by hand, targets, losses, and a run from pictures to report."""

from __future__ import annotations

import dataclasses

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
from kerascv_course.tasks.colorization.metrics import PixelReport, balanced_accuracy, entropy, floors, rgb_to_lab
from kerascv_course.tasks.colorization.task import ColorizationTask, Decode, color_weights, gray_levels, reach
from kerascv_course.training.callbacks import describe_row
from kerascv_course.training.trainer import prepare

keras = pytest.importorskip("keras")


@pytest.fixture(scope="module")
def labelled(color_recipe, color_images):
    return ColorizationTask(color_recipe).label(load(color_recipe.data, color_images), None)


# --- metrics ---


def test_lab_of_colours_that_the_standard_fixes():
    # CIE 15:2004 with the sRGB primaries and D65; the values are the usual printed ones
    colors = np.array([[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255], [119, 119, 119]], np.uint8)
    expected = [[0, 0, 0], [100, 0, 0], [53.24, 80.09, 67.20], [87.73, -86.18, 83.18], [32.30, 79.19, -107.86], [50.03, 0, 0]]
    np.testing.assert_allclose(rgb_to_lab(colors), expected, atol=0.05)


def test_a_report_worked_by_hand():
    report = PixelReport(2)
    logits = np.log(np.array([[[[3, 1], [1, 1]], [[1, 3], [1, 3]]]], np.float32))  # one picture of 2×2
    targets = np.array([[[0, 1], [0, 1]]], np.uint8)
    black, gray = np.zeros((1, 2, 2, 3), np.uint8), np.full((1, 2, 2, 3), 51, np.uint8)
    report.add(logits, logits.argmax(-1), targets, black, gray)
    found = report.result()
    assert (found["images"], found["accuracy"], found["balanced_accuracy"]) == (1, 0.5, 0.5)
    assert found["loss"] == pytest.approx(-(np.log(0.75) + np.log(0.5) + np.log(0.25) + np.log(0.75)) / 4, rel=1e-6)
    assert found["psnr"] == pytest.approx(20 * np.log10(5), rel=1e-6)  # every channel is 51 = 255/5 off
    assert found["delta_e"] == pytest.approx(rgb_to_lab(gray)[0, 0, 0, 0], rel=1e-5) and found["ab_rmse"] < 1e-3
    assert found["ssim"] == 0.0, "smaller than the window"


def test_a_picture_that_is_met_exactly():
    report, image = PixelReport(2), np.random.default_rng(0).integers(0, 256, (2, 12, 12, 3), np.uint8)
    report.add(None, np.zeros((2, 12, 12), int), np.zeros((2, 12, 12), int), image, image)
    found = report.result(loss=False)
    assert (found["psnr"], found["delta_e"], found["accuracy"]) == (99.0, 0.0, 1.0)
    assert found["ssim"] == pytest.approx(1.0) and "loss" not in found


def test_balance_and_entropy():
    assert balanced_accuracy(np.array([[90, 10, 0], [5, 5, 0], [0, 0, 0]])) == pytest.approx((0.9 + 0.5) / 2)
    assert entropy(np.array([5, 5, 0, 5, 5])) == pytest.approx(np.log(4))


def test_floors_of_a_picture_whose_grey_tells_its_colour():
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 3, (4, 12, 12))
    images = np.repeat((targets * 80)[..., None], 3, -1).astype(np.uint8)
    found = floors((images, targets), (images, targets), 3)
    assert found["lookup_accuracy"] == 1.0 and found["lookup_loss"] < 0.01
    assert found["majority_accuracy"] == pytest.approx(np.bincount(targets.ravel()).max() / targets.size)
    assert found["entropy_bits"] == pytest.approx(found["entropy"] / np.log(2)) and found["knn_accuracy"] > 0.6


# --- targets, loss, decoding ---


def test_every_pixel_is_labelled_with_its_nearest_colour(labelled):
    info, splits = labelled.info, labelled
    assert len(info.labels) == 6 and info.image_shape == (16, 20, 3)
    assert splits.train.targets.dtype == np.uint8 and splits.train.targets.shape == splits.train.images.shape[:3]
    assert (splits.test.targets == nearest_colors(splits.test.images, palette_of(info.labels))).all()


def test_a_mirrored_picture_has_the_mirrored_targets(labelled, color_recipe):
    from kerascv_course.data.pipeline import training_batches

    info, splits = labelled.info, labelled
    task = ColorizationTask(color_recipe)
    recipe = dataclasses.replace(color_recipe, augmentation=Augmentation(flip=True, translate=2))
    for images, targets in training_batches(splits.train, recipe, relabel=task.relabel(info)).take(3):
        assert (targets.numpy() == nearest_colors(images.numpy(), palette_of(info.labels))).all()
    plain = dataclasses.replace(color_recipe, augmentation=Augmentation(), shuffle=False)
    images, targets = next(iter(training_batches(splits.train, plain, relabel=task.relabel(info))))
    assert (images.numpy() == splits.train.images[:8]).all() and (targets.numpy() == splits.train.targets[:8]).all(), (
        "fixed order"
    )


def test_weights_of_rare_colours():
    targets = np.array([0] * 90 + [1] * 10)
    assert color_weights(targets, 2, 0.0) is None
    inverse = color_weights(targets, 2, 1.0)
    assert inverse[1] / inverse[0] == pytest.approx(9, rel=1e-5) and 0.9 * inverse[0] + 0.1 * inverse[1] == pytest.approx(1)
    half = color_weights(targets, 2, 0.5)  # Zhang et al., equation 4: 1/(0.5 p + 0.5/2)
    assert half[1] / half[0] == pytest.approx((0.45 + 0.25) / (0.05 + 0.25), rel=1e-5)


def test_the_loss_is_the_mean_over_pixels(labelled, color_recipe):
    targets, logits = labelled.train.targets[:2], np.random.default_rng(0).normal(size=(2, 16, 20, 6)).astype(np.float32)
    losses = []
    for rebalance in (0.0, 1.0):
        recipe = dataclasses.replace(color_recipe, colorization=Colorization(colors=6, rebalance=rebalance))
        losses.append(float(ColorizationTask(recipe).compile_arguments(labelled)["loss"](targets, logits)))
    each = keras.ops.convert_to_numpy(
        keras.losses.sparse_categorical_crossentropy(targets.astype(int), logits, from_logits=True)
    )
    weights = color_weights(labelled.train.targets, 6, 1.0)
    assert losses == pytest.approx([each.mean(), (each * weights[targets]).mean()], rel=1e-5)


def test_decoding_by_hand():
    logits, palette = np.array([[[[1.0, 0.0]]]], np.float32), [[0, 100, 200], [200, 100, 0]]
    image = np.full((1, 1, 1, 3), 130, np.uint8)
    classes, shown = Decode(palette, "argmax", 1.0, False)(logits, image)
    assert classes.numpy().tolist() == [[[0]]] and shown.numpy().tolist() == [[[[0, 100, 200]]]]
    p = np.exp(2) / (np.exp(2) + 1)
    _, mean = Decode(palette, "annealed-mean", 0.5, False)(logits, image)
    assert mean.numpy()[0, 0, 0].tolist() == [round(200 * (1 - p)), 100, round(200 * p)]
    _, kept = Decode(palette, "argmax", 1.0, True)(logits, image)
    assert kept.numpy()[0, 0, 0].tolist() == [30, 130, 230], "the mean of the channels is the input's"


def test_how_far_a_pixel_sees_is_what_a_change_there_shows():
    keras.utils.set_random_seed(0)
    from kerascv_course.models import create_model

    for name, kernel in (("pool_upsample_net", 3), ("conv_transpose_net", 4), ("unet_colorizer", 5)):
        network = create_model(name, 4, (64, 64, 1), kernel=kernel)
        far = reach(network)
        # Positive weights: no ReLU hides a path
        network.set_weights([np.abs(weight) + 0.01 for weight in network.get_weights()])
        image = np.ones((1, 64, 64, 1), np.float32)
        changed = image.copy()
        changed[0, 30, 30] += 1.0
        seen = np.argwhere(np.abs(network(changed) - network(image)).max(-1)[0] > 0)
        assert np.abs(seen - 30).max() <= far
        assert np.abs(seen - 30).max() >= far - 3, "no more than the alignment is given away"


# --- a run ---


def test_a_run_leaves_palette_grids_and_figures(color_run, labelled):
    info = labelled.info
    metrics = color_run.read_json("metrics.json")
    assert (load_palette(color_run / "palette.csv") == palette_of(info.labels)).all()
    expected = {"learning_curves.png", "step_curves.png", "color_grid.png", "palette.png", "parity.png"}
    expected |= {"first_convolution.png", "last_convolution.png"}
    assert {path.name for path in (color_run / "plots").iterdir()} == expected
    assert [path.name for path in sorted((color_run / "snapshots").iterdir())] == ["validation_0002.png", "validation_0004.png"]
    assert metrics["test"]["accuracy"] > metrics["floors"]["majority_accuracy"]
    assert metrics["last"]["epoch"] == 4 and metrics["best"]["epoch"] == metrics["best_epoch"]
    assert metrics["floors"]["palette_psnr"] > metrics["test"]["psnr"]
    page = (color_run / "report.html").read_text()
    assert "after each of 2 validations" in page and "Baselines" in page and "The palette: share" in page


def test_a_run_is_measured_again_with_its_own_palette(color_run, color_images):
    found, metrics = Experiment.open(color_run.path, color_images).evaluate(), color_run.read_json("metrics.json")
    assert found["test"] == metrics["test"]


def test_the_palette_can_be_given(labelled, color_recipe, color_images, tmp_path):
    (tmp_path / "mine.csv").write_text("0,0,0\n255,128,0\n0,0,255\n")
    recipe = dataclasses.replace(color_recipe, colorization=Colorization(palette=str(tmp_path / "mine.csv")))
    data = ColorizationTask(recipe).label(load(recipe.data, color_images), None)
    assert data.info.labels == ("#000000", "#ff8000", "#0000ff") and data.train.targets.max() <= 2
    assert data.info.fingerprint != labelled.info.fingerprint


def test_super_resolution_sees_the_shrunk_picture(labelled, color_recipe):
    splits = labelled
    recipe = dataclasses.replace(color_recipe, colorization=Colorization(colors=6, input="small"))
    model = prepare(ColorizationTask(recipe), labelled).model
    assert model.get_layer("unet_colorizer").input_shape == (None, 16, 20, 3)
    blocks = splits.test.images[:2].reshape(2, 4, 4, 5, 4, 3).mean((2, 4))
    same = np.rint(blocks).astype(np.uint8).repeat(4, 1).repeat(4, 2)
    difference = model.predict(same, verbose=0) - model.predict(splits.test.images[:2], verbose=0)
    assert np.abs(difference).max() < 0.05, "nothing but the block means is seen"


def test_the_model_sees_the_mean_of_the_channels_over_256(labelled, color_recipe):
    model = prepare(ColorizationTask(color_recipe), labelled).model
    images = labelled.test.images[:2]
    network = model.get_layer("unet_colorizer")
    expected = network.predict(images.mean(-1, keepdims=True).astype(np.float32) / 256, verbose=0)
    np.testing.assert_allclose(model.predict(images, verbose=0), expected, atol=1e-5)
    assert gray_levels(np.array([[0, 1, 1]], np.uint8)).tolist() == [[1]]


def test_log_lines_of_the_assignment(color_recipe):
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


def test_the_three_networks_have_the_counts_of_the_report():
    from kerascv_course.models import model_spec

    counts = {
        name: model_spec(get_recipe(f"csc413-{name}").model).parameters for name in ("pool-upsample", "conv-transpose", "unet")
    }
    assert counts == {"pool-upsample": 49_728, "conv-transpose": 49_728, "unet": 56_856}


def test_cifar10_horses(cifar10_dir):
    splits = load(get_recipe("csc413-unet").data, cifar10_dir)
    assert splits.info.labels == ("horse",) and splits.info.sizes == {"train": 4900, "validation": 100, "test": 1000}
    assert set(splits.test.targets) == {0}


# --- what cannot be done ---


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"data": Data("folder", image_size=(18, 20), only=("shape",))},
            r"multiples of 4.*received 18×20: crop or pad .* 20×20",
        ),
        ({"data": Data("folder", image_size=(16, 20), only=("shape",), channels=1)}, r"received data\.channels=1: use 3"),
        ({"model": "tdt4265_base", "model_options": {}}, "answers for every pixel; tdt4265_base gives"),
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
def test_recipes_that_cannot_be_run(color_recipe, color_images, changes, message):
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
def test_values_that_make_no_sense_are_refused(values, message):
    with pytest.raises(InputError, match=message):
        Colorization(**values)


def test_even_kernels_keep_the_size(labelled, color_recipe):
    for kernel in (2, 4):
        recipe = dataclasses.replace(color_recipe, model_options={"filters": 2, "kernel": kernel})
        assert prepare(ColorizationTask(recipe), labelled).model.output_shape == (None, 16, 20, 6)


def test_deeper_networks_are_as_wide_and_keep_the_size(labelled, color_recipe):
    recipe = dataclasses.replace(color_recipe, model_options={"filters": 2, "extra": 2})
    model = prepare(ColorizationTask(recipe), labelled).model
    added = [layer.name for layer in model.get_layer("unet_colorizer").layers if layer.name.endswith(("_conv2", "_conv3"))]
    assert added == [f"block{block}_conv{number}" for block in (1, 2, 3) for number in (2, 3)]
    assert model.output_shape == (None, 16, 20, 6)


def test_the_best_weights_come_back(color_run):
    model = load_model(color_run.path)
    assert model.input_shape == (None, 16, 20, 3) and model.inputs[0].dtype == "uint8"
