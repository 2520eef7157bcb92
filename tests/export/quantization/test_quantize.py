"""int8 and float16 files with a verdict; speeds are made up, graphs and accuracies are real."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import onnx
import pytest
from PIL import Image

import export.quantization.quantize
from export import OnnxModel, export_model, read_contract
from export.__main__ import main
from export.predictor import ProviderError
from export.quantization.graphs import Int8Converter, is_reduced
from export.quantization.quantize import LabeledImages, quantize_model
from export.quantization.report import RefusedError, SpeedPair
from kerascv_course.core.errors import CourseError, DataError, InputError

keras = pytest.importorskip("keras")


@pytest.fixture
def speeds(monkeypatch):
    """Milliseconds of the float32 file and of the other, instead of measured ones."""
    times = {"float32": 2.0, "other": 1.0}
    monkeypatch.setattr(
        export.quantization.quantize,
        "measure_speeds",
        lambda original, reduced, images, sizes: tuple(SpeedPair(size, times["float32"], times["other"]) for size in sizes),
    )
    return times


@pytest.fixture(scope="module")
def labeled(digits):
    """Arguments of `quantize_model` for the digits."""
    return {
        "calibration": digits.train.images[:200],
        "validation": LabeledImages("validation", digits.validation.images, digits.validation.targets),
        "test": LabeledImages("test", digits.test.images, digits.test.targets),
    }


@pytest.fixture
def run_copy(tiny_run, tmp_path):
    """A copy of the tiny run to change."""
    return shutil.copytree(tiny_run.path, tmp_path / "run")


def interface(path):
    session = OnnxModel(path).session
    return [(v.name, v.type, v.shape) for v in (*session.get_inputs(), *session.get_outputs())]


# --- the verdict ---


@pytest.mark.parametrize("kind", ["int8", "float16"])
def test_quantize_keeps_an_equally_accurate_and_faster_file(kind, tiny_run, labeled, speeds, tmp_path):
    source, target = tiny_run / "model.onnx", tmp_path / "x.onnx"
    report = quantize_model(source, target, kind=kind, **labeled)
    assert report.ok and report.kept and report.failures == ()
    assert interface(target) == interface(source)
    assert is_reduced(onnx.load(target)) and not is_reduced(onnx.load(source))
    assert target.stat().st_size == report.bytes or target.stat().st_size < source.stat().st_size
    before, after = read_contract(source), read_contract(target)
    assert (
        dataclasses.replace(after, precision=None, parity=before.parity, metrics=before.metrics, versions=before.versions)
        == before
    )
    assert after.parity is None, "the gate compared the float32 file"
    assert after.precision.kind == kind and after.precision.refused == ()
    assert after.precision.batch_sizes == (1, 64) and after.precision.speedups == (2.0, 2.0)
    test = labeled["test"]
    answers = np.array([int(label) for label in OnnxModel(target).predict(test.images).labels])
    assert np.mean(answers == test.targets) == report.accuracy == after.precision.accuracy == after.metric("accuracy")
    assert "worth keeping" in str(report) and json.dumps(report.to_plain())


def test_int8_graph_has_weights_per_channel_and_float_preprocessing_and_scores(tiny_run, labeled):
    proto = Int8Converter(tiny_run / "model.onnx", labeled["calibration"], method="minmax").convert()
    sizes = {tensor.name: int(np.prod(tensor.dims)) for tensor in proto.graph.initializer}
    kinds = {tensor.name: tensor.data_type for tensor in proto.graph.initializer}
    scales = [sizes[n.input[1]] for n in proto.graph.node if n.op_type == "DequantizeLinear" and kinds.get(n.input[0]) == 3]
    assert scales == [6, 16, 120, 84, 10], "one scale a filter or neuron"
    makers = {name: node.op_type for node in proto.graph.node for name in node.output}
    assert makers["logits"] == "Gemm" and makers["probabilities"] == "Softmax"
    assert [node.op_type for node in proto.graph.node if "normalize" in node.name and node.op_type in ("Mul", "Add")] == [
        "Mul",
        "Add",
    ]


def test_quantize_refuses_a_loss_of_accuracy(tiny_run, labeled, speeds, tmp_path, monkeypatch):
    monkeypatch.setattr(
        export.quantization.quantize, "_growing", lambda most: iter(())
    )  # two layers in float would rescue even this
    black = np.zeros_like(labeled["calibration"])  # ranges in which no digit fits
    with pytest.raises(
        RefusedError, match=r"accuracy falls by \d+\.\d\d points, from 0\.\d+ to 0\.\d+ on 359 test images"
    ) as caught:
        quantize_model(tiny_run / "model.onnx", tmp_path / "x.onnx", **{**labeled, "calibration": black})
    assert caught.value.exit_code == 1 and not any(tmp_path.iterdir())
    assert len(caught.value.report.sensitivities) == 5, "sensitive layers were looked for"


def test_quantize_refuses_a_slow_file_and_force_keeps_it_with_the_verdict_inside(tiny_run, labeled, speeds, tmp_path):
    speeds["other"] = 1.95
    with pytest.raises(RefusedError, match=r"at batch 1 it takes 1\.950 ms against 2\.000 ms of float32, 1\.03× as fast"):
        quantize_model(tiny_run / "model.onnx", tmp_path / "x.onnx", **labeled)
    assert not any(tmp_path.iterdir())
    report = quantize_model(tiny_run / "model.onnx", tmp_path / "x.onnx", **labeled, force=True)
    assert report.kept and not report.ok and "NOT worth keeping, kept because of --force" in str(report)
    assert read_contract(tmp_path / "x.onnx").precision.refused == report.failures != ()


def test_quantize_leaves_a_sensitive_layer_in_float(speeds, tmp_path):
    # Each neuron of "spoilt" has weights of 2,000 for features that are always 0: in 8 bits all its other weights vanish.
    rng = np.random.default_rng(0)
    image = keras.Input((4, 4, 1))
    features = keras.layers.Conv2D(2, 1, activation="relu", name="features")(image)
    x = keras.layers.Flatten()(features)
    x = keras.layers.Dense(8, activation="relu", name="spoilt")(x)
    model = keras.Model(image, keras.layers.Dense(3, name="logits")(x))
    model.get_layer("features").set_weights([np.array([[[[1.0, 0.0]]]]), np.array([0.0, -1.0])])
    weights = rng.normal(0, 0.5, (32, 8))
    weights[1::2] = 2000
    model.get_layer("spoilt").set_weights([weights, np.full(8, 0.1)])
    model.get_layer("logits").set_weights([rng.normal(0, 1, (8, 3)), np.zeros(3)])
    source = export_model(model, tmp_path / "source.onnx", labels=("a", "b", "c"))
    images = rng.integers(0, 256, (400, 4, 4, 1), np.uint8)
    answers = OnnxModel(source).run(images)["logits"].argmax(axis=1)
    parts = {
        "validation": LabeledImages("validation", images[:200], answers[:200]),
        "test": LabeledImages("test", images[200:], answers[200:]),
    }
    target = tmp_path / "int8.onnx"
    report = quantize_model(source, target, calibration=images[:100], **parts)
    assert report.trials[0].accuracy < 0.9 and report.accuracy > 0.995 and report.kept
    assert report.sensitivities[0].layer == "spoilt" and report.float_layers == ("spoilt",)
    assert read_contract(target).precision.float_nodes == (report.sensitivities[0].node,)
    assert "left in float32: spoilt" in str(report)


def test_quantize_measures_a_colorizer_by_its_pixels(color_run, speeds, tmp_path):
    from kerascv_course.experiment import Experiment

    data = Experiment.open(color_run.path).data
    parts = {
        name: LabeledImages(name, np.repeat(split.images, 10, axis=0), np.repeat(split.targets, 10, axis=0))
        for name, split in (("validation", data.validation), ("test", data.test))
    }
    report = quantize_model(
        color_run / "model.onnx", tmp_path / "x.onnx", calibration=data.train.images, **parts, answer="logits", force=True
    )
    assert interface(tmp_path / "x.onnx") == interface(color_run / "model.onnx")
    assert report.accuracy == pytest.approx(report.accuracy_float32, abs=0.1)
    assert OnnxModel(tmp_path / "x.onnx").colorize(data.test.images[0]).shape == (16, 20, 3)


# --- input that cannot be used ---


def test_quantize_refuses_bad_arguments(tiny_run, labeled, speeds, tmp_path):
    source, target = tiny_run / "model.onnx", tmp_path / "x.onnx"
    with pytest.raises(InputError, match="calibration needs 32 images or more; received 31"):
        quantize_model(source, target, **{**labeled, "calibration": labeled["calibration"][:31]})
    few = LabeledImages("test", labeled["test"].images[:5], labeled["test"].targets[:5])
    with pytest.raises(InputError, match="20 labeled images or more; received 5 test images"):
        quantize_model(source, target, **{**labeled, "test": few})
    with pytest.raises(InputError, match="kind must be int8 or float16; received 'int4'"):
        quantize_model(source, target, kind="int4", **labeled)
    with pytest.raises(InputError, match="provider must be cpu or cuda; received 'tpu'"):
        quantize_model(source, target, provider="tpu", **labeled)
    with pytest.raises(InputError, match="must not replace the float32 file"):
        quantize_model(source, source, **labeled)
    quantize_model(source, target, kind="float16", **labeled)
    with pytest.raises(InputError, match="quantized or float16 already"):
        quantize_model(target, tmp_path / "y.onnx", **labeled)


def test_quantize_refuses_a_file_without_scores(labeled, tmp_path):
    image = keras.Input((32, 32, 1))
    model = keras.Model(image, keras.layers.Dense(4)(keras.layers.Flatten()(image)))
    with pytest.raises(InputError, match="task 'embed' and no scores of classes"):
        quantize_model(export_model(model, tmp_path / "e.onnx", task="embed"), tmp_path / "x.onnx", **labeled)


def test_quantize_names_a_missing_provider(tiny_run, labeled, tmp_path):
    with pytest.raises(ProviderError, match="CUDAExecutionProvider"):
        quantize_model(tiny_run / "model.onnx", tmp_path / "x.onnx", **labeled, provider="cuda")


# --- the command ---


def test_quantize_command_keeps_a_good_file_in_the_run_and_shows_it_on_the_page(run_copy, speeds, capsys):
    assert main(["quantize", str(run_copy), "--calibration-images", "64"]) == 0
    printed = capsys.readouterr().out
    assert (
        "chosen on 288 validation images" in printed
        and "verdict: worth keeping" in printed
        and f"written: {run_copy / 'model.int8.onnx'}" in printed
    )
    assert read_contract(run_copy / "model.int8.onnx").precision.calibration_images == 64
    assert json.loads((run_copy / "quantize.json").read_bytes())["int8"]["ok"] is True
    made_from = json.loads((run_copy / "provenance.json").read_bytes())
    assert made_from["model.int8.onnx"] == made_from["quantize.json:int8"] == made_from["model.onnx"]
    assert "As int8" in (run_copy / "report.html").read_text(encoding="utf-8")

    speeds["other"] = 3.0
    with pytest.raises(CourseError) as told:
        main(["quantize", str(run_copy / "model.onnx"), "--batch", "8"])
    assert told.value.exit_code == 1
    assert str(told.value) == f"not kept: {run_copy / 'model.int8.onnx'} (--force keeps a file whatever the verdict)"
    printed = capsys.readouterr().out
    assert "NOT worth keeping" in printed and printed.count("at batch 8 it takes 3") == 1
    assert not (run_copy / "model.int8.onnx").exists(), "the file of the earlier call is removed"
    assert main(["quantize", str(run_copy), "--kind", "float16", "--force"]) == 0
    reports = json.loads((run_copy / "quantize.json").read_bytes())
    assert [report["ok"] for report in reports.values()] == [False, False] and reports["float16"]["kept"]
    printed = capsys.readouterr().out
    assert "chosen on" not in printed and "accuracy, 359 test" in printed, "nothing is chosen for float16"
    page = (run_copy / "report.html").read_text(encoding="utf-8")
    assert "At batch 8 it takes" in page and "kept by --force" in page


def test_quantize_command_takes_a_file_with_image_folders(tiny_run, digits, speeds, tmp_path, capsys):
    for target in range(10):
        folder = tmp_path / "images" / str(target)
        folder.mkdir(parents=True)
        for number, image in enumerate(digits.test.images[digits.test.targets == target][:8]):
            Image.fromarray(image[:, :, 0]).save(folder / f"{number}.png")
    source = shutil.copy(tiny_run / "model.onnx", tmp_path / "bare.onnx")
    words = [
        "quantize",
        str(source),
        "--images",
        str(tmp_path / "images"),
        "--calibration",
        str(tmp_path / "images"),
        "--force",
    ]
    assert main(words) == 0
    assert "40 validation (half of images) images" in capsys.readouterr().out
    assert read_contract(tmp_path / "bare.int8.onnx").precision.split == "test (half of images)"
    shutil.copytree(tmp_path / "images" / "7", tmp_path / "images" / "eleven")
    with pytest.raises(InputError, match="eleven is not one of the file's labels: 0, 1"):
        main(words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{run}/plots/parity.png"], "alone does not have its training data: give --calibration FOLDER"),
        (["{run}/model.onnx", "--images", "x"], "give --calibration FOLDER"),
        (["{run}", "--images", "x"], "are for an ONNX file"),
        (["{run}", "--calibration-images", "0"], "--calibration-images must be 1 or more; received 0"),
        (["{run}", "--batch", "0"], "batch sizes must be 1 or more"),
        (["nowhere"], "no such file or folder: nowhere"),
        (["{run}/plots"], "not a run folder"),
    ],
)
def test_quantize_command_refuses_bad_usage(words, message, tiny_run):
    with pytest.raises(InputError, match=message):
        main(["quantize", *(word.format(run=tiny_run.path) for word in words)])


def test_quantize_command_names_missing_data(color_run, tmp_path):
    with pytest.raises(DataError, match="no such data folder"):
        main(["quantize", str(color_run.path), "--data-dir", str(tmp_path / "gone")])


def test_quantize_command_prints_usage_for_an_unknown_provider_or_kind(capsys):
    for words in (["--provider", "tpu"], ["--kind", "int4"]):
        with pytest.raises(SystemExit, match="2"):
            main(["quantize", "x", *words])
    assert "invalid choice: 'int4'" in capsys.readouterr().err
