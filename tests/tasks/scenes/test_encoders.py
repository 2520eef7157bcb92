"""Histograms, VLAD, Fisher vectors and pyramids against loops; learning of words, mixtures and axes."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from kerascv_course.core.errors import InputError
from kerascv_course.tasks.scenes.encoders import (
    VLAD,
    BagOfWords,
    Compress,
    FisherVector,
    Normalize,
    cell_order,
    find_words,
    fit_mixture,
    principal_axes,
    pyramid_weights,
    sample_descriptors,
)

numpy = keras.ops.convert_to_numpy


@pytest.fixture
def some():
    """Integer descriptors (1, 40, 6), their positions, and five words."""
    rng = np.random.default_rng(0)
    return (
        rng.integers(0, 30, (1, 40, 6)).astype(np.float32),
        rng.random((40, 2)),
        rng.integers(0, 30, (5, 6)).astype(np.float32),
    )


def nearest(descriptors: np.ndarray, words: np.ndarray) -> np.ndarray:
    return ((descriptors[:, None] - words) ** 2).sum(2).argmin(1)


def test_bag_of_words_counts_words_in_each_cell_of_a_pyramid(some):
    descriptors, places, words = some
    order, sizes = cell_order(places, 3)
    bag = BagOfWords(sizes, 5, 6)
    bag.set_weights([order, words])
    found = numpy(bag(descriptors))[0]
    assert found.shape == bag.compute_output_shape((1, 40, 6))[1:] == (21, 5)
    word = nearest(descriptors[0], words)
    row = 0
    for level in range(3):
        side = 2**level
        cell = (places * side).astype(int)
        for y in range(side):
            for x in range(side):
                inside = (cell == (y, x)).all(axis=1)
                np.testing.assert_array_equal(found[row], np.bincount(word[inside], minlength=5))
                row += 1


def test_soft_bag_of_words_weights_by_distance_and_approaches_hard_counts(some):
    descriptors, _, words = some
    square = ((descriptors[0][:, None] - words) ** 2).sum(2)
    shares = np.exp(-0.5 * square / 20.0**2)
    shares /= shares.sum(1, keepdims=True)
    for soft, expected in ((20.0, shares.sum(0)), (0.01, np.bincount(nearest(descriptors[0], words), minlength=5))):
        bag = BagOfWords([40], 5, 6, soft, precision="float64")
        bag.set_weights([np.arange(40, dtype=np.int32), words])
        np.testing.assert_allclose(numpy(bag(descriptors))[0, 0], expected, atol=1e-9)


def test_vlad_sums_differences_and_normalizes_each_word(some):
    descriptors, places, words = some
    order, sizes = cell_order(places, 2)
    vlad = VLAD(sizes, 5, 6)
    vlad.set_weights([order, words])
    word = nearest(descriptors[0], words)
    sums = np.stack([(descriptors[0][word == w] - words[w]).sum(0) for w in range(5)])
    norms = np.linalg.norm(sums, axis=1, keepdims=True)
    np.testing.assert_allclose(numpy(vlad(descriptors))[0, 0], (sums / np.maximum(norms, 1e-12)).ravel(), atol=1e-6)


def test_fisher_vector_is_the_gradient_of_the_likelihood():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(1, 30, 3))
    means, variances = rng.normal(size=(4, 3)), rng.uniform(0.5, 2, (4, 3))
    priors = rng.dirichlet(np.ones(4))
    layer = FisherVector([30], 4, 3, precision="float64")
    layer.set_weights([np.arange(30, dtype=np.int32), means, variances, priors])
    found = numpy(layer(x))[0, 0].reshape(4, 6)

    def likelihood(means: np.ndarray, deviations: np.ndarray) -> float:
        z = (x[0][:, None] - means) / deviations
        return float(np.log((priors * np.exp(-0.5 * (z**2).sum(2)) / deviations.prod(1)).sum(1)).sum())

    deviations, step = np.sqrt(variances), 1e-5
    for k in range(4):
        for d in range(3):
            nudge = np.zeros((4, 3))
            nudge[k, d] = step
            slope = (likelihood(means + nudge, deviations) - likelihood(means - nudge, deviations)) / (2 * step)
            assert found[k, d] == pytest.approx(slope * deviations[k, d] / priors[k] ** 0.5, abs=1e-4)
            slope = (likelihood(means, deviations + nudge) - likelihood(means, deviations - nudge)) / (2 * step)
            assert found[k, 3 + d] == pytest.approx(slope * deviations[k, d] / (2 * priors[k]) ** 0.5, abs=1e-4)


@pytest.mark.parametrize(
    ("norm", "expected"),
    [
        ("none", [[9, 16, 0], [0, 0, 0]]),
        ("l1", [[0.36, 0.64, 0], [0, 0, 0]]),
        ("hellinger", [[0.6, 0.8, 0], [0, 0, 0]]),
        ("power", [[0.6, 0.8, 0], [0, 0, 0]]),
    ],
)
def test_normalize_keeps_empty_cells_zero(norm, expected):
    cells = np.array([[[9, 16, 0], [0, 0, 0]]], np.float32)
    found = numpy(Normalize(norm, [1.0, 1.0])(cells))
    np.testing.assert_allclose(found[0], np.ravel(expected), atol=1e-7)


def test_pyramid_weights_follow_the_paper():
    np.testing.assert_array_equal(pyramid_weights(3), np.repeat([0.25, 0.25, 0.5], [1, 4, 16]))
    cells = np.ones((1, 5, 2), np.float32)
    weighted = numpy(Normalize("l1", pyramid_weights(2).tolist(), whole=True)(cells))
    assert weighted.shape == (1, 10) and weighted[0, 0] == 0.25
    # dot products of l2 vectors are weighted, so vectors are scaled by the square roots
    assert numpy(Normalize("l2", [0.25])(np.array([[[3.0, 4.0]]])))[0] == pytest.approx([0.3, 0.4])


def test_compress_applies_root_sift_and_pca():
    rng = np.random.default_rng(2)
    x = rng.integers(0, 9, (1, 50, 8)).astype(np.float32)
    x[0, 0] = 0
    roots = np.sqrt(x / np.maximum(x.sum(2, keepdims=True), 1e-12))
    mean, axes = principal_axes(roots[0], 3)
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-5)
    layer = Compress(8, 3)
    layer.set_weights([mean, axes])
    np.testing.assert_allclose(numpy(layer(x)), (roots - mean) @ axes, atol=1e-5)
    with pytest.raises(InputError, match="compressed to 1 to as many; received 9"):
        principal_axes(roots[0], 9)


def test_find_words_and_fit_mixture_find_clusters():
    rng = np.random.default_rng(3)
    middles = rng.integers(0, 60, (4, 8))
    sample = (middles[rng.integers(0, 4, 2000)] + rng.normal(0, 1, (2000, 8))).astype(np.float32)
    words = find_words(sample, 4, seed=0)
    assert np.abs(words[nearest(middles, words)] - middles).max() < 2
    np.testing.assert_array_equal(words, find_words(sample, 4, seed=0))
    mixture = fit_mixture(sample, 4, seed=0)
    assert mixture["priors"].sum() == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(mixture["variances"], 1, rtol=0.5)


@pytest.mark.parametrize(
    "learn", [lambda sample, count: find_words(sample, count, 0), lambda sample, count: fit_mixture(sample, count, 0)]
)
def test_more_words_than_descriptors_are_rejected(learn):
    sample = np.repeat(np.arange(12, dtype=np.float32).reshape(6, 2), 3, axis=0)
    with pytest.raises(InputError, match=r"more words than distinct descriptors .* received 7 words for 6"):
        learn(sample, 7)


def test_sample_descriptors_rejects_images_without_contrast():
    image = keras.Input((4, 4, 1), batch_size=1, dtype="uint8")
    model = keras.Model(image, keras.ops.zeros((1, 5, 128)) * keras.ops.cast(image[:, 0, 0, 0], "float32")[:, None, None])
    with pytest.raises(InputError, match="no contrast, so no words"):
        sample_descriptors(model, np.full((3, 4, 4, 1), 8, np.uint8), 10, 0)
