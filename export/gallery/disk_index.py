"""A gallery on disk: vectors in a .npy file, written and searched in parts of bounded memory; NumPy only.

The search is exact and equals `kerascv_course.core.ranking.nearest` in memory: the nearest of each part are merged by the same
distances, with equal distances in the order of the gallery. The file is read, not mapped, so that its pages do not count as memory of
the process.
"""

from __future__ import annotations

import hashlib
import math
import tokenize
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from kerascv_course.core.errors import DataError, InputError
from kerascv_course.core.io import atomic_write
from kerascv_course.core.ranking import Distance, Nearest, check_embeddings, lengths_of, nearest_squares, prepare

__all__ = ["BUDGET", "VectorFile", "nearest_on_disk", "read_npy_header", "write_vectors"]

#: Default and smallest budget of memory, bytes.
BUDGET, MIN_BUDGET = 256 * 2**20, 2**20

#: Rows whose bytes make a gallery's fingerprint.
SAMPLED = 256


def read_npy_header(file: BinaryIO) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of an array in .npy format; the file is then positioned at its values.

    Raises:
        ValueError: no such header, Python objects (pickles), or column-major order.
    """
    version = np.lib.format.read_magic(file)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"version {version} of the format")
    try:
        shape, columns_first, dtype = readers[version](file)
    except (SyntaxError, tokenize.TokenError) as error:  # NumPy tokenizes headers of Python 2
        raise ValueError(f"a header that cannot be read ({error})") from None
    if dtype.hasobject:
        raise ValueError("Python objects, which are pickles")
    if columns_first and len(shape) > 1:
        raise ValueError("column-major order: save numpy.ascontiguousarray(vectors)")
    return shape, dtype


class VectorFile:
    """Vectors in an untrusted .npy file: its header is checked against its size, and no pickle is read.

    Args:
        path: float16, float32 or float64 (N, width), row-major.

    Raises:
        DataError: no such file, or one of another kind.

    Attributes:
        path: of the file.
        count, width: its shape.
        dtype: of its values.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            with self.path.open("rb") as file:
                shape, self.dtype = read_npy_header(file)
                self._begin = file.tell()
                size = file.seek(0, 2) - self._begin
        except FileNotFoundError:
            raise DataError(f"no such file: {path}") from None
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{path} is not a .npy file of vectors: {error}") from None
        if len(shape) != 2 or not all(shape) or self.dtype.kind != "f" or self.dtype.itemsize > 8:
            raise DataError(
                f"a gallery must be float16, float32 or float64 (N, width), one vector or more; {path} has {self.dtype} {shape}"
            )
        if size != (promised := math.prod(shape) * self.dtype.itemsize):
            raise DataError(
                f"{path} promises {promised:,} bytes of vectors and has {size:,}: it is cut short, or not a .npy file"
            )
        self.count, self.width = shape

    def __len__(self) -> int:
        return self.count

    def parts(self, budget: int = BUDGET, *, copies: int = 0) -> Iterator[tuple[int, np.ndarray]]:
        """The vectors in parts: number of the first, and float32 (n, width), which the next part overwrites.

        Args:
            budget: memory for a part and its copies, bytes, at least `MIN_BUDGET`.
            copies: number of float32 copies that the caller makes of a part.

        Raises:
            InputError: a smaller budget.
            DataError: the file has become shorter.
        """
        if budget < MIN_BUDGET:
            raise InputError(f"the memory budget must be {MIN_BUDGET:,} bytes or more; received {budget:,}")
        converted = self.dtype != np.float32
        row = self.width * (self.dtype.itemsize + 4 * (copies + converted)) + 16  # 16: what ranking keeps of each
        step = min(self.count, max(1, budget // row))
        buffer = np.empty((step, self.width), self.dtype)
        with self.path.open("rb", buffering=0) as file:
            file.seek(self._begin)
            for start in range(0, self.count, step):
                part = buffer[: min(step, self.count - start)]
                self._fill(file, part)
                yield start, part.astype(np.float32, copy=False)

    def rows(self, numbers: np.ndarray) -> np.ndarray:
        """Some vectors, float32 (len(numbers), width)."""
        result = np.empty((len(numbers), self.width), self.dtype)
        with self.path.open("rb", buffering=0) as file:
            for row, number in zip(result, numbers.tolist(), strict=True):
                file.seek(self._begin + number * row.nbytes)
                self._fill(file, row)
        return result.astype(np.float32, copy=False)

    def fingerprint(self) -> str:
        """Hash of shape, type and evenly spread rows: distinguishes galleries, not changes of a few vectors."""
        numbers = np.unique(np.linspace(0, self.count - 1, SAMPLED).astype(np.int64))
        text = f"{self.count} {self.width} {self.dtype.str}"
        return hashlib.sha256(text.encode() + self.rows(numbers).tobytes()).hexdigest()[:16]

    def _fill(self, file: BinaryIO, values: np.ndarray) -> None:
        view = memoryview(values.data).cast("B")
        done = 0
        while done < len(view):
            got = file.readinto(view[done:])  # type: ignore[attr-defined]
            if not got:
                raise DataError(f"{self.path} became shorter while it was read")
            done += got


def write_vectors(path: Path, parts: Iterable[np.ndarray]) -> int:
    """Write vectors that arrive in parts, float32 (n, width) each, to one .npy file.

    Returns:
        The number of vectors.

    Raises:
        InputError: no vectors, different widths, or values that are not finite; nothing is written.
        WriteError: the disk is full.
    """
    count, width, place = 0, 0, 0
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        for part in parts:
            part = check_embeddings(part, "the vectors")
            if not count:
                width = part.shape[1]
                _write_header(file, 0, width)
                place = file.tell()
            if part.shape[1] != width:
                raise InputError(f"vectors of a gallery must have one width; received {part.shape[1]} after {width}")
            file.write(np.ascontiguousarray(part, "<f4").tobytes())
            count += len(part)
        if not count:
            raise InputError("a gallery must have one vector or more; received none")
        file.seek(0)
        _write_header(file, count, width)
        if file.tell() != place:  # NumPy pads headers, so that the first axis can grow
            raise InputError(f"this NumPy writes headers that cannot grow to {count} vectors: write one array by numpy.save")
    return count


def _write_header(file: BinaryIO, count: int, width: int) -> None:
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (count, width)})


def nearest_on_disk(
    queries: np.ndarray,
    gallery: VectorFile,
    k: int,
    *,
    distance: Distance = "euclidean",
    budget: int = BUDGET,
    progress: Callable[[int], None] | None = None,
) -> Nearest:
    """The k nearest gallery entries of each query, exactly, in one pass over the file.

    Memory beyond `budget`, the queries and twice the answer is what `kerascv_course.core.ranking.nearest` takes, some 50 MiB.

    Args:
        queries: (Q, width), finite; converted to float32.
        gallery: vectors; converted to float32.
        k: 1 or more; more than the gallery has: all of them.
        distance: Euclidean, or 1 − cosine.
        budget: memory for a part of the gallery and its copies, bytes.
        progress: called with the number of vectors done.

    Raises:
        InputError: as `kerascv_course.core.ranking.nearest`, with the position in the file.
        DataError: the file has become shorter.
    """
    if k < 1:
        raise InputError(f"k must be 1 or more; received {k}")
    queries = check_embeddings(queries, "the queries")
    prepare(queries, queries[:1], distance)  # fails for bad queries before the file is read
    if queries.shape[1] != gallery.width:
        raise InputError(f"queries and gallery must have vectors of one width; received {queries.shape[1]} and {gallery.width}")
    indices: np.ndarray = np.empty((len(queries), 0), np.int64)
    squares: np.ndarray = np.empty((len(queries), 0))
    for start, part in gallery.parts(budget, copies=distance == "cosine"):
        try:
            found, new, factor = nearest_squares(queries, part, k, distance)
        except InputError as error:
            raise InputError(f"{gallery.path}, from vector {start} on: {error}") from None
        indices = np.concatenate([indices, found + start], axis=1)
        squares = np.concatenate([squares, new * factor**2], axis=1)
        order = np.lexsort((indices, squares), axis=1)[:, :k]
        indices, squares = (np.take_along_axis(values, order, axis=1) for values in (indices, squares))
        if progress:
            progress(start + len(part))
    return Nearest(indices, lengths_of(squares, 1.0, distance))
