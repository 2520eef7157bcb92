"""Re-ranking by k-reciprocal neighbours (Zhong, Zheng, Cao, Li: CVPR 2017, arXiv 1701.08398); NumPy only."""

from __future__ import annotations

import numpy as np

from kerascv_course.core.errors import InputError
from kerascv_course.core.ranking import Distance, nearest, prepare, squared_distances

__all__ = ["k_reciprocal"]


def k_reciprocal(
    queries: np.ndarray,
    gallery: np.ndarray,
    *,
    k1: int = 20,
    k2: int = 6,
    share: float = 0.3,
    distance: Distance = "euclidean",
) -> np.ndarray:
    """Distances that also count the neighbours that two images share.

    Images are neighbours where each is among the other's k1 nearest (equations 2 and 3), the set is widened by those of its members
    that agree with it by two thirds (equation 5); its members weigh exp(−d) (equation 7), d the squared distance, for each image
    divided by its largest one, as the authors' program has it. Weights are averaged over the k2 nearest (equation 11). What
    two images share is the Jaccard distance of their weights (equation 10); the result is a blend of both (equation 12).

    Memory: some hundred numbers an image, and the result.

    Args:
        queries: (Q, width), finite.
        gallery: (G, width).
        k1: neighbours that must be mutual, 1 or more.
        k2: neighbours to average over, 1 (none but itself) to k1.
        share: of the original distance, 0 to 1 (the paper's λ).
        distance: Euclidean, or of directions.

    Returns:
        float64 (Q, G), 0 to 1; for `kerascv_course.tasks.retrieval.evaluate_distances`.

    Raises:
        InputError: vectors as for `nearest`, or parameters out of range.
    """
    if not (k1 >= 1 and 1 <= k2 <= k1 and 0 <= share <= 1):
        raise InputError(f"re-ranking takes k1 ≥ 1, 1 ≤ k2 ≤ k1 and a share of 0 to 1; received {k1}, {k2} and {share}")
    queries, gallery, _ = prepare(queries, gallery, distance)
    count, everybody = len(queries), np.concatenate([queries, gallery])
    ranks = nearest(everybody, everybody, k1 + 1).indices
    largest = _largest_squares(everybody)
    members, weights = [], []
    for image in range(len(everybody)):
        members.append(_widened(ranks, image, k1))
        own = squared_distances(everybody, everybody, np.full(len(members[-1]), image), members[-1])
        closeness = np.exp(-own / largest[image])
        weights.append(closeness / closeness.sum())
    members, weights = _averaged(ranks[:, :k2], members, weights)
    return _blend(queries, gallery, largest[:count], members, weights, share)


def _largest_squares(vectors: np.ndarray) -> np.ndarray:
    """The largest squared distance of each vector to any, and 1 where all are one point."""
    wide = vectors.astype(np.float64)
    lengths = (wide**2).sum(axis=1)
    farthest = np.empty(len(vectors), np.int64)
    step = max(1, 2**22 // len(vectors))
    for start in range(0, len(vectors), step):
        part = slice(start, start + step)
        farthest[part] = (lengths - 2 * wide[part] @ wide.T).argmax(axis=1)
    largest = squared_distances(vectors, vectors, np.arange(len(vectors)), farthest)
    return np.where(largest > 0, largest, 1.0)


def _reciprocal(ranks: np.ndarray, image: int, k: int) -> np.ndarray:
    forward = ranks[image, : k + 1]
    return forward[(ranks[forward, : k + 1] == image).any(axis=1)]


def _widened(ranks: np.ndarray, image: int, k1: int) -> np.ndarray:
    near = _reciprocal(ranks, image, k1)
    found = [near]
    for candidate in near:
        theirs = _reciprocal(ranks, int(candidate), round(k1 / 2))
        if len(np.intersect1d(theirs, near)) > 2 / 3 * len(theirs):
            found.append(theirs)
    return np.unique(np.concatenate(found))


def _averaged(
    ranks: np.ndarray, members: list[np.ndarray], weights: list[np.ndarray]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Each image's weights as the mean of those of its nearest images."""
    if ranks.shape[1] == 1:
        return members, weights
    mean_members, mean_weights = [], []
    for near in ranks:
        kept, place = np.unique(np.concatenate([members[i] for i in near]), return_inverse=True)
        mean_members.append(kept)
        mean_weights.append(np.bincount(place, np.concatenate([weights[i] for i in near])) / len(near))
    return mean_members, mean_weights


def _blend(
    queries: np.ndarray,
    gallery: np.ndarray,
    largest: np.ndarray,
    members: list[np.ndarray],
    weights: list[np.ndarray],
    share: float,
) -> np.ndarray:
    count = len(queries)
    columns = np.concatenate(members[count:])
    owners = np.repeat(np.arange(len(gallery)), [len(one) for one in members[count:]])
    values = np.concatenate(weights[count:])
    order = np.argsort(columns, kind="stable")
    columns, owners, values = columns[order], owners[order], values[order]
    starts = np.searchsorted(columns, np.arange(count + len(gallery) + 1))
    result = np.empty((count, len(gallery)))
    everyone = np.arange(len(gallery))
    for query in range(count):
        shared = np.zeros(len(gallery))
        for member, weight in zip(members[query], weights[query], strict=True):
            part = slice(starts[member], starts[member + 1])
            shared[owners[part]] += np.minimum(weight, values[part])
        own = squared_distances(queries, gallery, np.full(len(gallery), query), everyone) / largest[query]
        # weights of an image sum to 1, so the sum of the larger ones is 2 less the sum of the smaller
        result[query] = share * own + (1 - share) * (1 - shared / (2 - shared))
    return result
