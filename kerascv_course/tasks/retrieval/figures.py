"""Figures of the retrieval task: vectors and pictures in, `Figure` out."""

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

__all__ = ["draw", "triplets"]

#: Pictures of the map and of the histograms, at most.
MAPPED, COMPARED = 600, 2000

#: Fewer pictures than this are mapped by PCA: t-SNE has no neighbourhoods to keep.
FEW = 50

#: Rank lists: queries, and pictures of each.
QUERIES, LENGTH = 8, 10

#: Pairs of the worst confusions.
PAIRS = 9


def draw(
    vectors: np.ndarray, split: Split, labels: Sequence[str], protocol: RetrievalProtocol, metrics: Mapping[str, Any]
) -> dict[str, Figure]:
    """Rank lists, CMC curve, histograms of distances, a map and the worst confusions, by file stem.

    Args:
        vectors: (N, width), of length 1.
        split: the N images.
        labels: names of the identities.
        protocol: over them.
        metrics: with ``cmc`` of each split.
    """
    first = _nearest(vectors, protocol, 1)[:, 0]
    right = split.targets[first] == split.targets[protocol.queries]
    wrong_queries, right_queries = (_spread(np.flatnonzero(mask), QUERIES // 2) for mask in (~right, right))
    shown = protocol.queries[np.concatenate([wrong_queries, right_queries])]
    lists = _nearest(vectors, replace(protocol, queries=shown), LENGTH)
    matches = np.where(lists >= 0, split.targets[lists] == split.targets[shown][:, None], False)
    figures = {
        "rank_lists": plots.rank_lists(
            split.images[shown],
            [split.images[row[row >= 0]] for row in lists],
            matches,
            [_name(split, labels, number) for number in shown],
        ),
        "cmc": plots.cmc_curves({name: metrics[name]["cmc"] for name in _different(metrics)}),
        "distances": plots.distance_histograms(*_pairs(vectors, split)),
    }
    if (embedding_map := _map(vectors, split)) is not None:
        figures["embedding_map"] = plots.embedding_map(*embedding_map)
    missed = np.flatnonzero(~right)
    if len(missed):
        figures["worst_confusions"] = _confusions(vectors, split, labels, protocol.queries[missed], first[missed])
    return figures


def triplets(
    features: np.ndarray, batch: Split, labels: Sequence[str], mining: Mining, distance: Literal["euclidean", "cosine"]
) -> Figure:
    """Triplets of a batch: for some anchors, the positive and the negative that the mining takes (batch-all, semi-hard: the hardest).

    Args:
        features: (batch, width), what the loss compares.
        batch: its images.
        labels: names of the identities.
        mining, distance: the loss's.
    """
    distances = keras.ops.convert_to_numpy(pair_distances(features, distance))
    same = batch.targets[:, None] == batch.targets
    positive = same & ~np.eye(len(same), dtype=bool)
    if mining == "random":
        chosen = [keras.ops.convert_to_numpy(pick(where)) for where in (positive, ~same)]
    else:
        chosen = [np.where(positive, distances, -np.inf).argmax(axis=1), np.where(same, np.inf, distances).argmin(axis=1)]
    _, anchors = np.unique(batch.targets, return_index=True)
    shown = np.stack([(anchor, chosen[0][anchor], chosen[1][anchor]) for anchor in anchors[:6]])
    names = [_name(batch, labels, number) for number in shown.ravel()]
    return plots.triplet_grid(batch.images[shown.ravel()], names, distances[shown[:, :1], shown].ravel())


def _different(metrics: Mapping[str, Any]) -> list[str]:
    """Names of the splits, each of other images."""
    return ["train", "test"] if "note" in metrics["test"] else ["train", "validation", "test"]


def _name(split: Split, labels: Sequence[str], number: int) -> str:
    target = int(split.targets[number])
    return labels[target] if target >= 0 else "nobody"


def _spread(numbers: np.ndarray, count: int) -> np.ndarray:
    """At most so many of them, evenly."""
    return numbers[np.linspace(0, len(numbers) - 1, min(count, len(numbers))).astype(int)]


def _nearest(vectors: np.ndarray, protocol: RetrievalProtocol, count: int) -> np.ndarray:
    """Numbers of the nearest gallery images of each query, those passed over left out: int (queries, count); −1: there are no more."""
    found = np.full((len(protocol.queries), count), -1)
    for part, order in full_orders(vectors[protocol.queries], vectors[protocol.gallery]):
        excluded = np.zeros(order.shape, bool)
        if protocol.excluded is not None:
            excluded = np.take_along_axis(protocol.excluded(protocol.queries[part]), order, axis=1)
        kept = np.take_along_axis(order, np.argsort(excluded, axis=1, kind="stable"), axis=1)[:, :count]
        numbers = np.where(np.arange(kept.shape[1]) < (~excluded).sum(axis=1)[:, None], protocol.gallery[kept], -1)
        found[part, : kept.shape[1]] = numbers
    return found


def _pairs(vectors: np.ndarray, split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Distances of pairs of one identity, and of pairs of two."""
    chosen = _spread(np.flatnonzero(split.targets >= 0), COMPARED)
    vectors, targets = vectors[chosen], split.targets[chosen]
    distances = np.sqrt(np.maximum(2 - 2 * vectors @ vectors.T, 0))
    rows, columns = np.triu_indices(len(chosen), 1)
    same = targets[rows] == targets[columns]
    values = distances[rows, columns]
    return values[same], values[~same]


def _map(vectors: np.ndarray, split: Split) -> tuple[np.ndarray, np.ndarray] | None:
    """Places (N, 2) of some images, and their identities; None for too few."""
    chosen = _spread(np.flatnonzero(split.targets >= 0), MAPPED)
    if len(chosen) < 3:
        return None
    if len(chosen) < FEW:
        from sklearn.decomposition import PCA

        return PCA(2, random_state=0).fit_transform(vectors[chosen]), split.targets[chosen]
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(chosen) - 1) / 3)
    places = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(vectors[chosen])
    return places, split.targets[chosen]


def _confusions(vectors: np.ndarray, split: Split, labels: Sequence[str], queries: np.ndarray, found: np.ndarray) -> Figure:
    distances = np.linalg.norm(vectors[queries] - vectors[found], axis=1)
    worst = np.argsort(distances, kind="stable")[:PAIRS]
    shown = np.stack([queries[worst], found[worst]], axis=1).ravel()
    return plots.confused_pairs(split.images[shown], [_name(split, labels, number) for number in shown], distances[worst])
