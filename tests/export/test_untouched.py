"""The gate beside the untouched model: targets of any form, tolerances, open sizes, other batch sizes and images, blind models."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from export import OnnxModel, ParityError, check_parity, expected_contract, export_model, read_contract
from export.files import rewrite_contract
from kerascv_course.core.errors import InputError

keras = pytest.importorskip("keras")
layers, ops = keras.layers, keras.ops


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), np.uint8)


def network(head, shape=(8, 8, 3), body=layers.Flatten):
    """A model of one image with a given end."""
    keras.utils.set_random_seed(0)
    image = keras.Input(shape)
    return keras.Model(image, head(body()(image)))


@pytest.fixture(scope="module")
def classifier():
    return network(layers.Dense(4, name="logits"))


def answers_of(model, images):
    return model.predict(images / np.float32(255), verbose=0)


def altered(path, change):
    """The file at `path` with its graph changed in place."""
    model = onnx.load(path)
    change(model.graph)
    onnx.save(model, path)
    return path


# --- targets ----------------------------------------------------------------------------------------------------------------------


TARGETS = {
    "column": lambda targets: targets[:, None],
    "one-hot": lambda targets: np.eye(4)[targets],
    "one-hot of bool": lambda targets: np.eye(4, dtype=bool)[targets],
    "list": lambda targets: targets.tolist(),
    "uint8": lambda targets: targets.astype(np.uint8),
    "whole floats": lambda targets: targets.astype(np.float32),
}


@pytest.mark.parametrize("form", TARGETS)
def test_targets_of_any_form_give_one_accuracy(form, classifier, images, tmp_path):
    path = export_model(classifier, tmp_path / "x.onnx")
    right = answers_of(classifier, images).argmax(axis=1)
    targets = np.where(np.arange(len(images)) < 5, (right + 1) % 4, right)
    report = check_parity(classifier, path, images, targets=TARGETS[form](targets))
    assert report.accuracy_keras == report.accuracy_onnx == 0.75


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda t: t[:-1], r"one entry an image; received \(19,\) for 20 images"),
        (lambda t: [str(n) for n in t], r"numbers of the classes; received <U1 such as \['"),
        (lambda t: np.full(20, 4), "classes 0 to 3, as the output 'logits' has them; received 4"),
        (lambda t: np.full(20, -1), "received -1"),
        (lambda t: np.ones((20, 4)), "one-hot targets have one 1"),
        (lambda t: np.zeros((20, 5)), r"one-hot with 4 classes; received \(20, 5\)"),
        (lambda t: np.full(20, 0.5), "received float64"),
        (lambda t: 3, "one entry an image"),
    ],
)
def test_targets_that_do_not_fit_are_refused(wrong, message, classifier, images, tmp_path):
    path = export_model(classifier, tmp_path / "x.onnx")
    with pytest.raises(InputError, match=message):
        check_parity(classifier, path, images, targets=wrong(np.zeros(20, np.int64)))


def test_targets_of_labels_that_do_not_exclude_each_other(images, tmp_path):
    model = network(layers.Dense(3, activation="sigmoid"))
    path = export_model(model, tmp_path / "x.onnx", labels=["a", "b", "c"])
    targets = (answers_of(model, images) >= 0.5).astype(int)
    targets[:10, 0] = 1 - targets[:10, 0]
    report = check_parity(model, path, images, targets=targets)
    assert report.accuracy_keras == report.accuracy_onnx == pytest.approx(50 / 60)
    with pytest.raises(InputError, match=r"0 and 1 for each of 3 labels, \(N, 3\); received \(20,\)"):
        check_parity(model, path, images, targets=targets[:, 0])


def test_targets_of_one_sigmoid_are_its_two_classes(images, tmp_path):
    model = network(layers.Dense(1, activation="sigmoid"))
    path = export_model(model, tmp_path / "x.onnx", labels=["no", "yes"])
    targets = answers_of(model, images)[:, 0] >= 0.5
    assert check_parity(model, path, images, targets=targets).accuracy_onnx == 1


def test_targets_of_vectors_are_identities(images, tmp_path):
    model = network(layers.Dense(6))
    path = export_model(model, tmp_path / "x.onnx", task="embed")
    assert check_parity(model, path, images, targets=np.arange(20)[:, None] // 2).accuracy_keras is not None
    with pytest.raises(InputError, match=r"identities \(N,\); received \(20, 2\)"):
        check_parity(model, path, images, targets=np.zeros((20, 2), int))


# --- what the file is compared with ------------------------------------------------------------------------------------------------


def test_a_serving_graph_that_answers_otherwise_than_the_model_fails(images, tmp_path, monkeypatch):
    """Should the serving graph be built wrongly, then file and serving graph agree, and the untouched model tells."""
    import export.converter.convert as convert
    import export.validation as validation

    built = convert.serving_graph

    def doubled(model, **options):
        graph = built(model, **options)
        outputs = dict(graph.output)
        outputs["probabilities"] = layers.Softmax()(outputs["probabilities"])
        return keras.Model(graph.input, outputs, name=graph.name)

    model = network(layers.Dense(3, activation="softmax"))
    monkeypatch.setattr(convert, "serving_graph", doubled)
    monkeypatch.setattr(validation, "serving_graph", doubled)
    path = export_model(model, tmp_path / "x.onnx")
    with pytest.raises(ParityError, match="output 'probabilities', batch size 1"):
        check_parity(model, path, images)


def test_probabilities_that_are_none_fail(images, tmp_path):
    model = network(layers.Dense(3, activation="softmax"))
    path = export_model(model, tmp_path / "x.onnx")

    def halve(graph):
        (last,) = [node for node in graph.node if "probabilities" in node.output]
        last.output[0] = "whole"
        graph.initializer.append(numpy_helper.from_array(np.float32(0.5), "half"))
        graph.node.append(onnx.helper.make_node("Mul", ["whole", "half"], ["probabilities"]))

    altered(path, halve)
    with pytest.raises(ParityError, match="output 'probabilities'"):
        check_parity(model, path, images)


def test_values_far_from_1_are_held_to_a_relative_tolerance_that_the_error_names(images, tmp_path):
    model = network(layers.Rescaling(1e6, name="boxes"))
    path = export_model(model, tmp_path / "x.onnx", task="tensor")
    (output,) = (check_parity(model, path, images).rows[0],)
    assert output.scale > 1e5

    def shift(graph):
        (last,) = [node for node in graph.node if node.output[0] == graph.output[0].name]
        name = last.output[0]
        last.output[0] = "whole"
        graph.initializer.append(numpy_helper.from_array(np.float32(50), "fifty"))
        graph.node.append(onnx.helper.make_node("Add", ["whole", "fifty"], [name]))

    altered(path, shift)
    with pytest.raises(ParityError, match=r"differs by 50.*tolerance 0\.0001 \+ relative 1e-05 × the largest value 1e\+06"):
        check_parity(model, path, images)
    assert check_parity(model, path, images, relative=1e-4).ok
    assert check_parity(model, path, images, tolerance=51).ok


def test_what_onnx_reference_cannot_run_is_a_note(classifier, images, tmp_path, monkeypatch):
    class Refuses:
        def __init__(self, *_):
            raise RuntimeError("no such operator\nat line 7")

    monkeypatch.setattr("export.validation.ReferenceEvaluator", Refuses)
    path = export_model(classifier, tmp_path / "x.onnx")
    report = check_parity(classifier, path, images)
    assert report.notes == ("onnx.reference cannot run the file: RuntimeError: no such operator",)
    assert report.notes[0] in str(report)


# --- open sizes -----------------------------------------------------------------------------------------------------------------


def cropped_to_64(x):
    return layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(x[:, :64, :64]))


def padded_to_16(x):
    height, width = ops.shape(x)[1], ops.shape(x)[2]
    return layers.GlobalAveragePooling2D()(ops.pad(x, ((0, 0), (0, -height % 16), (0, -width % 16), (0, 0))) ** 2)


OPEN = {
    "slice": cropped_to_64,
    "cropping": lambda x: layers.GlobalMaxPooling2D()(layers.Cropping2D(((1, 2), (3, 0)))(x)),
    "center crop": lambda x: layers.GlobalAveragePooling2D()(layers.CenterCrop(20, 24)(x)),
    "stride": lambda x: layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3, strides=2, padding="same")(x)),
    "zero padding": lambda x: layers.GlobalMaxPooling2D()(layers.ZeroPadding2D(1)(x) - 0.5),
    "upsampling": lambda x: layers.GlobalMaxPooling2D()(layers.UpSampling2D(2, interpolation="bilinear")(x)),
    "pooling": lambda x: layers.GlobalAveragePooling2D()(layers.AveragePooling2D(3, padding="same")(x)),
}


@pytest.mark.parametrize("body", OPEN)
def test_open_sizes_are_right_for_every_size(body, tmp_path):
    model = network(layers.Dense(3), (None, None, 3), lambda: OPEN[body])
    rng = np.random.default_rng(0)
    path = export_model(model, tmp_path / "x.onnx", task="tensor")
    assert check_parity(model, path, rng.integers(0, 256, (4, 32, 30, 3), np.uint8)).ok
    file = OnnxModel(path)
    for height, width in ((30, 31), (47, 33), (64, 64), (65, 80), (97, 128)):
        some = rng.integers(0, 256, (2, height, width, 3), np.uint8)
        (values,) = file.run(some).values()
        np.testing.assert_allclose(values, model(some / np.float32(255), training=False), rtol=1e-5, atol=1e-5)


def test_padding_to_a_multiple_is_right_or_refused_by_name(tmp_path):
    """A function of shapes in a layer's call: computed for the sizes that come, not for the one that it was written at."""

    class PadTo16(layers.Layer):
        def call(self, x):
            return padded_to_16(x)

        def compute_output_shape(self, shape):
            return (shape[0], shape[3])

    model = network(layers.Dense(3), (None, None, 3), PadTo16)
    path = export_model(model, tmp_path / "x.onnx", task="tensor")
    rng = np.random.default_rng(0)
    for height, width in ((16, 32), (17, 31), (33, 64)):
        some = rng.integers(0, 256, (2, height, width, 3), np.uint8)
        (values,) = OnnxModel(path).run(some).values()
        np.testing.assert_allclose(values, model(some / np.float32(255), training=False), rtol=1e-5, atol=1e-5)


def test_mobilenet_of_open_size(tmp_path):
    keras.utils.set_random_seed(0)
    model = keras.applications.MobileNetV2(input_shape=(None, None, 3), include_top=False, weights=None, alpha=0.35)
    path = export_model(model, tmp_path / "x.onnx", task="tensor", preprocessing="tf")
    images = np.random.default_rng(0).integers(0, 256, (4, 64, 70, 3), np.uint8)
    assert check_parity(model, path, images).ok


def test_a_file_that_is_right_only_up_to_the_size_in_its_graph_fails(tmp_path):
    """The slice of the model stands at 64, so images of the sizes tried before lie below it; one above is tried too."""
    model = network(layers.Dense(3), (None, None, 3), lambda: cropped_to_64)
    whole = network(layers.Dense(3), (None, None, 3), lambda: lambda x: cropped_to_64(x[:, :60, :60]))
    whole.set_weights(model.get_weights())
    path = export_model(whole, tmp_path / "x.onnx", task="tensor")
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    with pytest.raises(ParityError, match=r"images of 6[0-9]×6[0-9]"):
        check_parity(model, path, images)


# --- batch sizes and images -------------------------------------------------------------------------------------------------------


def test_a_file_that_is_wrong_at_one_unusual_batch_size_fails(classifier, images, tmp_path, monkeypatch):
    path = export_model(classifier, tmp_path / "x.onnx")
    run = OnnxModel.run

    def changed(self, images, *, batch_size=64):
        outputs = run(self, images, batch_size=batch_size)
        return {name: values + (0.1 if batch_size == 8 else 0) for name, values in outputs.items()}

    monkeypatch.setattr(OnnxModel, "run", changed)
    with pytest.raises(ParityError, match=r"output 'logits', batch size 8, graph optimized: differs by 0\.1"):
        check_parity(classifier, path, images)


def test_a_file_that_is_wrong_for_white_images_fails(classifier, images, tmp_path):
    """No image of the split is white; the file clips their values."""
    path = export_model(classifier, tmp_path / "x.onnx")
    dark = images // 4

    def clip(graph):
        image = graph.input[0].name
        graph.node[0].input[list(graph.node[0].input).index(image)] = "clipped"
        graph.initializer.append(numpy_helper.from_array(np.uint8(80), "most"))
        graph.node.insert(0, onnx.helper.make_node("Min", [image, "most"], ["clipped"]))

    altered(path, clip)
    with pytest.raises(ParityError, match="black, white, inverted and random images, output 'logits'"):
        check_parity(classifier, path, dark)


def blind():
    """A model whose answers hardly vary over the images: its features are next to 0, beside the biases."""
    model = network(layers.Dense(5), body=lambda: lambda x: layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(x) * 1e-9))
    model.layers[-1].bias.assign([0.1, 0.2, 0.3, 0.4, 0.5])
    return model


def test_a_model_whose_outputs_hardly_vary_is_proved_by_its_weights(images, tmp_path):
    model = blind()
    path = export_model(model, tmp_path / "x.onnx", task="tensor")
    before = model.get_weights()
    report = check_parity(model, path, images)
    assert report.ok
    assert "a copy with disturbed weights was converted and compared" in " ".join(report.notes)
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)

    def change(graph):
        kernel = next(tensor for tensor in graph.initializer if len(tensor.dims) == 4)
        array = numpy_helper.to_array(kernel).copy()
        array[0, 0, 0, 0] += 0.05
        kernel.CopyFrom(numpy_helper.from_array(array, kernel.name))

    altered(path, change)
    with pytest.raises(ParityError, match=r"weight '.*' is not that of a fresh conversion of the model"):
        check_parity(model, path, images)


# --- the contract ------------------------------------------------------------------------------------------------------------------


STATED = {
    "labels": {"labels": ("b", "a", "c", "d")},
    "preprocessing.mean": {"preprocessing": {"mean": (0.4, 0.5, 0.5)}},
    "preprocessing.std": {"preprocessing": {"std": (0.3, 0.5, 0.5)}},
    "input.resize": {"input": {"resize": "nearest"}},
    "data": {"data": {"source": "elsewhere", "fingerprint": "1"}},
    "license": {"license": "none"},
    "name": {"name": "another"},
    "metrics: test accuracy": {"metrics": 1.0},
}


@pytest.mark.parametrize("part", STATED)
def test_what_the_contract_states_of_the_model_is_checked(part, classifier, images, tmp_path):
    options = {
        **{"labels": ["a", "b", "c", "d"], "preprocessing": ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)), "name": "mine"},
        **{"metrics": {"test": {"accuracy": 0.5}}, "data": {"source": "here", "fingerprint": "0"}, "license": "CC0"},
    }
    path = export_model(classifier, tmp_path / "x.onnx", **options)
    expected = expected_contract(classifier, **options)
    assert check_parity(classifier, path, images, contract=expected).ok
    contract = read_contract(path)
    ((field, value),) = STATED[part].items()
    if field == "metrics":
        value = tuple(dataclasses.replace(metric, value=value) for metric in contract.metrics)
    elif isinstance(value, dict) and field != "data":
        value = dataclasses.replace(getattr(contract, field), **value)
    forged = dataclasses.replace(contract, **{field: value})
    if field == "preprocessing":  # documents what stands in the graph, which only the run knows
        expected = dataclasses.replace(expected, preprocessing=value)
    else:
        rewrite_contract(path, forged)
    with pytest.raises(ParityError, match=f"the contract states {part}"):
        check_parity(classifier, path, images, contract=expected)
