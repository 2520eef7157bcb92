"""Transfer learning: weights from elsewhere, frozen layers, images resized inside the graph."""

from __future__ import annotations

import dataclasses
import inspect
import re

import keras
import numpy as np
import pytest

import kerascv_course as kcc
from kerascv_course.core.errors import InputError, UnknownNameError
from kerascv_course.models import model_spec
from kerascv_course.tasks.classification.config import Classification
from kerascv_course.tasks.classification.task import ClassificationTask
from kerascv_course.tasks.classification.transfer import (
    freeze_before,
    load_all_but_head,
    stated_normalization,
    warn_of_normalization,
)
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


def resnet(depth: int, **options):
    return kcc.create_model(f"resnet{depth}", 4, (64, 64, 3), **options)


def torch_entries(depth: int = 18) -> dict[str, np.ndarray]:
    """Weights of a random ResNet by torchvision's names: kernels as float16, all else as float32."""
    model, entries = resnet(depth), {}
    suffixes = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
    for layer in model.layers:
        for name in model_spec("resnet18").torch_names(model).get(layer.name, ()):
            for variable in layer.weights:
                value = np.asarray(variable)
                if variable.name == "kernel":
                    axes = (3, 2, 0, 1) if value.ndim == 4 else (1, 0)
                    entries[f"{name}.weight"] = np.ascontiguousarray(value.transpose(axes)).astype(np.float16)
                else:
                    entries[f"{name}.{suffixes.get(variable.name, variable.name)}"] = value
    return entries


def saved(tmp_path, entries, name="weights.safetensors", **metadata):
    numpy = pytest.importorskip("safetensors.numpy", reason="the extra [pretrained] is not installed")
    numpy.save_file(entries, tmp_path / name, metadata=metadata or None)
    return str(tmp_path / name)


def assert_loaded(network, entries):
    kernel = network.get_layer("stage4_block2_conv2").get_weights()[0]
    np.testing.assert_array_equal(kernel, entries["layer4.1.conv2.weight"].astype(np.float32).transpose(2, 3, 1, 0))


def test_a_file_without_a_head_leaves_the_head_as_it_is(tmp_path, caplog):
    entries = {name: value for name, value in torch_entries().items() if not name.startswith("fc.")}
    network = resnet(18)
    head = network.get_layer("logits").get_weights()
    with caplog.at_level("INFO"):
        load_all_but_head(network, saved(tmp_path, entries))
    assert_loaded(network, entries)
    np.testing.assert_array_equal(network.get_layer("logits").get_weights()[0], head[0])
    assert "the last layer, logits, is initialized randomly" in caplog.text and "has no weights for it" in caplog.text


def test_a_file_without_another_layer_is_refused_by_its_name(tmp_path):
    entries = {name: value for name, value in torch_entries().items() if not name.startswith(("fc.", "layer3.0.conv1"))}
    with pytest.raises(InputError, match=r"stage3_block1_conv1/kernel: .* belongs to another network than resnet18"):
        load_all_but_head(resnet(18), saved(tmp_path, entries))


def test_weights_of_a_deeper_network_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"unexpected.*layer\d.*belongs to another network than resnet18"):
        load_all_but_head(resnet(18), saved(tmp_path, torch_entries(34)))


@pytest.mark.parametrize("extra", ["aux1.fc.weight", "head.fc.weight", "classifier.bias", "bn1.num_batches_tracked"])
def test_heads_auxiliary_classifiers_and_counters_may_be_left_over(tmp_path, extra):
    entries = torch_entries()
    network = resnet(18)
    load_all_but_head(network, saved(tmp_path, {**entries, extra: np.zeros(3, np.float32)}))
    assert_loaded(network, entries)


@pytest.mark.parametrize("prefix", ["module.", "backbone.", "encoder.", "model.", "module.backbone."])
def test_a_prefix_of_all_entries_is_removed_and_named(tmp_path, caplog, prefix):
    entries = torch_entries()
    network = resnet(18)
    with caplog.at_level("INFO"):
        load_all_but_head(network, saved(tmp_path, {prefix + name: value for name, value in entries.items()}))
    assert_loaded(network, entries)
    assert f"have the prefix '{prefix}'" in caplog.text


def test_names_of_transformers_are_understood(tmp_path):
    entries = torch_entries()

    def theirs(name: str) -> str:
        name = name.replace("conv1.", "embedder.embedder.convolution.") if name.startswith("conv1.") else name
        name = name.replace("bn1.", "embedder.embedder.normalization.") if name.startswith("bn1.") else name
        part = re.fullmatch(r"layer(\d)\.(\d)\.(conv|bn)(\d)\.(.*)", name)
        if part:
            stage, block, kind, number, rest = part.groups()
            word = "convolution" if kind == "conv" else "normalization"
            return f"encoder.stages.{int(stage) - 1}.layers.{block}.layer.{int(number) - 1}.{word}.{rest}"
        part = re.fullmatch(r"layer(\d)\.(\d)\.downsample\.(\d)\.(.*)", name)
        if part:
            word = ("convolution", "normalization")[int(part[3])]
            return f"encoder.stages.{int(part[1]) - 1}.layers.{part[2]}.shortcut.{word}.{part[4]}"
        return name

    renamed = {f"resnet.{theirs(name)}": value for name, value in entries.items() if not name.startswith("fc.")}
    renamed |= {"classifier.1.weight": entries["fc.weight"], "classifier.1.bias": entries["fc.bias"]}
    network = resnet(18)
    load_all_but_head(network, saved(tmp_path, renamed))
    assert_loaded(network, entries)
    np.testing.assert_array_equal(network.get_layer("logits").get_weights()[0], entries["fc.weight"].astype(np.float32).T)


@pytest.mark.parametrize("mean", [(0.485, 0.456, 0.406), (0.5,)])
def test_another_normalization_than_the_weights_state_is_a_warning(tmp_path, caplog, mean):
    source = saved(tmp_path, torch_entries(), input="RGB, (x/255 - [0.485,0.456,0.406]) / [0.229,0.224,0.225]")
    assert stated_normalization(source) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    warn_of_normalization(source, mean, (0.229, 0.224, 0.225))
    warned = "mean 0.485 0.456 0.406" in caplog.text and "this recipe has mean 0.5" in caplog.text
    assert warned == (len(mean) == 1)


def test_a_model_card_and_a_run_state_their_normalization(tmp_path):
    source = saved(tmp_path, torch_entries())
    assert stated_normalization(source) is None
    (tmp_path / "config.json").write_text('{"pretrained_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]}}')
    assert stated_normalization(source) == ((0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    (tmp_path / "recipe.json").write_text('{"data": {"normalize_mean": [0.1], "normalize_std": [0.3]}}')
    assert stated_normalization(source) == ((0.1,), (0.3,))
    (tmp_path / "recipe.json").write_text("{")
    assert stated_normalization(source) == ((0.5, 0.5, 0.5), (0.2, 0.2, 0.2)), "a damaged recipe states nothing"
