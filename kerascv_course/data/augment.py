"""Random changes of a batch of images, for tf.data: uint8 in, uint8 of the same shape out, decided by a seed alone.

Each takes a stateless seed (int32 tensor of shape (2,)): the same seed changes the same batch the same way, eagerly and inside a
pipeline, on any machine and however the pipeline is run. Each image of a batch is changed in its own way.
"""

from __future__ import annotations

import tensorflow as tf

from kerascv_course.recipe import Augmentation

__all__ = ["augment", "random_flip", "random_translate"]


def augment(images: tf.Tensor, seed: tf.Tensor, config: Augmentation) -> tf.Tensor:
    """Apply what the recipe asks for, each change with a seed of its own.

    Args:
        images: uint8 (batch, height, width, channels).
        seed: int32 (2,).
        config: the recipe's augmentation.
    """
    flip_seed, translate_seed = tf.unstack(tf.random.split(seed, 2))
    if config.flip:
        images = random_flip(images, flip_seed)
    if config.translate:
        images = random_translate(images, translate_seed, config.translate)
    return images


def random_flip(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Mirror left and right, each image with probability 1/2: (batch, height, width, channels) to the same."""
    mirrored = tf.random.stateless_uniform((tf.shape(images)[0], 1, 1, 1), seed) < 0.5
    return tf.where(mirrored, tf.reverse(images, [2]), images)


def random_translate(images: tf.Tensor, seed: tf.Tensor, pixels: int) -> tf.Tensor:
    """Shift by −pixels … pixels down and right, independently, each shift equally likely; zeros come in at the border.

    The same as padding with zeros and cropping at random (He et al. 2016, section 4.2), with the padding equal to `pixels`.
    """
    batch, height, width = tf.unstack(tf.shape(images)[:3])
    padded = tf.pad(images, [[0, 0], [pixels, pixels], [pixels, pixels], [0, 0]])
    offsets = tf.random.stateless_uniform((2, batch, 1), seed, 0, 2 * pixels + 1, tf.int32)
    rows = tf.gather(padded, offsets[0] + tf.range(height), axis=1, batch_dims=1)
    shifted = tf.gather(rows, offsets[1] + tf.range(width), axis=2, batch_dims=1)
    return tf.ensure_shape(shifted, images.shape)
