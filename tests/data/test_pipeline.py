"""Batches of training and evaluation images."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from kerascv_course.config import Augmentation
from kerascv_course.data.pipeline import evaluation_batches, steps_per_epoch, training_batches
from kerascv_course.data.splits import Split
from kerascv_course.recipes import get_recipe

tf = pytest.importorskip("tensorflow")

RECIPE = dataclasses.replace(get_recipe("lenet5-digits"), batch_size=8, augmentation=Augmentation())
AUGMENTED = dataclasses.replace(RECIPE, augmentation=Augmentation(flip=True, translate=2))
SPLIT = Split(np.random.default_rng(0).integers(0, 256, (30, 6, 5, 3), np.uint8), np.arange(30))


def batches(recipe, count, **options):
    stream = training_batches(SPLIT, recipe, **options)
    return [(images.numpy(), targets.numpy()) for images, targets in itertools.islice(stream, count)]


def test_training_batches_show_each_image_once_per_epoch():
    assert steps_per_epoch(SPLIT, 8) == 3
    targets = [targets for _, targets in batches(RECIPE, 9)]
    seen = [np.concatenate(targets[i : i + 3]) for i in (0, 3, 6)]
    assert all(len(set(epoch.tolist())) == 24 for epoch in seen)
    assert (seen[0] != seen[1]).any(), "each epoch has its own order"


def test_training_batches_keep_images_and_targets_together():
    for images, targets in batches(RECIPE, 4):
        assert (images == SPLIT.images[targets]).all()


@pytest.mark.parametrize("recipe", [RECIPE, AUGMENTED], ids=["plain", "augmented"])
@pytest.mark.parametrize("first_step", [0, 1, 3, 5])
def test_training_batches_open_at_any_step(recipe, first_step):
    whole, rest = batches(recipe, 9), batches(recipe, 9 - first_step, first_step=first_step)
    for (images, targets), (again, same) in zip(whole[first_step:], rest, strict=True):
        assert (targets == same).all() and (images == again).all()


def test_training_batches_depend_on_the_seed():
    first, again, other = (batches(dataclasses.replace(AUGMENTED, seed=seed), 2)[1] for seed in (1, 1, 2))
    assert (first[0] == again[0]).all() and (first[1] == again[1]).all()
    assert (first[1] != other[1]).any()


def test_evaluation_batches_keep_the_order():
    parts = list(evaluation_batches(SPLIT, 7).as_numpy_iterator())
    assert [len(targets) for _, targets in parts] == [7, 7, 7, 7, 2]
    assert (np.concatenate([images for images, _ in parts]) == SPLIT.images).all()


def test_batches_are_not_autotuned():
    images = np.zeros((8, 32, 32, 3), np.uint8)
    split = Split(images, np.arange(8))
    recipe = dataclasses.replace(get_recipe("tdt4265-base"), batch_size=4)
    for stream in (training_batches(split, recipe), evaluation_batches(split, 4)):
        assert stream.options().autotune.enabled is False
