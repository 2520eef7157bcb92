"""Colorization metrics and baselines against values computed by hand and reference colors."""

from __future__ import annotations

import numpy as np
import pytest

from kerascv_course.tasks.colorization.metrics import PixelReport, balanced_accuracy, baselines, entropy, rgb_to_lab


def test_rgb_to_lab_of_reference_colors():
    # CIE 15:2004 with the sRGB primaries and D65; commonly published values
    colors = np.array([[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255], [119, 119, 119]], np.uint8)
    expected = [[0, 0, 0], [100, 0, 0], [53.24, 80.09, 67.20], [87.73, -86.18, 83.18], [32.30, 79.19, -107.86], [50.03, 0, 0]]
    np.testing.assert_allclose(rgb_to_lab(colors), expected, atol=0.05)


def test_pixel_report_computed_by_hand():
    report = PixelReport(2)
    logits = np.log(np.array([[[[3, 1], [1, 1]], [[1, 3], [1, 3]]]], np.float32))  # one image of 2×2
    targets = np.array([[[0, 1], [0, 1]]], np.uint8)
    black, gray = np.zeros((1, 2, 2, 3), np.uint8), np.full((1, 2, 2, 3), 51, np.uint8)
    report.add(logits, logits.argmax(-1), targets, black, gray)
    found = report.result()
    assert (found["images"], found["accuracy"], found["balanced_accuracy"]) == (1, 0.5, 0.5)
    assert found["loss"] == pytest.approx(-(np.log(0.75) + np.log(0.5) + np.log(0.25) + np.log(0.75)) / 4, rel=1e-6)
    assert found["psnr"] == pytest.approx(20 * np.log10(5), rel=1e-6)  # every channel is 51 = 255/5 off
    assert found["delta_e"] == pytest.approx(rgb_to_lab(gray)[0, 0, 0, 0], rel=1e-5) and found["ab_rmse"] < 1e-3
    assert found["ssim"] == 0.0, "smaller than the window"


def test_pixel_report_of_identical_images():
    report, image = PixelReport(2), np.random.default_rng(0).integers(0, 256, (2, 12, 12, 3), np.uint8)
    report.add(None, np.zeros((2, 12, 12), int), np.zeros((2, 12, 12), int), image, image)
    found = report.result(loss=False)
    assert (found["psnr"], found["delta_e"], found["accuracy"]) == (99.0, 0.0, 1.0)
    assert found["ssim"] == pytest.approx(1.0) and "loss" not in found


def test_balanced_accuracy_and_entropy_computed_by_hand():
    assert balanced_accuracy(np.array([[90, 10, 0], [5, 5, 0], [0, 0, 0]])) == pytest.approx((0.9 + 0.5) / 2)
    assert entropy(np.array([5, 5, 0, 5, 5])) == pytest.approx(np.log(4))


def test_baselines_when_gray_levels_determine_colors():
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 3, (4, 12, 12))
    images = np.repeat((targets * 80)[..., None], 3, -1).astype(np.uint8)
    found = baselines((images, targets), (images, targets), 3)
    assert found["lookup_accuracy"] == 1.0 and found["lookup_loss"] < 0.01
    assert found["majority_accuracy"] == pytest.approx(np.bincount(targets.ravel()).max() / targets.size)
    assert found["entropy_bits"] == pytest.approx(found["entropy"] / np.log(2)) and found["knn_accuracy"] > 0.6
