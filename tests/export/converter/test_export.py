"""Export and the parity gate, on small networks and on the tiny run; and files that must fail."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import onnx
import pytest

from export import OnnxModel, ParityError, check_parity, export_model, export_validated, read_contract
from export.contract import KEY, ContractError
from kerascv_course import create_model
from kerascv_course.core.errors import InputError
from kerascv_course.core.io import WriteError

keras = pytest.importorskip("keras")


@pytest.fixture(scope="module")
def served(tiny_run):
    """The tiny run's serving graph."""
    from export.converter.serving_graph import serving_classifier
    from kerascv_course.core.keras_file import load_model

    return serving_classifier(load_model(tiny_run.path))


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(0)
    return create_model("lenet5", num_classes=10, input_shape=(32, 32, 3))


@pytest.fixture(scope="module")
def noise():
    return np.random.default_rng(0).integers(0, 256, (70, 32, 32, 3), np.uint8)


def altered(source, target, change):
    """Copy an ONNX file with a change made to its model."""
    model = onnx.load(source)
    change(model)
    onnx.save(model, target)
    return target


# --- what is written ---


def test_the_run_left_a_file_that_explains_itself(tiny_run, tiny_recipe):
    contract = read_contract(tiny_run / "model.onnx")
    assert contract.name == "lenet5-digits" and contract.labels == tuple("0123456789")
    assert contract.preprocessing.where == "graph" and contract.preprocessing.mean == (0.5,)
    assert contract.metric("accuracy") == tiny_run.read_json("metrics.json")["test"]["accuracy"]
    assert contract.recipe["optimizer"]["learning_rate"] == tiny_recipe.optimizer.learning_rate
    assert contract.data["fingerprint"] == tiny_run.read_json("metrics.json")["data"]["fingerprint"]
    assert {"keras", "tensorflow", "tf2onnx"} <= set(contract.versions)


def test_the_graph_has_named_inputs_outputs_and_batch(tiny_run):
    model = onnx.load(tiny_run / "model.onnx")
    assert model.opset_import[0].version == 17
    (image,), outputs = model.graph.input, model.graph.output
    shape = [dim.dim_param or dim.dim_value for dim in image.type.tensor_type.shape.dim]
    assert (image.name, shape, image.type.tensor_type.elem_type) == ("image", ["batch", 32, 32, 1], onnx.TensorProto.UINT8)
    assert [output.name for output in outputs] == ["logits", "probabilities"]
    for output in outputs:
        assert [dim.dim_param or dim.dim_value for dim in output.type.tensor_type.shape.dim] == ["batch", 10]
    assert {node.op_type for node in model.graph.node} >= {"Cast", "Conv", "Softmax"}


def test_a_bare_network_takes_uint8_by_default(network, noise, tmp_path):
    path = export_model(
        network, tmp_path / "x.onnx", labels=list("abcdefghij"), preprocessing=((0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
    )
    assert check_parity(network, path, noise).ok
    labels, scores = OnnxModel(path).predict(noise)
    expected = network.predict((noise / 255 - (0.4, 0.5, 0.6)) / (0.2, 0.3, 0.4), verbose=0)
    np.testing.assert_allclose(scores, keras.ops.softmax(expected), atol=1e-5)
    assert labels == ["abcdefghij"[i] for i in expected.argmax(1)]


def test_float_input_leaves_the_preprocessing_to_the_caller_and_answers_alike(network, noise, tmp_path):
    options = {"preprocessing": ((0.4,), (0.2,))}
    as_float = OnnxModel(export_model(network, tmp_path / "f.onnx", input_dtype="float32", **options))
    as_uint8 = OnnxModel(export_model(network, tmp_path / "u.onnx", **options))
    assert as_float.contract.preprocessing.where == "caller" and as_float.contract.input.dtype == "float32"
    np.testing.assert_allclose(as_float.predict(noise).scores, as_uint8.predict(noise).scores, atol=1e-6)
    assert check_parity(network, tmp_path / "f.onnx", noise).ok
    preprocessed = ((noise / 255 - 0.4) / 0.2).astype(np.float32)
    assert check_parity(network, tmp_path / "f.onnx", preprocessed).ok
    np.testing.assert_allclose(as_float.predict(preprocessed).scores, as_uint8.predict(noise).scores, atol=1e-6)


def test_a_model_that_ends_in_other_things_keeps_its_outputs(noise, tmp_path):
    image = keras.Input((32, 32, 3))
    features = keras.layers.Conv2D(4, 3, strides=2)(image)
    model = keras.Model(image, [features, keras.layers.GlobalAveragePooling2D()(features)])
    path = export_model(model, tmp_path / "x.onnx")
    contract = read_contract(path)
    assert contract.task == "tensor" and [output.shape for output in contract.outputs] == [(15, 15, 4), (4,)]
    assert check_parity(model, path, noise).ok
    assert OnnxModel(path).run(noise)["output_1"].shape == (70, 4)
    with pytest.raises(ContractError, match="has the task 'tensor', whose outputs have no labels"):
        OnnxModel(path).predict(noise)


def test_a_softmax_at_the_end_is_not_doubled(noise, tmp_path):
    layers = [keras.Input((32, 32, 3)), keras.layers.Flatten(), keras.layers.Dense(5, activation="softmax")]
    model = keras.Sequential(layers)
    path = export_model(model, tmp_path / "x.onnx")
    assert [output.name for output in read_contract(path).outputs] == ["probabilities"]
    np.testing.assert_allclose(OnnxModel(path).predict(noise).scores, model.predict(noise / 255, verbose=0), atol=1e-5)
    assert check_parity(model, path, noise).ok


def test_a_file_that_is_there_is_replaced_only_by_a_whole_one(network, tmp_path, monkeypatch):
    path = export_model(network, tmp_path / "x.onnx")
    before = path.read_bytes()

    def full(_, file):
        file.write_bytes(before[:1000])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("export.files._write_by_weight", full)
    with pytest.raises(WriteError, match="the disk is full"):
        export_model(network, path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["x.onnx"]


# --- export and gate in one ---


def test_a_validated_export_is_certified_and_reuses_predictions(network, noise, tmp_path):
    predictions = {"logits": network.predict(noise / np.float32(255), verbose=0)}
    gate = {"targets": predictions["logits"].argmax(1), "batch_sizes": (70,), "predictions": predictions}
    report = export_validated(network, tmp_path / "x.onnx", noise, gate=gate, labels=list("abcdefghij"), commit="abc")
    contract = read_contract(tmp_path / "x.onnx")
    assert report.ok and report.path == str(tmp_path / "x.onnx") and [path.name for path in tmp_path.iterdir()] == ["x.onnx"]
    assert contract.parity == report.for_contract() and contract.parity.accuracy_onnx == 1 and contract.git_commit == "abc"
    assert check_parity(network, tmp_path / "x.onnx", noise, labels=list("abcdefghij")).ok

    gate["predictions"] = {"logits": predictions["logits"] + 1}
    with pytest.raises(
        ParityError, match=r"(?s)rejected.onnx does not give .*\n.*'logits', batch size 70, graph optimized: differs by 1"
    ):
        export_validated(network, tmp_path / "x.onnx", noise, gate=gate, rejected=tmp_path / "rejected.onnx")
    assert read_contract(tmp_path / "x.onnx") == contract and read_contract(tmp_path / "rejected.onnx").parity is None
    with pytest.raises(ParityError):
        export_validated(network, tmp_path / "y.onnx", noise, gate=gate)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rejected.onnx", "x.onnx"]


# --- what cannot be exported ---


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [((8, None, 3), "float32", "both known or both None"), ((8, 8, 2), "float32", "1 or 3"), ((8, 8, 3), "int32", "int32")],
)
def test_other_inputs_are_refused(tmp_path, shape, dtype, message):
    image = keras.Input(shape, dtype=dtype)
    with pytest.raises(InputError, match=message):
        export_model(keras.Model(image, keras.layers.Identity()(image)), tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())


def test_labels_must_fit_the_classes(network, tmp_path):
    with pytest.raises(ContractError, match="one label a class: 3 for"):
        export_model(network, tmp_path / "x.onnx", labels=["a", "b", "c"])
    with pytest.raises(InputError, match="opset is 15 to 23"):
        export_model(network, tmp_path / "x.onnx", opset=24)
    assert not list(tmp_path.iterdir())


# --- the gate ---


def test_the_gate_passes_and_reports_everything(served, tiny_run, digits):
    test = digits.test
    report = check_parity(served, tiny_run / "model.onnx", test.images, targets=test.targets)
    assert report.ok and report.images == 359
    seen = {(row.output, row.batch_size, row.evaluator) for row in report.rows}
    sizes = [(1, "optimized"), (7, "optimized"), (64, "optimized"), (64, "as written"), (1, "onnx.reference")]
    sizes += [(3, "optimized"), (8, "optimized"), (128, "optimized")]
    assert seen == {(output, *size) for output in ("logits", "probabilities") for size in sizes}
    assert max(row.max_absolute for row in report.rows) < 2e-5
    assert report.accuracy_keras == report.accuracy_onnx == tiny_run.read_json("metrics.json")["test"]["accuracy"]
    assert "parity passed: 359 images" in str(report)


def kernel(model):
    """The weights of a convolution."""
    return next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 4 and np.prod(tensor.dims) > 100)


def change_weight(model):
    """One weight of a convolution, by a little."""
    tensor = kernel(model)
    values = onnx.numpy_helper.to_array(tensor).copy()
    values.flat[values.size // 2] += 0.01
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))


def make_nan(model):
    tensor = kernel(model)
    values = np.full_like(onnx.numpy_helper.to_array(tensor), np.nan)
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))


def drop_normalisation(model):
    """Let the network see the raw pixels: pass the scale and offset by."""
    node = next(node for node in model.graph.node if node.op_type == "Mul")
    name = next(i for i in node.input if any(t.name == i for t in model.graph.initializer))
    tensor = next(t for t in model.graph.initializer if t.name == name)
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.ones_like(onnx.numpy_helper.to_array(tensor)), tensor.name))


def rotate_classes(model):
    """The order of the classes is another one in the last layer."""
    for tensor in model.graph.initializer:
        if tensor.dims and tensor.dims[-1] == 10 and tensor.data_type == onnx.TensorProto.FLOAT:
            values = np.roll(onnx.numpy_helper.to_array(tensor), 1, axis=-1)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values.copy(), tensor.name))


@pytest.mark.parametrize("change", [change_weight, make_nan, drop_normalisation, rotate_classes])
def test_altered_files_fail_and_say_what_differs(served, tiny_run, digits, tmp_path, change):
    path = altered(tiny_run / "model.onnx", tmp_path / "x.onnx", change)
    test = digits.test
    with pytest.raises(ParityError, match=r"output 'logits', batch size 1, graph optimized: differs by") as caught:
        check_parity(served, path, test.images, targets=test.targets)
    assert not caught.value.report.ok and "FAILED" in caught.value.report.summary()
    json.dumps(caught.value.report.to_plain(), allow_nan=False)
    if change is rotate_classes:
        assert any("predictions agree" in failure for failure in caught.value.report.failures)
        assert any("the accuracy is" in failure for failure in caught.value.report.failures)


def test_channels_swapped_in_the_graph_fail(network, noise, tmp_path):
    def swap(model):
        """The first convolution takes BGR for RGB."""
        tensor = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 4 and tensor.dims[1] == 3)
        values = onnx.numpy_helper.to_array(tensor)[:, ::-1].copy()
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))

    path = altered(export_model(network, tmp_path / "y.onnx"), tmp_path / "x.onnx", swap)
    with pytest.raises(ParityError, match="output 'logits', batch size 1, graph optimized: differs by"):
        check_parity(network, path, noise)


def test_a_changed_label_fails(served, tiny_run, digits, tmp_path):
    def swap(model):
        prop = next(prop for prop in model.metadata_props if prop.key == KEY)
        plain = json.loads(prop.value)
        plain["labels"][3], plain["labels"][5] = plain["labels"][5], plain["labels"][3]
        prop.value = json.dumps(plain)

    path = altered(tiny_run / "model.onnx", tmp_path / "x.onnx", swap)
    with pytest.raises(ParityError, match="class 3 is called '5' in the file and is '3'"):
        check_parity(served, path, digits.test.images, labels=digits.info.labels)
    with pytest.raises(ParityError, match="the file has 10 labels, the model 9 classes"):
        check_parity(served, path, digits.test.images, labels=digits.info.labels[:9])


def test_a_changed_label_fails_the_check_of_a_run(tiny_run, tmp_path):
    from kerascv_course.experiment import Experiment

    def rename(model):
        prop = next(prop for prop in model.metadata_props if prop.key == KEY)
        prop.value = prop.value.replace('"7"', '"sieben"')

    path = altered(tiny_run / "model.onnx", tmp_path / "x.onnx", rename)
    with pytest.raises(ParityError, match="class 7 is called 'sieben' in the file and is '7'"):
        Experiment.open(tiny_run.path).validate(path)


def test_a_file_cut_short_is_refused(served, tiny_run, digits, tmp_path):
    data = (tiny_run / "model.onnx").read_bytes()
    for share in (0.2, 0.9, 0.999):
        (tmp_path / "x.onnx").write_bytes(data[: int(share * len(data))])
        with pytest.raises(ContractError, match=r"x\.onnx"):
            check_parity(served, tmp_path / "x.onnx", digits.test.images)


def test_the_report_tells_how_the_differences_spread(tiny_run):
    plain = tiny_run.read_json("parity.json")
    rows = [row for row in plain["rows"] if row["evaluator"] == "as written"]
    assert [sum(row["histogram"]) for row in rows] == [3590, 3590]
    contract = read_contract(tiny_run / "model.onnx")
    assert contract.parity.images == 359 and contract.parity.accuracy_keras == contract.metric("accuracy")
    assert (tiny_run / "plots" / "parity.png").is_file()


def test_a_removed_output_fails(served, tiny_run, digits, tmp_path):
    def remove(model):
        del model.graph.output[0]
        prop = next(prop for prop in model.metadata_props if prop.key == KEY)
        plain = json.loads(prop.value)
        plain["outputs"] = plain["outputs"][1:]
        prop.value = json.dumps(plain)

    path = altered(tiny_run / "model.onnx", tmp_path / "x.onnx", remove)
    with pytest.raises(ParityError, match="output 'logits' of the Keras model is missing in the file"):
        check_parity(served, path, digits.test.images)


def test_a_contract_that_does_not_fit_the_graph_is_refused(tiny_run, tmp_path):
    def lie(field, value):
        def change(model):
            prop = next(prop for prop in model.metadata_props if prop.key == KEY)
            plain = json.loads(prop.value)
            plain["input"][field] = value
            prop.value = json.dumps(plain)

        return change

    for field, value in (("height", 28), ("layout", "NCHW"), ("name", "picture")):
        with pytest.raises(ContractError, match="promises the input"):
            OnnxModel(altered(tiny_run / "model.onnx", tmp_path / "x.onnx", lie(field, value)))
    with pytest.raises(ContractError, match="promises other outputs"):
        OnnxModel(altered(tiny_run / "model.onnx", tmp_path / "x.onnx", lambda model: model.graph.output.pop()))


def test_images_of_another_shape_or_type_are_refused(served, tiny_run):
    for images in (
        np.zeros((2, 28, 28, 1), np.uint8),
        np.zeros((2, 32, 32, 1), np.float32),
        np.zeros((0, 32, 32, 1), np.uint8),
    ):
        with pytest.raises(InputError, match="check_parity takes uint8 images"):
            check_parity(served, tiny_run / "model.onnx", images)


def test_a_run_whose_gate_fails_ends_with_the_error_and_keeps_no_model(tiny_recipe, tmp_path):
    from kerascv_course.experiment import Experiment

    strict = dataclasses.replace(
        tiny_recipe, epochs=1, export=dataclasses.replace(tiny_recipe.export, tolerance=1e-12, relative=0.0)
    )
    with pytest.raises(ParityError, match="does not give the same answers as Keras"):
        Experiment(strict, tmp_path / "run").run()
    assert not (tmp_path / "run" / "model.onnx").exists() and (tmp_path / "run" / "model.rejected.onnx").exists()
    assert json.loads((tmp_path / "run" / "parity.json").read_text())["ok"] is False
    assert "more than 1e-12 (tolerance 1e-12 + relative 0 ×" in (tmp_path / "run" / "report.html").read_text()


def test_the_metadata_key_is_fixed():
    assert KEY == "kerascv_course.contract"
