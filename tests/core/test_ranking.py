"""Exact ranking against values computed by hand, brute force and FAISS."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kerascv_course.core import ranking
from kerascv_course.core.errors import InputError
from kerascv_course.core.ranking import full_orders, nearest


def brute_force(queries, gallery, distance="euclidean"):
    """All distances in float64, and orders with ties in the order of the gallery."""
    queries, gallery = (np.asarray(values, np.float32).astype(np.float64) for values in (queries, gallery))
    if distance == "cosine":
        queries, gallery = (
            (v / np.linalg.norm(v, axis=1, keepdims=True)).astype(np.float32).astype(np.float64) for v in (queries, gallery)
        )
    squares = ((queries[:, None] - gallery) ** 2).sum(axis=-1)
    return squares / 2 if distance == "cosine" else np.sqrt(squares), np.argsort(squares, axis=1, kind="stable")


def test_nearest_computed_by_hand():
    found = nearest(np.array([[0.0, 0.0]]), np.array([[3.0, 4.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]), 3)
    assert found.indices.tolist() == [[3, 1, 2]]  # ties keep the order of the gallery
    assert found.distances.tolist() == [[0.0, 1.0, 1.0]]
    cosine = nearest(np.array([[2.0, 0.0]]), np.array([[-1.0, 0.0], [0.0, 5.0], [7.0, 0.0]]), 9, distance="cosine")
    assert cosine.indices.tolist() == [[2, 1, 0]]
    assert cosine.distances.tolist() == [[0.0, 1.0, 2.0]]


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), k=st.integers(1, 40), distance=st.sampled_from(["euclidean", "cosine"]))
def test_nearest_and_full_orders_equal_brute_force_with_ties_and_small_chunks(seed, k, distance):
    rng = np.random.default_rng(seed)
    gallery, queries = rng.integers(-2, 3, (30, 3)), rng.integers(-2, 3, (7, 3))
    gallery[:, 0] += 10 * (gallery == 0).all(axis=1)
    queries[:, 0] += 10 * (queries == 0).all(axis=1)
    scale = 10.0 ** rng.integers(-25, 18) if distance == "euclidean" else 1.0
    distances, order = brute_force(queries, gallery, distance)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("QUERIES", 3), ("GALLERY", 4), ("ELEMENTS", 25)):
            patch.setattr(ranking, name, value)
        found = nearest(queries * scale, gallery * scale, k, distance=distance)
        whole = np.concatenate([part for _, part in full_orders(queries, gallery, distance=distance)])
    if scale == 1.0:  # elsewhere float32 rounds the coordinates
        np.testing.assert_array_equal(found.indices, order[:, :k])
    np.testing.assert_allclose(found.distances, np.sort(distances)[:, :k] * scale, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(whole, order)


@pytest.mark.parametrize("spread", [1.0, 1e-4], ids=["wide", "close together, beyond the precision of float32 products"])
def test_nearest_and_full_orders_equal_brute_force_despite_rounding(spread):
    rng = np.random.default_rng(1)
    gallery = (1 + spread * rng.normal(size=(3000, 32))).astype(np.float32)
    gallery[2000:2500] = gallery[:500]  # duplicates
    queries = (1 + spread * rng.normal(size=(20, 32))).astype(np.float32)
    queries[0] = gallery[7]
    distances, order = brute_force(queries, gallery)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "GALLERY", 256)
        found = nearest(queries, gallery, 25)
    np.testing.assert_array_equal(found.indices, order[:, :25])
    np.testing.assert_array_equal(found.distances, np.sort(distances)[:, :25])
    assert found.indices[0, :2].tolist() == [7, 2007] and found.distances[0, :2].tolist() == [0.0, 0.0]
    np.testing.assert_array_equal(np.concatenate([part for _, part in full_orders(queries, gallery)]), order)


def test_nearest_equals_faiss():
    faiss = pytest.importorskip("faiss", reason="faiss-cpu is not installed (extra [compare])")
    rng = np.random.default_rng(2)
    gallery, queries = (rng.normal(size=(n, 64)).astype(np.float32) for n in (9000, 30))
    index = faiss.IndexFlatL2(64)
    index.add(gallery)
    squares, indices = index.search(queries, 10)
    found = nearest(queries, gallery, 10)
    np.testing.assert_array_equal(found.indices, indices)
    np.testing.assert_allclose(found.distances**2, squares, rtol=1e-5)


@pytest.mark.parametrize(
    ("queries", "gallery", "options", "rule"),
    [
        (np.ones((2, 3)), np.ones((0, 3)), {}, "the gallery is empty"),
        (np.ones((2, 3)), np.ones((4, 2)), {}, "the same width; received 3 and 2"),
        (np.array([[1.0], [np.nan]]), np.ones((4, 1)), {}, "1 of 2 vectors contain NaN or infinity, the first at index 1"),
        (np.ones((2, 1)), np.array([[np.inf]]), {}, "gallery vectors must be finite"),
        (np.ones((2, 1)), np.zeros((3, 1)), {"distance": "cosine"}, "undefined for zero vectors; received one at index 0"),
        (np.ones((2, 1)), np.ones((3, 1)), {"distance": "manhattan"}, "euclidean or cosine; received 'manhattan'"),
        (np.ones((2, 1)), np.ones((3, 1)), {"k": 0}, "k must be 1 or more; received 0"),
    ],
)
def test_nearest_rejects_bad_arguments(queries, gallery, options, rule):
    with pytest.raises(InputError, match=rule):
        nearest(queries, gallery, **{"k": 1, **options})
