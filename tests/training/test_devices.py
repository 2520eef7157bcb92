"""Training on several devices of one machine equals training on one."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerascv_course.config import Augmentation
from kerascv_course.core.errors import InputError
from kerascv_course.data import Split
from kerascv_course.data.pipeline import evaluation_batches, training_batches
from kerascv_course.experiment import Experiment
from kerascv_course.training.callbacks import CheckpointCallback
from kerascv_course.training.devices import Devices, OutOfMemoryError, find_devices, is_out_of_memory, report_out_of_memory
from kerascv_course.training.precision import GroupedBatchNormalization, training_copy

MIRRORED = """
import dataclasses, json, pathlib, sys
from kerascv_course.core.environment import start_tensorflow
start_tensorflow()
from kerascv_course.data import load
from kerascv_course.config import Optimizer, Schedule
from kerascv_course.recipes import get_recipe
from kerascv_course.tasks.classification.task import ClassificationTask
from kerascv_course.training.devices import ONE, find_devices
from kerascv_course.training.run_dir import Run
from kerascv_course.training.trainer import prepare, train
from kerascv_course.training.precision import GroupedBatchNormalization, training_copy
import keras
import numpy as np
import tensorflow as tf

two = find_devices(2)
recipe = dataclasses.replace(
    get_recipe("lenet5-digits"), model_options={}, epochs=1, batch_size=230,
    optimizer=Optimizer("sgd", learning_rate=0.05), schedule=Schedule("constant"),
)
data = load(recipe.data)
data = dataclasses.replace(data, validation=data.validation.take(np.arange(259)))
losses = {}
for name, devices in (("one", ONE), ("two", two)):
    run = Run.create(pathlib.Path(sys.argv[1]) / name, recipe)
    progress = train(prepare(ClassificationTask(recipe), data, devices), run)
    row = progress.history[0]
    losses[name] = [*progress.steps[:, 2].tolist(), row["val_loss"], row["val_accuracy"]]

images, targets = np.random.default_rng(0).normal(size=(16, 8, 8, 3)), np.arange(16) % 4
batch = tf.data.Dataset.from_tensors((images.astype("float32"), targets))
image = keras.Input((8, 8, 3))
x = keras.layers.BatchNormalization()(keras.layers.Conv2D(6, 3)(image))
built = keras.Model(image, keras.layers.Dense(4)(keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(x))))
for name, groups, devices in (
    ("whole_on_one", 1, ONE), ("whole_on_two", 1, two), ("parts_on_one", 4, ONE), ("parts_on_two", 4, two), ("each_its_own", 2, two)
):
    its = dataclasses.replace(recipe, batch_size=16, norm_groups=groups, fused=True)
    with devices.scope():
        copy = training_copy(built, its, devices)
        copy.compile(keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    copy.fit(batch, epochs=2, verbose=0)
    losses[name] = np.concatenate([value.ravel() for value in copy.get_weights()]).tolist()
print(json.dumps(losses))
"""


def test_two_devices_learn_what_one_does(tmp_path):
    """On TensorFlow, batch norm over the whole batch or parts of it; 259 validation images do not divide by two."""
    environment = {**os.environ, "TF_NUM_INTRAOP_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", MIRRORED, str(tmp_path)], env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    losses = {name: np.array(values) for name, values in json.loads(done.stdout.splitlines()[-1]).items()}
    np.testing.assert_allclose(losses["two"], losses["one"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(losses["whole_on_two"], losses["whole_on_one"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(losses["parts_on_two"], losses["parts_on_one"], rtol=0, atol=1e-6)
    assert abs(losses["each_its_own"] - losses["whole_on_two"]).max() > 1e-4


def test_grouped_batch_norm_by_hand():
    images = np.random.default_rng(0).normal(3, 2, (6, 4, 4, 3)).astype(np.float32)
    layer = GroupedBatchNormalization(groups=3, momentum=0.5, epsilon=1e-3)
    found = keras.ops.convert_to_numpy(layer(images, training=True)).reshape(3, -1, 3)
    parts = images.reshape(3, -1, 3)
    mean, variance = parts.mean(axis=1, keepdims=True), parts.var(axis=1, keepdims=True)
    np.testing.assert_allclose(found, (parts - mean) / np.sqrt(variance + 1e-3), atol=1e-5)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(layer.moving_mean), mean.mean(axis=0)[0] / 2, rtol=1e-5)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(layer.moving_variance), 0.5 + variance.mean(axis=0)[0] / 2, rtol=1e-5)
    again = GroupedBatchNormalization.from_config(layer.get_config())
    assert again.groups == 3


def test_training_copy_for_two_devices_draws_the_same_dropout(tiny_recipe):
    image = keras.Input((4, 4, 3))
    built = keras.Model(image, keras.layers.BatchNormalization(name="norm")(keras.layers.Dropout(0.5)(image)))
    assert training_copy(built, tiny_recipe) is built
    copy = training_copy(built, tiny_recipe, Devices(local=2))
    assert copy.get_layer("norm").synchronized
    images = np.random.default_rng(0).normal(size=(8, 4, 4, 3)).astype(np.float32)
    drawn = [keras.ops.convert_to_numpy(model(images, training=True) == 0) for model in (built, copy)]
    np.testing.assert_array_equal(*drawn)  # dropout draws what the original network would have drawn


@pytest.mark.parametrize(
    "augmentation",
    [
        Augmentation(),
        Augmentation(flip=True, translate=2, rotate=10, color_jitter=0.2, cutout=3, erase=0.5),
        Augmentation(alternating_flip=True, mixup=0.2),
    ],
)
def test_processes_share_each_batch(tiny_recipe, augmentation):
    """Together they yield what one process yields, augmentation included, and each evaluation image once."""
    generator = np.random.default_rng(0)
    split = Split(generator.integers(0, 256, (52, 8, 8, 1), dtype=np.uint8), np.arange(52))
    recipe = dataclasses.replace(tiny_recipe, batch_size=12, augmentation=augmentation)
    three = [Devices(processes=3, process=i) for i in range(3)]
    whole = [next(iter(training_batches(split, recipe, first_step=1, classes=52))), *evaluation_batches(split, 24)][:3]
    shares = [
        [
            next(iter(training_batches(split, recipe, first_step=1, classes=52, part=one.part))),
            *evaluation_batches(one.share(split)[0], one.multiple(23), part=one.part),
        ][:3]
        for one in three
    ]
    for number, (images, targets) in enumerate(whole):
        np.testing.assert_array_equal(np.concatenate([share[number][0] for share in shares]), images)
        np.testing.assert_array_equal(np.concatenate([share[number][1] for share in shares]), targets)


def test_devices_refuse_what_does_not_divide():
    with pytest.raises(InputError, match=r"multiple of the 4 devices; received 50: use for example --batch-size 48"):
        Devices(local=2, processes=2).check_batch(50)
    with pytest.raises(InputError, match=r"--devices must be 1 or more, or all; received 0"):
        find_devices(0)
    assert find_devices(None) == find_devices(1) == find_devices("all") == Devices()


def test_norm_groups_must_divide_among_devices(tiny_recipe):
    image = keras.Input((4, 4, 3))
    built = keras.Model(image, keras.layers.BatchNormalization()(image))
    recipe = dataclasses.replace(tiny_recipe, batch_size=12, norm_groups=3)
    with pytest.raises(InputError, match="norm_groups must be 1 or a multiple of the devices"):
        training_copy(built, recipe, Devices(local=2))
    with pytest.raises(InputError, match="norm_groups must divide batch_size; received 5 for 12 images"):
        dataclasses.replace(recipe, norm_groups=5)


def test_out_of_memory_error_gives_batch_size_and_options(tiny_recipe, tmp_path, monkeypatch):
    def allocate(*_, **__):
        # what TensorFlow says when it cannot allocate a petabyte, after ten seconds of waiting for memory to become free
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor with shape[16777216,16777216]")

    monkeypatch.setattr(CheckpointCallback, "on_epoch_begin", allocate)
    with pytest.raises(
        OutOfMemoryError, match=r"out of memory: lenet5 in batches of \d+ images of 32×32.*smaller --batch-size, such as"
    ):
        Experiment(tiny_recipe, tmp_path / "run").run()
    assert OutOfMemoryError.exit_code == 1 and not (tmp_path / "run" / "best.keras").exists()


def test_is_out_of_memory(tiny_recipe, tmp_path):
    assert is_out_of_memory(MemoryError()) and is_out_of_memory(
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes")
    )
    with pytest.raises(RuntimeError, match="something else"), report_out_of_memory(tiny_recipe, tmp_path):
        raise RuntimeError("something else")
    (tmp_path / "last.npz").write_text("")
    with (
        pytest.raises(OutOfMemoryError, match=r"MemoryError.*All finished validations are kept in"),
        report_out_of_memory(tiny_recipe, tmp_path),
    ):
        raise MemoryError
