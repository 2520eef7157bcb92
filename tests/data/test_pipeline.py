from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from kerascv_course.config import Augmentation
from kerascv_course.data.augment import augment, random_flip, random_translate
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


def test_an_epoch_shows_each_image_once_less_the_last_incomplete_batch():
    assert steps_per_epoch(SPLIT, 8) == 3
    targets = [targets for _, targets in batches(RECIPE, 9)]
    seen = [np.concatenate(targets[i : i + 3]) for i in (0, 3, 6)]
    assert all(len(set(epoch.tolist())) == 24 for epoch in seen)
    assert (seen[0] != seen[1]).any(), "each epoch has an order of its own"


def test_images_stay_with_their_targets():
    for images, targets in batches(RECIPE, 4):
        assert (images == SPLIT.images[targets]).all()


@pytest.mark.parametrize("recipe", [RECIPE, AUGMENTED], ids=["plain", "augmented"])
@pytest.mark.parametrize("first_step", [0, 1, 3, 5])
def test_the_stream_can_be_opened_at_any_step(recipe, first_step):
    whole, rest = batches(recipe, 9), batches(recipe, 9 - first_step, first_step=first_step)
    for (images, targets), (again, same) in zip(whole[first_step:], rest, strict=True):
        assert (targets == same).all() and (images == again).all()


def test_the_seed_decides():
    first, again, other = (batches(dataclasses.replace(AUGMENTED, seed=seed), 2)[1] for seed in (1, 1, 2))
    assert (first[0] == again[0]).all() and (first[1] == again[1]).all()
    assert (first[1] != other[1]).any()


def test_evaluation_shows_everything_in_order():
    parts = list(evaluation_batches(SPLIT, 7).as_numpy_iterator())
    assert [len(targets) for _, targets in parts] == [7, 7, 7, 7, 2]
    assert (np.concatenate([images for images, _ in parts]) == SPLIT.images).all()


OPERATIONS = {
    "flip": random_flip,
    "translate": lambda images, seed: random_translate(images, seed, 2),
    "all": lambda images, seed: augment(images, seed, Augmentation(flip=True, translate=3)),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_the_same_eagerly_and_inside_the_pipeline(name):
    operation = OPERATIONS[name]
    seed = tf.constant([3, 4])
    eager = operation(tf.constant(SPLIT.images), seed).numpy()
    piped = next(iter(tf.data.Dataset.from_tensors(SPLIT.images).map(lambda images: operation(images, seed)))).numpy()
    assert eager.dtype == np.uint8 and eager.shape == SPLIT.images.shape
    assert (eager == piped).all()
    assert (eager != operation(tf.constant(SPLIT.images), tf.constant([3, 5])).numpy()).any()


def test_a_flip_mirrors_about_half_of_the_images_and_leaves_the_rest():
    images = np.random.default_rng(1).integers(0, 256, (1000, 2, 3, 1), np.uint8)
    flipped = random_flip(tf.constant(images), tf.constant([0, 1])).numpy()
    mirrored = (flipped == images[:, :, ::-1]).all((1, 2, 3))
    kept = (flipped == images).all((1, 2, 3))
    assert (mirrored | kept).all() and 400 < mirrored.sum() < 600


def test_a_translation_is_one_of_the_shifts_with_zeros_and_each_comes_up():
    image = np.arange(1, 13, dtype=np.uint8).reshape(3, 4, 1)
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)))
    shifts = [padded[y : y + 3, x : x + 4] for y in range(3) for x in range(3)]
    moved = random_translate(tf.constant(np.repeat(image[None], 300, 0)), tf.constant([5, 6]), 1).numpy()
    which = [next(i for i, shift in enumerate(shifts) if (shift == one).all()) for one in moved]
    assert set(which) == set(range(9))


def test_no_stream_is_autotuned_for_its_thread_holds_up_the_end_of_fit():
    images = np.zeros((8, 32, 32, 3), np.uint8)
    split = Split(images, np.arange(8))
    recipe = dataclasses.replace(get_recipe("tdt4265-base"), batch_size=4)
    for stream in (training_batches(split, recipe), evaluation_batches(split, 4)):
        assert stream.options().autotune.enabled is False
