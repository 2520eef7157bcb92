from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from kerascv_course.config import Optimizer, Schedule
from kerascv_course.core.errors import InputError, UnknownNameError
from kerascv_course.tasks.classification.task import ClassificationTask
from kerascv_course.training.optimizers import build_optimizer, build_schedule
from kerascv_course.training.trainer import prepare

keras = pytest.importorskip("keras")


def rates(schedule, at):
    built = build_schedule(schedule, 0.8, steps_per_epoch=10, steps=100)
    return [float(built(step)) for step in at]


def test_the_cosine_ends_at_zero_and_rises_before():
    assert rates(Schedule("cosine"), (0, 50, 100)) == pytest.approx([0.8, 0.4, 0.0])
    warm = rates(Schedule("cosine", warmup_epochs=2), (0, 10, 20, 60, 100))
    assert warm == pytest.approx([0.0, 0.4, 0.8, 0.4, 0.0])


def test_steps_lower_the_rate_at_the_milestones():
    step = rates(Schedule("step", milestones=(1, 3), factor=0.5), (0, 10, 11, 30, 31))
    assert step == pytest.approx([0.8, 0.8, 0.4, 0.4, 0.2])


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "adamax", "rmsprop"])
def test_every_optimiser_finds_the_minimum_of_a_bowl(tiny_recipe, name):
    recipe = dataclasses.replace(tiny_recipe, optimizer=Optimizer(name, learning_rate=0.1), schedule=Schedule(), epochs=100)
    optimizer = build_optimizer(recipe, steps_per_epoch=5)
    point = keras.Variable(np.array([2.0, -3.0], np.float32))
    for _ in range(500):
        optimizer.apply([2 * point.value], [point])
    assert np.abs(point.numpy()).max() < 0.06
    assert type(optimizer).__name__.lower() == name


def test_weight_decay_and_momentum_arrive(tiny_recipe):
    sgd = Optimizer("sgd", momentum=0.9, nesterov=True, weight_decay=1e-4)
    built = build_optimizer(dataclasses.replace(tiny_recipe, optimizer=sgd), 5)
    assert (built.momentum, built.nesterov, built.weight_decay) == (0.9, True, 1e-4)
    assert build_optimizer(dataclasses.replace(tiny_recipe, optimizer=Optimizer("adam")), 5).weight_decay is None


def test_what_cannot_be_prepared(tiny_recipe, digits):
    def refused(**changes):
        prepare(ClassificationTask(dataclasses.replace(tiny_recipe, **changes)), digits)

    with pytest.raises(InputError, match=r"1150 training images make 0 batches of 2000: use a smaller --batch-size"):
        refused(batch_size=2000)
    with pytest.raises(UnknownNameError, match="did you mean 'lenet5'"):
        refused(model="lenet")
    with pytest.raises(UnknownNameError, match="unknown option of lenet5 'dropuot'"):
        refused(model_options={"dropuot": 0.1})


def test_the_model_takes_raw_pixels_and_normalises_them(tiny_recipe, digits):
    model = prepare(ClassificationTask(tiny_recipe), digits).model
    assert model.inputs[0].dtype == "uint8"
    pixels = np.zeros((1, 32, 32, 1), np.uint8) + np.arange(32, dtype=np.uint8)[None, :, None, None] * 8
    normalized = model.get_layer("normalize")(pixels).numpy()
    np.testing.assert_allclose(normalized, (pixels / 255 - 0.5) / 0.25, rtol=0, atol=1e-6)
