"""Schedules, optimizers and Muon."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kerascv_course.config import Optimizer, Schedule
from kerascv_course.training.optimizers import Muon, build_optimizer, build_schedule, learning_rates, orthogonalize


@given(rows=st.integers(2, 12), columns=st.integers(2, 12), seed=st.integers(0, 99))
def test_orthogonalize_keeps_singular_vectors(rows, columns, seed):
    generator = np.random.default_rng(seed)
    u, _, v = np.linalg.svd(generator.normal(size=(rows, columns)), full_matrices=False)
    values = generator.uniform(0.2, 1, len(u[0]))
    result = keras.ops.convert_to_numpy(orthogonalize(keras.ops.convert_to_tensor((u * values) @ v), steps=6))
    level = u.T @ result @ v.T
    np.testing.assert_allclose(level, np.diag(np.diag(level)), atol=1e-5)
    assert np.diag(level).min() > 0.6 and np.diag(level).max() < 1.3


def step(variable: np.ndarray, gradients: list[np.ndarray], optimizer: keras.optimizers.Optimizer) -> np.ndarray:
    held = keras.Variable(variable)
    optimizer.build([held])
    for gradient in gradients:
        optimizer.apply([keras.ops.convert_to_tensor(gradient)], [held])
    return keras.ops.convert_to_numpy(held)


@pytest.mark.parametrize(("shape", "factor"), [((5,), 3.0), ((4, 5), 0.5)])
def test_muon_takes_sgd_steps_for_norms_and_dense_kernels(shape, factor):
    generator = np.random.default_rng(1)
    start, *gradients = (generator.normal(size=shape).astype(np.float32) for _ in range(4))
    muon = Muon(0.1, norm_factor=3.0, head_factor=0.5, sgd_momentum=0.85, weight_decay=0.2)
    sgd = keras.optimizers.SGD(0.1 * factor, momentum=0.85, nesterov=True, weight_decay=0.2 / factor)
    np.testing.assert_allclose(step(start, gradients, muon), step(start, gradients, sgd), rtol=1e-5)


def test_muon_takes_orthogonal_steps_for_convolutions():
    generator = np.random.default_rng(2)
    kernel, gradient = (generator.normal(size=(3, 3, 2, 4)).astype(np.float32) for _ in range(2))
    after = step(kernel, [gradient], Muon(0.1, momentum=0.6, weight_decay=0.5, steps=5))
    scaled = kernel * 2 / np.linalg.norm(kernel)
    moved = (scaled - after).reshape(18, 4) / 0.1
    singular = np.linalg.svd(moved, compute_uv=False)
    assert singular.min() > 0.6 and singular.max() < 1.3
    u, _, v = np.linalg.svd(gradient.reshape(18, 4), full_matrices=False)
    np.testing.assert_allclose(np.diag(np.diag(u.T @ moved @ v.T)), u.T @ moved @ v.T, atol=1e-4)


def test_muon_has_separate_momentum_for_convolutions():
    gradient = np.zeros((1, 1, 2, 2), np.float32)
    gradient[0, 0] = [[1, 0], [0, 1]]
    start = np.ones((1, 1, 2, 2), np.float32)
    one, two = (step(start, [gradient * sign for sign in signs], Muon(0.1, momentum=0.6)) for signs in ((1,), (1, -1)))
    assert not np.allclose(one, two)


def test_build_optimizer_gives_muon_its_factors(tiny_recipe):
    recipe = dataclasses.replace(
        tiny_recipe, optimizer=Optimizer("muon", 0.2, 0.6, True, norm_rate=50.0, head_rate=0.01, ema=0.5)
    )
    optimizer = build_optimizer(recipe, 10)
    assert isinstance(optimizer, Muon) and optimizer.use_ema
    assert (optimizer.norm_factor, optimizer.head_factor) == (pytest.approx(250), pytest.approx(0.05))
    assert Muon.from_config(optimizer.get_config()).get_config() == optimizer.get_config()


def test_linear_schedule_with_warmup():
    rate = build_schedule(Schedule("linear", warmup_epochs=2), 0.6, steps_per_epoch=5, steps=40)
    found = [float(rate(step)) for step in (0, 5, 10, 25, 40)]
    assert found == pytest.approx([0, 0.3, 0.6, 0.3, 0], abs=1e-6)
    falling = build_schedule(Schedule("linear"), 0.6, steps_per_epoch=5, steps=40)
    assert [float(falling(step)) for step in (0, 10, 40)] == pytest.approx([0.6, 0.45, 0], abs=1e-6)


def rates(schedule, at):
    built = build_schedule(schedule, 0.8, steps_per_epoch=10, steps=100)
    return [float(built(step)) for step in at]


def test_cosine_schedule_with_warmup():
    assert rates(Schedule("cosine"), (0, 50, 100)) == pytest.approx([0.8, 0.4, 0.0])
    warm = rates(Schedule("cosine", warmup_epochs=2), (0, 10, 20, 60, 100))
    assert warm == pytest.approx([0.0, 0.4, 0.8, 0.4, 0.0])


def test_step_schedule():
    step = rates(Schedule("step", milestones=(1, 3), factor=0.5), (0, 10, 11, 30, 31))
    assert step == pytest.approx([0.8, 0.8, 0.4, 0.4, 0.2])


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "adamax", "rmsprop"])
def test_optimizers_minimize_a_quadratic(tiny_recipe, name):
    recipe = dataclasses.replace(tiny_recipe, optimizer=Optimizer(name, learning_rate=0.1), schedule=Schedule(), epochs=100)
    optimizer = build_optimizer(recipe, steps_per_epoch=5)
    point = keras.Variable(np.array([2.0, -3.0], np.float32))
    for _ in range(500):
        optimizer.apply([2 * point.value], [point])
    assert np.abs(point.numpy()).max() < 0.06
    assert type(optimizer).__name__.lower() == name


def test_build_optimizer_passes_weight_decay_and_momentum(tiny_recipe):
    sgd = Optimizer("sgd", momentum=0.9, nesterov=True, weight_decay=1e-4)
    built = build_optimizer(dataclasses.replace(tiny_recipe, optimizer=sgd), 5)
    assert (built.momentum, built.nesterov, built.weight_decay) == (0.9, True, 1e-4)
    assert build_optimizer(dataclasses.replace(tiny_recipe, optimizer=Optimizer("adam")), 5).weight_decay is None


@pytest.mark.parametrize(
    "schedule",
    [Schedule(), Schedule("cosine", warmup_epochs=0.2), Schedule("step", milestones=(0.5, 1.0))],
    ids=lambda s: s.name,
)
def test_learning_rates_equal_the_optimizers(tiny_recipe, schedule):
    optimizer = build_optimizer(dataclasses.replace(tiny_recipe, schedule=schedule), steps_per_epoch=10)
    point = keras.Variable(np.zeros(1, np.float32))
    seen = []
    for _ in range(20):
        seen.append(float(keras.ops.convert_to_numpy(optimizer.learning_rate)))
        optimizer.apply([point.value], [point])
    np.testing.assert_allclose(learning_rates(optimizer)(np.arange(20)), seen, rtol=1e-6)
