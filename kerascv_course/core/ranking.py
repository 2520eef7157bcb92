"""Exact nearest-neighbor ranking in chunks of bounded memory; NumPy only.

A float32 matrix product selects the candidates. Whatever its rounding error leaves undecided is settled by distances computed from the
differences themselves in float64. The order is therefore exact and the same on every machine; ties keep the order of the gallery.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np

from kerascv_course.core.errors import InputError

__all__ = ["Distance", "Nearest", "check_embeddings", "full_orders", "nearest", "unit_vectors"]

Distance = Literal["euclidean", "cosine"]

#: Queries and gallery entries of one block of products: 16 MiB of float32.
QUERIES, GALLERY = 512, 8192

#: Elements of a temporary array of differences or of a sorted block.
ELEMENTS = 2**22


class Nearest(NamedTuple):
    """Nearest gallery entries of each query.

    Attributes:
        indices: int64 (queries, k), nearest first; ties keep the order of the gallery.
        distances: float64 (queries, k): Euclidean, or 1 − cosine (0 to 2).
    """

    indices: np.ndarray
    distances: np.ndarray


def check_embeddings(values: np.ndarray, what: str) -> np.ndarray:
    """Check embeddings and return them as float32 (N, width).

    Raises:
        InputError: wrong shape or type, empty, or NaN or infinite in float32.
    """
    values = np.asarray(values)
    if values.ndim != 2 or values.dtype.kind not in "fiu" or not values.size:
        raise InputError(f"{what} must be a numeric array (N, width), N ≥ 1; received {values.dtype} {values.shape}")
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(values, np.float32)
    bad = np.flatnonzero(np.concatenate([~np.isfinite(part).all(axis=1) for part in _parts(values)]))
    if len(bad):
        raise InputError(
            f"{what} must be finite; {len(bad)} of {len(values)} vectors contain NaN or infinity, the first at index {bad[0]}: the "
            "network that computed them has diverged or divides by zero"
        )
    return values


def unit_vectors(values: np.ndarray, what: str) -> np.ndarray:
    """Scale vectors (N, width) to unit length, float32.

    Raises:
        InputError: a zero vector.
    """
    result = np.empty_like(values)
    for start in range(0, len(values), GALLERY):
        part = values[start : start + GALLERY].astype(np.float64)
        lengths = np.sqrt((part**2).sum(axis=1, keepdims=True))
        if not lengths.all():
            zero = start + int(np.flatnonzero(lengths == 0)[0])
            raise InputError(
                f"{what} are compared by cosine, which is undefined for zero vectors; received one at index {zero}"
            )
        result[start : start + GALLERY] = part / lengths
    return result


def _parts(values: np.ndarray) -> list[np.ndarray]:
    return [values[start : start + GALLERY] for start in range(0, len(values), GALLERY)]


def prepare(queries: np.ndarray, gallery: np.ndarray, distance: Distance) -> tuple[np.ndarray, np.ndarray, float]:
    """Check and prepare vectors so that only Euclidean distances remain to be computed.

    Returns:
        float32 queries and gallery, and the factor they were divided by: a power of two (exact) for values far from 1, whose squares
        might overflow; otherwise 1.
    """
    if len(np.shape(gallery)) == 2 and not len(gallery):
        raise InputError("the gallery is empty; it must hold at least one vector")
    queries, gallery = check_embeddings(queries, "queries"), check_embeddings(gallery, "gallery vectors")
    if queries.shape[1] != gallery.shape[1]:
        raise InputError(f"queries and gallery must have the same width; received {queries.shape[1]} and {gallery.shape[1]}")
    if distance == "cosine":
        return unit_vectors(queries, "queries"), unit_vectors(gallery, "gallery vectors"), 1.0
    if distance != "euclidean":
        raise InputError(f"distance must be euclidean or cosine; received {distance!r}")
    largest = float(max(side for values in (queries, gallery) for side in (values.max(), -values.min())))
    if 2.0**-20 <= largest <= 2.0**20 or not largest:
        return queries, gallery, 1.0
    factor = 2.0 ** np.floor(np.log2(largest))
    return (queries / factor).astype(np.float32), (gallery / factor).astype(np.float32), float(factor)


def squared_distances(queries: np.ndarray, gallery: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Squared distance of each pair (row, column), float64, from the differences; independent of all other pairs."""
    result = np.empty(len(rows))
    step = max(1, ELEMENTS // 4 // queries.shape[1])
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        differences = queries[rows[part]].astype(np.float64)
        differences -= gallery[columns[part]]
        differences *= differences
        result[part] = differences.sum(axis=1)
    return result


def nearest(queries: np.ndarray, gallery: np.ndarray, k: int, *, distance: Distance = "euclidean") -> Nearest:
    """Exact k nearest gallery entries of each query.

    Needs about 50 MiB beyond arguments and result, a few hundred if most entries tie; ``"cosine"`` also copies the arguments.

    Args:
        queries: (Q, width), finite; converted to float32.
        gallery: (G, width).
        k: 1 or more; larger than G returns all of them.
        distance: Euclidean, or 1 − cosine.

    Raises:
        InputError: an empty gallery, different widths, NaN, zero vectors with ``"cosine"``, or k below 1.
    """
    indices, squares, factor = nearest_squares(queries, gallery, k, distance)
    return Nearest(indices, lengths_of(squares, factor, distance))


def nearest_squares(
    queries: np.ndarray, gallery: np.ndarray, k: int, distance: Distance
) -> tuple[np.ndarray, np.ndarray, float]:
    """Indices and squared distances (Q, k) of the k nearest, and the factor of `prepare`."""
    if k < 1:
        raise InputError(f"k must be 1 or more; received {k}")
    queries, gallery, factor = prepare(queries, gallery, distance)
    k = min(k, len(gallery))
    indices, squares = np.empty((len(queries), k), np.int64), np.empty((len(queries), k))
    half = _half_squares(gallery)
    step = max(1, min(QUERIES, ELEMENTS // k))
    for start in range(0, len(queries), step):
        part = slice(start, start + step)
        indices[part], squares[part] = _nearest_of_chunk(queries[part], gallery, half, k)
    return indices, squares, factor


def lengths_of(squares: np.ndarray, factor: float, distance: Distance) -> np.ndarray:
    """Convert squared Euclidean distances of vectors from `prepare` to the requested distance."""
    return squares / 2 if distance == "cosine" else np.sqrt(squares) * factor


def _half_squares(gallery: np.ndarray) -> np.ndarray:
    return np.concatenate([(part.astype(np.float64) ** 2).sum(axis=1) / 2 for part in _parts(gallery)])


def _nearest_of_chunk(queries: np.ndarray, gallery: np.ndarray, half: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices and squared distances (queries, k).

    The score q·g − |g|²/2 grows as the distance shrinks: |q − g|² = |q|² − 2 score. Its float32 rounding error is bounded for any order
    of summation (Higham 2002, section 3.1: width · 2⁻²⁴ times the sum of the products' magnitudes), so an entry whose score is below
    the k-th best by more than that cannot be among the k nearest; all others are measured exactly.
    """
    count, width = queries.shape
    lengths = (queries.astype(np.float64) ** 2).sum(axis=1)
    longest = float(np.sqrt(2 * half.max()))
    bound = (width + 4) * 2.0**-23 * (np.sqrt(lengths) * longest + longest**2) + 1e-30
    rows, columns, squares = np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)
    least = np.full(count, -np.inf)
    half32 = half.astype(np.float32)
    begin = 0
    while begin < len(gallery):
        end = min(len(gallery), max(begin + GALLERY, k))
        step = max(1, QUERIES * GALLERY // (end - begin))
        for top in range(0, count, step):  # a single pass unless k > GALLERY
            scores = queries[top : top + step] @ gallery[begin:end].T
            scores -= half32[begin:end]
            limit = least[top : top + step]
            if begin == 0:
                limit = np.partition(scores, -k, axis=1)[:, -k] - 2 * bound[top : top + step]
            found = np.flatnonzero(scores >= np.nextafter(limit.astype(np.float32), np.float32(-np.inf))[:, None])
            new_rows, new_columns = np.divmod(found, end - begin)
            new_rows, new_columns = new_rows + top, new_columns + begin
            rows, columns = np.concatenate([rows, new_rows]), np.concatenate([columns, new_columns])
            squares = np.concatenate([squares, squared_distances(queries, gallery, new_rows, new_columns)])
        order = np.lexsort((columns, squares, rows))
        starts = np.searchsorted(rows[order], np.arange(count))
        kept = order[(starts[:, None] + np.arange(k)).ravel()]
        rows, columns, squares = rows[kept], columns[kept], squares[kept]
        least = (lengths - squares.reshape(count, k)[:, -1]) / 2 - bound
        begin = end
    return columns.reshape(count, k), squares.reshape(count, k)


def full_orders(
    queries: np.ndarray, gallery: np.ndarray, *, distance: Distance = "euclidean"
) -> Iterator[tuple[slice, np.ndarray]]:
    """Rank the whole gallery, a block of queries at a time.

    Args:
        queries, gallery, distance: as for `nearest`.

    Yields:
        The slice of queries, and the gallery indices of each, nearest first: int64 (block, G).
    """
    queries, gallery, _ = prepare(queries, gallery, distance)
    half = _half_squares(gallery)
    longest = float(np.sqrt(2 * half.max()))
    step = max(1, ELEMENTS // len(gallery))
    for start in range(0, len(queries), step):
        part = slice(start, min(start + step, len(queries)))
        chunk = queries[part].astype(np.float64)
        squares = np.empty((len(chunk), len(gallery)))
        for begin in range(0, len(gallery), GALLERY):
            end = begin + GALLERY
            squares[:, begin:end] = chunk @ gallery[begin:end].astype(np.float64).T
        squares -= half
        squares *= -2
        lengths = (chunk**2).sum(axis=1)
        bound = (queries.shape[1] + 4) * 2.0**-50 * (np.sqrt(lengths) + longest) ** 2 + 1e-300
        yield part, _settled(squares, bound, queries[part], gallery)


def _settled(squares: np.ndarray, bound: np.ndarray, queries: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """Sort rows of squared distances; those closer than twice their error bound are measured exactly."""
    order = np.argsort(squares, axis=1)
    ranked = np.take_along_axis(squares, order, axis=1)
    close = np.diff(ranked, axis=1) <= 2 * bound[:, None]
    if close.any():
        edge = np.zeros((len(order), 1), bool)
        member = np.concatenate([edge, close], axis=1) | np.concatenate([close, edge], axis=1)
        group = np.concatenate([~edge, ~close], axis=1).cumsum(axis=1)
        rows, places = np.nonzero(member)
        columns = order[rows, places]
        exact = squared_distances(queries, gallery, rows, columns)
        order[rows, places] = columns[np.lexsort((columns, exact, group[rows, places], rows))]
    return order
