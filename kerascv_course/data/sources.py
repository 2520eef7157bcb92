"""Data sources for classification: embedded digits, CIFAR-10, and folders of images with one subfolder per class.

Images are uint8, of the size that the recipe asks for.
"""

from __future__ import annotations

import logging
import os
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kerascv_course.config import Data
from kerascv_course.core.errors import DataError, UnknownNameError
from kerascv_course.core.images import ImageError, convert_image, image_files, image_suffixes, read_image, resize_image
from kerascv_course.data.splits import Dataset, Split, hold_out, keep_classes, make_dataset

__all__ = ["load_cifar10", "load_digits", "load_folder", "read_images", "split_folders"]

DIGITS_CITATION = (
    "Alpaydin, Kaynak: Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998 "
    "(the test part, as shipped with scikit-learn), CC BY 4.0"
)
CIFAR10_CITATION = "Krizhevsky: Learning Multiple Layers of Features from Tiny Images, 2009"
CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"

#: Seconds after which the download server counts as unreachable.
PROBE_SECONDS = 5.0

#: Folder names of each split.
SPLIT_FOLDERS = {"train": ("train",), "validation": ("val", "valid", "validation"), "test": ("test",)}

log = logging.getLogger(__name__)


def load_digits(config: Data) -> Dataset:
    """The 1,797 handwritten digits of scikit-learn, enlarged from 8×8 pixels with 17 gray levels; stratified splits."""
    from sklearn.datasets import load_digits as load

    digits = load()
    # 0–16 to 0–255; strokes are bright on black
    small = np.round(digits.images * (255 / 16)).astype(np.uint8)
    enlarged = [
        resize_image(convert_image(Image.fromarray(image), config.channels), *config.image_size, config.resize)
        for image in small
    ]
    names = tuple(map(str, digits.target_names))
    whole, labels = keep_classes(Split(np.stack(enlarged), digits.target.astype(np.int64)), names, config.only)
    rest, test = hold_out(whole, config.test_share, config.split_seed, stratify=True)
    train, validation = hold_out(rest, config.validation_share, config.split_seed, stratify=True)
    return make_dataset("digits", labels, DIGITS_CITATION, train, validation, test)


# --- CIFAR-10 ---


def load_cifar10(config: Data, data_dir: Path | None) -> Dataset:
    """CIFAR-10 from tensorflow-datasets: 50,000 training images less a random validation share, and 10,000 test images.

    With ``config.only`` just the images of those classes: 5,000 and 1,000 each.

    Args:
        config: the recipe's data section.
        data_dir: folder of prepared data; None: ``TFDS_DATA_DIR``, else ``~/tensorflow_datasets``. If it has no CIFAR-10, the data is
            downloaded there (162 MiB).

    Raises:
        DataError: an image size other than 32×32×3, no prepared data and no network, or damaged data.
    """
    if (*config.image_size, config.channels) != (32, 32, 3):
        raise DataError(f"cifar10 has 32×32×3 images; received data.image_size={config.image_size}, channels={config.channels}")
    folder = data_dir or Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    if not any(folder.glob("cifar10/*/dataset_info.json")):
        _check_download(folder)

    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder("cifar10", data_dir=folder)
        builder.download_and_prepare()
        whole, test = (_read_tfds(builder, split) for split in ("train", "test"))
    except Exception as error:  # tensorflow-datasets and TensorFlow raise many types for damaged or incomplete data
        raise DataError(
            f"cannot read CIFAR-10 in {folder}: {type(error).__name__}: {str(error).splitlines()[0][:200]}; remove "
            f"{folder / 'cifar10'} and prepare it again"
        ) from error
    names = tuple(builder.info.features["label"].names)
    (whole, labels), (test, _) = (keep_classes(split, names, config.only) for split in (whole, test))
    train, validation = hold_out(whole, config.validation_share, config.split_seed, stratify=False)
    return make_dataset("cifar10", labels, CIFAR10_CITATION, train, validation, test)


def _read_tfds(builder: Any, split: str) -> Split:
    """A whole split as arrays, in file order, which never changes."""
    batches = list(builder.as_dataset(split=split, batch_size=1000, shuffle_files=False).as_numpy_iterator())
    return Split(np.concatenate([batch["image"] for batch in batches]), np.concatenate([batch["label"] for batch in batches]))


def _check_download(folder: Path) -> None:
    """Fail within seconds, not after minutes of retries, where the data is neither present nor downloadable."""
    try:
        request = urllib.request.Request(CIFAR10_URL, method="HEAD")
        urllib.request.urlopen(request, timeout=PROBE_SECONDS).close()
    except OSError as error:
        raise DataError(
            f"no prepared CIFAR-10 in {folder}, and the download fails ({error}). Options: set TFDS_DATA_DIR or --data-dir to a "
            "folder prepared by tensorflow-datasets (it contains cifar10/3.0.2/); run once with network access; or use the "
            "embedded digits: python -m kerascv_course.train lenet5-digits"
        ) from None
    log.info("downloading CIFAR-10 (162 MiB) to %s", folder)


# --- Folders of images ---


def load_folder(config: Data, data_dir: Path | None) -> Dataset:
    """Images in ``data_dir/CLASS/`` or ``data_dir/{train,val,test}/CLASS/``; class names are the sorted folder names.

    A missing validation or test split is held out from the training images, stratified by class. Hidden files and files without
    an image suffix are skipped; a damaged image is an error.

    Raises:
        DataError: a folder is missing or empty, a split has other classes than train, or images are damaged (the message names
            them).
    """
    if data_dir is None:
        raise DataError("the folder source reads your own images: give --data-dir FOLDER with one subfolder per class")
    folders = split_folders(data_dir)
    root = folders.get("train", data_dir)
    labels = _class_names(root, config.only)
    whole = _read_classes(root, labels, config)
    given: dict[str, Split] = {}
    for name, share in (("test", config.test_share), ("validation", config.validation_share)):
        if name in folders:
            if extra := sorted(set(_class_names(folders[name], config.only)) - set(labels)):
                raise DataError(
                    f"{folders[name]} has the class {extra[0]!r}, which {root} lacks: all splits need the same classes"
                )
            given[name] = _read_classes(folders[name], labels, config)
        else:
            whole, given[name] = hold_out(whole, share, config.split_seed, stratify=True)
    return make_dataset(
        "folder", tuple(labels), f"images in the folder {data_dir.name}", whole, given["validation"], given["test"]
    )


def split_folders(root: Path) -> dict[str, Path]:
    """The subfolders train, validation and test by split name; empty where there is no train folder."""
    found = {
        name: root / choice
        for name, choices in SPLIT_FOLDERS.items()
        for choice in reversed(choices)
        if (root / choice).is_dir()
    }
    return found if "train" in found else {}


def _class_names(root: Path, only: tuple[str, ...]) -> list[str]:
    names = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    for name in only:
        if name not in names:
            raise UnknownNameError(f"class in {root}", name, names)
    if not only and len(names) < 2:
        raise DataError(f"a folder of images needs two or more subfolders, one per class; {root} has {len(names)}")
    return [name for name in names if name in only] if only else names


def _read_classes(root: Path, labels: list[str], config: Data) -> Split:
    files = [(path, target) for target, label in enumerate(labels) for path in image_files(root / label)]
    if not files:
        raise DataError(f"no images in the class folders of {root} (looked for {', '.join(sorted(image_suffixes())[:6])} …)")
    images = read_images([path for path, _ in files], config)
    return Split(images, np.array([target for _, target in files], np.int64))


def read_images(paths: Sequence[Path], config: Data) -> np.ndarray:
    """Read image files as uint8 (N, height, width, channels).

    Raises:
        DataError: missing or damaged images; the message names up to ten.
    """
    images = np.empty((len(paths), *config.image_size, config.channels), np.uint8)
    damaged = []
    for row, path in enumerate(paths):
        try:
            images[row] = read_image(path, *config.image_size, config.channels, config.resize)
        except ImageError as error:
            damaged.append(str(error))
    if damaged:
        raise DataError(
            f"{len(damaged)} of {len(paths)} images are unusable; repair or remove them: " + "; ".join(damaged[:10])
        )
    return images
