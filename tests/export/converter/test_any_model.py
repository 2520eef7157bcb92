"""Keras models that were not made here: preprocessing by name, layouts, sizes, opsets, external data, .keras files."""

from __future__ import annotations

import sys
from collections import Counter

import numpy as np
import onnx
import pytest
from PIL import Image

from export import OnnxModel, ParityError, certify, check_parity, export_model, read_contract
from export.__main__ import main
from export.commands.run import _read_labels
from export.converter.convert import ExportError
from export.files import replace_model, write_model
from kerascv_course.core.errors import CourseError, InputError, UnknownNameError
from kerascv_course.core.images import ImageError

keras = pytest.importorskip("keras")


@pytest.fixture(scope="module")
def noise():
    return np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def small():
    """Eight classes from one convolution."""
    keras.utils.set_random_seed(0)
    layers = [
        keras.Input((32, 32, 3)),
        keras.layers.Conv2D(8, 3, strides=2, bias_initializer="normal"),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(8, name="logits"),
    ]
    return keras.Sequential(layers, name="small")


# --- preprocessing ---


@pytest.mark.parametrize("mode", ["tf", "torch", "caffe"])
def test_preprocessing_by_name_is_that_of_keras_applications(small, noise, tmp_path, mode):
    path = export_model(small, tmp_path / "x.onnx", preprocessing=mode)
    preprocessed = keras.applications.imagenet_utils.preprocess_input(noise.astype(np.float32), mode=mode)
    expected = keras.ops.convert_to_numpy(small(preprocessed))
    np.testing.assert_allclose(OnnxModel(path).run(noise)["logits"], expected, rtol=1e-4, atol=1e-4)
    check_parity(small, path, noise)
    by_caller = export_model(small, tmp_path / "f.onnx", preprocessing=mode, input_dtype="float32")
    np.testing.assert_allclose(OnnxModel(by_caller).run(noise)["logits"], expected, rtol=1e-4, atol=1e-4)
    check_parity(small, by_caller, noise)
    assert read_contract(path).preprocessing.channels == ("BGR" if mode == "caffe" else "as fed")


def test_pixels_as_they_are(small, noise, tmp_path):
    path = export_model(small, tmp_path / "x.onnx", preprocessing="pixels")
    expected = keras.ops.convert_to_numpy(small(noise.astype(np.float32)))
    np.testing.assert_allclose(OnnxModel(path).run(noise)["logits"], expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(InputError, match=r"unknown preprocessing 'coffee'.*did you mean 'caffe'"):
        export_model(small, tmp_path / "y.onnx", preprocessing="coffee")


def test_a_network_of_keras_applications(noise, tmp_path):
    keras.utils.set_random_seed(0)
    network = keras.applications.MobileNetV2((32, 32, 3), alpha=0.35, weights=None, classes=10, classifier_activation=None)
    generator = np.random.default_rng(0)
    for variable in network.weights:  # fresh statistics of 0 and 1 would hide how they are used
        if "moving" in variable.path or variable.path.endswith(("gamma", "beta")):
            variable.assign(variable + generator.uniform(0, 0.5, variable.shape))
    path = export_model(network, tmp_path / "x.onnx", preprocessing="tf")
    report = check_parity(network, path, noise, reference_images=0)
    assert report.ok and np.ptp(OnnxModel(path).run(noise)["logits"]) > 1e-3


# --- layout and size ---


@pytest.mark.parametrize("input_dtype", ["uint8", "float32"])
def test_both_layouts_and_both_types_of_input_are_one_model(small, noise, tmp_path, input_dtype):
    answers = {}
    for layout in ("NHWC", "NCHW"):
        path = export_model(small, tmp_path / f"{layout}.onnx", layout=layout, input_dtype=input_dtype)
        check_parity(small, path, noise)
        counts = Counter(node.op_type for node in onnx.load(path).graph.node)
        assert counts["Transpose"] == (layout == "NHWC")
        answers[layout] = OnnxModel(path).run(noise)["logits"]
    shape = [dim.dim_value for dim in onnx.load(path).graph.input[0].type.tensor_type.shape.dim]
    assert shape[1:] == [3, 32, 32]
    np.testing.assert_allclose(answers["NHWC"], answers["NCHW"], atol=1e-6)
    with pytest.raises(InputError, match=r"layout is NHWC or NCHW.*received 'HWC'"):
        export_model(small, tmp_path / "x.onnx", layout="HWC")


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_a_model_that_resizes_takes_pictures_of_any_size(small, tmp_path, layout):
    image = keras.Input((None, None, 3))
    model = keras.Model(image, small(keras.layers.Resizing(32, 32)(image)), name="resizing")
    path = export_model(model, tmp_path / "x.onnx", layout=layout, preprocessing="tf")
    generator = np.random.default_rng(0)
    pictures = [generator.integers(0, 256, (*size, 3), np.uint8) for size in ((40, 50), (40, 50), (20, 64))]
    scores = OnnxModel(path).predict(pictures).scores
    for picture, row in zip(pictures, scores, strict=True):
        expected = keras.ops.softmax(model(picture[None] / np.float32(127.5) - 1))[0]
        np.testing.assert_allclose(row, expected, atol=1e-5)
    check_parity(model, path, np.stack(pictures[:2]))


# --- what else a file can be ---


def test_embedders_give_vectors_of_length_1(small, noise, tmp_path):
    path = export_model(small, tmp_path / "x.onnx", task="embed")
    (output,) = read_contract(path).outputs
    assert (output.meaning, output.activation, output.shape) == ("embedding", "l2", (8,))
    np.testing.assert_allclose(np.linalg.norm(OnnxModel(path).run(noise)["embedding"], axis=1), 1, atol=1e-6)
    check_parity(small, path, noise)


@pytest.mark.parametrize("opset", [15, 18, 21])
def test_opsets(small, noise, tmp_path, opset):
    path = export_model(small, tmp_path / "x.onnx", opset=opset)
    assert onnx.load(path).opset_import[0].version == opset
    check_parity(small, path, noise)


def test_what_onnx_itself_has_fields_for(small, tmp_path):
    model = onnx.load(export_model(small, tmp_path / "x.onnx", license="CC-BY-4.0", metrics={"test": {"accuracy": 0.5}}))
    properties = {prop.key: prop.value for prop in model.metadata_props}
    assert properties["Image.BitmapPixelFormat"] == "Rgb8" and properties["Image.NominalPixelRange"] == "NominalRange_0_255"
    assert properties["Image.ColorSpaceGamma"] == "SRGB"
    assert model.producer_name == "kerascv_course" and model.doc_string
    (image,) = model.graph.input
    assert image.type.denotation == "IMAGE"
    axes = [dim.denotation for dim in image.type.tensor_type.shape.dim]
    assert axes == ["DATA_BATCH", "DATA_FEATURE", "DATA_FEATURE", "DATA_CHANNEL"]
    contract = read_contract(tmp_path / "x.onnx")
    assert contract.license == "CC-BY-4.0" and contract.metric("accuracy") == 0.5 and contract.metric("loss") is None


def test_what_was_proved_is_written_into_the_file(small, noise, tmp_path):
    path = export_model(small, tmp_path / "x.onnx")
    assert read_contract(path).parity is None
    report = check_parity(small, path, noise, targets=np.zeros(9, int))
    certify(path, report)
    proof = read_contract(path).parity
    assert (proof.images, proof.agreement, proof.accuracy_onnx) == (9, 1.0, report.accuracy_keras)
    check_parity(small, path, noise)


@pytest.mark.parametrize("which", ["gelu", "antialias"])
def test_what_tf2onnx_cannot_convert(noise, tmp_path, which):
    image = keras.Input((32, 32, 3))
    if which == "gelu":
        values = keras.layers.Dense(2, activation="gelu")(keras.layers.Flatten()(image))
    else:
        values = keras.layers.GlobalAveragePooling2D()(keras.layers.Resizing(5, 7, antialias=True)(image))
    model = keras.Model(image, values)
    path = export_model(model, tmp_path / "x.onnx", converter="native")
    assert read_contract(path).converter == "native"
    check_parity(model, path, noise)


def test_an_operation_that_cannot_be_converted_is_named_with_its_layer(tmp_path):
    image = keras.Input((8, 8, 3))
    values = keras.layers.Lambda(lambda x: keras.ops.linalg.svd(x[..., 0])[1], name="singular")(image)
    with pytest.raises(ExportError, match=r"singular.*SVD of keras\.ops has no converter.*tf2onnx"):
        export_model(keras.Model(image, values), tmp_path / "x.onnx", converter="native")
    with pytest.raises(InputError, match="converter is native or tf2onnx; received 'other'"):
        export_model(keras.Model(image, values), tmp_path / "x.onnx", converter="other")
    assert not list(tmp_path.iterdir())


def test_a_file_is_written_weight_by_weight(tmp_path):
    generator = np.random.default_rng(0)
    weights = {name: generator.normal(size=size).astype(np.float32) for name, size in {"a": (3, 200), "none": (0, 4)}.items()}
    node = onnx.helper.make_node("MatMul", ["x", "a"], ["y"], doc_string="ä")
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [node],
        "g",
        [value("x", 1, ["n", 3])],
        [value("y", 1, ["n", 200])],
        [
            *(onnx.numpy_helper.from_array(array, name) for name, array in weights.items()),
            onnx.helper.make_tensor("listed", onnx.TensorProto.INT64, [2], [-1, 2**40]),
        ],
    )
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], producer_name="p")
    onnx.helper.set_model_props(proto, {"key": "value"})
    write_model(proto, tmp_path / "x.onnx")
    assert onnx.load(tmp_path / "x.onnx") == proto
    assert onnx.load(tmp_path / "x.onnx").SerializeToString(deterministic=True) == proto.SerializeToString(deterministic=True)


def test_weights_beyond_the_limit_go_beside_the_file(small, noise, tmp_path, monkeypatch):
    whole = OnnxModel(export_model(small, tmp_path / "whole.onnx")).run(noise)["logits"]
    monkeypatch.setattr("export.files.MAX_SINGLE_FILE", 1000)
    path = export_model(small, tmp_path / "x.onnx")
    (data,) = tmp_path.glob("weights-*.data")
    certify(path, check_parity(small, path, noise))
    np.testing.assert_array_equal(OnnxModel(path).run(noise)["logits"], whole)
    monkeypatch.setattr("export.files.MAX_SINGLE_FILE", 10**6)  # so that the small model file is looked into
    replace_model(tmp_path / "whole.onnx", path)
    assert not data.exists(), "weights that nobody uses any more are removed"
    assert sorted(item.name for item in tmp_path.iterdir()) == ["x.onnx"]


class Subclass(keras.Model):
    """A model without a graph."""

    def __init__(self):
        super().__init__(name="subclass")
        self.head = keras.layers.Dense(4)

    def call(self, image):
        return self.head(keras.ops.mean(image, axis=(1, 2)))


def test_a_subclass_leaves_when_it_is_wrapped(noise, tmp_path):
    model = Subclass()
    with pytest.raises(InputError, match=r"subclass \(Subclass\) is a subclass without a graph: wrap it, image = keras\.Input"):
        export_model(model, tmp_path / "x.onnx")
    image = keras.Input(noise.shape[1:])
    wrapped = keras.Model(image, model(image))
    assert check_parity(wrapped, export_model(wrapped, tmp_path / "x.onnx", task="classify"), noise).ok


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("model.keras", "takes a keras.Model; received str: open a file with kerascv_course.load_model"),
        (
            keras.Sequential([keras.layers.Dense(2)], name="s"),
            r"s \(Sequential\) has no shapes yet: begin it with keras\.Input",
        ),
        (keras.Model([a := keras.Input((8, 8, 3)), b := keras.Input((8, 8, 3))], a + b), r"one input, an image .* has 2"),
    ],
)
def test_what_is_no_model_of_one_image_is_refused(model, message, tmp_path):
    with pytest.raises(InputError, match=message):
        export_model(model, tmp_path / "x.onnx")


def test_preprocessing_of_one_number(small, noise, tmp_path):
    path = export_model(small, tmp_path / "x.onnx", preprocessing=(0.5, 0.25))
    assert (read_contract(path).preprocessing.mean, read_contract(path).preprocessing.std) == ((0.5,), (0.25,))
    assert check_parity(small, path, noise).ok


@pytest.mark.parametrize(
    ("given", "received"),
    [
        (0.5, "0.5"),
        (((0.5, 0.5), (0.5, 0.5)), "2 numbers for images of 3 channels"),
        (((0.5,) * 4, (0.5,) * 4), "4 numbers for images of 3 channels"),
        (((0.5, 0.5, 0.5),), r"\(\(0.5, 0.5, 0.5\),\)"),
        (("a", "b"), r"\('a', 'b'\)"),
    ],
)
def test_preprocessing_of_another_form_is_refused(given, received, small, tmp_path):
    with pytest.raises(InputError, match=rf"preprocessing is \(mean, std\) after pixels / 255, .*; received {received}"):
        export_model(small, tmp_path / "x.onnx", preprocessing=given)


def test_unknown_options_and_tasks_are_refused(small, tmp_path):
    with pytest.raises(TypeError, match="export_model has no options colour; it has labels, input_dtype"):
        export_model(small, tmp_path / "x.onnx", colour=True)
    with pytest.raises(UnknownNameError, match="unknown task 'clasify'; did you mean 'classify'"):
        export_model(small, tmp_path / "x.onnx", task="clasify")


def test_an_image_is_given_in_any_form(small, noise, tmp_path):
    """One image of a palette, of Pillow, in a file, and from a generator."""
    model = OnnxModel(export_model(small, tmp_path / "x.onnx", task="classify"))
    opened = Image.fromarray(noise[0]).convert("P")
    opened.save(tmp_path / "1.png")
    pixels = np.asarray(opened.convert("RGB"))
    expected = model.predict(pixels).scores
    for images in (opened, [opened], tmp_path / "1.png", [tmp_path / "1.png"], (one for one in [opened]), iter([pixels])):
        np.testing.assert_array_equal(model.predict(images).scores, expected)
    many = model.predict((one for one in noise[:5]), batch_size=2).scores
    np.testing.assert_allclose(many, model.predict(noise[:5]).scores, atol=1e-6)


@pytest.mark.parametrize("images", [None, 3, b"\x89PNG", {"image": 1}, object()])
def test_what_is_no_image_is_refused(images, small, tmp_path):
    model = OnnxModel(export_model(small, tmp_path / "x.onnx", task="classify"))
    with pytest.raises(ImageError, match=f"a Pillow image, or several of these; received {type(images).__name__}"):
        model.predict(images)


def test_the_gate_takes_one_array(small, noise, tmp_path):
    path = export_model(small, tmp_path / "x.onnx", task="classify")
    for images in (None, list(noise), (one for one in noise), [Image.fromarray(noise[0])]):
        with pytest.raises(InputError, match=rf"images as one array .*; received {type(images).__name__}"):
            check_parity(small, path, images)


def test_a_file_that_was_just_written_is_not_called_damaged(small, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : Could not find an implementation for Conv(99)")

    monkeypatch.setattr("onnxruntime.InferenceSession", refuse)
    with pytest.raises(CourseError, match=r"onnxruntime [\d.]+ cannot run .*implementation for Conv\(99\)") as caught:
        export_model(small, tmp_path / "x.onnx")
    assert "damaged" not in str(caught.value)


def test_a_fixed_batch_is_run_batch_by_batch(tmp_path):
    image = keras.Input(batch_shape=(1, 8, 8, 3))
    model = keras.Model(image, keras.layers.Dense(4, name="logits")(keras.layers.Flatten()(image)))
    images = np.random.default_rng(0).integers(0, 256, (10, 8, 8, 3), np.uint8)
    path = export_model(model, tmp_path / "x.onnx")
    assert check_parity(model, path, images).images == 10


# --- python -m export MODEL.keras ---


@pytest.mark.parametrize("text", ["\ufeffa\nb\n", "a  \r\nb\t\r\n\r\n", "a\nb"])
def test_files_of_labels_as_editors_write_them(text, tmp_path):
    (tmp_path / "labels.txt").write_text(text, encoding="utf-8", newline="")
    assert _read_labels(str(tmp_path / "labels.txt")) == ["a", "b"]


def test_an_empty_line_among_labels_is_refused(tmp_path):
    (tmp_path / "labels.txt").write_text("a\n\nb\n")
    with pytest.raises(InputError, match=r"one name a line; line 2 of .*labels\.txt is empty"):
        _read_labels(str(tmp_path / "labels.txt"))


@pytest.fixture
def keras_file(small, tmp_path):
    small.save(tmp_path / "small.keras")
    for name in "abcdefgh":
        folder = tmp_path / "pictures" / name
        folder.mkdir(parents=True)
        pixels = np.random.default_rng(ord(name)).integers(0, 256, (40, 30, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "1.png")
    return tmp_path / "small.keras"


def test_a_keras_file_is_exported_and_proved_on_pictures(keras_file, tmp_path, capsys):
    (tmp_path / "labels.txt").write_text("\n".join("abcdefgh"))
    words = [keras_file, "--labels", tmp_path / "labels.txt", "--images", tmp_path / "pictures", "--preprocessing", "tf"]
    assert main([*map(str, words), "--layout", "NCHW", "--opset", "18"]) == 0
    printed = capsys.readouterr().out
    assert "parity passed: 8 images" in printed and "accuracy" in printed
    contract = read_contract(tmp_path / "small.onnx")
    assert contract.labels == tuple("abcdefgh") and contract.parity.images == 8 and contract.input.layout == "NCHW"
    assert not (tmp_path / "small.rejected.onnx").exists()


def test_a_keras_file_without_pictures(keras_file, tmp_path, capsys):
    with pytest.raises(InputError, match=r"give --images FOLDER .* or --noise"):
        main([str(keras_file)])
    assert main([str(keras_file), "--noise", "-o", str(tmp_path / "other.onnx"), "--preprocessing", "0.5", "0.25"]) == 0
    assert "on random pixels" in capsys.readouterr().out
    assert read_contract(tmp_path / "other.onnx").preprocessing.std == (0.25,)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--labels", "nowhere.txt", "--noise"], "no such file: nowhere.txt"),
        (["--labels", "a,b", "--noise"], "one label a class: 2 for"),
        (["--tolerance", "-1", "--noise"], "--tolerance must be above 0; received -1"),
        (["--preprocessing", "1", "2", "3", "--noise"], "three means and three stds; received 1 2 3"),
        (["--preprocessing", "cafe", "--noise"], "did you mean 'caffe'"),
        (["--images", "nowhere"], "no such folder of images: nowhere"),
    ],
)
def test_what_is_wrong_with_the_options_is_told(keras_file, words, message):
    with pytest.raises(InputError, match=message):
        main([str(keras_file), *words])
    assert not list(keras_file.parent.glob("*.onnx"))


def test_options_of_a_keras_file_are_refused_for_a_run(tiny_run):
    with pytest.raises(InputError, match=r"--layout is for a .keras file"):
        main([str(tiny_run.path), "--layout", "NCHW"])


def test_code_in_a_keras_file_is_not_run(tmp_path):
    image = keras.Input((8, 8, 3))
    model = keras.Model(image, keras.layers.Lambda(lambda x: x * 2)(image))
    model.save(tmp_path / "x.keras")
    (tmp_path / "y.keras").write_bytes(b"PK\x03\x04 no")
    for name, why in (("x", "without Lambda layers, which hold code"), ("y", "not a .keras archive, or damaged")):
        with pytest.raises(InputError, match=f"cannot be opened as a Keras model.*{why}"):
            main([str(tmp_path / f"{name}.keras"), "--noise"])
    with pytest.raises(InputError, match="no such file"):
        main([str(tmp_path / "none.keras"), "--noise"])
    (tmp_path / "z.h5").touch()
    with pytest.raises(InputError, match="is in Keras's old format"):
        main([str(tmp_path / "z.h5"), "--noise"])


def test_a_keras_file_that_fails_the_gate_is_kept_as_rejected(keras_file, tmp_path, monkeypatch):
    run = sys.modules["export.validation"]
    monkeypatch.setattr(run, "MIN_AGREEMENT", 2.0)
    with pytest.raises(ParityError, match="predictions agree"):
        main([str(keras_file), "--noise"])
    assert sorted(path.name for path in tmp_path.glob("*.onnx")) == ["small.rejected.onnx"]
