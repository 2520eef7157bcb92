"""Splits of uint8 images with their targets, and their description."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self, TypeVar

import numpy as np

from kerascv_course.core.errors import DataError, UnknownNameError
from kerascv_course.core.images import Images
from kerascv_course.core.progress import Wait
from kerascv_course.data.stored import StoredImages, check_readable

if TYPE_CHECKING:
    from kerascv_course.data.files import DataFiles

__all__ = [
    "DataInfo",
    "Dataset",
    "Divisible",
    "Split",
    "divide",
    "half_width",
    "hold_out",
    "keep_classes",
    "make_dataset",
    "make_test_set",
]


class Divisible(Protocol):
    """Items with targets, such as a `Split` or the files that it is read from."""

    @property
    def targets(self) -> np.ndarray:
        """int64 (N,)."""

    def __len__(self) -> int: ...

    def take(self, index: np.ndarray) -> Self:
        """The items at these indices, in this order."""


DivisibleT = TypeVar("DivisibleT", bound=Divisible)


@dataclass(frozen=True)
class Split:
    """Images and targets of one split.

    Attributes:
        images: uint8 (N, height, width, channels), 0–255; an array, or images that are read when they are asked for.
        targets: int64 (N,), 0 to classes − 1; a task may replace them by its own.
        cameras: int64 (N,), the camera of each image; None: unknown.
        queries: bool (N,), the query images of a retrieval test; None: not marked.
    """

    images: Images
    targets: np.ndarray
    cameras: np.ndarray | None = None
    queries: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.images)

    def take(self, index: np.ndarray) -> Split:
        """The images and targets at these indices, in this order."""
        cameras = None if self.cameras is None else self.cameras[index]
        queries = None if self.queries is None else self.queries[index]
        images = self.images.take(index) if isinstance(self.images, StoredImages) else self.images[index]
        return Split(images, self.targets[index], cameras, queries)


@dataclass(frozen=True)
class DataInfo:
    """Description of a run's data.

    Attributes:
        source: name of the source.
        labels: class names, in the order of the targets.
        image_shape: (height, width, channels) of every image.
        sizes: number of images of train, validation and test.
        fingerprint: SHA-256 of all images and targets in split order: equal for two runs on the same data.
        citation: reference, and the license where one is given.
    """

    source: str
    labels: tuple[str, ...]
    image_shape: tuple[int, int, int]
    sizes: dict[str, int]
    fingerprint: str
    citation: str


@dataclass(frozen=True)
class Dataset:
    """Three splits and their description.

    Attributes:
        train: images that the weights are fitted to.
        validation: images for choosing settings and the checkpoint.
        test: images for one final measurement.
        info: description of the splits.
        files: the image files that they were read from, with the classes of the source; None: no single files.
    """

    train: Split
    validation: Split
    test: Split
    info: DataInfo
    files: DataFiles | None = None

    def items(self) -> list[tuple[str, Split]]:
        """Name and split pairs, of the splits with images: all three, or for `make_test_set` test alone."""
        splits = [("train", self.train), ("validation", self.validation), ("test", self.test)]
        return [(name, split) for name, split in splits if len(split)]


def make_dataset(
    source: str,
    labels: tuple[str, ...],
    citation: str,
    train: Split,
    validation: Split,
    test: Split,
    files: DataFiles | None = None,
) -> Dataset:
    """A dataset with its `DataInfo`.

    Raises:
        DataError: a split without images, or files that are damaged.
    """
    splits = {"train": train, "validation": validation, "test": test}
    for name, split in splits.items():
        if not len(split):
            raise DataError(f"the {name} split of {source} has no images: add images or change the share")
    return Dataset(train, validation, test, _describe(source, labels, citation, splits), files)


def make_test_set(source: str, labels: tuple[str, ...], citation: str, test: Split) -> Dataset:
    """A dataset of test images alone; train and validation are empty.

    Raises:
        DataError: files that are damaged.
    """
    none = Split(np.empty((0, *test.images.shape[1:]), np.uint8), test.targets[:0])
    return Dataset(none, none, test, _describe(source, labels, citation, {"test": test}))


def _describe(source: str, labels: tuple[str, ...], citation: str, splits: Mapping[str, Split]) -> DataInfo:
    digest, sizes = hashlib.sha256(), {name: len(split) for name, split in splits.items()}
    with Wait("reading images", sum(sizes.values())) as wait:
        for name, split in splits.items():
            digest.update(f"{name}{split.images.shape}".encode())
            for pixels in _first_pass(split.images):
                digest.update(pixels.data)
                wait.advance(len(pixels))
            for numbers in (split.targets, split.cameras, split.queries):
                if numbers is not None:
                    digest.update(np.ascontiguousarray(numbers.astype("<i8")).data)
    check_readable(split.images for split in splits.values())
    height, width, channels = splits["test"].images.shape[1:]
    return DataInfo(source, labels, (height, width, channels), sizes, f"sha256:{digest.hexdigest()}", citation)


def _first_pass(images: Images) -> Iterator[np.ndarray]:
    """All images in order, in parts."""
    return images.scan() if isinstance(images, StoredImages) else iter([np.ascontiguousarray(images)])


def keep_classes(split: Split, labels: tuple[str, ...], only: tuple[str, ...]) -> tuple[Split, tuple[str, ...]]:
    """Keep the images of some classes.

    Args:
        split: with int targets (N,).
        labels: class names, in the order of the targets.
        only: the classes to keep; empty: all.

    Returns:
        The split with renumbered targets, and the names kept, in the order of `labels`.

    Raises:
        UnknownNameError: a class not in `labels`.
        DataError: a class without images.
    """
    if not only:
        return split, labels
    for name in only:
        if name not in labels:
            raise UnknownNameError("class", name, labels)
    kept = [number for number, name in enumerate(labels) if name in only]
    for number in kept:
        if not (split.targets == number).any():
            raise DataError(f"data.only must name classes with images; {labels[number]!r} has none: leave it out")
    chosen = split.take(np.flatnonzero(np.isin(split.targets, kept)))
    return Split(chosen.images, np.searchsorted(kept, chosen.targets)), tuple(labels[number] for number in kept)


def divide(
    items: DivisibleT, labels: Sequence[str], shares: Mapping[str, float], seed: int, *, stratify: bool = True
) -> dict[str, DivisibleT]:
    """Hold out one part after the other; what remains is ``train``.

    Args:
        items: to divide.
        labels: class names, in the order of the targets.
        shares: of each part in what the parts before it leave, by name (validation, test).
        seed: as in `hold_out`.
        stratify: as in `hold_out`.

    Raises:
        DataError: a part without an image of some class; the message names class, options and the number of images needed.
    """
    parts, rest = {}, items
    for name, share in shares.items():
        sizes = _class_sizes(rest, labels)
        count = round(len(rest) * share)
        enough = sizes.min() >= 2 and min(count, len(rest) - count) >= len(labels)
        if 0 < count < len(rest) and not (enough or not stratify):
            raise _too_few(items, labels, shares, name, int(sizes.argmin()))
        rest, parts[name] = hold_out(rest, share, seed, stratify=stratify, option=f"--data.{name}-share")
        for part_name, part in ((name, parts[name]), ("train", rest)):
            if (left := _class_sizes(part, labels)).all():
                continue
            if not stratify:
                raise DataError(
                    f"the {part_name} split gets no image of the class {labels[int(left.argmin())]!r}, since the division is random: "
                    f"change --data.{name}-share {share:g}"
                )
            raise _too_few(items, labels, shares, part_name, int(left.argmin()))
    return {"train": rest, **parts}


def _class_sizes(items: Divisible, labels: Sequence[str]) -> np.ndarray:
    return np.bincount(items.targets, minlength=len(labels))


def _too_few(items: Divisible, labels: Sequence[str], shares: Mapping[str, float], part: str, target: int) -> DataError:
    sizes = _class_sizes(items, labels)
    needed = images_needed(sizes, list(shares.values()))
    more = int((sizes < needed).sum()) - (sizes[target] < needed)
    others = f" ({more} more {'class has' if more == 1 else 'classes have'} fewer)" if more > 0 else ""
    given = " and ".join(f"--data.{name}-share {share:g}" for name, share in shares.items())
    return DataError(
        f"the {part} split gets no image of the class {labels[target]!r}, which has {sizes[target]:,}; with {given} a class needs "
        f"{needed:,}{others}: add images, change the share, or give the splits as folders"
    )


def images_needed(sizes: np.ndarray, shares: Sequence[float]) -> int:
    """Images that a class must have to be in all parts of a stratified division, the larger classes as they are.

    Args:
        sizes: images of each class.
        shares: see `divide`.
    """
    fractions = [math.prod(1 - share for share in shares)]
    fractions += [share * math.prod(1 - before for before in shares[:i]) for i, share in enumerate(shares)]
    for needed in itertools.count(max(2, math.ceil(1 / min(fractions)) - 1)):
        left = np.maximum(sizes, needed).astype(float)
        for share in shares:
            # a class of n images gives n·count/total of them, rounded down or up
            held = left * round(left.sum() * share) / left.sum()
            left -= np.ceil(held - 1e-9)
            if np.floor(held + 1e-9).min() < 1 or left.min() < 1:
                break
        else:
            return needed
    raise AssertionError  # the numbers do not end


def half_width(count: int, accuracy: float = 0.9) -> float:
    """Half the width of Wilson's 95 % interval of an accuracy that was measured on so many images (Wilson 1927)."""
    z = 1.959964
    return z / (1 + z * z / count) * math.sqrt(accuracy * (1 - accuracy) / count + z * z / (4 * count * count))


def hold_out(
    split: DivisibleT, share: float, seed: int, *, stratify: bool, option: str = "the share"
) -> tuple[DivisibleT, DivisibleT]:
    """Hold out a random share of a split.

    Args:
        split: the split to divide.
        share: share of the images to hold out, above 0 and below 1.
        seed: the same seed divides the same images the same way.
        stratify: keep the class proportions in both parts (for small sets).
        option: what sets the share, for messages.

    Returns:
        (rest, held out), each in the order of `split`.

    Raises:
        DataError: too few images, or a class with fewer than two.
    """
    count = round(len(split) * share)
    if not 0 < count < len(split):
        raise DataError(f"a share of {share} of {len(split)} images leaves a split empty: add images or change {option}")
    if stratify:
        from sklearn.model_selection import train_test_split

        classes, sizes = np.unique(split.targets, return_counts=True)
        if sizes.min() < 2 or min(count, len(split) - count) < len(classes):
            raise DataError(
                f"a share of {share} of {len(split)} images in {len(classes)} classes needs two or more images per class, and one "
                f"of each class in both parts; the smallest class has {sizes.min()}: add images or change {option}"
            )
        _, held = train_test_split(np.arange(len(split)), test_size=count, random_state=seed, stratify=split.targets)
    else:
        held = np.random.default_rng(seed).permutation(len(split))[:count]
    mask = np.zeros(len(split), bool)
    mask[held] = True
    return split.take(np.flatnonzero(~mask)), split.take(np.flatnonzero(mask))
