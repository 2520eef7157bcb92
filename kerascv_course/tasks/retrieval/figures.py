"""What the figures of the retrieval task show: nearest images, pairs, a 2-D map and triplets; drawn by `kerascv_course.plots`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import keras
import numpy as np
from matplotlib.figure import Figure

from kerascv_course import plots
from kerascv_course.core.ranking import full_orders
from kerascv_course.core.retrieval_metrics import RetrievalProtocol
from kerascv_course.data import Split
from kerascv_course.tasks.retrieval.losses import Mining, pair_distances, pick

__all__ = ["retrieval_figures", "triplet_figure"]

#: Images in the map and in the histograms, at most.
MAPPED, COMPARED = 600, 2000

#: Fewer images are mapped by PCA instead of t-SNE.
FEW = 50

#: Rank lists: number of queries, and images of each.
QUERIES, LENGTH = 8, 10

#: Pairs in the figure of the worst confusions.
PAIRS = 9

#: Triplets shown.
TRIPLETS = 6


def retrieval_figures(
    vectors: np.ndarray, split: Split, labels: Sequence[str], protocol: RetrievalProtocol, metrics: Mapping[str, Any]
) -> dict[str, Figure]:
    """Rank lists, CMC curves, histograms of distances, a map and the worst confusions, by file stem.

    Args:
        vectors: (N, width), of length 1.
        split: the N images of the vectors.
        labels: names of the identities.
        protocol: which of the N images are queries, and which gallery.
        metrics: with ``cmc`` of each split.
    """
    targets = split.targets
    nearest = _nearest(vectors, protocol, 1)[:, 0]
    correct = targets[nearest] == targets[protocol.queries]
    chosen = np.concatenate([_subsample(np.flatnonzero(mask), QUERIES // 2) for mask in (~correct, correct)])
    queries = protocol.queries[chosen]
    lists = _nearest(vectors, replace(protocol, queries=queries), LENGTH)
    distinct = ("train", "test") if "note" in metrics["test"] else ("train", "validation", "test")
    figures = {
        "rank_lists": plots.rank_lists(
            split.images[queries],
            [split.images[row[row >= 0]] for row in lists],
            (lists >= 0) & (targets[lists] == targets[queries][:, None]),
            _names(split, labels, queries),
        ),
        "cmc": plots.cmc_curves({name: metrics[name]["cmc"] for name in distinct}),
        "distances": plots.distance_histograms(*_pair_distances(vectors, targets)),
    }
    mapped = _subsample(np.flatnonzero(targets >= 0), MAPPED)
    if len(mapped) >= 3:
        figures["embedding_map"] = plots.embedding_map(_places(vectors[mapped]), targets[mapped])
    if not correct.all():
        wrong, found = protocol.queries[~correct], nearest[~correct]
        distances = np.linalg.norm(vectors[wrong] - vectors[found], axis=1)
        worst = np.argsort(distances, kind="stable")[:PAIRS]
        shown = np.stack([wrong[worst], found[worst]], axis=1).ravel()
        figures["worst_confusions"] = plots.confused_pairs(split.images[shown], _names(split, labels, shown), distances[worst])
    return figures


def triplet_figure(
    features: np.ndarray, batch: Split, labels: Sequence[str], mining: Mining, distance: Literal["euclidean", "cosine"]
) -> Figure:
    """Triplets of some anchors as the mining chooses them (for batch-all and semi-hard the hardest).

    Args:
        features: (batch, width), the vectors that the loss compares.
        batch: the images of the features, with their identities.
        labels: names of the identities.
        mining: how the loss chooses triplets.
        distance: the distance that the loss compares.
    """
    distances = keras.ops.convert_to_numpy(pair_distances(features, distance))
    same = batch.targets[:, None] == batch.targets
    positive = same & ~np.eye(len(same), dtype=bool)
    if mining == "random":
        positives, negatives = (keras.ops.convert_to_numpy(pick(where)) for where in (positive, ~same))
    else:
        positives = np.where(positive, distances, -np.inf).argmax(axis=1)
        negatives = np.where(same, np.inf, distances).argmin(axis=1)
    anchors = np.unique(batch.targets, return_index=True)[1][:TRIPLETS]
    shown = np.stack([anchors, positives[anchors], negatives[anchors]], axis=1)
    names = _names(batch, labels, shown.ravel())
    return plots.triplet_grid(batch.images[shown.ravel()], names, distances[shown[:, :1], shown].ravel())


def _names(split: Split, labels: Sequence[str], indices: np.ndarray) -> list[str]:
    return [labels[target] if target >= 0 else "nobody" for target in split.targets[indices].tolist()]


def _subsample(indices: np.ndarray, count: int) -> np.ndarray:
    """At most `count` indices, evenly spaced."""
    return np.take(indices, np.linspace(0, len(indices) - 1, min(count, len(indices))).astype(int))


def _nearest(vectors: np.ndarray, protocol: RetrievalProtocol, count: int) -> np.ndarray:
    """Nearest gallery images of each query, without ignored ones: image indices (queries, count), −1 beyond the last."""
    found = np.full((len(protocol.queries), count), -1)
    for part, order in full_orders(vectors[protocol.queries], vectors[protocol.gallery]):
        excluded = np.zeros(order.shape, bool)
        if protocol.excluded is not None:
            excluded = np.take_along_axis(protocol.excluded(protocol.queries[part]), order, axis=1)
        kept = np.take_along_axis(order, np.argsort(excluded, axis=1, kind="stable"), axis=1)[:, :count]
        valid = np.arange(kept.shape[1]) < (~excluded).sum(axis=1)[:, None]
        found[part, : kept.shape[1]] = np.where(valid, protocol.gallery[kept], -1)
    return found


def _pair_distances(vectors: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distances between images of the same identity and of different identities."""
    chosen = _subsample(np.flatnonzero(targets >= 0), COMPARED)
    vectors, targets = vectors[chosen], targets[chosen]
    rows, columns = np.triu_indices(len(chosen), 1)
    distances = np.sqrt(np.maximum(2 - 2 * vectors @ vectors.T, 0))[rows, columns]
    same = targets[rows] == targets[columns]
    return distances[same], distances[~same]


def _places(vectors: np.ndarray) -> np.ndarray:
    """Coordinates (N, 2) by t-SNE, or by PCA for few images, which have no neighborhoods to preserve."""
    if len(vectors) < FEW:
        from sklearn.decomposition import PCA

        return PCA(2, random_state=0).fit_transform(vectors)  # type: ignore[no-any-return]
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(vectors) - 1) / 3)
    return TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(vectors)  # type: ignore[no-any-return]
