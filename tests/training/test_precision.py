"""The copy that is trained, in another precision, with fused layers or averaged weights, and the network that is saved."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest

from kerascv_course.config import Augmentation, Export, Optimizer, Schedule
from kerascv_course.core.keras_file import load_keras
from kerascv_course.experiment import Experiment, Interrupted, Options
from kerascv_course.tasks.classification.task import ClassificationTask
from kerascv_course.training import precision as device
from kerascv_course.training.checkpoint import load_checkpoint
from kerascv_course.training.precision import choose_for_device, give_weights, training_copy
from kerascv_course.training.trainer import prepare


def small_network() -> keras.Model:
    image = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(6, 3, padding="same", name="conv")(image)
    x = keras.layers.BatchNormalization(momentum=0.6, name="norm")(x)
    x = keras.layers.Activation("silu", name="silu")(x)
    x = keras.layers.BatchNormalization(scale=False, name="norm_without_scale")(x)
    return keras.Model(image, keras.layers.Dense(4)(keras.layers.GlobalMaxPooling2D()(x)))


def one_step(model: keras.Model, images: np.ndarray, targets: np.ndarray) -> list[np.ndarray]:
    model.compile(keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.train_on_batch(images, targets)
    return model.get_weights()


@pytest.fixture
def batch():
    generator = np.random.default_rng(0)
    return generator.normal(size=(16, 8, 8, 3)).astype(np.float32), generator.integers(0, 4, 16)


def test_fused_layers_train_as_keras_layers(tiny_recipe, batch):
    built = small_network()
    fused = training_copy(built, dataclasses.replace(tiny_recipe, fused=True))
    assert {type(layer).__name__ for layer in fused.layers} >= {"FusedBatchNormalization", "FusedActivation"}
    np.testing.assert_allclose(fused.predict(batch[0], verbose=0), built.predict(batch[0], verbose=0), rtol=1e-5, atol=1e-6)
    for ours, keras_own in zip(one_step(fused, *batch), one_step(built, *batch), strict=True):
        np.testing.assert_allclose(ours, keras_own, rtol=2e-5, atol=2e-6)


def test_training_copy_in_bfloat16_keeps_float32_weights(tiny_recipe, batch):
    built = small_network()
    copy = training_copy(built, dataclasses.replace(tiny_recipe, precision="bfloat16", fused=True))
    assert {layer.compute_dtype for layer in copy.layers if layer.weights} == {"bfloat16"}
    assert {str(weight.dtype) for weight in copy.weights} == {"float32"} and copy.output.dtype == "float32"
    assert [w.path for w in copy.weights] == [w.path for w in built.weights]
    one_step(copy, *batch)
    give_weights(copy, built)
    for ours, theirs in zip(built.get_weights(), copy.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_training_copy_is_the_model_itself_by_default(tiny_recipe):
    built = small_network()
    assert training_copy(built, tiny_recipe) is built


def test_training_copy_keeps_frozen_layers(tiny_recipe, batch):
    built = small_network()
    for layer in built.layers[:3]:
        layer.trainable = False
    before = [w.numpy() for layer in built.layers[:3] for w in layer.weights]
    copy = training_copy(built, dataclasses.replace(tiny_recipe, precision="bfloat16", fused=True))
    one_step(copy, *batch)
    after = [w.numpy() for layer in copy.layers[:3] for w in layer.weights]
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize(
    ("capability", "flags", "precision", "jit"),
    [
        (None, {"avx2"}, "float32", "off"),
        (None, {"avx2", "avx512_bf16"}, "bfloat16", "off"),
        ((6, 1), set(), "float32", "on"),
        ((7, 5), set(), "float16", "on"),
        ((9, 0), set(), "bfloat16", "on"),
    ],
)
def test_choose_for_device(monkeypatch, tiny_recipe, capability, flags, precision, jit):
    monkeypatch.setattr(device, "_gpu_capability", lambda: capability)
    monkeypatch.setattr(device, "_cpu_flags", lambda: flags)
    chosen = choose_for_device(dataclasses.replace(tiny_recipe, precision="auto"))
    assert (chosen.precision, chosen.jit_compile) == (precision, jit)


def test_choose_for_device_keeps_given_and_resumed_values(monkeypatch, tiny_recipe):
    monkeypatch.setattr(device, "_cpu_flags", lambda: {"avx512_bf16"})
    given = dataclasses.replace(tiny_recipe, precision="float16", jit_compile="on")
    assert choose_for_device(given) == given
    elsewhere = dataclasses.replace(tiny_recipe, precision="float32", jit_compile="on")
    now = choose_for_device(dataclasses.replace(tiny_recipe, precision="auto"), elsewhere)
    assert (now.precision, now.jit_compile) == ("float32", "on")


def _stop(*_):
    raise KeyboardInterrupt


def weights(run) -> list[np.ndarray]:
    return load_keras(run / "best.keras").get_weights()


def test_resume_with_bfloat16_fused_layers_and_averaged_weights(tiny_recipe, digits, tmp_path, monkeypatch):
    monkeypatch.setattr(Experiment, "plot", lambda _: None)
    recipe = dataclasses.replace(
        tiny_recipe,
        model="fastnet",
        model_options={"width": 4, "expansion": 2},
        augmentation=Augmentation(alternating_flip=True, translate=2, border="reflect", cutmix=1.0),
        optimizer=Optimizer(
            "muon", 0.1, momentum=0.6, nesterov=True, norm_rate=1.0, head_rate=0.05, weight_decay=0.05, ema=0.9
        ),
        precision="bfloat16",
        fused=True,
        validations_per_epoch=1,
        monitor="last",
        schedule=Schedule(),
        epochs=2,
        export=Export(enabled=False),
    )
    with monkeypatch.context() as patch:
        patch.setattr(Experiment, "evaluate", _stop)
        stopped = dataclasses.replace(recipe, epochs=1)
        with pytest.raises(Interrupted):
            Experiment(stopped, tmp_path / "parts").run()
    resumed = Experiment(recipe, tmp_path / "parts", Options(resume=True)).run().folder
    unbroken = Experiment(recipe, tmp_path / "unbroken").run().folder
    for ours, theirs in zip(weights(resumed), weights(unbroken), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    kept = load_keras(unbroken / "best.keras")
    config = kept.to_json()
    assert "kerascv_course" not in config and "bfloat16" not in config
    # the averages are saved, not the weights that training continues with
    training = prepare(ClassificationTask(recipe), digits)
    load_checkpoint(unbroken / "last.npz", training.model, digits.info.fingerprint)
    going_on = training.model.get_weights()
    assert any(not np.array_equal(a, b) for a, b in zip(going_on, kept.get_weights(), strict=True))
    give_weights(training.model, training.built)
    for ours, theirs in zip(training.built.get_weights(), kept.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
