"""Colourisation: one of a palette's colours for every pixel of a grey picture (CSC413 assignment 2, report 004, parts 4–6)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure

from export.serving import normalization
from kerascv_course import plots
from kerascv_course.analysis import summarize
from kerascv_course.core.errors import InputError
from kerascv_course.data import DataInfo, Dataset, Split
from kerascv_course.data.palette import (
    color_names,
    format_palette,
    kmeans_palette,
    load_palette,
    nearest_colors,
    nearest_colors_tf,
    palette_of,
)
from kerascv_course.models import create_model
from kerascv_course.tasks.base import Trained, TrainedTask
from kerascv_course.tasks.classification.transfer import freeze_before, load_all_but_head
from kerascv_course.tasks.colorization.config import ColorizationRecipe
from kerascv_course.tasks.colorization.metrics import PixelReport, floors

__all__ = ["ColorizationTask", "Decode"]

BATCH = 128

#: The networks halve twice.
MULTIPLE = 4

#: File, in the run folder, of the colours.
PALETTE_FILE = "palette.csv"

#: Pictures of the grids: the assignment shows ten.
SHOWN = 10


@keras.saving.register_keras_serializable("kerascv_course")
class PadToMultiple(keras.layers.Layer):
    """Repeat the last row and column until height and width are multiples: (N, H, W, C) to (N, ⌈H/m⌉m, ⌈W/m⌉m, C)."""

    def __init__(self, multiple: int, **options: Any) -> None:
        super().__init__(**options)
        self.multiple = multiple

    def call(self, image: Any) -> Any:
        """Pad one batch."""
        for axis in (1, 2):
            size = tf.shape(image)[axis]
            padded = (size + self.multiple - 1) // self.multiple * self.multiple
            image = tf.gather(image, tf.minimum(tf.range(padded), size - 1), axis=axis)
        return image

    def compute_output_spec(self, image: Any) -> Any:
        """Height and width stay open."""
        return keras.KerasTensor((image.shape[0], None, None, image.shape[3]), image.dtype)


@keras.saving.register_keras_serializable("kerascv_course")
class CropLike(keras.layers.Layer):
    """Cut (N, ≥H, ≥W, C) back to the height and width of another tensor (N, H, W, …)."""

    def call(self, values: Any, like: Any) -> Any:
        """Crop one batch."""
        shape = tf.shape(like)
        return values[:, : shape[1], : shape[2]]

    def compute_output_spec(self, values: Any, like: Any) -> Any:
        """Height and width of `like`."""
        return keras.KerasTensor((*like.shape[:3], values.shape[3]), values.dtype)


@keras.saving.register_keras_serializable("kerascv_course")
class Decode(keras.layers.Layer):
    """Logits to classes and to the picture shown (Zhang, Isola, Efros: "Colorful Image Colorization", ECCV 2016, section 2.3).

    Args:
        palette: colours, red, green, blue, 0–255.
        decode: ``"argmax"`` or ``"annealed-mean"``: the mean of the palette weighted by softmax(logits / temperature).
        temperature: of the annealed mean.
        keep_gray: shift all channels of a pixel alike, so that their mean is the input's, before they are cut to 0–255.
    """

    def __init__(self, palette: Any, decode: str, temperature: float, keep_gray: bool, **options: Any) -> None:
        super().__init__(**options)
        self.palette, self.decode = np.asarray(palette, np.float32), decode
        self.temperature, self.keep_gray = temperature, keep_gray

    def call(self, logits: Any, image: Any) -> tuple[Any, Any]:
        """Decode.

        Args:
            logits: (N, H, W, colours).
            image: uint8 (N, H, W, 3), the input.

        Returns:
            uint8 classes (N, H, W), and uint8 colours (N, H, W, 3).
        """
        classes = tf.argmax(logits, -1, tf.int32)
        if self.decode == "argmax":
            shown = tf.gather(tf.constant(self.palette), classes)
        else:
            shown = tf.matmul(tf.nn.softmax(logits / self.temperature), tf.constant(self.palette))
        if self.keep_gray:
            gray = tf.reduce_mean(tf.cast(image, tf.float32), -1, keepdims=True)
            shown = shown + (gray - tf.reduce_mean(shown, -1, keepdims=True))
        shown = tf.cast(tf.clip_by_value(tf.round(shown), 0.0, 255.0), tf.uint8)
        return tf.cast(classes, tf.uint8), shown

    def compute_output_spec(self, logits: Any, image: Any) -> tuple[Any, Any]:
        """Classes and colours, both uint8."""
        return keras.KerasTensor(logits.shape[:3], "uint8"), keras.KerasTensor((*logits.shape[:3], 3), "uint8")


class _PixelCrossentropy(keras.losses.Loss):
    """Softmax cross-entropy of every pixel, weighted by its true class; the mean over all pixels."""

    def __init__(self, weights: np.ndarray | None) -> None:
        super().__init__(name="pixel_crossentropy")
        self.weights = weights

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Loss of each pixel (N, H, W), from classes (N, H, W) and logits (N, H, W, colours)."""
        classes = keras.ops.cast(y_true, "int32")
        loss = keras.ops.sparse_categorical_crossentropy(classes, y_pred, from_logits=True)
        return loss if self.weights is None else loss * keras.ops.take(keras.ops.convert_to_tensor(self.weights), classes)


def color_weights(targets: np.ndarray, colors: int, rebalance: float) -> np.ndarray | None:
    """Weight of each class in the loss: ∝ 1/((1 − λ)·p + λ/Q), its mean over pixels 1 (Zhang et al. 2016, equation 4).

    The shares p are not smoothed over neighbouring colours, which a palette of two dozen does not need.

    Args:
        targets: classes of the training pixels.
        colors: Q.
        rebalance: 1 − λ; 0: no weights.
    """
    if not rebalance:
        return None
    shares = np.bincount(targets.ravel(), minlength=colors) / targets.size
    weights = 1 / np.maximum(rebalance * shares + (1 - rebalance) / colors, 1e-6)
    return (weights / (shares * weights).sum()).astype(np.float32)


class ColorizationTask(TrainedTask[ColorizationRecipe]):
    """The task colorize.

    Images are uint8 RGB; the trainable model greys them itself. Targets are uint8 (N, height, width), the number of the nearest
    colour; the names of the classes are the colours, ``#rrggbb``.
    """

    targets = "colours"
    captions: Mapping[str, str] = {
        "color_grid": "The first test pictures: what the network sees, what they were, the same in the palette's colours (the best "
        "that could be predicted), and what is served.",
        "palette": "The palette: share of the test pixels that have each colour, and share that is given it.",
    }

    def label(self, data: Dataset, run_dir: Path | None) -> Dataset:
        """The class of every pixel; the palette is the run's, else the file's, else k-means on the training pixels."""
        info, config = data.info, self.recipe.colorization
        if info.image_shape[2] != 3:
            raise InputError(f"colorization requires RGB images; received data.channels={info.image_shape[2]}: use 3")
        if run_dir and (run_dir / PALETTE_FILE).is_file():
            palette = load_palette(run_dir / PALETTE_FILE)
        elif config.palette is not None:
            palette = load_palette(config.palette)
        else:
            palette = kmeans_palette(data.train.images, config.colors, config.palette_seed)
        splits = (Split(split.images, nearest_colors(split.images, palette)) for _, split in data.items())
        names = color_names(palette)
        digest = hashlib.sha256(f"{info.fingerprint} {' '.join(names)}".encode()).hexdigest()
        return Dataset(*splits, info=replace(info, labels=names, fingerprint=f"sha256:{digest}"))

    def files(self, data: Dataset) -> dict[str, str]:
        """The palette, as `load_palette` reads it."""
        return {PALETTE_FILE: format_palette(palette_of(data.info.labels))}

    def relabel(self, info: DataInfo) -> Callable[[tf.Tensor], tf.Tensor]:
        """Classes of images (N, H, W, 3): uint8 (N, H, W)."""
        palette = palette_of(info.labels)
        return lambda images: nearest_colors_tf(images, palette)

    def build(self, data: Dataset) -> keras.Model:
        """A network of the registry behind normalisation and greying: uint8 (N, H, W, 3) to logits (N, H, W, colours)."""
        recipe, labels = self.recipe, data.info.labels
        config, (height, width, _) = recipe.colorization, data.info.image_shape
        options: dict[str, Any] = dict(recipe.model_options)
        channels = 1 if config.input == "gray" else 3
        network = create_model(recipe.model, len(labels), (height, width, channels), **options)
        if network.output_shape[1:] != (height, width, len(labels)):
            raise InputError(
                f"the task colorize needs a network that answers for every pixel; {recipe.model} gives {network.output_shape}: "
                "use pool_upsample_net, conv_transpose_net or unet_colorizer"
            )
        if config.input == "small" and (height % config.shrink or width % config.shrink):
            raise InputError(f"colorization.shrink must divide height and width; received {config.shrink} for {height}×{width}")
        if recipe.weights:
            load_all_but_head(network, recipe.weights, recipe.model)
        if recipe.train_from:
            freeze_before(network, recipe.train_from)
        image = keras.Input((height, width, 3), dtype="uint8", name="image")
        return keras.Model(image, network(_network_input(image, recipe)), name=network.name)

    def compile_arguments(self, data: Dataset) -> dict[str, Any]:
        """Pixel-wise softmax cross-entropy, weighted where the recipe re-balances; pixel accuracy."""
        weights = color_weights(data.train.targets, len(data.info.labels), self.recipe.colorization.rebalance)
        return {"loss": _PixelCrossentropy(weights), "metrics": [keras.metrics.SparseCategoricalAccuracy(name="accuracy")]}

    def snapshot(self, model: keras.Model, data: Dataset) -> Figure:
        """The grid of the first validation pictures."""
        images = data.validation.images[:SHOWN]
        _, shown = _decoder(self.recipe, data.info)(model(images, training=False), images)
        return plots.image_rows({"input": _seen(images, self.recipe), "truth": images, "prediction": shown.numpy()})

    def evaluate(self, trained: Trained) -> dict[str, Any]:
        """`PixelReport` of each split, confusion included; ``floors``, and the best that the palette allows."""
        data = trained.data
        palette = palette_of(data.info.labels)
        metrics: dict[str, Any] = {}
        for name, split in data.items():
            report = PixelReport(len(palette))
            for logits, classes, shown, targets, images in _answers(trained.model, self.recipe, split, data.info):
                report.add(logits, classes, targets, shown, images)
            metrics[name] = {**report.result(), "confusion": report.confusion.tolist()}
        best = PixelReport(len(palette))
        for start in range(0, len(data.test), BATCH):
            images, targets = data.test.images[start : start + BATCH], data.test.targets[start : start + BATCH]
            best.add(None, targets, targets, palette[targets], images)
        train, test = data.train, data.test
        metrics["floors"] = {
            **floors((train.images, train.targets), (test.images, test.targets), len(palette)),
            **{f"palette_{key}": value for key, value in best.result(loss=False).items() if key not in _COUNTED},
        }
        return metrics

    def headline(self, metrics: Mapping[str, Any]) -> dict[str, str]:
        """Pixel accuracy of each split, and the loss of the test split."""
        return {**super().headline(metrics), "test loss": f"{metrics['test']['loss']:.4f}"}

    def figures(self, trained: Trained) -> dict[str, Figure]:
        """Colour grid of the first test pictures; the palette with its true and predicted shares."""
        data = trained.data
        palette = palette_of(data.info.labels)
        first = data.test.take(np.arange(min(SHOWN, len(data.test))))
        _, _, shown, targets, images = next(_answers(trained.model, self.recipe, first, data.info))
        rows = {"input": _seen(images, self.recipe), "truth": images, "truth in palette": palette[targets], "prediction": shown}
        confusion = np.array(trained.metrics["test"]["confusion"])
        return {
            "color_grid": plots.image_rows(rows),
            "palette": plots.palette_shares(palette, confusion.sum(1) / confusion.sum(), confusion.sum(0) / confusion.sum()),
        }

    def samples(self, data: Dataset, count: int) -> dict[str, np.ndarray]:
        """The first test pictures in grey, the mean of their channels."""
        return {f"{i}_gray": gray_levels(image) for i, image in enumerate(data.test.images[:count])}

    def serving_graph(self, model: keras.Model, info: DataInfo) -> keras.Model:
        """uint8 pictures (N, H, W, 3) of any size to ``logits``, ``classes`` and ``colorized``.

        The picture is padded inside to multiples of what the network halves, by repeating its border, and the answer cut back.
        """
        network = next(layer for layer in model.layers if isinstance(layer, keras.Model))
        image = keras.Input((None, None, 3), dtype="uint8", name="image")
        padded = PadToMultiple(_multiple(self.recipe), name="pad")(image)
        logits = CropLike(name="logits")(_any_size(network)(_network_input(padded, self.recipe)), image)
        classes, shown = _decoder(self.recipe, info)(logits, image)
        names = {"classes": classes, "colorized": shown}
        outputs = {key: keras.layers.Identity(name=key)(value) for key, value in names.items()}
        return keras.Model(image, {"logits": logits, **outputs}, name=model.name)

    def describe(self, trained: Trained) -> dict[str, Any]:
        """Colours, figures of each split, and how a large picture is cut."""
        network, metrics = next(layer for layer in trained.model.layers if isinstance(layer, keras.Model)), trained.metrics
        keys = ("accuracy", "loss", "balanced_accuracy", "psnr", "ssim", "delta_e", "ab_rmse")
        multiple = _multiple(self.recipe)
        return {
            "labels": self.labels(trained.data.info),
            "metrics": {split: {key: metrics[split][key] for key in keys} for split in ("train", "validation", "test")},
            "tiling": {"multiple": multiple, "overlap": -(-_reach(network, self.recipe) // multiple) * multiple},
        }


TASK = ColorizationTask

_COUNTED = ("images", "accuracy", "balanced_accuracy")


def gray_levels(images: np.ndarray) -> np.ndarray:
    """Mean of the channels, rounded: uint8 (…, 3) to uint8 (…, 1)."""
    return ((images.astype(np.uint16).sum(-1, keepdims=True) + 1) // 3).astype(np.uint8)


def reach(network: keras.Model) -> int:
    """How far a pixel of the answer sees at most, in any direction, pixels.

    Args:
        network: fully convolutional, of period `MULTIPLE`.
    """
    size = 128
    summary = summarize(_any_size(network), (size, size, network.input_shape[-1]))
    middle = size // 2
    spans = [summary.unit_field(summary.rows[-1].name, (at, at)) for at in range(middle, middle + MULTIPLE)]
    return max(
        max(at - span[0], span[1] - at)
        for at, pair in zip(range(middle, middle + MULTIPLE), spans, strict=True)
        for span in pair
        if span is not None
    )


def _reach(network: keras.Model, recipe: ColorizationRecipe) -> int:
    return reach(network) + (recipe.colorization.shrink if recipe.colorization.input == "small" else 0)


def _multiple(recipe: ColorizationRecipe) -> int:
    return max(MULTIPLE, recipe.colorization.shrink) if recipe.colorization.input == "small" else MULTIPLE


def _network_input(image: Any, recipe: ColorizationRecipe) -> Any:
    """uint8 (N, H, W, 3) to what the network sees, (N, H, W, 1 or 3), normalised."""
    pixels = normalization(recipe.data.normalize_mean, recipe.data.normalize_std, 3)(image)
    if recipe.colorization.input == "gray":
        return keras.ops.mean(pixels, axis=-1, keepdims=True)
    shrink = recipe.colorization.shrink
    small = keras.layers.AveragePooling2D(shrink, name="shrink")(pixels)
    return keras.layers.UpSampling2D(shrink, name="enlarge")(small)


def _any_size(network: keras.Model) -> keras.Model:
    """The same network, weights copied, for any height and width."""
    free = keras.models.clone_model(network, input_tensors=keras.Input((None, None, network.input_shape[-1])))
    free.set_weights(network.get_weights())
    return free


def _decoder(recipe: ColorizationRecipe, info: DataInfo) -> Decode:
    config = recipe.colorization
    return Decode(palette_of(info.labels), config.decode, config.temperature, config.keep_gray, name="decode")


def _seen(images: np.ndarray, recipe: ColorizationRecipe) -> np.ndarray:
    """What the network sees of pictures, to be shown: uint8 (N, H, W, 1 or 3)."""
    if recipe.colorization.input == "gray":
        return gray_levels(images)
    shrink = recipe.colorization.shrink
    count, height, width, _ = images.shape
    small = images.reshape(count, height // shrink, shrink, width // shrink, shrink, 3).mean((2, 4)).round().astype(np.uint8)
    return small.repeat(shrink, 1).repeat(shrink, 2)


def _answers(
    model: keras.Model, recipe: ColorizationRecipe, split: Split, info: DataInfo
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Batches of logits, classes, colours shown, targets and images."""
    decoder = _decoder(recipe, info)
    for start in range(0, len(split), BATCH):
        images, targets = split.images[start : start + BATCH], split.targets[start : start + BATCH]
        logits = model.predict_on_batch(images)
        classes, shown = decoder(logits, images)
        yield logits, classes.numpy(), shown.numpy(), targets, images
