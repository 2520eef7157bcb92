"""Identity images: class folders, Market-1501 file names or a table; training identities never appear in validation or test."""

from __future__ import annotations

import csv
import itertools
import logging
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from kerascv_course.config import Data
from kerascv_course.core.errors import DataError, UnknownNameError
from kerascv_course.core.images import image_suffixes
from kerascv_course.core.retrieval_metrics import DISTRACTOR, JUNK
from kerascv_course.data.files import DataFiles, Files, read_dataset
from kerascv_course.data.folders import (
    Holdings,
    class_names,
    count_beside,
    image_files,
    images_of_classes,
    split_folders,
    split_of,
)
from kerascv_course.data.splits import Dataset

__all__ = ["TABLE", "changed_rows", "find_identities", "load_identities", "plan_identities"]

log = logging.getLogger(__name__)

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
    plan, holdings = plan_identities(config, data_dir)
    log.info("%s", holdings)
    return read_dataset("identities", plan, config)


def plan_identities(config: Data, data_dir: Path | None) -> tuple[DataFiles, Holdings]:
    """Find and divide the images of `load_identities`, without opening any; it raises the same errors, but for damaged images.

    Returns:
        Files of train, validation and possibly test, and what the folder holds.
    """
    root, images, holdings = _read_layout(data_dir, config.only)
    parts = _divide(_keep(images, config.only), config)
    others = _identities(image for name in ("validation", "test") for image in parts.get(name, []))
    labels = (*_identities(parts["train"]), *others)
    files: dict[str, Files] = {name: _files(parts[name], labels) for name in ("train", "validation", "test") if name in parts}
    return DataFiles(root, labels, files), holdings


def find_identities(data_dir: Path | None) -> DataFiles:
    """The test images of `load_identities`, without those the validation images, or where there are no splits all: one part, ``test``.

    Raises:
        DataError: as `load_identities`.
    """
    root, images, holdings = _read_layout(data_dir, (), needs_train=False)
    for names in (("test", "query", "gallery"), ("validation",)):
        if chosen := [image for image in images if image.split in names]:
            images = chosen
            break
    log.info("%s", holdings)
    labels = tuple(_identities(images))
    return DataFiles(root, labels, {"test": _files(images, labels)})


def _read_layout(
    data_dir: Path | None, only: Sequence[str], *, needs_train: bool = True
) -> tuple[Path, list[IdentityImage], Holdings]:
    """The folder, its images, not divided yet, and what it holds."""
    if data_dir is None:
        raise DataError(
            "the source identities reads your own images: give --data-dir FOLDER with one folder per identity, with "
            f"{TABLE}, or with the folders of Market-1501"
        )
    holdings = Holdings()
    if (data_dir / TABLE).is_file():
        images = _read_table(data_dir, holdings)
    elif (data_dir / "bounding_box_train").is_dir():
        images = _read_market(data_dir, holdings)
    else:
        images = _read_folders(data_dir, only, holdings, needs_train)
    return data_dir, images, holdings


# --- layouts ----------------------------------------------------------------------------------------------------------


def _read_folders(root: Path, only: Sequence[str], holdings: Holdings, needs_train: bool) -> list[IdentityImage]:
    splits = split_folders(root, needs_train=needs_train)
    if splits:
        count_beside(root, holdings)
    places = splits or {"": root}
    names = {split: class_names(place, holdings) for split, place in places.items()}
    known = sorted({name for found in names.values() for name in found})
    if not known:
        raise DataError(f"no images in {root}: it must hold one folder per identity, or train/, val/ and test/ of such folders")
    for name in only:
        if name not in known:
            raise UnknownNameError("identity", name, known)
    return [
        IdentityImage(path, name, split)
        for split, place in places.items()
        for path, name in images_of_classes(place, [one for one in names[split] if not only or one in only], holdings)
    ]


def _read_market(root: Path, holdings: Holdings) -> list[IdentityImage]:
    images = []
    for folder, split in MARKET_FOLDERS.items():
        if not (root / folder).is_dir():
            raise DataError(f"Market-1501 has the folders {', '.join(MARKET_FOLDERS)}; {root} has no {folder}")
        for path in image_files(root / folder, holdings):
            match = MARKET_NAME.match(path.name)
            if not match:
                raise DataError(f"Market-1501 file names look like 0002_c1s1_000451_03.jpg; received {path}")
            identity = {"-1": "", "0000": None}.get(match[1], match[1])
            if identity or split == "gallery":  # junk and distractors belong to the gallery only
                images.append(IdentityImage(path, identity, split, int(match[2])))
            else:
                holdings.used -= 1
                holdings.passed_over["image of junk or a distractor outside the gallery"] += 1
    return images


def _read_table(root: Path, holdings: Holdings) -> list[IdentityImage]:
    path = root / TABLE
    rows = _table_rows(path)
    images: list[IdentityImage] = []
    seen: dict[Path, tuple[int, str]] = {}
    for line, row in rows:
        try:
            image = _table_image(root, row)
            name = row["image"]
            if before := seen.setdefault(image.path, (line, row["identity"])):
                _check_once(name, before, (line, row["identity"]))
        except DataError as error:
            raise DataError(f"{path}, line {line}: {error}") from None
        images.append(image)
    for column in ("split", "camera"):
        empty = [getattr(image, column) in ("", None) for image in images]
        if any(empty) and not all(empty):
            line = rows[empty.index(True)][0]
            raise DataError(f"{path} must give {column} for all images or for none; line {line} has none")
    holdings.used = len(images)
    for folder, _, names in os.walk(root):
        for name in names:
            file = Path(folder, name)
            if file in seen or file == path:
                continue
            if file.suffix.lower() in image_suffixes() and not name.startswith("."):
                holdings.passed_over[f"image that {TABLE} does not list"] += 1
            else:
                holdings.skip(file)
    return images


def changed_rows(files: DataFiles) -> list[Path]:
    """The images of a dataset whose row in the table is missing, or gives another identity, camera or split.

    Raises:
        DataError: the table is damaged.
    """
    rows = {image.path: image for image in _read_table(files.root, Holdings())}
    return [
        path
        for name, part in files.parts.items()
        for i, path in enumerate(part.paths)
        if path not in rows or not _is_same_row(rows[path], name, part.take(np.array([i])), files.labels)
    ]


def _is_same_row(row: IdentityImage, part: str, file: Files, labels: Sequence[str]) -> bool:
    """Whether a row still gives what the run has; `file`: a single image of a part."""
    split = "test" if row.split in ("query", "gallery") else row.split
    was_query = file.queries is not None and bool(file.queries[0])
    return (
        row.identity == labels[int(file.targets[0])]
        and (file.cameras is None or row.camera == file.cameras[0])
        and split in ("", part)
        and (not row.split or (row.split == "query") == was_query)
    )


def _table_rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Line numbers and rows, with stripped values and lower-case columns; separated by commas, semicolons or tabs."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            reader = csv.reader(file, delimiter=max(",;\t", key=first.count))
            lines = [(reader.line_num, [value.strip() for value in row]) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a UTF-8 table: {error}") from None
    lines = [(line, values) for line, values in lines if any(values)]
    header = [column.lower() for column in lines[0][1]] if lines else []
    if len(lines) < 2 or not {"image", "identity"} <= set(header):
        raise DataError(f"{path} must have the columns image and identity, and at least one row; received {header}")
    for column in COLUMNS:
        if header.count(column) > 1:
            raise DataError(f"{path} has the column {column} {header.count(column)} times: keep one")
    for line, values in lines:
        if any(values[len(header) :]):
            raise DataError(
                f"{path}, line {line}: {len(values)} values for {len(header)} columns: put names with commas in quotes"
            )
    return [(line, dict(itertools.zip_longest(header, values[: len(header)], fillvalue=""))) for line, values in lines[1:]]


def _table_image(root: Path, row: dict[str, str]) -> IdentityImage:
    name, identity, split, camera = (row.get(column, "") for column in COLUMNS)
    # written by Windows with its separators
    inside = Path(name) if "\\" not in name or (root / name).exists() else Path(name.replace("\\", "/"))
    if not name or inside.is_absolute() or ".." in inside.parts:
        raise DataError(f"image must be a file below the folder; received {name!r}")
    if not identity:
        raise DataError(f"{name} has no identity")
    known = split_of(split) or split.lower()
    if known not in ("", *TABLE_SPLITS):
        raise DataError(f"split must be one of {', '.join(TABLE_SPLITS)}, or empty; received {split!r}")
    try:
        number = float(camera) if camera else None
    except ValueError:
        number = -1
    if number is not None and not (number >= 0 and number.is_integer()):
        raise DataError(f"camera must be an integer; received {camera!r}")
    return IdentityImage(root / inside, identity, known, None if number is None else int(number))


def _check_once(name: str, before: tuple[int, str], now: tuple[int, str]) -> None:
    """Refuse an image that a table lists twice; each is its line and its identity."""
    if before[0] == now[0]:
        return
    if before[1] == now[1]:
        raise DataError(f"{name} stands in line {before[0]} already: remove one of the two")
    raise DataError(f"{name} has the identity {now[1]!r}, and {before[1]!r} in line {before[0]}: keep the right one")


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
    shares = {} if any(image.split for image in images) else {"test": config.test_share}
    if "validation" not in parts:
        shares["validation"] = config.validation_share
    if shares and _left(count := len(_identities(parts["train"])), shares.values()) < 2:
        needed = next(n for n in itertools.count(3) if _left(n, shares.values()) >= 2)
        raise DataError(
            f"training needs two or more identities, and {' and '.join(f'--data.{k}-share {v:g}' for k, v in shares.items())} of "
            f"{count} leaves fewer: {needed} are needed; add identities, change the share, or name the splits"
        )
    for name, share in shares.items():
        parts["train"], parts[name] = _hold_out(parts["train"], share, config.split_seed)
    train = _identities(parts["train"])
    if len(train) < 2:
        raise DataError(f"training needs two or more identities; the training split has {len(train)}: add some")
    for name in ("validation", "test"):
        if shared := sorted(set(train) & set(_identities(parts.get(name, [])))):
            more = f" and {len(shared) - 1} more are" if len(shared) > 1 else " is"
            raise DataError(f"train and {name} must not share identities; {shared[0]!r}{more} in both: move the images to one")
    return parts


def _identities(images: Iterable[IdentityImage]) -> list[str]:
    return sorted({image.identity for image in images if image.identity})


def _left(identities: int, shares: Iterable[float]) -> int:
    """Identities that remain for training."""
    for share in shares:
        identities -= max(1, round(share * identities))
    return identities


def _hold_out(images: list[IdentityImage], share: float, seed: int) -> tuple[list[IdentityImage], list[IdentityImage]]:
    """Hold out a share of the identities: the remaining images and theirs, in the given order."""
    names = _identities(images)
    count = max(1, round(share * len(names)))
    held = {names[i] for i in np.random.default_rng(seed).permutation(len(names))[:count]}
    return (
        [image for image in images if image.identity not in held],
        [replace(image, split="") for image in images if image.identity in held],
    )


def _files(images: list[IdentityImage], labels: tuple[str, ...]) -> Files:
    index = {name: i for i, name in enumerate(labels)} | {"": JUNK}
    targets = np.array([DISTRACTOR if one.identity is None else index[one.identity] for one in images], np.int64)
    cameras = None if any(one.camera is None for one in images) else np.array([one.camera for one in images], np.int64)
    queries = np.array([one.split == "query" for one in images])
    return Files(tuple(image.path for image in images), targets, cameras, queries if queries.any() else None)
