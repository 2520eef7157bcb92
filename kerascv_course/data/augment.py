"""Random augmentation of image batches for tf.data: uint8 in, uint8 of the same shape out, determined by a seed alone.

Each operation takes a stateless seed (int32 tensor of shape (2,)): the same seed changes the same batch the same way, eagerly or in
a pipeline, whatever the parallelism, and on any machine (up to rounding in rotation and color jitter). Each image of a batch draws
its own numbers. Images are uint8 (batch, height, width, channels); all but the batch size must be known when the graph is built.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from kerascv_course.config import Augmentation
from kerascv_course.core.errors import InputError

__all__ = [
    "Rows",
    "alternating_flip",
    "augment",
    "check_augmentation",
    "color_jitter",
    "cutmix",
    "cutout",
    "mix",
    "mixup",
    "paint_boxes",
    "random_erase",
    "random_flip",
    "random_rotate",
    "random_translate",
]

#: Luma of red, green and blue (ITU-R BT.601).
LUMA = (0.299, 0.587, 0.114)

#: Number folded into the seed of each operation. Flip and translate split the seed instead, as they did before there were other
#: operations: a new operation must not alter what the others draw.
SEEDS = {"rotate": 2, "color_jitter": 3, "cutout": 4, "erase": 5, "mix": 6}

Border = Literal["zeros", "reflect"]


@dataclass(frozen=True)
class Rows:
    """Part of a batch whose other images are augmented elsewhere; random numbers are drawn for the whole batch.

    Attributes:
        part: the rows of the batch.
        batch: size of the whole batch.
    """

    part: slice
    batch: int


def check_augmentation(config: Augmentation, image_shape: Sequence[int]) -> None:
    """Refuse an augmentation that does not suit images of the shape (height, width, channels).

    Raises:
        InputError: a reflected border as wide as the image, or color jitter of images with neither 1 nor 3 channels.
    """
    smallest, channels = min(image_shape[:2]), image_shape[2]
    if config.border == "reflect" and config.translate >= smallest:
        raise InputError(
            f"augmentation.translate with a reflected border must be less than the image's {smallest} pixels; received "
            f"{config.translate}: use a smaller --augmentation.translate, or --augmentation.border zeros"
        )
    if config.color_jitter and channels not in (1, 3):
        raise InputError(
            f"augmentation.color_jitter needs images with 1 or 3 channels; received {channels} channels: set it to 0"
        )


def augment(
    images: tf.Tensor,
    seed: tf.Tensor,
    config: Augmentation,
    *,
    starts_mirrored: tf.Tensor | None = None,
    epoch: tf.Tensor | int = 0,
    fill: Sequence[float] = (0.0,),
    rows: Rows | None = None,
) -> tf.Tensor:
    """Apply the recipe's augmentation except `mix`, each operation with its own seed.

    Args:
        images: uint8 (batch, height, width, channels).
        seed: int32 (2,), which determines all random numbers.
        config: the recipe's augmentation, which says what is changed.
        starts_mirrored: bool (batch,), images that `alternating_flip` mirrors in epoch 0.
        epoch: number of finished epochs, for `alternating_flip`.
        fill: color of the square of `cutout`, 0–1 for 0–255.
        rows: which rows of a batch the images are; None: all.
    """
    flip_seed, translate_seed = tf.unstack(tf.random.split(seed, 2))
    mirrored = offsets = None
    if config.flip:
        mirrored = _draw_flips(images, flip_seed, rows)
    if config.alternating_flip:
        mirrored = _alternate(starts_mirrored, epoch)
    if config.translate:
        offsets = _draw_offsets(images, translate_seed, config.translate, rows)
    if mirrored is not None or offsets is not None:
        images = _flip_and_crop(images, mirrored, offsets, config.translate, config.border)
    if config.rotate:
        images = random_rotate(images, tf.random.fold_in(seed, SEEDS["rotate"]), config.rotate, config.border, rows)
    if config.color_jitter:
        images = color_jitter(images, tf.random.fold_in(seed, SEEDS["color_jitter"]), config.color_jitter, rows)
    if config.cutout:
        images = cutout(images, tf.random.fold_in(seed, SEEDS["cutout"]), config.cutout, fill, rows)
    if config.erase:
        images = random_erase(images, tf.random.fold_in(seed, SEEDS["erase"]), config.erase, rows)
    return images


def _draw(
    images: tf.Tensor, seed: tf.Tensor, before: tuple[int, ...], after: tuple[int, ...], rows: Rows | None, *limits: Any
) -> tf.Tensor:
    """Random numbers (before…, batch, after…), reduced to `rows`; `limits`: minval, maxval, dtype of `stateless_uniform`."""
    batch = rows.batch if rows else tf.shape(images)[0]
    drawn = tf.random.stateless_uniform((*before, batch, *after), seed, *limits)
    return drawn[(*[slice(None)] * len(before), rows.part)] if rows else drawn


# --- Geometry: flip and translation share one gather, several times faster than one after the other ---


def random_flip(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Mirror each image horizontally with probability 1/2."""
    return _flip_and_crop(images, _draw_flips(images, seed), None)


def alternating_flip(images: tf.Tensor, starts_mirrored: tf.Tensor, epoch: tf.Tensor | int) -> tf.Tensor:
    """Mirror each image horizontally in every other epoch (Jordan 2024, "94 % on CIFAR-10 in 3.29 seconds …", section 3.6).

    Two epochs thus show both versions of every image; independent flips show half of the images twice the same way.

    Args:
        images: uint8 (batch, height, width, channels).
        starts_mirrored: bool (batch,), images mirrored in even epochs; the others are mirrored in odd ones.
        epoch: number of finished epochs.
    """
    return _flip_and_crop(images, _alternate(starts_mirrored, epoch), None)


def random_translate(images: tf.Tensor, seed: tf.Tensor, pixels: int, border: Border = "zeros") -> tf.Tensor:
    """Shift by −pixels … pixels down and right, independently and uniformly.

    Equals padding by `pixels` and random cropping (He et al. 2016, section 4.2).

    Args:
        images: uint8 (batch, height, width, channels).
        seed: int32 (2,), which determines the shifts.
        pixels: largest shift; with a reflected border less than height and width.
        border: fill with zeros, or reflect the image without repeating its outermost pixels.
    """
    return _flip_and_crop(images, None, _draw_offsets(images, seed, pixels), pixels, border)


def _draw_flips(images: tf.Tensor, seed: tf.Tensor, rows: Rows | None = None) -> tf.Tensor:
    return _draw(images, seed, (), (), rows) < 0.5


def _alternate(starts_mirrored: tf.Tensor, epoch: tf.Tensor | int) -> tf.Tensor:
    return tf.not_equal(starts_mirrored, tf.equal(epoch % 2, 1))


def _draw_offsets(images: tf.Tensor, seed: tf.Tensor, pixels: int, rows: Rows | None = None) -> tf.Tensor:
    """First row and column of the crop from the padded image: int (2, batch, 1), 0 to 2·pixels."""
    return _draw(images, seed, (2,), (1,), rows, 0, 2 * pixels + 1, tf.int32)


def _flip_and_crop(
    images: tf.Tensor, mirrored: tf.Tensor | None, offsets: tf.Tensor | None, pixels: int = 0, border: Border = "zeros"
) -> tf.Tensor:
    """Mirror the chosen images, pad all by `pixels` and crop each at its offsets."""
    height, width, channels = images.shape[1:]
    if offsets is None:
        offsets, pixels = tf.zeros((2, 1, 1), tf.int32), 0
    rows, columns = offsets[0] + tf.range(height), offsets[1] + tf.range(width)
    if border == "zeros" and pixels:
        images = tf.pad(images, [[0, 0], [pixels, pixels], [pixels, pixels], [0, 0]])
        height, width = height + 2 * pixels, width + 2 * pixels
    else:
        rows, columns = _reflect(rows - pixels, height), _reflect(columns - pixels, width)
    if mirrored is not None:
        columns = tf.where(mirrored[:, None], width - 1 - columns, columns)
    first = tf.range(tf.shape(images)[0])[:, None, None] * (height * width)
    return tf.gather(tf.reshape(images, (-1, channels)), first + rows[:, :, None] * width + columns[:, None, :])


def _reflect(index: tf.Tensor, size: int) -> tf.Tensor:
    """Indices outside 0 … size − 1, reflected at the ends."""
    return size - 1 - tf.abs(size - 1 - tf.abs(index))


def random_rotate(
    images: tf.Tensor, seed: tf.Tensor, degrees: float, border: Border = "zeros", rows: Rows | None = None
) -> tf.Tensor:
    """Rotate about the center by a uniform angle of −degrees … degrees, with bilinear interpolation and rounding.

    Args:
        images: uint8 (batch, height, width, channels).
        seed: int32 (2,), which determines the angles.
        degrees: largest angle in either direction.
        border: fill the corners with zeros, or reflect the image at its edge.
        rows: which rows of a batch the images are; None: all.
    """
    limit = math.radians(degrees)
    return _rotate(images, _draw(images, seed, (), (), rows, -limit, limit), border)


def _rotate(images: tf.Tensor, angles: tf.Tensor, border: Border = "zeros") -> tf.Tensor:
    """Rotate each image counterclockwise by its angle in radians, (batch,)."""
    height, width, _ = images.shape[1:]
    middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
    cos, sin, zero = tf.cos(angles), tf.sin(angles), tf.zeros_like(angles)
    # The output pixel (x, y) comes from (cos·x − sin·y + …, sin·x + cos·y + …), y pointing down.
    shift_x = middle_x - cos * middle_x + sin * middle_y
    shift_y = middle_y - sin * middle_x - cos * middle_y
    rotated = tf.raw_ops.ImageProjectiveTransformV3(
        images=tf.cast(images, tf.float32),
        transforms=tf.stack([cos, -sin, shift_x, sin, cos, shift_y, zero, zero], axis=1),
        output_shape=[height, width],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode={"zeros": "CONSTANT", "reflect": "REFLECT"}[border],
    )
    return tf.cast(tf.round(rotated), tf.uint8)


# --- Color ---


def color_jitter(images: tf.Tensor, seed: tf.Tensor, strength: float, rows: Rows | None = None) -> tf.Tensor:
    """Change brightness, contrast and saturation, in this order, each by a factor of 1 − strength to 1 + strength.

    Brightness scales all values; contrast scales their distance from the image's mean luma; saturation their distance from the
    pixel's luma, so gray images stay gray. Values are rounded and clipped to 0–255 once, at the end.

    Args:
        images: uint8 (batch, height, width, 1 or 3).
        seed: int32 (2,), which determines the factors.
        strength: largest distance of a factor from 1, 0 to 1.
        rows: which rows of a batch the images are; None: all.
    """
    height, width, channels = images.shape[1:]
    brightness, contrast, saturation = tf.unstack(_draw(images, seed, (3,), (1, 1), rows, 1 - strength, 1 + strength))
    pixels = tf.cast(tf.reshape(images, (-1, height * width, channels)), tf.float32)
    # All three are linear: one 3×3 matrix per image, and the same offset for all of its pixels.
    luma = tf.constant(LUMA if channels == 3 else (1.0,))
    matrix = saturation * tf.eye(channels) + (1 - saturation) * luma[:, None]
    mean_luma = tf.tensordot(tf.reduce_mean(pixels, axis=1), luma, 1)[:, None, None]
    changed = tf.matmul(pixels, brightness * contrast * matrix) + brightness * (1 - contrast) * mean_luma
    return tf.reshape(tf.cast(tf.clip_by_value(tf.round(changed), 0, 255), tf.uint8), tf.shape(images))


# --- Occlusion ---


def cutout(
    images: tf.Tensor, seed: tf.Tensor, side: int, fill: Sequence[float] = (0.0,), rows: Rows | None = None
) -> tf.Tensor:
    """Fill a square of each image with one color (DeVries and Taylor 2017, section 3.2).

    The center is any pixel, so part of the square may be outside. The paper fills with zeros after normalization, which is a
    `fill` of the mean that is subtracted.

    Args:
        images: uint8 (batch, height, width, channels).
        seed: int32 (2,), which determines the positions.
        side: side of the square, pixels; the center of an even square is right of and below its middle.
        fill: 0–1 for 0–255; one value, or one per channel.
        rows: which rows of a batch the images are; None: all.
    """
    height, width, channels = images.shape[1:]
    top, left = tf.unstack(_draw_places(images, seed, (height, width), rows) - side // 2)
    color = np.rint(255 * np.broadcast_to(np.asarray(fill, np.float64), (channels,))).astype(np.uint8)
    return paint_boxes(images, tf.constant(np.tile(color, width)), top, left, (side, side))


def random_erase(images: tf.Tensor, seed: tf.Tensor, probability: float, rows: Rows | None = None) -> tf.Tensor:
    """Fill a rectangle with noise (Zhong et al. 2020, algorithm 1, with the paper's area of 0.02–0.4 of the image).

    The aspect ratio is log-uniform from 0.3 to 1/0.3, which makes tall and wide rectangles equally likely; the paper draws the ratio
    itself. A rectangle that does not fit is drawn again, up to ten times in all; then the image stays unchanged.

    Args:
        images: uint8 (batch, height, width, channels).
        seed: int32 (2,), which determines rectangles and noise.
        probability: of changing an image.
        rows: which rows of a batch the images are; None: all.
    """
    height, width, channels = images.shape[1:]
    chosen_seed, shape_seed, place_seed, noise_seed = tf.unstack(tf.random.split(seed, 4))
    draws = _draw(images, shape_seed, (2,), (10,), rows)
    area = (0.02 + (0.4 - 0.02) * draws[0]) * (height * width)
    ratio = tf.exp((2 * draws[1] - 1) * math.log(1 / 0.3))
    tall, wide = (tf.cast(tf.round(tf.sqrt(size)), tf.int32) for size in (area * ratio, area / ratio))
    fits = (tall <= height) & (wide <= width)
    first = tf.argmax(fits, axis=1, output_type=tf.int32)
    tall, wide = tf.gather(tall, first, batch_dims=1), tf.gather(wide, first, batch_dims=1)
    chosen = (_draw(images, chosen_seed, (), (), rows) < probability) & tf.reduce_any(fits, axis=1)
    top, left = tf.unstack(_draw_places(images, place_seed, (height - tall + 1, width - wide + 1), rows))
    # uniform bytes, four per random number: (batch, height, width·channels)
    line = width * channels
    words = _draw(images, noise_seed, (), (height, -(-line // 4)), rows, None, None, tf.int32)
    noise = tf.reshape(tf.bitcast(words, tf.uint8), (-1, height, 4 * -(-line // 4)))[:, :, :line]
    return paint_boxes(images, noise, top, left, (tf.where(chosen, tall, 0), wide))


def _draw_places(
    images: tf.Tensor, seed: tf.Tensor, sizes: tuple[tf.Tensor | int, tf.Tensor | int], rows: Rows | None = None
) -> tf.Tensor:
    """A row and a column per image, int32 (2, batch): 0 to size − 1; a size is one number or (batch,)."""
    shares = tf.unstack(_draw(images, seed, (2,), (), rows))
    return tf.stack([tf.cast(share * tf.cast(size, tf.float32), tf.int32) for share, size in zip(shares, sizes, strict=True)])


def paint_boxes(
    images: tf.Tensor, other: tf.Tensor, top: tf.Tensor, left: tf.Tensor, size: tuple[tf.Tensor | int, tf.Tensor | int]
) -> tf.Tensor:
    """Replace a box of each image.

    Args:
        images: uint8 (batch, height, width, channels).
        other: uint8, broadcastable to (batch, height, width·channels).
        top: int (batch,), first row of each box, which may extend beyond the image on any side.
        left: int (batch,), first column.
        size: height and width of each box, (batch,) or one number; 0: unchanged.
    """
    height, width, channels = images.shape[1:]
    rows = tf.range(height) - top[:, None]
    columns = tf.repeat(tf.range(width), channels) - left[:, None]
    tall, wide = (tf.reshape(part, (-1, 1)) for part in size)
    inside_rows, inside_columns = (rows >= 0) & (rows < tall), (columns >= 0) & (columns < wide)
    # Rows of width·channels values: broadcasting over a last axis of three is three times slower.
    lines = tf.reshape(images, (-1, height, width * channels))
    painted = tf.where(inside_rows[:, :, None] & inside_columns[:, None, :], other, lines)
    return tf.reshape(painted, tf.shape(images))


# --- Mixing: two images into one, with soft targets ---


def mix(
    images: tf.Tensor, targets: tf.Tensor, seed: tf.Tensor, config: Augmentation, classes: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mixup or cutmix as the recipe asks; with both, each batch gets one of them with equal probability.

    Args:
        images: uint8 (batch, height, width, channels).
        targets: int (batch,), 0 to classes − 1.
        seed: int32 (2,), which determines partners and shares.
        config: the recipe's augmentation, with mixup or cutmix.
        classes: number of classes, the width of the targets.

    Returns:
        Images of the same shape, and targets as probabilities, float32 (batch, classes).
    """
    which_seed, mix_seed = tf.unstack(tf.random.split(tf.random.fold_in(seed, SEEDS["mix"]), 2))
    soft = tf.one_hot(targets, classes)
    if not config.cutmix:
        return mixup(images, soft, mix_seed, config.mixup)
    if not config.mixup:
        return cutmix(images, soft, mix_seed, config.cutmix)
    mixed, mixed_targets = tf.cond(
        tf.random.stateless_uniform((), which_seed) < 0.5,
        lambda: mixup(images, soft, mix_seed, config.mixup),
        lambda: cutmix(images, soft, mix_seed, config.cutmix),
    )
    return mixed, mixed_targets


def mixup(images: tf.Tensor, targets: tf.Tensor, seed: tf.Tensor, alpha: float) -> tuple[tf.Tensor, tf.Tensor]:
    """Blend each image with another of the batch: λ of one, 1 − λ of the other, pixels and targets (Zhang et al. 2018).

    λ is from Beta(alpha, alpha), drawn per image (the authors' code draws one per batch).

    Args:
        images: uint8 (batch, height, width, channels).
        targets: float32 (batch, classes), rows summing to 1.
        seed: int32 (2,), which determines partners and shares.
        alpha: above 0; 1: λ is uniform; towards 0: hardly any blending.

    Returns:
        Rounded images and targets, of the same shapes and types.
    """
    partner_seed, share_seed = tf.unstack(tf.random.split(seed, 2))
    partner, share = _draw_partners(images, partner_seed), _draw_beta(images, share_seed, alpha)[:, None]
    flat = tf.reshape(images, (tf.shape(images)[0], -1))
    other = tf.cast(tf.gather(flat, partner), tf.float32)
    blended = other + share * (tf.cast(flat, tf.float32) - other)
    pixels = tf.reshape(tf.cast(tf.round(blended), tf.uint8), tf.shape(images))
    return tf.ensure_shape(pixels, images.shape), share * targets + (1 - share) * tf.gather(targets, partner)


def cutmix(images: tf.Tensor, targets: tf.Tensor, seed: tf.Tensor, alpha: float) -> tuple[tf.Tensor, tf.Tensor]:
    """Replace a box of each image by that of another image; targets are weighted by area (Yun et al. 2019, algorithm 1).

    The box covers 1 − λ of the image, λ from Beta(alpha, alpha), and has the image's aspect ratio and any pixel as its center; it is
    clipped to the image, and targets follow the clipped area.

    Args:
        images: uint8 (batch, height, width, channels).
        targets: float32 (batch, classes), rows summing to 1.
        seed: int32 (2,), which determines partners, shares and positions.
        alpha: above 0; 1: λ is uniform.

    Returns:
        Images and targets, of the same shapes and types.
    """
    height, width, channels = images.shape[1:]
    partner_seed, share_seed, place_seed = tf.unstack(tf.random.split(seed, 3))
    partner, side = _draw_partners(images, partner_seed), tf.sqrt(1 - _draw_beta(images, share_seed, alpha))
    sizes = tf.cast(tf.round(tf.stack([side * height, side * width])), tf.int32)
    corners = _draw_places(images, place_seed, (height, width)) - sizes // 2
    start, end = tf.maximum(corners, 0), tf.minimum(corners + sizes, tf.constant([[height], [width]]))
    top, left = tf.unstack(start)
    tall, wide = tf.unstack(end - start)
    other = tf.gather(tf.reshape(images, (-1, height, width * channels)), partner)
    share = 1 - tf.cast(tall * wide, tf.float32)[:, None] / (height * width)
    return paint_boxes(images, other, top, left, (tall, wide)), share * targets + (1 - share) * tf.gather(targets, partner)


def _draw_partners(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Index of the image that each is mixed with: a permutation, (batch,), possibly with fixed points."""
    return tf.random.experimental.stateless_shuffle(tf.range(tf.shape(images)[0]), seed)


def _draw_beta(images: tf.Tensor, seed: tf.Tensor, alpha: float) -> tf.Tensor:
    """A draw from Beta(alpha, alpha) per image, float32 (batch,)."""
    # In float64: for a small alpha both gammas may be below what float32 can tell from zero.
    gammas = tf.random.stateless_gamma((2, tf.shape(images)[0]), seed, tf.constant(alpha, tf.float64), dtype=tf.float64)
    return tf.cast(tf.math.divide_no_nan(gammas[0], gammas[0] + gammas[1]), tf.float32)
