"""Pictures of identities from folders, Market-1501's names and tables; splits by identity; PK sampling."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from kerascv_course.config import Augmentation, Data
from kerascv_course.core.errors import InputError
from kerascv_course.data import load

CONFIG = Data("identities", image_size=(4, 4))


def paint(path, shade=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), (shade, shade, shade)).save(path)
    return path


@pytest.fixture
def folders(tmp_path):
    """Eight identities with three pictures each."""
    for identity in range(8):
        for number in range(3):
            paint(tmp_path / f"p{identity}" / f"{number}.png", 10 * identity + number)
    return tmp_path


def test_identities_are_divided_whole(folders):
    splits, info = load(Data("identities", image_size=(4, 4), validation_share=0.2, test_share=0.25), folders)
    groups = [set(split.targets.tolist()) for _, split in splits.items()]
    assert [len(group) for group in groups] == [5, 1, 2] and len(set.union(*groups)) == 8
    assert set(splits.train.targets) == set(range(5))
    for _, split in splits.items():
        for image, target in zip(split.images, split.targets, strict=True):
            assert info.labels[target] == f"p{image[0, 0, 0] // 10}"
    again, _ = load(Data("identities", image_size=(4, 4), validation_share=0.2, test_share=0.25), folders)
    np.testing.assert_array_equal(again.test.images, splits.test.images)


def test_named_splits_and_no_test(tmp_path):
    for split, names in (("train", "abc"), ("val", "xy")):
        for name in names:
            paint(tmp_path / split / name / "1.png")
    splits, info = load(CONFIG, tmp_path)
    assert info.labels == ("a", "b", "c", "x", "y")
    assert splits.validation.targets.tolist() == [3, 4] and splits.test is splits.validation
    paint(tmp_path / "val" / "b" / "1.png")
    with pytest.raises(InputError, match=r"no identity is in train and validation both.*'b' is"):
        load(CONFIG, tmp_path)


def test_market_1501(tmp_path):
    for name in ("bounding_box_train/0002_c1s1_000451_03.jpg", "bounding_box_train/0002_c2s1_1_01.jpg"):
        paint(tmp_path / name)
    for number in (7, 9, 11):
        paint(tmp_path / f"bounding_box_train/{number:04d}_c3s1_1_01.jpg")
    for name in ("query/0001_c1s1_1_00.jpg", "bounding_box_test/0001_c2s1_1_00.jpg"):
        paint(tmp_path / name)
    for name in ("bounding_box_test/-1_c4s1_1_00.jpg", "bounding_box_test/0000_c5s1_1_00.jpg"):
        paint(tmp_path / name)
    splits, info = load(CONFIG, tmp_path)
    assert len(info.labels) == 5 and len(set(splits.train.targets)) == 3 and len(splits.validation) in (1, 2)
    test = splits.test
    found = {
        (info.labels[target] if target >= 0 else int(target), int(camera), bool(query))
        for target, camera, query in zip(test.targets, test.cameras, test.queries, strict=True)
    }
    assert found == {("0001", 1, True), ("0001", 2, False), (-1, 4, False), (-2, 5, False)}
    from kerascv_course.core.protocols import make_protocol
    from kerascv_course.core.retrieval_metrics import evaluate

    protocol = make_protocol("query-gallery", test.targets, cameras=test.cameras, is_query=test.queries)
    places = np.array([{(1, 1): 0, (1, 2): 3, (-1, 4): 1, (-2, 5): 2}.get((1 if t >= 0 else t, c)) for t, c in
                       zip(test.targets.tolist(), test.cameras.tolist(), strict=True)], np.float32)  # fmt: skip
    report = evaluate(places[:, None], test.targets, protocol)
    assert (report.mean_ap, report.gallery) == (0.5, 2)  # the distractor is nearer, junk does not count
    paint(tmp_path / "query/odd.jpg")
    with pytest.raises(InputError, match=r"names its pictures like 0002_c1s1.*odd.jpg"):
        load(CONFIG, tmp_path)


@pytest.fixture
def table(tmp_path):
    for name in "abcdef":
        paint(tmp_path / f"{name}.png")

    def write(*lines, header="image,identity,split"):
        (tmp_path / "identities.csv").write_text("\n".join([header, *lines]) + "\n")
        return tmp_path

    return write


def test_a_table(table):
    folder = table("a.png,Ann,train", "b.png,Bob,train", "c.png,Cy,validation", "d.png,Dee,query", "e.png,Dee,gallery")
    splits, info = load(CONFIG, folder)
    assert info.labels == ("Ann", "Bob", "Cy", "Dee")
    assert splits.test.queries.tolist() == [True, False] and splits.test.cameras is None
    assert splits.train.queries is None
    only = Data("identities", image_size=(4, 4), only=("Ann", "Bob", "Cy"))
    assert load(only, folder)[1].labels == ("Ann", "Bob", "Cy")


@pytest.mark.parametrize(
    ("lines", "rule"),
    [
        (["../a.png,Ann,train"], "line 2: image is a file below the folder"),
        (["a.png,,train"], "line 2: a.png has no identity"),
        (["a.png,Ann,training"], "split is one of train, validation.*received 'training'"),
        (["a.png,Ann,train", "b.png,Bob,"], "states split for every picture or for none; line 3"),
        (["a.png,Ann,train", "b.png,Bob,validation"], "two identities or more are learnt from; the training split has 1"),
        (["a.png,Ann,train", "b.png,Bob,train", "z.png,Cy,validation"], "1 of 1 pictures cannot be used.*z.png"),
        ([], "one row or more"),
    ],
)
def test_bad_tables(table, lines, rule):
    with pytest.raises(InputError, match=rule):
        load(CONFIG, table(*lines))


def test_bad_folders(tmp_path, folders):
    with pytest.raises(InputError, match="give --data-dir FOLDER with one folder an identity"):
        load(CONFIG, None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no pictures in"):
        load(CONFIG, tmp_path / "empty")
    (folders / "p3" / "1.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"1 of .* pictures cannot be used.*p3/1.png"):
        load(CONFIG, folders)
    with pytest.raises(InputError, match="unknown identity 'p33'; did you mean 'p3'"):
        load(Data("identities", image_size=(4, 4), only=("p33",)), folders)


# --- PK sampling ------------------------------------------------------------------------------------------------------


def batches(targets, identities, images, steps, seed=0, first=0):
    import tensorflow as tf

    from kerascv_course.tasks.retrieval.sampling import pk_order

    order = tf.function(pk_order(np.asarray(targets), identities, images, seed))
    return [order(tf.constant(step, tf.int64)).numpy() for step in range(first, first + steps)]


def test_pk_batches_starve_nobody():
    sizes = [2, 3, 9, 4, 1, 5, 6]  # the fifth has a single image and no positive
    targets = np.repeat(np.arange(7), sizes)
    drawn = batches(targets, 4, 3, steps=12)  # a round of six identities takes two batches
    seen = np.zeros(7, int)
    for number, batch in enumerate(drawn):
        groups = targets[batch].reshape(4, 3)
        assert (groups == groups[:, :1]).all() and len(set(groups[:, 0])) == 4
        for group in batch.reshape(4, 3):
            assert len(set(group)) == min(3, sizes[targets[group[0]]])
        seen += np.isin(np.arange(7), groups)
        if number % 2:
            done = number // 2 + 1
            assert seen[4] == 0 and (np.delete(seen, 4) >= done).all() and seen.sum() == 8 * done
    assert set(np.concatenate(drawn)) == set(range(len(targets))) - {int(np.flatnonzero(targets == 4)[0])}
    assert len({tuple(batch) for batch in drawn}) == 12


def test_pk_batches_depend_on_seed_and_step_alone():
    targets = np.repeat(np.arange(5), 4)
    whole = batches(targets, 3, 2, steps=6)
    for one, other in zip(whole[4:], batches(targets, 3, 2, steps=2, first=4), strict=True):
        np.testing.assert_array_equal(one, other)
    assert any((one != other).any() for one, other in zip(whole, batches(targets, 3, 2, steps=6, seed=1), strict=True))


def test_the_stream_goes_on_where_it_stopped():
    import dataclasses

    import tensorflow as tf

    from kerascv_course.data.pipeline import training_batches
    from kerascv_course.data.splits import Split
    from kerascv_course.recipes import get_recipe
    from kerascv_course.tasks.retrieval.sampling import pk_order

    rng = np.random.default_rng(0)
    train = Split(rng.integers(0, 256, (20, 8, 8, 3), np.uint8), np.repeat(np.arange(5), 4))
    augmentation = Augmentation(flip=True, translate=1, erase=0.5)
    recipe = dataclasses.replace(get_recipe("tdt4265-base"), batch_size=6, augmentation=augmentation)
    order = pk_order(train.targets, 3, 2, recipe.seed)
    tf.random.set_seed(1)
    whole = list(training_batches(train, recipe, order=order).take(5))
    for one, other in zip(whole[3:], training_batches(train, recipe, order=order, first_step=3).take(2), strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)
    assert all((targets.numpy().reshape(3, 2)[:, 0] == targets.numpy().reshape(3, 2)[:, 1]).all() for _, targets in whole)


@pytest.mark.parametrize(
    ("identities", "images", "rule"),
    [
        (4, 2, "a batch has 4 identities with two images or more; the training split has 3 .and 1 with a single one"),
        (2, 5, "5 images of each identity; the largest has 4"),
        (2, 1, "two identities or more with two images or more each; received 2 and 1"),
    ],
)
def test_batches_that_cannot_be(identities, images, rule):
    with pytest.raises(InputError, match=rule):
        batches([0, 0, 1, 1, 1, 1, 2, 2, 3], identities, images, 1)
