"""Pictures of identities: folders, Market-1501's file names, or a table. Nobody of the training is in validation or test."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from kerascv_course.config import Data
from kerascv_course.core.errors import DataError, UnknownNameError
from kerascv_course.data.folder import SPLIT_FOLDERS, pictures_in, read_pictures
from kerascv_course.data.splits import DataInfo, Split, Splits, make_info

__all__ = ["DISTRACTOR", "JUNK", "TABLE", "load_identities"]

#: Targets of images that are nobody's (see `kerascv_course.core.protocols`).
JUNK, DISTRACTOR = -1, -2

#: Table of a data folder.
TABLE = "identities.csv"

#: Market-1501: identity, camera; ``-1``: junk, ``0000``: distractors.
MARKET_NAME = re.compile(r"(-1|\d{4})_c(\d+)")
MARKET_FOLDERS = {"bounding_box_train": "train", "query": "query", "bounding_box_test": "gallery"}

#: Splits as a table calls them; ``query`` and ``gallery`` are the test split.
TABLE_SPLITS = ("train", "validation", "test", "query", "gallery")


@dataclass(frozen=True)
class Picture:
    """A file, whom it shows (empty: junk; None: a distractor), from which camera, and the split it is for (empty: any)."""

    path: Path
    identity: str | None
    split: str = ""
    camera: int | None = None


def load_identities(config: Data, data_dir: Path | None) -> tuple[Splits, DataInfo]:
    """Pictures of identities; what `data_dir` holds decides how they are read.

    - ``identities.csv`` with the columns image (a file below the folder), identity and, if wanted, split (train, validation, test,
      or query and gallery for a test of marked queries) and camera (a whole number).
    - ``bounding_box_train/``, ``query/`` and ``bounding_box_test/``: Market-1501 (Zheng et al. 2015), with its cameras, junk (identity
      −1) and distractors (identity 0000).
    - Otherwise one folder an identity, in ``data_dir`` or in its ``train/``, ``val/`` and ``test/``.

    Splits that are not given are made of whole identities, by the recipe's shares. Where there is a validation split and no test
    split, the validation images are both.

    Targets are numbers of `DataInfo.labels`, those of training first; `JUNK` and `DISTRACTOR` stand for nobody.

    Raises:
        DataError: missing, empty or damaged, an identity both in training and in validation or test, or too few identities.
    """
    if data_dir is None:
        raise DataError(
            "the identities source reads your own pictures: give --data-dir FOLDER with one folder an identity, with "
            f"{TABLE}, or with Market-1501's folders"
        )
    if (data_dir / TABLE).is_file():
        pictures = _read_table(data_dir)
    elif (data_dir / "bounding_box_train").is_dir():
        pictures = _read_market(data_dir)
    else:
        pictures = _read_folders(data_dir)
    parts = _divide(_keep(pictures, config.only), config)
    names = _names(parts)
    read = {name: _read(part, names, config) for name, part in parts.items() if name in ("train", "validation", "test")}
    splits = Splits(read["train"], read["validation"], read.get("test", read["validation"]))
    return splits, make_info("identities", names, f"pictures in the folder {data_dir.name}", splits)


# --- where pictures stand ---------------------------------------------------------------------------------------------


def _read_folders(root: Path) -> list[Picture]:
    found = {
        name: next((root / choice for choice in choices if (root / choice).is_dir()), None)
        for name, choices in SPLIT_FOLDERS.items()
    }
    places = {name: path for name, path in found.items() if path is not None} if found["train"] else {"": root}
    pictures = [
        Picture(path, folder.name, name)
        for name, place in places.items()
        for folder in sorted(place.iterdir())
        if folder.is_dir() and not folder.name.startswith(".")
        for path in pictures_in(folder)
    ]
    if not pictures:
        raise DataError(f"no pictures in {root}: it holds one folder an identity, or train/, val/ and test/ of such folders")
    return pictures


def _read_market(root: Path) -> list[Picture]:
    pictures = []
    for folder, split in MARKET_FOLDERS.items():
        if not (root / folder).is_dir():
            raise DataError(f"Market-1501 has the folders {', '.join(MARKET_FOLDERS)}; {root} has no {folder}")
        for path in pictures_in(root / folder):
            match = MARKET_NAME.match(path.name)
            if not match:
                raise DataError(f"Market-1501 names its pictures like 0002_c1s1_000451_03.jpg; received {path}")
            identity = {"-1": "", "0000": None}.get(match[1], match[1])
            if identity or split == "gallery":  # nobody is learnt from, or looked for
                pictures.append(Picture(path, identity, split, int(match[2])))
    return pictures


def _read_table(root: Path) -> list[Picture]:
    path = root / TABLE
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a UTF-8 table: {error}") from None
    if not rows or not {"image", "identity"} <= set(rows[0]):
        raise DataError(
            f"{path} has the columns image and identity, and one row or more; received {list(rows[0]) if rows else []}"
        )
    pictures = []
    for number, row in enumerate(rows, 2):
        name, identity, split, camera = (row.get(key) or "" for key in ("image", "identity", "split", "camera"))
        inside = Path(name)
        if not name or inside.is_absolute() or ".." in inside.parts:
            raise DataError(f"{path}, line {number}: image is a file below the folder; received {name!r}")
        if not identity:
            raise DataError(f"{path}, line {number}: {name} has no identity")
        if split not in ("", *TABLE_SPLITS):
            raise DataError(f"{path}, line {number}: split is one of {', '.join(TABLE_SPLITS)}, or empty; received {split!r}")
        if camera and not camera.isdecimal():
            raise DataError(f"{path}, line {number}: camera is a whole number; received {camera!r}")
        pictures.append(Picture(root / inside, identity, split, int(camera) if camera else None))
    for column in ("split", "camera"):
        empty = [getattr(picture, column) in ("", None) for picture in pictures]
        if any(empty) and not all(empty):
            raise DataError(f"{path} states {column} for every picture or for none; line {empty.index(True) + 2} has none")
    return pictures


# --- who goes where ---------------------------------------------------------------------------------------------------


def _keep(pictures: list[Picture], only: Sequence[str]) -> list[Picture]:
    known = sorted({picture.identity for picture in pictures if picture.identity})
    for name in only:
        if name not in known:
            raise UnknownNameError("identity", name, known)
    return [picture for picture in pictures if not only or picture.identity in only]


def _divide(pictures: list[Picture], config: Data) -> dict[str, list[Picture]]:
    """The pictures of each split, of identities that training shares with no other."""
    parts: dict[str, list[Picture]] = {}
    for picture in pictures:
        name = {"": "train", "query": "test", "gallery": "test"}.get(picture.split, picture.split)
        parts.setdefault(name, []).append(picture)
    if not parts.get("train"):
        raise DataError("the training split has no pictures")
    if not any(picture.split for picture in pictures):
        parts["train"], parts["test"] = _hold_out(parts["train"], config.test_share, config.split_seed)
    if "validation" not in parts:
        parts["train"], parts["validation"] = _hold_out(parts["train"], config.validation_share, config.split_seed)
    learnt = _identities(parts["train"])
    if len(learnt) < 2:
        raise DataError(f"two identities or more are learnt from; the training split has {len(learnt)}")
    for name in ("validation", "test"):
        if shared := sorted(set(learnt) & set(_identities(parts.get(name, [])))):
            raise DataError(
                f"no identity is in train and {name} both, for those are to be new ones; {shared[0]!r} is"
                + (f", and {len(shared) - 1} more" if len(shared) > 1 else "")
                + ": move its pictures to one of them"
            )
    return parts


def _identities(pictures: Iterable[Picture]) -> list[str]:
    return sorted({picture.identity for picture in pictures if picture.identity})


def _hold_out(pictures: list[Picture], share: float, seed: int) -> tuple[list[Picture], list[Picture]]:
    """Set a share of the identities aside: the rest and those, each in the order they had."""
    names = _identities(pictures)
    count = max(1, round(share * len(names)))
    if count > len(names) - 1:
        raise DataError(
            f"a share of {share} of {len(names)} identities leaves a split empty: add identities, or name the splits"
        )
    held = {names[i] for i in np.random.default_rng(seed).permutation(len(names))[:count]}
    return (
        [picture for picture in pictures if picture.identity not in held],
        [replace(picture, split="") for picture in pictures if picture.identity in held],
    )


def _names(parts: dict[str, list[Picture]]) -> tuple[str, ...]:
    learnt = _identities(parts["train"])
    others = _identities(picture for name in ("validation", "test") for picture in parts.get(name, []))
    return (*learnt, *others)


def _read(pictures: list[Picture], names: tuple[str, ...], config: Data) -> Split:
    number = {name: i for i, name in enumerate(names)} | {"": JUNK}
    targets = np.array([DISTRACTOR if p.identity is None else number[p.identity] for p in pictures], np.int64)
    cameras = None if any(p.camera is None for p in pictures) else np.array([p.camera for p in pictures], np.int64)
    queries = np.array([p.split == "query" for p in pictures])
    images = read_pictures([picture.path for picture in pictures], config)
    return Split(images, targets, cameras, queries if queries.any() else None)
