"""Every random change of the training images: exactly what it does, eagerly and inside the pipeline."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools

import numpy as np
import pytest

from kerascv_course.data.augment import alternating_flip, random_translate
from kerascv_course.data.pipeline import training_batches
from kerascv_course.data.splits import Split
from kerascv_course.errors import InputError
from kerascv_course.recipe import Augmentation
from kerascv_course.recipes import get_recipe

tf = pytest.importorskip("tensorflow")

RECIPE = dataclasses.replace(get_recipe("lenet5-digits"), batch_size=8, augmentation=Augmentation())
SPLIT = Split(np.random.default_rng(0).integers(0, 256, (30, 6, 5, 3), np.uint8), np.arange(30))


def stream(count, *, split=SPLIT, seed=3, **augmentation):
    recipe = dataclasses.replace(RECIPE, augmentation=Augmentation(**augmentation), seed=seed)
    batches = itertools.islice(training_batches(split, recipe), count)
    return [(images.numpy(), targets.numpy()) for images, targets in batches]


@pytest.mark.parametrize(
    ("augmentation", "digest"),
    [
        ({}, "964990b572b6d443"),
        ({"flip": True}, "b94cdf65e9ee97f1"),
        ({"translate": 2}, "e3ef9b68bbe018ba"),
        ({"flip": True, "translate": 2}, "befeec08a6e4e021"),
    ],
    ids=str,
)
def test_the_streams_of_the_first_recipes_stay_as_they_were(augmentation, digest):
    """The docs name runs with these; whoever breaks this breaks their reproduction."""
    seen = hashlib.sha256()
    for images, targets in stream(7, **augmentation):
        seen.update(images.tobytes())
        seen.update(targets.astype("<i8").tobytes())
    assert seen.hexdigest()[:16] == digest


def test_an_alternating_flip_shows_both_views_of_each_image_in_two_epochs():
    count = 64
    split = Split(np.random.default_rng(1).integers(0, 256, (count, 2, 3, 1), np.uint8), np.arange(count))
    batches = stream(3 * count // 8, split=split, alternating_flip=True)
    epochs = []
    for start in range(0, len(batches), count // 8):
        images, targets = map(np.concatenate, zip(*batches[start : start + count // 8], strict=True))
        epochs.append(images[np.argsort(targets)])
    first, second, third = epochs
    assert (second == first[:, :, ::-1]).all() and (third == first).all()
    mirrored = (first == split.images[:, :, ::-1]).all((1, 2, 3))
    assert (mirrored | (first == split.images).all((1, 2, 3))).all() and 16 < mirrored.sum() < 48
    other = stream(count // 8, split=split, seed=4, alternating_flip=True)
    assert any((a[0][a[1].argsort()] != b[0][b[1].argsort()]).any() for a, b in zip(batches, other, strict=False))


def test_an_alternating_flip_by_hand():
    images = tf.constant([[[[1], [2]]], [[[3], [4]]]], tf.uint8)
    even, odd = (alternating_flip(images, tf.constant([True, False]), epoch).numpy().ravel().tolist() for epoch in (0, 1))
    assert even == [2, 1, 3, 4] and odd == [1, 2, 4, 3]


def test_a_reflected_border_by_hand():
    image = np.arange(1, 13, dtype=np.uint8).reshape(3, 4, 1)
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)), "reflect")
    shifts = [padded[y : y + 3, x : x + 4] for y in range(3) for x in range(3)]
    moved = random_translate(tf.constant(np.repeat(image[None], 300, 0)), tf.constant([5, 6]), 1, "reflect").numpy()
    which = [next(i for i, shift in enumerate(shifts) if (shift == one).all()) for one in moved]
    assert set(which) == set(range(9))


def test_what_is_refused():
    with pytest.raises(InputError, match=r"flip and augmentation.alternating_flip exclude each other.*leave one out"):
        Augmentation(flip=True, alternating_flip=True)
    with pytest.raises(InputError, match=r"reflected border must be less than the image's 5 pixels; received 5"):
        stream(1, translate=5, border="reflect")
