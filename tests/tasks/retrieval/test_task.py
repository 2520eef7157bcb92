"""The retrieval task: a whole run, its exported file, resuming, weights, bad settings."""

from __future__ import annotations

import csv
import dataclasses
import json

import numpy as np
import pytest

from export.gallery.rank_lists import first_rate
from kerascv_course.core.errors import InputError
from kerascv_course.core.keras_file import load_model
from kerascv_course.core.retrieval_metrics import evaluate, make_protocol
from kerascv_course.data import load
from kerascv_course.experiment import Experiment, Options
from kerascv_course.recipes import get_recipe
from kerascv_course.recipes.ablations import with_changes
from kerascv_course.tasks.retrieval.task import RetrievalTask


def history(run):
    with (run / "history.csv").open() as file:
        return [{key: float(value) for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


def test_run_has_losses_metrics_and_figures(identity_run):
    rows = history(identity_run)
    assert len(rows) == 3
    for row in rows:
        parts = row["id_loss"] + row["triplet_loss"] + 0.01 * row["center_loss"]
        assert row["loss"] == pytest.approx(parts, rel=1e-4)
        assert 0 <= row["val_R1"] <= row["val_R5"] <= row["val_R10"] <= 1
    metrics = json.loads((identity_run / "metrics.json").read_text())
    test = metrics["test"]
    assert test["R1"] == rows[-1]["val_R1"] > test["chance"] == 0.25  # the last checkpoint, and validation is the test
    assert (test["queries"], test["gallery"], test["unmatched"]) == (20, 4, 0) and "validation images" in test["note"]
    assert {"mAP", "mINP", "MAP@R", "R5", "R10", "reranked mAP"} <= set(test)
    assert metrics["baselines"]["R1 of a random order"] == 0.25
    names = {path.stem for path in (identity_run / "plots").iterdir()}
    assert names >= {"rank_lists", "cmc", "distances", "embedding_map", "triplets", "learning_curves", "step_curves", "parity"}
    page = (identity_run / "report.html").read_text()
    assert "a cross-entropy is meaningless there" in page.replace("\n", " ") and "R1, each image queried against" in page


def test_exported_file_gives_embeddings_and_passes_validation(identity_run):
    from export import OnnxModel

    model = OnnxModel(identity_run / "model.onnx")
    assert model.contract.task == "embed" and model.contract.metric("R1") is not None
    sample = next((identity_run / "samples").glob("*.png"))
    vector = model.run(sample)["embedding"]
    assert vector.shape == (1, 8) and np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)
    parity = json.loads((identity_run / "parity.json").read_text())
    assert parity["ok"] and parity["accuracy_keras"] == parity["accuracy_onnx"] > 0.25
    agreements = {(row["batch_size"], row["evaluator"]): row["agreement"] for row in parity["rows"]}
    for variant in [(1, "optimized"), (7, "optimized"), (64, "optimized"), (64, "as written")]:
        assert agreements[variant] == 1


def test_resumed_run_is_bit_identical(identity_recipe, identity_run, people, tmp_path):
    """Two epochs, then the third, against three at once: PK batches, all losses, R1 of each epoch."""
    recipe = with_changes(identity_recipe, {"export.enabled": False})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Experiment, "finish", lambda self: None)
        run = Experiment(dataclasses.replace(recipe, epochs=2), tmp_path / "run", Options(data_dir=people)).run().folder
        Experiment(recipe, run.path, Options(resume=True)).run()
    assert history(run) == history(identity_run)
    states = [np.load(one / "last.npz") for one in (run, identity_run)]
    assert states[0].files == states[1].files and len(states[0].files) > 20
    for name in set(states[0].files) - {"progress"}:
        np.testing.assert_array_equal(states[0][name], states[1][name])


def test_build_has_the_parameter_counts_of_the_report():
    """11,176,512 of the network, 117,990 of the dense layer for 230 identities (report 000, questions 1 and 6)."""
    from kerascv_course.data import DataInfo, Dataset, Split

    images = np.zeros((1, 128, 128, 3), np.uint8)
    split = Split(images, np.array([229]))
    info = DataInfo("identities", ("x",) * 230, (128, 128, 3), {}, "", "")
    model = RetrievalTask(get_recipe("hkust-id")).build(Dataset(split, split, split, info))
    assert sum(int(np.prod(v.shape)) for v in model.trainable_weights) == 11_294_502
    assert model.output.shape == (None, 512 + 230)
    assert model.get_layer("embedding").output.shape == (None, 512)
    assert sum(int(np.prod(v.shape)) for v in model.get_layer("logits").weights) == 117_990


def test_build_starts_from_the_weights_of_another_run(identity_recipe, identity_run, people):
    changes = {"weights": str(identity_run / "best.keras"), "train_from": "c3", "retrieval.embedding": 5}
    recipe = with_changes(identity_recipe, changes)
    data = load(recipe.data, people)
    model = RetrievalTask(recipe).build(data)
    ours, theirs = (one.get_layer("lenet5").get_layer("c3") for one in (model, load_model(identity_run.path)))
    np.testing.assert_array_equal(ours.kernel, theirs.kernel)
    assert not model.get_layer("lenet5").get_layer("c1").trainable and ours.trainable
    assert model.get_layer("embedding").output.shape == (None, 5)
    wider = with_changes(recipe, {"model": "tdt4265_base"})
    with pytest.raises(InputError, match=r"weights do not fit|weights to start from have the network's shapes"):
        RetrievalTask(wider).build(data)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"retrieval.identity_loss": "none", "retrieval.triplet": "none"}, "requires an identity loss, a triplet loss or both"),
        ({"retrieval.images_per_identity": 0}, "the triplet loss requires two or more images of each identity in a batch"),
        ({"batch_size": 10}, "received 3 for batches of 10: use a multiple, such as --batch-size 9"),
        ({"monitor": "val_accuracy"}, "the task retrieve has the monitors val_loss, val_R1, last; received val_accuracy"),
        ({"retrieval.margin": 0.0}, r"retrieval.margin must be a number \(above 0\)"),
    ],
)
def test_recipe_rejects_bad_settings(identity_recipe, changes, rule):
    with pytest.raises(InputError, match=rule):
        with_changes(identity_recipe, changes)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"batch_size": 21}, "a batch needs 7 identities with two or more images; the training split has 6"),
        ({"batch_size": 21, "retrieval.images_per_identity": 7}, "7 images of each identity; the largest has 6"),
    ],
)
def test_run_rejects_batches_that_the_data_does_not_allow(identity_recipe, people, tmp_path, changes, rule):
    with pytest.raises(InputError, match=rule):
        Experiment(with_changes(identity_recipe, changes), tmp_path / "run", Options(data_dir=people)).run()
    assert not (tmp_path / "run").exists()


def test_the_gate_knows_R1_where_every_image_is_looked_for_among_all_others(identity_recipe):
    vectors = np.random.default_rng(0).normal(size=(40, 3))
    identities = np.repeat(np.arange(8), 5)
    found = evaluate(vectors, identities, make_protocol("leave-one-out", identities)).to_plain()
    leave_one_out = dataclasses.replace(identity_recipe.retrieval, protocol="leave-one-out")
    task = RetrievalTask(dataclasses.replace(identity_recipe, retrieval=leave_one_out))
    assert task.gate_accuracy({"test": found}) == first_rate(vectors, identities)
    assert RetrievalTask(identity_recipe).gate_accuracy({"test": found}) is None
