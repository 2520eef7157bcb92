"""Scene recipes whole: every encoder and classifier as one graph and one file, cache, sweeps, bad input."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest

from kerascv_course.core.errors import InputError
from kerascv_course.data import Split
from kerascv_course.data.splits import make_dataset
from kerascv_course.recipes import get_recipe
from kerascv_course.tasks.scenes import sweeps
from kerascv_course.tasks.scenes.config import Scenes
from kerascv_course.tasks.scenes.task import SHORT_NAMES, SceneTask, asymmetry, confused_pairs, short_names


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("KERASCV_COURSE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="module")
def stripes():
    """A dataset of three classes of 48×48 pictures: stripes across, stripes along, spots."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:48, :48]

    def pictures(count: int) -> Split:
        targets = np.arange(count) % 3
        images = np.empty((count, 48, 48, 1), np.uint8)
        for image, target in zip(images, targets, strict=True):
            width, shift = rng.uniform(1.5, 3), rng.uniform(0, 6, 2)
            wave = [np.sin(rows / width + shift[0]), np.sin(columns / width + shift[0])]
            wave.append(wave[0] * np.sin(columns / width + shift[1]))
            image[..., 0] = np.clip(128 + 60 * wave[target] + rng.normal(0, 12, (48, 48)), 0, 255)
        return Split(images, targets)

    return make_dataset("stripes", ("across", "along", "spots"), "made here", pictures(30), pictures(9), pictures(12))


def trained(task, model, data):
    """What a task reads of an experiment."""
    return SimpleNamespace(model=model, data=data, predictions=task.predict(model, data.test), metrics={})


def recipe(**settings):
    base = get_recipe("ntu-bag-of-sift")
    small = {"step": 6, "words": 6, "samples": 600, "k": 3}
    return dataclasses.replace(base, scenes=dataclasses.replace(Scenes(), **{**small, **settings}))


ENCODERS = {
    "tiny": {"feature": "tiny"},
    "bag": {"levels": 2, "bin_sizes": (3, 5)},
    "soft": {"soft": 90.0, "norm": "hellinger", "normalize_whole": True},
    "vlad": {"feature": "vlad", "norm": "power", "compress": 16},
    "fisher": {"feature": "fisher", "norm": "power", "compress": 8, "words": 3},
}

#: Neighbours with each encoder; between them most distances, and every way to vote.
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
def test_every_combination_is_one_file_with_the_same_answers(name, stripes, tmp_path):
    from export import OnnxModel, check_parity, export_model

    chosen, test = recipe(**COMBINATIONS[name]), stripes.test
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
    right = [stripes.info.labels[t] == label for t, label in zip(test.targets, answers.labels, strict=True)]
    assert np.mean(right) == metrics["test"]["accuracy"]
    np.testing.assert_allclose(answers.scores.sum(axis=1), 1, rtol=1e-5)
    one_colour = np.full((1, 48, 48, 1), 90, np.uint8)
    assert np.isfinite(OnnxModel(path).predict(one_colour).scores).all()


def test_a_scene_recipe_makes_a_whole_run(tmp_path, image_folder, monkeypatch):
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


def test_interrupted_encoding_goes_on_where_it_was(stripes, monkeypatch):
    from kerascv_course.tasks.scenes import pipeline

    monkeypatch.setattr(pipeline, "CHUNK", 10)
    features = pipeline.Features.learn(recipe(words=7).scenes, stripes.train.images)
    calls = []
    original = pipeline.by_image

    def counting(model, stop_after=None):
        streamed = original(model)
        run = streamed.predict_on_batch

        def counted(images):
            calls.append(len(images))
            if stop_after is not None and len(calls) > stop_after:
                raise KeyboardInterrupt
            return run(images)

        monkeypatch.setattr(streamed, "predict_on_batch", counted)
        return streamed

    monkeypatch.setattr(pipeline, "by_image", lambda model: counting(model, stop_after=2))
    with pytest.raises(KeyboardInterrupt):
        features.encode(stripes.train.images)
    calls.clear()
    monkeypatch.setattr(pipeline, "by_image", counting)
    assert features.encode(stripes.train.images).shape == (30, 7)
    assert calls == [10]  # the first twenty images were kept


def test_a_loaded_model_finds_its_encodings(stripes, tmp_path):
    import keras

    from kerascv_course.tasks.scenes.pipeline import split_model

    model, _, _ = SceneTask(recipe()).fit(stripes)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    assert split_model(loaded)[0].key == split_model(model)[0].key
    images = stripes.test.images
    np.testing.assert_array_equal(loaded.predict(images, verbose=0), model.predict(images, verbose=0))


def test_duplicates_of_training_pictures_are_counted_apart(stripes):
    images = np.concatenate([stripes.test.images, stripes.train.images[:3]])
    targets = np.concatenate([stripes.test.targets, stripes.train.targets[:3]])
    doubled = dataclasses.replace(stripes, test=Split(images, targets))
    task = SceneTask(recipe(feature="tiny", k=1, refit=False))
    model, _, _ = task.fit(doubled)
    metrics = task.evaluate(trained(task, model, doubled))
    test = metrics["test"]
    assert test["duplicates"] == 3 and "validation" in metrics
    assert test["accuracy"] * 15 == pytest.approx(test["accuracy_without_duplicates"] * 12 + 3)


def test_a_sweep_tries_every_combination_that_goes_together(stripes):
    chosen = sweeps.variants(recipe(), {"k": (1, 2), "distance": ()})
    assert len(chosen) == 12
    rows = sweeps.sweep(chosen[:3], stripes, test=True)
    table = sweeps.format_rows(rows)
    assert table.splitlines()[0] == "| k | distance | validation | test | seconds |" and len(table.splitlines()) == 5
    assert len(sweeps.variants(recipe(feature="vlad", norm="l2"), {"norm": ("l1", "power")})) == 1
    for over, message in (({"steps": ()}, "'steps' is none of"), ({"smooth": ()}, "give the values of smooth")):
        with pytest.raises(InputError, match=message):
            sweeps.variants(recipe(), over)


def test_random_splits_keep_the_sizes_of_every_class(stripes):
    other = sweeps.random_splits(stripes, 1)
    for (_, one), (_, two) in zip(stripes.items(), other.items(), strict=True):
        np.testing.assert_array_equal(np.bincount(one.targets), np.bincount(two.targets))
    assert not np.array_equal(other.test.images, stripes.test.images)
    rows = sweeps.repeat(recipe(feature="tiny"), stripes, range(2))
    summary = sweeps.summarize_repeats(rows)
    assert summary.count == 2 and summary.mean == pytest.approx(np.mean([row.test for row in rows]))


def test_confusions_by_hand():
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
def test_settings_that_do_not_go_together_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        recipe(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"words": 900}, "more words than distinct descriptors"),
        ({"compress": 300, "feature": "fisher", "norm": "power", "words": 2}, "compressed to 1 to as many; received 300"),
    ],
)
def test_settings_that_the_data_cannot_meet_are_refused(settings, message, stripes):
    with pytest.raises(InputError, match=message):
        SceneTask(recipe(**settings)).fit(stripes)


def test_more_neighbours_than_pictures_and_classes_without_any_are_refused_before_the_work(stripes):
    with pytest.raises(InputError, match="k must be 1 to the number of training images, 30; received 31"):
        SceneTask(recipe(k=31)).label(stripes, None)
    two = dataclasses.replace(stripes, train=stripes.train.take(np.flatnonzero(stripes.train.targets != 1)))
    with pytest.raises(InputError, match="need images of every class; class along has none in train"):
        SceneTask(recipe(classifier="linear")).label(two, None)
    task = SceneTask(recipe(feature="tiny", refit=False))
    model, _, _ = task.fit(task.label(two, None))
    counts = np.array(task.evaluate(trained(task, model, two))["test"]["confusion"])
    assert counts.shape == (3, 3) and not counts[:, 1].any()  # neighbours never answer it


def test_images_smaller_than_a_descriptor_are_refused_before_anything_is_written(image_folder, tmp_path):
    from kerascv_course.experiment import Experiment, Options

    small = recipe()
    small = dataclasses.replace(small, data=dataclasses.replace(small.data, image_size=(12, 12)))
    with pytest.raises(InputError, match="spans 13 pixels; received images of 12×12"):
        Experiment(small, tmp_path / "run", Options(data_dir=image_folder)).run()
    assert not (tmp_path / "run").exists()


def test_the_command_sweeps_and_writes_its_table(command, image_folder, tmp_path):
    done = command(
        "kerascv_course.scenes", "sweep", "ntu-tiny-knn", "--over", "k", "--values", "1", "3", "--data-dir", image_folder,
        "--output", tmp_path / "table", KERASCV_COURSE_CACHE=str(tmp_path / "cache"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "table/table.md").read_text(encoding="utf-8").startswith("| k | validation | seconds |")
    assert (tmp_path / "table/plot.png").stat().st_size > 1000
    wrong = command(
        "kerascv_course.scenes", "sweep", "ntu-tiny-knn", "--over", "k", "--values", "x", "--data-dir", image_folder
    )
    assert wrong.returncode == 2 and "k must be of the type int; received 'x'" in wrong.stderr
    other = command("kerascv_course.scenes", "repeat", "lenet5-digits", "--data-dir", image_folder)
    assert other.returncode == 2 and "takes recipes of the task scenes" in other.stderr


def test_the_fifteen_scenes_run(scene15_dir, tmp_path):
    """A thin bag of SIFT over three of the classes."""
    from kerascv_course.experiment import Experiment, Options

    chosen = recipe(step=12, bin_sizes=(8,), words=40, samples=4000, k=5)
    only = ("Coast", "Forest", "Suburb")
    chosen = dataclasses.replace(chosen, data=dataclasses.replace(chosen.data, image_size=(100, 100), only=only))
    result = Experiment(chosen, tmp_path / "run", Options(data_dir=scene15_dir)).run()
    assert json.loads((result.folder / "metrics.json").read_bytes())["test"]["accuracy"] > 0.75
    assert result.folder.read_json("parity.json")["images"] == 300
