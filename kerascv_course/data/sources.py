"""Data sources for classification: embedded digits, CIFAR-10, and folders of images with one subfolder per class.

Images are uint8, of the size that the recipe asks for.
"""

from __future__ import annotations

import logging
import os
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kerascv_course.config import Data
from kerascv_course.core.errors import DataError, UnknownNameError
from kerascv_course.core.images import convert_image, resize_image
from kerascv_course.core.progress import Wait
from kerascv_course.data.files import DataFiles, Files, read_dataset
from kerascv_course.data.folders import Holdings, class_names, count_beside, images_of_classes, split_folders
from kerascv_course.data.splits import Dataset, Split, divide, keep_classes, make_dataset

__all__ = ["FolderPlan", "check_cifar10", "find_folder", "load_cifar10", "load_digits", "load_folder", "plan_folder"]

DIGITS_CITATION = (
    "Alpaydin, Kaynak: Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998 "
    "(the test part, as shipped with scikit-learn), CC BY 4.0"
)
CIFAR10_CITATION = "Krizhevsky: Learning Multiple Layers of Features from Tiny Images, 2009"
CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"

#: In a folder that tensorflow-datasets has prepared.
INFO_FILE = "dataset_info.json"

#: Seconds after which the download server counts as unreachable.
PROBE_SECONDS = 5.0

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
    shares = {"test": config.test_share, "validation": config.validation_share}
    parts = divide(whole, labels, shares, config.split_seed)
    return make_dataset("digits", labels, DIGITS_CITATION, parts["train"], parts["validation"], parts["test"])


# --- CIFAR-10 ---


def check_cifar10(config: Data, data_dir: Path | None) -> int:
    """Refuse what `load_cifar10` would, without importing TensorFlow; returns the number of training images.

    Raises:
        DataError: an image size other than 32×32×3, or no prepared data and no network.
    """
    if (*config.image_size, config.channels) != (32, 32, 3):
        raise DataError(f"cifar10 has 32×32×3 images; received data.image_size={config.image_size}, channels={config.channels}")
    folder = _cifar10_folder(data_dir)
    if not any(folder.glob(f"cifar10/*/{INFO_FILE}")):
        _check_download(folder)
    images = 5000 * (len(set(config.only)) or 10)
    return images - round(images * config.validation_share)


def _cifar10_folder(data_dir: Path | None) -> Path:
    return data_dir or Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


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
    check_cifar10(config, data_dir)
    folder = _cifar10_folder(data_dir)

    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder("cifar10", data_dir=folder)
        if not (Path(builder.data_path) / INFO_FILE).is_file():
            _check_download(folder, str(builder.version))
            log.info("downloading CIFAR-10 (162 MiB) to %s", folder)
        builder.download_and_prepare()
        whole, test = (_read_tfds(builder, split) for split in ("train", "test"))
    except DataError:
        raise
    except Exception as error:  # tensorflow-datasets and TensorFlow raise many types for damaged or incomplete data
        raise DataError(
            f"cannot read CIFAR-10 in {folder}: {type(error).__name__}: {str(error).splitlines()[0][:200]}; remove "
            f"{folder / 'cifar10'} and prepare it again"
        ) from error
    names = tuple(builder.info.features["label"].names)
    (whole, labels), (test, _) = (keep_classes(split, names, config.only) for split in (whole, test))
    parts = divide(whole, labels, {"validation": config.validation_share}, config.split_seed, stratify=False)
    return make_dataset("cifar10", labels, CIFAR10_CITATION, parts["train"], parts["validation"], test)


def _read_tfds(builder: Any, split: str) -> Split:
    """A whole split as arrays, in file order, which never changes."""
    count = builder.info.splits[split].num_examples
    stream = builder.as_dataset(split=split, batch_size=1000, shuffle_files=False).as_numpy_iterator()
    batches = []
    with Wait("reading CIFAR-10", count) as wait:
        for batch in stream:
            batches.append(batch)
            wait.advance(len(batch["label"]))
    return Split(np.concatenate([batch["image"] for batch in batches]), np.concatenate([batch["label"] for batch in batches]))


def _check_download(folder: Path, version: str = "3.0.2") -> None:
    """Fail within seconds, not after minutes of retries, where the data is neither present nor downloadable."""
    try:
        request = urllib.request.Request(CIFAR10_URL, method="HEAD")
        urllib.request.urlopen(request, timeout=PROBE_SECONDS).close()
    except OSError as error:
        others = sorted(path.parent.name for path in folder.glob(f"cifar10/*/{INFO_FILE}"))
        found = f"{folder} holds CIFAR-10 {', '.join(others)}, not {version}" if others else f"no prepared CIFAR-10 in {folder}"
        raise DataError(
            f"{found}, and the download fails ({error}). Options: set TFDS_DATA_DIR or --data-dir to a "
            f"folder prepared by tensorflow-datasets (it contains cifar10/{version}/); run once with network access; or use the "
            "embedded digits: python -m kerascv_course.train lenet5-digits"
        ) from None


# --- Folders of images ---


@dataclass(frozen=True)
class FolderPlan(DataFiles):
    """A folder of images, counted and divided, before any image is opened.

    Attributes:
        holdings: what the folder holds.
    """

    holdings: Holdings


def plan_folder(config: Data, data_dir: Path | None) -> FolderPlan:
    """Find and divide the images of `load_folder`; it raises the same errors, but for damaged images."""
    data_dir = _required(data_dir)
    folders, holdings = split_folders(data_dir), Holdings()
    root = folders.get("train", data_dir)
    if folders:
        count_beside(data_dir, holdings)
    labels = _chosen_classes(root, config.only, holdings)
    whole = _find_files(root, labels, labels, holdings)
    given: dict[str, Files] = {}
    for name in ("test", "validation"):
        if name not in folders:
            continue
        names = class_names(folders[name], holdings)
        names = [one for one in names if not config.only or one in config.only]
        if extra := sorted(set(names) - set(labels)):
            raise DataError(f"{folders[name]} has the class {extra[0]!r}, which {root} lacks: all splits need the same classes")
        given[name] = _find_files(folders[name], names, labels, holdings)
    shares = {"test": config.test_share, "validation": config.validation_share}
    shares = {name: share for name, share in shares.items() if name not in given}
    parts = {**divide(whole, labels, shares, config.split_seed), **given}
    return FolderPlan(data_dir, tuple(labels), {name: parts[name] for name in ("train", "validation", "test")}, holdings)


def _required(data_dir: Path | None) -> Path:
    if data_dir is None:
        raise DataError("the folder source reads your own images: give --data-dir FOLDER with one subfolder per class")
    return data_dir


def find_folder(data_dir: Path | None) -> DataFiles:
    """The test images of `load_folder`, or where the folder has no splits all: one part, ``test``, with the classes that it has.

    Raises:
        DataError: a folder is missing, or a class folder has no image.
    """
    data_dir = _required(data_dir)
    folders, holdings = split_folders(data_dir, needs_train=False), Holdings()
    root = next((folders[name] for name in ("test", "validation", "train") if name in folders), data_dir)
    labels = class_names(root, holdings)
    files = _find_files(root, labels, labels, holdings)
    log.info("%s", holdings)
    return DataFiles(root, tuple(labels), {"test": files})


def load_folder(config: Data, data_dir: Path | None) -> Dataset:
    """Images in ``data_dir/CLASS/`` or ``data_dir/{train,val,test}/CLASS/``; class names are the sorted folder names.

    A missing validation or test split is held out from the training images, stratified by class. Hidden files, files without
    an image suffix and folders within a class are passed over and counted; a damaged image is an error.

    Raises:
        DataError: a folder is missing, a class folder has no image, folders beside train are no splits, a split has other classes
            than train or lacks one after the division, or images are damaged; the message names them.
    """
    plan = plan_folder(config, data_dir)
    log.info("%s", plan.holdings)
    for name, files in plan.parts.items():
        if lacking := [label for target, label in enumerate(plan.labels) if target not in files.targets]:
            log.warning("the %s split has no images of %s: it does not measure these classes", name, ", ".join(lacking))
    return read_dataset("folder", plan, config)


def _chosen_classes(root: Path, only: tuple[str, ...], holdings: Holdings) -> list[str]:
    names = class_names(root, holdings)
    for name in only:
        if name not in names:
            raise UnknownNameError(f"class in {root}", name, names)
    if not only and len(names) < 2:
        raise DataError(f"a folder of images needs two or more subfolders, one per class; {root} has {len(names)}")
    return [name for name in names if name in only] if only else names


def _find_files(root: Path, names: Sequence[str], labels: Sequence[str], holdings: Holdings) -> Files:
    found = images_of_classes(root, names, holdings)
    return Files(tuple(path for path, _ in found), np.array([labels.index(name) for _, name in found], np.int64))
