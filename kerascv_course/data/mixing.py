"""Pairs of training images made into one, with targets to match, for tf.data; seeded as `kerascv_course.data.augment` is."""

from __future__ import annotations

import tensorflow as tf

from kerascv_course.config import Augmentation
from kerascv_course.data.augment import SEEDS, draw_places, paint_boxes

__all__ = ["cutmix", "mix", "mixup"]


def mix(
    images: tf.Tensor, targets: tf.Tensor, seed: tf.Tensor, config: Augmentation, classes: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mixup or cutmix, as the recipe asks; where it asks for both, each batch gets one of them, with even odds.

    Args:
        images: uint8 (batch, height, width, channels).
        targets: int (batch,), 0 to classes − 1.
        seed: int32 (2,).
        config: the recipe's augmentation; it mixes.
        classes: number of classes.

    Returns:
        Images as before, and targets as probabilities, float32 (batch, classes).
    """
    which_seed, mix_seed = tf.unstack(tf.random.split(tf.random.fold_in(seed, SEEDS["mix"]), 2))
    soft = tf.one_hot(targets, classes)
    if not config.cutmix:
        return mixup(images, soft, mix_seed, config.mixup)
    if not config.mixup:
        return cutmix(images, soft, mix_seed, config.cutmix)
    return tf.cond(
        tf.random.stateless_uniform((), which_seed) < 0.5,
        lambda: mixup(images, soft, mix_seed, config.mixup),
        lambda: cutmix(images, soft, mix_seed, config.cutmix),
    )


def mixup(images: tf.Tensor, targets: tf.Tensor, seed: tf.Tensor, alpha: float) -> tuple[tf.Tensor, tf.Tensor]:
    """Blend each image with another of its batch: λ of the one, 1 − λ of the other, pixels and targets (Zhang et al. 2018).

    λ is drawn from Beta(alpha, alpha), for each image by itself (the authors' code draws one a batch).

    Args:
        images: uint8 (batch, height, width, channels).
        targets: float32 (batch, classes), each row with the sum 1.
        seed: int32 (2,).
        alpha: above 0; 1: any λ equally likely; towards 0: hardly any blending.

    Returns:
        Images, rounded, and targets, of the same shapes and types.
    """
    partner_seed, share_seed = tf.unstack(tf.random.split(seed, 2))
    partner, share = _partners(images, partner_seed), _beta(images, share_seed, alpha)[:, None]
    flat = tf.reshape(images, (tf.shape(images)[0], -1))
    other = tf.cast(tf.gather(flat, partner), tf.float32)
    blended = other + share * (tf.cast(flat, tf.float32) - other)
    pixels = tf.reshape(tf.cast(tf.round(blended), tf.uint8), tf.shape(images))
    return tf.ensure_shape(pixels, images.shape), share * targets + (1 - share) * tf.gather(targets, partner)


def cutmix(images: tf.Tensor, targets: tf.Tensor, seed: tf.Tensor, alpha: float) -> tuple[tf.Tensor, tf.Tensor]:
    """Put a box of another image of the batch into each image; targets count by area (Yun et al. 2019, algorithm 1).

    The box covers 1 − λ of the image, λ from Beta(alpha, alpha), has the image's proportions and any pixel as its centre; what
    lies outside is cut off, and the targets go by what is left.

    Args:
        images: uint8 (batch, height, width, channels).
        targets: float32 (batch, classes), each row with the sum 1.
        seed: int32 (2,).
        alpha: above 0; 1: any λ equally likely.

    Returns:
        Images and targets, of the same shapes and types.
    """
    height, width, channels = images.shape[1:]
    partner_seed, share_seed, place_seed = tf.unstack(tf.random.split(seed, 3))
    partner, side = _partners(images, partner_seed), tf.sqrt(1 - _beta(images, share_seed, alpha))
    sizes = tf.cast(tf.round(tf.stack([side * height, side * width])), tf.int32)
    limits = tf.constant([[height], [width]])
    corners = draw_places(images, place_seed, (height, width)) - sizes // 2
    start, end = tf.maximum(corners, 0), tf.minimum(corners + sizes, limits)
    top, left = tf.unstack(start)
    tall, wide = tf.unstack(end - start)
    other = tf.gather(tf.reshape(images, (-1, height, width * channels)), partner)
    share = 1 - tf.cast(tall * wide, tf.float32)[:, None] / (height * width)
    return paint_boxes(images, other, top, left, tall, wide), share * targets + (1 - share) * tf.gather(targets, partner)


def _partners(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Whom each image of a batch is mixed with: a permutation, (batch,); an image may be its own partner."""
    return tf.random.experimental.stateless_shuffle(tf.range(tf.shape(images)[0]), seed)


def _beta(images: tf.Tensor, seed: tf.Tensor, alpha: float) -> tf.Tensor:
    """A draw from Beta(alpha, alpha) for each image, float32 (batch,)."""
    # In float64: for a small alpha both gammas may be below what float32 can tell from zero.
    gammas = tf.random.stateless_gamma((2, tf.shape(images)[0]), seed, tf.constant(alpha, tf.float64), dtype=tf.float64)
    return tf.cast(tf.math.divide_no_nan(gammas[0], gammas[0] + gammas[1]), tf.float32)
