"""Identity images from folders, Market-1501 file names and tables; splits by identity."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from kerascv_course.config import Data
from kerascv_course.core.errors import InputError
from kerascv_course.core.retrieval_metrics import evaluate, make_protocol
from kerascv_course.data import load

CONFIG = Data("identities", image_size=(4, 4))


def paint(path, shade=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), (shade, shade, shade)).save(path)
    return path


@pytest.fixture
def folders(tmp_path):
    """Eight identities with three images each."""
    for identity in range(8):
        for number in range(3):
            paint(tmp_path / f"p{identity}" / f"{number}.png", 10 * identity + number)
    return tmp_path


def test_load_identities_splits_by_identity(folders):
    splits = load(Data("identities", image_size=(4, 4), validation_share=0.2, test_share=0.25), folders)
    info = splits.info
    groups = [set(split.targets.tolist()) for _, split in splits.items()]
    assert [len(group) for group in groups] == [5, 1, 2] and len(set.union(*groups)) == 8
    assert set(splits.train.targets) == set(range(5))
    for _, split in splits.items():
        for image, target in zip(split.images, split.targets, strict=True):
            assert info.labels[target] == f"p{image[0, 0, 0] // 10}"
    again = load(Data("identities", image_size=(4, 4), validation_share=0.2, test_share=0.25), folders)
    np.testing.assert_array_equal(again.test.images, splits.test.images)


def test_load_identities_with_named_splits_and_no_test_split(tmp_path):
    for split, names in (("train", "abc"), ("val", "xy")):
        for name in names:
            paint(tmp_path / split / name / "1.png")
    splits = load(CONFIG, tmp_path)
    info = splits.info
    assert info.labels == ("a", "b", "c", "x", "y")
    assert splits.validation.targets.tolist() == [3, 4] and splits.test is splits.validation
    paint(tmp_path / "val" / "b" / "1.png")
    with pytest.raises(InputError, match="train and validation must not share identities; 'b' is in both"):
        load(CONFIG, tmp_path)


def test_load_identities_from_market_1501(tmp_path):
    for name in ("bounding_box_train/0002_c1s1_000451_03.jpg", "bounding_box_train/0002_c2s1_1_01.jpg"):
        paint(tmp_path / name)
    for number in (7, 9, 11):
        paint(tmp_path / f"bounding_box_train/{number:04d}_c3s1_1_01.jpg")
    for name in ("query/0001_c1s1_1_00.jpg", "bounding_box_test/0001_c2s1_1_00.jpg"):
        paint(tmp_path / name)
    for name in ("bounding_box_test/-1_c4s1_1_00.jpg", "bounding_box_test/0000_c5s1_1_00.jpg"):
        paint(tmp_path / name)
    splits = load(CONFIG, tmp_path)
    info = splits.info
    assert len(info.labels) == 5 and len(set(splits.train.targets)) == 3 and len(splits.validation) in (1, 2)
    test = splits.test
    found = {
        (info.labels[target] if target >= 0 else int(target), int(camera), bool(query))
        for target, camera, query in zip(test.targets, test.cameras, test.queries, strict=True)
    }
    assert found == {("0001", 1, True), ("0001", 2, False), (-1, 4, False), (-2, 5, False)}
    protocol = make_protocol("query-gallery", test.targets, cameras=test.cameras, is_query=test.queries)
    places = np.array([{(1, 1): 0, (1, 2): 3, (-1, 4): 1, (-2, 5): 2}.get((1 if t >= 0 else t, c)) for t, c in
                       zip(test.targets.tolist(), test.cameras.tolist(), strict=True)], np.float32)  # fmt: skip
    report = evaluate(places[:, None], test.targets, protocol)
    assert (report.mean_ap, report.gallery) == (0.5, 2)  # the distractor is nearer, junk is ignored
    paint(tmp_path / "query/odd.jpg")
    with pytest.raises(InputError, match=r"file names look like 0002_c1s1.*odd.jpg"):
        load(CONFIG, tmp_path)


@pytest.fixture
def table(tmp_path):
    for name in "abcdef":
        paint(tmp_path / f"{name}.png")

    def write(*lines, header="image,identity,split"):
        (tmp_path / "identities.csv").write_text("\n".join([header, *lines]) + "\n")
        return tmp_path

    return write


def test_load_identities_from_a_table(table):
    folder = table("a.png,Ann,train", "b.png,Bob,train", "c.png,Cy,validation", "d.png,Dee,query", "e.png,Dee,gallery")
    splits = load(CONFIG, folder)
    info = splits.info
    assert info.labels == ("Ann", "Bob", "Cy", "Dee")
    assert splits.test.queries.tolist() == [True, False] and splits.test.cameras is None
    assert splits.train.queries is None
    only = Data("identities", image_size=(4, 4), only=("Ann", "Bob", "Cy"))
    assert load(only, folder).info.labels == ("Ann", "Bob", "Cy")


def test_tables_written_on_windows_have_its_separators(table, tmp_path):
    paint(tmp_path / "photos" / "g.png")
    folder = table("photos\\g.png,Ann,train", "b.png,Bob,train", "c.png,Cy,validation")
    assert load(CONFIG, folder).files.parts["train"].paths[0] == folder / "photos" / "g.png"


@pytest.mark.parametrize(
    ("lines", "rule"),
    [
        (["..\\a.png,Ann,train"], "line 2: image must be a file below the folder"),
        (["../a.png,Ann,train"], "line 2: image must be a file below the folder"),
        (["a.png,,train"], "line 2: a.png has no identity"),
        (["a.png,Ann,trainig"], "split must be one of train, validation.*received 'trainig'"),
        (["a.png,Ann,train", "b.png,Bob,"], "must give split for all images or for none; line 3"),
        (["a.png,Ann,train", "b.png,Bob,validation"], "training needs two or more identities; the training split has 1"),
        (["a.png,Ann,train", "b.png,Bob,train", "z.png,Cy,validation"], "1 of 3 images are unusable.*z.png"),
        (["a.png,Ann,train", "b.png,Bob,train", "./a.png,Ann,train"], "line 4: ./a.png stands in line 2 already: remove one"),
        (
            ["a.png,Ann,train", "a.png,Bob,train"],
            "line 3: a.png has the identity 'Bob', and 'Ann' in line 2: keep the right one",
        ),
        (["a.png,Ann,train", "", "b.png,Bob,"], "must give split for all images or for none; line 4"),
        (["a.png,Ann,train,x"], "line 2: 4 values for 3 columns: put names with commas in quotes"),
        ([], "at least one row"),
    ],
)
def test_load_identities_rejects_bad_tables(table, lines, rule):
    with pytest.raises(InputError, match=rule):
        load(CONFIG, table(*lines))


def test_load_identities_rejects_bad_folders(tmp_path, folders):
    with pytest.raises(InputError, match="give --data-dir FOLDER with one folder per identity"):
        load(CONFIG, None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no images in"):
        load(CONFIG, tmp_path / "empty")
    with pytest.raises(InputError, match=r"needs an image that can be read.*none in empty \(empty\): remove the folder"):
        load(CONFIG, folders)
    (tmp_path / "empty").rmdir()
    (folders / "p3" / "1.png").write_bytes(b"not an image")
    with pytest.raises(InputError, match=r"1 of .* images are unusable.*p3/1.png"):
        load(CONFIG, folders)
    with pytest.raises(InputError, match="unknown identity 'p33'; did you mean 'p3'"):
        load(Data("identities", image_size=(4, 4), only=("p33",)), folders)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_load_identities_from_tables_of_other_programs(table, caplog, separator):
    rows = ["a.png, p1 ,training,0.0", "b.png,p1,Train,1.0", " c.png,p2,TRAIN,2", "d.png,p3,val,3", "e.png,p4,Query,0", ",,,"]
    rows.append("f.png,p4 ,gallery,1")
    folder = table(
        *(row.replace(",", separator) for row in rows), header=" Image,IDENTITY,Split,Camera".replace(",", separator)
    )
    (folder / "more").mkdir()
    paint(folder / "more" / "g.png")
    (folder / "more" / "notes.txt").write_text("")
    with caplog.at_level("INFO"):
        splits = load(CONFIG, folder)
    assert splits.info.labels == ("p1", "p2", "p3", "p4") and splits.train.targets.tolist() == [0, 0, 1]
    assert splits.train.cameras.tolist() == [0, 1, 2] and splits.test.queries.tolist() == [True, False]
    assert "6 images; passed over: 1 .txt, 1 image that identities.csv does not list" in caplog.text


@pytest.mark.parametrize(
    ("header", "row", "rule"),
    [
        ("image,identity,camera", "a.png,Ann,c1", "camera must be an integer; received 'c1'"),
        ("image,identity,camera", "a.png,Ann,1.5", "camera must be an integer"),
        ("image,identity,camera", "a.png,Ann,nan", "camera must be an integer"),
        ("image,identity,Identity", "a.png,Ann,Bob", "has the column identity 2 times: keep one"),
        ("file,identity", "a.png,Ann", r"must have the columns image and identity.*received \['file', 'identity'\]"),
    ],
)
def test_load_identities_rejects_bad_columns(table, header, row, rule):
    with pytest.raises(InputError, match=rule):
        load(CONFIG, table(row, header=header))


def test_load_identities_counts_what_market_1501_folders_hold(tmp_path, caplog):
    for number in range(2, 9):
        paint(tmp_path / f"bounding_box_train/{number:04d}_c3s1_1_01.jpg")
    for name in ("query/0001_c1s1_1_00.jpg", "query/-1_c1s1_1_00.jpg", "bounding_box_test/0001_c2s1_1_00.jpg"):
        paint(tmp_path / name)
    for folder in ("query", "bounding_box_test", "bounding_box_train"):
        (tmp_path / folder / "Thumbs.db").write_text("")
    with caplog.at_level("INFO"):
        load(CONFIG, tmp_path)
    assert "9 images; passed over: 3 .db, 1 image of junk or a distractor outside the gallery" in caplog.text


def test_load_identities_understands_split_names(tmp_path):
    for split, names in (("Training", "abc"), ("dev", "x"), ("TEST", "yz")):
        for name in names:
            paint(tmp_path / split / name / "1.png")
    assert load(CONFIG, tmp_path).info.sizes == {"train": 3, "validation": 1, "test": 2}


def test_load_identities_says_how_many_identities_it_needs(tmp_path):
    config = Data("identities", image_size=(4, 4), validation_share=0.1, test_share=0.2)
    for number in range(3):
        paint(tmp_path / f"p{number}" / "1.png")
    rule = "--data.test-share 0.2 and --data.validation-share 0.1 of 3 leaves fewer: 4 are needed"
    with pytest.raises(InputError, match=rule):
        load(config, tmp_path)
    paint(tmp_path / "p3" / "1.png")
    assert load(config, tmp_path).info.sizes == {"train": 2, "validation": 1, "test": 1}
