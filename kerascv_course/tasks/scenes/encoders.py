"""Descriptors of an image to one vector: histograms of words, VLAD, Fisher vectors, over the cells of a spatial pyramid.

All are sums over descriptors, so a coarse cell of the pyramid is the sum of the fine ones: descriptors are put into the order of
the finest cells once, and each is looked at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from kerascv_course.core.errors import InputError
from kerascv_course.tasks.scenes.fixed import FixedLayer, to_float32

__all__ = ["VLAD", "BagOfWords", "Compress", "Encoder", "FisherVector", "Normalize", "cell_order", "pyramid_weights"]

Norm = Literal["none", "l1", "l2", "hellinger", "power"]

_TINY = 1e-12


def cell_order(centers: np.ndarray, levels: int) -> tuple[np.ndarray, list[int]]:
    """Sort descriptors by the cells of the finest level of a pyramid, 2^(levels − 1) a side.

    Args:
        centers: (N, 2), y and x as shares of height and width, 0–1.
        levels: 1 or more.

    Returns:
        int32 (N,): positions in the new order; and the number of descriptors of each cell, row by row.
    """
    side = 2 ** (levels - 1)
    place = np.minimum((centers * side).astype(int), side - 1)
    cells = place[:, 0] * side + place[:, 1]
    return np.argsort(cells, kind="stable").astype(np.int32), np.bincount(cells, minlength=side**2).tolist()


def pyramid_weights(levels: int) -> np.ndarray:
    """Weight of each cell, coarse levels first: 1/2^L at level 0, 1/2^(L−l+1) at level l (Lazebnik et al. 2006, equation 3)."""
    last = levels - 1
    by_level = [2.0 ** -(last if level == 0 else last - level + 1) for level in range(levels)]
    return np.repeat(by_level, [4**level for level in range(levels)])


class Encoder(FixedLayer):
    """Sums over the descriptors of each cell of a pyramid: (batch, descriptors, dimensions) to (batch, cells, values).

    Args:
        cell_sizes: descriptors in each cell of the finest level, from `cell_order`.
        precision: float type of sums that are no whole numbers; ``"float64"`` before neighbours, whose answer jumps.
    """

    def __init__(self, cell_sizes: Sequence[int], precision: Literal["float32", "float64"] = "float32", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.cell_sizes, self.precision = list(cell_sizes), precision
        self.levels = round(np.log2(len(self.cell_sizes))) // 2 + 1
        self.order = self.add_weight(shape=(sum(cell_sizes),), dtype="int32", initializer="zeros", name="order")

    def get_config(self) -> dict[str, Any]:
        """The arguments."""
        return {**super().get_config(), "cell_sizes": self.cell_sizes, "precision": self.precision}

    def values(self, dimensions: int) -> int:
        """Length of a cell's vector, from that of a descriptor."""
        raise NotImplementedError

    def sums(self, descriptors: Any) -> Any:
        """One cell's (batch, values) from its descriptors (batch, descriptors, dimensions)."""
        raise NotImplementedError

    def finish(self, sums: Any) -> Any:
        """What a cell's sums (batch, cells, values) become."""
        return sums

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        """(batch, cells of all levels, values)."""
        return input_shape[0], sum(4**level for level in range(self.levels)), self.values(int(input_shape[2] or 0))

    def call(self, descriptors: Any) -> Any:
        """Vectors of the cells, coarse levels first."""
        if len(self.cell_sizes) == 1:
            return self.finish(self.sums(descriptors)[:, None])
        ordered = ops.take(descriptors, self.order, axis=1)
        stops = np.cumsum(self.cell_sizes)
        cells = [self.sums(ordered[:, stop - size : stop]) for stop, size in zip(stops.tolist(), self.cell_sizes, strict=True)]
        level = ops.stack(cells, axis=1)
        pyramid = [level]
        for depth in range(self.levels - 2, -1, -1):
            side = 2**depth
            quarters = ops.reshape(level, (-1, side, 2, side, 2, level.shape[-1]))
            level = ops.reshape(ops.sum(quarters, axis=(2, 4)), (-1, side * side, level.shape[-1]))
            pyramid.insert(0, level)
        return self.finish(ops.concatenate(pyramid, axis=1))


class _WordEncoder(Encoder):
    """What histograms and VLAD share: the words.

    Args:
        words: how many.
        dimensions: of a word, as of a descriptor.
    """

    def __init__(self, cell_sizes: Sequence[int], words: int, dimensions: int, **kwargs: Any) -> None:
        super().__init__(cell_sizes, **kwargs)
        self.words, self.dimensions = words, dimensions
        self.centers = self.add_weight(shape=(words, dimensions), initializer="zeros", name="words")

    def get_config(self) -> dict[str, Any]:
        """The arguments."""
        return {**super().get_config(), "words": self.words, "dimensions": self.dimensions}

    def closeness(self, descriptors: Any) -> Any:
        """(batch, descriptors, words): larger is nearer; half of ‖x‖² − ‖x − word‖². Exact for whole numbers below 2¹⁶."""
        words = ops.cast(self.centers, descriptors.dtype)
        return ops.matmul(descriptors, ops.transpose(words)) - ops.sum(words * words, axis=1) / 2.0

    def nearest(self, descriptors: Any) -> Any:
        """One-hot nearest word in the descriptors' type, of equally near ones the first."""
        # not keras.ops.argmax, whose handling of −0 by bits cannot be converted to ONNX
        word = tf.argmax(self.closeness(descriptors), axis=-1, output_type=tf.int32)
        # nor one_hot, whose size is a list of one number in ONNX, on which ONNX's own evaluator fails with NumPy 2.4
        return ops.cast(word[..., None] == np.arange(self.words, dtype=np.int32), descriptors.dtype)


@keras.saving.register_keras_serializable(package="kerascv_course")
class BagOfWords(_WordEncoder):
    """Histogram of visual words (Csurka et al. 2004).

    Args:
        soft: 0: each descriptor counts for its nearest word; above: for all words by a Gaussian of this standard deviation in
            descriptor units, shares adding up to one (van Gemert et al. 2008, equation 5: codeword uncertainty).
    """

    def __init__(self, cell_sizes: Sequence[int], words: int, dimensions: int, soft: float = 0.0, **kwargs: Any) -> None:
        super().__init__(cell_sizes, words, dimensions, **kwargs)
        self.soft = soft

    def get_config(self) -> dict[str, Any]:
        """The arguments."""
        return {**super().get_config(), "soft": self.soft}

    def values(self, dimensions: int) -> int:
        """A count a word."""
        return self.words

    def sums(self, descriptors: Any) -> Any:
        """Counts."""
        if not self.soft:
            return ops.sum(self.nearest(descriptors), axis=1)
        shares = ops.softmax(ops.cast(self.closeness(descriptors), self.precision) / self.soft**2, axis=-1)
        return ops.sum(shares, axis=1)


@keras.saving.register_keras_serializable(package="kerascv_course")
class VLAD(_WordEncoder):
    """Sums of differences from the nearest word (Jégou et al. 2010), each word's part brought to norm 1 (Arandjelović 2013)."""

    def values(self, dimensions: int) -> int:
        """A difference a word."""
        return self.words * dimensions

    def sums(self, descriptors: Any) -> Any:
        """Σ (x − word) over the descriptors of each word."""
        nearest = self.nearest(descriptors)
        total = ops.matmul(ops.transpose(nearest, (0, 2, 1)), descriptors)
        counts = ops.expand_dims(ops.sum(nearest, axis=1), -1)
        return ops.reshape(total - counts * ops.cast(self.centers, total.dtype), (-1, self.words * self.dimensions))

    def finish(self, sums: Any) -> Any:
        """Each word's part to norm 1."""
        cells = sums.shape[1]
        parts = ops.cast(ops.reshape(sums, (-1, cells, self.words, self.dimensions)), self.precision)
        return ops.reshape(_divide(parts, _l2(parts)), (-1, cells, self.words * self.dimensions))


@keras.saving.register_keras_serializable(package="kerascv_course")
class FisherVector(Encoder):
    """Gradients of the log-likelihood by means and deviations of a Gaussian mixture (Perronnin et al. 2010, equations 4 and 5).

    Args:
        components: of the mixture, with diagonal covariances.
        dimensions: of a descriptor.
    """

    def __init__(self, cell_sizes: Sequence[int], components: int, dimensions: int, **kwargs: Any) -> None:
        super().__init__(cell_sizes, **kwargs)
        self.components, self.dimensions = components, dimensions
        shape = (components, dimensions)
        self.means = self.add_weight(shape=shape, initializer="zeros", name="means")
        self.variances = self.add_weight(shape=shape, initializer="ones", name="variances")
        self.priors = self.add_weight(shape=(components,), initializer="ones", name="priors")

    def get_config(self) -> dict[str, Any]:
        """The arguments."""
        return {**super().get_config(), "components": self.components, "dimensions": self.dimensions}

    def values(self, dimensions: int) -> int:
        """Two numbers a component and dimension."""
        return 2 * self.components * dimensions

    def sums(self, descriptors: Any) -> Any:
        """Σ γ, Σ γ x and Σ γ x² of each component, one after the other: (batch, components · (1 + 2 · dimensions))."""
        x = ops.cast(descriptors, self.precision)
        both = ops.concatenate([x, x * x], axis=-1)
        means, variances, priors = (ops.cast(w, self.precision) for w in (self.means, self.variances, self.priors))
        constant = ops.log(priors) - 0.5 * ops.sum(ops.log(variances) + means * means / variances, axis=1)
        weights = ops.concatenate([means / variances, -0.5 / variances], axis=1)
        posteriors = ops.softmax(ops.matmul(both, ops.transpose(weights)) + constant, axis=-1)
        moments = ops.matmul(ops.transpose(posteriors, (0, 2, 1)), both)
        counts = ops.expand_dims(ops.sum(posteriors, axis=1), -1)
        return ops.reshape(ops.concatenate([counts, moments], axis=-1), (-1, self.components * (1 + 2 * self.dimensions)))

    def finish(self, sums: Any) -> Any:
        """The gradients (batch, cells, values), but for the division by the number of descriptors, which normalising undoes."""
        cells = sums.shape[1]
        parts = ops.reshape(sums, (-1, cells, self.components, 1 + 2 * self.dimensions))
        counts, first, second = parts[..., :1], parts[..., 1 : 1 + self.dimensions], parts[..., 1 + self.dimensions :]
        means, variances, priors = (ops.cast(w, self.precision) for w in (self.means, self.variances, self.priors))
        root = ops.sqrt(priors)[:, None]
        by_mean = (first - counts * means) / (ops.sqrt(variances) * root)
        squares = second - 2.0 * means * first + (means * means - variances) * counts
        by_deviation = squares / (variances * root * 2**0.5)
        return ops.reshape(ops.concatenate([by_mean, by_deviation], axis=-1), (-1, cells, self.values(self.dimensions)))


@keras.saving.register_keras_serializable(package="kerascv_course")
class Compress(FixedLayer):
    """Descriptors to fewer dimensions: square roots of their shares (Arandjelović and Zisserman 2012), then PCA.

    Args:
        inputs: dimensions of a descriptor, whose values are 0 or more.
        outputs: dimensions kept.
        precision: float type.
    """

    def __init__(self, inputs: int, outputs: int, precision: Literal["float32", "float64"] = "float32", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.inputs, self.outputs, self.precision = inputs, outputs, precision
        self.mean = self.add_weight(shape=(inputs,), initializer="zeros", name="mean")
        self.axes = self.add_weight(shape=(inputs, outputs), initializer="zeros", name="axes")

    def get_config(self) -> dict[str, Any]:
        """The arguments."""
        return {**super().get_config(), "inputs": self.inputs, "outputs": self.outputs, "precision": self.precision}

    def compute_output_spec(self, descriptors: Any) -> keras.KerasTensor:
        """Shape and type of the result."""
        return keras.KerasTensor((*descriptors.shape[:-1], self.outputs), dtype=self.precision)

    def call(self, descriptors: Any) -> Any:
        """(…, inputs) to (…, outputs)."""
        x = root_shares(ops.cast(descriptors, self.precision))
        return ops.matmul(x - ops.cast(self.mean, self.precision), ops.cast(self.axes, self.precision))


def root_shares(values: Any) -> Any:
    """Square roots of the shares of the last axis, zero where there is nothing: Euclidean norm 1."""
    return ops.sqrt(_divide(values, ops.sum(values, axis=-1, keepdims=True)))


@keras.saving.register_keras_serializable(package="kerascv_course")
class Normalize(FixedLayer):
    """The cells' vectors to one: (batch, cells, values) to float32 (batch, cells · values).

    Each cell is normalised, weighed, and they are laid side by side. A cell of zeros stays so.

    Args:
        norm: ``"l1"``: absolute values add up to 1; ``"l2"``: Euclidean norm 1; ``"hellinger"``: square roots of the L1 shares;
            ``"power"``: signed square roots, then L2 (Perronnin et al. 2010); ``"none"``.
        weights: of each cell; with ``l2``, ``hellinger`` and ``power`` their square roots are taken, so that products of two
            vectors are weighed by them.
        whole: normalise all cells together by the sums of the first (level 0), as Lazebnik's pyramid does: then a match counts
            as much in a sparse cell as in a full one.
    """

    def __init__(self, norm: Norm = "l1", weights: Sequence[float] = (1.0,), whole: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.norm, self.weights_of_cells, self.whole = norm, list(weights), whole

    def get_config(self) -> dict[str, Any]:
        """The arguments."""
        return {**super().get_config(), "norm": self.norm, "weights": self.weights_of_cells, "whole": self.whole}

    def compute_output_spec(self, cells: Any) -> keras.KerasTensor:
        """Shape and type of the result."""
        return keras.KerasTensor((cells.shape[0], cells.shape[1] * cells.shape[2]), dtype="float32")

    def call(self, cells: Any) -> Any:
        """The vector."""
        x = ops.cast(cells, "float64")
        if self.norm == "power":
            x = ops.sign(x) * ops.sqrt(ops.abs(x))
        if self.norm != "none":
            base = x[:, :1] if self.whole else x
            size = _l2(base) if self.norm in ("l2", "power") else ops.sum(ops.abs(base), axis=-1, keepdims=True)
            x = _divide(x, size)
        if self.norm == "hellinger":
            x = ops.sqrt(x)
        weights = np.asarray(self.weights_of_cells)
        if self.norm in ("l2", "hellinger", "power"):
            weights = np.sqrt(weights)
        vector = ops.reshape(x * weights[:, None], (-1, cells.shape[1] * cells.shape[2]))
        return to_float32(vector, 1 if self.norm != "none" else 2**18)


def _l2(values: Any) -> Any:
    return ops.sqrt(ops.sum(values * values, axis=-1, keepdims=True))


def _divide(values: Any, size: Any) -> Any:
    """Values over their size; zero where that is zero."""
    return values / ops.maximum(size, _TINY)


def check_words(words: int, descriptors: int) -> None:
    """Refuse more words than there are descriptors to find them in.

    Raises:
        InputError: that is so.
    """
    if words > descriptors:
        raise InputError(
            f"a vocabulary has at most as many words as descriptors to learn it from; received {words:,} words for "
            f"{descriptors:,} different descriptors: use fewer words, a smaller step or more images"
        )
