"""A scene recipe's way: learn words, encode images, fit a classifier, and put all of it into one Keras graph."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops
from tqdm import tqdm

from kerascv_course.config import Scenes
from kerascv_course.tasks.scenes.by_image import by_image
from kerascv_course.tasks.scenes.cache import cached, digest
from kerascv_course.tasks.scenes.encoders import (
    VLAD,
    BagOfWords,
    Compress,
    Encoder,
    FisherVector,
    Normalize,
    cell_order,
    pyramid_weights,
    root_shares,
)
from kerascv_course.tasks.scenes.neighbors import Neighbors
from kerascv_course.tasks.scenes.sift import DenseSIFT
from kerascv_course.tasks.scenes.svm import KernelMap, LinearMachine
from kerascv_course.tasks.scenes.tiny import TinyImage
from kerascv_course.tasks.scenes.vocabulary import find_words, fit_mixture, principal_axes, sample_descriptors

__all__ = ["Classifier", "Features", "classifier_fitter", "scores", "split_model"]

#: Images encoded between two entries of the cache.
CHUNK = 100

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Features:
    """How images become vectors.

    Attributes:
        model: one uint8 image (1, height, width, channels) to float32 (1, values).
    """

    model: keras.Model

    @functools.cached_property
    def key(self) -> str:
        """Digest of all that the vectors depend on, besides the images."""
        parts: list[Any] = []
        for layer in self.model.layers[1:]:
            config = {name: value for name, value in layer.get_config().items() if name not in ("name", "dtype", "trainable")}
            parts += [type(layer).__name__, config, *layer.get_weights()]
        return digest("features", *parts)

    @classmethod
    def learn(cls, config: Scenes, images: np.ndarray) -> Features:
        """Build the layers and learn what they need (words, axes, a mixture) from training images.

        Args:
            config: what to do.
            images: uint8 (N, height, width, channels).

        Raises:
            InputError: values that do not go together, images smaller than a descriptor, more words than descriptors.
        """
        image = keras.Input(images.shape[1:], batch_size=1, dtype="uint8", name="image")
        if config.feature == "tiny":
            layer = TinyImage(config.center, config.tiny_norm, name="tiny")
            return cls(keras.Model(image, layer(image), name="features"))
        sift = DenseSIFT(
            config.step,
            config.bin_sizes,
            window=config.window,
            smooth=config.smooth,
            contrast=config.contrast,
            color=config.color,
            name="sift",
        )
        descriptors = sift(image)
        encoder = _Encoding(config, keras.Model(image, descriptors), images)
        centers = np.concatenate([grid.centers for grid in sift.grids(*images.shape[1:3])])
        x = descriptors
        for layer in encoder.layers(centers):
            x = layer(x)
        return cls(keras.Model(image, x, name="features"))

    def encode(self, images: np.ndarray, what: str = "images") -> np.ndarray:
        """Vectors of images, float32 (N, values), in chunks that are kept in the cache: interrupted, it goes on where it was.

        Args:
            images: uint8 (N, height, width, channels).
            what: for the progress bar.
        """
        streamed = by_image(self.model)
        chunks = []
        for start in tqdm(range(0, len(images), CHUNK), desc=f"encoding {what}", unit_scale=CHUNK, leave=False, disable=None):
            part = images[start : start + CHUNK]

            def compute(part: np.ndarray = part) -> dict[str, np.ndarray]:
                return {"vectors": streamed.predict_on_batch(part)}

            chunks.append(cached("vectors", digest(self.key, part), compute)["vectors"])
        return np.concatenate(chunks)


class _Encoding:
    """The layers from descriptors to a vector, with what they have learnt."""

    def __init__(self, config: Scenes, sift: keras.Model, images: np.ndarray) -> None:
        self.config, self.sift, self.images = config, sift, images
        settings = {
            name: value
            for name, value in dataclasses.asdict(config).items()
            if name in ("step", "bin_sizes", "window", "smooth", "contrast", "color", "samples", "vocabulary_seed")
        }
        self.key = digest("descriptors", settings, images)
        self.dimensions = sift.output.shape[-1]
        self._sampled: np.ndarray | None = None

    def sample(self) -> np.ndarray:
        """Descriptors to learn from."""
        if self._sampled is None:
            count, seed = self.config.samples, self.config.vocabulary_seed

            def compute() -> dict[str, np.ndarray]:
                log.info("sampling %s descriptors", f"{count:,}")
                return {"sample": sample_descriptors(self.sift, self.images, count, seed).astype(np.uint16)}

            self._sampled = cached("samples", self.key, compute)["sample"].astype(np.float32)
        return self._sampled

    def layers(self, centers: np.ndarray) -> list[keras.layers.Layer]:
        """The layers, with their weights, for descriptors with these centres (shares of height and width)."""
        config = self.config
        order, sizes = cell_order(centers, config.levels)
        precision = "float64" if config.classifier == "knn" else "float32"
        layers: list[keras.layers.Layer] = []
        compress = config.feature == "fisher" or config.compress
        if compress:
            layers.append(self._compress(precision))
        dimensions = config.compress or self.dimensions
        encoder: Encoder
        if config.feature == "fisher":
            encoder = FisherVector(sizes, config.words, dimensions, precision=precision, name="fisher")
            mixture = cached("mixtures", digest(self.key, config.words, config.compress), self._mixture)
            encoder.set_weights([order, mixture["means"], mixture["variances"], mixture["priors"]])
        else:
            if config.feature == "vlad":
                encoder = VLAD(sizes, config.words, dimensions, precision=precision, name="vlad")
            else:
                encoder = BagOfWords(sizes, config.words, dimensions, config.soft, precision=precision, name="bag")
            encoder.set_weights([order, cached("words", digest(self.key, config.words, config.compress), self._words)["words"]])
        layers.append(encoder)
        weights = pyramid_weights(config.levels) if config.pyramid_weights else np.ones(sum(4**i for i in range(config.levels)))
        layers.append(Normalize(config.norm, weights.tolist(), whole=config.normalize_whole, name="normalize"))
        return layers

    def _compress(self, precision: Any) -> Compress:
        kept = self.config.compress or self.dimensions
        layer = Compress(self.dimensions, kept, precision, name="compress")

        def compute() -> dict[str, np.ndarray]:
            mean, axes = principal_axes(root_shares(self.sample()).numpy(), kept)
            return {"mean": mean, "axes": axes}

        found = cached("axes", digest(self.key, kept), compute)
        layer.set_weights([found["mean"], found["axes"]])
        self._project = layer
        return layer

    def _learning_sample(self) -> np.ndarray:
        compressed = getattr(self, "_project", None)
        return self.sample() if compressed is None else ops.convert_to_numpy(ops.cast(compressed(self.sample()), "float32"))

    def _words(self) -> dict[str, np.ndarray]:
        log.info("looking for %d words", self.config.words)
        words = find_words(self._learning_sample(), self.config.words, self.config.vocabulary_seed)
        # whole numbers, as the descriptors are: then the nearest word is the same on every machine
        return {"words": words if hasattr(self, "_project") else np.rint(words)}

    def _mixture(self) -> dict[str, np.ndarray]:
        log.info("fitting %d Gaussians", self.config.words)
        return fit_mixture(self._learning_sample(), self.config.words, self.config.vocabulary_seed)


class Classifier:
    """A fitted classifier of vectors: a Keras layer from (batch, values) to (batch, classes).

    Args:
        layer: built, with its weights.
    """

    #: Vectors looked at once: bounds the memory of distances, which are float64 (batch, training images, values), and of kernels.
    BATCH = 16

    def __init__(self, layer: keras.layers.Layer) -> None:
        self.layer = layer

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """Votes or margins, float32 (N, classes), of float32 (N, values)."""
        return _in_parts(self.layer, vectors, self.BATCH)

    def whole(self, features: Features) -> keras.Model:
        """One graph: uint8 images (batch, …) to votes or margins (batch, classes), in the memory of a few images."""
        image = keras.Input(features.model.inputs[0].shape[1:], batch_size=1, dtype="uint8", name="image")
        return by_image(keras.Model(image, self.layer(features.model(image)), name="scene"))


def split_model(model: keras.Model) -> tuple[Features, Classifier]:
    """The two parts of a model that `Classifier.whole` made, also one that was loaded from a file."""
    scene = model.get_layer("by_image").layer
    return Features(scene.get_layer("features")), Classifier(scene.layers[-1])


def scores(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """Votes or margins float32 (N, classes) of uint8 images, their encoding from the cache where it is there."""
    features, classify = split_model(model)
    return classify(features.encode(images))


def classifier_fitter(config: Scenes, vectors: np.ndarray, targets: np.ndarray, classes: int) -> Callable[[float], Classifier]:
    """What fits the classifier that the recipe names, from a setting: k, or the penalty C of support vector machines.

    For the latter vectors are scaled to a mean squared norm of 1, so that a penalty means the same for all; the scale ends up in
    the weights.

    Args:
        config: neighbours, distance, vote; or support vector machines.
        vectors: float32 (N, values) of the training images.
        targets: int (N,).
        classes: how many.

    Raises:
        InputError: more neighbours than training images (when fitted), or for support vector machines a class without images.
    """
    if config.classifier == "knn":
        return functools.partial(_neighbors, config, vectors, targets, classes)
    before = [] if config.kernel == "linear" else [KernelMap(config.kernel, name="kernel_map")]
    for layer in before:
        vectors = _in_parts(layer, vectors, CHUNK)
    mean = float(np.einsum("ij,ij->", vectors, vectors, dtype=np.float64)) / len(vectors)
    scale = np.float32(1 / np.sqrt(mean) if mean else 1)
    machine = LinearMachine(vectors * scale, targets, classes)

    def fit(penalty: float) -> Classifier:
        weights, bias = machine.fit(penalty)
        margins = keras.layers.Dense(classes, name="margins")
        margins.build((None, len(weights)))
        margins.set_weights([weights * scale, bias])
        return Classifier(keras.Sequential([*before, margins], name="machines") if before else margins)

    return fit


def _neighbors(config: Scenes, vectors: np.ndarray, targets: np.ndarray, classes: int, k: float) -> Classifier:
    layer = Neighbors(
        len(vectors), vectors.shape[1], classes, int(k), config.distance, config.vote, config.power, name="neighbors"
    )
    layer.set_weights([vectors, np.eye(classes, dtype=np.float32)[targets]])
    return Classifier(layer)


def _in_parts(layer: keras.layers.Layer, vectors: np.ndarray, batch: int) -> np.ndarray:
    """A layer's answers to many vectors, of which a batch is in memory at a time."""
    answer = tf.function(layer, reduce_retracing=True)
    parts = [answer(tf.constant(vectors[i : i + batch])).numpy() for i in range(0, len(vectors), batch)]
    return np.concatenate(parts)
