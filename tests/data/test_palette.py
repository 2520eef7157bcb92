from __future__ import annotations

import numpy as np
import pytest

from kerascv_course.core.errors import DataError
from kerascv_course.data.palette import (
    color_names,
    format_palette,
    kmeans_palette,
    load_palette,
    nearest_colors,
    nearest_colors_tf,
    palette_of,
)

THREE = np.array([[0, 0, 0], [255, 0, 0], [255, 255, 255]], np.uint8)


def test_nearest_colors_computed_by_hand():
    # to red and black from (128, 0, 0): 127² < 128²; to red and black from (60, 0, 0): 195² > 60²; the tie of (255, 127.5 …)
    pixels = np.array([[[128, 0, 0], [60, 0, 0], [250, 240, 251]]], np.uint8)
    assert nearest_colors(pixels, THREE).tolist() == [[1, 0, 2]]
    assert nearest_colors(np.array([10, 0, 0], np.uint8), np.array([[0, 0, 0], [20, 0, 0]], np.uint8)) == 0, "ties to the first"


def test_nearest_colors_of_numpy_and_tensorflow_agree():
    tf = pytest.importorskip("tensorflow")
    rng = np.random.default_rng(0)
    palette = rng.integers(0, 256, (24, 3)).astype(np.uint8)
    images = rng.integers(0, 256, (8, 16, 16, 3), np.uint8)
    expected = ((images[..., None, :].astype(int) - palette.astype(int)) ** 2).sum(-1).argmin(-1)
    assert (nearest_colors(images, palette) == expected).all()
    assert (nearest_colors_tf(tf.constant(images), palette).numpy() == expected).all()
    data = tf.data.Dataset.from_tensor_slices(images).batch(3).map(lambda part: nearest_colors_tf(part, palette))
    assert (np.concatenate([part.numpy() for part in data]) == expected).all()


def test_kmeans_palette_finds_clusters_and_is_deterministic():
    rng = np.random.default_rng(0)
    centers = np.array([[20, 30, 40], [120, 40, 30], [200, 220, 180]])
    images = np.clip(centers[rng.integers(0, 3, (4, 8, 8))] + rng.integers(-3, 4, (4, 8, 8, 3)), 0, 255).astype(np.uint8)
    palette = kmeans_palette(images, 3, seed=1)
    assert palette.dtype == np.uint8 and np.abs(palette.astype(int) - centers).max() <= 1, "darkest first"
    assert (palette == kmeans_palette(images, 3, seed=1)).all()


def test_kmeans_palette_rejects_images_with_too_few_colors():
    with pytest.raises(DataError, match=r"the training images have 1, requested were 24: use other images or --colorization"):
        kmeans_palette(np.full((3, 8, 8, 3), 7, np.uint8), 24, 0)


def test_palette_round_trips_through_files_and_names(tmp_path):
    (tmp_path / "p.csv").write_text(format_palette(THREE))
    assert (load_palette(tmp_path / "p.csv") == THREE).all()
    np.save(tmp_path / "p.npy", THREE.astype(np.float64) + 0.2 * (THREE < 255))
    assert (load_palette(tmp_path / "p.npy") == THREE).all(), "rounded"
    assert color_names(THREE) == ("#000000", "#ff0000", "#ffffff") and (palette_of(color_names(THREE)) == THREE).all()
    with pytest.raises(DataError, match="must be written #rrggbb"):
        palette_of(["cat"])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((24, 4)), r"has the shape \(24, 4\)"),
        (np.zeros((1, 3)), r"has the shape \(1, 3\)"),
        (np.zeros((300, 3)), r"has the shape \(300, 3\)"),
        (np.zeros(24), r"has the shape \(24,\)"),
        (THREE.astype(int) + 1, "has a largest value of 256"),
        (THREE.astype(int) - 1, "or values below 0"),
        (THREE * np.nan, "has a largest value of nan"),
        (THREE / 255, "has no value above 1: multiply it by 255"),
        (THREE[[0, 1, 1]], "row 3 of .* is a duplicate: remove it"),
        (np.array([["a", "b", "c"], ["d", "e", "f"]]), "has a largest value of <U1"),
        (np.array([[None, 1, 2], [3, 4, 5]], object), "cannot be read.*Python objects are not opened"),
    ],
)
def test_load_palette_rejects_bad_arrays(tmp_path, values, message):
    np.save(tmp_path / "p.npy", values, allow_pickle=True)
    with pytest.raises(DataError, match=message):
        load_palette(tmp_path / "p.npy")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2,3\n4,5\n", "number of columns changed from 3 to 2"),
        ("1,2,3\n4,5,x\n", "could not convert string 'x'"),
        ("", "has the shape"),
        ("r,g,b\n1,2,3\n1,2,300\n", "has a largest value of 300"),
    ],
)
def test_load_palette_rejects_bad_csv_files(tmp_path, text, message):
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        load_palette(tmp_path / "p.csv")
    with pytest.raises(DataError, match="no such palette"):
        load_palette(tmp_path / "none.csv")
