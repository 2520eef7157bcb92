"""int8 and float16 with a verdict: the speeds are made up here, the graphs and their accuracy are not."""

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
from export.quantization.precision import Int8Maker, is_reduced
from export.quantization.quantize import Labelled, quantize_model
from export.quantization.verdict import RefusedError, Speed
from kerascv_course.core.errors import DataError, InputError

keras = pytest.importorskip("keras")


@pytest.fixture
def speeds(monkeypatch):
    """Milliseconds of the float32 file and of the other, in place of measured ones."""
    times = {"float32": 2.0, "other": 1.0}
    monkeypatch.setattr(
        export.quantization.quantize,
        "measure_speeds",
        lambda original, reduced, images, sizes: tuple(Speed(size, times["float32"], times["other"]) for size in sizes),
    )
    return times


@pytest.fixture(scope="module")
def labelled(digits):
    """What `quantize_model` takes of the digits."""
    splits, _ = digits
    return {
        "calibration": splits.train.images[:200],
        "validation": Labelled("validation", splits.validation.images, splits.validation.targets),
        "test": Labelled("test", splits.test.images, splits.test.targets),
    }


@pytest.fixture
def run_copy(tiny_run, tmp_path):
    """The tiny run, free to be changed."""
    return shutil.copytree(tiny_run.path, tmp_path / "run")


def interface(path):
    session = OnnxModel(path).session
    return [(v.name, v.type, v.shape) for v in (*session.get_inputs(), *session.get_outputs())]


# --- the verdict ---


@pytest.mark.parametrize("kind", ["int8", "float16"])
def test_a_file_as_good_and_faster_is_kept_and_takes_the_place_of_the_old(kind, tiny_run, labelled, speeds, tmp_path):
    source, target = tiny_run / "model.onnx", tmp_path / "x.onnx"
    report = quantize_model(source, target, kind=kind, **labelled)
    assert report.ok and report.kept and report.failures == ()
    assert interface(target) == interface(source)
    assert is_reduced(onnx.load(target)) and not is_reduced(onnx.load(source))
    assert target.stat().st_size == report.bytes or target.stat().st_size < source.stat().st_size
    before, after = read_contract(source), read_contract(target)
    assert (
        dataclasses.replace(after, precision=None, parity=before.parity, metrics=before.metrics, versions=before.versions)
        == before
    )
    assert after.parity is None, "what was proved of the float32 file is not true of this one"
    assert after.precision.kind == kind and after.precision.refused == ()
    assert after.precision.batch_sizes == (1, 64) and after.precision.speedups == (2.0, 2.0)
    test = labelled["test"]
    answers = np.array([int(label) for label in OnnxModel(target).predict(test.images).labels])
    assert np.mean(answers == test.targets) == report.accuracy == after.precision.accuracy == after.metric("accuracy")
    assert "worth keeping" in str(report) and json.dumps(report.to_plain())


def test_int8_has_weights_per_channel_and_keeps_preprocessing_and_scores_in_float(tiny_run, labelled):
    proto = Int8Maker(tiny_run / "model.onnx", labelled["calibration"], method="minmax").make()
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


def test_a_loss_of_accuracy_is_refused(tiny_run, labelled, speeds, tmp_path, monkeypatch):
    monkeypatch.setattr(
        export.quantization.quantize, "_growing", lambda most: iter(())
    )  # two layers in float would rescue even this
    black = np.zeros_like(labelled["calibration"])  # ranges in which no digit fits
    with pytest.raises(
        RefusedError, match=r"accuracy falls by \d+\.\d\d points, from 0\.\d+ to 0\.\d+ on 359 test images"
    ) as caught:
        quantize_model(tiny_run / "model.onnx", tmp_path / "x.onnx", **{**labelled, "calibration": black})
    assert caught.value.exit_code == 1 and not any(tmp_path.iterdir())
    assert len(caught.value.report.sensitivities) == 5, "layers were searched for one to blame"


def test_no_gain_in_speed_is_refused_and_force_keeps_it_with_the_verdict_inside(tiny_run, labelled, speeds, tmp_path):
    speeds["other"] = 1.95
    with pytest.raises(RefusedError, match=r"at batch 1 it takes 1\.950 ms against 2\.000 ms of float32, 1\.03× as fast"):
        quantize_model(tiny_run / "model.onnx", tmp_path / "x.onnx", **labelled)
    assert not any(tmp_path.iterdir())
    report = quantize_model(tiny_run / "model.onnx", tmp_path / "x.onnx", **labelled, force=True)
    assert report.kept and not report.ok and "NOT worth keeping, kept all the same" in str(report)
    assert read_contract(tmp_path / "x.onnx").precision.refused == report.failures != ()


def test_a_layer_that_quantises_badly_is_found_and_stays_in_float(speeds, tmp_path):
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
        "validation": Labelled("validation", images[:200], answers[:200]),
        "test": Labelled("test", images[200:], answers[200:]),
    }
    target = tmp_path / "int8.onnx"
    report = quantize_model(source, target, calibration=images[:100], **parts)
    assert report.trials[0].accuracy < 0.9 and report.accuracy > 0.995 and report.kept
    assert report.sensitivities[0].layer == "spoilt" and report.float_layers == ("spoilt",)
    assert read_contract(target).precision.float_nodes == (report.sensitivities[0].node,)
    assert "stay in float32: spoilt" in str(report)


def test_a_colouriser_is_judged_by_its_pixels(color_run, speeds, tmp_path):
    from kerascv_course.conclusion import run_data

    splits, _ = run_data(color_run)
    parts = {
        name: Labelled(name, np.repeat(split.images, 10, axis=0), np.repeat(split.targets, 10, axis=0))
        for name, split in (("validation", splits.validation), ("test", splits.test))
    }
    report = quantize_model(
        color_run / "model.onnx", tmp_path / "x.onnx", calibration=splits.train.images, **parts, answer="logits", force=True
    )
    assert interface(tmp_path / "x.onnx") == interface(color_run / "model.onnx")
    assert report.accuracy == pytest.approx(report.accuracy_float32, abs=0.1)
    assert OnnxModel(tmp_path / "x.onnx").colorize(splits.test.images[0]).shape == (16, 20, 3)


# --- input that cannot be used ---


def test_what_cannot_be_quantised_is_named(tiny_run, labelled, speeds, tmp_path):
    source, target = tiny_run / "model.onnx", tmp_path / "x.onnx"
    with pytest.raises(InputError, match="calibration takes 32 images or more; received 31"):
        quantize_model(source, target, **{**labelled, "calibration": labelled["calibration"][:31]})
    few = Labelled("test", labelled["test"].images[:5], labelled["test"].targets[:5])
    with pytest.raises(InputError, match="20 labelled images or more; received 5 test images"):
        quantize_model(source, target, **{**labelled, "test": few})
    with pytest.raises(InputError, match="kind is int8 or float16; received 'int4'"):
        quantize_model(source, target, kind="int4", **labelled)
    with pytest.raises(InputError, match="provider is cpu or cuda; received 'tpu'"):
        quantize_model(source, target, provider="tpu", **labelled)
    with pytest.raises(InputError, match="another than the float32 file"):
        quantize_model(source, source, **labelled)
    quantize_model(source, target, kind="float16", **labelled)
    with pytest.raises(InputError, match="quantised or of float16 already"):
        quantize_model(target, tmp_path / "y.onnx", **labelled)


def test_a_file_without_scores_is_refused(labelled, tmp_path):
    image = keras.Input((32, 32, 1))
    model = keras.Model(image, keras.layers.Dense(4)(keras.layers.Flatten()(image)))
    with pytest.raises(InputError, match="task 'embed' and no scores of classes"):
        quantize_model(export_model(model, tmp_path / "e.onnx", task="embed"), tmp_path / "x.onnx", **labelled)


def test_a_provider_that_is_not_there_is_told(tiny_run, labelled, tmp_path):
    with pytest.raises(ProviderError, match="CUDAExecutionProvider"):
        quantize_model(tiny_run / "model.onnx", tmp_path / "x.onnx", **labelled, provider="cuda")


# --- the command ---


def test_the_command_keeps_a_good_file_in_the_run_and_puts_it_on_its_page(run_copy, speeds, capsys):
    assert main(["quantize", str(run_copy), "--calibration-images", "64"]) == 0
    printed = capsys.readouterr().out
    assert "verdict: worth keeping" in printed and f"written: {run_copy / 'model.int8.onnx'}" in printed
    assert read_contract(run_copy / "model.int8.onnx").precision.calibration_images == 64
    assert json.loads((run_copy / "quantize.json").read_bytes())["int8"]["ok"] is True
    assert "As int8" in (run_copy / "report.html").read_text(encoding="utf-8")

    speeds["other"] = 3.0
    with pytest.raises(RefusedError, match="is not kept: at batch 8 it takes 3"):
        main(["quantize", str(run_copy), "--batch", "8"])
    assert "NOT worth keeping" in capsys.readouterr().out
    assert not (run_copy / "model.int8.onnx").exists(), "the file of the earlier call is taken back"
    assert main(["quantize", str(run_copy), "--kind", "float16", "--force"]) == 0
    reports = json.loads((run_copy / "quantize.json").read_bytes())
    assert [report["ok"] for report in reports.values()] == [False, False] and reports["float16"]["kept"]
    page = (run_copy / "report.html").read_text(encoding="utf-8")
    assert "At batch 8 it takes" in page and "kept all the same" in page


def test_the_command_quantises_a_bare_file_with_folders_of_pictures(tiny_run, digits, speeds, tmp_path, capsys):
    splits, _ = digits
    for target in range(10):
        folder = tmp_path / "pictures" / str(target)
        folder.mkdir(parents=True)
        for number, picture in enumerate(splits.test.images[splits.test.targets == target][:8]):
            Image.fromarray(picture[:, :, 0]).save(folder / f"{number}.png")
    source = shutil.copy(tiny_run / "model.onnx", tmp_path / "bare.onnx")
    words = [
        "quantize",
        str(source),
        "--images",
        str(tmp_path / "pictures"),
        "--calibration",
        str(tmp_path / "pictures"),
        "--force",
    ]
    assert main(words) == 0
    assert "40 validation (half of pictures) images" in capsys.readouterr().out
    assert read_contract(tmp_path / "bare.int8.onnx").precision.split == "test (half of pictures)"
    (tmp_path / "pictures" / "eleven").mkdir()
    with pytest.raises(InputError, match="eleven is none of the file's labels: 0, 1"):
        main(words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{run}/model.onnx"], "alone does not say what it was trained on: give --calibration FOLDER"),
        (["{run}", "--images", "x"], "go with an ONNX file"),
        (["{run}", "--calibration-images", "0"], "--calibration-images is 1 or more; received 0"),
        (["{run}", "--batch", "0"], "batch sizes are 1 or more"),
        (["nowhere"], "no such run folder or ONNX file: nowhere"),
        (["{run}/plots"], "not a run folder"),
    ],
)
def test_bad_usage_of_the_command(words, message, tiny_run):
    with pytest.raises(InputError, match=message):
        main(["quantize", *(word.format(run=tiny_run.path) for word in words)])


def test_the_command_says_where_the_training_data_is_missing(color_run, tmp_path):
    with pytest.raises(DataError, match="no such data folder"):
        main(["quantize", str(color_run.path), "--data-dir", str(tmp_path / "gone")])


def test_an_unknown_provider_or_kind_ends_with_usage(capsys):
    for words in (["--provider", "tpu"], ["--kind", "int4"]):
        with pytest.raises(SystemExit, match="2"):
            main(["quantize", "x", *words])
    assert "invalid choice: 'int4'" in capsys.readouterr().err
