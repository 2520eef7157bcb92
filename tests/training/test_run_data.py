"""Data that has changed since a run was trained on it: nothing is relabelled, nothing of the training is tested on."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from export import ParityError
from export.__main__ import main as export_command
from kerascv_course.config import Data
from kerascv_course.core.errors import DataError, InputError
from kerascv_course.evaluate import main as evaluate_command
from kerascv_course.experiment import Experiment, Options
from kerascv_course.recipes import get_recipe
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


def test_runs_of_older_versions_are_compared_by_their_checkpoint_and_class_names(pets):
    run, data = pets
    (run / "data.json").unlink()
    (data / "cat").rename(data / "bat")  # the same order, so that pixels and targets are the same
    before = content(run)
    with pytest.raises(InputError, match=r"other classes \(cat, dog; now bat, dog\): give the run's own data"):
        Experiment.open(run.path, data).export()
    (run / "metrics.json").unlink()  # as after --train-only
    (data / "bat").rename(data / "zcat")
    with pytest.raises(InputError, match=r"was made with other data \(sha256:.*; now sha256:.*\): give the run's own data"):
        Experiment.open(run.path, data).evaluate()
    assert content(run).items() <= before.items()


def test_other_data_is_measured_with_the_labels_of_the_run_and_nothing_is_written(pets, tmp_path, capsys):
    run, data = pets
    other = tmp_path / "other"
    for name, source in (("bird", "dog"), ("dog", "dog"), ("zcat", "cat"), ("cat", "dog")):
        (other / name).mkdir(parents=True)
        for path in sorted((data / source).glob("*.png"))[:10]:
            Image.fromarray(255 - np.asarray(Image.open(path))[:, ::-1]).save(other / name / path.name)
    before = content(run)
    evaluate_command([str(run.path), "--data-dir", str(other), "--other-data"])
    printed = capsys.readouterr().out
    assert (
        f"measured on 20 images of {other}; left out: 20 images of classes that the run does not have (bird, zcat)" in printed
    )
    (row,) = [line for line in printed.splitlines() if line.startswith("other data  ")]
    assert "images 20" in row and "train" not in row
    export_command(["check", str(run.path), "--data-dir", str(other), "--other-data"])
    assert "parity passed: 20 images" in capsys.readouterr().out
    assert export_command(["doctor", str(run.path), "--data-dir", str(other), "--other-data", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["healthy"]
    experiment = Experiment.open(run.path, other, other_data=True)
    for refused in (Experiment.export, Experiment.plot, Experiment.finish, Experiment.run):
        with pytest.raises(
            InputError, match=r"other data than the run's is measured, not \w+( on)?: open the run with its own"
        ):
            refused(experiment)
    assert content(run) == before


def test_commands_refuse_other_data_and_say_what_to_do(pets, capsys):
    run, data = pets
    rename(data)
    before = content(run)
    for words in (["evaluate"], ["export"], ["check"], ["doctor"], ["quantize"]):
        call = evaluate_command if words == ["evaluate"] else export_command
        command = [] if words in (["evaluate"], ["export"]) else words
        with pytest.raises(
            DataError, match=r"not the data of the run: .*give the run's own data with --data-dir.*--other-data"
        ):
            call([*command, str(run.path), "--data-dir", str(data)])
    assert content(run) == before
    capsys.readouterr()


def test_evaluate_counts_what_was_added(pets, capsys):
    run, data = pets
    shutil.copy(next((data / "dog").iterdir()), data / "cat" / "new.png")
    evaluate_command([str(run.path), "--data-dir", str(data)])
    assert "120 images as in the training; 1 image was added since, which the run does not use" in capsys.readouterr().out


def test_the_gate_fails_where_the_accuracy_is_not_that_of_the_metrics(pets, monkeypatch):
    run, data = pets
    for check in ("check_fingerprint", "check_labels"):
        monkeypatch.setattr(f"kerascv_course.experiment.{check}", lambda *_, **__: None)
    (run / "data.json").unlink()
    rename(data)  # the order of the two classes changes, and nothing compares the data
    before = (run / "model.onnx").read_bytes()
    with pytest.raises(ParityError, match="the accuracy of Keras is 0 and was 1 when it was measured"):
        Experiment.open(run.path, data).export()
    assert (run / "model.onnx").read_bytes() == before and not run.read_json("parity.json")["ok"]
    with pytest.raises(ParityError, match="the accuracy of Keras is 0 and was 1 when it was measured"):
        Experiment.open(run.path, data).validate()


def test_the_data_folder_that_a_run_remembers_is_gone(pets, trained, tmp_path):
    run, _ = pets
    run.write_json("environment.json", {**run.read_json("environment.json"), "data_dir": str(tmp_path / "gone")})
    with pytest.raises(InputError, match=r"no such data folder: .*gone; give the one that holds the data with --data-dir"):
        Experiment.open(run.path).evaluate()


# --- every other task ---


@pytest.fixture(scope="module")
def scene_run(trained, tmp_path_factory):
    """Tiny images and nearest neighbors, on the same data."""
    recipe = get_recipe("ntu-tiny-knn")
    recipe = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, image_size=(8, 8), test_share=0.3))
    return Experiment(recipe, tmp_path_factory.mktemp("runs") / "scenes", Options(data_dir=trained[1])).run().folder


@pytest.fixture(params=["retrieval", "colorization", "scenes"])
def any_task(request, tmp_path):
    """Copies of a run of each task and of its data, with two of its image files."""
    run_name, data_name = {
        "retrieval": ("identity_run", "people"), "colorization": ("color_run", "color_images"), "scenes": ("scene_run", "trained"),
    }[request.param]  # fmt: skip
    data = request.getfixturevalue(data_name)
    data = shutil.copytree(data[1] if isinstance(data, tuple) else data, tmp_path / "data")
    run = Run(shutil.copytree(request.getfixturevalue(run_name).path, tmp_path / "run"))
    first, *_, last = sorted(data.rglob("*.png"))
    return run, data, first, last


def measured(run):
    metrics = run.read_json("metrics.json")
    return {name: metrics[name] for name in ("train", "validation", "test", "baselines") if name in metrics}


@pytest.mark.parametrize("count", [1, 20])
def test_added_images_change_no_metric_of_any_task(any_task, count):
    run, data, first, last = any_task
    for number in range(count):
        shutil.copy(first, last.with_name(f"new{number}.png"))
    experiment = Experiment.open(run.path, data)
    assert json.loads(json.dumps(experiment.evaluate())) == measured(run)
    assert experiment.validate().ok


@pytest.mark.parametrize("change", ["rename", "remove", "replace"])
def test_changed_data_is_refused_by_every_task(any_task, change):
    run, data, first, last = any_task
    if change == "rename":
        first.parent.rename(first.parent.with_name("zzz"))
    elif change == "remove":
        first.unlink()
    else:
        shutil.copy(last, first)
    before = content(run)
    for call in (Experiment.evaluate, Experiment.export, Experiment.validate):
        with pytest.raises(DataError, match=f"not the data of the run: .*{'changed' if change == 'replace' else 'missing'}"):
            call(Experiment.open(run.path, data))
    assert content(run) == before


def test_other_data_is_measured_by_every_task(any_task, tmp_path, caplog):
    run, data, _, _ = any_task
    shutil.rmtree(data / "train", ignore_errors=True)
    for path in data.rglob("*.png"):
        Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    before = content(run)
    experiment = Experiment.open(run.path, data, other_data=True)
    with caplog.at_level("INFO", logger="kerascv_course"):
        metrics = experiment.evaluate()
    assert metrics.keys() <= {"test", "baselines"} and metrics["test"]["images"] == len(list(data.rglob("*.png")))
    assert "nothing is left out" in caplog.text
    assert experiment.validate().ok and content(run) == before


def test_the_gate_knows_the_accuracy_of_every_task(any_task):
    run, data, _, _ = any_task
    experiment = Experiment.open(run.path, data)
    expected = experiment.task.gate_accuracy(experiment.metrics)
    retrieval = experiment.recipe.task == "retrieve"
    assert (expected is None) == retrieval
    if expected is not None:
        assert experiment.validate().accuracy_keras == pytest.approx(expected, abs=1e-6)
        key = "test"
        experiment.metrics = {**experiment.metrics, key: {**experiment.metrics[key], "accuracy": expected - 0.2}}
        with pytest.raises(ParityError, match=r"when it was measured"):
            experiment.validate()
