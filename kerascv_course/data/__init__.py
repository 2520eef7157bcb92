"""Data sources: a name to three splits of uint8 images. Batches for training are in `kerascv_course.data.pipeline`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kerascv_course.config import Data, TrainedRecipe
from kerascv_course.core.errors import DataError, InputError, UnknownNameError
from kerascv_course.data.files import DataFiles, read_dataset
from kerascv_course.data.identities import find_identities, load_identities, plan_identities
from kerascv_course.data.record import DataRecord, find_again
from kerascv_course.data.sources import check_cifar10, find_folder, load_cifar10, load_digits, load_folder, plan_folder
from kerascv_course.data.splits import DataInfo, Dataset, Split, half_width

__all__ = ["SOURCES", "DataInfo", "DataSource", "Dataset", "Split", "check_batch", "check_folder", "check_source", "load"]

#: Validation images below which a warning says how uncertain what they measure is.
FEW_IMAGES = 100

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DataSource:
    """A source of data.

    Attributes:
        load: gives the splits, from the recipe's data section and the folder.
        count: number of training images, found without TensorFlow and without opening images; refuses what `load` would.
        find: of other data than a run's own: the image files to measure it on, as one part, ``test``; None: those that `load` gives.
    """

    load: Callable[[Data, Path | None], Dataset]
    count: Callable[[Data, Path | None], int]
    find: Callable[[Path | None], DataFiles] | None = None


#: Every source by name.
SOURCES: dict[str, DataSource] = {
    "digits": DataSource(lambda config, _: load_digits(config), lambda config, _: len(load_digits(config).train)),
    "cifar10": DataSource(load_cifar10, check_cifar10),
    "folder": DataSource(load_folder, lambda *given: len(plan_folder(*given).parts["train"]), find_folder),
    "identities": DataSource(load_identities, lambda *given: len(plan_identities(*given)[0].parts["train"]), find_identities),
}


def check_source(config: Data, data_dir: Path | None, record: DataRecord | None = None) -> int:
    """Refuse an unknown source, and missing or unsuitable data, before anything heavy is imported.

    Args:
        config: the recipe's data section.
        data_dir: folder of the data; None: the source's default.
        record: of a run that is resumed: its files are not looked at here.

    Returns:
        Number of training images.

    Raises:
        UnknownNameError: no such source.
        DataError: no such folder, or what `load` refuses without opening images.
    """
    check_folder(config, data_dir)
    if record is not None and record.parts is not None:
        return len(record.parts["train"])
    return SOURCES[config.source].count(config, data_dir)


def check_folder(config: Data, data_dir: Path | None) -> None:
    """Refuse an unknown source and a folder that does not exist.

    Raises:
        UnknownNameError: no such source.
        DataError: no such folder.
    """
    if config.source not in SOURCES:
        raise UnknownNameError("data source", config.source, SOURCES)
    if data_dir is not None and not data_dir.is_dir():
        raise DataError(f"no such data folder: {data_dir}; give the one that holds the data with --data-dir")


def check_batch(recipe: TrainedRecipe, images: int) -> None:
    """Refuse a batch that is larger than the training data between two validations.

    Raises:
        InputError: it is.
    """
    batches = images // recipe.batch_size
    if batches < recipe.validations_per_epoch:
        fits = max(1, images // recipe.validations_per_epoch)
        raise InputError(
            f"an epoch must have at least one batch per validation; {images} training images make {batches} batches of "
            f"{recipe.batch_size}: use a smaller --batch-size (at most {fits}) or fewer --validations-per-epoch"
        )


def load(config: Data, data_dir: Path | None = None, record: DataRecord | None = None) -> Dataset:
    """Load a source.

    Args:
        config: the recipe's data section.
        data_dir: folder of the data; None: the source's default.
        record: of a run, whose files, classes and division are used again; None: a new run.

    Raises:
        UnknownNameError: no such source.
        DataError: missing, empty, damaged or unsuitable data, or files other than those of the run.
    """
    check_folder(config, data_dir)
    if record is not None and record.parts is not None and data_dir is not None:
        data = read_dataset(config.source, find_again(record, data_dir), config)
    else:
        data = SOURCES[config.source].load(config, data_dir)
    if record is None and (count := len(data.validation)) < FEW_IMAGES:
        log.warning(
            "%d validation images are few: an accuracy of 0.9 measured on them is within ±%.2f of the true one (95 %% interval of "
            "Wilson, half its width); more images make the choice between checkpoints and settings surer",
            count,
            half_width(count),
        )
    return data
