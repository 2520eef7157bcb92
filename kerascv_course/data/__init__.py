"""Data sources: a name to three splits of uint8 images, read where they stand; then tf.data (`kerascv_course.data.pipeline`)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kerascv_course.config import Data
from kerascv_course.core.errors import DataError, UnknownNameError
from kerascv_course.data.cifar10 import load_cifar10
from kerascv_course.data.digits import load_digits
from kerascv_course.data.folder import load_folder
from kerascv_course.data.identities import load_identities
from kerascv_course.data.splits import DataInfo, Split, Splits

__all__ = ["SOURCES", "DataInfo", "Split", "Splits", "check_source", "load"]

#: Every source: ``load(config, data_dir) -> (Splits, DataInfo)``.
SOURCES: dict[str, Callable[[Data, Path | None], tuple[Splits, DataInfo]]] = {
    "digits": load_digits,
    "cifar10": load_cifar10,
    "folder": load_folder,
    "identities": load_identities,
}


def check_source(config: Data, data_dir: Path | None) -> None:
    """Refuse an unknown source or a data folder that is not there, before anything heavy is imported.

    Raises:
        UnknownNameError: no such source.
        DataError: no such folder.
    """
    if config.source not in SOURCES:
        raise UnknownNameError("data source", config.source, SOURCES)
    if data_dir is not None and not data_dir.is_dir():
        raise DataError(f"no such data folder: {data_dir}")


def load(config: Data, data_dir: Path | None = None) -> tuple[Splits, DataInfo]:
    """Load a source.

    Args:
        config: the recipe's data part.
        data_dir: where the data stands; what None means is the source's to say.

    Raises:
        UnknownNameError: no such source.
        DataError: data that is missing, empty, damaged or of the wrong shape.
    """
    check_source(config, data_dir)
    return SOURCES[config.source](config, data_dir)
