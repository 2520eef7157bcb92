"""The commands of ``python -m export``: run or file, what is printed, and how bad paths are answered."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from export import export_model, read_contract
from export.__main__ import main
from export.commands import COMMANDS
from export.commands.images import SkippedImages
from export.commands.inspect import describe_contract
from export.predictor import ProviderError
from export.untrusted.screen import screen
from kerascv_course.core.errors import InputError
from kerascv_course.core.images import ImageError


@pytest.fixture
def printed(capsys):
    """What a command prints, which ends with this exit code."""

    def call(*words, code=0):
        assert main([str(word) for word in words]) == code
        return capsys.readouterr().out

    return call


@pytest.fixture
def run_copy(tiny_run, tmp_path):
    """A copy of the tiny run to change."""
    return shutil.copytree(tiny_run.path, tmp_path / "run")


def refused(*words):
    """The message of a command that ends with exit code 2."""
    with pytest.raises(InputError) as told:
        main([str(word) for word in words])
    return str(told.value)


# --- run or file ---


@pytest.mark.parametrize("words", [["inspect", "MODEL"], ["predict", "MODEL", "RUN/samples"]])
def test_a_run_folder_means_its_model_file(words, tiny_run, printed):
    def fill(model):
        return [word.replace("MODEL", str(model)).replace("RUN", str(tiny_run.path)) for word in words]

    assert printed(*fill(tiny_run.path)) == printed(*fill(tiny_run / "model.onnx"))


def test_doctor_compares_with_the_run_that_the_file_is_in(tiny_run, tmp_path, printed):
    for model in (tiny_run.path, tiny_run / "model.onnx"):
        assert "healthy" in printed("doctor", model, "--limit", 40)
    assert "healthy" in printed("doctor", tiny_run.path, "--against", tiny_run / "model.onnx", "--limit", 40)
    alone = shutil.copy(tiny_run / "model.onnx", tmp_path / "alone.onnx")
    assert "alone.onnx is not in a run folder: give --against" in refused("doctor", alone)


def test_check_validates_a_file_of_a_run_against_that_run(run_copy, tmp_path, printed):
    from export import ParityError

    assert "parity passed" in printed("check", run_copy / "model.onnx")
    assert "parity passed" in printed("check", run_copy / "best.keras")
    assert "parity passed" in printed("check", run_copy, "--tolerance", 0.5)
    assert "--tolerance must be above 0; received 0" in refused("check", run_copy, "--tolerance", 0)
    assert "--relative must be 0 or above; received -1" in refused("check", run_copy, "--relative", -1)
    model = onnx.load(run_copy / "model.onnx")
    tensor = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 4)
    tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) + 0.01, tensor.name))
    onnx.save(model, run_copy / "altered.onnx")
    with pytest.raises(ParityError, match=r"altered\.onnx does not give the same answers"):
        main(["check", str(run_copy / "altered.onnx")])
    alone = shutil.copy(run_copy / "model.onnx", tmp_path / "alone.onnx")
    assert f"python -m export check RUN --file {alone}" in refused("check", alone)


def test_the_run_says_where_its_file_is_validated_and_an_option_overrides_it(run_copy, printed, monkeypatch):
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    recipe = json.loads((run_copy / "recipe.json").read_text())
    recipe["export"]["provider"] = "cuda"
    (run_copy / "recipe.json").write_text(json.dumps(recipe))
    with pytest.raises(ProviderError, match="has no CUDAExecutionProvider"):
        main(["check", str(run_copy)])
    assert "parity passed" in printed("check", run_copy, "--provider", "cpu")


def test_run_is_not_guessed_from_an_onnx_file(tiny_run, tmp_path):
    message = refused(tiny_run / "model.onnx")
    assert "model.onnx is not a .keras file" in message and f"python -m export {tiny_run.path}" in message
    alone = shutil.copy(tiny_run / "model.onnx", tmp_path / "alone.onnx")
    assert "is exported already" in refused(alone)


@pytest.mark.parametrize(
    "words",
    [["inspect"], ["predict", "x.png"], ["embed", "x.png", "--output", "x.npy"], ["page", "-o", "x"], ["check"], ["doctor"]],
)
def test_folders_without_a_model_are_told_what_they_lack(words, tiny_run, run_copy, tmp_path):
    command, *rest = words
    (run_copy / "model.onnx").unlink()
    message = refused(command, run_copy, *rest)
    assert f"{run_copy / 'model.onnx'} is missing: export the run first, python -m export {run_copy}" in message
    (tmp_path / "empty").mkdir()
    message = refused(command, tmp_path / "empty", *rest)
    assert "empty is not a run folder" in message or "the folder {} has no model.onnx".format(tmp_path / "empty") in message


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["run"],
        ["run", "--gallery", "x"],
        ["check"],
        ["inspect"],
        ["predict", "x.png"],
        ["predict-many", "x", "--output", "out"],
        ["embed", "x.png", "--output", "x.npy"],
        ["page", "-o", "x"],
        ["doctor"],
        ["quantize"],
        ["benchmark"],
    ],
)
def test_a_path_that_does_not_exist_is_called_that(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in ("runs/nowhere", "nowhere.onnx"):
        assert refused(*words[:1], path, *words[1:]).startswith(f"no such file or folder: {path}")


@pytest.mark.parametrize("name", ["run", "check"])
def test_a_run_that_is_called_like_a_command_is_exported(name, tiny_run, tmp_path, monkeypatch, printed):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_run.path, name)
    (Path(name) / "model.onnx").unlink()
    assert f"{name}/model.onnx" in printed(name)
    assert (Path(name) / "model.onnx").is_file()


def test_a_word_that_is_neither_path_nor_command_is_answered_with_commands():
    assert refused("quantise", "x.onnx") == "no such file or folder: quantise; did you mean the command quantize?"
    assert refused("nowhere") == f"no such file or folder: nowhere; commands: {', '.join(COMMANDS)}"


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("saved/saved_model.pb", "is a SavedModel, which holds TensorFlow's operations"),
        ("old.h5", "is in Keras's old format"),
        ("net.weights.h5", "holds weights without a model"),
        ("net.tflite", "holds TensorFlow's operations"),
        ("net.pth", "torch.onnx.export"),
        ("net.onnx", "is exported already"),
        ("net.zip", "the only supported format: model.save"),
    ],
)
@pytest.mark.parametrize("words", [[], ["run"]])
def test_models_in_other_formats_are_told_the_way_to_a_keras_file(words, name, remedy, tmp_path):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"x")
    assert remedy in refused(*words, path.parent if path.parent != tmp_path else path)


def test_without_a_word_the_commands_are_listed(printed):
    text = printed(code=2)
    assert re.findall(r"^    (\S+)", text, re.MULTILINE) == list(COMMANDS)


# --- what is printed ---


def test_inspect_neither_repeats_names_nor_prints_a_scale_of_255_as_a_fraction(tiny_run):
    contract = read_contract(tiny_run / "model.onnx")
    lines = describe_contract(contract)
    assert lines["output logits"] == "batch×10" and lines["output probabilities"] == "batch×10 (softmax)"
    std = f"{contract.preprocessing.std[0]:g}"
    assert lines["preprocessing"] == f"in the graph: feed raw pixels; (pixel / 255 − 0.5) / {std}"
    color = dataclasses.replace(contract.input, channels=3, color="RGB")
    scores = dataclasses.replace(contract.outputs[0], name="scores")
    contract = dataclasses.replace(contract, input=color, outputs=(scores, contract.outputs[1]))
    assert describe_contract(contract)["output scores"] == "logits batch×10"
    for scale, mean, std, text in (
        (1.0, (103.939, 116.779, 123.68), (1.0, 1.0, 1.0), "(pixel − [103.939, 116.779, 123.68]) / [1, 1, 1]"),
        (0.25, (0.5,), (0.25,), "(pixel · 0.25 − 0.5) / 0.25"),
    ):
        steps = dataclasses.replace(contract.preprocessing, scale=scale, mean=mean, std=std)
        lines = describe_contract(dataclasses.replace(contract, preprocessing=steps))
        assert lines["preprocessing"] == f"in the graph: feed raw pixels; {text}"


def test_inspect_names_the_operators_that_a_runtime_needs(tiny_run, printed):
    text = printed("inspect", str(tiny_run / "model.onnx"))
    model = onnx.load(tiny_run / "model.onnx")
    for node in model.graph.node:
        assert re.search(rf"^operators .*\b{node.op_type}\b", text, re.MULTILINE)
    needs = f"opset ai.onnx {model.opset_import[0].version}; IR version {model.ir_version}"
    assert re.search(rf"^needs +{needs}$", text, re.MULTILINE)


def test_inspect_of_a_file_of_any_image_size_leaves_out_what_depends_on_it(tmp_path, printed):
    keras = pytest.importorskip("keras")
    image = keras.Input((None, None, 3), name="image")
    model = keras.Model(image, keras.layers.Conv2D(2, 3)(image))
    text = printed("inspect", str(export_model(model, tmp_path / "any.onnx", task="tensor")))
    assert re.search(r"^graph +\d+ nodes$", text, re.MULTILINE) and re.search("^operators .*Conv", text, re.MULTILINE)


def test_a_file_that_is_no_protobuf_is_told_in_protobufs_words(tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"\x0b\x0c")
    with pytest.raises(InputError, match=r"\(invalid protobuf wire type 3\)"):
        screen(tmp_path / "x.onnx")


def test_skipped_images_are_counted_and_named():
    def fail(path: Path) -> np.ndarray:
        raise ImageError(f"{path} is damaged")

    skipped = SkippedImages(1)
    skipped.load(fail, Path("a.png"))
    with pytest.raises(InputError, match=r"^skipped 1 of 1 images: a\.png is damaged$"):
        skipped.check()
    skipped.total = 4
    skipped.load(fail, Path("b.png"))
    with pytest.raises(InputError, match=r"^skipped 2 of 4 images:\n  a\.png is damaged\n  b\.png is damaged$"):
        skipped.check()
