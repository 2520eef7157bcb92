"""CIFAR-10 through tensorflow-datasets."""

from __future__ import annotations

import logging
import os
import urllib.request
from pathlib import Path

import numpy as np

from kerascv_course.config import Data
from kerascv_course.core.errors import DataError
from kerascv_course.data.splits import DataInfo, Split, Splits, hold_out, keep_classes, make_info

CITATION = "Krizhevsky: Learning Multiple Layers of Features from Tiny Images, 2009"
DOWNLOAD = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"

#: Seconds after which the download's server counts as out of reach.
PROBE_SECONDS = 5.0

log = logging.getLogger(__name__)


def load_cifar10(config: Data, data_dir: Path | None) -> tuple[Splits, DataInfo]:
    """CIFAR-10: 50,000 training images less the validation share, drawn from all classes alike, and 10,000 test images.

    With ``config.only`` the images of those classes alone: 5,000 and 1,000 a class.

    Prepared data is looked for in `data_dir`, else in ``TFDS_DATA_DIR``, else in ``~/tensorflow_datasets``. Where there is none it
    is downloaded there (162 MiB), if the server can be reached.

    Raises:
        DataError: another image size than 32×32×3, no prepared data and no network, or damaged data.
    """
    if (*config.image_size, config.channels) != (32, 32, 3):
        raise DataError(
            f"cifar10 has images of 32×32×3; received data.image_size={config.image_size}, channels={config.channels}"
        )
    folder = data_dir or Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    prepared = any(folder.glob("cifar10/*/dataset_info.json"))
    if not prepared:
        _require_download(folder)

    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder("cifar10", data_dir=folder)
        builder.download_and_prepare()
        whole, test = (_read(builder, split) for split in ("train", "test"))
    except Exception as error:  # tensorflow-datasets and TensorFlow raise many kinds for damaged or half-written data
        raise DataError(
            f"the CIFAR-10 in {folder} cannot be read: {type(error).__name__}: {str(error).splitlines()[0][:200]}; "
            f"remove {folder / 'cifar10'} and prepare it again"
        ) from error
    names = tuple(builder.info.features["label"].names)
    (whole, labels), (test, _) = (keep_classes(split, names, config.only) for split in (whole, test))
    train, validation = hold_out(whole, config.validation_share, config.split_seed, stratify=False)
    splits = Splits(train, validation, test)
    return splits, make_info("cifar10", labels, CITATION, splits)


def _read(builder: object, split: str) -> Split:
    """One whole split as arrays, in the order of the files, which never changes."""
    data = builder.as_dataset(split=split, batch_size=1000, shuffle_files=False).as_numpy_iterator()  # type: ignore[attr-defined]
    batches = list(data)
    return Split(np.concatenate([batch["image"] for batch in batches]), np.concatenate([batch["label"] for batch in batches]))


def _require_download(folder: Path) -> None:
    """Fail within seconds, rather than after minutes of retries, where the data can neither be found nor fetched."""
    try:
        request = urllib.request.Request(DOWNLOAD, method="HEAD")
        urllib.request.urlopen(request, timeout=PROBE_SECONDS).close()
    except OSError as error:
        raise DataError(
            f"no prepared CIFAR-10 in {folder}, and it cannot be downloaded ({error}). Ways out: set TFDS_DATA_DIR, or give "
            "--data-dir, to a folder that tensorflow-datasets has prepared (it holds cifar10/3.0.2/); run once with a network; "
            "or use the embedded digits: python -m kerascv_course.train lenet5-digits"
        ) from None
    log.info("downloading CIFAR-10 (162 MiB) to %s", folder)
