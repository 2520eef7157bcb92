"""Data sources: a name to three splits of uint8 images. Batches for training are in `kerascv_course.data.pipeline`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kerascv_course.config import Data
from kerascv_course.core.errors import DataError, UnknownNameError
from kerascv_course.data.identities import load_identities
from kerascv_course.data.sources import load_cifar10, load_digits, load_folder
from kerascv_course.data.splits import DataInfo, Dataset, Split

__all__ = ["SOURCES", "DataInfo", "Dataset", "Split", "check_source", "load"]

#: Every source: ``load(config, data_dir)``.
SOURCES: dict[str, Callable[[Data, Path | None], Dataset]] = {
    "digits": lambda config, _: load_digits(config),
    "cifar10": load_cifar10,
    "folder": load_folder,
    "identities": load_identities,
}


def check_source(config: Data, data_dir: Path | None) -> None:
    """Refuse an unknown source or a missing data folder before anything heavy is imported.

    Raises:
        UnknownNameError: no such source.
        DataError: no such folder.
    """
    if config.source not in SOURCES:
        raise UnknownNameError("data source", config.source, SOURCES)
    if data_dir is not None and not data_dir.is_dir():
        raise DataError(f"no such data folder: {data_dir}")


def load(config: Data, data_dir: Path | None = None) -> Dataset:
    """Load a source.

    Args:
        config: the recipe's data section.
        data_dir: folder of the data; None: the source's default.

    Raises:
        UnknownNameError: no such source.
        DataError: missing, empty, damaged or unsuitable data.
    """
    check_source(config, data_dir)
    return SOURCES[config.source](config, data_dir)
