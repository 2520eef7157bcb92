"""What encoders learn from descriptors: words (k-means), principal axes, Gaussian mixtures."""

from __future__ import annotations

import warnings

import keras
import numpy as np
from tqdm import tqdm

from kerascv_course.core.errors import InputError
from kerascv_course.tasks.scenes.encoders import check_words

__all__ = ["find_words", "fit_mixture", "principal_axes", "sample_descriptors"]

#: Descriptors that k-means++ chooses its first centres from.
START = 10_000

#: Descriptors of a step of k-means, at most, and how often each descriptor is looked at, on average.
BATCH, PASSES = 8192, 10


def sample_descriptors(model: keras.Model, images: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Descriptors from random places of all images, as many from each.

    Args:
        model: one uint8 image (1, height, width, channels) to descriptors (1, N, dimensions).
        images: uint8 (M, height, width, channels).
        count: descriptors in all, about.
        seed: the same seed takes the same places.

    Returns:
        float32 (about `count`, dimensions); those without contrast are left out.

    Raises:
        InputError: no image has any contrast.
    """
    import tensorflow as tf

    describe = tf.function(lambda image: model(image)[0], reduce_retracing=True)
    each = -(-count // len(images))
    rng = np.random.default_rng(seed)
    found = []
    for image in tqdm(images, desc="sampling descriptors", leave=False, disable=None):
        descriptors = describe(tf.constant(image[None])).numpy()
        descriptors = descriptors[descriptors.any(axis=1)]
        found.append(descriptors[rng.permutation(len(descriptors))[:each]])
    sample = np.concatenate(found)
    if not len(sample):
        raise InputError("the training images have no contrast anywhere, so there is nothing to learn words from")
    return sample


def find_words(sample: np.ndarray, words: int, seed: int) -> np.ndarray:
    """Visual words by mini-batch k-means (Sculley 2010), started by k-means++.

    Args:
        sample: float32 (N, dimensions).
        words: how many.
        seed: of the start and of the order.

    Returns:
        float32 (words, dimensions).

    Raises:
        InputError: more words than different descriptors.
    """
    from sklearn.cluster import MiniBatchKMeans, kmeans_plusplus

    rng = np.random.default_rng(seed)
    start = sample[rng.permutation(len(sample))[: max(START, 5 * words)]]
    check_words(words, len(sample))
    if words > len(start) // 10:
        check_words(words, len(np.unique(sample, axis=0)))
    centers, _ = kmeans_plusplus(start, words, random_state=seed)
    batch = min(max(BATCH, 10 * words), len(sample))
    steps = -(-PASSES * len(sample) // batch)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of threads, on Windows
        machine = MiniBatchKMeans(words, init=centers, n_init=1, batch_size=batch, random_state=seed)
        for _ in tqdm(range(steps), desc=f"{words} words", leave=False, disable=None):
            machine.partial_fit(sample[rng.integers(0, len(sample), batch)])
    return machine.cluster_centers_.astype(np.float32)


def principal_axes(sample: np.ndarray, dimensions: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and the axes of largest variance.

    Args:
        sample: (N, D).
        dimensions: axes kept, 1 to D.

    Returns:
        float32 (D,) and (D, dimensions), columns of norm 1.

    Raises:
        InputError: more axes than dimensions.
    """
    if not 1 <= dimensions <= sample.shape[1]:
        raise InputError(f"a descriptor of {sample.shape[1]} numbers is compressed to 1 to as many; received {dimensions}")
    mean = sample.mean(axis=0, dtype=np.float64)
    covariance = np.cov(sample, rowvar=False, dtype=np.float64)
    _, vectors = np.linalg.eigh(covariance)
    axes = vectors[:, ::-1][:, :dimensions]
    axes = axes * np.where(axes[np.abs(axes).argmax(axis=0), np.arange(dimensions)] < 0, -1, 1)
    return mean.astype(np.float32), axes.astype(np.float32)


def fit_mixture(sample: np.ndarray, components: int, seed: int, iterations: int = 25) -> dict[str, np.ndarray]:
    """A Gaussian mixture with diagonal covariances by expectation maximisation, started by k-means.

    Args:
        sample: float32 (N, dimensions).
        components: how many.
        seed: of the start.
        iterations: at most.

    Returns:
        float32 ``means`` and ``variances`` (components, dimensions), ``priors`` (components,) that add up to 1.

    Raises:
        InputError: more components than different descriptors.
    """
    from sklearn.mixture import GaussianMixture

    centers = find_words(sample, components, seed)
    nearest = (sample @ centers.T - 0.5 * (centers**2).sum(axis=1)).argmax(axis=1)
    counts = np.maximum(np.bincount(nearest, minlength=components), 1)
    floor = 1e-4 * float(sample.var(axis=0).mean())
    squares = np.stack(
        [np.bincount(nearest, (sample[:, d] - centers[nearest, d]) ** 2, components) for d in range(sample.shape[1])]
    )
    mixture = GaussianMixture(
        components,
        covariance_type="diag",
        means_init=centers,
        weights_init=counts / counts.sum(),
        precisions_init=1 / (squares.T / counts[:, None] + floor),
        init_params="random_from_data",  # of which nothing is used
        reg_covar=floor,
        max_iter=1,
        warm_start=True,
        random_state=seed,
        tol=0.0,
    )
    before = -np.inf
    for _ in (bar := tqdm(range(iterations), desc=f"{components} Gaussians", leave=False, disable=None)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # likewise
            mixture.fit(sample)
        bar.set_postfix(likelihood=f"{mixture.lower_bound_:.3f}")
        if mixture.lower_bound_ < before + 5e-3:
            break
        before = mixture.lower_bound_
    return {
        "means": mixture.means_.astype(np.float32),
        "variances": mixture.covariances_.astype(np.float32),
        "priors": mixture.weights_.astype(np.float32),
    }
