"""Image files that are kept in memory, in a temporary file, or read when they are asked for."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from PIL import Image

from kerascv_course.config import Augmentation, Data
from kerascv_course.core.errors import DataError
from kerascv_course.data import load, stored
from kerascv_course.data.splits import Split
from kerascv_course.data.stored import StoredImages, open_images

CACHES = ("memory", "disk", "none")
CONFIG = Data("folder", image_size=(6, 5), test_share=0.25, validation_share=0.25)


@pytest.fixture
def folder(tmp_path):
    """Two classes of 20 images, JPEG and PNG, of other sizes than the recipe's."""
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(20):
            suffix = ("png", "jpg")[i % 2]
            Image.fromarray(rng.integers(0, 256, (9, 8 + i % 3, 3), np.uint8)).save(tmp_path / name / f"{i:02}.{suffix}")
    return tmp_path


def with_cache(cache, **changes):
    return dataclasses.replace(CONFIG, cache=cache, **changes)


def opened(folder, cache):
    paths = sorted(folder.glob("*/*"))
    images = open_images({"train": paths}, with_cache(cache))["train"]
    if isinstance(images, StoredImages):
        list(images.scan())
    return images


@pytest.mark.parametrize("cache", ["disk", "none"])
def test_stored_images_are_those_in_memory(folder, cache):
    kept, stored = load(with_cache("memory"), folder), load(with_cache(cache), folder)
    assert stored.info == kept.info, "the fingerprint too"
    for (_, split), (_, memory) in zip(stored.items(), kept.items(), strict=True):
        assert isinstance(split.images, StoredImages) and isinstance(memory.images, np.ndarray)
        assert (np.asarray(split.images) == memory.images).all()
        assert (split.targets == memory.targets).all()


@pytest.mark.parametrize("cache", ["disk", "none"])
def test_stored_images_take_the_indices_of_arrays(folder, cache):
    array, stored = opened(folder, "memory"), opened(folder, cache)
    assert (stored.shape, stored.dtype, stored.ndim, len(stored)) == (array.shape, array.dtype, array.ndim, len(array))
    wanted = [
        3,
        -1,
        slice(4, 30, 7),
        np.array([5, 0, 5]),
        np.array([[1, 2], [3, 4]]),
        np.arange(40) % 3 == 0,
        np.array([], int),
    ]
    wanted += [(2, slice(1, 3)), (slice(0, 9), slice(2), slice(3)), (np.array([7, 8]), ..., 0)]
    for index in wanted:
        assert np.array_equal(stored[index], array[index]), index
    assert np.array_equal(list(stored), array)
    part = stored.take(np.array([9, 2, 4]))
    assert isinstance(part, StoredImages) and np.array_equal(part[1:], array[[2, 4]])
    split = Split(stored, np.arange(40)).take(np.array([7, 3]))
    assert isinstance(split.images, StoredImages) and np.array_equal(split.images, array[[7, 3]])


def test_auto_keeps_small_data_in_memory(folder, monkeypatch):
    paths = sorted(folder.glob("*/*"))
    assert isinstance(open_images({"train": paths}, CONFIG)["train"], np.ndarray)
    monkeypatch.setattr(stored, "MEMORY", 40 * 6 * 5 * 3 - 1)
    assert isinstance(open_images({"train": paths}, CONFIG)["train"], StoredImages)


@pytest.mark.parametrize("cache", CACHES)
def test_damaged_files_are_counted_and_named_in_all_splits(folder, cache):
    for path in [*sorted(folder.glob("cat/*"))[:3], *sorted(folder.glob("dog/*"))[:9]]:
        path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DataError, match=r"12 of 40 images are unusable") as error:
        load(with_cache(cache), folder)
    assert str(error.value).count("0") > 10 and str(error.value).count(";") == 10, "ten are named"


def test_an_image_that_changes_is_refused(folder):
    images = opened(folder, "none")
    path = sorted(folder.glob("*/*"))[4]
    Image.new("RGB", (9, 9), "red").save(path)
    with pytest.raises(DataError, match=r"04\.png has changed since it was first read: start again"):
        images[np.array([4])]
    assert images[np.array([3, 5])].any()


def test_a_file_that_keeps_the_images_does_not_need_the_folder(folder):
    images, before = opened(folder, "disk"), opened(folder, "memory")
    for path in folder.glob("*/*"):
        path.unlink()
    assert np.array_equal(images, before)


def test_disk_without_room_is_refused(folder, monkeypatch):
    monkeypatch.setattr(stored.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10}))
    with pytest.raises(DataError, match=r"keeps 0\.0 GB in .*TMPDIR.*--data\.cache none"):
        opened(folder, "disk")


@pytest.mark.parametrize("cache", ["disk", "none"])
@pytest.mark.parametrize("augmentation", [Augmentation(), Augmentation(flip=True, translate=1)], ids=["plain", "augmented"])
def test_batches_of_stored_images_are_those_of_arrays(folder, cache, augmentation):
    pytest.importorskip("tensorflow")
    from kerascv_course.data.pipeline import evaluation_batches, training_batches
    from kerascv_course.recipes import get_recipe

    recipe = dataclasses.replace(get_recipe("folder-classify"), batch_size=6, augmentation=augmentation, model_options={})
    array, stored = (Split(opened(folder, one), np.arange(40)) for one in ("memory", cache))
    for make in (lambda split: training_batches(split, recipe, first_step=2), lambda split: evaluation_batches(split, 7)):
        ours, theirs = (itertools.islice(make(split), 15) for split in (stored, array))
        for (images, targets), (expected, same) in zip(ours, theirs, strict=True):
            assert images.shape[1:] == expected.shape[1:] and np.array_equal(images, expected)
            assert np.array_equal(targets, same)


def test_an_image_that_changes_while_batches_are_read_is_named(folder):
    pytest.importorskip("tensorflow")
    from kerascv_course.data.pipeline import evaluation_batches, reading

    split = Split(opened(folder, "none"), np.arange(40))
    sorted(folder.glob("*/*"))[4].unlink()
    with pytest.raises(DataError, match=r"no such image: .*04\.png"), reading():
        list(evaluation_batches(split, 8))


@pytest.mark.parametrize("kind, cache", [("identity", "none"), ("color", "disk")])
def test_a_run_of_stored_images_is_that_of_images_in_memory(kind, cache, request, tmp_path):
    """Weights, history, metrics, gate and figures: of identities, and of colors, whose targets are pixels."""
    pytest.importorskip("tensorflow")
    from kerascv_course.experiment import Experiment, Options

    recipe, whole = request.getfixturevalue(f"{kind}_recipe"), request.getfixturevalue(f"{kind}_run")
    recipe = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, cache=cache))
    options = Options(data_dir=request.getfixturevalue({"identity": "people", "color": "color_images"}[kind]))
    run = Experiment(recipe, tmp_path / "run", options).run().folder

    def rows(folder):
        return [line.split(",")[:-1] for line in (folder / "history.csv").read_text().splitlines()]  # without the seconds

    assert rows(run) == rows(whole)
    with np.load(run / "last.npz") as ours, np.load(whole / "last.npz") as theirs:
        assert all(np.array_equal(ours[name], theirs[name]) for name in ours.files if name.startswith("variable_"))
    ours, theirs = run.read_json("metrics.json"), whole.read_json("metrics.json")
    for name in ("train", "validation", "test", "baselines", "data"):
        assert ours[name] == theirs[name], name
    assert run.read_json("parity.json")["ok"] and run.read_json("parity.json")["images"] == theirs["data"]["sizes"]["test"]
    assert sorted(path.name for path in (run / "plots").iterdir()) == sorted(path.name for path in (whole / "plots").iterdir())


def test_scenes_of_stored_images_are_those_in_memory(folder, tmp_path_factory, monkeypatch):
    pytest.importorskip("tensorflow")
    from kerascv_course.recipes import get_recipe
    from kerascv_course.tasks.scenes.task import SceneTask

    recipe = get_recipe("ntu-tiny-knn")
    recipe = dataclasses.replace(recipe, scenes=dataclasses.replace(recipe.scenes, k=3))
    results = []
    for cache in ("memory", "none"):
        kept = tmp_path_factory.mktemp(cache)
        monkeypatch.setenv("KERASCV_COURSE_CACHE", str(kept))
        data = load(with_cache(cache, image_size=(20, 20), channels=1), folder)
        model, history, _ = SceneTask(recipe).fit(data)
        answers = SceneTask(recipe).predict(model, data.test).tolist()
        results.append((history[0]["val_accuracy"], answers, sorted(path.name for path in kept.rglob("*.npz"))))
    assert results[0] == results[1]


def test_a_resumed_run_may_keep_its_images_elsewhere(identity_recipe):
    from kerascv_course.config import check_resumed

    check_resumed(
        identity_recipe, dataclasses.replace(identity_recipe, data=dataclasses.replace(identity_recipe.data, cache="none"))
    )
