"""Batches of a split by tf.data.

Order and augmentation of the training images depend on (seed, epoch, position) alone, so the stream can be opened at any step. That
makes a resumed run equal to one that was never interrupted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from kerascv_course.config import Augmentation, TrainedRecipe
from kerascv_course.core.environment import core_count
from kerascv_course.core.errors import DataError, InputError
from kerascv_course.core.images import Images
from kerascv_course.data.augment import Rows, augment, check_augmentation, mix
from kerascv_course.data.splits import Split
from kerascv_course.data.stored import StoredImages

#: From a batch size, a number or a tensor, to some of the batch's rows.
Part = Callable[[Any], slice]

__all__ = ["Part", "evaluation_batches", "reading", "steps_per_epoch", "training_batches"]


def steps_per_epoch(train: Split, batch_size: int) -> int:
    """Full batches in the training split; the last, incomplete one is dropped."""
    return len(train) // batch_size


def training_batches(
    train: Split,
    recipe: TrainedRecipe,
    *,
    first_step: int = 0,
    relabel: Callable[[tf.Tensor], tf.Tensor] | None = None,
    classes: int = 0,
    order: Callable[[tf.Tensor], tf.Tensor] | None = None,
    part: Part | None = None,
) -> tf.data.Dataset:
    """An endless stream of training batches, each epoch in its own order if the recipe shuffles.

    Args:
        train: the training split.
        recipe: gives batch size, order, seed and augmentation.
        first_step: first step of the stream (for a resumed run).
        relabel: computes targets from augmented images, where they depend on the pixels; None: targets stay.
        classes: number of classes, for mixup and cutmix.
        order: image indices of a step, int (batch,), from the step number alone; None: every image once per epoch.
        part: rows of each batch to yield, where other processes take the others; None: all. Random numbers are drawn for the whole
            batch, so the rows do not depend on who takes them.

    Returns:
        Batches of uint8 images (batch, height, width, channels) and targets (batch, …); with mixup or cutmix, targets are
        probabilities, float32 (batch, classes).

    Raises:
        InputError: the augmentation does not suit the images or the targets.
    """
    mixes = recipe.augmentation.mixes
    if mixes and (relabel or train.targets.ndim != 1 or not classes):
        raise InputError(
            "augmentation.mixup and augmentation.cutmix mix classes: they need one class per image, which stays when the image "
            "changes; set both to 0"
        )
    check_augmentation(recipe.augmentation, train.images.shape[1:])
    batch, steps = recipe.batch_size, steps_per_epoch(train, recipe.batch_size)
    images, targets = _gather(train.images), tf.constant(train.targets)
    order_key, augmentation_key = tf.unstack(tf.random.split(tf.constant([recipe.seed, 0]), 2))
    starts_mirrored = tf.random.stateless_uniform((len(train),), [recipe.seed, 1]) < 0.5
    kept = part(batch) if part else slice(None)
    # mixing combines an image with any other of its batch, so all of the batch is augmented
    rows = Rows(kept, batch) if part and not mixes else None

    def epoch_order(epoch: tf.Tensor) -> tf.data.Dataset:
        index = tf.range(len(train))
        if recipe.shuffle:
            index = tf.random.experimental.stateless_shuffle(index, tf.random.fold_in(order_key, epoch))
        return tf.data.Dataset.from_tensor_slices(tf.reshape(index[: steps * batch], (steps, batch)))

    def read(step: tf.Tensor, index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        index = index[kept] if rows else index
        chosen, wanted = images(index), tf.gather(targets, index)
        if recipe.augmentation == Augmentation():
            return chosen, wanted
        seed = tf.random.fold_in(augmentation_key, step)
        chosen = augment(
            chosen,
            seed,
            recipe.augmentation,
            starts_mirrored=tf.gather(starts_mirrored, index),
            epoch=step // steps,
            fill=recipe.data.normalize_mean,
            rows=rows,
        )
        if mixes:
            chosen, wanted = mix(chosen, wanted, seed, recipe.augmentation, classes)
            return chosen[kept], wanted[kept]
        return chosen, relabel(chosen) if relabel else wanted

    if order is not None:
        stream = tf.data.Dataset.counter(first_step, dtype=tf.int64).map(
            lambda step: (step, order(step)), num_parallel_calls=core_count()
        )
    else:
        epochs = tf.data.Dataset.counter(first_step // steps, dtype=tf.int64)
        stream = epochs.flat_map(epoch_order).skip(first_step % steps).enumerate(start=first_step)
    return _prefetch(stream.map(read, num_parallel_calls=core_count()))


def evaluation_batches(split: Split, batch_size: int, *, part: Part | None = None) -> tf.data.Dataset:
    """All images of a split in order; the last batch may be smaller.

    Args:
        split: the split.
        batch_size: number of images per batch.
        part: rows of each batch to yield, where other processes take the others; None: all.
    """
    images, targets = _gather(split.images), tf.constant(split.targets)
    index = tf.data.Dataset.range(len(split)).batch(batch_size)
    if part:
        index = index.map(lambda i: i[part(tf.shape(i)[0])])
    return _prefetch(index.map(lambda i: (images(i), tf.gather(targets, i))))


def _gather(images: Images) -> Callable[[tf.Tensor], tf.Tensor]:
    """From indices (batch,) to images (batch, height, width, channels): of an array in memory, or by reading files."""
    if not isinstance(images, StoredImages):
        constant = tf.constant(images)
        return lambda index: tf.gather(constant, index)

    def read(index: np.ndarray) -> np.ndarray:
        try:
            return images[index]
        except DataError as error:
            _failed.append(error)
            raise

    def gather(index: tf.Tensor) -> tf.Tensor:
        # not stateful: deterministic operations would make the calls wait for each other
        chosen = tf.numpy_function(read, [index], tf.uint8, stateful=False)
        return tf.ensure_shape(chosen, (index.shape[0], *images.shape[1:]))

    return gather


#: Errors of reading, which reach Python as TensorFlow's own, without the type and with its trace.
_failed: list[DataError] = []


@contextlib.contextmanager
def reading() -> Iterator[None]:
    """Context in which batches are consumed: a file that cannot be read is a `DataError`.

    Raises:
        DataError: an image has changed since the data was loaded, or is gone.
    """
    _failed.clear()
    try:
        yield
    except Exception as error:
        if _failed and not isinstance(error, DataError):
            raise _failed[0] from error
        raise


def _prefetch(batches: tf.data.Dataset) -> tf.data.Dataset:
    """Prepare batches while others are consumed, without tf.data's autotuning.

    Its thread sleeps longer and longer, up to a minute, and the end of `fit` waits for it to wake up (TensorFlow 2.21).
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return batches.prefetch(4).with_options(options)
