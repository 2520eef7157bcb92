"""The embedded set: 1,797 handwritten digits that ship with scikit-learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from kerascv_course.config import Data
from kerascv_course.core.images import convert_image, resize_image
from kerascv_course.data.splits import DataInfo, Split, Splits, hold_out, keep_classes, make_info

CITATION = (
    "Alpaydin, Kaynak: Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998 "
    "(the test part, as shipped with scikit-learn), CC BY 4.0"
)


def load_digits(config: Data, data_dir: Path | None) -> tuple[Splits, DataInfo]:
    """The digits, up-sampled from 8×8 pixels of 17 greys to the recipe's size; stratified splits.

    Args:
        config: the recipe's data part.
        data_dir: not used; the images come with scikit-learn.
    """
    from sklearn.datasets import load_digits as load

    digits = load()
    # 0–16 to 0–255; the ink is bright on black
    small = np.round(digits.images * (255 / 16)).astype(np.uint8)
    height, width = config.image_size
    pictures = [convert_image(Image.fromarray(image), config.channels) for image in small]
    images = np.stack([resize_image(picture, height, width, config.resize) for picture in pictures])
    names = tuple(str(name) for name in digits.target_names)
    whole, labels = keep_classes(Split(images, digits.target.astype(np.int64)), names, config.only)
    rest, test = hold_out(whole, config.test_share, config.split_seed, stratify=True)
    train, validation = hold_out(rest, config.validation_share, config.split_seed, stratify=True)
    splits = Splits(train, validation, test)
    return splits, make_info("digits", labels, CITATION, splits)
