"""Image files to arrays of uint8 images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kerascv_course.config import Data
from kerascv_course.core.environment import core_count
from kerascv_course.core.errors import DataError
from kerascv_course.core.images import ImageError, read_image

__all__ = ["Files", "read_images"]


@dataclass(frozen=True)
class Files:
    """Image files of a split.

    Attributes:
        paths: of the images.
        targets: int64 (N,), 0 to classes − 1.
    """

    paths: tuple[Path, ...]
    targets: np.ndarray

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, index: np.ndarray) -> Files:
        """The files at these indices, in this order."""
        return Files(tuple(self.paths[i] for i in index), self.targets[index])


def read_images(parts: Mapping[str, Sequence[Path]], config: Data) -> dict[str, np.ndarray]:
    """Read the image files of each split as uint8 (N, height, width, channels).

    Raises:
        DataError: missing or damaged images; the message names up to ten.
    """
    shape = (*config.image_size, config.channels)
    images = {name: np.empty((len(paths), *shape), np.uint8) for name, paths in parts.items()}
    jobs = [(images[name], row, path) for name, paths in parts.items() for row, path in enumerate(paths)]

    def read(job: tuple[np.ndarray, int, Path]) -> str:
        array, row, path = job
        try:
            array[row] = read_image(path, *config.image_size, config.channels, config.resize)
        except ImageError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(core_count()) as pool:
        damaged = [problem for problem in pool.map(read, jobs) if problem]
    if damaged:
        raise DataError(f"{len(damaged)} of {len(jobs)} images are unusable; repair or remove them: " + "; ".join(damaged[:10]))
    return images
