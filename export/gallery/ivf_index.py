"""Approximate search of a gallery on disk: faiss proposes candidates, their vectors on disk give exact distances.

The index is faiss's inverted file with product quantization (Jégou, Douze and Schmid 2011, "Product quantization for nearest neighbor
search", section IV): k-means divides the gallery into cells, and each vector is kept as a code of a few bytes. A query visits only the
nearest cells. What it misses is measured (`recall`); what it finds has its exact distance.

faiss's own files are neither written nor read: its reader trusts sizes, and follows names of other files. The index is stored as plain
arrays (.npz without pickles), which are checked before faiss sees them.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from export.gallery.disk_index import BUDGET, VectorFile, read_npy_header
from kerascv_course.core.errors import CourseError, DataError, InputError
from kerascv_course.core.io import atomic_write
from kerascv_course.core.ranking import Distance, Nearest, check_embeddings, lengths_of, squared_distances, unit_vectors

__all__ = ["IvfIndex", "IvfSearcher", "load_index", "recall", "save_index", "train_index"]

#: Fewest vectors to train a code book of one byte.
MIN_VECTORS = 256

#: Vectors a cell for k-means (faiss warns below 39 and ignores those beyond 256).
A_CELL = 64

#: The arrays of an index file: name to type and number of axes.
ARRAYS = {
    "centers": ("float32", 2),
    "books": ("float32", 3),
    "starts": ("int64", 1),
    "numbers": ("int64", 1),
    "codes": ("uint8", 2),
    "distance": ("<U9", 0),
    "gallery": ("<U16", 0),
}


class SearchError(CourseError):
    """The package for approximate search is not installed."""


def _faiss() -> Any:
    try:
        import faiss
    except ModuleNotFoundError:
        raise SearchError(
            "an index needs faiss, which is not installed: pip install 'kerascv_course[search]'; the exact search works without it"
        ) from None
    return faiss


@dataclass(frozen=True)
class IvfIndex:
    """An index as arrays.

    Attributes:
        centers: float32 (cells, width).
        books: float32 (bytes of a code, 256, width / bytes): the vector part for each value of each byte.
        starts: int64 (cells + 1): cell c has the entries ``starts[c]`` to ``starts[c + 1]``.
        numbers: int64 (N,): positions of the vectors in the gallery, cell by cell.
        codes: uint8 (N, bytes of a code), in the same order.
        distance: of the search.
        gallery: fingerprint of the gallery.
    """

    centers: np.ndarray
    books: np.ndarray
    starts: np.ndarray
    numbers: np.ndarray
    codes: np.ndarray
    distance: Distance
    gallery: str

    @property
    def nbytes(self) -> int:
        """Size of the arrays, which a search holds in memory, bytes."""
        return sum(values.nbytes for values in vars(self).values() if isinstance(values, np.ndarray))


def train_index(
    gallery: VectorFile,
    *,
    distance: Distance = "euclidean",
    cells: int | None = None,
    code_bytes: int | None = None,
    budget: int = BUDGET,
    progress: Callable[[int], None] | None = None,
) -> IvfIndex:
    """Index a gallery: k-means on evenly spread vectors, then one pass over all.

    Args:
        gallery: 256 vectors or more.
        distance: Euclidean, or 1 − cosine.
        cells: k-means clusters; None: four times the root of the number of vectors, as faiss's guidelines recommend, where there are
            enough vectors to train them.
        code_bytes: bytes of a vector's code, a divisor of the width; None: a quarter of the width or less.
        budget: memory for vectors, bytes; half of it for k-means.
        progress: called with the number of vectors done.

    Raises:
        InputError: too few vectors, or numbers that do not fit them.
        SearchError: faiss is not installed.
    """
    count, width = len(gallery), gallery.width
    cells, code_bytes = _sizes(gallery, distance, cells, code_bytes)
    faiss = _faiss()
    sampled = max(MIN_VECTORS, cells, min(count, A_CELL * cells, budget // 2 // (4 * width)))
    sample = gallery.rows(np.unique(np.linspace(0, count - 1, sampled).astype(np.int64)))
    coarse = faiss.IndexFlatL2(width)
    index = faiss.IndexIVFPQ(coarse, width, cells, code_bytes, 8)
    for clustering in (index.cp, index.pq.cp):  # no warnings of few points: the result is measured
        clustering.min_points_per_centroid = 1
    index.train(_prepare(sample, distance))
    del sample
    for start, part in gallery.parts(budget, copies=1):
        index.add(_prepare(part, distance))
        if progress:
            progress(start + len(part))
    sizes = np.array([index.invlists.list_size(cell) for cell in range(cells)], np.int64)
    numbers, codes = np.empty(count, np.int64), np.empty((count, code_bytes), np.uint8)
    starts = np.concatenate([[0], sizes.cumsum()])
    for cell, size in enumerate(sizes.tolist()):
        entries = slice(starts[cell], starts[cell + 1])
        if size:
            numbers[entries] = faiss.rev_swig_ptr(index.invlists.get_ids(cell), size)
            codes[entries] = faiss.rev_swig_ptr(index.invlists.get_codes(cell), size * code_bytes).reshape(size, code_bytes)
    books = faiss.vector_to_array(index.pq.centroids).reshape(code_bytes, 256, width // code_bytes)
    return IvfIndex(coarse.reconstruct_n(0, cells), books, starts, numbers, codes, distance, gallery.fingerprint())


def _sizes(gallery: VectorFile, distance: Distance, cells: int | None, code_bytes: int | None) -> tuple[int, int]:
    """Numbers of cells and of bytes of a code, checked."""
    count, width = len(gallery), gallery.width
    if distance not in get_args(Distance):
        raise InputError(f"distance must be euclidean or cosine; received {distance!r}")
    if count < MIN_VECTORS:
        raise InputError(f"an index needs {MIN_VECTORS} vectors or more; {gallery.path} has {count}: search it exactly")
    if cells is None:
        cells = max(1, min(round(4 * count**0.5), count // A_CELL))
    if not 1 <= cells <= count:
        raise InputError(f"cells must be 1 to {count}, the number of vectors; received {cells}")
    if code_bytes is None:
        code_bytes = max(n for n in range(1, max(1, width // 4) + 1) if width % n == 0)
    if code_bytes < 1 or width % code_bytes:
        raise InputError(f"the bytes of a code must divide the width {width}; received {code_bytes}")
    return cells, code_bytes


def _prepare(values: np.ndarray, distance: Distance) -> np.ndarray:
    values = check_embeddings(values, "the gallery's vectors")
    return unit_vectors(values, "the gallery's vectors") if distance == "cosine" else values


def save_index(index: IvfIndex, path: Path) -> None:
    """Write an index: .npz, not compressed, without pickles."""
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        arrays: dict[str, Any] = {name: np.asarray(value) for name, value in vars(index).items()}
        np.savez(file, **arrays)


def load_index(path: Path, gallery: VectorFile) -> IvfIndex:
    """Read an untrusted index, and check that it is one, and of this gallery.

    Every array has the type and shape that the others require, cells follow one another, each vector of the gallery is in one cell,
    and all values are finite: faiss reads within bounds. An index that finds the wrong vectors is still possible; their distances are
    right in any case.

    Raises:
        DataError: no such file, damaged, not an index, or of another gallery.
    """
    try:
        arrays = _read_arrays(path)
        if problem := _problem(arrays, len(gallery), gallery.width):
            raise ValueError(problem)
    except FileNotFoundError:
        raise DataError(f"no such file: {path}") from None
    except (OSError, ValueError, KeyError, EOFError, NotImplementedError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is not an index of {gallery.path}: {error}; make one by python -m export index") from None
    if str(arrays["gallery"]) != gallery.fingerprint():
        raise DataError(f"{path} is the index of another gallery than {gallery.path}: make it again by python -m export index")
    distance: Distance = "cosine" if str(arrays["distance"]) == "cosine" else "euclidean"
    return IvfIndex(**{**arrays, "distance": distance, "gallery": str(arrays["gallery"])})  # type: ignore[arg-type]


def _problem(arrays: dict[str, np.ndarray], count: int, width: int) -> str:
    """Why arrays of the right types are not an index of `count` vectors; empty: they are."""
    centers, books, starts, numbers, codes = (arrays[name] for name in list(ARRAYS)[:5])
    follow = starts.shape == (len(centers) + 1,) and not (starts[1:] < starts[:-1]).any()
    parts = codes.shape[1]
    problems = {
        "centers of another width": not len(centers) or centers.shape[1] != width,
        "code books of another shape": not parts or width % parts or books.shape != (parts, 256, width // parts),
        "another number of vectors": len(numbers) != count or len(codes) != count,
        "values that are not finite": not all(np.isfinite(values).all() for values in (centers, books)),
        "cells that do not follow one another": not follow,
        "cells beyond its entries": follow and (starts[0] != 0 or starts[-1] != count),
        "numbers that are not those of the vectors": not np.array_equal(np.sort(numbers), np.arange(count)),
        "an unknown distance": str(arrays["distance"]) not in get_args(Distance),
    }
    return next((problem for problem, holds in problems.items() if holds), "")


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an index file; compressed ones, and those that promise more than is there, are refused before they are read."""
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
        if set(entries) != set(ARRAYS) or len(archive.infolist()) != len(ARRAYS):
            raise ValueError("it has other arrays than an index")
        size, arrays = path.stat().st_size, {}
        for name, (dtype, axes) in ARRAYS.items():
            entry = entries[name]
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > size:
                raise ValueError(f"{name} is compressed")
            with archive.open(entry) as file:
                shape, found = read_npy_header(file)  # type: ignore[arg-type]
                if len(shape) != axes or (found != dtype if axes else found.kind != "U" or found.itemsize > 64):
                    raise ValueError(f"{name} is {found} {shape}")
                content = file.read()
            if len(content) != found.itemsize * int(np.prod(shape, dtype=object)):
                raise ValueError(f"{name} is cut short")
            arrays[name] = np.frombuffer(content, found).reshape(shape)
        return arrays


class IvfSearcher:
    """An index in faiss, ready to search.

    Args:
        index: from `train_index` or `load_index`.
        gallery: its vectors.

    Raises:
        SearchError: faiss is not installed.
    """

    def __init__(self, index: IvfIndex, gallery: VectorFile) -> None:
        faiss = _faiss()
        self.gallery, self.distance, self.cells = gallery, index.distance, len(index.centers)
        count, code_bytes = index.codes.shape
        self._coarse = faiss.IndexFlatL2(gallery.width)  # faiss does not keep it alive
        self._coarse.add(index.centers)
        self._index = faiss.IndexIVFPQ(self._coarse, gallery.width, self.cells, code_bytes, 8)
        faiss.copy_array_to_vector(np.ascontiguousarray(index.books).ravel(), self._index.pq.centroids)
        for cell, (start, stop) in enumerate(zip(index.starts[:-1].tolist(), index.starts[1:].tolist(), strict=True)):
            if stop > start:
                numbers, codes = (np.ascontiguousarray(values[start:stop]) for values in (index.numbers, index.codes))
                self._index.invlists.add_entries(cell, stop - start, faiss.swig_ptr(numbers), faiss.swig_ptr(codes))
        self._index.is_trained, self._index.ntotal = True, count

    def nearest(
        self, queries: np.ndarray, k: int, *, probes: int = 16, candidates: int | None = None, budget: int = BUDGET
    ) -> Nearest:
        """Approximately the k nearest gallery entries of each query, with exact distances.

        Where the visited cells hold fewer than k vectors, the last numbers are −1 and their distances infinite.

        Args:
            queries: (Q, width), finite.
            k: 1 or more.
            probes: cells to visit, 1 or more: more find more and take longer.
            candidates: vectors to compute exact distances of; None: ten times k.
            budget: memory for the vectors of candidates, bytes.

        Raises:
            InputError: numbers below 1, fewer candidates than k, or queries of another width or with NaN.
        """
        candidates = 10 * k if candidates is None else candidates
        if k < 1 or probes < 1 or candidates < k:
            raise InputError(
                f"k and probes must be 1 or more, and candidates at least k; received k {k}, probes {probes}, candidates {candidates}"
            )
        queries = check_embeddings(queries, "the queries")
        width = self.gallery.width
        if queries.shape[1] != width:
            raise InputError(f"queries and gallery must have vectors of one width; received {queries.shape[1]} and {width}")
        if self.distance == "cosine":
            queries = unit_vectors(queries, "the queries")
        k, candidates = min(k, len(self.gallery)), min(candidates, len(self.gallery))
        self._index.nprobe = min(probes, self.cells)
        indices, squares = np.full((len(queries), k), -1), np.full((len(queries), k), np.inf)
        step = max(1, budget // 3 // (4 * width * candidates))
        for start in range(0, len(queries), step):
            part = slice(start, start + step)
            _, found = self._index.search(queries[part], candidates)
            rows, places = np.nonzero(found >= 0)
            numbers, columns = np.unique(found[rows, places], return_inverse=True)
            if not len(numbers):
                continue
            vectors = _prepare(self.gallery.rows(numbers), self.distance)
            exact = np.full(found.shape, np.inf)
            exact[rows, places] = squared_distances(queries[part], vectors, rows, columns.reshape(-1))
            order = np.lexsort((found, exact), axis=1)[:, :k]
            indices[part], squares[part] = (np.take_along_axis(values, order, axis=1) for values in (found, exact))
        return Nearest(indices, lengths_of(squares, 1.0, self.distance))


def recall(found: Nearest, exact: Nearest) -> float:
    """Share of the k nearest that were found, 0 to 1; an equally distant vector in place of the last counts as found."""
    return float((found.distances <= exact.distances[:, -1:]).mean())
