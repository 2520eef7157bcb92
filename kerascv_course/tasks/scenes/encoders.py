"""Encoders of descriptors: histograms of words, VLAD and Fisher vectors over a spatial pyramid, and the learning of their parameters.

Every encoding is a sum over descriptors, so a coarse cell of the pyramid is the sum of its fine cells: descriptors are sorted by the
finest cells once, and each is encoded once.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from kerascv_course.core.errors import InputError
from kerascv_course.core.images import Images
from kerascv_course.core.progress import track
from kerascv_course.tasks.scenes.features import FixedLayer, to_float32

__all__ = [
    "VLAD",
    "BagOfWords",
    "Compress",
    "Encoder",
    "FisherVector",
    "Normalize",
    "cell_order",
    "find_words",
    "fit_mixture",
    "principal_axes",
    "pyramid_weights",
    "root_shares",
    "sample_descriptors",
]

Norm = Literal["none", "l1", "l2", "hellinger", "power"]

_TINY = 1e-12

#: k-means: descriptors used to initialize, batch size, and average number of passes over the descriptors.
START, BATCH, PASSES = 10_000, 8192, 10


def cell_order(centers: np.ndarray, levels: int) -> tuple[np.ndarray, list[int]]:
    """Sort descriptors by the cells of the finest level of a pyramid, which has 2^(levels − 1) cells per side.

    Args:
        centers: (N, 2), y and x relative to height and width, 0–1.
        levels: number of levels of the pyramid, 1 or more.

    Returns:
        int32 (N,), the sorted order; and the number of descriptors in each cell, row by row.
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
    """Sums over the descriptors in each cell of a pyramid: (batch, descriptors, dimensions) to (batch, cells, values).

    Args:
        cell_sizes: number of descriptors in each cell of the finest level, from `cell_order`.
        values: length of the vector of a cell.
        precision: float type of fractional sums; ``"float64"`` before nearest neighbors, whose answer is discontinuous.
    """

    arguments: ClassVar[tuple[str, ...]] = ("cell_sizes", "precision")

    def __init__(
        self, cell_sizes: Sequence[int], values: int, precision: Literal["float32", "float64"] = "float32", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.cell_sizes, self.values, self.precision = list(cell_sizes), values, precision
        self.levels = round(np.log2(len(self.cell_sizes))) // 2 + 1
        self.order = self.add_weight(shape=(sum(cell_sizes),), dtype="int32", initializer="zeros", name="order")

    def sums(self, descriptors: Any) -> Any:
        """Sum over the descriptors of one cell: (batch, descriptors, dimensions) to (batch, values)."""
        raise NotImplementedError

    def finish(self, sums: Any) -> Any:
        """Postprocess the sums of all cells (batch, cells, values)."""
        return sums

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        """(batch, cells of all levels, values)."""
        return input_shape[0], sum(4**level for level in range(self.levels)), self.values

    def call(self, descriptors: Any) -> Any:
        """Vectors of the cells (batch, cells, values), coarse levels first."""
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
    """Encoder with visual words.

    Args:
        words: number of visual words.
        dimensions: of a word, same as of a descriptor.
        values: length of the vector of a cell.
    """

    arguments: ClassVar[tuple[str, ...]] = (*Encoder.arguments, "words", "dimensions")

    def __init__(self, cell_sizes: Sequence[int], words: int, dimensions: int, values: int, **kwargs: Any) -> None:
        super().__init__(cell_sizes, values, **kwargs)
        self.words, self.dimensions = words, dimensions
        self.centers = self.add_weight(shape=(words, dimensions), initializer="zeros", name="words")

    def closeness(self, descriptors: Any) -> Any:
        """(‖x‖² − ‖x − word‖²) / 2, (batch, descriptors, words), larger for closer words. Exact for integers below 2¹⁶."""
        words = ops.cast(self.centers, descriptors.dtype)
        return ops.matmul(descriptors, ops.transpose(words)) - ops.sum(words * words, axis=1) / 2.0

    def nearest(self, descriptors: Any) -> Any:
        """One-hot nearest word in the type of the descriptors, ties to the first."""
        # keras.ops.argmax handles −0 by bit operations that cannot be converted to ONNX
        word = tf.argmax(self.closeness(descriptors), axis=-1, output_type=tf.int32)
        # one_hot has its size in a list of one number in ONNX, on which the reference evaluator fails with NumPy 2.4
        return ops.cast(word[..., None] == np.arange(self.words, dtype=np.int32), descriptors.dtype)


@keras.saving.register_keras_serializable(package="kerascv_course")
class BagOfWords(_WordEncoder):
    """Histogram of visual words (Csurka et al. 2004).

    Args:
        soft: 0: each descriptor counts for its nearest word; above 0: for all words, by a Gaussian of this standard deviation in
            descriptor units, normalized to a sum of 1 (van Gemert et al. 2008, equation 5: codeword uncertainty).
    """

    arguments: ClassVar[tuple[str, ...]] = (*_WordEncoder.arguments, "soft")

    def __init__(self, cell_sizes: Sequence[int], words: int, dimensions: int, soft: float = 0.0, **kwargs: Any) -> None:
        super().__init__(cell_sizes, words, dimensions, words, **kwargs)
        self.soft = soft

    def sums(self, descriptors: Any) -> Any:
        """Counts of the words."""
        if not self.soft:
            return ops.sum(self.nearest(descriptors), axis=1)
        shares = ops.softmax(ops.cast(self.closeness(descriptors), self.precision) / self.soft**2, axis=-1)
        return ops.sum(shares, axis=1)


@keras.saving.register_keras_serializable(package="kerascv_course")
class VLAD(_WordEncoder):
    """Sums of differences to the nearest word (Jégou et al. 2010), normalized per word (Arandjelović 2013)."""

    def __init__(self, cell_sizes: Sequence[int], words: int, dimensions: int, **kwargs: Any) -> None:
        super().__init__(cell_sizes, words, dimensions, words * dimensions, **kwargs)

    def sums(self, descriptors: Any) -> Any:
        """Σ (x − word) over the descriptors of each word."""
        nearest = self.nearest(descriptors)
        total = ops.matmul(ops.transpose(nearest, (0, 2, 1)), descriptors)
        counts = ops.expand_dims(ops.sum(nearest, axis=1), -1)
        return ops.reshape(total - counts * ops.cast(self.centers, total.dtype), (-1, self.words * self.dimensions))

    def finish(self, sums: Any) -> Any:
        """Normalize the part of each word."""
        cells = sums.shape[1]
        parts = ops.cast(ops.reshape(sums, (-1, cells, self.words, self.dimensions)), self.precision)
        return ops.reshape(_divide(parts, _l2(parts)), (-1, cells, self.words * self.dimensions))


@keras.saving.register_keras_serializable(package="kerascv_course")
class FisherVector(Encoder):
    """Gradients of the log-likelihood of a Gaussian mixture in its means and deviations (Perronnin et al. 2010, equations 4 and 5).

    Args:
        components: of the mixture, which has diagonal covariances.
        dimensions: number of values of a descriptor.
    """

    arguments: ClassVar[tuple[str, ...]] = (*Encoder.arguments, "components", "dimensions")

    def __init__(self, cell_sizes: Sequence[int], components: int, dimensions: int, **kwargs: Any) -> None:
        super().__init__(cell_sizes, 2 * components * dimensions, **kwargs)
        self.components, self.dimensions = components, dimensions
        shape = (components, dimensions)
        self.means = self.add_weight(shape=shape, initializer="zeros", name="means")
        self.variances = self.add_weight(shape=shape, initializer="ones", name="variances")
        self.priors = self.add_weight(shape=(components,), initializer="ones", name="priors")

    def sums(self, descriptors: Any) -> Any:
        """Σ γ, Σ γ x and Σ γ x² of each component: (batch, components · (1 + 2 · dimensions))."""
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
        """Gradients (batch, cells, values), not divided by the number of descriptors, which cancels in the normalization."""
        cells = sums.shape[1]
        parts = ops.reshape(sums, (-1, cells, self.components, 1 + 2 * self.dimensions))
        counts, first, second = parts[..., :1], parts[..., 1 : 1 + self.dimensions], parts[..., 1 + self.dimensions :]
        means, variances, priors = (ops.cast(w, self.precision) for w in (self.means, self.variances, self.priors))
        root = ops.sqrt(priors)[:, None]
        by_mean = (first - counts * means) / (ops.sqrt(variances) * root)
        squares = second - 2.0 * means * first + (means * means - variances) * counts
        by_deviation = squares / (variances * root * 2**0.5)
        return ops.reshape(ops.concatenate([by_mean, by_deviation], axis=-1), (-1, cells, self.values))


@keras.saving.register_keras_serializable(package="kerascv_course")
class Compress(FixedLayer):
    """Reduce descriptors: L1 normalization and square root (RootSIFT, Arandjelović and Zisserman 2012), then PCA.

    Args:
        inputs: dimensions of a descriptor, whose values are nonnegative.
        outputs: number of principal components that are kept.
        precision: float type of the computation and of the result.
    """

    arguments = ("inputs", "outputs", "precision")

    def __init__(self, inputs: int, outputs: int, precision: Literal["float32", "float64"] = "float32", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.inputs, self.outputs, self.precision = inputs, outputs, precision
        self.mean = self.add_weight(shape=(inputs,), initializer="zeros", name="mean")
        self.axes = self.add_weight(shape=(inputs, outputs), initializer="zeros", name="axes")

    def compute_output_spec(self, descriptors: Any) -> keras.KerasTensor:
        """Shape and type of the result."""
        return keras.KerasTensor((*descriptors.shape[:-1], self.outputs), dtype=self.precision)

    def call(self, descriptors: Any) -> Any:
        """(…, inputs) to (…, outputs)."""
        x = root_shares(ops.cast(descriptors, self.precision))
        return ops.matmul(x - ops.cast(self.mean, self.precision), ops.cast(self.axes, self.precision))


def root_shares(values: Any) -> Any:
    """Square roots of the L1-normalized last axis, Euclidean norm 1; zero vectors stay zero."""
    return ops.sqrt(_divide(values, ops.sum(values, axis=-1, keepdims=True)))


@keras.saving.register_keras_serializable(package="kerascv_course")
class Normalize(FixedLayer):
    """Normalize, weight and concatenate the vectors of the cells: (batch, cells, values) to float32 (batch, cells · values).

    Zero cells stay zero.

    Args:
        norm: ``"l1"``: absolute values sum to 1; ``"l2"``: Euclidean norm 1; ``"hellinger"``: square root after L1; ``"power"``:
            signed square root, then L2 (Perronnin et al. 2010); ``"none"``.
        cell_weights: ``l2``, ``hellinger`` and ``power`` use their square roots, so that dot products are weighted by them.
        whole: normalize all cells by the first one (level 0), as Lazebnik's pyramid does; a match then counts as much in a sparse
            cell as in a full one.
    """

    arguments = ("norm", "cell_weights", "whole")

    def __init__(self, norm: Norm = "l1", cell_weights: Sequence[float] = (1.0,), whole: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.norm, self.cell_weights, self.whole = norm, list(cell_weights), whole

    def compute_output_spec(self, cells: Any) -> keras.KerasTensor:
        """Shape and type of the result."""
        return keras.KerasTensor((cells.shape[0], cells.shape[1] * cells.shape[2]), dtype="float32")

    def call(self, cells: Any) -> Any:
        """(batch, cells, values) to (batch, cells · values), computed in float64."""
        x = ops.cast(cells, "float64")
        if self.norm == "power":
            x = ops.sign(x) * ops.sqrt(ops.abs(x))
        if self.norm != "none":
            base = x[:, :1] if self.whole else x
            size = _l2(base) if self.norm in ("l2", "power") else ops.sum(ops.abs(base), axis=-1, keepdims=True)
            x = _divide(x, size)
        if self.norm == "hellinger":
            x = ops.sqrt(x)
        weights = np.asarray(self.cell_weights)
        if self.norm in ("l2", "hellinger", "power"):
            weights = np.sqrt(weights)
        vector = ops.reshape(x * weights[:, None], (-1, cells.shape[1] * cells.shape[2]))
        return to_float32(vector, 1 if self.norm != "none" else 2**18)


def _l2(values: Any) -> Any:
    return ops.sqrt(ops.sum(values * values, axis=-1, keepdims=True))


def _divide(values: Any, size: Any) -> Any:
    """Values divided by their size; zero where it is zero."""
    return values / ops.maximum(size, _TINY)


# --- learning words, axes and mixtures --------------------------------------------------------------------------------


def sample_descriptors(model: keras.Model, images: Images, count: int, seed: int) -> np.ndarray:
    """Sample descriptors at random positions, equally many from each image.

    Args:
        model: one uint8 image (1, height, width, channels) to descriptors (1, N, dimensions).
        images: uint8 (M, height, width, channels).
        count: total number of descriptors, approximately.
        seed: seed of the random positions.

    Returns:
        float32 (about `count`, dimensions), without zero descriptors.

    Raises:
        InputError: no image has any contrast.
    """
    describe = tf.function(lambda image: model(image)[0], reduce_retracing=True)
    per_image = -(-count // len(images))
    rng = np.random.default_rng(seed)
    found = []
    for image in track(images, "sampling descriptors"):
        descriptors = describe(tf.constant(image[None])).numpy()
        descriptors = descriptors[descriptors.any(axis=1)]
        found.append(descriptors[rng.permutation(len(descriptors))[:per_image]])
    sample = np.concatenate(found)
    if not len(sample):
        raise InputError("the training images have no contrast, so no words can be learned from them")
    return sample


def _check_words(words: int, descriptors: int) -> None:
    if words > descriptors:
        raise InputError(
            f"a vocabulary cannot have more words than distinct descriptors to learn from; received {words:,} words for "
            f"{descriptors:,} descriptors: use fewer words, a smaller step or more images"
        )


def find_words(sample: np.ndarray, words: int, seed: int) -> np.ndarray:
    """Find visual words by mini-batch k-means (Sculley 2010), initialized by k-means++.

    Args:
        sample: float32 (N, dimensions), the descriptors to cluster.
        words: number of clusters.
        seed: of the initialization and of the batches.

    Returns:
        float32 (words, dimensions).

    Raises:
        InputError: more words than distinct descriptors.
    """
    from sklearn.cluster import MiniBatchKMeans, kmeans_plusplus

    rng = np.random.default_rng(seed)
    start = sample[rng.permutation(len(sample))[: max(START, 5 * words)]]
    _check_words(words, len(sample))
    if words > len(start) // 10:
        _check_words(words, len(np.unique(sample, axis=0)))
    centers, _ = kmeans_plusplus(start, words, random_state=seed)
    batch = min(max(BATCH, 10 * words), len(sample))
    steps = -(-PASSES * len(sample) // batch)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about threads, on Windows
        machine = MiniBatchKMeans(words, init=centers, n_init=1, batch_size=batch, random_state=seed)
        for _ in track(range(steps), f"finding {words} words", "steps"):
            machine.partial_fit(sample[rng.integers(0, len(sample), batch)])
    centers = machine.cluster_centers_
    return np.asarray(centers, np.float32)


def principal_axes(sample: np.ndarray, dimensions: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and axes of largest variance.

    Args:
        sample: float (N, D), the descriptors.
        dimensions: axes to keep, 1 to D.

    Returns:
        float32 (D,) and (D, dimensions), columns of norm 1.

    Raises:
        InputError: more axes than dimensions.
    """
    if not 1 <= dimensions <= sample.shape[1]:
        raise InputError(f"descriptors of {sample.shape[1]} values can be compressed to 1 to as many; received {dimensions}")
    mean = sample.mean(axis=0, dtype=np.float64)
    _, vectors = np.linalg.eigh(np.cov(sample, rowvar=False, dtype=np.float64))
    axes = vectors[:, ::-1][:, :dimensions]
    axes = axes * np.where(axes[np.abs(axes).argmax(axis=0), np.arange(dimensions)] < 0, -1, 1)
    return mean.astype(np.float32), axes.astype(np.float32)


def fit_mixture(sample: np.ndarray, components: int, seed: int, iterations: int = 25) -> dict[str, np.ndarray]:
    """Fit a Gaussian mixture with diagonal covariances by expectation maximization, initialized by k-means.

    Args:
        sample: float32 (N, dimensions), the descriptors.
        components: number of Gaussians in the mixture.
        seed: seed of the k-means that initializes the mixture.
        iterations: largest number of iterations.

    Returns:
        float32 ``means`` and ``variances`` (components, dimensions), ``priors`` (components,), which sum to 1.

    Raises:
        InputError: more components than distinct descriptors.
    """
    from sklearn.mixture import GaussianMixture

    centers = find_words(sample, components, seed)
    nearest = (sample @ centers.T - 0.5 * (centers**2).sum(axis=1)).argmax(axis=1)
    counts = np.maximum(np.bincount(nearest, minlength=components), 1)
    least = 1e-4 * float(sample.var(axis=0).mean())
    squares = np.stack(
        [np.bincount(nearest, (sample[:, d] - centers[nearest, d]) ** 2, components) for d in range(sample.shape[1])]
    )
    mixture = GaussianMixture(
        components,
        covariance_type="diag",
        means_init=centers,
        weights_init=counts / counts.sum(),
        precisions_init=1 / (squares.T / counts[:, None] + least),
        init_params="random_from_data",  # overridden by the values above
        reg_covar=least,
        max_iter=1,
        warm_start=True,
        random_state=seed,
        tol=0.0,
    )
    before = -np.inf
    for _ in track(range(iterations), f"fitting {components} Gaussians", "iterations at most"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # not converged after one iteration
            mixture.fit(sample)
        if mixture.lower_bound_ < before + 5e-3:
            break
        before = mixture.lower_bound_
    return {
        "means": mixture.means_.astype(np.float32),
        "variances": mixture.covariances_.astype(np.float32),
        "priors": mixture.weights_.astype(np.float32),
    }
