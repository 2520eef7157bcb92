"""Which data a run was made of: ``data.json`` of its folder, and finding the same data again."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from kerascv_course.core.environment import core_count
from kerascv_course.core.errors import DataError, InputError
from kerascv_course.core.progress import track
from kerascv_course.data.files import DataFiles, Files, find_images
from kerascv_course.data.identities import TABLE, changed_rows
from kerascv_course.data.splits import DataInfo, Dataset

__all__ = [
    "FILE",
    "DataRecord",
    "check_fingerprint",
    "check_labels",
    "count_images",
    "digests",
    "find_again",
    "find_missing",
    "read_record",
    "to_record",
]

#: File of a run.
FILE = "data.json"

#: Hexadecimal digits that are kept of the SHA-256 of a file.
DIGITS = 16

#: What is named in a message, of each kind of difference.
NAMED = 3

#: What to do where the data is not the run's.
REMEDY = (
    "give the run's own data with --data-dir, or restore it; other data is measured with --other-data (evaluate, check, doctor), and "
    "trained on in a new run"
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DataRecord:
    """What a run keeps of its data.

    Attributes:
        fingerprint: see `kerascv_course.data.DataInfo`.
        labels: class names of the source, in the order of the targets.
        parts: the files of each split, with paths relative to the data folder; None: the source has no single files.
        digests: of the files of each split (`digests`).
        table: whether the classes stand in a table beside the images.
        others: further images in the folder, which the run did not use: relative paths.
    """

    fingerprint: str
    labels: tuple[str, ...]
    parts: dict[str, Files] | None = None
    digests: dict[str, list[str]] | None = None
    table: bool = False
    others: tuple[str, ...] = ()


def digests(paths: Sequence[Path]) -> list[str]:
    """The first `DIGITS` digits of each file's SHA-256; empty for a file that cannot be read."""

    def digest(path: Path) -> str:
        try:
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()[:DIGITS]
        except OSError:
            return ""

    with ThreadPoolExecutor(core_count()) as pool:
        return list(track(pool.map(digest, paths), "comparing files", "files", len(paths)))


# --- the file ---------------------------------------------------------------------------------------------------------


def to_record(data: Dataset) -> str:
    """The text of data.json: the fingerprint and, of image files, name, class and digest of each in the order of the splits.

    Files of equal content in two splits or two classes are warned of.
    """
    plain: dict[str, Any] = {"version": 1, "source": data.info.source, "fingerprint": data.info.fingerprint}
    files = data.files
    if files is None:
        return _to_json({**plain, "labels": data.info.labels})
    parts, used = {}, set()
    for name, part in files.parts.items():
        paths = [path.relative_to(files.root).as_posix() for path in part.paths]
        used |= set(paths)
        columns = {"targets": part.targets, "cameras": part.cameras, "queries": part.queries}
        numbers = {column: values.astype(int).tolist() for column, values in columns.items() if values is not None}
        parts[name] = {"paths": paths, "sha256": digests(part.paths), **numbers}
    _warn_of_copies(parts)
    table = data.info.source == "identities" and (files.root / TABLE).is_file()
    others = [path for path in find_images(files.root) if path not in used]
    return _to_json({**plain, "labels": files.labels, "table": table, "parts": parts, "others": others})


def _warn_of_copies(parts: dict[str, dict[str, Any]]) -> None:
    """Warn of files that have the content of another one, of another split or class."""
    alike = defaultdict(list)
    for split, part in parts.items():
        for path, digest, target in zip(part["paths"], part["sha256"], part["targets"], strict=True):
            if digest:  # a file that could be read
                alike[digest].append((split, target, path))
    for field, what, remedy in (
        (0, "split", "what is measured on them was learned or chosen by them"),
        (1, "class", "at most one of these classes is right"),
    ):
        copies = [found for found in alike.values() if len({one[field] for one in found}) > 1]
        if copies:
            first = [copies[0][0], next(one for one in copies[0] if one[field] != copies[0][0][field])]
            log.warning(
                "%s %s in more than one %s, as copies of equal content (%s and %s%s): %s; remove them from one",
                count_images(len(copies)),
                "stands" if len(copies) == 1 else "stand",
                what,
                *(path for _, _, path in first),
                " …" if len(copies) > 1 else "",
                remedy,
            )


def _to_json(plain: Any) -> str:
    # names that are not UTF-8 are kept as escapes
    return json.dumps(plain, separators=(",", ":")) + "\n"


def read_record(folder: Path) -> DataRecord | None:
    """The record of a run folder; None: the run was made by a version without.

    Raises:
        InputError: it is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        plain = json.loads(path.read_bytes())
        labels = tuple(map(str, plain["labels"]))
        if "parts" not in plain:
            return DataRecord(plain["fingerprint"], labels)
        return DataRecord(
            plain["fingerprint"],
            labels,
            {name: _to_files(part) for name, part in plain["parts"].items()},
            {name: part["sha256"] for name, part in plain["parts"].items()},
            plain["table"],
            tuple(plain["others"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is damaged: {error!r}") from None


def _to_files(part: dict[str, Any]) -> Files:
    for path in map(PurePosixPath, part["paths"]):
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"{path} is not below the data folder")
    cameras, queries = part.get("cameras"), part.get("queries")
    files = Files(
        tuple(map(Path, part["paths"])),
        np.array(part["targets"], np.int64),
        None if cameras is None else np.array(cameras, np.int64),
        None if queries is None else np.array(queries, bool),
    )
    if any(len(column) != len(files) for column in (files.targets, part["sha256"], cameras or files, queries or files)):
        raise ValueError("columns of different lengths")
    return files


# --- finding the data again -------------------------------------------------------------------------------------------


def find_missing(record: DataRecord, root: Path) -> list[Path]:
    """Image files of a run that are not in a folder, as paths relative to it."""
    parts = (record.parts or {}).values()
    return [path for part in parts for path in part.paths if not (root / path).is_file()]


def find_again(record: DataRecord, root: Path) -> DataFiles:
    """The files of a run in its data folder, divided as it divided them; what was added since is counted in the log.

    Raises:
        DataError: files are missing or changed; the message names them.
    """
    assert record.parts is not None and record.digests is not None
    missing = find_missing(record, root)
    images = set(find_images(root)) if root.is_dir() else set()
    known = {path.as_posix() for part in record.parts.values() for path in part.paths}
    added = images - known - set(record.others)
    if missing:
        raise _differs(record, root, missing, "missing", _renamed(missing, added))
    parts = {
        name: Files(tuple(root / path for path in part.paths), part.targets, part.cameras, part.queries)
        for name, part in record.parts.items()
    }
    files = DataFiles(root, record.labels, parts)
    if record.table:
        if not (root / TABLE).is_file():
            raise DataError(f"the run's classes stood in {root / TABLE}, which is missing: {REMEDY}")
        if rows := changed_rows(files):
            raise _differs(record, root, [path.relative_to(root) for path in rows], "listed otherwise", f" in {TABLE}")
    paths = [path for part in parts.values() for path in part.paths]
    before = itertools.chain.from_iterable(record.digests[name] for name in parts)
    changed = [path for path, old, new in zip(paths, before, digests(paths), strict=True) if old != new]
    if changed:
        raise _differs(record, root, [path.relative_to(root) for path in changed], "changed", "")
    if added:
        log.info(
            "%s: %s as in the training; %s added since, which the run does not use",
            root,
            count_images(len(known)),
            f"{count_images(len(added))} {'was' if len(added) == 1 else 'were'}",
        )
    return files


def _differs(record: DataRecord, root: Path, paths: Sequence[Path], what: str, hint: str) -> DataError:
    total = sum(len(part) for part in (record.parts or {}).values())
    verb = "is" if len(paths) == 1 else "are"
    names = ", ".join(path.as_posix() for path in paths[:NAMED]) + (" …" if len(paths) > NAMED else "")
    return DataError(
        f"{root} is not the data of the run: {len(paths):,} of {count_images(total)} {verb} {what}{hint} ({names}): {REMEDY}"
    )


def _renamed(missing: Sequence[Path], added: set[str]) -> str:
    """A hint where the files of a folder are now in another one."""
    gone, new = defaultdict(set), defaultdict(set)
    for path in missing:
        gone[path.parent.as_posix()].add(path.name)
    for name in map(PurePosixPath, added):
        new[name.parent.as_posix()].add(name.name)
    for folder, names in gone.items():
        if found := next((other for other, others in sorted(new.items()) if names <= others), None):
            return f"; {found} has files of the names that {folder} had"
    return ""


def count_images(count: int, what: str = "image") -> str:
    """Such as ``1 image`` or ``2,000 images``."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def check_labels(run: Path, info: DataInfo, labels: tuple[str, ...]) -> None:
    """Compare the classes that were read with those of a run without a record.

    Raises:
        DataError: they are others, or in another order.
    """
    if info.labels != labels:
        raise DataError(f"{run} was made with other classes ({', '.join(labels)}; now {', '.join(info.labels)}): {REMEDY}")


def check_fingerprint(run: Path, info: DataInfo, fingerprint: str, *, files: bool) -> None:
    """Compare what was read with a run's fingerprint.

    Args:
        run: its folder, for messages.
        info: of what was read.
        fingerprint: of the run.
        files: the image files are those of the run; they may be decoded to other pixels by another version of Pillow, which is logged.

    Raises:
        DataError: it is other data.
    """
    if info.fingerprint == fingerprint:
        return
    if files:
        log.warning(
            "the image files are those of %s, but other pixels are read from them here: another version of Pillow?", run
        )
        return
    raise DataError(f"{run} was made with other data ({fingerprint}; now {info.fingerprint}): {REMEDY}")
