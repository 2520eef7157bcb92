"""Re-ranking against the equations of the paper; the pixel baseline."""

from __future__ import annotations

import numpy as np
import pytest

from kerascv_course.core.errors import InputError
from kerascv_course.core.retrieval_metrics import evaluate, evaluate_distances, make_protocol
from kerascv_course.tasks.retrieval.metrics import k_reciprocal, pixel_vectors


@pytest.fixture(scope="module")
def clusters():
    """Embeddings of 40 identities, 2 to 9 images each, in 16 dimensions, with cameras and marks."""
    rng = np.random.default_rng(0)
    identities = np.repeat(np.arange(40), rng.integers(2, 10, 40))
    centers = rng.normal(size=(40, 16))
    embeddings = (centers[identities] + 0.8 * rng.normal(size=(len(identities), 16))).astype(np.float32)
    return embeddings, identities, rng.integers(0, 3, len(identities)), rng.random(len(identities)) < 0.3


def rerank_by_equations(queries, gallery, k1, k2, weight):
    """The paper's equations with dense matrices and sets."""
    vectors = np.concatenate([queries, gallery])
    squares = ((vectors[:, None].astype(np.float64) - vectors) ** 2).sum(axis=-1)
    scaled = squares / squares.max(axis=1, keepdims=True)
    order = np.argsort(squares, axis=1, kind="stable")
    n = len(vectors)

    def near(i, k):
        return set(order[i, : k + 1])

    def mutual(i, k):
        return {j for j in near(i, k) if i in near(j, k)}

    weights = np.zeros((n, n))
    for i in range(n):
        expanded = set(mutual(i, k1))
        for j in mutual(i, k1):
            if len(mutual(j, round(k1 / 2)) & mutual(i, k1)) > 2 / 3 * len(mutual(j, round(k1 / 2))):
                expanded |= mutual(j, round(k1 / 2))
        for j in expanded:
            weights[i, j] = np.exp(-scaled[i, j])
        weights[i] /= weights[i].sum()
    weights = np.stack([weights[order[i, :k2]].mean(axis=0) for i in range(n)])
    q = len(queries)
    shared = np.minimum(weights[:q, None], weights[None, q:]).sum(-1)
    either = np.maximum(weights[:q, None], weights[None, q:]).sum(-1)
    return weight * scaled[:q, q:] + (1 - weight) * (1 - shared / either)


@pytest.mark.parametrize("parameters", [(20, 6, 0.3), (7, 1, 0.0), (5, 5, 1.0)])
def test_k_reciprocal_follows_the_equations_of_the_paper(clusters, parameters):
    embeddings, identities, _, marks = (values[:80] for values in clusters)
    protocol = make_protocol("query-gallery", identities, is_query=marks)
    queries, gallery = embeddings[protocol.queries], embeddings[protocol.gallery]
    k1, k2, weight = parameters
    distances = k_reciprocal(queries, gallery, k1=k1, k2=k2, weight=weight)
    np.testing.assert_allclose(distances, rerank_by_equations(queries, gallery, *parameters), atol=1e-12)
    before = evaluate(embeddings, identities, protocol)
    after = evaluate_distances(distances, identities, protocol)
    if weight == 1.0:
        assert after.mean_ap == pytest.approx(before.mean_ap, abs=1e-12)
    elif k2 > 1:
        assert after.mean_ap > before.mean_ap


def test_k_reciprocal_of_identical_vectors_and_bad_parameters():
    assert np.isfinite(k_reciprocal(np.ones((2, 3)), np.ones((4, 3)))).all()
    with pytest.raises(InputError, match="1 ≤ k2 ≤ k1"):
        k_reciprocal(np.ones((2, 3)), np.ones((4, 3)), k1=3, k2=4)


def test_pixel_vectors_have_unit_length_except_for_uniform_images():
    images = np.random.default_rng(0).integers(0, 256, (3, 20, 24, 3), np.uint8)
    vectors = pixel_vectors(np.concatenate([images, np.zeros_like(images[:1])]))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), [1, 1, 1, 0], atol=1e-5)
    assert vectors.shape == (4, 768)
