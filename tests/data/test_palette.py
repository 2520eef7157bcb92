from __future__ import annotations

import numpy as np
import pytest

from kerascv_course.core.errors import DataError, UnknownNameError
from kerascv_course.data.palette import (
    color_names,
    format_palette,
    kmeans_palette,
    load_palette,
    nearest_colors,
    nearest_colors_tf,
    palette_of,
)
from kerascv_course.data.splits import Split, keep_classes

THREE = np.array([[0, 0, 0], [255, 0, 0], [255, 255, 255]], np.uint8)


def test_the_nearest_colour_worked_by_hand():
    # to red and black from (128, 0, 0): 127² < 128²; to red and black from (60, 0, 0): 195² > 60²; the tie of (255, 127.5 …)
    pixels = np.array([[[128, 0, 0], [60, 0, 0], [250, 240, 251]]], np.uint8)
    assert nearest_colors(pixels, THREE).tolist() == [[1, 0, 2]]
    assert nearest_colors(np.array([10, 0, 0], np.uint8), np.array([[0, 0, 0], [20, 0, 0]], np.uint8)) == 0, (
        "of equal ones the first"
    )


def test_numpy_and_the_pipeline_agree_on_every_pixel():
    tf = pytest.importorskip("tensorflow")
    rng = np.random.default_rng(0)
    palette = rng.integers(0, 256, (24, 3)).astype(np.uint8)
    images = rng.integers(0, 256, (8, 16, 16, 3), np.uint8)
    expected = ((images[..., None, :].astype(int) - palette.astype(int)) ** 2).sum(-1).argmin(-1)
    assert (nearest_colors(images, palette) == expected).all()
    assert (nearest_colors_tf(tf.constant(images), palette).numpy() == expected).all()
    data = tf.data.Dataset.from_tensor_slices(images).batch(3).map(lambda part: nearest_colors_tf(part, palette))
    assert (np.concatenate([part.numpy() for part in data]) == expected).all()


def test_kmeans_finds_clear_clusters_and_repeats_itself():
    rng = np.random.default_rng(0)
    centres = np.array([[20, 30, 40], [120, 40, 30], [200, 220, 180]])
    images = np.clip(centres[rng.integers(0, 3, (4, 8, 8))] + rng.integers(-3, 4, (4, 8, 8, 3)), 0, 255).astype(np.uint8)
    palette = kmeans_palette(images, 3, seed=1)
    assert palette.dtype == np.uint8 and np.abs(palette.astype(int) - centres).max() <= 1, "the darkest first"
    assert (palette == kmeans_palette(images, 3, seed=1)).all()


def test_pictures_of_one_colour_have_no_palette():
    with pytest.raises(
        DataError, match=r"the training pictures have 1, 24 were asked for: use more colourful pictures or --colorize"
    ):
        kmeans_palette(np.full((3, 8, 8, 3), 7, np.uint8), 24, 0)


def test_a_palette_survives_its_file_and_its_names(tmp_path):
    (tmp_path / "p.csv").write_text(format_palette(THREE))
    assert (load_palette(tmp_path / "p.csv") == THREE).all()
    np.save(tmp_path / "p.npy", THREE.astype(np.float64) + 0.2 * (THREE < 255))
    assert (load_palette(tmp_path / "p.npy") == THREE).all(), "rounded"
    assert color_names(THREE) == ("#000000", "#ff0000", "#ffffff") and (palette_of(color_names(THREE)) == THREE).all()
    with pytest.raises(DataError, match="written #rrggbb"):
        palette_of(["cat"])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((24, 4)), r"has the shape \(24, 4\)"),
        (np.zeros((1, 3)), r"has the shape \(1, 3\)"),
        (np.zeros((300, 3)), r"has the shape \(300, 3\)"),
        (np.zeros(24), r"has the shape \(24,\)"),
        (THREE.astype(int) + 1, "has values up to 256"),
        (THREE.astype(int) - 1, "or below 0"),
        (THREE * np.nan, "has values up to nan"),
        (THREE / 255, "has none above 1: multiply it by 255"),
        (THREE[[0, 1, 1]], "row 3 of .* is there already: remove it"),
        (np.array([["a", "b", "c"], ["d", "e", "f"]]), "has values up to"),
        (np.array([[None, 1, 2], [3, 4, 5]], object), "cannot be read.*Python objects are not opened"),
    ],
)
def test_arrays_that_are_no_palette_are_refused(tmp_path, values, message):
    np.save(tmp_path / "p.npy", values, allow_pickle=True)
    with pytest.raises(DataError, match=message):
        load_palette(tmp_path / "p.npy")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2,3\n4,5\n", "differ in length"),
        ("1,2,3\n4,5,x\n", "is no CSV of numbers"),
        ("", "has the shape"),
        ("r,g,b\n1,2,3\n1,2,300\n", "has values up to 300"),
    ],
)
def test_texts_that_are_no_palette_are_refused(tmp_path, text, message):
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        load_palette(tmp_path / "p.csv")
    with pytest.raises(DataError, match="no such palette"):
        load_palette(tmp_path / "none.csv")


def test_classes_are_kept_by_name():
    split = Split(np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1), np.array([0, 1, 2, 0, 2, 2]))
    kept, labels = keep_classes(split, ("a", "b", "c", "d"), ("c", "a"))
    assert labels == ("a", "c") and kept.targets.tolist() == [0, 1, 0, 1, 1] and kept.images.ravel().tolist() == [0, 2, 3, 4, 5]
    assert keep_classes(split, ("a", "b", "c", "d"), ())[0] is split
    with pytest.raises(UnknownNameError, match="unknown class 'hors'; did you mean 'horse'"):
        keep_classes(split, ("horse", "b", "c"), ("hors",))
    with pytest.raises(DataError, match=r"data\.only keeps classes that have images; 'd' has none"):
        keep_classes(split, ("a", "b", "c", "d"), ("a", "d"))
