"""What the output of a model is, told by its operations and its values."""

from __future__ import annotations

import numpy as np
import pytest

from export import OnnxModel, check_parity, export_model, read_contract
from kerascv_course.core.errors import InputError

keras = pytest.importorskip("keras")
ops = keras.ops


class OwnSoftmax(keras.layers.Layer):
    def call(self, x):
        powers = ops.exp(x - ops.max(x, axis=-1, keepdims=True))
        return powers / ops.sum(powers, axis=-1, keepdims=True)


class Named(keras.layers.Layer):
    def call(self, x):
        return ops.softmax(x)


def dense(units=3, **options):
    return keras.layers.Dense(units, kernel_initializer=keras.initializers.RandomNormal(stddev=2, seed=1), **options)


def model_of(head):
    keras.utils.set_random_seed(0)
    image = keras.Input((4, 4, 3))
    return keras.Model(image, head(keras.layers.Flatten()(image)), name="small")


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(3).integers(0, 256, (20, 4, 4, 3), np.uint8)


def outputs_of(model, images, folder, **options):
    """Outputs of the exported file, its contract, and what the untouched model gives."""
    path = export_model(model, folder / "x.onnx", **options)
    assert check_parity(model, path, images).ok
    return OnnxModel(path).run(images), read_contract(path), model.predict(images / np.float32(255), verbose=0)


SOFTMAX = {
    "Dense": lambda x: dense(activation="softmax")(x),
    "Softmax": lambda x: keras.layers.Softmax()(dense()(x)),
    "ops.softmax": lambda x: ops.softmax(dense()(x)),
    "activations.softmax": lambda x: keras.activations.softmax(dense()(x)),
    "Activation": lambda x: keras.layers.Activation("softmax")(dense()(x)),
    "Lambda": lambda x: keras.layers.Lambda(lambda y: ops.softmax(y), output_shape=(3,))(dense()(x)),
    "a layer": lambda x: Named()(dense()(x)),
    "then linear": lambda x: keras.layers.Activation("linear", dtype="float32")(dense(activation="softmax")(x)),
    "then Reshape": lambda x: keras.layers.Reshape((3,))(ops.reshape(dense(activation="softmax")(x), (-1, 1, 3))),
    "then Flatten": lambda x: keras.layers.Flatten()(keras.layers.Reshape((1, 1, 3))(dense(activation="softmax")(x))),
    "then Dropout": lambda x: keras.layers.Dropout(0.5)(dense(activation="softmax")(x)),
    "a model": lambda x: keras.Sequential([keras.Input((48,)), dense(activation="softmax")])(x),
}

OTHER_PROBABILITIES = {
    "Average": lambda x: keras.layers.Average()([dense(activation="softmax")(x), keras.layers.Softmax()(dense()(x * 2))]),
    "own formula": lambda x: OwnSoftmax()(dense()(x)),
}


@pytest.mark.parametrize("head", [*SOFTMAX, *OTHER_PROBABILITIES])
def test_probabilities_are_not_put_through_a_softmax_again(head, images, tmp_path):
    outputs, contract, keras_gives = outputs_of(model_of({**SOFTMAX, **OTHER_PROBABILITIES}[head]), images, tmp_path)
    assert contract.task == "classify" and list(outputs) == ["probabilities"]
    assert contract.outputs[0].activation == ("softmax" if head in SOFTMAX else "none")
    np.testing.assert_allclose(outputs["probabilities"], keras_gives, atol=1e-5)


def test_one_sigmoid_is_the_probability_of_the_second_class(images, tmp_path):
    outputs, contract, second = outputs_of(
        model_of(lambda x: dense(1, activation="sigmoid")(x)), images, tmp_path, labels=["cat", "dog"]
    )
    np.testing.assert_allclose(outputs["probabilities"], np.concatenate([1 - second, second], 1), atol=1e-6)
    assert contract.labels == ("cat", "dog") and outputs["probabilities"].std() > 0.01
    answers = OnnxModel(tmp_path / "x.onnx").predict(images).labels
    assert answers == ["dog" if p > 0.5 else "cat" for p in second[:, 0]]


def test_one_logit_of_two_labels(images, tmp_path):
    outputs, _, logit = outputs_of(model_of(lambda x: dense(1)(x)), images, tmp_path, labels=["cat", "dog"])
    np.testing.assert_allclose(outputs["probabilities"][:, 1:], 1 / (1 + np.exp(-logit)), atol=1e-6)


def test_sigmoids_of_labels_that_do_not_exclude_each_other(images, tmp_path):
    outputs, contract, keras_gives = outputs_of(
        model_of(lambda x: ops.sigmoid(dense(3)(x))), images, tmp_path, labels=["red", "round", "ripe"]
    )
    np.testing.assert_allclose(outputs["probabilities"], keras_gives, atol=1e-6)
    assert contract.outputs[0].activation == "sigmoid" and contract.task == "classify"


VALUES = {
    "regression of one value": lambda x: dense(1)(x),
    "regression of four values": lambda x: dense(4)(x),
    "a flattened mask": lambda x: keras.layers.Flatten()(keras.layers.Reshape((2, 2))(dense(4, activation="relu")(x))),
    "values by a softmax": lambda x: ops.multiply(dense(3)(x), ops.softmax(dense(3)(x))),
    "a softmax over another axis": lambda x: keras.layers.Flatten()(
        keras.layers.Softmax(axis=1)(ops.reshape(dense(6)(x), (-1, 3, 2)))
    ),
}


@pytest.mark.parametrize("head", VALUES)
def test_what_is_neither_logits_nor_probabilities_stays_a_tensor(head, images, tmp_path, caplog):
    outputs, contract, keras_gives = outputs_of(model_of(VALUES[head]), images, tmp_path)
    assert contract.task == "tensor" and list(outputs) == ["output"] and contract.outputs[0].meaning == "values"
    np.testing.assert_allclose(outputs["output"], keras_gives, atol=1e-5)
    assert [record.getMessage() for record in caplog.records if record.name == "export.converter.serving_graph"] == [
        "small: its output is exported as a tensor: nothing tells that it is the scores of classes (task='classify' does)"
    ]


@pytest.mark.parametrize("told", ["labels", "task", "loss", "name"])
def test_logits_are_told(told, images, tmp_path):
    model = model_of(lambda x: dense(3, name="logits" if told == "name" else "scores")(x))
    if told == "loss":
        model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    options = {"labels": {"labels": ["a", "b", "c"]}, "task": {"task": "classify"}}.get(told, {})
    outputs, contract, keras_gives = outputs_of(model, images, tmp_path, **options)
    np.testing.assert_allclose(outputs["logits"], keras_gives, atol=1e-4)
    np.testing.assert_allclose(outputs["probabilities"].sum(-1), 1, atol=1e-6)
    assert contract.task == "classify"


def test_a_loss_of_regression_is_believed_more_than_a_name(images, tmp_path):
    model = model_of(lambda x: dense(3, name="logits")(x))
    model.compile(loss="mse")
    assert list(outputs_of(model, images, tmp_path)[0]) == ["output"]


@pytest.mark.parametrize(
    ("units", "labels", "message"),
    [
        (1, ["cat"], "give two labels, not 1"),
        (1, ["a", "b", "c"], "give two labels, not 3"),
        (3, "abc", "list of class names; received the text 'abc'"),
        (3, ["a", "a", "b"], "'a' stands there more than once"),
        (3, ["a", 2, "b"], "labels are texts; received 2"),
        (3, ["a", "b"], "one label a class: 2 for"),
    ],
)
def test_labels_that_do_not_fit_are_refused(units, labels, message, tmp_path):
    model = model_of(lambda x: dense(units, activation="sigmoid" if units == 1 else "softmax")(x))
    with pytest.raises(InputError, match=message):
        export_model(model, tmp_path / "x.onnx", labels=labels)
    assert not list(tmp_path.iterdir())


def test_labels_of_values_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"4 values that nothing tells to be scores: give task='classify'"):
        export_model(model_of(lambda x: dense(4, activation="relu")(x)), tmp_path / "x.onnx", labels=list("abcd"))


def test_outputs_of_any_names_in_the_order_of_the_model(images, tmp_path):
    image = keras.Input((4, 4, 3), name="image")
    x = keras.layers.Flatten()(image)
    named = {
        "image": keras.layers.Reshape((4, 4, 3))(dense(48)(x)),
        "classes": dense(2)(x),
        "boxes": {"corner": dense(2)(x), "size": dense(2, activation="softplus")(x)},
    }
    model = keras.Model(image, named)
    path = export_model(model, tmp_path / "x.onnx")
    assert check_parity(model, path, images).ok
    contract = read_contract(path)
    assert [one.name for one in contract.outputs] == ["image", "classes", "boxes/corner", "boxes/size"]
    assert {one.meaning for one in contract.outputs} == {"values"} and contract.input.name == "pixels"
    keras_gives = model.predict(images / np.float32(255), verbose=0)
    outputs = OnnxModel(path).run(images)
    np.testing.assert_allclose(outputs["boxes/size"], keras_gives["boxes"]["size"], atol=1e-5)
    np.testing.assert_allclose(outputs["classes"], keras_gives["classes"], atol=1e-4)


def test_many_outputs_keep_their_order(images, tmp_path):
    image = keras.Input((4, 4, 3))
    model = keras.Model(image, [dense(1 + i % 3)(keras.layers.Flatten()(image)) for i in range(12)])
    path = export_model(model, tmp_path / "x.onnx")
    assert [one.name for one in read_contract(path).outputs] == [f"output_{i}" for i in range(12)]
    assert check_parity(model, path, images).ok
