"""Comparison of files whose answer is a vector: rank lists of every image, and R1."""

from __future__ import annotations

import numpy as np

__all__ = ["MIN_EQUAL", "TIE", "equal_lists", "first_rate"]

#: Share of the images whose rank lists must be equal.
MIN_EQUAL = 0.999

#: Entries of a rank list, the image itself left out.
LENGTH = 10

#: Images whose distances differ by less have no order that float32 could keep.
TIE = 1e-5


def equal_lists(reference: np.ndarray, vectors: np.ndarray) -> float:
    """Share of the images whose ten nearest others are the same in the same order; two at one distance may change places.

    Args:
        reference: float (N, width).
        vectors: float (N, width), other vectors of the same images.
    """
    if reference.shape != vectors.shape or not (np.isfinite(reference).all() and np.isfinite(vectors).all()):
        return 0.0
    if len(reference) < 2:
        return 1.0
    ours, theirs = _others(vectors, LENGTH), _others(reference, LENGTH)
    found, wanted = _distances(reference, ours), _distances(reference, theirs)
    return float(((ours == theirs) | (np.abs(wanted - found) <= TIE)).all(axis=1).mean())


def first_rate(vectors: np.ndarray, identities: np.ndarray) -> float | None:
    """R1 with every image as a query among all others; None where no identity has two images or vectors are not finite.

    Args:
        vectors: float (N, width).
        identities: int (N,); −1: images that count neither as right nor as wrong, other negative numbers: nobody's.
    """
    counted = identities != -1
    vectors, identities = vectors[counted], identities[counted]
    known, number, counts = np.unique(identities, return_inverse=True, return_counts=True)
    queries = (counts[number] > 1) & (known[number] >= 0)
    if not queries.any() or not np.isfinite(vectors).all():
        return None
    nearest = _others(vectors, 1)[:, 0]
    return float((identities[nearest] == identities)[queries].mean())


def _others(vectors: np.ndarray, count: int) -> np.ndarray:
    """The nearest others of each, int (N, count or fewer), of equal distances the first one first."""
    from sklearn.neighbors import NearestNeighbors

    some = min(max(count, LENGTH), len(vectors) - 1)
    search = NearestNeighbors(n_neighbors=some, algorithm="brute").fit(vectors)
    indices = np.sort(search.kneighbors(return_distance=False), axis=1)
    order = np.argsort(_distances(vectors, indices), axis=1, kind="stable")
    return np.take_along_axis(indices, order, axis=1)[:, :count]


def _distances(vectors: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Of each vector to those of the given numbers: float64 of the shape of `indices`."""
    distances: np.ndarray = np.linalg.norm(vectors[:, None].astype(np.float64) - vectors[indices], axis=-1)
    return distances
