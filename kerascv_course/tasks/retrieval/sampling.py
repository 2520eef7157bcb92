"""PK sampling: batches of P identities with K images each (Hermans et al. 2017, section 2), a function of the step alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from kerascv_course.core.errors import InputError

__all__ = ["pk_order"]


def pk_order(targets: np.ndarray, identities: int, images: int, seed: int) -> Callable[[tf.Tensor], tf.Tensor]:
    """Create the batch order of PK sampling.

    Every round visits all identities in a new order; if its last batch is not full, its first identities fill it up. The images of an
    identity take turns: all are used before any is used again, except those that fill up a visit. A visit repeats images only if the
    identity has fewer than K. Identities with a single image have no positives and are left out.

    Args:
        targets: int (N,), the identity of each image.
        identities: P, 2 or more.
        images: K, 2 or more.
        seed: seed of the orders of identities and images.

    Returns:
        Function from the step, a scalar int64, to image indices, int32 (P·K,), grouped by identity.

    Raises:
        InputError: fewer than P identities with two images, or no identity with K.
    """
    if identities < 2 or images < 2:
        raise InputError(
            f"batches need two or more identities with two or more images each; received {identities} and {images}"
        )
    _, numbers, sizes = np.unique(targets, return_inverse=True, return_counts=True)
    usable = np.flatnonzero(sizes >= 2)
    if len(usable) < identities:
        raise InputError(
            f"a batch needs {identities} identities with two or more images; the training split has {len(usable)} (and "
            f"{len(sizes) - len(usable)} with one image): use a smaller --batch-size or more images"
        )
    if images > sizes.max():
        raise InputError(
            f"a batch needs {images} images of each identity; the largest has {sizes.max()}: use a smaller "
            "--retrieval.images-per-identity"
        )
    members = np.full((len(usable), sizes.max()), -1, np.int32)
    for row, number in enumerate(usable):
        own = np.flatnonzero(numbers == number)
        members[row, : len(own)] = own
    table, counts = tf.constant(members), tf.constant(sizes[usable].astype(np.int32))
    batches = -(-len(usable) // identities)
    fill = batches * identities - len(usable)
    identity_key, image_key = tf.unstack(tf.random.split(tf.constant([seed, 2]), 2))

    def one_visit(row: tf.Tensor, visit: tf.Tensor) -> tf.Tensor:
        count = counts[row]
        visits = (count + images - 1) // images  # that use all images of the identity
        key = tf.random.fold_in(tf.random.fold_in(image_key, row), visit // visits)
        own = tf.random.experimental.stateless_shuffle(table[row, :count], key)
        return tf.gather(own, ((visit % visits) * images + tf.range(images)) % count)

    def order(step: tf.Tensor) -> tf.Tensor:
        turn, place = tf.cast(step // batches, tf.int32), tf.cast(step % batches, tf.int32)
        shuffled = tf.random.experimental.stateless_shuffle(tf.range(len(usable)), tf.random.fold_in(identity_key, turn))
        rows = tf.concat([shuffled, shuffled[:fill]], 0)
        visits = turn + tf.cast(tf.range(len(usable) + fill) >= len(usable), tf.int32)
        chosen = tf.range(identities) + place * identities
        pairs = (tf.gather(rows, chosen), tf.gather(visits, chosen))
        return tf.reshape(tf.map_fn(lambda pair: one_visit(*pair), pairs, fn_output_signature=tf.int32), (-1,))

    return order
