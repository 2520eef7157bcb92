"""PK sampling: coverage, determinism, resuming."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from kerascv_course.config import Augmentation
from kerascv_course.core.errors import InputError
from kerascv_course.data.pipeline import training_batches
from kerascv_course.data.splits import Split
from kerascv_course.recipes import get_recipe
from kerascv_course.tasks.retrieval.sampling import pk_order


def batches(targets, identities, images, steps, seed=0, first=0):
    order = tf.function(pk_order(np.asarray(targets), identities, images, seed))
    return [order(tf.constant(step, tf.int64)).numpy() for step in range(first, first + steps)]


def test_pk_order_visits_every_identity_and_image():
    sizes = [2, 3, 9, 4, 1, 5, 6]  # the fifth has one image and no positives
    targets = np.repeat(np.arange(7), sizes)
    drawn = batches(targets, 4, 3, steps=12)  # a round of six identities takes two batches
    seen = np.zeros(7, int)
    for number, batch in enumerate(drawn):
        groups = targets[batch].reshape(4, 3)
        assert (groups == groups[:, :1]).all() and len(set(groups[:, 0])) == 4
        for group in batch.reshape(4, 3):
            assert len(set(group)) == min(3, sizes[targets[group[0]]])
        seen += np.isin(np.arange(7), groups)
        if number % 2:
            done = number // 2 + 1
            assert seen[4] == 0 and (np.delete(seen, 4) >= done).all() and seen.sum() == 8 * done
    assert set(np.concatenate(drawn)) == set(range(len(targets))) - {int(np.flatnonzero(targets == 4)[0])}
    assert len({tuple(batch) for batch in drawn}) == 12


def test_pk_order_depends_on_seed_and_step_only():
    targets = np.repeat(np.arange(5), 4)
    whole = batches(targets, 3, 2, steps=6)
    for one, other in zip(whole[4:], batches(targets, 3, 2, steps=2, first=4), strict=True):
        np.testing.assert_array_equal(one, other)
    assert any((one != other).any() for one, other in zip(whole, batches(targets, 3, 2, steps=6, seed=1), strict=True))


def test_training_batches_with_pk_order_resume_at_a_step():
    rng = np.random.default_rng(0)
    train = Split(rng.integers(0, 256, (20, 8, 8, 3), np.uint8), np.repeat(np.arange(5), 4))
    augmentation = Augmentation(flip=True, translate=1, erase=0.5)
    recipe = dataclasses.replace(get_recipe("tdt4265-base"), batch_size=6, augmentation=augmentation)
    order = pk_order(train.targets, 3, 2, recipe.seed)
    tf.random.set_seed(1)
    whole = list(training_batches(train, recipe, order=order).take(5))
    for one, other in zip(whole[3:], training_batches(train, recipe, order=order, first_step=3).take(2), strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)
    assert all((targets.numpy().reshape(3, 2)[:, 0] == targets.numpy().reshape(3, 2)[:, 1]).all() for _, targets in whole)


@pytest.mark.parametrize(
    ("identities", "images", "rule"),
    [
        (4, 2, "a batch needs 4 identities with two or more images; the training split has 3 .and 1 with one image"),
        (2, 5, "5 images of each identity; the largest has 4"),
        (2, 1, "two or more identities with two or more images each; received 2 and 1"),
    ],
)
def test_pk_order_rejects_impossible_batches(identities, images, rule):
    with pytest.raises(InputError, match=rule):
        batches([0, 0, 1, 1, 1, 1, 2, 2, 3], identities, images, 1)
