"""Re-ranking by k-reciprocal neighbors, and raw pixels as a baseline."""

from __future__ import annotations

import numpy as np
import scipy.sparse
from PIL import Image

from kerascv_course.core.errors import InputError
from kerascv_course.core.images import Images, resize_image
from kerascv_course.core.ranking import ELEMENTS, Distance, nearest, prepare, squared_distances

__all__ = ["PIXELS", "k_reciprocal", "pixel_vectors"]

#: Side of the downscaled images of the pixel baseline.
PIXELS = 16


def pixel_vectors(images: Images) -> np.ndarray:
    """Images downscaled to 16×16 as vectors: uint8 (N, height, width, channels) to float32 (N, 256·channels), mean 0, length 1."""
    vectors = np.empty((len(images), PIXELS * PIXELS * images.shape[-1]), np.float32)
    for row, pixels in enumerate(images):
        image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
        vectors[row] = resize_image(image, PIXELS, PIXELS, "bilinear").ravel()
    vectors -= vectors.mean(axis=1, keepdims=True)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)
    return vectors


def k_reciprocal(
    queries: np.ndarray,
    gallery: np.ndarray,
    *,
    k1: int = 20,
    k2: int = 6,
    weight: float = 0.3,
    distance: Distance = "euclidean",
) -> np.ndarray:
    """Re-rank by k-reciprocal neighbors (Zhong, Zheng, Cao, Li: CVPR 2017, arXiv 1701.08398).

    Two images are neighbors if each is among the k1 nearest of the other (equations 2 and 3); the set is expanded by those of its
    members that agree with it by two thirds (equation 5). Members are weighted by exp(−d) (equation 7), d the squared distance divided
    by the largest of the image, as in the authors' code, and weights are averaged over the k2 nearest (equation 11). The Jaccard
    distance of the weights of two images (equation 10) is blended with the original distance (equation 12).

    Memory: about a hundred numbers per image, and the result.

    Args:
        queries: float (Q, width), finite, the vectors to rank for.
        gallery: float (G, width), finite, the vectors to rank.
        k1: number of reciprocal neighbors, 1 or more.
        k2: number of neighbors to average over, 1 (only the image itself) to k1.
        weight: of the original distance, 0 to 1 (λ in the paper).
        distance: the original distance, ``euclidean`` or ``cosine``.

    Returns:
        float64 (Q, G), 0 to 1, for `kerascv_course.core.retrieval_metrics.evaluate_distances`.

    Raises:
        InputError: bad vectors (see `nearest`) or parameters out of range.
    """
    if not (k1 >= 1 and 1 <= k2 <= k1 and 0 <= weight <= 1):
        raise InputError(f"re-ranking needs k1 ≥ 1, 1 ≤ k2 ≤ k1 and a weight of 0 to 1; received {k1}, {k2} and {weight}")
    queries, gallery, _ = prepare(queries, gallery, distance)
    count, vectors = len(queries), np.concatenate([queries, gallery])
    ranks = nearest(vectors, vectors, k1 + 1).indices
    largest = _largest_squares(vectors)
    members, weights = [], []
    for image in range(len(vectors)):
        members.append(_expanded(ranks, image, k1))
        squares = squared_distances(vectors, vectors, np.full(len(members[-1]), image), members[-1])
        closeness = np.exp(-squares / largest[image])
        weights.append(closeness / closeness.sum())
    table = _sparse(members, weights, len(vectors))
    if k2 > 1:
        table = _sparse(list(ranks[:, :k2]), [np.full(k2, 1 / k2)] * len(vectors), len(vectors)) @ table
    columns = table[count:].tocsc()
    result = np.empty((count, len(gallery)))
    for query in range(count):
        shared = np.zeros(len(gallery))  # sum of the minima of both images' weights
        row = table[query]
        for member, value in zip(row.indices, row.data, strict=True):
            part = slice(columns.indptr[member], columns.indptr[member + 1])
            shared[columns.indices[part]] += np.minimum(value, columns.data[part])
        own = squared_distances(queries, gallery, np.full(len(gallery), query), np.arange(len(gallery))) / largest[query]
        # the weights of an image sum to 1, so the sum of the maxima is 2 minus the sum of the minima
        result[query] = weight * own + (1 - weight) * (1 - shared / (2 - shared))
    return result


def _sparse(columns: list[np.ndarray], values: list[np.ndarray], width: int) -> scipy.sparse.csr_matrix:
    """Matrix (rows, width) from the nonzero columns of each row and their values."""
    starts = np.concatenate([[0], np.cumsum([len(row) for row in columns])])
    return scipy.sparse.csr_matrix((np.concatenate(values), np.concatenate(columns), starts), (len(columns), width))


def _largest_squares(vectors: np.ndarray) -> np.ndarray:
    """Largest squared distance of each vector to any other; 1 if all coincide."""
    wide = vectors.astype(np.float64)
    lengths = (wide**2).sum(axis=1)
    farthest = np.empty(len(vectors), np.int64)
    step = max(1, ELEMENTS // len(vectors))
    for start in range(0, len(vectors), step):
        part = slice(start, start + step)
        farthest[part] = (lengths - 2 * wide[part] @ wide.T).argmax(axis=1)
    largest = squared_distances(vectors, vectors, np.arange(len(vectors)), farthest)
    return np.where(largest > 0, largest, 1.0)


def _reciprocal(ranks: np.ndarray, image: int, k: int) -> np.ndarray:
    forward = ranks[image, : k + 1]
    return np.asarray(forward[(ranks[forward, : k + 1] == image).any(axis=1)])


def _expanded(ranks: np.ndarray, image: int, k1: int) -> np.ndarray:
    near = _reciprocal(ranks, image, k1)
    found = [near]
    for candidate in near:
        theirs = _reciprocal(ranks, int(candidate), round(k1 / 2))
        if len(np.intersect1d(theirs, near)) > 2 / 3 * len(theirs):
            found.append(theirs)
    return np.unique(np.concatenate(found))
