"""Other data to measure a run on: what is measured, what is left out."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image

from kerascv_course.config import Data
from kerascv_course.core.errors import DataError
from kerascv_course.data import load
from kerascv_course.data.other import load_other
from kerascv_course.data.record import FILE, read_record, to_record

CLASSES = Data("folder", image_size=(4, 4), test_share=0.25, validation_share=0.2)
LABELS = ("cat", "dog")


def paint(path, shade=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), (shade, shade, shade)).save(path)


@pytest.fixture
def pets(tmp_path):
    """A record of cat and dog, 20 images each, and their folder."""
    for number in range(20):
        for offset, name in enumerate(LABELS):
            paint(tmp_path / "pets" / name / f"{number}.png", 100 * offset + number)
    (tmp_path / FILE).write_text(to_record(load(CLASSES, tmp_path / "pets")))
    return read_record(tmp_path), tmp_path / "pets"


def test_the_data_of_the_run_gives_its_test_split_and_what_was_added(pets, caplog):
    record, root = pets
    paint(root / "dog" / "new.png", 222)
    with caplog.at_level("INFO"):
        other = load_other(CLASSES, root, LABELS, record)
    assert other.info.sizes == {"test": 11} and not len(other.train) and [name for name, _ in other.items()] == ["test"]
    expected = sorted([*load(CLASSES, root, record).test.images[:, 0, 0, 0].tolist(), 222])
    assert sorted(other.test.images[:, 0, 0, 0].tolist()) == expected
    said = f"measured on 11 images of {root}; left out: 30 images that the run was trained or validated on"
    assert f"other data than the run's: {said}" in caplog.messages and "41 images" in caplog.messages


@pytest.mark.parametrize("split", ["test", "Validation", "training"])
def test_the_test_images_of_other_data_with_the_classes_of_the_run(pets, tmp_path, caplog, split):
    record, _ = pets
    for number, name in enumerate(("ant", "dog", "zebra")):
        for image in range(number + 1):
            paint(tmp_path / "other" / split / name / f"{image}.png", 200 + 10 * number + image)
            paint(tmp_path / "other" / "train" / name / f"{image}.png", 200 + 10 * number + image)
    if split == "training":
        shutil.rmtree(tmp_path / "other" / "train")
    with caplog.at_level("INFO"):
        other = load_other(CLASSES, tmp_path / "other", LABELS, record)
    assert other.info.labels == LABELS and other.test.targets.tolist() == [1, 1]
    assert other.test.images[:, 0, 0, 0].tolist() == [210, 211]
    assert (
        "measured on 2 images" in caplog.text
        and "left out: 4 images of classes that the run does not have (ant, zebra)" in caplog.text
    )


def test_nothing_to_measure_is_refused(pets, tmp_path):
    record, _ = pets
    for name in ("zcat", "zdog"):
        paint(tmp_path / "other" / name / "0.png", 200)
    rule = r"has no image to measure the run on; left out: 2 images of classes that the run does not have \(zcat, zdog\)"
    with pytest.raises(DataError, match=rule):
        load_other(CLASSES, tmp_path / "other", LABELS, record)
    with pytest.raises(DataError, match="give --data-dir FOLDER"):
        load_other(CLASSES, None, LABELS, record)


def test_a_run_without_a_record_leaves_out_other_classes_only(pets, caplog):
    _, root = pets
    (root / "cat").rename(root / "zcat")
    with caplog.at_level("INFO"):
        assert load_other(CLASSES, root, LABELS, None).test.targets.tolist() == [1] * 20
    assert "left out: 20 images of classes that the run does not have (zcat)" in caplog.text


def test_tasks_without_classes_take_any(pets, tmp_path, caplog):
    record, _ = pets
    paint(tmp_path / "other" / "anything" / "0.png", 200)
    with caplog.at_level("INFO"):
        other = load_other(CLASSES, tmp_path / "other", None, record)
    assert other.info.labels == ("anything",) and len(other.test) == 1
    assert "nothing is left out" in caplog.text


@pytest.mark.parametrize(("splits", "measured"), [("train,val,test", "c"), ("train,val", "bc"), ("test", "abc"), ("", "abc")])
def test_identities_that_are_measured(tmp_path, splits, measured):
    names = splits.split(",")
    for number, name in enumerate("abc"):
        for image in range(2):
            paint(tmp_path / names[min(number, len(names) - 1)] / name / f"{image}.png", 10 * number + image)
    other = load_other(Data("identities", image_size=(4, 4)), tmp_path, None, None)
    assert (
        other.info.labels == tuple(measured) and other.test.targets.tolist() == np.repeat(np.arange(len(measured)), 2).tolist()
    )


def test_sources_without_files_give_their_test_split(tiny_recipe, digits, caplog):
    with caplog.at_level("INFO"):
        other = load_other(tiny_recipe.data, None, digits.info.labels, None)
    np.testing.assert_array_equal(other.test.images, digits.test.images)
    assert "its 359 test images are measured" in caplog.text
    with pytest.raises(DataError, match=r"the classes of digits are 0, 1, 2, .*, not those of the run: a, b"):
        load_other(tiny_recipe.data, None, ("a", "b"), None)
