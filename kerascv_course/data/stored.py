"""Image files to uint8 images, in memory or read when they are asked for."""

from __future__ import annotations

import os
import shutil
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from kerascv_course.config import Data
from kerascv_course.core.environment import core_count
from kerascv_course.core.errors import DataError
from kerascv_course.core.images import ImageError, Images, read_image
from kerascv_course.core.progress import Wait

__all__ = ["StoredImages", "check_readable", "open_images"]

#: Bytes of a source's decoded images up to which `Data.cache` "auto" keeps them in memory.
MEMORY = 1 << 30

#: Bytes of decoded images that a pass over all of them holds.
CHUNK = 1 << 25


def open_images(parts: Mapping[str, Sequence[Path]], config: Data) -> dict[str, Images]:
    """The images of each split's files: arrays, or `StoredImages` as `Data.cache` says.

    Raises:
        DataError: missing or damaged images (of `StoredImages`, by `check_readable` after a pass), or no room for them on the disk.
    """
    height, width = config.image_size
    size = height * width * config.channels * sum(map(len, parts.values()))
    cache = config.cache if config.cache != "auto" else "memory" if size <= MEMORY else "none"
    if cache == "disk":
        _check_room(size)
    stored = {name: StoredImages(_Store(tuple(paths), config, keep=cache == "disk")) for name, paths in parts.items()}
    if cache != "memory":
        return dict(stored)
    images = {name: np.empty(one.shape, np.uint8) for name, one in stored.items()}
    with Wait("reading images", sum(map(len, parts.values()))) as wait:
        for name, one in stored.items():
            start = 0
            for pixels in one.scan():
                images[name][start : start + len(pixels)] = pixels
                start += len(pixels)
                wait.advance(len(pixels))
    check_readable(stored.values())
    return dict(images)


def check_readable(images: Iterable[Images]) -> None:
    """Refuse damaged files, after a pass over the images of each split.

    Raises:
        DataError: there are some; all are counted, and ten named.
    """
    given = list(images)
    damaged = [problem for one in given if isinstance(one, StoredImages) for problem in one.problems()]
    if damaged:
        raise DataError(
            f"{len(damaged)} of {sum(map(len, given))} images are unusable; repair or remove them: " + "; ".join(damaged[:10])
        )


def _check_room(size: int) -> None:
    folder = tempfile.gettempdir()
    if (free := shutil.disk_usage(folder).free) < size:
        raise DataError(
            f"data.cache disk keeps {size / 1e9:.1f} GB in {folder}, which has {free / 1e9:.1f} GB free: set TMPDIR to a folder on "
            "another disk, or use --data.cache none"
        )


class _Store:
    """Image files, read one by one.

    Args:
        paths: of the files.
        config: size, channels and resizing filter.
        keep: whether a pass over all images writes them into a temporary file, which the next ones read; it has no name, so it ends
            with the process.

    Attributes:
        damaged: what is wrong with files, by their row, after a pass.
    """

    def __init__(self, paths: tuple[Path, ...], config: Data, *, keep: bool) -> None:
        self.paths, self.config, self.keep = paths, config, keep
        self.shape = (*config.image_size, config.channels)
        self.damaged: dict[int, str] = {}
        self._sums: np.ndarray | None = None
        self._file: BinaryIO | None = None
        self._pool = ThreadPoolExecutor(core_count(), "images")

    def read(self, rows: np.ndarray) -> np.ndarray:
        """The images of these rows, uint8 (rows, height, width, channels).

        Raises:
            DataError: a file is damaged, or holds other pixels than in the first pass.
        """
        images = np.empty((len(rows), *self.shape), np.uint8)
        list(self._pool.map(self._read, images, rows.tolist()))
        return images

    def _read(self, image: np.ndarray, row: int) -> None:
        if self._file is not None and self._sums is not None:
            size = image.nbytes
            image[...] = np.frombuffer(os.pread(self._file.fileno(), size, row * size), np.uint8).reshape(image.shape)
            return
        image[...] = self._decode(row)
        if self._sums is not None and zlib.crc32(image.data) != self._sums[row]:
            raise DataError(
                f"{self.paths[row]} has changed since it was first read: start again, with data that stays as it is"
            )

    def _decode(self, row: int) -> np.ndarray:
        config = self.config
        return read_image(self.paths[row], *config.image_size, config.channels, config.resize)

    def scan(self, step: int) -> Iterator[np.ndarray]:
        """All images in order, `step` at a time, in the first pass; damaged ones are noted, and black."""
        sums = np.zeros(len(self.paths), np.uint32)
        file = tempfile.TemporaryFile() if self.keep else None  # noqa: SIM115 (it stays open)

        def first(image: np.ndarray, row: int) -> None:
            try:
                image[...] = self._decode(row)
            except ImageError as error:
                self.damaged[row] = str(error)
            sums[row] = zlib.crc32(image.data)

        for start in range(0, len(self.paths), step):
            rows = range(start, min(start + step, len(self.paths)))
            images = np.zeros((len(rows), *self.shape), np.uint8)
            list(self._pool.map(first, images, rows))
            if file is not None:
                file.write(images.data)
            yield images
        if file is not None:
            file.flush()
        self._sums, self._file = sums, file


class StoredImages:
    """Images of a split in files, read when they are asked for: uint8 (N, height, width, channels), to be used like an array.

    Args:
        store: the files.
        rows: int64 (N,), the images that belong to it, in this order; None: all.
    """

    def __init__(self, store: _Store, rows: np.ndarray | None = None) -> None:
        self._store = store
        self._rows = np.arange(len(store.paths)) if rows is None else rows
        self.shape = (len(self._rows), *store.shape)
        self.dtype, self.ndim, self.size = np.dtype(np.uint8), 4, len(self._rows) * int(np.prod(store.shape))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> np.ndarray:
        first, *rest = index if isinstance(index, tuple) else (index,)
        rows = self._rows[first]
        images = self._store.read(rows.reshape(-1)).reshape(rows.shape + self._store.shape)
        inside = (slice(None),) * rows.ndim
        return images[(*inside, *rest)]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        images = self._store.read(self._rows)
        return images if dtype is None else images.astype(dtype)

    def __iter__(self) -> Iterator[np.ndarray]:
        for start in range(0, len(self), step := self._step()):
            yield from self[start : start + step]

    def take(self, index: np.ndarray) -> StoredImages:
        """The images at these indices, in this order; none is read."""
        return StoredImages(self._store, self._rows[index])

    def scan(self) -> Iterator[np.ndarray]:
        """All images in order, in parts: the first pass, which notes what is damaged, for `check_readable`, and what they hold."""
        return self._store.scan(self._step())

    def problems(self) -> list[str]:
        """What is wrong with the files, one sentence each, after `scan`."""
        return [text for _, text in sorted(self._store.damaged.items())]

    def _step(self) -> int:
        return max(1, CHUNK // int(np.prod(self._store.shape)))
