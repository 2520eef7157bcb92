"""Tiny images; dense SIFT on images with known gradients, against loops over pixels, OpenCV and VLFeat."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from kerascv_course.core.errors import InputError
from kerascv_course.core.images import read_image
from kerascv_course.tasks.scenes.features import DIMENSIONS, NORM, DenseSIFT, Grid, TinyImage, orientation_table

numpy = keras.ops.convert_to_numpy


def describe(image: np.ndarray, **options) -> np.ndarray:
    """(descriptors, 128) of one image (height, width)."""
    layer = DenseSIFT(**{"step": 4, "bin_sizes": (4,), **options})
    return numpy(layer(image[None, :, :, None].astype(np.uint8)))[0]


def by_bins(descriptor: np.ndarray) -> np.ndarray:
    return descriptor.reshape(4, 4, 8)


@pytest.mark.parametrize("orientation", range(8))
def test_sift_of_a_ramp_has_one_orientation(orientation):
    rows, columns = np.mgrid[:32, :32] - 16
    angle = orientation * np.pi / 4
    # integer slopes avoid rounding of pixels
    slope = np.rint(3 * np.array([np.cos(angle), np.sin(angle)]) * (1 if orientation % 2 == 0 else 2**0.5)).astype(int)
    bins = by_bins(describe(128 + slope[0] * columns + slope[1] * rows)[12])
    assert (np.argmax(bins, axis=2) == orientation).all()
    assert np.delete(bins, orientation, axis=2).max() == 0


def test_orientation_table_splits_gradients_by_angle():
    right, diagonal, down = orientation_table(1000)[:, 256 * 40 + 30]  # 40 across, 30 down: length 50, 36.87°
    share = np.degrees(np.arctan2(30, 40)) / 45
    assert (right, diagonal, down) == (round(50_000 * (1 - share)), round(50_000 * share), 0)


def test_sift_of_an_edge_is_in_the_bins_it_crosses():
    image = np.zeros((32, 32))
    image[:, 20:] = 200  # gradient at columns 19 and 20
    grid = Grid(32, 32, step=4, bin_size=4)
    first = grid.columns[0]
    bins = by_bins(describe(image)[0])
    centers = first + 4 * np.arange(4)
    expected = sum(np.maximum(0, 4 - np.abs(centers - column)) for column in (19, 20))
    assert ((bins[0, :, 0] > 0) == (expected > 0)).all()
    assert bins[..., 1:].max() == 0


def reference(image: np.ndarray, top: int, left: int, size: int) -> np.ndarray:
    """Lowe's descriptor with VLFeat's windows at one position, by loops over pixels, in float64."""
    padded = np.pad(image.astype(float), 1, mode="edge")
    down, right = padded[2:, 1:-1] - padded[:-2, 1:-1], padded[1:-1, 2:] - padded[1:-1, :-2]
    length, angle = np.hypot(down, right), np.arctan2(down, right) % (2 * np.pi) / (np.pi / 4)
    bins = np.zeros((4, 4, 8))
    for i in range(4):
        for j in range(4):
            for y in range(max(0, top + i * size - size + 1), min(image.shape[0], top + i * size + size)):
                for x in range(max(0, left + j * size - size + 1), min(image.shape[1], left + j * size + size)):
                    near = (size - abs(y - top - i * size)) * (size - abs(x - left - j * size))
                    low, share = int(angle[y, x]) % 8, angle[y, x] % 1
                    bins[i, j, low] += near * length[y, x] * (1 - share)
                    bins[i, j, (low + 1) % 8] += near * length[y, x] * share
    place = np.exp(-0.5 * ((np.arange(4) - 1.5) / 2) ** 2)
    values = (bins * np.outer(place, place)[:, :, None]).ravel()
    values = np.minimum(values / np.linalg.norm(values), 0.2)
    return NORM * values / np.linalg.norm(values)


@pytest.mark.parametrize(("step", "size"), [(3, 3), (5, 4), (4, 6)])
def test_sift_equals_loops_over_pixels(step, size):
    image = np.random.default_rng(step).integers(0, 256, (30, 36))
    grid = Grid(30, 36, step, size)
    found = describe(image, step=step, bin_sizes=(size,))
    assert found.shape == (len(grid.rows) * len(grid.columns), DIMENSIONS)
    places = [(top, left) for top in grid.rows for left in grid.columns]
    for number in range(0, len(places), 5):
        assert np.abs(found[number] - reference(image, *places[number], size)).max() <= 1.2


def test_sift_values_are_integers_of_norm_512():
    found = describe(np.random.default_rng(0).integers(0, 256, (40, 40)), step=1)
    assert (found == np.rint(found)).all() and found.min() >= 0
    assert np.abs(np.linalg.norm(found, axis=1) - NORM).max() < 8


def test_sift_of_uniform_and_faint_images_is_zero():
    flat = np.full((24, 24), 77)
    assert not describe(flat).any()
    faint = flat + (np.arange(24) % 8 >= 4)
    assert describe(faint).any()
    assert not describe(faint, contrast=2.0).any()


def test_sift_concatenates_scales_and_colors():
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (1, 40, 44, 3), np.uint8)
    both = DenseSIFT(5, (3, 5))
    counts = [len(grid.centers) for grid in both.grids(40, 44)]
    gray = numpy(both(image[..., :1]))
    assert gray.shape == (1, sum(counts), 128) == both.compute_output_shape((1, 40, 44, 1))
    np.testing.assert_array_equal(gray[:, : counts[0]], numpy(DenseSIFT(5, (3,))(image[..., :1])))
    rgb = numpy(DenseSIFT(5, (3, 5), color="rgb")(image))
    np.testing.assert_array_equal(rgb[..., :128], gray)
    assert DenseSIFT(5, (3, 5), color="opponent")(image).shape == (1, sum(counts), 384)
    gray_rgb = np.repeat(image[..., :1], 3, axis=3)
    np.testing.assert_array_equal(numpy(both(gray_rgb)), gray)


@pytest.mark.parametrize("options", [{"window": "gaussian"}, {"smooth": 2}, {"weighting": False}])
def test_sift_variants_correlate_with_the_default(options):
    smooth = np.kron(np.random.default_rng(2).integers(0, 256, (6, 6)), np.ones((8, 8)))
    plain, other = describe(smooth), describe(smooth, **options)
    keep = plain.any(axis=1) & other.any(axis=1)
    assert np.corrcoef(plain[keep].ravel(), other[keep].ravel())[0, 1] > 0.85
    assert (other == np.rint(other)).all()


@pytest.mark.parametrize("options", [{"step": 0}, {"bin_sizes": (15,)}, {"bin_sizes": ()}, {"smooth": -1}])
def test_sift_rejects_values_out_of_range(options):
    with pytest.raises(InputError, match="dense SIFT needs a step of 1 or more"):
        DenseSIFT(**options)


def test_sift_rejects_images_smaller_than_a_descriptor():
    with pytest.raises(InputError, match="spans 13 pixels; received images of 12×40"):
        DenseSIFT()(np.zeros((1, 12, 40, 1), np.uint8))
    assert DenseSIFT()(np.zeros((1, 13, 13, 1), np.uint8)).shape == (1, 1, 128)


def test_sift_correlates_with_opencv(scene15_dir):
    cv2 = pytest.importorskip("cv2", reason="opencv-python-headless is not installed (extra compare)")
    size = 8
    correlations = []
    for path in sorted(scene15_dir.glob("test/*/*.jpg"))[::500]:
        image = read_image(path, 200, 200, 1)
        # OpenCV smooths to a deviation of 1.6, assuming 0.5 for the image, and bins are 1.5 times the keypoint's size
        smooth = cv2.GaussianBlur(image, (0, 0), (1.6**2 - 0.5**2) ** 0.5)
        grid = Grid(200, 200, 8, size)
        middle = 1.5 * size
        keypoints = [
            cv2.KeyPoint(float(x + middle), float(y + middle), size / 1.5, 0.0) for y in grid.rows for x in grid.columns
        ]
        _, theirs = cv2.SIFT_create().compute(image, keypoints)
        # OpenCV's angles run counter-clockwise
        theirs = theirs.reshape(-1, 4, 4, 8)[..., -np.arange(8) % 8].reshape(-1, 128)
        ours = describe(smooth, step=8, bin_sizes=(size,))
        inside = np.array([20 < k.pt[0] < 180 and 20 < k.pt[1] < 180 for k in keypoints])
        for one, other in zip(ours[inside], theirs[inside], strict=True):
            correlations.append(np.corrcoef(one, other)[0, 1])
    assert np.median(correlations) > 0.97, np.percentile(correlations, [1, 10, 50])


@pytest.mark.filterwarnings("ignore:pycolmap.Sift is deprecated")
def test_sift_correlates_with_vlfeat(scene15_dir):
    """VLFeat's descriptor (in COLMAP), upright, at its own keypoints; ours at the nearest pixel and bin size."""
    pycolmap = pytest.importorskip("pycolmap", reason="pycolmap is not installed (extra compare)")
    cv2 = pytest.importorskip("cv2", reason="opencv-python-headless is not installed (extra compare)")
    options = pycolmap.FeatureExtractionOptions()
    options.use_gpu = False
    options.sift.upright, options.sift.first_octave, options.sift.peak_threshold = True, 0, 0.001
    options.sift.normalization = pycolmap.Normalization.L2
    extractor = pycolmap.Sift(options)
    correlations = []
    for path in sorted(scene15_dir.glob("test/*/*.jpg"))[::900]:
        image = read_image(path, 200, 200, 1)
        keypoints, theirs = extractor.extract(np.ascontiguousarray(image[..., 0]))
        # VLFeat's angles have the opposite sign; a bin is 3 times the scale; pixel centers are at halves
        theirs = theirs.reshape(-1, 4, 4, 8)[..., -np.arange(8) % 8].reshape(-1, 128)
        for size in (6, 7, 8):
            smooth = cv2.GaussianBlur(image, (0, 0), ((size / 3) ** 2 - 0.5**2) ** 0.5)
            ours, grid = describe(smooth, step=1, bin_sizes=(size,)), Grid(200, 200, 1, size)
            for (x, y, scale, _), other in zip(keypoints, theirs, strict=True):
                left, top = (round(place - 0.5 - 1.5 * size) for place in (x, y))
                inside = all(1.5 * size < place < 200 - 4.5 * size for place in (left, top))
                if inside and abs(3 * scale - size) < 0.05 * size:
                    found = ours[grid.rows.tolist().index(top) * len(grid.columns) + grid.columns.tolist().index(left)]
                    correlations.append(np.corrcoef(found, other)[0, 1])
    assert len(correlations) > 30
    assert np.median(correlations) > 0.98, np.percentile(correlations, [1, 10, 50])


def test_tiny_image_centers_and_normalizes():
    image = np.array([0, 10, 20, 50], np.uint8).reshape(1, 2, 2, 1)
    np.testing.assert_allclose(numpy(TinyImage()(image))[0], np.array([-20, -10, 0, 30]) / 60, rtol=1e-6)
    np.testing.assert_allclose(numpy(TinyImage(norm="l2")(image))[0], np.array([-20, -10, 0, 30]) / 1400**0.5, rtol=1e-6)
    np.testing.assert_allclose(numpy(TinyImage(center=False, norm="none")(image))[0], [0, 10, 20, 50])
    assert not numpy(TinyImage()(np.full((1, 4, 4, 3), 9, np.uint8))).any()
