"""Colorization: a palette color for every pixel of a grayscale image (CSC413 assignment 2, report 004, parts 4–6)."""

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
from kerascv_course.core.errors import InputError
from kerascv_course.core.progress import Wait, part_of, track
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
from kerascv_course.tasks.colorization.losses import PixelCrossentropy, color_weights
from kerascv_course.tasks.colorization.metrics import PixelReport, baselines
from kerascv_course.tasks.colorization.serving import MULTIPLE, CropLike, Decode, PadToMultiple, for_any_size, reach

__all__ = ["ColorizationTask"]

BATCH = 128

#: File of the palette in the run folder.
PALETTE_FILE = "palette.csv"

#: Images shown in a figure, as many as in the assignment.
SHOWN = 10

#: Metrics of the exported file.
METRICS = ("accuracy", "loss", "balanced_accuracy", "psnr", "ssim", "delta_e", "ab_rmse")

#: Metrics of the best possible answer within the palette, as baselines.
PALETTE_METRICS = ("psnr", "ssim", "delta_e", "ab_rmse")


class ColorizationTask(TrainedTask[ColorizationRecipe]):
    """Colorization.

    Images are uint8 RGB; the trainable model converts them to gray itself. Targets are uint8 (N, height, width), the index of the
    nearest palette color; labels are the colors, ``#rrggbb``.
    """

    targets = "colors"
    closed_set = False
    captions: Mapping[str, str] = {
        "color_grid": "The first test images: network input, original, original in palette colors (the best possible prediction), and "
        "prediction.",
        "palette": "Palette: fraction of the test pixels of each color, true and predicted.",
    }

    def label(self, data: Dataset, run_dir: Path | None) -> Dataset:
        """Assign pixels to the palette: that of the run, else of the recipe's file, else k-means on the training pixels."""
        info, config = data.info, self.recipe.colorization
        if info.image_shape[2] != 3:
            raise InputError(f"colorization requires RGB images; received data.channels={info.image_shape[2]}: use 3")
        if run_dir and (run_dir / PALETTE_FILE).is_file():
            palette = load_palette(run_dir / PALETTE_FILE)
        elif config.palette is not None:
            palette = load_palette(config.palette)
        else:
            with Wait("finding the palette"):
                palette = kmeans_palette(np.asarray(data.train.images), config.colors, config.palette_seed)
        # every pixel has a target, so all images are held in memory anyway
        read = [np.asarray(split.images) for split in (data.train, data.validation, data.test)]
        train, validation, test = (Split(images, nearest_colors(images, palette)) for images in read)
        names = color_names(palette)
        digest = hashlib.sha256(f"{info.fingerprint} {' '.join(names)}".encode()).hexdigest()
        info = replace(info, labels=names, fingerprint=f"sha256:{digest}")
        return replace(data, train=train, validation=validation, test=test, info=info)

    def files(self, data: Dataset) -> dict[str, str]:
        """The palette, as `load_palette` reads it."""
        return {PALETTE_FILE: format_palette(palette_of(data.info.labels))}

    def relabel(self, info: DataInfo) -> Callable[[tf.Tensor], tf.Tensor]:
        """Classes uint8 (N, H, W) of images (N, H, W, 3)."""
        palette = palette_of(info.labels)
        return lambda images: nearest_colors_tf(images, palette)

    def build(self, data: Dataset) -> keras.Model:
        """The network after normalization and conversion to its input: uint8 (N, H, W, 3) to logits (N, H, W, colors)."""
        recipe, colors = self.recipe, len(data.info.labels)
        config, (height, width, _) = recipe.colorization, data.info.image_shape
        options: dict[str, Any] = dict(recipe.model_options)
        network = create_model(recipe.model, colors, (height, width, 1 if config.input == "gray" else 3), **options)
        if network.output_shape[1:] != (height, width, colors):
            raise InputError(
                f"colorization requires a network with an output for every pixel; the output of {recipe.model} has the shape "
                f"{network.output_shape}: use pool_upsample_net, conv_transpose_net or unet_colorizer"
            )
        if config.input == "small" and (height % config.shrink or width % config.shrink):
            raise InputError(f"colorization.shrink must divide height and width; received {config.shrink} for {height}×{width}")
        if recipe.weights:
            load_all_but_head(network, recipe.weights, recipe.model)
        if recipe.train_from:
            freeze_before(network, recipe.train_from)
        image = keras.Input((height, width, 3), dtype="uint8", name="image")
        return keras.Model(image, network(self.network_input(image)), name=network.name)

    def network_input(self, image: Any) -> Any:
        """uint8 (N, H, W, 3) to the normalized input of the network, (N, H, W, 1 or 3)."""
        config, data = self.recipe.colorization, self.recipe.data
        pixels = normalization(data.normalize_mean, data.normalize_std, 3)(image)
        if config.input == "gray":
            return keras.ops.mean(pixels, axis=-1, keepdims=True)
        small = keras.layers.AveragePooling2D(config.shrink, name="shrink")(pixels)
        return keras.layers.UpSampling2D(config.shrink, name="enlarge")(small)

    def shown_input(self, images: np.ndarray) -> np.ndarray:
        """The network input for figures: uint8 (N, H, W, 1 or 3)."""
        if self.recipe.colorization.input == "gray":
            return gray_levels(images)
        factor = self.recipe.colorization.shrink
        count, height, width, _ = images.shape
        small = images.reshape(count, height // factor, factor, width // factor, factor, 3).mean((2, 4)).round()
        return np.asarray(small.astype(np.uint8).repeat(factor, 1).repeat(factor, 2))

    def decoder(self, info: DataInfo) -> Decode:
        """Layer from logits and images to classes and colors."""
        config = self.recipe.colorization
        return Decode(palette_of(info.labels), config.decode, config.temperature, config.keep_gray, name="decode")

    def compile_arguments(self, data: Dataset) -> dict[str, Any]:
        """Pixel-wise cross-entropy, weighted if the recipe rebalances colors; pixel accuracy."""
        weights = color_weights(data.train.targets, len(data.info.labels), self.recipe.colorization.rebalance)
        return {"loss": PixelCrossentropy(weights), "metrics": [keras.metrics.SparseCategoricalAccuracy(name="accuracy")]}

    def snapshot(self, model: keras.Model, data: Dataset) -> Figure:
        """Predictions for the first validation images."""
        images = data.validation.images[:SHOWN]
        _, shown = self.decoder(data.info)(model(images, training=False), images)
        return plots.image_rows(
            {"input": self.shown_input(images), "truth": images, "prediction": keras.ops.convert_to_numpy(shown)}
        )

    def colorized(
        self, model: keras.Model, split: Split, info: DataInfo
    ) -> Iterator[tuple[Split, np.ndarray, np.ndarray, np.ndarray]]:
        """Batches of the split, with their logits, classes and colors."""
        decoder = self.decoder(info)
        with part_of("measuring", len(split)) as wait:
            for start in range(0, len(split), BATCH):
                batch = split.take(np.arange(start, min(start + BATCH, len(split))))
                logits = model.predict_on_batch(batch.images)
                classes, shown = decoder(logits, batch.images)
                yield batch, logits, *map(keras.ops.convert_to_numpy, (classes, shown))
                wait.advance(len(batch))

    def evaluate(self, trained: Trained) -> dict[str, Any]:
        """`PixelReport` of each split with its confusion matrix; baselines, with the best possible answer within the palette."""
        data, palette = trained.data, palette_of(trained.data.info.labels)
        metrics: dict[str, Any] = {}
        for name, split in data.items():
            report = PixelReport(len(palette))
            for batch, logits, classes, shown in self.colorized(trained.model, split, data.info):
                report.add(logits, classes, batch.targets, shown, np.asarray(batch.images))
            metrics[name] = {**report.result(), "confusion": report.confusion.tolist()}
        if not len(data.train):
            return metrics
        best, test = PixelReport(len(palette)), data.test
        for start in track(range(0, len(test), BATCH), "measuring baselines", "batches"):
            images, targets = test.images[start : start + BATCH], test.targets[start : start + BATCH]
            best.add(None, targets, targets, palette[targets], images)
        ideal = best.result(loss=False)
        pairs = {name: (np.asarray(split.images), split.targets) for name, split in data.items()}
        metrics["baselines"] = {
            **baselines(pairs["train"], pairs["test"], len(palette)),
            **{f"palette_{key}": ideal[key] for key in PALETTE_METRICS},
        }
        return metrics

    def headline(self, metrics: Mapping[str, Any]) -> dict[str, str]:
        """Pixel accuracy of each split, and the loss of the test split."""
        return {**super().headline(metrics), "test loss": f"{metrics['test']['loss']:.4f}"}

    def figures(self, trained: Trained) -> dict[str, Figure]:
        """The first test images colorized; the palette with true and predicted fractions."""
        data, palette = trained.data, palette_of(trained.data.info.labels)
        first = data.test.take(np.arange(min(SHOWN, len(data.test))))
        _, _, _, shown = next(self.colorized(trained.model, first, data.info))
        images = np.asarray(first.images)
        rows = {"input": self.shown_input(images), "truth": images}
        rows |= {"truth in palette": palette[first.targets], "prediction": shown}
        confusion = np.array(trained.metrics["test"]["confusion"])
        return {
            "color_grid": plots.image_rows(rows),
            "palette": plots.palette_shares(palette, confusion.sum(1) / confusion.sum(), confusion.sum(0) / confusion.sum()),
        }

    def samples(self, data: Dataset, count: int) -> dict[str, np.ndarray]:
        """The first test images in gray."""
        return {f"{i}_gray": gray_levels(image) for i, image in enumerate(data.test.images[:count])}

    def multiple(self) -> int:
        """Height and width of the network's input are multiples of this."""
        config = self.recipe.colorization
        return max(MULTIPLE, config.shrink) if config.input == "small" else MULTIPLE

    def serving_graph(self, model: keras.Model, info: DataInfo) -> keras.Model:
        """uint8 images (N, H, W, 3) of any size to ``logits``, ``classes`` and ``colorized``; padded and cropped inside."""
        image = keras.Input((None, None, 3), dtype="uint8", name="image")
        padded = PadToMultiple(self.multiple(), name="pad")(image)
        logits = CropLike(name="logits")(for_any_size(_network(model))(self.network_input(padded)), image)
        classes, shown = self.decoder(info)(logits, image)
        outputs = {
            "logits": logits,
            "classes": keras.layers.Identity(name="classes")(classes),
            "colorized": keras.layers.Identity(name="colorized")(shown),
        }
        return keras.Model(image, outputs, name=model.name)

    def describe(self, trained: Trained) -> dict[str, Any]:
        """Colors, metrics of each split, and the tiling of large images."""
        config, multiple = self.recipe.colorization, self.multiple()
        far = reach(_network(trained.model)) + (config.shrink if config.input == "small" else 0)
        measured = {split: {key: trained.metrics[split][key] for key in METRICS} for split in ("train", "validation", "test")}
        return {
            "labels": self.labels(trained.data.info),
            "metrics": measured,
            "tiling": {"multiple": multiple, "overlap": -(-far // multiple) * multiple},
        }


TASK = ColorizationTask


def _network(model: keras.Model) -> keras.Model:
    return next(layer for layer in model.layers if isinstance(layer, keras.Model))


def gray_levels(images: np.ndarray) -> np.ndarray:
    """Mean of the channels, rounded: uint8 (…, 3) to uint8 (…, 1)."""
    return np.asarray((images.astype(np.uint16).sum(-1, keepdims=True) + 1) // 3, np.uint8)
