"""Images that a command is given: paths, batches, and folders of labeled images."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from export.predictor import OnnxModel, expand_paths
from export.untrusted.guard import alive
from kerascv_course.core.errors import InputError
from kerascv_course.core.images import ImageError
from kerascv_course.core.output import printable
from kerascv_course.core.progress import Wait, track

__all__ = ["SkippedImages", "find_images", "load_batches", "read_folder", "spread"]

#: Images that are loaded and predicted at once.
BATCH = 64


def find_images(words: Iterable[str]) -> list[Path]:
    """Paths of images, from paths, folders and patterns; ``-`` stands for a list on standard input, one path a line.

    Raises:
        ImageError: see `export.predictor.expand_paths`.
        InputError: no paths.
    """
    lines = (word for given in words for word in (_listed() if given == "-" else [given]))
    paths = expand_paths(line for line in lines if line)
    if not paths:
        raise InputError("no images to predict: the list on standard input is empty")
    return paths


def _listed() -> list[str]:
    """The lines of standard input; bytes that are no UTF-8 stay those of file names."""
    if sys.stdin is None:
        raise InputError("no images to predict: standard input is closed")
    data = sys.stdin.buffer.read() if hasattr(sys.stdin, "buffer") else sys.stdin.read().encode()
    return [os.fsdecode(line.removesuffix(b"\r")) for line in data.split(b"\n")]


def spread(count: int, limit: int) -> list[int]:
    """At most `limit` numbers below `count`, evenly spread."""
    taken = min(count, limit)
    return [i * count // taken for i in range(taken)]


def read_folder(
    folder: Path, load: Callable[[Path], np.ndarray], *, limit: int | None = None
) -> tuple[list[np.ndarray], list[str]]:
    """Images below a folder, and the name of the class folder of each (empty for images directly in it).

    Args:
        folder: the folder.
        load: reads an image.
        limit: most images, evenly spread.

    Raises:
        InputError: no such folder, no images, or an image that cannot be read.
    """
    if not folder.is_dir():
        raise InputError(f"no such folder of images: {folder}")
    paths = [path for path in expand_paths([folder]) if not path.name.startswith(".")]
    if limit is not None:
        paths = [paths[i] for i in spread(len(paths), limit)]
    return [load(path) for path in track(paths, "reading images")], [
        path.relative_to(folder).parts[0] if path.parent != folder else "" for path in paths
    ]


class SkippedImages:
    """Images that could not be read; the others are predicted first, then these are named.

    Args:
        total: number of images.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.reasons: list[str] = []

    def load(self, call: Callable[[Path], np.ndarray], path: Path) -> np.ndarray | None:
        """The result of a call on an image, None where the image cannot be used."""
        try:
            return call(path)
        except ImageError as error:
            self.reasons.append(printable(str(error)))
            return None

    def check(self) -> None:
        """Name the skipped images.

        Raises:
            InputError: there are some.
        """
        if self.reasons:
            lines = [" " + self.reasons[0]] if len(self.reasons) == 1 else [f"\n  {reason}" for reason in self.reasons]
            raise InputError(f"skipped {len(self.reasons)} of {self.total} images:" + "".join(lines))


def load_batches(model: OnnxModel, paths: list[Path], what: str = "predicting") -> Iterator[dict[Path, np.ndarray]]:
    """Images by their paths, `BATCH` at a time; `what`: what is done with them, for the progress that is shown.

    Raises:
        InputError: images were skipped, after the last batch.
    """
    skipped = SkippedImages(len(paths))
    with Wait(what, len(paths)) as wait:
        for start in range(0, len(paths), BATCH):
            alive()
            loaded = {path: skipped.load(model.load, path) for path in paths[start : start + BATCH]}
            images = {path: image for path, image in loaded.items() if image is not None}
            if images:
                yield images
            wait.advance(len(loaded))
    skipped.check()
