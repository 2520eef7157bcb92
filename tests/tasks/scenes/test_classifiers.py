"""Distances against SciPy, votes and ties by hand, support vector machines against scikit-learn, kernel feature maps."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.svm import SVC

from kerascv_course.core.errors import InputError
from kerascv_course.tasks.scenes.classifiers import DISTANCES, KernelMap, KNeighborsLayer, LinearMachine, distances, vote

numpy = keras.ops.convert_to_numpy


@pytest.mark.parametrize("metric", DISTANCES)
def test_distances_equal_scipy(metric):
    rng = np.random.default_rng(0)
    a, b = rng.dirichlet(np.ones(7), 5), rng.dirichlet(np.ones(7), 6)
    if metric == "chi2":
        expected = 0.5 * ((a[:, None] - b) ** 2 / (a[:, None] + b)).sum(2)
    elif metric == "intersection":
        expected = 1 - np.minimum(a[:, None], b).sum(2)
    else:
        expected = cdist(a, b, metric, **({"p": 3.0} if metric == "minkowski" else {}))
    found = numpy(distances(a, b, metric))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_minkowski_distance_with_power_1_and_2():
    a = np.random.default_rng(1).normal(size=(4, 5))
    for power, metric in ((1.0, "cityblock"), (2.0, "euclidean")):
        np.testing.assert_allclose(
            numpy(distances(a, a[:2], "minkowski", power)), numpy(distances(a, a[:2], metric)), atol=1e-6
        )


@pytest.mark.parametrize("metric", DISTANCES)
def test_distances_of_zero_vectors_are_finite(metric):
    found = numpy(distances(np.zeros((1, 3)), np.array([[0, 0, 0], [0.5, 0.5, 0]]), metric))
    assert np.isfinite(found).all()


def test_vote_breaks_ties():
    labels = np.eye(3, dtype=np.float32)[[2, 1, 1, 2, 0]]
    away = np.array([[0.1, 0.2, 0.3, 0.4, 0.5]], np.float32)
    assert numpy(vote(away, labels, 4, "mode")).tolist() == [[0.0, 0.5, 0.5]]  # argmax takes the first: class 1
    assert numpy(vote(away, labels, 4, "nearest")).argmax() == 2  # its image is closest
    assert numpy(vote(away, labels, 3, "nearest")).argmax() == 1  # the majority wins
    weighted = numpy(vote(away, labels, 2, "distance"))[0]
    np.testing.assert_allclose(weighted, [0, 1 / 3, 2 / 3], rtol=1e-6)


def test_vote_of_equidistant_images_goes_to_the_first():
    labels = np.eye(3, dtype=np.float32)[[1, 0, 2]]
    assert numpy(vote(np.zeros((1, 3), np.float32), labels, 1, "mode")).argmax() == 1


def test_distances_that_differ_by_rounding_are_equal():
    """Sums in different orders differ in float64; neighbors must not."""
    b = np.random.default_rng(2).random(1001)
    found = numpy(distances(np.zeros((1, 1001)), np.stack([b, b[::-1]]), "cityblock"))
    assert found[0, 0] == found[0, 1]


def test_neighbors_rejects_k_above_the_number_of_training_images():
    with pytest.raises(InputError, match="k must be 1 to the number of training images, 4; received 5"):
        KNeighborsLayer(4, 2, 2, k=5)


def blobs() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    targets = np.repeat(np.arange(3), 20)
    return (np.eye(3)[targets] * 3 + rng.normal(0, 0.4, (60, 3))).astype(np.float32), targets


def test_linear_machine_equals_scikit_learn():
    vectors, targets = blobs()
    weights, bias = LinearMachine(vectors, targets, 3).fit(0.7)
    for target in range(3):
        theirs = SVC(C=0.7, kernel="linear").fit(vectors, targets == target)
        np.testing.assert_allclose(vectors @ weights[:, target] + bias[target], theirs.decision_function(vectors), atol=2e-3)
    assert ((vectors @ weights + bias).argmax(1) == targets).all()


def test_linear_machine_rejects_classes_without_images():
    vectors, targets = blobs()
    with pytest.raises(InputError, match="class 3 has none"):
        LinearMachine(vectors, targets, 4)


@pytest.mark.parametrize(
    ("kernel", "order", "tolerance"),
    [("intersection", 1, 0.17), ("intersection", 4, 0.09), ("chi2", 1, 0.06), ("chi2", 3, 0.02)],
)
def test_kernel_map_approximates_the_kernel(kernel, order, tolerance):
    rng = np.random.default_rng(4)
    a = rng.dirichlet(np.ones(20) * 0.5, 8).astype(np.float32)
    a[0, :5] = 0
    pairs = a[:, None], a[None]
    exact = (
        np.minimum(*pairs).sum(2)
        if kernel == "intersection"
        else (2 * pairs[0] * pairs[1] / np.maximum(sum(pairs), 1e-12)).sum(2)
    )
    mapped = numpy(KernelMap(kernel, order)(a))
    assert mapped.shape == (8, 20 * (2 * order + 1))
    assert np.abs(mapped @ mapped.T - exact).max() < tolerance
    assert not numpy(KernelMap(kernel)(np.zeros((1, 4), np.float32))).any()


@pytest.mark.parametrize("metric", DISTANCES)
@pytest.mark.parametrize(("count", "values"), [(33, 256), (100, 129)])
def test_equal_vectors_are_at_equal_distances(metric, count, values):
    """Wherever they stand among the others, so that a tie is one."""
    vectors = np.random.default_rng(0).dirichlet(np.ones(values), count).astype(np.float32)
    found = numpy(distances(vectors, np.concatenate([vectors, vectors]), metric))
    np.testing.assert_array_equal(found[:, :count], found[:, count:])
    np.testing.assert_array_equal(found[:, :count], found[:, :count].T)
