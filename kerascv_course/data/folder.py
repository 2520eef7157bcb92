"""A folder of class folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from kerascv_course.config import Data
from kerascv_course.core.errors import DataError, UnknownNameError
from kerascv_course.core.images import ImageError, read_image
from kerascv_course.data.splits import DataInfo, Split, Splits, hold_out, make_info

__all__ = ["SPLIT_FOLDERS", "load_folder", "pictures_in", "read_pictures"]

#: Names under which each split's folder is looked for.
SPLIT_FOLDERS = {"train": ("train",), "validation": ("val", "valid", "validation"), "test": ("test",)}


def load_folder(config: Data, data_dir: Path | None) -> tuple[Splits, DataInfo]:
    """Pictures in ``data_dir/<class>/`` or ``data_dir/{train,val,test}/<class>/``; class names are the folders' names, sorted.

    A validation or test split that is not there is set aside from the training pictures, class by class. Hidden files and files
    that are not named like a picture are passed over; a damaged picture is an error.

    Raises:
        DataError: a folder is missing or empty, a split has other classes than train, or pictures are damaged (they are named).
    """
    if data_dir is None:
        raise DataError("the folder source reads your own pictures: give --data-dir FOLDER with one folder a class")
    folders = {
        name: next((data_dir / choice for choice in choices if (data_dir / choice).is_dir()), None)
        for name, choices in SPLIT_FOLDERS.items()
    }
    root = folders["train"] or data_dir
    labels = _class_names(root, config.only)
    whole = _read_split(root, labels, config)
    given: dict[str, Split] = {}
    for name in ("test", "validation"):
        path = folders[name]
        if path is not None and folders["train"] is not None:
            if extra := sorted(set(_class_names(path, config.only)) - set(labels)):
                raise DataError(f"{path} has the class {extra[0]!r}, which {root} has not: the splits share their classes")
            given[name] = _read_split(path, labels, config)
        else:
            share = config.test_share if name == "test" else config.validation_share
            whole, given[name] = hold_out(whole, share, config.split_seed, stratify=True)
    splits = Splits(whole, given["validation"], given["test"])
    return splits, make_info("folder", tuple(labels), f"pictures in the folder {data_dir.name}", splits)


def _class_names(root: Path, only: tuple[str, ...]) -> list[str]:
    names = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    for name in only:
        if name not in names:
            raise UnknownNameError(f"class in {root}", name, names)
    if only:
        return [name for name in names if name in only]
    if len(names) < 2:
        raise DataError(f"a folder of pictures holds one folder a class, two or more; {root} holds {len(names)}")
    return names


def _read_split(root: Path, labels: list[str], config: Data) -> Split:
    files = [(path, target) for target, label in enumerate(labels) for path in pictures_in(root / label)]
    if not files:
        raise DataError(f"no pictures in the class folders of {root} (looked for {', '.join(_suffixes()[:6])} …)")
    images = read_pictures([path for path, _ in files], config)
    return Split(images, np.array([target for _, target in files], np.int64))


def _suffixes() -> list[str]:
    return sorted(Image.registered_extensions())


def pictures_in(folder: Path) -> list[Path]:
    """The files of a folder that are named like a picture, sorted; hidden ones are passed over."""
    suffixes = set(_suffixes())
    return sorted(path for path in folder.glob("*") if path.suffix.lower() in suffixes and not path.name.startswith("."))


def read_pictures(paths: Sequence[Path], config: Data) -> np.ndarray:
    """Pictures as uint8 (N, height, width, channels).

    Raises:
        DataError: pictures that are missing or damaged; ten of them are named.
    """
    images = np.empty((len(paths), *config.image_size, config.channels), np.uint8)
    damaged = []
    for row, path in enumerate(paths):
        try:
            images[row] = read_image(path, *config.image_size, config.channels, config.resize)
        except ImageError as error:
            damaged.append(str(error))
    if damaged:
        raise DataError(
            f"{len(damaged)} of {len(paths)} pictures cannot be used; repair or remove them: " + "; ".join(damaged[:10])
        )
    return images
