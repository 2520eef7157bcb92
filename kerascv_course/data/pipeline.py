"""Splits to tf.data batches.

The order and the changes of the training images depend on (seed, epoch, position) and on nothing else. That is what makes a
resumed run equal to one that was never interrupted: the stream can be opened at any step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from kerascv_course.config import Augmentation, Recipe
from kerascv_course.core.environment import core_count
from kerascv_course.core.errors import InputError
from kerascv_course.data.augment import Rows, augment, check_augmentation
from kerascv_course.data.mixing import mix
from kerascv_course.data.splits import Split

#: From the size of a batch, a number or a tensor, to some of its rows.
Part = Callable[[Any], slice]

__all__ = ["Part", "evaluation_batches", "steps_per_epoch", "training_batches"]


def steps_per_epoch(train: Split, batch_size: int) -> int:
    """Whole batches in the training split; the last, incomplete one is left out."""
    return len(train) // batch_size


def training_batches(
    train: Split,
    recipe: Recipe,
    *,
    first_step: int = 0,
    relabel: Callable[[tf.Tensor], tf.Tensor] | None = None,
    classes: int = 0,
    order: Callable[[tf.Tensor], tf.Tensor] | None = None,
    part: Part | None = None,
) -> tf.data.Dataset:
    """An endless stream of training batches, epoch after epoch, each epoch in an order of its own if the recipe shuffles.

    Args:
        train: the training split, kept in memory.
        recipe: gives batch size, order, seed and augmentation.
        first_step: steps to leave out at the beginning (where a resumed run goes on).
        relabel: makes the targets of images that augmentation has changed, where they change with them; None: they do not.
        classes: how many there are, where images are mixed.
        order: numbers of the images of a step, int (batch,), from the step's number alone; None: every image once an epoch.
        part: the rows to be given, where other processes take the others; None: all. What is drawn at random is drawn for the whole
            batch, so that the rows are the same whoever takes them.

    Returns:
        Batches of uint8 images (batch, height, width, channels) and targets (batch, …); where the recipe mixes images, targets
        are probabilities, float32 (batch, classes).

    Raises:
        InputError: the augmentation does not suit the images or the targets.
    """
    if recipe.augmentation.mixes and (relabel or train.targets.ndim != 1 or not classes):
        raise InputError(
            "augmentation.mixup and augmentation.cutmix mix classes: they go with one class an image, which stays when the image "
            "changes; leave both 0"
        )
    check_augmentation(recipe.augmentation, train.images.shape[1:])
    batch, steps = recipe.batch_size, steps_per_epoch(train, recipe.batch_size)
    images, targets = tf.constant(train.images), tf.constant(train.targets)
    order_key, augmentation_key = tf.unstack(tf.random.split(tf.constant([recipe.seed, 0]), 2))
    starts_mirrored = tf.random.stateless_uniform((len(train),), [recipe.seed, 1]) < 0.5

    def epoch_order(epoch: tf.Tensor) -> tf.data.Dataset:
        order = tf.range(len(train))
        if recipe.shuffle:
            order = tf.random.experimental.stateless_shuffle(order, tf.random.fold_in(order_key, epoch))
        return tf.data.Dataset.from_tensor_slices(tf.reshape(order[: steps * batch], (steps, batch)))

    def read(step: tf.Tensor, index: tf.Tensor, rows: Rows | None = None) -> tuple[tf.Tensor, tf.Tensor]:
        chosen = tf.gather(images, index)
        if recipe.augmentation != Augmentation():
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
            if recipe.augmentation.mixes:
                return mix(chosen, tf.gather(targets, index), seed, recipe.augmentation, classes)
            if relabel:
                return chosen, relabel(chosen)
        return chosen, tf.gather(targets, index)

    def own(step: tf.Tensor, index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        if part is None:
            return read(step, index)
        if not recipe.augmentation.mixes:
            return read(step, index[part(batch)], Rows(part(batch), batch))
        chosen, wanted = read(step, index)  # an image is mixed with any other of the batch
        return chosen[part(batch)], wanted[part(batch)]

    if order is not None:
        numbers = tf.data.Dataset.counter(first_step, dtype=tf.int64)
        return _run_ahead(numbers.map(lambda step: own(step, order(step)), num_parallel_calls=core_count()))
    epochs = tf.data.Dataset.counter(first_step // steps, dtype=tf.int64)
    stream = epochs.flat_map(epoch_order).skip(first_step % steps)
    stream = stream.enumerate(start=first_step)
    return _run_ahead(stream.map(own, num_parallel_calls=core_count()))


def evaluation_batches(split: Split, batch_size: int, *, part: Part | None = None) -> tf.data.Dataset:
    """All of a split, in its order, in batches; the last may be smaller.

    Args:
        split: the split, kept in memory.
        batch_size: images a batch.
        part: as in `training_batches`.
    """
    images, targets = tf.constant(split.images), tf.constant(split.targets)
    index = tf.data.Dataset.range(len(split)).batch(batch_size)
    if part:
        index = index.map(lambda i: i[part(tf.shape(i)[0])])
    return _run_ahead(index.map(lambda i: (tf.gather(images, i), tf.gather(targets, i))))


def _run_ahead(batches: tf.data.Dataset) -> tf.data.Dataset:
    """Make batches while others are consumed, without tf.data's autotuning.

    Its thread sleeps longer and longer, up to a minute, and the end of `fit` waits for it to wake (seen with TensorFlow 2.21).
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return batches.prefetch(4).with_options(options)
