"""data.json of a run: the same files again, in the same division; what differs is named."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from kerascv_course.config import Data
from kerascv_course.core.errors import DataError, InputError
from kerascv_course.data import check_source, load
from kerascv_course.data.files import find_images
from kerascv_course.data.record import FILE, check_fingerprint, read_record, to_record

CLASSES = Data("folder", image_size=(4, 4), test_share=0.25, validation_share=0.2)
PEOPLE = Data("identities", image_size=(4, 4))


def paint(path, shade=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), (shade, shade, shade)).save(path)


@pytest.fixture
def classes(tmp_path):
    """cat and dog, 20 images each."""
    for number in range(20):
        for offset, name in enumerate(("cat", "dog")):
            paint(tmp_path / "images" / name / f"{number}.png", 100 * offset + number)
    return tmp_path / "images"


@pytest.fixture
def people(tmp_path):
    """Three people to train, two others, three images each."""
    for number, name in enumerate("abcxy"):
        for image in range(3):
            paint(tmp_path / "people" / ("train" if name in "abc" else "val") / name / f"{image}.png", 10 * number + image)
    return tmp_path / "people"


@pytest.fixture
def table(tmp_path):
    """The same in a table, with cameras and queries."""
    rows = ["image,identity,split,camera"]
    for number, name in enumerate("abcxy"):
        for image in range(3):
            paint(tmp_path / "table" / f"{name}{image}.png", 10 * number + image)
            split = "train" if name in "ab" else "validation" if name == "c" else "gallery" if image else "query"
            rows.append(f"{name}{image}.png,{name},{split},{image}")
    (tmp_path / "table" / "identities.csv").write_text("\n".join(rows))
    return tmp_path / "table"


def keep(config, root, folder):
    """Load as a new run does, and keep the record in `folder`."""
    folder.mkdir(exist_ok=True)
    data = load(config, root)
    (folder / FILE).write_text(to_record(data), encoding="utf-8")
    return data


def assert_equal(data, other):
    assert data.info == other.info
    for (_, split), (_, same) in zip(data.items(), other.items(), strict=True):
        for name in ("images", "targets", "cameras", "queries"):
            np.testing.assert_array_equal(getattr(split, name), getattr(same, name))


@pytest.mark.parametrize("kind", ["classes", "people", "table"])
def test_unchanged_data_is_loaded_alike_without_a_word(kind, request, tmp_path, caplog):
    root, config = request.getfixturevalue(kind), CLASSES if kind == "classes" else PEOPLE
    data = keep(config, root, tmp_path / "run")
    record = read_record(tmp_path / "run")
    with caplog.at_level("INFO"):
        again = load(config, root, record)
    assert_equal(again, data)
    assert not [message for message in caplog.messages if "added" in message]
    moved = shutil.copytree(root, tmp_path / "moved" / root.name)
    assert_equal(load(config, moved, record), data)
    assert (again.test is again.validation) == (kind == "people")


@pytest.mark.parametrize("count", [1, 20])
def test_added_images_are_outside_the_division_and_counted(classes, tmp_path, count, caplog):
    data = keep(CLASSES, classes, tmp_path / "run")
    for number in range(count):
        paint(classes / "cat" / f"a{number}.png", 200 + number)
    with caplog.at_level("INFO"):
        assert_equal(load(CLASSES, classes, read_record(tmp_path / "run")), data)
    said = "1 image was" if count == 1 else "20 images were"
    assert f"{classes}: 40 images as in the training; {said} added since, which the run does not use" in caplog.text


def test_added_classes_and_folders_are_outside_the_division(classes, tmp_path, caplog):
    data = keep(CLASSES, classes, tmp_path / "run")
    for name in ("bird", "fish"):
        paint(classes / name / "0.png")
    (classes / "__MACOSX").mkdir()
    paint(classes / "train" / "cat" / "0.png")
    with caplog.at_level("INFO"):
        again = load(CLASSES, classes, read_record(tmp_path / "run"))
    assert_equal(again, data)
    assert "3 images were added since" in caplog.text and again.info.labels == ("cat", "dog")


def test_images_that_were_passed_over_are_not_counted_as_added(classes, tmp_path, caplog):
    paint(classes / "cat" / "inner" / "0.png")
    paint(classes / "bird" / "0.png")
    only = Data("folder", image_size=(4, 4), only=("cat", "dog"))
    keep(only, classes, tmp_path / "run")
    with caplog.at_level("INFO"):
        load(only, classes, read_record(tmp_path / "run"))
    assert "added" not in caplog.text


@pytest.mark.parametrize("kind", ["classes", "people", "table"])
def test_a_missing_image_is_named(kind, request, tmp_path):
    root, config = request.getfixturevalue(kind), CLASSES if kind == "classes" else PEOPLE
    keep(config, root, tmp_path / "run")
    name = {"classes": "cat/3.png", "people": "val/x/1.png", "table": "a1.png"}[kind]
    (root / name).unlink()
    rule = rf"is not the data of the run: 1 of \d\d images is missing \({name}\): give the run's own data with --data-dir"
    with pytest.raises(DataError, match=rule):
        load(config, root, read_record(tmp_path / "run"))


@pytest.mark.parametrize("kind", ["classes", "people", "table"])
def test_images_with_other_content_are_named(kind, request, tmp_path):
    root, config = request.getfixturevalue(kind), CLASSES if kind == "classes" else PEOPLE
    keep(config, root, tmp_path / "run")
    name, other = {
        "classes": ("cat/3.png", "dog/3.png"), "people": ("val/x/1.png", "val/y/1.png"), "table": ("a1.png", "b1.png"),
    }[kind]  # fmt: skip
    shutil.copy(root / other, root / name)
    with pytest.raises(DataError, match=rf"1 of \d\d images is changed \({name}\): .*--other-data"):
        load(config, root, read_record(tmp_path / "run"))


def test_a_renamed_class_is_named_with_its_new_name(classes, tmp_path):
    keep(CLASSES, classes, tmp_path / "run")
    (classes / "cat").rename(classes / "zcat")
    rule = r"20 of 40 images are missing; zcat has files of the names that cat had \(cat/\d+\.png, .* …\): give"
    with pytest.raises(DataError, match=rule):
        load(CLASSES, classes, read_record(tmp_path / "run"))


def test_exchanged_class_names_are_refused(classes, tmp_path):
    keep(CLASSES, classes, tmp_path / "run")
    (classes / "cat").rename(classes / "x")
    (classes / "dog").rename(classes / "cat")
    (classes / "x").rename(classes / "dog")
    with pytest.raises(DataError, match="40 of 40 images are changed"):
        load(CLASSES, classes, read_record(tmp_path / "run"))


def test_other_classes_are_refused(classes, tmp_path):
    keep(CLASSES, classes, tmp_path / "run")
    for name in ("bird", "fish", "horse", "snake"):
        for number in range(100, 104):
            paint(tmp_path / "four" / name / f"{number}.png")
    with pytest.raises(DataError, match=r"40 of 40 images are missing \("):
        load(CLASSES, tmp_path / "four", read_record(tmp_path / "run"))


@pytest.mark.parametrize(
    ("row", "changed"),
    [
        ("a1.png,a,train,1", "a1.png,b,train,1"),
        ("a1.png,a,train,1", "a1.png,a,train,7"),
        ("c1.png,c,validation,1", "c1.png,c,train,1"),
        ("x0.png,x,query,0", "x0.png,x,gallery,0"),
        ("a1.png,a,train,1", ""),
    ],
)
def test_rows_that_changed_in_the_table_are_named(table, tmp_path, row, changed):
    keep(PEOPLE, table, tmp_path / "run")
    path = table / "identities.csv"
    assert row in path.read_text()
    path.write_text(path.read_text().replace(row, changed))
    with pytest.raises(DataError, match=rf"1 of 15 images is listed otherwise in identities\.csv \({row[:6]}\)"):
        load(PEOPLE, table, read_record(tmp_path / "run"))
    path.unlink()
    with pytest.raises(DataError, match=r"identities\.csv, which is missing: give the run's own data"):
        load(PEOPLE, table, read_record(tmp_path / "run"))


def test_rows_added_to_the_table_are_outside_the_division(table, tmp_path, caplog):
    data = keep(PEOPLE, table, tmp_path / "run")
    paint(table / "z0.png")
    path = table / "identities.csv"
    path.write_text(path.read_text() + "\nz0.png,z,train,0\n")
    with caplog.at_level("INFO"):
        assert_equal(load(PEOPLE, table, read_record(tmp_path / "run")), data)
    assert "1 image was added since" in caplog.text


def test_sources_without_files_keep_fingerprint_and_labels(digits, tiny_recipe, tmp_path):
    (tmp_path / FILE).write_text(to_record(digits))
    record = read_record(tmp_path)
    assert (record.fingerprint, record.labels, record.parts) == (digits.info.fingerprint, digits.info.labels, None)
    assert (tmp_path / FILE).stat().st_size < 300
    assert load(tiny_recipe.data, None, record).info == digits.info
    assert read_record(tmp_path / "none") is None


def test_check_fingerprint(digits, tmp_path, caplog):
    check_fingerprint(tmp_path, digits.info, digits.info.fingerprint, files=False)
    with pytest.raises(DataError, match=r"was made with other data \(sha256:0; now sha256:1583.*: give the run's own data"):
        check_fingerprint(tmp_path, digits.info, "sha256:0", files=False)
    check_fingerprint(tmp_path, digits.info, "sha256:0", files=True)
    assert "other pixels are read from them here" in caplog.text


def test_copies_in_two_splits_or_classes_are_warned_of(classes, tmp_path, caplog):
    keep(CLASSES, classes, tmp_path / "run")
    assert "copies" not in caplog.text
    for split in ("train", "val", "test"):
        shutil.copytree(classes, tmp_path / "divided" / split)
    for path in (tmp_path / "divided").glob("val/*/*.png"):
        paint(path, 200 + int(path.stem) % 20)
    for path in (tmp_path / "divided").glob("test/*/[!7].png"):
        paint(path, 220 + int(path.stem))
    for path in (tmp_path / "divided").glob("test/*/1?.png"):
        paint(path, 230 + int(path.stem))
    keep(CLASSES, tmp_path / "divided", tmp_path / "run")
    assert (
        "2 images stand in more than one split, as copies of equal content (train/cat/7.png and test/cat/7.png …)"
        in caplog.text
    )
    assert re.search(r"\d+ images stand in more than one class, .*\(val/cat/0.png and val/dog/0.png …\)", caplog.text)


def test_a_damaged_record_is_named(classes, tmp_path):
    keep(CLASSES, classes, tmp_path)
    good = json.loads((tmp_path / FILE).read_text())
    assert good["parts"]["test"]["paths"][0].startswith("cat/") and len(good["parts"]["test"]["sha256"][0]) == 16
    for change in ({"labels": None}, {"parts": {"train": {}}}, {"parts": {"train": {**good["parts"]["train"], "targets": [0]}}},
                   {"parts": {"train": {"paths": ["../x"], "targets": [0], "sha256": [""]}}}):  # fmt: skip
        (tmp_path / FILE).write_text(json.dumps({**good, **change}))
        with pytest.raises(InputError, match=r"data\.json is damaged"):
            read_record(tmp_path)
    (tmp_path / FILE).write_text("{")
    with pytest.raises(InputError, match=r"data\.json is damaged"):
        read_record(tmp_path)


def test_check_source_of_a_resumed_run_takes_the_number_from_its_record(classes, tmp_path):
    data = keep(CLASSES, classes, tmp_path)
    (classes / "empty").mkdir()
    assert check_source(CLASSES, classes, read_record(tmp_path)) == len(data.train)


def test_names_that_are_not_utf8(classes, tmp_path):
    name = b"\xff.png".decode("utf-8", "surrogateescape")
    paint(classes / "cat" / name, 77)
    data = keep(CLASSES, classes, tmp_path)
    assert_equal(load(CLASSES, classes, read_record(tmp_path)), data)


def test_find_images_follows_links_but_not_in_circles(classes, tmp_path):
    (classes / "round").symlink_to(classes)
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "all").symlink_to(classes)
    (classes / ".hidden").mkdir()
    paint(classes / ".hidden" / "0.png")
    assert len(find_images(classes)) == 40
    assert len(find_images(tmp_path / "linked")) == 40
