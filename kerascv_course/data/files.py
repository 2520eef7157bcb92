"""Image files of a dataset, and reading them into arrays of uint8 images."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kerascv_course.config import Data
from kerascv_course.data.folders import visible_images
from kerascv_course.data.splits import Dataset, Split, make_dataset
from kerascv_course.data.stored import open_images

__all__ = ["DataFiles", "Files", "find_images", "read_dataset"]


@dataclass(frozen=True)
class Files:
    """Image files of a split.

    Attributes:
        paths: of the images.
        targets: int64 (N,), 0 to classes − 1.
        cameras: as in `Split`.
        queries: as in `Split`.
    """

    paths: tuple[Path, ...]
    targets: np.ndarray
    cameras: np.ndarray | None = None
    queries: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, index: np.ndarray) -> Files:
        """The files at these indices, in this order."""
        cameras = None if self.cameras is None else self.cameras[index]
        queries = None if self.queries is None else self.queries[index]
        return Files(tuple(self.paths[i] for i in index), self.targets[index], cameras, queries)


@dataclass(frozen=True)
class DataFiles:
    """The image files that a dataset is read from.

    Attributes:
        root: the data folder, which holds all of them.
        labels: class names, in the order of the targets.
        parts: files of train, validation and, unless the validation images serve as both, test.
    """

    root: Path
    labels: tuple[str, ...]
    parts: dict[str, Files]


def find_images(root: Path) -> list[str]:
    """Paths of all image files below a folder, relative to it and sorted; hidden ones are left out."""
    found = []
    for folder, folders, names in os.walk(root, followlinks=True):
        place = Path(folder)
        folders[:] = [name for name in folders if not name.startswith(".") and not _leads_up(place / name)]
        inside = place.relative_to(root)
        found += [(inside / name).as_posix() for name in visible_images(names)]
    return sorted(found)


def _leads_up(folder: Path) -> bool:
    """Whether a folder is a link to one above it, and so leads round in circles."""
    return folder.is_symlink() and folder.parent.resolve().is_relative_to(folder.resolve())


def read_dataset(source: str, files: DataFiles, config: Data) -> Dataset:
    """Read all images of a dataset.

    Raises:
        DataError: missing or damaged images, or a split without any.
    """
    images = open_images({name: part.paths for name, part in files.parts.items()}, config)
    splits = {name: Split(images[name], part.targets, part.cameras, part.queries) for name, part in files.parts.items()}
    train, validation = splits["train"], splits["validation"]
    citation = f"images in the folder {files.root.name}"
    return make_dataset(source, files.labels, citation, train, validation, splits.get("test", validation), files)
