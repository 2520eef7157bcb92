"""What a folder of images holds: its splits, classes and image files, and what is passed over. No image is opened."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from kerascv_course.core.errors import DataError
from kerascv_course.core.images import image_suffixes

__all__ = [
    "Holdings",
    "class_names",
    "count_beside",
    "image_files",
    "images_of_classes",
    "split_folders",
    "split_of",
    "visible_images",
]

#: Names of each split, as folders and in tables; upper and lower case are the same.
SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validate", "validation", "dev"),
    "test": ("test", "testing"),
}

#: The noun of a kind of what is passed over.
NOUN = re.compile(r"\b(file|image|link)\b")


class Holdings:
    """Counts of what a data folder holds, for one line after loading.

    Attributes:
        used: images.
        passed_over: number by kind: a suffix, or a phrase for one of them.
    """

    def __init__(self) -> None:
        self.used = 0
        self.passed_over: Counter[str] = Counter()
        self._nested: list[int] = []

    def add(self, other: Holdings) -> None:
        """Add another folder's counts."""
        self.used += other.used
        self.passed_over.update(other.passed_over)
        self._nested += other._nested

    def skip(self, path: Path | os.DirEntry[str]) -> None:
        """Count a file that is passed over."""
        self.passed_over[_kind(path.name)] += 1

    def skip_nested(self, path: Path) -> None:
        """Count a folder where images are expected, and the images below it."""
        self._nested.append(sum(len(visible_images(files)) for _, _, files in os.walk(path)))

    def reasons(self) -> str:
        """What is passed over, such as ``12 .heic, 1 nested folder with 20 images``; empty: nothing is."""
        parts = []
        for kind, count in sorted(self.passed_over.items(), key=lambda item: (-item[1], item[0])):
            single = kind.startswith(".") or count == 1
            parts.append(f"{count:,} " + (kind if single else NOUN.sub(r"\1s", kind, count=1)))
        if self._nested:
            inside = sum(self._nested)
            holds = f"with {_count(inside, 'image')}" if inside else "without images"
            parts.append(f"{_count(len(self._nested), 'nested folder')} {holds}")
        return ", ".join(parts)

    def __str__(self) -> str:
        reasons = self.reasons()
        return _count(self.used, "image") + (f"; passed over: {reasons}" if reasons else "")


def _kind(name: str) -> str:
    if name.startswith("."):
        return "hidden file"
    return Path(name).suffix.lower() or "file without a suffix"


def _count(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def visible_images(names: Sequence[str]) -> list[str]:
    """The names of image files that are not hidden."""
    suffixes = image_suffixes()
    return [name for name in names if not name.startswith(".") and Path(name).suffix.lower() in suffixes]


# --- splits -----------------------------------------------------------------------------------------------------------


def split_of(name: str) -> str | None:
    """The split that a folder's or a table's name stands for: train, validation or test; None: no split."""
    name = name.strip().lower()
    return next((split for split, names in SPLIT_NAMES.items() if name in names), None)


def split_folders(root: Path, *, needs_train: bool = True) -> dict[str, Path]:
    """The folders of the splits by split name; empty where `root` holds class folders itself.

    A folder called train is a split unless it is a class among others: it holds images itself, and so does a folder beside it whose
    name is no split's (or it holds no folders).

    Raises:
        DataError: folders beside train that are no splits, two folders for one split, or, where train is needed, splits without.
    """
    folders = _visible_folders(root)
    named = [(path, split) for path in folders if (split := split_of(path.name))]
    others = [path for path in folders if not split_of(path.name)]
    training = [path for path, split in named if split == "train"]
    if not training and (others or not named):
        return {}
    if not training and needs_train:
        raise DataError(
            f"{root} has {_names([path for path, _ in named])} but no train folder: add it, with one subfolder per class"
        )
    if others and any(_holds_images(path) and _is_class(path, others) for path in training):
        return {}
    if others:
        raise DataError(
            f"{training[0]} makes the folders of {root} splits, and {_names(others)} {'is' if len(others) == 1 else 'are'} none: "
            f"move {'it' if len(others) == 1 else 'them'} elsewhere, or use a split's name: "
            f"{', '.join(name for names in SPLIT_NAMES.values() for name in names)}"
        )
    found: dict[str, Path] = {}
    for path, split in named:
        if split in found:
            raise DataError(f"{found[split]} and {path.name} are both named as the {split} split: keep one of them")
        found[split] = path
    return found


def _is_class(training: Path, others: list[Path]) -> bool:
    return not _visible_folders(training) or any(map(_holds_images, others))


def _visible_folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _holds_images(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return any(entry.is_file() and visible_images([entry.name]) for entry in entries)


def _names(paths: Sequence[Path], most: int = 5) -> str:
    shown = ", ".join(path.name for path in paths[:most])
    return f"{shown} and {len(paths) - most} more" if len(paths) > most else shown


def count_beside(root: Path, holdings: Holdings) -> None:
    """Count the files beside the folders of splits, and hidden folders, as passed over."""
    with os.scandir(root) as entries:
        for entry in entries:
            if not entry.is_dir() or entry.name.startswith("."):
                _count_beside(entry, holdings)


def _count_beside(entry: os.DirEntry[str], holdings: Holdings) -> None:
    if visible_images([entry.name]):
        holdings.passed_over["image beside the class folders"] += 1
    else:
        holdings.skip(entry)


# --- classes ----------------------------------------------------------------------------------------------------------


def class_names(root: Path, holdings: Holdings) -> list[str]:
    """The class folders in a folder, sorted; files beside them are counted as passed over.

    Raises:
        DataError: two names that differ by blanks alone.
    """
    names = []
    with os.scandir(root) as entries:
        for entry in entries:
            if entry.is_dir() and not entry.name.startswith("."):
                names.append(entry.name)
            else:
                _count_beside(entry, holdings)
    stripped = Counter(name.strip() for name in names)
    if twice := [name for name, count in stripped.items() if count > 1]:
        raise DataError(f"two folders of {root} are called {twice[0]!r} but for blanks: rename one, or merge them")
    return sorted(names)


def images_of_classes(root: Path, names: Sequence[str], holdings: Holdings) -> list[tuple[Path, str]]:
    """The image files of class folders and their classes: by class in the order given, within a class by name.

    Args:
        root: holds the folders.
        names: the folders to take.
        holdings: receives the counts.

    Raises:
        DataError: folders without an image; all are named.
    """
    found, empty = [], []
    for name in names:
        inside = Holdings()
        paths = image_files(root / name, inside)
        if not paths:
            empty.append(f"{name} ({inside.reasons() or 'empty'})")
        found += [(path, name) for path in paths]
        holdings.add(inside)
    if empty:
        more = f" and {len(empty) - 5} more" if len(empty) > 5 else ""
        raise DataError(
            f"every class folder needs an image that can be read (PNG, JPEG, WebP …); in {root} there is none in "
            f"{', '.join(empty[:5])}{more}: remove {'the folder' if len(empty) == 1 else 'these folders'}, or convert the files"
        )
    return found


def image_files(folder: Path, holdings: Holdings) -> list[Path]:
    """`kerascv_course.core.images.image_files` of a folder; what else it holds is counted."""
    names, suffixes = [], image_suffixes()
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                holdings.skip(entry)
            elif entry.is_dir():
                holdings.skip_nested(folder / entry.name)
            elif Path(entry.name).suffix.lower() not in suffixes:
                holdings.skip(entry)
            elif entry.is_file():
                names.append(entry.name)
            else:
                holdings.passed_over["broken link"] += 1
    holdings.used += len(names)
    return [folder / name for name in sorted(names)]
