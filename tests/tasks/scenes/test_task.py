"""The scenes task: every encoder with every classifier as one exported file, a whole run, metrics, bad settings."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest

from kerascv_course.core.errors import InputError
from kerascv_course.data import Split
from kerascv_course.recipes import get_recipe
from kerascv_course.tasks.scenes.task import SHORT_NAMES, SceneTask, asymmetry, confused_pairs, short_names


def trained(task, model, data):
    """What a task reads of an experiment."""
    return SimpleNamespace(model=model, data=data, predictions=task.predict(model, data.test), metrics={})


ENCODERS = {
    "tiny": {"feature": "tiny"},
    "bag": {"levels": 2, "bin_sizes": (3, 5)},
    "soft": {"soft": 90.0, "norm": "hellinger", "normalize_whole": True},
    "vlad": {"feature": "vlad", "norm": "power", "compress": 16},
    "fisher": {"feature": "fisher", "norm": "power", "compress": 8, "words": 3},
}

#: Nearest neighbors with each encoder; together they use most distances and all voting rules.
NEIGHBORS = {
    "tiny": {"distance": "cosine", "vote": "distance"},
    "bag": {"distance": "chi2", "vote": "nearest"},
    "soft": {"distance": "cityblock"},
    "vlad": {"distance": "minkowski"},
    "fisher": {"distance": "euclidean"},
}

COMBINATIONS = {
    **{f"{name}-knn": {**encoder, **NEIGHBORS[name]} for name, encoder in ENCODERS.items()},
    **{f"{name}-linear": {**encoder, "classifier": "linear", "penalties": (0.1, 10.0)} for name, encoder in ENCODERS.items()},
    "bag-intersection": {**ENCODERS["bag"], "normalize_whole": True, "classifier": "linear", "kernel": "intersection"},
}


@pytest.mark.parametrize("name", COMBINATIONS)
def test_exported_file_equals_the_model(name, stripes, tmp_path, scene_recipe):
    from export import OnnxModel, check_parity, export_model

    chosen, test = scene_recipe(**COMBINATIONS[name]), stripes.test
    task = SceneTask(chosen)
    model, history, best = task.fit(stripes)
    assert len(history) == len(chosen.scenes.penalties)
    assert history[best]["val_accuracy"] >= (0.5 if chosen.scenes.feature != "tiny" or chosen.scenes.classifier == "knn" else 0)
    experiment = trained(task, model, stripes)
    experiment.metrics = metrics = task.evaluate(experiment)
    serving = task.serving_graph(model, stripes.info)
    path = export_model(serving, tmp_path / "scene.onnx", task="scenes", **task.describe(experiment))
    report = check_parity(
        serving, path, test.images, targets=test.targets, answer=task.answer, batch_sizes=(5,), reference_images=1
    )
    assert report.ok and report.accuracy_onnx == metrics["test"]["accuracy"]
    answers = OnnxModel(path).predict(test.images)
    correct = [stripes.info.labels[t] == label for t, label in zip(test.targets, answers.labels, strict=True)]
    assert np.mean(correct) == metrics["test"]["accuracy"]
    np.testing.assert_allclose(answers.scores.sum(axis=1), 1, rtol=1e-5)
    uniform = np.full((1, 48, 48, 1), 90, np.uint8)
    assert np.isfinite(OnnxModel(path).predict(uniform).scores).all()


def test_run_of_a_scene_recipe(tmp_path, image_folder, monkeypatch):
    from kerascv_course.experiment import Experiment, Options

    base = get_recipe("ntu-tiny-knn")
    data = dataclasses.replace(base.data, image_size=(8, 8), test_share=0.3)
    result = Experiment(dataclasses.replace(base, data=data), tmp_path / "run", Options(data_dir=image_folder)).run()
    run = result.folder
    metrics = run.read_json("metrics.json")
    assert set(result.headline) == {"train accuracy", "test accuracy"}
    assert metrics["train"]["accuracy"] == 1.0 and metrics["test"]["accuracy"] > 0.8
    assert run.read_json("parity.json")["ok"]
    assert {path.name for path in (run / "plots").iterdir()} >= {"confusion_matrix.png", "class_accuracy.png"}
    assert "settings tried" in (run / "report.html").read_text(encoding="utf-8")
    assert "val_accuracy" in (run / "history.csv").read_text(encoding="utf-8")
    assert Experiment.open(run.path).evaluate()["test"] == metrics["test"]
    assert Experiment.open(run.path).validate().ok
    again = Experiment(run.recipe(), run.path, Options(resume=True)).run()
    assert again.headline == result.headline


def test_evaluate_separates_duplicates_of_training_images(stripes, scene_recipe):
    images = np.concatenate([stripes.test.images, stripes.train.images[:3]])
    targets = np.concatenate([stripes.test.targets, stripes.train.targets[:3]])
    doubled = dataclasses.replace(stripes, test=Split(images, targets))
    task = SceneTask(scene_recipe(feature="tiny", k=1, refit=False))
    model, _, _ = task.fit(doubled)
    metrics = task.evaluate(trained(task, model, doubled))
    test = metrics["test"]
    assert test["duplicates"] == 3 and "validation" in metrics
    assert test["accuracy"] * 15 == pytest.approx(test["accuracy_without_duplicates"] * 12 + 3)


def test_asymmetry_and_confused_pairs_computed_by_hand():
    counts = np.array([[6, 4, 0], [0, 10, 0], [1, 1, 8]])
    # pairs (0, 1): 0.4 and 0; (0, 2): 0 and 0.1; (1, 2): 0 and 0.1
    assert asymmetry(counts) == pytest.approx(1.0)
    assert asymmetry(np.array([[5, 5], [5, 5]])) == 0.0 == asymmetry(np.eye(2))
    assert confused_pairs(counts, 5) == [(0, 1, 4), (0, 2, 1), (1, 2, 1)]
    names, order = short_names(tuple(sorted(SHORT_NAMES)))
    assert names[:4] == ("Kit", "Sto", "Bed", "Liv") and sorted(SHORT_NAMES)[order[0]] == "Kitchen"
    assert short_names(("a", "b")) == (("a", "b"), [0, 1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k": 0}, r"scenes.k must be an integer \(1 or more\)"),
        ({"bin_sizes": (4, 15)}, r"scenes.bin_sizes\[1\] must be an integer \(1 to 14\)"),
        ({"kernel": "chi2", "norm": "l2"}, "kernel chi2 compares histograms"),
        ({"feature": "fisher"}, "norm of fisher must be none, l2 or power"),
        ({"feature": "vlad", "norm": "l2", "distance": "chi2"}, "distance chi2 compares histograms"),
        ({"feature": "vlad", "norm": "l2", "soft": 1.0}, "soft requires the feature bag"),
        ({"penalties": (0.0,)}, r"penalties\[0\] must be a number \(above 0\)"),
    ],
)
def test_recipe_rejects_incompatible_settings(settings, message, scene_recipe):
    with pytest.raises(InputError, match=message):
        scene_recipe(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"words": 900}, "more words than distinct descriptors"),
        ({"compress": 300, "feature": "fisher", "norm": "power", "words": 2}, "compressed to 1 to as many; received 300"),
    ],
)
def test_fit_rejects_settings_that_do_not_suit_the_data(settings, message, stripes, scene_recipe):
    with pytest.raises(InputError, match=message):
        SceneTask(scene_recipe(**settings)).fit(stripes)


def test_label_rejects_too_many_neighbors_and_classes_without_images(stripes, scene_recipe):
    with pytest.raises(InputError, match="k must be 1 to the number of training images, 30; received 31"):
        SceneTask(scene_recipe(k=31)).label(stripes, None)
    two = dataclasses.replace(stripes, train=stripes.train.take(np.flatnonzero(stripes.train.targets != 1)))
    with pytest.raises(InputError, match="need images of every class; class along has none in train"):
        SceneTask(scene_recipe(classifier="linear")).label(two, None)
    task = SceneTask(scene_recipe(feature="tiny", refit=False))
    model, _, _ = task.fit(task.label(two, None))
    counts = np.array(task.evaluate(trained(task, model, two))["test"]["confusion"])
    assert counts.shape == (3, 3) and not counts[:, 1].any()  # neighbors never predict it


def test_run_rejects_images_smaller_than_a_descriptor_before_writing(image_folder, tmp_path, scene_recipe):
    from kerascv_course.experiment import Experiment, Options

    small = scene_recipe()
    small = dataclasses.replace(small, data=dataclasses.replace(small.data, image_size=(12, 12)))
    with pytest.raises(InputError, match="spans 13 pixels; received images of 12×12"):
        Experiment(small, tmp_path / "run", Options(data_dir=image_folder)).run()
    assert not (tmp_path / "run").exists()


def test_run_on_the_fifteen_scenes(scene15_dir, tmp_path, scene_recipe):
    """A small bag of SIFT on three of the classes."""
    from kerascv_course.experiment import Experiment, Options

    chosen = scene_recipe(step=12, bin_sizes=(8,), words=40, samples=4000, k=5)
    only = ("Coast", "Forest", "Suburb")
    chosen = dataclasses.replace(chosen, data=dataclasses.replace(chosen.data, image_size=(100, 100), only=only))
    result = Experiment(chosen, tmp_path / "run", Options(data_dir=scene15_dir)).run()
    assert json.loads((result.folder / "metrics.json").read_bytes())["test"]["accuracy"] > 0.75
    assert result.folder.read_json("parity.json")["images"] == 300
