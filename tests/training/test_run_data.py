"""Data that has changed since a run was trained on it: nothing is relabelled, nothing of the training is tested on."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest
from PIL import Image

from kerascv_course.config import Data
from kerascv_course.core.errors import DataError, InputError
from kerascv_course.experiment import Experiment, Options
from kerascv_course.training.run_dir import Run


@pytest.fixture(scope="module")
def trained(tiny_recipe, digits, tmp_path_factory):
    """A run on 60 images of cat (zeros) and 60 of dog (ones), exported, and the folder of the images; tests must not change them."""
    root = tmp_path_factory.mktemp("pets")
    for target, name in enumerate(("cat", "dog")):
        (root / "data" / name).mkdir(parents=True)
        for number in np.flatnonzero(digits.train.targets == target)[:60]:
            Image.fromarray(digits.train.images[number, :, :, 0]).save(root / "data" / name / f"{number}.png")
    recipe = dataclasses.replace(
        tiny_recipe, data=Data("folder", channels=1, image_size=(32, 32)), batch_size=16, epochs=2, validations_per_epoch=1
    )
    return Experiment(recipe, root / "run", Options(data_dir=root / "data")).run().folder, root / "data"


@pytest.fixture
def pets(trained, tmp_path):
    """Copies of the run and of its data."""
    run, data = trained
    return Run(shutil.copytree(run.path, tmp_path / "run")), shutil.copytree(data, tmp_path / "data")


def content(run):
    return {path.name: path.read_bytes() for path in run.path.iterdir() if path.is_file()}


def metrics_of(run):
    return {name: run.read_json("metrics.json")[name] for name in ("train", "validation", "test")}


def test_a_run_keeps_its_division(trained):
    run, data = trained
    assert (run / "data.json").stat().st_size < 8000
    assert Experiment.open(run.path, data).evaluate() == metrics_of(run)


@pytest.mark.parametrize("count", [1, 20])
def test_added_images_change_no_metric(pets, count, caplog):
    run, data = pets
    for path in sorted((data / "dog").glob("*.png"))[:count]:
        shutil.copy(path, data / "cat" / f"new{path.name}")
    with caplog.at_level("INFO", logger="kerascv_course"):
        assert Experiment.open(run.path, data).evaluate() == metrics_of(run)
    assert f"{'1 image was' if count == 1 else '20 images were'} added since, which the run does not use" in caplog.text


def rename(data):
    (data / "cat").rename(data / "zcat")


def remove(data):
    next((data / "cat").iterdir()).unlink()


def replace(data):
    shutil.copy(next((data / "dog").iterdir()), next((data / "cat").iterdir()))


def two_others(data):
    (data / "cat").rename(data / "bird")
    (data / "dog").rename(data / "fish")


@pytest.mark.parametrize(
    ("change", "message"),
    [(rename, "missing; zcat has"), (remove, "is missing"), (replace, "is changed"), (two_others, "missing; bird has")],
)
def test_other_data_is_refused_by_everything_that_reads_it(pets, change, message):
    run, data = pets
    change(data)
    before = content(run)
    for call in (Experiment.evaluate, Experiment.export, Experiment.validate, Experiment.labels, Experiment.run):
        with pytest.raises(DataError, match=f"not the data of the run: .*{message}"):
            call(Experiment.open(run.path, data))
    longer = dataclasses.replace(run.recipe(), epochs=3)
    with pytest.raises(DataError, match=f"not the data of the run: .*{message}"):
        Experiment(longer, run.path, Options(data_dir=data, resume=True)).run()
    assert content(run) == before


def test_training_goes_on_with_the_division_of_the_run(pets):
    run, data = pets
    sizes = run.read_json("metrics.json")["data"]
    shutil.copy(next((data / "dog").iterdir()), data / "cat" / "new.png")
    longer = dataclasses.replace(run.recipe(), epochs=3)
    Experiment(longer, run.path, Options(data_dir=data, resume=True)).run()
    assert run.read_json("metrics.json")["data"] == sizes


def test_runs_of_older_versions_are_compared_by_their_fingerprint(pets):
    run, data = pets
    (run / "data.json").unlink()
    assert Experiment.open(run.path, data).evaluate() == metrics_of(run)
    rename(data)
    with pytest.raises(InputError, match=r"was made with other data \(sha256:.*; now sha256:.*\): give the run's own data"):
        Experiment.open(run.path, data).export()


def test_the_data_folder_that_a_run_remembers_is_gone(pets, trained, tmp_path):
    run, _ = pets
    run.write_json("environment.json", {**run.read_json("environment.json"), "data_dir": str(tmp_path / "gone")})
    with pytest.raises(InputError, match=r"no such data folder: .*gone; give the one that holds the data with --data-dir"):
        Experiment.open(run.path).evaluate()
