"""Identity images: class folders, Market-1501 file names or a table; training identities never appear in validation or test."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from kerascv_course.config import Data
from kerascv_course.core.errors import DataError, UnknownNameError
from kerascv_course.core.images import image_files
from kerascv_course.core.retrieval_metrics import DISTRACTOR, JUNK
from kerascv_course.data.sources import read_images, split_folders
from kerascv_course.data.splits import Dataset, Split, make_dataset

__all__ = ["load_identities"]

#: Table of a data folder, its columns, and the values of the column split (query and gallery are the test split).
TABLE = "identities.csv"
COLUMNS = ("image", "identity", "split", "camera")
TABLE_SPLITS = ("train", "validation", "test", "query", "gallery")

#: Market-1501 file names: identity (``-1``: junk, ``0000``: distractors) and camera.
MARKET_NAME = re.compile(r"(-1|\d{4})_c(\d+)")
MARKET_FOLDERS = {"bounding_box_train": "train", "query": "query", "bounding_box_test": "gallery"}


@dataclass(frozen=True)
class IdentityImage:
    """An image file.

    Attributes:
        path: where the file is.
        identity: name; empty: junk; None: a distractor.
        split: one of `TABLE_SPLITS`; empty: not assigned.
        camera: number of the camera; None: unknown.
    """

    path: Path
    identity: str | None
    split: str = ""
    camera: int | None = None


def load_identities(config: Data, data_dir: Path | None) -> Dataset:
    """Load images of identities; the content of `data_dir` selects the layout.

    - ``identities.csv`` with the columns image (a file below the folder), identity and optionally split (train, validation, test,
      or query and gallery for a test split with marked queries) and camera (integer).
    - ``bounding_box_train/``, ``query/`` and ``bounding_box_test/``: Market-1501 (Zheng et al. 2015), with its cameras, junk (identity
      −1) and distractors (identity 0000).
    - Otherwise one folder per identity, in ``data_dir`` or in its ``train/``, ``val/`` and ``test/``.

    Missing splits are made of whole identities, by the shares of the recipe. With a validation split and no test split, the
    validation images serve as both.

    Targets index `DataInfo.labels`, training identities first; `JUNK` and `DISTRACTOR` have no label.

    Raises:
        DataError: missing, empty or damaged data, an identity in train and in another split, or too few identities.
    """
    if data_dir is None:
        raise DataError(
            "the source identities reads your own images: give --data-dir FOLDER with one folder per identity, with "
            f"{TABLE}, or with the folders of Market-1501"
        )
    if (data_dir / TABLE).is_file():
        images = _read_table(data_dir)
    elif (data_dir / "bounding_box_train").is_dir():
        images = _read_market(data_dir)
    else:
        images = _read_folders(data_dir)
    parts = _divide(_keep(images, config.only), config)
    others = _identities(image for name in ("validation", "test") for image in parts.get(name, []))
    labels = (*_identities(parts["train"]), *others)
    read = {name: _read(part, labels, config) for name, part in parts.items() if name in ("train", "validation", "test")}
    train, validation, test = read["train"], read["validation"], read.get("test", read["validation"])
    return make_dataset("identities", labels, f"images in the folder {data_dir.name}", train, validation, test)


# --- layouts ----------------------------------------------------------------------------------------------------------


def _read_folders(root: Path) -> list[IdentityImage]:
    places = split_folders(root) or {"": root}
    images = [
        IdentityImage(path, folder.name, name)
        for name, place in places.items()
        for folder in sorted(place.iterdir())
        if folder.is_dir() and not folder.name.startswith(".")
        for path in image_files(folder)
    ]
    if not images:
        raise DataError(f"no images in {root}: it must hold one folder per identity, or train/, val/ and test/ of such folders")
    return images


def _read_market(root: Path) -> list[IdentityImage]:
    images = []
    for folder, split in MARKET_FOLDERS.items():
        if not (root / folder).is_dir():
            raise DataError(f"Market-1501 has the folders {', '.join(MARKET_FOLDERS)}; {root} has no {folder}")
        for path in image_files(root / folder):
            match = MARKET_NAME.match(path.name)
            if not match:
                raise DataError(f"Market-1501 file names look like 0002_c1s1_000451_03.jpg; received {path}")
            identity = {"-1": "", "0000": None}.get(match[1], match[1])
            if identity or split == "gallery":  # junk and distractors belong to the gallery only
                images.append(IdentityImage(path, identity, split, int(match[2])))
    return images


def _read_table(root: Path) -> list[IdentityImage]:
    path = root / TABLE
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a UTF-8 table: {error}") from None
    if not rows or not {"image", "identity"} <= set(rows[0]):
        received = list(rows[0]) if rows else []
        raise DataError(f"{path} must have the columns image and identity, and at least one row; received {received}")
    images = []
    for line, row in enumerate(rows, 2):
        name, identity, split, camera = (row.get(column) or "" for column in COLUMNS)
        inside = Path(name)
        problem = ""
        if not name or inside.is_absolute() or ".." in inside.parts:
            problem = f"image must be a file below the folder; received {name!r}"
        elif not identity:
            problem = f"{name} has no identity"
        elif split not in ("", *TABLE_SPLITS):
            problem = f"split must be one of {', '.join(TABLE_SPLITS)}, or empty; received {split!r}"
        elif camera and not camera.isdecimal():
            problem = f"camera must be an integer; received {camera!r}"
        if problem:
            raise DataError(f"{path}, line {line}: {problem}")
        images.append(IdentityImage(root / inside, identity, split, int(camera) if camera else None))
    for column in ("split", "camera"):
        empty = [getattr(image, column) in ("", None) for image in images]
        if any(empty) and not all(empty):
            raise DataError(f"{path} must give {column} for all images or for none; line {empty.index(True) + 2} has none")
    return images


# --- splits -----------------------------------------------------------------------------------------------------------


def _keep(images: list[IdentityImage], only: Sequence[str]) -> list[IdentityImage]:
    known = _identities(images)
    for name in only:
        if name not in known:
            raise UnknownNameError("identity", name, known)
    return [image for image in images if not only or image.identity in only]


def _divide(images: list[IdentityImage], config: Data) -> dict[str, list[IdentityImage]]:
    """Images of each split; no identity is in train and in another split."""
    parts: dict[str, list[IdentityImage]] = {}
    for image in images:
        name = {"": "train", "query": "test", "gallery": "test"}.get(image.split, image.split)
        parts.setdefault(name, []).append(image)
    if not parts.get("train"):
        raise DataError("the training split has no images")
    if not any(image.split for image in images):
        parts["train"], parts["test"] = _hold_out(parts["train"], config.test_share, config.split_seed)
    if "validation" not in parts:
        parts["train"], parts["validation"] = _hold_out(parts["train"], config.validation_share, config.split_seed)
    train = _identities(parts["train"])
    if len(train) < 2:
        raise DataError(f"training needs two or more identities; the training split has {len(train)}")
    for name in ("validation", "test"):
        if shared := sorted(set(train) & set(_identities(parts.get(name, [])))):
            more = f" and {len(shared) - 1} more are" if len(shared) > 1 else " is"
            raise DataError(f"train and {name} must not share identities; {shared[0]!r}{more} in both: move the images to one")
    return parts


def _identities(images: Iterable[IdentityImage]) -> list[str]:
    return sorted({image.identity for image in images if image.identity})


def _hold_out(images: list[IdentityImage], share: float, seed: int) -> tuple[list[IdentityImage], list[IdentityImage]]:
    """Hold out a share of the identities: the remaining images and theirs, in the given order."""
    names = _identities(images)
    count = max(1, round(share * len(names)))
    if count > len(names) - 1:
        raise DataError(
            f"holding out {share} of {len(names)} identities leaves a split empty: add identities or name the splits"
        )
    held = {names[i] for i in np.random.default_rng(seed).permutation(len(names))[:count]}
    return (
        [image for image in images if image.identity not in held],
        [replace(image, split="") for image in images if image.identity in held],
    )


def _read(images: list[IdentityImage], labels: tuple[str, ...], config: Data) -> Split:
    index = {name: i for i, name in enumerate(labels)} | {"": JUNK}
    targets = np.array([DISTRACTOR if one.identity is None else index[one.identity] for one in images], np.int64)
    cameras = None if any(one.camera is None for one in images) else np.array([one.camera for one in images], np.int64)
    queries = np.array([one.split == "query" for one in images])
    pixels = read_images([one.path for one in images], config)
    return Split(pixels, targets, cameras, queries if queries.any() else None)
