"""What every data source returns: three splits of uint8 images with their targets, and a description; NumPy only."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from kerascv_course.core.errors import DataError, UnknownNameError

__all__ = ["DataInfo", "Split", "Splits", "hold_out", "keep_classes", "make_info"]


@dataclass(frozen=True)
class Split:
    """Images and targets of one split.

    Attributes:
        images: uint8 (N, height, width, channels), 0–255.
        targets: what a source gives: int64 (N,), 0 to classes − 1; a task may put others in their place.
        cameras: int64 (N,), which camera took each image; None: not known.
        queries: bool (N,), which images are to be looked for among the others; None: not marked.
    """

    images: np.ndarray
    targets: np.ndarray
    cameras: np.ndarray | None = None
    queries: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.images)

    def take(self, index: np.ndarray) -> Split:
        """The images and targets at these positions, in this order."""
        marks = (None if values is None else values[index] for values in (self.cameras, self.queries))
        return Split(self.images[index], self.targets[index], *marks)


@dataclass(frozen=True)
class Splits:
    """Train is learnt from, validation chooses, test measures once."""

    train: Split
    validation: Split
    test: Split

    def items(self) -> list[tuple[str, Split]]:
        """Name and split of each."""
        return [("train", self.train), ("validation", self.validation), ("test", self.test)]


@dataclass(frozen=True)
class DataInfo:
    """What a run records of its data.

    Attributes:
        source: name of the source.
        labels: class names, in the order of the targets.
        image_shape: (height, width, channels).
        sizes: images of train, validation and test.
        fingerprint: SHA-256 over all images and targets in split order: two runs saw the same data if it is equal.
        citation: whom to name, and the licence where one is stated.
    """

    source: str
    labels: tuple[str, ...]
    image_shape: tuple[int, int, int]
    sizes: dict[str, int]
    fingerprint: str
    citation: str


def make_info(source: str, labels: tuple[str, ...], citation: str, splits: Splits) -> DataInfo:
    """Describe splits.

    Raises:
        DataError: a split without images.
    """
    digest = hashlib.sha256()
    for name, split in splits.items():
        if not len(split):
            raise DataError(f"the {name} split of {source} has no images: more images, or another share, are needed")
        digest.update(f"{name}{split.images.shape}".encode())
        digest.update(np.ascontiguousarray(split.images).data)
        for numbers in (split.targets, split.cameras, split.queries):
            if numbers is not None:
                digest.update(np.ascontiguousarray(numbers.astype("<i8")).data)
    height, width, channels = splits.train.images.shape[1:]
    sizes = {name: len(split) for name, split in splits.items()}
    return DataInfo(source, labels, (height, width, channels), sizes, f"sha256:{digest.hexdigest()}", citation)


def keep_classes(split: Split, labels: tuple[str, ...], only: tuple[str, ...]) -> tuple[Split, tuple[str, ...]]:
    """Leave out the images of other classes.

    Args:
        split: with int targets (N,).
        labels: class names, in the order of the targets.
        only: the classes to keep; none: all.

    Returns:
        The split, its targets numbered anew, and the names kept, in the order of `labels`.

    Raises:
        UnknownNameError: a class that `labels` has not.
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
            raise DataError(f"data.only keeps classes that have images; {labels[number]!r} has none: leave it out")
    chosen = split.take(np.flatnonzero(np.isin(split.targets, kept)))
    return Split(chosen.images, np.searchsorted(kept, chosen.targets)), tuple(labels[number] for number in kept)


def hold_out(split: Split, share: float, seed: int, *, stratify: bool) -> tuple[Split, Split]:
    """Set a random share of a split aside.

    Args:
        split: what is divided.
        share: share of the images set aside, above 0 and below 1.
        seed: the same seed divides the same images the same way.
        stratify: keep the classes' shares equal in both parts (for small sets); otherwise draw from all images alike.

    Returns:
        (rest, set aside), each in the order of `split`.

    Raises:
        DataError: too few images, or a class with fewer than two, to divide.
    """
    count = round(len(split) * share)
    if not 0 < count < len(split):
        raise DataError(f"a share of {share} of {len(split)} images leaves a split empty: use more images or another share")
    if stratify:
        from sklearn.model_selection import train_test_split

        classes, sizes = np.unique(split.targets, return_counts=True)
        if sizes.min() < 2 or min(count, len(split) - count) < len(classes):
            raise DataError(
                f"to divide {len(split)} images of {len(classes)} classes by a share of {share}, each class needs two images or "
                f"more and each part one of each class; the smallest class has {sizes.min()}: add images, or choose another share"
            )
        _, held = train_test_split(np.arange(len(split)), test_size=count, random_state=seed, stratify=split.targets)
    else:
        held = np.random.default_rng(seed).permutation(len(split))[:count]
    mask = np.zeros(len(split), bool)
    mask[held] = True
    return split.take(np.flatnonzero(~mask)), split.take(np.flatnonzero(mask))
