"""Ranking and metrics: numbers worked by hand, brute force, and other tools on the same embeddings."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kerascv_course.core import ranking
from kerascv_course.core.errors import InputError
from kerascv_course.core.protocols import make_protocol
from kerascv_course.core.ranking import full_orders, nearest
from kerascv_course.core.retrieval_metrics import evaluate, evaluate_distances
from kerascv_course.tasks.retrieval.reranking import k_reciprocal


def brute_force(queries, gallery, distance="euclidean"):
    """All distances in float64, and orders with ties in the order of the gallery."""
    queries, gallery = (np.asarray(values, np.float32).astype(np.float64) for values in (queries, gallery))
    if distance == "cosine":
        queries, gallery = (
            (v / np.linalg.norm(v, axis=1, keepdims=True)).astype(np.float32).astype(np.float64) for v in (queries, gallery)
        )
    squares = ((queries[:, None] - gallery) ** 2).sum(axis=-1)
    return squares / 2 if distance == "cosine" else np.sqrt(squares), np.argsort(squares, axis=1, kind="stable")


@pytest.fixture(scope="module")
def clusters():
    """Embeddings of 40 identities, 2 to 9 images each, in 16 dimensions, with cameras and marks."""
    rng = np.random.default_rng(0)
    identities = np.repeat(np.arange(40), rng.integers(2, 10, 40))
    centers = rng.normal(size=(40, 16))
    embeddings = (centers[identities] + 0.8 * rng.normal(size=(len(identities), 16))).astype(np.float32)
    return embeddings, identities, rng.integers(0, 3, len(identities)), rng.random(len(identities)) < 0.3


def test_the_nearest_by_hand():
    found = nearest(np.array([[0.0, 0.0]]), np.array([[3.0, 4.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]), 3)
    assert found.indices.tolist() == [[3, 1, 2]]  # of equal distances the first of the gallery
    assert found.distances.tolist() == [[0.0, 1.0, 1.0]]
    cosine = nearest(np.array([[2.0, 0.0]]), np.array([[-1.0, 0.0], [0.0, 5.0], [7.0, 0.0]]), 9, distance="cosine")
    assert cosine.indices.tolist() == [[2, 1, 0]]
    assert cosine.distances.tolist() == [[0.0, 1.0, 2.0]]


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), k=st.integers(1, 40), distance=st.sampled_from(["euclidean", "cosine"]))
def test_it_is_brute_force_with_many_ties_and_small_chunks(seed, k, distance):
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


@pytest.mark.parametrize("spread", [1.0, 1e-4], ids=["wide", "all close together, where float32 products round away the order"])
def test_it_is_brute_force_where_products_round(spread):
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


def test_faiss_finds_the_same():
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
        (np.ones((2, 3)), np.ones((4, 2)), {}, "vectors of one width; received 3 and 2"),
        (np.array([[1.0], [np.nan]]), np.ones((4, 1)), {}, "1 of 2 vectors hold NaN or infinity, first number 1"),
        (np.ones((2, 1)), np.array([[np.inf]]), {}, "the gallery's vectors are finite"),
        (np.ones((2, 1)), np.zeros((3, 1)), {"distance": "cosine"}, "a vector of zeros has not; number 0"),
        (np.ones((2, 1)), np.ones((3, 1)), {"distance": "manhattan"}, "euclidean or cosine; received 'manhattan'"),
        (np.ones((2, 1)), np.ones((3, 1)), {"k": 0}, "k is 1 or more; received 0"),
    ],
)
def test_bad_embeddings(queries, gallery, options, rule):
    with pytest.raises(InputError, match=rule):
        nearest(queries, gallery, **{"k": 1, **options})


# --- metrics ----------------------------------------------------------------------------------------------------------


def test_metrics_by_hand():
    # gallery on a line at 1 … 6, identities a b a b a c; one query a at 0 and one c at 0; one d, which is nowhere
    positions = np.array([1, 2, 3, 4, 5, 6, 0, 0, 0], np.float32)[:, None]
    identities = np.array([0, 1, 0, 1, 0, 2, 0, 2, 3])
    marks = np.arange(9) >= 6
    report = evaluate(positions, identities, make_protocol("query-gallery", identities, is_query=marks), ks=(1, 2, 6, 99))
    assert (report.queries, report.unmatched, report.gallery) == (2, 1, 6)
    assert report.recalls == {1: 0.5, 2: 0.5, 6: 1.0, 99: 1.0}
    assert report.cmc == (0.5, 0.5, 0.5, 0.5, 0.5, 1.0)
    assert report.mean_ap == pytest.approx(((1 / 1 + 2 / 3 + 3 / 5) / 3 + 1 / 6) / 2, abs=1e-15)
    assert report.mean_inp == pytest.approx((3 / 5 + 1 / 6) / 2, abs=1e-15)
    assert report.map_at_r == pytest.approx(((1 / 1 + 2 / 3) / 3 + 0) / 2, abs=1e-15)
    assert report.chance == pytest.approx((3 / 6 + 1 / 6) / 2, abs=1e-15)


def test_market_1501_passes_over_junk_and_the_own_camera():
    positions = np.array([1, 2, 3, 4, 0], np.float32)[:, None]
    identities, cameras = np.array([-1, 5, 7, 5, 5]), np.array([1, 2, 2, 1, 2])
    protocol = make_protocol("query-gallery", identities, cameras=cameras, is_query=np.arange(5) == 4)
    report = evaluate(positions, identities, protocol)
    # left are 7 at 3 and 5 at 4: junk is out, and so is 5 at 2, of the query's own camera
    assert (report.gallery, report.recalls[1], report.mean_ap, report.chance) == (3, 0.0, 0.5, 0.5)


def test_protocols_on_real_counts(clusters):
    _, identities, *_ = clusters
    one = make_protocol("one-an-identity", identities)
    assert identities[one.gallery].tolist() == list(range(40)) and len(one.queries) == len(identities) - 40
    assert not set(one.gallery) & set(one.queries)
    every = make_protocol("leave-one-out", identities)
    assert every.excluded(every.queries).sum() == len(identities)


def test_an_identity_with_one_image_is_in_the_gallery_alone():
    protocol = make_protocol("one-an-identity", np.array([4, 4, 9]))
    assert (protocol.gallery.tolist(), protocol.queries.tolist()) == ([0, 2], [1])
    report = evaluate(np.eye(3), np.array([4, 4, 9]), make_protocol("leave-one-out", np.array([4, 4, 9])))
    assert (report.queries, report.unmatched) == (2, 1)


@pytest.mark.parametrize(
    ("identities", "name", "options", "rule"),
    [
        ([1, 2, 3], "one-an-identity", {}, "leaves no queries among 3 images: an identity needs two images"),
        ([1, 1, 3], "query-gallery", {}, "the source does not mark them"),
        ([1, 1], "query-gallery", {"is_query": np.array([True, True])}, "the gallery of the protocol query-gallery is empty"),
        ([1, 1], "leave-two-out", {}, "did you mean 'leave-one-out'"),
    ],
)
def test_protocols_that_cannot_be(identities, name, options, rule):
    with pytest.raises(InputError, match=rule):
        make_protocol(name, np.array(identities), **options)


def test_nothing_to_measure_and_other_shapes():
    identities = np.array([1, 2])
    protocol = make_protocol("query-gallery", identities, is_query=np.array([True, False]))
    with pytest.raises(InputError, match="none of 1 queries has its identity in the gallery"):
        evaluate(np.eye(2), identities, protocol)
    with pytest.raises(InputError, match="one embedding an image; received 3 for 2"):
        evaluate(np.eye(3), identities, protocol)
    with pytest.raises(InputError, match="NaN"):
        evaluate(np.full((2, 2), np.nan), identities, protocol)
    with pytest.raises(InputError, match=r"queries by gallery; received \(2, 2\)"):
        evaluate_distances(np.eye(2), identities, protocol)
    with pytest.raises(InputError, match="k of 1 or more"):
        evaluate(np.eye(2), identities, protocol, ks=(0,))


def test_average_precision_and_recall_are_scikit_learns(clusters):
    from sklearn.metrics import average_precision_score

    embeddings, identities, cameras, marks = clusters
    protocol = make_protocol("query-gallery", identities, cameras=cameras, is_query=marks)
    report = evaluate(embeddings, identities, protocol, ks=(1, 5, 10))
    distances, _ = brute_force(embeddings[protocol.queries], embeddings[protocol.gallery])
    precisions, hits = [], {1: [], 5: [], 10: []}
    for row, query in zip(distances, protocol.queries, strict=True):
        own = (identities[protocol.gallery] == identities[query]) & (cameras[protocol.gallery] == cameras[query])
        right, far = (identities[protocol.gallery] == identities[query])[~own], row[~own]
        if right.any():
            precisions.append(average_precision_score(right, -far))
            for k, found in hits.items():
                found.append(right[np.argsort(far)[:k]].any())
    assert report.queries == len(precisions) and report.unmatched == len(protocol.queries) - len(precisions) > 0
    assert report.mean_ap == pytest.approx(np.mean(precisions), abs=1e-12)
    assert report.recalls == {k: pytest.approx(np.mean(found), abs=1e-15) for k, found in hits.items()}
    assert report.recalls[1] <= report.recalls[5] <= report.recalls[10] and list(report.cmc) == sorted(report.cmc)


def test_the_figures_are_pytorch_metric_learnings(clusters):
    pytest.importorskip("pytorch_metric_learning", reason="pytorch-metric-learning is not installed (extra [compare])")
    import torch
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

    embeddings, identities, *_ = clusters
    theirs = AccuracyCalculator(
        include=("precision_at_1", "mean_average_precision", "mean_average_precision_at_r", "r_precision"),
        k="max_bin_count",
    )
    whole = AccuracyCalculator(include=("mean_average_precision",), k=len(identities) - 1)
    vectors, labels = torch.tensor(embeddings), torch.tensor(identities)
    figures = theirs.get_accuracy(vectors, labels)
    report = evaluate(embeddings, identities, make_protocol("leave-one-out", identities))
    assert report.recalls[1] == pytest.approx(figures["precision_at_1"], abs=1e-12)
    assert report.map_at_r == pytest.approx(figures["mean_average_precision_at_r"], abs=1e-12)
    ap = whole.get_accuracy(vectors, labels)["mean_average_precision"]
    assert report.mean_ap == pytest.approx(ap, abs=1e-12)


def test_the_figures_of_real_faces_are_pytorch_metric_learnings(lfw279_dir):
    """447 pictures of 49 people, as their pixels."""
    pytest.importorskip("pytorch_metric_learning", reason="pytorch-metric-learning is not installed (extra [compare])")
    import torch
    from PIL import Image
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

    paths = sorted((lfw279_dir / "val").glob("*/*.jpg"))
    vectors = np.stack([np.asarray(Image.open(path).convert("L").resize((16, 16)), np.float32).ravel() for path in paths])
    _, identities = np.unique([path.parent.name for path in paths], return_inverse=True)
    one = make_protocol("one-an-identity", identities)
    every = make_protocol("leave-one-out", identities)
    first = AccuracyCalculator(include=("precision_at_1", "mean_average_precision"), k=49)
    labels, tensors = torch.tensor(identities), torch.tensor(vectors)
    theirs = first.get_accuracy(tensors[one.queries], labels[one.queries], tensors[one.gallery], labels[one.gallery])
    ours = evaluate(vectors, identities, one)
    assert (ours.queries, ours.gallery) == (398, 49)
    assert ours.recalls[1] == pytest.approx(theirs["precision_at_1"], abs=1e-12)
    assert ours.recalls[1] > ours.chance == pytest.approx(1 / 49, abs=1e-12)
    assert ours.mean_ap == pytest.approx(theirs["mean_average_precision"], abs=1e-12)
    within = AccuracyCalculator(include=("mean_average_precision_at_r",), k="max_bin_count")
    at_r = within.get_accuracy(tensors, labels)["mean_average_precision_at_r"]
    assert evaluate(vectors, identities, every).map_at_r == pytest.approx(at_r, abs=1e-12)


# --- re-ranking -------------------------------------------------------------------------------------------------------


def rerank_by_definition(queries, gallery, k1, k2, share):
    """The paper's equations with dense matrices and sets."""
    everybody = np.concatenate([queries, gallery])
    squares = ((everybody[:, None].astype(np.float64) - everybody) ** 2).sum(axis=-1)
    scaled = squares / squares.max(axis=1, keepdims=True)
    order = np.argsort(squares, axis=1, kind="stable")
    n = len(everybody)

    def near(i, k):
        return set(order[i, : k + 1])

    def mutual(i, k):
        return {j for j in near(i, k) if i in near(j, k)}

    weights = np.zeros((n, n))
    for i in range(n):
        widened = set(mutual(i, k1))
        for j in mutual(i, k1):
            if len(mutual(j, round(k1 / 2)) & mutual(i, k1)) > 2 / 3 * len(mutual(j, round(k1 / 2))):
                widened |= mutual(j, round(k1 / 2))
        for j in widened:
            weights[i, j] = np.exp(-scaled[i, j])
        weights[i] /= weights[i].sum()
    weights = np.stack([weights[order[i, :k2]].mean(axis=0) for i in range(n)])
    q = len(queries)
    shared = np.minimum(weights[:q, None], weights[None, q:]).sum(-1)
    either = np.maximum(weights[:q, None], weights[None, q:]).sum(-1)
    return share * scaled[:q, q:] + (1 - share) * (1 - shared / either)


@pytest.mark.parametrize("parameters", [(20, 6, 0.3), (7, 1, 0.0), (5, 5, 1.0)])
def test_re_ranking_is_the_papers(clusters, parameters):
    embeddings, identities, _, marks = (values[:80] for values in clusters)
    protocol = make_protocol("query-gallery", identities, is_query=marks)
    queries, gallery = embeddings[protocol.queries], embeddings[protocol.gallery]
    k1, k2, share = parameters
    distances = k_reciprocal(queries, gallery, k1=k1, k2=k2, share=share)
    np.testing.assert_allclose(distances, rerank_by_definition(queries, gallery, *parameters), atol=1e-12)
    before = evaluate(embeddings, identities, protocol)
    after = evaluate_distances(distances, identities, protocol)
    if share == 1.0:
        assert after.mean_ap == pytest.approx(before.mean_ap, abs=1e-12)
    elif k2 > 1:
        assert after.mean_ap > before.mean_ap


def test_re_ranking_of_a_single_point_and_bad_parameters():
    assert np.isfinite(k_reciprocal(np.ones((2, 3)), np.ones((4, 3)))).all()
    with pytest.raises(InputError, match="1 ≤ k2 ≤ k1"):
        k_reciprocal(np.ones((2, 3)), np.ones((4, 3)), k1=3, k2=4)
