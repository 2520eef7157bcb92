"""Transfer learning: weights from elsewhere, frozen layers, pictures resized inside the graph."""

from __future__ import annotations

import dataclasses
import inspect

import keras
import numpy as np
import pytest

import kerascv_course as kcc
from kerascv_course.core.errors import InputError, UnknownNameError
from kerascv_course.tasks.classification.config import Classification
from kerascv_course.tasks.classification.task import ClassificationTask
from kerascv_course.tasks.classification.transfer import freeze_before, load_all_but_head
from kerascv_course.training.trainer import prepare


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Weights of a network for 7 classes."""
    path = tmp_path_factory.mktemp("weights") / "seven.keras"
    kcc.create_model("lenet5", 7).save(path)
    return path


def test_all_but_the_head_is_loaded(source):
    network, donor = kcc.create_model("lenet5", 10), keras.saving.load_model(source)
    head = network.get_layer("logits").get_weights()
    load_all_but_head(network, str(source))
    for ours, theirs in zip(network.get_weights()[:-2], donor.get_weights()[:-2], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for ours, before in zip(network.get_layer("logits").get_weights(), head, strict=True):
        np.testing.assert_array_equal(ours, before)


def test_weights_of_another_network_are_refused(source):
    with pytest.raises(InputError, match="may differ in the last layer"):
        load_all_but_head(kcc.create_model("lenet5", 10, (32, 32, 3)), str(source))


def test_imagenet_means_the_weights_that_keras_has(monkeypatch):
    application = keras.applications.MobileNet
    donor = application(alpha=0.25, weights=None, classes=1000, classifier_activation=None)
    monkeypatch.setattr(
        keras.applications,
        "MobileNet",
        lambda weights=None, **options: donor if weights else application(weights=None, **options),
    )
    monkeypatch.setattr(keras.applications.MobileNet, "__signature__", inspect.signature(application), raising=False)
    name = "keras.applications/MobileNet?alpha=0.25"
    network = kcc.create_model(name, 10, (32, 32, 3))
    load_all_but_head(network, "imagenet", name)
    np.testing.assert_array_equal(network.get_layer("conv1").get_weights()[0], donor.get_layer("conv1").get_weights()[0])
    assert network.output_shape == (None, 10)


def test_layers_are_not_kept_as_they_are_without_weights(tiny_recipe):
    with pytest.raises(InputError, match="train_from freezes the layers before it and requires weights"):
        dataclasses.replace(tiny_recipe, train_from="f6")


def test_an_unknown_first_layer_is_named_with_its_neighbours():
    with pytest.raises(UnknownNameError, match="logits"):
        freeze_before(kcc.create_model("lenet5"), "logit")


def test_a_recipe_enlarges_freezes_and_learns_the_rest(tiny_recipe, digits, source):
    recipe = dataclasses.replace(
        tiny_recipe, classification=Classification(resize=32), weights=str(source), train_from="f6", model_options={}
    )
    training = prepare(ClassificationTask(recipe), digits)
    network = training.built.get_layer("lenet5")
    assert [layer.name for layer in network.layers if layer.weights and layer.trainable] == ["f6", "logits"]
    assert training.built.input_shape == (None, 32, 32, 1)
    before = {layer.name: layer.get_weights() for layer in network.layers if layer.weights}
    training.model.train_on_batch(digits.train.images[:32], digits.train.targets[:32])
    for name, weights in before.items():
        same = all(np.array_equal(a, b) for a, b in zip(weights, network.get_layer(name).get_weights(), strict=True))
        assert same == (name not in ("f6", "logits"))


def test_pictures_are_resized_inside_the_graph(tiny_recipe, digits):
    recipe = dataclasses.replace(tiny_recipe, classification=Classification(resize=48))
    built = ClassificationTask(recipe).build(digits)
    assert built.input_shape == (None, 32, 32, 1) and built.get_layer("resize").output.shape == (None, 48, 48, 1)


def test_the_second_phase_starts_from_what_the_first_one_kept(tiny_recipe, digits, tmp_path):
    """A run's best.keras holds the network inside: picture, normalisation, resizing, network."""
    recipe = dataclasses.replace(tiny_recipe, classification=Classification(resize=32), model_options={})
    first = prepare(ClassificationTask(recipe), digits).built
    first.save(tmp_path / "best.keras")
    second = dataclasses.replace(recipe, seed=5, weights=str(tmp_path / "best.keras"))
    network = prepare(ClassificationTask(second), digits).built
    for ours, theirs in zip(network.get_weights(), first.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
