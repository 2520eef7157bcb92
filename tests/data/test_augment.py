"""Augmentation operations: worked by hand, and equal eagerly and in the pipeline."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools

import numpy as np
import pytest

from kerascv_course.config import Augmentation
from kerascv_course.core.errors import InputError
from kerascv_course.data.augment import (
    _rotate,
    alternating_flip,
    augment,
    check_augmentation,
    color_jitter,
    cutmix,
    cutout,
    mix,
    mixup,
    paint_boxes,
    random_erase,
    random_flip,
    random_rotate,
    random_translate,
)
from kerascv_course.data.pipeline import training_batches
from kerascv_course.data.splits import Split
from kerascv_course.recipes import get_recipe

tf = pytest.importorskip("tensorflow")

RECIPE = dataclasses.replace(get_recipe("lenet5-digits"), batch_size=8, augmentation=Augmentation())
SPLIT = Split(np.random.default_rng(0).integers(0, 256, (30, 6, 5, 3), np.uint8), np.arange(30))
IMAGES = tf.constant(SPLIT.images)
SOFT = tf.one_hot(tf.range(30) % 4, 4)
EVERYTHING = Augmentation(
    alternating_flip=True, translate=2, border="reflect", rotate=15, color_jitter=0.4, cutout=3, erase=0.5, mixup=1, cutmix=1
)


def stream(count, *, split=SPLIT, seed=3, **augmentation):
    recipe = dataclasses.replace(RECIPE, augmentation=Augmentation(**augmentation), seed=seed)
    batches = itertools.islice(training_batches(split, recipe, classes=30), count)
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
def test_augmented_streams_never_change(augmentation, digest):
    """Published runs depend on these exact streams."""
    seen = hashlib.sha256()
    for images, targets in stream(7, **augmentation):
        seen.update(images.tobytes())
        seen.update(targets.astype("<i8").tobytes())
    assert seen.hexdigest()[:16] == digest


def test_random_flip_mirrors_about_half_of_the_images():
    images = np.random.default_rng(1).integers(0, 256, (1000, 2, 3, 1), np.uint8)
    flipped = random_flip(tf.constant(images), tf.constant([0, 1])).numpy()
    mirrored = (flipped == images[:, :, ::-1]).all((1, 2, 3))
    kept = (flipped == images).all((1, 2, 3))
    assert (mirrored | kept).all() and 400 < mirrored.sum() < 600


def test_random_translate_draws_all_shifts():
    image = np.arange(1, 13, dtype=np.uint8).reshape(3, 4, 1)
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)))
    shifts = [padded[y : y + 3, x : x + 4] for y in range(3) for x in range(3)]
    moved = random_translate(tf.constant(np.repeat(image[None], 300, 0)), tf.constant([5, 6]), 1).numpy()
    which = [next(i for i, shift in enumerate(shifts) if (shift == one).all()) for one in moved]
    assert set(which) == set(range(9))


def test_alternating_flip_shows_both_versions_in_two_epochs():
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


def test_alternating_flip_by_hand():
    images = tf.constant([[[[1], [2]]], [[[3], [4]]]], tf.uint8)
    even, odd = (alternating_flip(images, tf.constant([True, False]), epoch).numpy().ravel().tolist() for epoch in (0, 1))
    assert even == [2, 1, 3, 4] and odd == [1, 2, 4, 3]


def test_random_translate_with_reflected_border_by_hand():
    image = np.arange(1, 13, dtype=np.uint8).reshape(3, 4, 1)
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)), "reflect")
    shifts = [padded[y : y + 3, x : x + 4] for y in range(3) for x in range(3)]
    moved = random_translate(tf.constant(np.repeat(image[None], 300, 0)), tf.constant([5, 6]), 1, "reflect").numpy()
    which = [next(i for i, shift in enumerate(shifts) if (shift == one).all()) for one in moved]
    assert set(which) == set(range(9))


CHANGES = {
    "flip": random_flip,
    "translate": lambda images, seed: random_translate(images, seed, 2),
    "reflect": lambda images, seed: random_translate(images, seed, 2, "reflect"),
    "rotate": lambda images, seed: random_rotate(images, seed, 30.0),
    "rotate reflect": lambda images, seed: random_rotate(images, seed, 30.0, "reflect"),
    "color_jitter": lambda images, seed: color_jitter(images, seed, 0.5),
    "cutout": lambda images, seed: cutout(images, seed, 3, (0.5, 0.1, 0.0)),
    "erase": lambda images, seed: random_erase(images, seed, 0.9),
    "mixup": lambda images, seed: mixup(images, SOFT, seed, 0.5),
    "cutmix": lambda images, seed: cutmix(images, SOFT, seed, 1.0),
    "all": lambda images, seed: augment(images, seed, EVERYTHING, starts_mirrored=tf.range(30) < 9, epoch=3),
    "mix": lambda images, seed: mix(images, tf.range(30) % 4, seed, EVERYTHING, 4),
}


@pytest.mark.parametrize("name", CHANGES)
def test_operations_are_the_same_eagerly_and_in_the_pipeline(name):
    change, seed = CHANGES[name], tf.constant([3, 4])
    dataset = tf.data.Dataset.from_tensors(SPLIT.images).map(lambda images: change(images, seed))
    parts = zip(*(tf.nest.flatten(result) for result in (change(IMAGES, seed), next(iter(dataset)))), strict=True)
    eager, piped = zip(*((a.numpy(), b.numpy()) for a, b in parts), strict=True)
    assert eager[0].dtype == np.uint8 and eager[0].shape == SPLIT.images.shape
    assert tf.nest.flatten(dataset.element_spec)[0].shape[1:] == (6, 5, 3)
    assert all((a == b).all() for a, b in zip(eager, piped, strict=True))
    assert (eager[0] != tf.nest.flatten(change(IMAGES, tf.constant([3, 5])))[0].numpy()).any()


def test_augmented_streams_depend_on_the_seed_alone():
    whole = dataclasses.asdict(EVERYTHING)
    first, again, other = (stream(4, seed=seed, **whole) for seed in (1, 1, 2))
    for (images, targets), (same, likewise) in zip(first, again, strict=True):
        assert (images == same).all() and (targets == likewise).all()
        assert images.dtype == np.uint8 and targets.dtype == np.float32 and targets.shape == (8, 30)
    assert (first[0][0] != other[0][0]).any()


def test_augment_combines_flip_and_translate_in_order():
    seed = tf.constant([3, 4])
    flip_seed, translate_seed = tf.unstack(tf.random.split(seed, 2))
    for border in ("zeros", "reflect"):
        both = augment(IMAGES, seed, Augmentation(flip=True, translate=2, border=border))
        in_turn = random_translate(random_flip(IMAGES, flip_seed), translate_seed, 2, border)
        assert (both.numpy() == in_turn.numpy()).all()


def test_rotate_by_quarter_turns_equals_numpy():
    square = np.random.default_rng(2).integers(0, 256, (4, 7, 7, 3), np.uint8)
    angles = tf.constant([0.0, np.pi / 2, np.pi, -np.pi / 2], tf.float32)
    turned = _rotate(tf.constant(square), angles).numpy()
    for image, result, quarters in zip(square, turned, (0, 1, 2, 3), strict=True):
        assert (np.rot90(image, quarters)[1:-1, 1:-1] == result[1:-1, 1:-1]).all(), quarters


def test_random_rotate_fills_the_corners():
    flat = tf.fill((40, 9, 9, 1), tf.constant(200, tf.uint8))
    zeros = random_rotate(flat, tf.constant([1, 2]), 45.0).numpy()
    assert (zeros[:, 2:7, 2:7] == 200).all() and (zeros[:, 0, 0] < 200).any()
    assert (random_rotate(flat, tf.constant([1, 2]), 45.0, "reflect").numpy() == 200).all()


def test_color_jitter_by_hand():
    images, seed, strength = SPLIT.images, tf.constant([5, 6]), 0.6
    jittered = color_jitter(IMAGES, seed, strength).numpy()
    factors = tf.random.stateless_uniform((3, 30, 1, 1), seed, 1 - strength, 1 + strength).numpy().reshape(3, 30, 1, 1, 1)
    brightness, contrast, saturation = factors.astype(np.float64)
    luma = np.array([0.299, 0.587, 0.114])
    pixels = images * brightness
    mean = (pixels @ luma).mean((1, 2))[:, None, None, None]
    pixels = mean + contrast * (pixels - mean)
    gray = (pixels @ luma)[..., None]
    expected = np.clip(gray + saturation * (pixels - gray), 0, 255)
    assert np.abs(jittered - expected).max() < 0.51 and (factors > 1).any() and (factors < 1).any()


def test_color_jitter_keeps_gray_images_gray():
    gray = np.repeat(SPLIT.images[..., :1], 3, axis=-1)
    jittered = color_jitter(tf.constant(gray), tf.constant([5, 6]), 0.5).numpy()
    assert (jittered == jittered[..., :1]).all() and (jittered != gray).any()
    one_channel = color_jitter(tf.constant(gray[..., :1]), tf.constant([5, 6]), 0.5).numpy()
    assert np.abs(one_channel.astype(int) - jittered[..., :1]).max() <= 1
    assert (color_jitter(IMAGES, tf.constant([5, 6]), 0.0).numpy() == SPLIT.images).all()


@pytest.mark.parametrize("side", [3, 4])
def test_cutout_fills_a_square_around_any_pixel(side):
    white = np.full((2000, 6, 5, 3), 255, np.uint8)
    hidden = cutout(tf.constant(white), tf.constant([1, 2]), side, (0.5, 0.1, 0.0)).numpy()
    gone = (hidden != 255).all(-1)
    assert (hidden[gone] == [128, 26, 0]).all(), "the mean color, rounded"
    expected = set()
    for y, x in itertools.product(range(6), range(5)):
        mask = np.zeros((6, 5), bool)
        mask[max(y - side // 2, 0) : y - side // 2 + side, max(x - side // 2, 0) : x - side // 2 + side] = True
        expected.add(mask.tobytes())
    assert {mask.tobytes() for mask in gone} == expected
    assert gone.sum((1, 2)).max() == side**2


def test_random_erase_fills_rectangles_of_the_papers_area_with_noise():
    black = np.zeros((2000, 32, 32, 3), np.uint8)
    erased = random_erase(tf.constant(black), tf.constant([1, 2]), 0.5).numpy()
    areas, ratios = [], []
    for image in erased[erased.any((1, 2, 3))]:
        seen = image.any(-1)
        rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
        tall, wide = rows.max() - rows.min() + 1, columns.max() - columns.min() + 1
        assert seen.sum() == tall * wide, "filled without gaps (three zeros in a pixel: 1 of 17 million)"
        areas.append(tall * wide / 1024)
        ratios.append(tall / wide)
    assert 900 < len(areas) < 1100
    assert 0.015 < min(areas) < 0.03 and 0.38 < max(areas) < 0.42
    assert 0.2 < min(ratios) < 0.4 and 2.5 < max(ratios) < 5 and 0.4 < np.mean(np.array(ratios) > 1) < 0.6
    noise = erased[erased.any(-1)]
    assert abs(noise.mean() - 127.5) < 1 and noise.max() == 255
    assert (random_erase(tf.constant(black[:9]), tf.constant([1, 2]), 0.0).numpy() == 0).all()


def test_paint_boxes_outside_or_empty():
    images, other = np.zeros((4, 3, 4, 1), np.uint8), tf.constant(9, tf.uint8)
    top, left, tall, wide = (tf.constant(values) for values in ([-1, 2, 0, 5], [-1, 3, 0, 0], [2, 5, 0, 1], [2, 5, 4, 1]))
    painted = paint_boxes(tf.constant(images), other, top, left, (tall, wide)).numpy()
    expected = images.copy()
    expected[0, 0, 0] = expected[1, 2, 3] = 9
    assert (painted == expected).all()


def test_mixup_blends_pixels_and_targets_equally():
    images = np.broadcast_to(np.arange(0, 240, 8, dtype=np.uint8)[:, None, None, None], (30, 2, 2, 3))
    targets = tf.one_hot(tf.range(30), 30)
    mixed, soft = (part.numpy() for part in mixup(tf.constant(images), targets, tf.constant([1, 2]), 1.0))
    np.testing.assert_allclose(soft.sum(1), 1, atol=1e-6)
    assert ((soft > 0).sum(1) <= 2).all()
    expected = soft @ images[:, 0, 0, 0]
    assert np.abs(mixed - expected[:, None, None, None]).max() < 0.51
    own = soft.diagonal()
    assert own.min() < 0.3 and own.max() > 0.7 and len(np.unique(own)) > 25, "one share per image"


def test_cutmix_weights_targets_by_area():
    images = np.broadcast_to(np.arange(30, dtype=np.uint8)[:, None, None, None], (30, 8, 6, 3))
    mixed, soft = (part.numpy() for part in cutmix(tf.constant(images), tf.one_hot(tf.range(30), 30), tf.constant([1, 2]), 1.0))
    for own, (image, target) in enumerate(zip(mixed, soft, strict=True)):
        counts = np.bincount(image[..., 0].ravel(), minlength=30)
        np.testing.assert_allclose(target, counts / 48, atol=1e-6)
        foreign = image[..., 0] != own
        assert foreign.sum() == foreign.any(1).sum() * foreign.any(0).sum(), "one box"
    assert ((soft > 0).sum(1) == 2).any()


def test_mixup_with_small_alpha_hardly_blends():
    share = mixup(tf.zeros((2000, 1, 1, 1), tf.uint8), tf.eye(2000), tf.constant([1, 2]), 0.01)[1].numpy().max(1)
    assert np.isfinite(share).all() and (share > 0.99).mean() > 0.9


def test_mix_chooses_mixup_or_cutmix_per_batch():
    images, targets = (
        tf.constant(np.arange(8, dtype=np.uint8)[:, None, None, None] * np.full((8, 9, 9, 1), 30, np.uint8)),
        tf.range(8),
    )
    both = Augmentation(mixup=1.0, cutmix=1.0)
    ways = [mix(images, targets, tf.constant([0, seed]), both, 8)[0].numpy() for seed in range(20)]
    blended = [(batch == batch[:, :1, :1]).all() for batch in ways]
    assert 4 < sum(blended) < 16


def test_augmentation_refuses_unsuitable_settings():
    with pytest.raises(InputError, match=r"flip and augmentation.alternating_flip exclude each other; received both: use one"):
        Augmentation(flip=True, alternating_flip=True)
    with pytest.raises(InputError, match=r"reflected border must be less than the image's 5 pixels; received 5"):
        stream(1, translate=5, border="reflect")
    with pytest.raises(InputError, match=r"color_jitter needs images with 1 or 3 channels; received 2"):
        check_augmentation(Augmentation(color_jitter=0.1), (8, 8, 2))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rotate": 181}, r"augmentation.rotate must be a number \(0 to 180\); received 181"),
        ({"cutout": -1}, r"augmentation.cutout must be an integer \(0 or more\); received -1"),
        ({"erase": 1.5}, r"augmentation.erase must be a number \(0 to 1\); received 1.5"),
        ({"color_jitter": -0.1}, r"augmentation.color_jitter must be a number \(0 to 1\); received -0.1"),
        ({"mixup": -1}, r"augmentation.mixup must be a number \(0 or more\); received -1"),
        ({"cutmix": float("nan")}, r"augmentation.cutmix must be a number \(0 or more\); received nan"),
    ],
    ids=str,
)
def test_augmentation_refuses_values_out_of_range(values, message):
    with pytest.raises(InputError, match=message):
        Augmentation(**values)


def test_mixing_refuses_targets_that_depend_on_pixels():
    mixing = dataclasses.replace(RECIPE, augmentation=Augmentation(mixup=0.2))
    with pytest.raises(InputError, match=r"require the task classify; received them for colorize"):
        dataclasses.replace(get_recipe("csc413-unet"), augmentation=mixing.augmentation)
    for options in ({"relabel": lambda images: images, "classes": 30}, {}):
        with pytest.raises(InputError, match=r"one class per image, which stays"):
            training_batches(SPLIT, mixing, **options)
