"""Other data than a run was made of, to measure the run on."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import numpy as np

from kerascv_course.config import Data
from kerascv_course.core.errors import DataError
from kerascv_course.data import SOURCES, check_folder
from kerascv_course.data.files import Files
from kerascv_course.data.record import DataRecord, count_images, digests
from kerascv_course.data.splits import Dataset, Split, make_test_set
from kerascv_course.data.stored import open_images

__all__ = ["load_other"]

log = logging.getLogger(__name__)


def load_other(config: Data, data_dir: Path | None, labels: tuple[str, ...] | None, record: DataRecord | None) -> Dataset:
    """A test set from other data: its test images, or where it has no splits all of its images.

    Images of classes that the run does not know, and images with the content of those that it was trained and validated on, are left
    out. A line in the log counts what is measured and what is left out.

    Args:
        config: the data section of the run's recipe.
        data_dir: folder of the other data; None: the source's default.
        labels: classes of the run, whose order the targets take; None: the data may have any.
        record: of the run, as far as there is one.

    Raises:
        UnknownNameError: no such source.
        DataError: missing or damaged data, or nothing is left to measure.
    """
    check_folder(config, data_dir)
    source = SOURCES[config.source]
    if source.find is None:
        data = source.load(config, data_dir)
        if labels not in (None, data.info.labels):
            raise DataError(
                f"the classes of {config.source} are {', '.join(data.info.labels)}, not those of the run: {', '.join(labels)}"
            )
        log.info("other data than the run's: its %s are measured", count_images(len(data.test), "test image"))
        return make_test_set(config.source, data.info.labels, data.info.citation, data.test)
    files = source.find(data_dir)
    part, left_out = files.parts["test"], []
    if labels is not None:
        part, unknown = _with_labels(part, files.labels, labels)
        if unknown:
            left_out.append(f"{_sum(unknown)} of classes that the run does not have ({', '.join(unknown)})")
    part, seen = _new_to(record, part)
    if seen:
        left_out.append(f"{count_images(seen)} that the run was trained or validated on")
    noted = f"left out: {', '.join(left_out)}" if left_out else "nothing is left out"
    if not len(part):
        raise DataError(f"{files.root} has no image to measure the run on; {noted}")
    log.info("other data than the run's: measured on %s of %s; %s", count_images(len(part)), files.root, noted)
    images = open_images({"test": part.paths}, config)["test"]
    test = Split(images, part.targets, part.cameras, part.queries)
    return make_test_set(config.source, labels or files.labels, f"images in the folder {files.root.name}", test)


def _sum(unknown: dict[str, int]) -> str:
    return count_images(sum(unknown.values()))


def _with_labels(part: Files, found: tuple[str, ...], labels: tuple[str, ...]) -> tuple[Files, dict[str, int]]:
    """The files of known classes, with the targets of `labels`, and the number of the others by class."""
    numbers = np.array([labels.index(name) if name in labels else -1 for name in found], np.int64)
    targets = numbers[part.targets]
    unknown = {name: int((part.targets == number).sum()) for number, name in enumerate(found) if name not in labels}
    return dataclasses.replace(part, targets=targets).take(np.flatnonzero(targets >= 0)), unknown


def _new_to(record: DataRecord | None, part: Files) -> tuple[Files, int]:
    """The files whose content the run was neither trained nor validated on, and the number of the others."""
    if record is None or record.digests is None:
        return part, 0
    used = {digest for name in ("train", "validation") for digest in record.digests[name]}
    new = np.array([digest not in used for digest in digests(part.paths)], bool)
    return part.take(np.flatnonzero(new)), int((~new).sum())
