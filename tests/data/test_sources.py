from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest
from PIL import Image

from kerascv_course.config import Data
from kerascv_course.core.errors import DataError, UnknownNameError
from kerascv_course.data import check_source, load, sources


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
    with pytest.raises(
        DataError, match=r"needs an image that can be read.*none in a \(empty\), b \(empty\): remove these folders"
    ):
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


def make_folder(root, image_folder, **classes):
    """Folders with so many copies of a digit each: ``make_folder(root, image_folder, cat=3)``."""
    source = next((image_folder / "eins").glob("*.png"))
    for name, count in classes.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            shutil.copy(source, root / name / f"{number}.png")
    return root


GRAY = Data("folder", channels=1)


def test_load_folder_counts_what_it_passes_over(image_folder, caplog):
    for number in range(12):
        (image_folder / "eins" / f"{number}.HEIC").write_text("")
    (image_folder / "null" / "paper.pdf").write_text("")
    (image_folder / "null" / "README").write_text("")
    (image_folder / "null" / ".DS_Store").write_text("")
    (image_folder / "null" / "link.png").symlink_to("nowhere")
    make_folder(image_folder / "null", image_folder, inner=20)
    shutil.copy(image_folder / "null" / "inner" / "0.png", image_folder / "stray.png")
    with caplog.at_level("INFO"):
        assert sum(load(GRAY, image_folder).info.sizes.values()) == 40
    assert (
        "40 images; passed over: 12 .heic, 1 .pdf, 1 broken link, 1 file without a suffix, 1 hidden file, 1 image beside the class "
        "folders, 1 nested folder with 20 images" in caplog.text
    )


def test_load_folder_counts_in_the_plural_and_says_nothing_without_a_reason(image_folder, caplog):
    with caplog.at_level("INFO"):
        load(GRAY, image_folder)
    assert "40 images" in caplog.messages
    for name in (".a", ".b", "c", "d"):
        (image_folder / "eins" / name).write_text("")
    (image_folder / "eins" / "x").mkdir()
    (image_folder / "eins" / "y").mkdir()
    with caplog.at_level("INFO"):
        load(GRAY, image_folder)
    assert (
        "40 images; passed over: 2 files without a suffix, 2 hidden files, 2 nested folders without images" in caplog.messages
    )


def test_load_folder_refuses_classes_without_a_usable_image(image_folder):
    (image_folder / "__MACOSX" / "eins").mkdir(parents=True)
    (image_folder / "__MACOSX" / "eins" / "._0.png").write_text("")
    (image_folder / "leer").mkdir()
    (image_folder / "neu").mkdir()
    (image_folder / "neu" / "1.HEIC").write_text("")
    rule = r"none in __MACOSX \(1 nested folder without images\), leer \(empty\), neu \(1 .heic\): remove these folders, or convert"
    with pytest.raises(DataError, match=rule):
        load(GRAY, image_folder)
    assert load(dataclasses.replace(GRAY, only=("eins", "null")), image_folder).info.labels == ("eins", "null")


def test_load_folder_refuses_an_empty_class_of_one_split(image_folder, tmp_path):
    whole = make_folder(tmp_path / "whole" / "train", image_folder, a=9, b=9).parent
    make_folder(whole / "test", image_folder, a=3, b=0)
    with pytest.raises(DataError, match=r"in .*test there is none in b \(empty\)"):
        load(GRAY, whole)


def test_load_folder_warns_of_a_class_that_a_split_lacks(image_folder, tmp_path, caplog):
    whole = make_folder(tmp_path / "whole" / "train", image_folder, a=20, b=20).parent
    make_folder(whole / "test", image_folder, a=3)
    assert load(GRAY, whole).info.sizes["test"] == 3
    assert "the test split has no images of b: it does not measure these classes" in caplog.text


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [("train", "val", "test"), ("Train", "validate", "Test"), ("TRAINING", "Valid", "testing"), ("training", "dev", "TEST")],
)
def test_load_folder_understands_split_names(image_folder, tmp_path, train, validation, test):
    whole = tmp_path / "whole"
    for name, count in ((train, 9), (validation, 3), (test, 5)):
        make_folder(whole / name, image_folder, a=count, b=count)
    info = load(GRAY, whole).info
    assert info.sizes == {"train": 18, "validation": 6, "test": 10} and info.labels == ("a", "b")


def test_load_folder_refuses_folders_beside_train_that_are_no_splits(image_folder, tmp_path):
    whole = tmp_path / "whole"
    for name in ("train", "tset", "__MACOSX"):
        make_folder(whole / name, image_folder, a=9, b=9)
    with pytest.raises(
        DataError, match=r"the folders of .* splits, and __MACOSX, tset are none: move them.*train, training, val"
    ):
        load(GRAY, whole)
    for name in ("tset", "__MACOSX"):
        shutil.rmtree(whole / name)
    for name in ("val", "Validation"):
        make_folder(whole / name, image_folder, a=9, b=9)
    with pytest.raises(DataError, match="Validation and val are both named as the validation split: keep one"):
        load(GRAY, whole)


def test_load_folder_refuses_splits_without_train_or_without_classes(image_folder, tmp_path):
    for name in ("val", "test"):
        make_folder(tmp_path / "bare" / name, image_folder, a=9, b=9)
    with pytest.raises(DataError, match="has test, val but no train folder"):
        load(GRAY, tmp_path / "bare")
    make_folder(tmp_path / "flat", image_folder, train=9, test=9)
    with pytest.raises(DataError, match=r"needs two or more subfolders, one per class; .*train has 0"):
        load(GRAY, tmp_path / "flat")


@pytest.mark.parametrize("others", [{"car": 20, "bus": 20}, {"car": 20, "test": 20}])
def test_load_folder_takes_a_class_called_train(image_folder, tmp_path, others):
    whole = make_folder(tmp_path / "vehicles", image_folder, train=20, **others)
    assert load(GRAY, whole).info.labels == tuple(sorted(["train", *others]))
    make_folder(whole / "train", image_folder, nested=2)
    assert sum(load(GRAY, whole).info.sizes.values()) == 20 + sum(others.values())


def test_load_folder_refuses_names_that_differ_by_blanks(image_folder):
    shutil.copytree(image_folder / "eins", image_folder / "eins ")
    with pytest.raises(DataError, match=r"two folders of .* are called 'eins' but for blanks"):
        load(GRAY, image_folder)


def test_load_folder_warns_of_few_validation_images(image_folder, tmp_path, caplog):
    load(GRAY, image_folder)
    assert "3 validation images are few: an accuracy of 0.9 measured on them is within ±0." in caplog.text
    caplog.clear()
    whole = make_folder(tmp_path / "whole" / "train", image_folder, a=10, b=10).parent
    make_folder(whole / "val", image_folder, a=50, b=50)
    make_folder(whole / "test", image_folder, a=1, b=1)
    load(GRAY, whole)
    assert not caplog.text


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


def test_load_cifar10_of_another_version_fails_without_a_network(tmp_path, monkeypatch):
    (tmp_path / "cifar10" / "2.9.9").mkdir(parents=True)
    (tmp_path / "cifar10" / "2.9.9" / "dataset_info.json").write_text("{}")
    monkeypatch.setattr(sources, "CIFAR10_URL", "https://download.invalid/")
    with pytest.raises(
        DataError, match=r"holds CIFAR-10 2\.9\.9, not 3\.\d\.\d, and the download fails.*--data-dir.*lenet5-digits"
    ):
        load(Data("cifar10"), tmp_path)


def test_check_source_gives_the_number_of_training_images(image_folder, cifar10_dir, lfw279_dir, tiny_recipe, digits):
    assert check_source(Data("folder", channels=1), image_folder) == 29
    assert check_source(tiny_recipe.data, None) == len(digits.train)
    assert check_source(Data("cifar10"), cifar10_dir) == 45_000
    assert check_source(Data("cifar10", only=("horse",)), cifar10_dir) == 4_500
    assert check_source(Data("identities"), lfw279_dir) == 2_042


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
