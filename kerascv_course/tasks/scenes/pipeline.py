"""Scene recognition pipeline: learn words, encode images, fit a classifier, assemble one Keras graph; slow steps are cached."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import os
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from kerascv_course.core.images import Images
from kerascv_course.core.io import atomic_write
from kerascv_course.core.progress import Wait
from kerascv_course.data.stored import StoredImages
from kerascv_course.tasks.scenes.classifiers import KernelMap, KNeighborsLayer, LinearMachine
from kerascv_course.tasks.scenes.config import Scenes
from kerascv_course.tasks.scenes.encoders import (
    VLAD,
    BagOfWords,
    Compress,
    Encoder,
    FisherVector,
    Normalize,
    cell_order,
    find_words,
    fit_mixture,
    principal_axes,
    pyramid_weights,
    root_shares,
    sample_descriptors,
)
from kerascv_course.tasks.scenes.features import DenseSIFT, TinyImage, by_image

__all__ = ["Classifier", "Features", "classifier_fitter", "scores", "split_model"]

#: Part of every cache key; increase it when a cached computation changes.
CACHE_VERSION = 1

#: Images encoded between two cache entries.
CHUNK = 100

#: Settings that descriptors and their sample depend on.
DESCRIPTOR_SETTINGS = ("step", "bin_sizes", "window", "smooth", "contrast", "color", "samples", "vocabulary_seed")

log = logging.getLogger(__name__)


def cache_dir() -> Path:
    """``KERASCV_COURSE_CACHE``, else ``kerascv_course`` in the cache folder of the user; may be deleted at any time."""
    if folder := os.environ.get("KERASCV_COURSE_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kerascv_course"


def digest(*parts: Any) -> str:
    """SHA-256 of arrays and images (type, shape and bytes) and JSON-serializable values, hexadecimal."""
    total = hashlib.sha256(f"version {CACHE_VERSION}".encode())
    for part in parts:
        if isinstance(part, np.ndarray):
            total.update(f"{part.dtype}{part.shape}".encode())
            total.update(np.ascontiguousarray(part).data)
        elif isinstance(part, StoredImages):
            total.update(f"{part.dtype}{part.shape}".encode())
            for image in part:
                total.update(image.data)
        else:
            total.update(json.dumps(part, sort_keys=True).encode())
    return total.hexdigest()


def cached(kind: str, key: str, compute: Callable[[], Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Load named arrays from the cache, or compute and store them. Damaged files are recomputed; nothing is unpickled.

    Args:
        kind: subfolder of the cache, such as ``vectors``.
        key: `digest` of everything the result depends on.
        compute: called without arguments for the arrays that are not in the cache.

    Raises:
        WriteError: the cache cannot be written.
    """
    path = cache_dir() / kind / f"{key[:40]}.npz"
    if path.is_file():
        with (
            contextlib.suppress(OSError, ValueError, zipfile.BadZipFile, EOFError, KeyError),
            np.load(path, allow_pickle=False) as file,
        ):
            return {name: file[name] for name in file.files}
    arrays = dict(compute())
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    return arrays


@dataclass(frozen=True)
class Features:
    """Feature extraction of images.

    Attributes:
        model: one uint8 image (1, height, width, channels) to float32 (1, values).
    """

    model: keras.Model

    @functools.cached_property
    def key(self) -> str:
        """Digest of everything the vectors depend on, except the images."""
        parts: list[Any] = []
        for layer in self.model.layers[1:]:
            config = {name: value for name, value in layer.get_config().items() if name not in ("name", "dtype", "trainable")}
            parts += [type(layer).__name__, config, *layer.get_weights()]
        return digest("features", *parts)

    @classmethod
    def learn(cls, config: Scenes, images: Images) -> Features:
        """Build the layers and learn their weights (words, axes, a mixture) from training images.

        Args:
            config: section of the recipe, whose feature and encoder settings count.
            images: uint8 (N, height, width, channels).

        Raises:
            InputError: incompatible settings, images smaller than a descriptor, or more words than descriptors.
        """
        image = keras.Input(images.shape[1:], batch_size=1, dtype="uint8", name="image")
        if config.feature == "tiny":
            x = TinyImage(config.center, config.tiny_norm, name="tiny")(image)
        else:
            settings = {name: getattr(config, name) for name in ("window", "smooth", "contrast", "color")}
            sift = DenseSIFT(config.step, config.bin_sizes, name="sift", **settings)
            x = sift(image)
            centers = np.concatenate([grid.centers for grid in sift.grids(*images.shape[1:3])])
            for layer in _EncodingLearner(config, keras.Model(image, x), images).layers(centers):
                x = layer(x)
        return cls(keras.Model(image, x, name="features"))

    def encode(self, images: Images, name: str = "images") -> np.ndarray:
        """Encode images as float32 (N, values), in cached chunks: interrupted work resumes at the last chunk.

        Args:
            images: uint8 (N, height, width, channels).
            name: of the images, for the progress that is shown.
        """
        streamed = by_image(self.model)
        chunks = []
        with Wait(f"encoding {name}", len(images)) as wait:
            for start in range(0, len(images), CHUNK):
                part = images[start : start + CHUNK]

                def compute(part: np.ndarray = part) -> dict[str, np.ndarray]:
                    return {"vectors": streamed.predict_on_batch(part)}

                chunks.append(cached("vectors", digest(self.key, part), compute)["vectors"])
                wait.advance(len(part))
        return np.concatenate(chunks)


class _EncodingLearner:
    """Builds the layers from descriptors to a vector and learns their weights.

    Args:
        config: section of the recipe, whose encoder settings count.
        sift: one image to descriptors.
        images: uint8 (N, height, width, channels), the training images.
    """

    def __init__(self, config: Scenes, sift: keras.Model, images: Images) -> None:
        self.config, self.sift, self.images = config, sift, images
        self.key = digest("descriptors", {name: getattr(config, name) for name in DESCRIPTOR_SETTINGS}, images)
        self.precision: Literal["float32", "float64"] = "float64" if config.classifier == "knn" else "float32"
        self.dimensions = config.compress or sift.output.shape[-1]
        self.compress = self._learn_compress() if config.compress or config.feature == "fisher" else None

    @functools.cached_property
    def sample(self) -> np.ndarray:
        """Descriptors to learn from, before compression."""

        def compute() -> dict[str, np.ndarray]:
            log.info("sampling %s descriptors", f"{self.config.samples:,}")
            sample = sample_descriptors(self.sift, self.images, self.config.samples, self.config.vocabulary_seed)
            return {"sample": sample.astype(np.uint16)}

        return cached("samples", self.key, compute)["sample"].astype(np.float32)

    def layers(self, centers: np.ndarray) -> list[keras.layers.Layer]:
        """Layers, with weights, for descriptors at these centers (relative to height and width)."""
        config = self.config
        order, sizes = cell_order(centers, config.levels)
        key = digest(self.key, config.words, config.compress)
        encoder: Encoder
        if config.feature == "fisher":
            encoder = FisherVector(sizes, config.words, self.dimensions, precision=self.precision, name="fisher")
            mixture = cached("mixtures", key, self._learn_mixture)
            encoder.set_weights([order, mixture["means"], mixture["variances"], mixture["priors"]])
        else:
            if config.feature == "vlad":
                encoder = VLAD(sizes, config.words, self.dimensions, precision=self.precision, name="vlad")
            else:
                encoder = BagOfWords(sizes, config.words, self.dimensions, config.soft, precision=self.precision, name="bag")
            encoder.set_weights([order, cached("words", key, self._learn_words)["words"]])
        weights = pyramid_weights(config.levels) if config.pyramid_weights else np.ones(sum(4**i for i in range(config.levels)))
        normalize = Normalize(config.norm, weights.tolist(), whole=config.normalize_whole, name="normalize")
        return [*([self.compress] if self.compress else []), encoder, normalize]

    def _learn_compress(self) -> Compress:
        layer = Compress(self.sift.output.shape[-1], self.dimensions, self.precision, name="compress")

        def compute() -> dict[str, np.ndarray]:
            mean, axes = principal_axes(root_shares(self.sample).numpy(), self.dimensions)
            return {"mean": mean, "axes": axes}

        learned = cached("axes", digest(self.key, self.dimensions), compute)
        layer.set_weights([learned["mean"], learned["axes"]])
        return layer

    def _compressed_sample(self) -> np.ndarray:
        if self.compress is None:
            return self.sample
        return np.asarray(ops.convert_to_numpy(ops.cast(self.compress(self.sample), "float32")))

    def _learn_words(self) -> dict[str, np.ndarray]:
        log.info("finding %d words", self.config.words)
        words = find_words(self._compressed_sample(), self.config.words, self.config.vocabulary_seed)
        # integers, like uncompressed descriptors: the nearest word is then the same on every machine
        return {"words": words if self.compress else np.rint(words)}

    def _learn_mixture(self) -> dict[str, np.ndarray]:
        log.info("fitting %d Gaussians", self.config.words)
        return fit_mixture(self._compressed_sample(), self.config.words, self.config.vocabulary_seed)


class Classifier:
    """Fitted classifier of vectors.

    Args:
        layer: built, with weights; (batch, values) to (batch, classes).
    """

    #: Vectors per batch: limits the memory of distances, float64 (batch, training images, values), and of feature maps.
    BATCH = 16

    def __init__(self, layer: keras.layers.Layer) -> None:
        self.layer = layer

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """Votes or margins, float32 (N, classes), of float32 (N, values)."""
        return _apply(self.layer, vectors, self.BATCH)

    def whole(self, features: Features) -> keras.Model:
        """Assemble one graph from uint8 images (batch, …) to votes or margins (batch, classes)."""
        image = keras.Input(features.model.inputs[0].shape[1:], batch_size=1, dtype="uint8", name="image")
        return by_image(keras.Model(image, self.layer(features.model(image)), name="scene"))


def split_model(model: keras.Model) -> tuple[Features, Classifier]:
    """Inverse of `Classifier.whole`, also for a loaded model."""
    scene = model.get_layer("by_image").layer
    return Features(scene.get_layer("features")), Classifier(scene.layers[-1])


def scores(model: keras.Model, images: Images) -> np.ndarray:
    """Votes or margins float32 (N, classes) of uint8 images, using the cache of encodings."""
    features, classify = split_model(model)
    return classify(features.encode(images))


def classifier_fitter(config: Scenes, vectors: np.ndarray, targets: np.ndarray, classes: int) -> Callable[[float], Classifier]:
    """Prepare a function that fits the classifier of a recipe for one setting: k, or the penalty C of support vector machines.

    For support vector machines the vectors are scaled to a mean squared norm of 1, so that penalties are comparable; the scale is
    folded into the weights.

    Args:
        config: section of the recipe, whose classifier settings count.
        vectors: float32 (N, values) of the training images.
        targets: int (N,), the class of each training image.
        classes: number of classes, the width of the scores.

    Raises:
        InputError: k exceeds the number of training images (when fitted), or a class of support vector machines has no images.
    """
    if config.classifier == "knn":

        def fit_neighbors(k: float) -> Classifier:
            sizes = (len(vectors), vectors.shape[1], classes)
            layer = KNeighborsLayer(*sizes, int(k), config.distance, config.vote, config.power, name="neighbors")
            layer.set_weights([vectors, np.eye(classes, dtype=np.float32)[targets]])
            return Classifier(layer)

        return fit_neighbors
    feature_map = [] if config.kernel == "linear" else [KernelMap(config.kernel, name="kernel_map")]
    mapped = _apply(feature_map[0], vectors, CHUNK) if feature_map else vectors
    mean = float(np.einsum("ij,ij->", mapped, mapped, dtype=np.float64)) / len(mapped)
    scale = np.float32(1 / np.sqrt(mean) if mean else 1)
    machine = LinearMachine(mapped * scale, targets, classes)

    def fit_machine(penalty: float) -> Classifier:
        weights, bias = machine.fit(penalty)
        margins = keras.layers.Dense(classes, name="margins")
        margins.build((None, len(weights)))
        margins.set_weights([weights * scale, bias])
        return Classifier(keras.Sequential([*feature_map, margins], name="machines") if feature_map else margins)

    return fit_machine


def _apply(layer: keras.layers.Layer, vectors: np.ndarray, batch: int) -> np.ndarray:
    """Apply a layer in batches."""
    call = tf.function(layer, reduce_retracing=True)
    return np.concatenate([call(tf.constant(vectors[i : i + batch])).numpy() for i in range(0, len(vectors), batch)])
