"""Retrieval protocols and metrics against values computed by hand, scikit-learn and pytorch-metric-learning."""

from __future__ import annotations

import numpy as np
import pytest

from kerascv_course.core.errors import InputError
from kerascv_course.core.retrieval_metrics import evaluate, evaluate_distances, make_protocol


@pytest.fixture(scope="module")
def clusters():
    """Embeddings of 40 identities, 2 to 9 images each, in 16 dimensions, with cameras and marks."""
    rng = np.random.default_rng(0)
    identities = np.repeat(np.arange(40), rng.integers(2, 10, 40))
    centers = rng.normal(size=(40, 16))
    embeddings = (centers[identities] + 0.8 * rng.normal(size=(len(identities), 16))).astype(np.float32)
    return embeddings, identities, rng.integers(0, 3, len(identities)), rng.random(len(identities)) < 0.3


def test_metrics_computed_by_hand():
    # gallery on a line at 1 … 6, identities a b a b a c; one query a at 0 and one c at 0; one d, not in the gallery
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


def test_query_gallery_ignores_junk_and_the_querys_own_camera():
    positions = np.array([1, 2, 3, 4, 0], np.float32)[:, None]
    identities, cameras = np.array([-1, 5, 7, 5, 5]), np.array([1, 2, 2, 1, 2])
    protocol = make_protocol("query-gallery", identities, cameras=cameras, is_query=np.arange(5) == 4)
    report = evaluate(positions, identities, protocol)
    # 7 at 3 and 5 at 4 remain: junk is ignored, and so is 5 at 2, from the query's own camera
    assert (report.gallery, report.recalls[1], report.mean_ap, report.chance) == (3, 0.0, 0.5, 0.5)


def test_protocol_sizes(clusters):
    _, identities, *_ = clusters
    one = make_protocol("one-an-identity", identities)
    assert identities[one.gallery].tolist() == list(range(40)) and len(one.queries) == len(identities) - 40
    assert not set(one.gallery) & set(one.queries)
    every = make_protocol("leave-one-out", identities)
    assert every.excluded(every.queries).sum() == len(identities)


def test_identity_with_one_image_is_only_in_the_gallery():
    protocol = make_protocol("one-an-identity", np.array([4, 4, 9]))
    assert (protocol.gallery.tolist(), protocol.queries.tolist()) == ([0, 2], [1])
    report = evaluate(np.eye(3), np.array([4, 4, 9]), make_protocol("leave-one-out", np.array([4, 4, 9])))
    assert (report.queries, report.unmatched) == (2, 1)


@pytest.mark.parametrize(
    ("identities", "name", "options", "rule"),
    [
        ([1, 2, 3], "one-an-identity", {}, "leaves no queries among 3 images: use two or more per identity"),
        ([1, 1, 3], "query-gallery", {}, "which this source does not provide"),
        ([1, 1], "query-gallery", {"is_query": np.array([True, True])}, "the gallery of the protocol query-gallery is empty"),
        ([1, 1], "leave-two-out", {}, "did you mean 'leave-one-out'"),
        ([1.0, 2.0], "leave-one-out", {}, r"identities must be integers.*received float64 \(2,\)"),
        ([True, False], "leave-one-out", {}, "identities must be integers.*received bool"),
        ([[1, 1]], "leave-one-out", {}, r"identities must be integers.*received int64 \(1, 2\)"),
        ([1, 1, 2], "query-gallery", {"is_query": np.array([1, 0, 1])}, r"is_query must be True and False.*astype\(bool\)"),
        ([1, 1, 2], "query-gallery", {"is_query": np.array([True, False])}, "one for each of 3 images"),
        ([1, 1], "query-gallery", {"is_query": [True, False], "cameras": ["c1", "c2"]}, "cameras must be integers"),
        (
            [1, 1],
            "query-gallery",
            {"is_query": [True, False], "cameras": [1, 2, 3]},
            "cameras must be integers, one for each of 2",
        ),
    ],
)
def test_make_protocol_rejects_bad_arguments(identities, name, options, rule):
    with pytest.raises(InputError, match=rule):
        make_protocol(name, np.array(identities), **options)


def test_make_protocol_takes_lists_and_any_integers():
    protocol = make_protocol("query-gallery", np.array([3, 3, 4], np.uint8), cameras=[1, 2, 2], is_query=[True, False, False])
    assert (protocol.queries.tolist(), protocol.gallery.tolist()) == ([0], [1, 2])


def test_evaluate_rejects_bad_arguments():
    identities = np.array([1, 2])
    protocol = make_protocol("query-gallery", identities, is_query=np.array([True, False]))
    with pytest.raises(InputError, match="none of 1 queries has its identity in the gallery"):
        evaluate(np.eye(2), identities, protocol)
    with pytest.raises(InputError, match="one embedding per image; received 3 for 2"):
        evaluate(np.eye(3), identities, protocol)
    with pytest.raises(InputError, match="NaN"):
        evaluate(np.full((2, 2), np.nan), identities, protocol)
    with pytest.raises(InputError, match=r"\(queries, gallery\); received \(2, 2\)"):
        evaluate_distances(np.eye(2), identities, protocol)
    with pytest.raises(InputError, match="k of 1 or more"):
        evaluate(np.eye(2), identities, protocol, ks=(0,))


def test_average_precision_and_recall_equal_scikit_learn(clusters):
    from sklearn.metrics import average_precision_score

    embeddings, identities, cameras, marks = clusters
    protocol = make_protocol("query-gallery", identities, cameras=cameras, is_query=marks)
    report = evaluate(embeddings, identities, protocol, ks=(1, 5, 10))
    queries, gallery = (embeddings[rows].astype(np.float64) for rows in (protocol.queries, protocol.gallery))
    distances = np.linalg.norm(queries[:, None] - gallery, axis=-1)
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


def test_metrics_equal_pytorch_metric_learning(clusters):
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
    theirs_by_name = theirs.get_accuracy(vectors, labels)
    report = evaluate(embeddings, identities, make_protocol("leave-one-out", identities))
    assert report.recalls[1] == pytest.approx(theirs_by_name["precision_at_1"], abs=1e-12)
    assert report.map_at_r == pytest.approx(theirs_by_name["mean_average_precision_at_r"], abs=1e-12)
    ap = whole.get_accuracy(vectors, labels)["mean_average_precision"]
    assert report.mean_ap == pytest.approx(ap, abs=1e-12)


def test_metrics_of_real_faces_equal_pytorch_metric_learning(lfw279_dir):
    """447 images of 49 people, compared by pixels."""
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
