"""Random changes of a batch of images, for tf.data: uint8 in, uint8 of the same shape out, decided by a seed alone.

Each takes a stateless seed (int32 tensor of shape (2,)): the same seed changes the same batch the same way, eagerly and inside a
pipeline, however the pipeline is run, and on any machine (but for the rounding of rotated and jittered pixels). Each image of a
batch is changed in its own way. Images are uint8 (batch, height, width, channels) throughout; all but the batch must be known when
the pipeline is built.
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
    "cutout",
    "draw_places",
    "paint_boxes",
    "random_erase",
    "random_flip",
    "random_rotate",
    "random_translate",
]

#: Luma of red, green and blue (ITU-R BT.601).
LUMA = (0.299, 0.587, 0.114)

#: What each change's seed is derived with. Flip and translate have theirs from a split, as they had before there were others:
#: a new change must not alter what the old ones draw.
SEEDS = {"rotate": 2, "color_jitter": 3, "cutout": 4, "erase": 5, "mix": 6}


@dataclass(frozen=True)
class Rows:
    """Some images of a batch, whose others are changed elsewhere. What is drawn at random is drawn for the whole batch.

    Attributes:
        part: which of them.
        batch: size of the whole batch.
    """

    part: slice
    batch: int


def _draw(
    images: tf.Tensor, seed: tf.Tensor, before: tuple[int, ...], after: tuple[int, ...], rows: Rows | None, *limits: Any
) -> tf.Tensor:
    """Random numbers (before…, batch, after…), of which `rows` are kept; `limits`: minval, maxval, dtype of `stateless_uniform`."""
    batch = rows.batch if rows else tf.shape(images)[0]
    drawn = tf.random.stateless_uniform((*before, batch, *after), seed, *limits)
    return drawn[(*[slice(None)] * len(before), rows.part)] if rows else drawn


def check_augmentation(config: Augmentation, image_shape: Sequence[int]) -> None:
    """Refuse what images of this shape (height, width, channels) cannot bear.

    Raises:
        InputError: a reflected border as wide as the image; jittered colours of images that have neither 1 nor 3 channels.
    """
    smallest, channels = min(image_shape[:2]), image_shape[2]
    if config.border == "reflect" and config.translate >= smallest:
        raise InputError(
            f"augmentation.translate with a reflected border must be less than the image's {smallest} pixels; received "
            f"{config.translate}: use a smaller --augmentation.translate, or --augmentation.border zeros"
        )
    if config.color_jitter and channels not in (1, 3):
        raise InputError(f"augmentation.color_jitter goes with 1 or 3 channels; the images have {channels}: leave it 0")


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
    """Apply what the recipe asks for, each change with a seed of its own; mixing is apart (`kerascv_course.data.mixing`).

    Args:
        images: uint8 (batch, height, width, channels).
        seed: int32 (2,).
        config: the recipe's augmentation.
        starts_mirrored: bool (batch,), for the alternating flip: the images that are mirrored in the first epoch.
        epoch: for the alternating flip: how many epochs went before.
        fill: for cutout: see there.
        rows: which images of a batch these are, where they are not all.
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
        images = _move(images, mirrored, offsets, config.translate, config.border)
    if config.rotate:
        images = random_rotate(images, tf.random.fold_in(seed, SEEDS["rotate"]), config.rotate, config.border, rows)
    if config.color_jitter:
        images = color_jitter(images, tf.random.fold_in(seed, SEEDS["color_jitter"]), config.color_jitter, rows)
    if config.cutout:
        images = cutout(images, tf.random.fold_in(seed, SEEDS["cutout"]), config.cutout, fill, rows)
    if config.erase:
        images = random_erase(images, tf.random.fold_in(seed, SEEDS["erase"]), config.erase, rows)
    return images


# --- Where pixels come from: flips and shifts, all of them in one gather, several times faster than one after the other ---


def random_flip(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Mirror left and right, each image with probability 1/2."""
    return _move(images, _draw_flips(images, seed), None)


def alternating_flip(images: tf.Tensor, starts_mirrored: tf.Tensor, epoch: tf.Tensor | int) -> tf.Tensor:
    """Mirror left and right in every other epoch (Jordan 2024, "94 % on CIFAR-10 in 3.29 seconds on a single GPU", section 3.6).

    Two epochs then show both views of every image, where independent flips show half of the images twice the same way.

    Args:
        images: uint8 (batch, height, width, channels).
        starts_mirrored: bool (batch,), the images that are mirrored in even epochs; the others are in odd ones.
        epoch: how many epochs went before.
    """
    return _move(images, _alternate(starts_mirrored, epoch), None)


def random_translate(
    images: tf.Tensor, seed: tf.Tensor, pixels: int, border: Literal["zeros", "reflect"] = "zeros"
) -> tf.Tensor:
    """Shift by −pixels … pixels down and right, independently, each shift equally likely.

    The same as padding and cropping at random (He et al. 2016, section 4.2), with the padding equal to `pixels`.

    Args:
        images: uint8 (batch, height, width, channels).
        seed: int32 (2,).
        pixels: largest shift; for a reflected border less than height and width.
        border: what comes in: zeros, or the image mirrored at its outermost pixels, which are not repeated.
    """
    return _move(images, None, _draw_offsets(images, seed, pixels), pixels, border)


def _draw_flips(images: tf.Tensor, seed: tf.Tensor, rows: Rows | None = None) -> tf.Tensor:
    return _draw(images, seed, (), (), rows) < 0.5


def _alternate(starts_mirrored: tf.Tensor, epoch: tf.Tensor | int) -> tf.Tensor:
    return tf.not_equal(starts_mirrored, tf.equal(epoch % 2, 1))


def _draw_offsets(images: tf.Tensor, seed: tf.Tensor, pixels: int, rows: Rows | None = None) -> tf.Tensor:
    """Where the crop of the padded image begins: int (2, batch, 1), rows and columns, 0 to 2·pixels."""
    return _draw(images, seed, (2,), (1,), rows, 0, 2 * pixels + 1, tf.int32)


def _move(
    images: tf.Tensor,
    mirrored: tf.Tensor | None,
    offsets: tf.Tensor | None,
    pixels: int = 0,
    border: Literal["zeros", "reflect"] = "zeros",
) -> tf.Tensor:
    """Mirror the images that are chosen, pad all by `pixels` and crop each at its offsets."""
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
    """Places beyond either end of 0 … size − 1, mirrored at the end."""
    return size - 1 - tf.abs(size - 1 - tf.abs(index))


def random_rotate(
    images: tf.Tensor,
    seed: tf.Tensor,
    degrees: float,
    border: Literal["zeros", "reflect"] = "zeros",
    rows: Rows | None = None,
) -> tf.Tensor:
    """Turn about the centre by −degrees … degrees, uniformly drawn, interpolated bilinearly and rounded.

    Args:
        images: uint8 (batch, height, width, channels).
        seed: int32 (2,).
        degrees: largest angle, either way.
        border: what comes into the corners: zeros, or the image mirrored at its edge.
        rows: see `augment`.
    """
    limit = math.radians(degrees)
    angles = _draw(images, seed, (), (), rows, -limit, limit)
    return _rotate(images, angles, border)


def _rotate(images: tf.Tensor, angles: tf.Tensor, border: Literal["zeros", "reflect"] = "zeros") -> tf.Tensor:
    """Turn each image anticlockwise by its angle in radians, (batch,)."""
    height, width, _ = images.shape[1:]
    middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
    cos, sin, zero = tf.cos(angles), tf.sin(angles), tf.zeros_like(angles)
    # The output pixel (x, y) is what stood at (cos·x − sin·y + …, sin·x + cos·y + …), y pointing down.
    shift_x = middle_x - cos * middle_x + sin * middle_y
    shift_y = middle_y - sin * middle_x - cos * middle_y
    turned = tf.raw_ops.ImageProjectiveTransformV3(
        images=tf.cast(images, tf.float32),
        transforms=tf.stack([cos, -sin, shift_x, sin, cos, shift_y, zero, zero], axis=1),
        output_shape=[height, width],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode={"zeros": "CONSTANT", "reflect": "REFLECT"}[border],
    )
    return tf.cast(tf.round(turned), tf.uint8)


# --- What pixels are worth ---


def color_jitter(images: tf.Tensor, seed: tf.Tensor, strength: float, rows: Rows | None = None) -> tf.Tensor:
    """Change brightness, contrast and saturation, in this order, each by a factor of 1 − strength to 1 + strength.

    Brightness multiplies all values; contrast their distance from the image's mean luma; saturation their distance from the
    pixel's luma, which leaves grey images as they are. Rounded and clipped to 0–255 once, at the end.

    Args:
        images: uint8 (batch, height, width, 1 or 3).
        seed: int32 (2,).
        strength: 0 to 1.
        rows: see `augment`.
    """
    height, width, channels = images.shape[1:]
    factors = _draw(images, seed, (3,), (1, 1), rows, 1 - strength, 1 + strength)
    brightness, contrast, saturation = tf.unstack(factors)
    pixels = tf.cast(tf.reshape(images, (-1, height * width, channels)), tf.float32)
    # All three are linear: one 3×3 matrix an image, and the same offset for all of its pixels.
    luma = tf.constant(LUMA if channels == 3 else (1.0,))
    matrix = saturation * tf.eye(channels) + (1 - saturation) * luma[:, None]
    mean_luma = tf.tensordot(tf.reduce_mean(pixels, axis=1), luma, 1)[:, None, None]
    changed = tf.matmul(pixels, brightness * contrast * matrix) + brightness * (1 - contrast) * mean_luma
    return tf.reshape(tf.cast(tf.clip_by_value(tf.round(changed), 0, 255), tf.uint8), tf.shape(images))


# --- What is hidden ---


def cutout(
    images: tf.Tensor, seed: tf.Tensor, side: int, fill: Sequence[float] = (0.0,), rows: Rows | None = None
) -> tf.Tensor:
    """Hide a square of each image (DeVries and Taylor 2017, section 3.2).

    Its centre is any pixel, so that a part of the square may lie outside. The paper fills with zeros after normalisation: `fill`
    is then the mean that is subtracted.

    Args:
        images: uint8 (batch, height, width, channels).
        seed: int32 (2,).
        side: of the square, pixels; an even square has its centre after the middle.
        fill: 0–1, where 1 is 255; one value, or one for each channel.
        rows: see `augment`.
    """
    height, width, channels = images.shape[1:]
    top, left = tf.unstack(draw_places(images, seed, (height, width), rows) - side // 2)
    shade = np.rint(255 * np.broadcast_to(np.asarray(fill, np.float64), (channels,))).astype(np.uint8)
    return paint_boxes(images, tf.constant(np.tile(shade, width)), top, left, side, side)


def random_erase(images: tf.Tensor, seed: tf.Tensor, probability: float, rows: Rows | None = None) -> tf.Tensor:
    """Fill a rectangle with noise (Zhong et al. 2020, algorithm 1, with the paper's area of 0.02–0.4 of the image).

    The aspect ratio is drawn evenly on a logarithmic scale from 0.3 to 1/0.3, where the paper draws the ratio itself: tall and
    wide rectangles are then equally likely. One that does not fit is drawn again, up to ten times in all; an image for which none
    fits stays whole.

    Args:
        images: uint8 (batch, height, width, channels).
        seed: int32 (2,).
        probability: of an image's being changed.
        rows: see `augment`.
    """
    height, width, _ = images.shape[1:]
    chosen_seed, shape_seed, place_seed, noise_seed = tf.unstack(tf.random.split(seed, 4))
    draws = _draw(images, shape_seed, (2,), (10,), rows)
    area = (0.02 + (0.4 - 0.02) * draws[0]) * (height * width)
    ratio = tf.exp((2 * draws[1] - 1) * math.log(1 / 0.3))
    tall, wide = (tf.cast(tf.round(tf.sqrt(size)), tf.int32) for size in (area * ratio, area / ratio))
    fits = (tall <= height) & (wide <= width)
    first = tf.argmax(fits, axis=1, output_type=tf.int32)
    tall, wide = tf.gather(tall, first, batch_dims=1), tf.gather(wide, first, batch_dims=1)
    chosen = (_draw(images, chosen_seed, (), (), rows) < probability) & tf.reduce_any(fits, axis=1)
    top, left = tf.unstack(draw_places(images, place_seed, (height - tall + 1, width - wide + 1), rows))
    return paint_boxes(images, _noise(images, noise_seed, rows), top, left, tf.where(chosen, tall, 0), wide)


def draw_places(
    images: tf.Tensor, seed: tf.Tensor, sizes: tuple[tf.Tensor | int, tf.Tensor | int], rows: Rows | None = None
) -> tf.Tensor:
    """A row and a column for each image, int32 (2, batch): 0 to size − 1; a size is one number or (batch,)."""
    shares = tf.unstack(_draw(images, seed, (2,), (), rows))
    return tf.stack([tf.cast(share * tf.cast(size, tf.float32), tf.int32) for share, size in zip(shares, sizes, strict=True)])


def _noise(images: tf.Tensor, seed: tf.Tensor, rows: Rows | None) -> tf.Tensor:
    """Random uint8, (batch, height, width·channels), each value equally likely; four to a random number."""
    height, line = images.shape[1], images.shape[2] * images.shape[3]
    numbers = _draw(images, seed, (), (height, -(-line // 4)), rows, None, None, tf.int32)
    return tf.reshape(tf.bitcast(numbers, tf.uint8), (-1, height, 4 * -(-line // 4)))[:, :, :line]


def paint_boxes(
    images: tf.Tensor, other: tf.Tensor, top: tf.Tensor, left: tf.Tensor, tall: tf.Tensor | int, wide: tf.Tensor | int
) -> tf.Tensor:
    """Put something else into a box of each image.

    Args:
        images: uint8 (batch, height, width, channels).
        other: uint8, of a shape that broadcasts to (batch, height, width·channels).
        top: int (batch,), the first row of each box; it may lie outside the image, as any part of the box may.
        left: int (batch,), the first column.
        tall: rows of each box, (batch,) or one number; 0: nothing is painted.
        wide: columns, likewise.
    """
    height, width, channels = images.shape[1:]
    rows = tf.range(height) - top[:, None]
    columns = tf.repeat(tf.range(width), channels) - left[:, None]
    tall, wide = (tf.reshape(size, (-1, 1)) for size in (tall, wide))
    inside_rows, inside_columns = (rows >= 0) & (rows < tall), (columns >= 0) & (columns < wide)
    # Rows of width·channels values: broadcasting over a last axis of three is three times slower.
    lines = tf.reshape(images, (-1, height, width * channels))
    painted = tf.where(inside_rows[:, :, None] & inside_columns[:, None, :], other, lines)
    return tf.reshape(painted, tf.shape(images))
