from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest
from PIL import Image

from kerascv_course.config import Data
from kerascv_course.core.errors import DataError, UnknownNameError
from kerascv_course.data import load, sources


def test_load_digits(digits):
    splits = digits
    info = splits.info
    assert info.sizes == {"train": 1150, "validation": 288, "test": 359} and sum(info.sizes.values()) == 1797
    assert info.labels == tuple("0123456789") and info.image_shape == (32, 32, 1)
    assert splits.train.images.dtype == np.uint8 and splits.train.images.max() == 255
    # measured once: the same digits, resized and divided the same way, on every machine
    assert info.fingerprint == "sha256:1583cefd3c22768c50aa3c3439fcd97d06470ee1817541c86f46a8be9fa9042e"


def test_load_digits_in_color_and_another_size():
    splits = load(Data("digits", image_size=(20, 24), channels=3))
    info = splits.info
    assert info.image_shape == (20, 24, 3)
    assert (splits.test.images[..., 0] == splits.test.images[..., 2]).all()


def test_load_suggests_the_nearest_source():
    with pytest.raises(UnknownNameError, match="unknown data source 'cifar'; did you mean 'cifar10'"):
        load(Data("cifar"))


# --- folder ---


def test_load_folder_of_class_folders(image_folder):
    splits = load(Data("folder", channels=1), image_folder)
    info = splits.info
    assert info.labels == ("eins", "null") and info.sizes == {"train": 29, "validation": 3, "test": 8}
    assert set(splits.test.targets) == {0, 1}


def test_load_folder_keeps_given_splits(image_folder, tmp_path):
    whole = tmp_path / "whole"
    shutil.copytree(image_folder, whole / "train")
    shutil.copytree(image_folder, whole / "test")
    splits = load(Data("folder", channels=1, validation_share=0.25), whole)
    info = splits.info
    assert info.sizes == {"train": 30, "validation": 10, "test": 40}


def test_load_folder_skips_other_files(image_folder):
    (image_folder / "eins" / "notes.txt").write_text("x")
    (image_folder / "eins" / ".hidden.png").write_text("x")
    assert sum(load(Data("folder", channels=1), image_folder).info.sizes.values()) == 40


def test_load_folder_names_all_damaged_images(image_folder):
    (image_folder / "eins" / "bad.png").write_bytes(b"\x89PNG")
    (image_folder / "null" / "worse.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"2 of 42 images are unusable.*bad\.png.*worse\.jpg"):
        load(Data("folder", channels=1), image_folder)


def test_load_folder_refuses_unusable_folders(image_folder, tmp_path):
    with pytest.raises(DataError, match="give --data-dir FOLDER"):
        load(Data("folder"))
    with pytest.raises(DataError, match="no such data folder"):
        load(Data("folder"), tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"needs two or more subfolders, one per class; .* has 0"):
        load(Data("folder"), tmp_path / "empty")
    for name in "ab":
        (tmp_path / "bare" / name).mkdir(parents=True)
    with pytest.raises(DataError, match="no images in the class folders"):
        load(Data("folder"), tmp_path / "bare")
    shutil.copytree(image_folder, tmp_path / "other" / "train")
    shutil.copytree(image_folder, tmp_path / "other" / "test")
    (tmp_path / "other" / "test" / "zwei").mkdir()
    with pytest.raises(DataError, match=r"has the class 'zwei', which .* lacks"):
        load(Data("folder"), tmp_path / "other")


def test_load_folder_of_fifteen_scenes(scene15_dir):
    splits = load(Data("folder", channels=1, image_size=(16, 16)), scene15_dir)
    info = splits.info
    assert len(info.labels) == 15 and info.sizes == {"train": 1350, "validation": 150, "test": 1500}
    assert np.bincount(splits.validation.targets).tolist() == [10] * 15


# --- CIFAR-10 ---


def test_load_cifar10(cifar10_dir):
    splits = load(Data("cifar10"), cifar10_dir)
    info = splits.info
    assert info.sizes == {"train": 45_000, "validation": 5_000, "test": 10_000}
    assert info.labels[:2] == ("airplane", "automobile") and info.image_shape == (32, 32, 3)
    assert np.bincount(splits.test.targets).tolist() == [1000] * 10
    # the mean of the training pixels that every CIFAR-10 recipe quotes: 0.4914, 0.4822, 0.4465
    train = np.concatenate([splits.train.images, splits.validation.images])
    assert np.allclose(train.mean((0, 1, 2)) / 255, [0.4914, 0.4822, 0.4465], atol=5e-5)


def test_load_cifar10_lists_the_options_without_data_and_network(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(sources, "CIFAR10_URL", "https://download.invalid/")
    with pytest.raises(DataError, match=r"set TFDS_DATA_DIR or --data-dir.*lenet5-digits"):
        load(Data("cifar10"))


def test_load_cifar10_refuses_other_sizes(tmp_path):
    with pytest.raises(DataError, match=r"has 32×32×3 images; received data.image_size=\(64, 64\)"):
        load(Data("cifar10", image_size=(64, 64)), tmp_path)
    with pytest.raises(DataError, match="no such data folder"):
        load(Data("cifar10"), tmp_path / "none")


def test_load_cifar10_reports_damage(cifar10_dir, tmp_path):
    source = next(cifar10_dir.glob("cifar10/*/dataset_info.json")).parent
    copy = tmp_path / "cifar10" / source.name
    copy.mkdir(parents=True)
    for path in source.iterdir():
        (copy / path.name).write_bytes(path.read_bytes()[: 100_000 if "tfrecord" in path.name else None])
    with pytest.raises(DataError, match=r"cannot read CIFAR-10.*prepare it again"):
        load(Data("cifar10"), tmp_path)


def test_data_refuses_normalization_of_other_channels():
    with pytest.raises(ValueError, match="normalize_mean must have one value, or one for each of 1 channels; received"):
        dataclasses.replace(Data("digits", channels=1), normalize_mean=(0.1, 0.2, 0.3))


def test_load_folder_converts_image_modes(image_folder):
    rgba = Image.open(next((image_folder / "eins").glob("*.png"))).convert("RGBA")
    rgba.save(image_folder / "eins" / "rgba.png")
    assert sum(load(Data("folder", channels=3), image_folder).info.sizes.values()) == 41
