"""What the gate demands of files whose answer is a vector."""

from __future__ import annotations

import numpy as np
import pytest

from export import ParityError, check_parity
from export.gallery.rank_lists import equal_lists, first_rate
from kerascv_course.experiment import Experiment


def test_equal_lists_by_hand():
    line = np.array([[0.0], [1.0], [3.0], [7.0], [15.0]], np.float32)
    assert equal_lists(line, line + 1e-6) == 1
    moved = line.copy()
    moved[2] = 0.5  # the second image's nearest is now the third, which the others' lists show as well
    assert equal_lists(line, moved) < 0.5
    assert equal_lists(line, np.full_like(line, np.nan)) == 0
    assert equal_lists(line[:1], line[:1]) == 1


def test_places_may_be_changed_at_one_distance():
    square = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)
    assert equal_lists(square, square + np.float32(1e-7) * np.array([[0, 0], [0, 1], [0, 0], [1, 0]], np.float32)) == 1
    copies = np.zeros((30, 2), np.float32)
    assert equal_lists(copies, copies) == 1


def test_first_rate_by_hand():
    vectors = np.array([[0.0], [1.0], [1.5], [5.0]])
    assert first_rate(vectors, np.array([0, 0, 1, 1])) == 0.5  # 0 and 5 find theirs, 1 and 1.5 find each other
    assert first_rate(vectors, np.array([0, 0, -1, 2])) == 1  # junk is passed over, and who is alone is no query
    assert first_rate(np.eye(3), np.arange(3)) is None


def test_a_file_with_other_lists_fails(identity_run, people):
    experiment = Experiment.open(identity_run.path)
    serving, splits, labels = experiment.serving_graph(), experiment.data, experiment.labels()
    path = identity_run / "model.onnx"
    options = {"targets": splits.test.targets, "labels": labels, "batch_sizes": (7,), "reference_images": 0}
    report = check_parity(serving, path, splits.test.images, **options)
    assert report.ok and "R1" in report.summary()
    for weight in serving.trainable_weights:
        weight.assign(weight + 0.2 * np.random.default_rng(0).normal(size=weight.shape))
    with pytest.raises(ParityError, match=r"of 24 rank lists agree .*; at least 99.90% are required"):
        check_parity(serving, path, splits.test.images, tolerance=10, **options)
