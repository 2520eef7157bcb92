from __future__ import annotations

import re

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

from export.contract import ContractError
from export.predictor import OnnxModel, ProviderError, expand_paths, open_session
from kerascv_course.core.images import ImageError


@pytest.fixture(scope="module")
def model(tiny_run):
    return OnnxModel(tiny_run / "model.onnx")


@pytest.fixture(scope="module")
def seven(digits):
    split = digits.test
    return split.images[np.flatnonzero(split.targets == 7)[0]]


def test_the_accuracy_is_the_recorded_one(model, digits, tiny_run):
    split = digits.test
    labels, scores = model.predict(split.images)
    right = np.mean([label == str(target) for label, target in zip(labels, split.targets, strict=True)])
    assert right == tiny_run.read_json("metrics.json")["test"]["accuracy"]
    assert scores.shape == (359, 10) and scores.dtype == np.float32
    np.testing.assert_allclose(scores.sum(1), 1, atol=1e-5)


def test_every_way_to_hand_over_a_picture_gives_the_same_answer(model, seven, tmp_path):
    gray = seven[:, :, 0]
    Image.fromarray(gray).save(tmp_path / "gray.png")
    Image.fromarray(np.dstack([gray] * 3)).save(tmp_path / "rgb.png")
    Image.fromarray(np.dstack([gray] * 3 + [np.full_like(gray, 255)])).save(tmp_path / "rgba.png")
    Image.fromarray(gray.astype(np.uint16) * 257).save(tmp_path / "sixteen.png")
    picture = Image.fromarray(gray)
    picture.convert("P").save(tmp_path / "palette.png")
    ways = [seven, gray, seven[None], [seven], np.dstack([gray] * 3), tmp_path / "gray.png", str(tmp_path / "rgb.png")]
    ways += [[tmp_path / "rgba.png"], tmp_path / "sixteen.png", tmp_path / "palette.png", [gray, tmp_path / "gray.png"][1:]]
    expected = model.predict(seven).scores
    for way in ways:
        np.testing.assert_allclose(model.predict(way).scores, expected, atol=1e-6)


def test_pictures_of_other_sizes_are_resized_as_in_training(model, seven, tmp_path):
    Image.fromarray(seven[:, :, 0]).resize((64, 64), Image.Resampling.BILINEAR).save(tmp_path / "big.png")
    assert model.predict(tmp_path / "big.png").labels == model.predict(seven).labels


def test_batches_do_not_matter(model, digits):
    images = digits.test.images[:20]
    np.testing.assert_allclose(model.predict(images, batch_size=3).scores, model.predict(images).scores, atol=1e-6)


def test_the_best_classes_come_in_order(model, seven):
    predictions = model.predict(seven)
    best = predictions.top(10)[0]
    assert [score for _, score in best] == sorted((score for _, score in best), reverse=True)
    assert str(best[0][0]) == predictions.labels[0]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((32, 32, 1), np.float32), "received an array of float32: pass the raw pixels"),
        (np.zeros((32, 32, 2), np.uint8), r"received \(32, 32, 2\)"),
        (np.zeros(5, np.uint8), r"received \(5,\)"),
        (np.zeros((0, 5), np.uint8), "received"),
        ([], "no images to predict"),
        ("no/such.png", "no such image"),
    ],
)
def test_what_is_not_an_image_is_refused(model, images, message):
    with pytest.raises(ImageError, match=message):
        model.predict(images)


def test_files_that_are_no_models_are_refused(tmp_path, tiny_run):
    with pytest.raises(ContractError, match="no such file"):
        OnnxModel(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("hello")
    with pytest.raises(ContractError, match="is not an ONNX model that can be run"):
        OnnxModel(tmp_path / "text.onnx")
    whole = (tiny_run / "model.onnx").read_bytes()
    (tmp_path / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ContractError, match="is not an ONNX model that can be run"):
        OnnxModel(tmp_path / "cut.onnx")
    stranger = onnx.load(tiny_run / "model.onnx")
    del stranger.metadata_props[:]
    onnx.save(stranger, tmp_path / "stranger.onnx")
    with pytest.raises(ContractError, match="has no contract"):
        OnnxModel(tmp_path / "stranger.onnx")


def test_a_provider_that_is_not_to_be_had_is_an_error_not_a_fallback(tiny_run):
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        try:
            session = open_session(tiny_run / "model.onnx", provider="cuda")
        except ProviderError:
            return
        assert "CUDAExecutionProvider" in session.get_providers()
    else:
        with pytest.raises(ProviderError, match="install onnxruntime-gpu"):
            open_session(tiny_run / "model.onnx", provider="cuda")


def test_folders_are_expanded_to_their_images(tmp_path, seven):
    for name in ("b.png", "a.jpg", "deep/c.bmp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(seven[:, :, 0]).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("x")
    assert [path.name for path in expand_paths([tmp_path])] == ["a.jpg", "b.png", "c.bmp"]
    assert expand_paths([tmp_path / "notes.txt"]) == [tmp_path / "notes.txt"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match="no images in the folder"):
        expand_paths([tmp_path / "empty"])
    with pytest.raises(ImageError, match="no such image"):
        expand_paths([tmp_path / "none"])


def test_a_file_that_answers_otherwise_than_it_promises_is_refused(tiny_run, seven, tmp_path):
    def save(change):
        model = onnx.load(tiny_run / "model.onnx")
        change(model)
        for output in model.graph.output:
            output.type.tensor_type.ClearField("shape")
        onnx.save(model, tmp_path / "x.onnx")
        return OnnxModel(tmp_path / "x.onnx")

    def widen(model):
        node = next(node for node in model.graph.node if node.op_type == "Softmax")
        node.output[0] = "narrow"
        model.graph.node.append(onnx.helper.make_node("Concat", ["narrow", "narrow"], ["probabilities"], axis=1))

    def break_down(model):
        node = next(node for node in model.graph.node if node.op_type == "Softmax")
        node.output[0] = "narrow"
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([7, 7, 7]), "seven"))
        model.graph.node.append(onnx.helper.make_node("Reshape", ["narrow", "seven"], ["probabilities"]))

    with pytest.raises(ContractError, match=r"promises 'probabilities' of the shape \(1, 10\); it answers \(1, 20\)"):
        save(widen).predict(seven)
    with pytest.raises(ContractError, match=r"fails on images of \(32, 32, 1\)"):
        save(break_down).predict(seven)


def test_a_folder_that_may_not_be_read_is_not_an_empty_one(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("os.scandir", refuse)
    with pytest.raises(PermissionError, match="Permission denied"):
        expand_paths([tmp_path])


def test_why_cuda_cannot_be_used_is_told(tiny_run, monkeypatch):
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    try:
        session = open_session(tiny_run / "model.onnx", provider="cuda")
    except ProviderError as error:
        assert re.search(r"CUDAExecutionProvider cannot be used here: .*(lib\w+\.so|no NVIDIA GPU|\.dll)", str(error))
    else:
        assert "CUDAExecutionProvider" in session.get_providers()


def test_two_onnxruntimes_in_one_environment_are_told(tiny_run, monkeypatch):
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr("importlib.metadata.distributions", lambda name: [name] if name == "onnxruntime" else [])
    with pytest.raises(ProviderError, match="has no CUDAExecutionProvider: install onnxruntime-gpu, or use --provider cpu"):
        open_session(tiny_run / "model.onnx", provider="cuda")
    monkeypatch.setattr("importlib.metadata.distributions", lambda name: [name])
    with pytest.raises(
        ProviderError, match="both installed and overwrite each other: uninstall both, then install onnxruntime-g"
    ):
        open_session(tiny_run / "model.onnx", provider="cuda")
