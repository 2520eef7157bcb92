"""A finished run that is trained further: what was made from its earlier weights is not presented as current."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest

from export.__main__ import main
from kerascv_course.config import Schedule
from kerascv_course.core.errors import InputError
from kerascv_course.core.provenance import EXPORTED, is_current, outdated, record_copy, record_current, weights_digest
from kerascv_course.experiment import Experiment, Options
from kerascv_course.training.run_dir import Run

INT8 = {
    "ok": True, "kept": True, "failures": [], "method": "a method", "validation_images": 7, "images": 8, "machine": "a machine",
    "provider": "cpu", "measured": "today", "accuracy_float32": 0.9182, "accuracy": 0.9173, "speeds": [], "bytes_float32": 4e6,
    "bytes": 1e6, "float_layers": [], "validation_float32": 0.9, "trials": [], "sensitivities": [],
}  # fmt: skip


@pytest.fixture(scope="module")
def constant(tiny_recipe):
    """A rate that makes the second epoch better than the first."""
    return dataclasses.replace(tiny_recipe, schedule=Schedule(), epochs=1, monitor="last")


@pytest.fixture(scope="module")
def exported(constant, tmp_path_factory):
    """A run of one epoch with model.onnx; tests must not change it."""
    return Experiment(constant, tmp_path_factory.mktemp("runs") / "run").run().folder


@pytest.fixture
def quantized(exported, tmp_path):
    """A copy of it with an int8 file, its report, and a retriever, as the commands leave them."""
    run = Run(shutil.copytree(exported.path, tmp_path / "run"))
    for name in ("model.int8.onnx", "retriever.onnx"):
        (run / name).write_bytes(b"made from the first weights")
        record_copy(run / "model.onnx", run / name)
    run.write_json("quantize.json", {"int8": INT8})
    record_copy(run / "model.onnx", run / "quantize.json:int8")
    return run


def page(run):
    return (run / "report.html").read_text(encoding="utf-8")


def test_files_of_a_new_run_are_current(quantized):
    Experiment.open(quantized.path).report()
    assert "0.9173" in page(quantized) and "earlier weights" not in page(quantized)
    assert outdated(quantized.path) == [] and all(is_current(quantized.path, name) for name in ("metrics.json", "model.onnx"))
    assert json.loads((quantized / "provenance.json").read_text())["model.onnx"] == weights_digest(quantized.path)


def test_training_further_outdates_what_was_quantized(constant, quantized, caplog):
    with caplog.at_level("INFO", logger="kerascv_course"):
        Experiment(dataclasses.replace(constant, epochs=2), quantized.path, Options(resume=True)).run()
    assert outdated(quantized.path) == ["model.int8.onnx", "retriever.onnx"]
    assert "made from earlier weights, so make them again: model.int8.onnx, retriever.onnx" in caplog.text
    shown = page(quantized)
    assert "0.9173" not in shown and "0.9182" not in shown
    assert "As int8: made from earlier weights" in shown and f"python -m export quantize {quantized.path}" in shown
    assert "<code>model.int8.onnx</code>, <code>retriever.onnx</code>. Make them again" in shown

    for name in ("quantize.json:int8", "model.int8.onnx", "retriever.onnx"):  # as the commands do
        record_copy(quantized / "model.onnx", quantized / name)
    Experiment.open(quantized.path).report()
    assert "0.9173" in page(quantized) and "earlier weights" not in page(quantized)


def test_a_resume_that_finds_no_better_weights_outdates_nothing(constant, quantized):
    recipe = dataclasses.replace(constant, monitor="val_loss")
    (quantized / "recipe.json").write_text((quantized / "recipe.json").read_text().replace('"last"', '"val_loss"', 1))
    diverging = dataclasses.replace(recipe, epochs=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kerascv_course.training.callbacks.CheckpointCallback._is_better", lambda *_: False)
        Experiment(diverging, quantized.path, Options(resume=True)).run()
    assert outdated(quantized.path) == [] and "0.9173" in page(quantized)


def test_training_further_without_an_evaluation_outdates_the_metrics_and_the_model(constant, quantized):
    further = Experiment(dataclasses.replace(constant, epochs=2), quantized.path, Options(resume=True, train_only=True)).run()
    assert "val_accuracy" in further.headline
    reopened = Experiment.open(quantized.path)
    assert reopened.metrics == {}
    reopened.report()
    shown = page(quantized)
    assert "metrics of the earlier weights are not shown" in shown and "0.9173" not in shown
    assert "ONNX validation" not in shown and "<h2>Figures" not in shown and "<code>model.onnx</code>, " in shown
    with pytest.raises(InputError, match="trained further after its evaluation: evaluate it first"):
        reopened.export()
    with pytest.raises(InputError, match=r"model\.onnx was made from earlier weights: export the run again"):
        main(["quantize", str(quantized.path)])
    Experiment.open(quantized.path).finish()
    assert is_current(quantized.path, "metrics.json") and is_current(quantized.path, "model.onnx")


def test_runs_of_older_versions_have_no_record_until_they_are_exported(quantized):
    (quantized / "provenance.json").unlink()
    assert outdated(quantized.path) == [] and is_current(quantized.path, "model.int8.onnx")
    record_copy(quantized / "model.onnx", quantized / "model.int8.onnx")
    assert not (quantized / "provenance.json").exists()
    record_current(quantized.path, "model.onnx")
    assert outdated(quantized.path) == list(EXPORTED[1::2])


def test_files_elsewhere_are_not_recorded(quantized, tmp_path):
    before = (quantized / "provenance.json").read_text()
    record_copy(quantized / "model.onnx", tmp_path / "other.onnx")
    assert (quantized / "provenance.json").read_text() == before and not (tmp_path / "provenance.json").exists()


def test_damaged_files_are_named(quantized):
    (quantized / "provenance.json").write_text("{")
    with pytest.raises(InputError, match=r"provenance\.json is damaged"):
        is_current(quantized.path, "model.onnx")
    (quantized / "best.keras").write_bytes(b"no archive")
    with pytest.raises(InputError, match=r"best\.keras is damaged"):
        weights_digest(quantized.path)
    (quantized / "best.keras").unlink()
    assert weights_digest(quantized.path) == ""
