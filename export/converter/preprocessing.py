"""Layers of preprocessing that have a converter of their own, for they do not call `keras.ops`; and those that are refused."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers

from export.converter.graph import Operand
from export.converter.native import Converter, layer
from export.converter.operations.elementwise import cast
from export.converter.trace import NotConvertible

__all__: list[str] = []


@layer(layers.Rescaling)
def _rescaling(c: Converter, what: Any, x: Operand) -> Any:
    scale, offset = (np.asarray(value, np.float32) for value in (what.scale, what.offset))
    dtype = c.graph.result.dtype

    def compute(x: Any) -> Any:
        x = keras.ops.cast(x, dtype)
        x = x if (scale == 1).all() else x * scale
        return x if (offset == 0).all() else x + offset

    return c.call(compute, x)


@layer(layers.Normalization)
def _normalization(c: Converter, what: Any, x: Operand) -> Any:
    mean, variance = (np.asarray(keras.ops.convert_to_numpy(value)) for value in (what.mean, what.variance))
    deviation = np.maximum(np.sqrt(variance), keras.config.epsilon())

    def compute(x: Any) -> Any:
        x = keras.ops.cast(x, what.compute_dtype)
        return x * deviation + mean if what.invert else (x - mean) / deviation

    return c.call(compute, x)


@layer(layers.Resizing)
def _resizing(c: Converter, what: Any, x: Operand) -> Any:
    options = {
        "interpolation": what.interpolation,
        "antialias": what.antialias,
        "crop_to_aspect_ratio": what.crop_to_aspect_ratio,
        "pad_to_aspect_ratio": what.pad_to_aspect_ratio,
        "fill_mode": what.fill_mode,
        "fill_value": what.fill_value,
        "data_format": what.data_format,
    }
    dtype = x.dtype if "int" in x.dtype else c.graph.result.dtype  # integers stay what they are, rounded
    size = (what.height, what.width)
    return c.call(lambda x: keras.ops.cast(keras.ops.image.resize(keras.ops.cast(x, dtype), size, **options), dtype), x)


@layer(layers.CenterCrop)
def _center_crop(c: Converter, what: Any, x: Operand) -> Any:
    last = what.data_format == "channels_last"
    height, width = (x.shape[-3], x.shape[-2]) if last else (x.shape[-2], x.shape[-1])
    if not isinstance(height, int) or not isinstance(width, int):
        raise NotConvertible("CenterCrop of images of any size")
    x = cast(c, x, c.graph.result.dtype)
    if height < what.height or width < what.width:
        options = {"crop_to_aspect_ratio": True, "data_format": what.data_format}
        return c.call(lambda x: keras.ops.image.resize(x, (what.height, what.width), **options), x)
    top, left = (height - what.height) // 2, (width - what.width) // 2
    rows, columns = slice(top, top + what.height), slice(left, left + what.width)
    key = (..., rows, columns, slice(None)) if last else (..., rows, columns)
    return c.call(lambda x: x[key], x)


#: Layers that do nothing but to images of a training.
_ONLY_IN_TRAINING = [
    name
    for name in dir(layers)
    if name.startswith(("Random", "Rand", "AugMix", "CutMix", "MixUp")) and isinstance(getattr(layers, name), type)
]


#: Those of them that return integers as they came, not as floating point.
_KEEPING = {
    *("RandomBrightness", "RandomColorDegeneration", "RandomColorJitter", "RandomContrast", "RandomCrop", "RandomHue"),
    *("RandomInvert", "RandomPosterization", "RandomSaturation", "MixUp"),
}


@layer(*(getattr(layers, name) for name in _ONLY_IN_TRAINING))
def _augmentation(c: Converter, what: Any, x: Any, training: bool = False, **kwargs: Any) -> Any:
    if training:
        raise NotConvertible("augmentation that is switched on: call the layer without training=True")
    if isinstance(x, dict):
        raise NotConvertible("images with labels or boxes: call the layer on the images alone")
    keeps = "int" in x.dtype and type(what).__name__ in _KEEPING
    return x if keeps else cast(c, x, c.graph.result.dtype)


@layer(layers.Discretization)
def _discretization(c: Converter, what: Any, x: Operand) -> Any:
    bounds = np.asarray(what.bin_boundaries, np.float32)

    def compute(x: Any) -> Any:
        return keras.ops.sum(keras.ops.cast(keras.ops.expand_dims(x, -1) >= bounds, "int32"), axis=-1)

    return _encoded(c, what, c.call(compute, cast(c, x, "float32")), len(bounds) + 1)


@layer(layers.CategoryEncoding)
def _category_encoding(c: Converter, what: Any, x: Operand, count_weights: Operand | None = None) -> Any:
    return _encoded(c, what, x, what.num_tokens, count_weights)


def _encoded(c: Converter, what: Any, x: Operand, depth: int, weights: Operand | None = None) -> Any:
    """Categories as the numbers that they are, or as vectors of `depth` numbers."""
    ops, mode, dtype = keras.ops, what.output_mode, what.compute_dtype if weights is None else weights.dtype
    if mode == "int":
        return x

    def compute(x: Any, weights: Any = None) -> Any:
        if mode == "one_hot":
            single = len(x.shape) > 1 and x.shape[-1] == 1
            return ops.one_hot(ops.reshape(x, x.shape[:-1]) if single else x, depth, dtype=dtype)
        found = ops.one_hot(x, depth, dtype=dtype)
        if mode == "multi_hot":
            return ops.max(found, axis=-2)
        return ops.sum(found if weights is None else found * ops.expand_dims(weights, -1), axis=1 if len(x.shape) > 1 else 0)

    return c.call(compute, x) if weights is None else c.call(compute, x, weights)


_REFUSED = {
    "Hashing": "the hash of a value: hash before the model",
    "HashedCrossing": "the hash of a value: hash before the model",
    "IntegerLookup": "a table of values: look them up before the model, whose input then is the index",
    "StringLookup": "strings: look them up before the model, whose input then is the index",
    "TextVectorization": "strings: turn the text into numbers before the model, whose input they then are",
    "MelSpectrogram": "a Fourier transform: compute the spectrogram before the model",
    "AutoContrast": "equalization of an image by the backend's functions: do it before the model",
    "Equalization": "equalization of an image by the backend's functions: do it before the model",
    "ContrastLimitedAdaptiveHistogramEqualization": "equalization of an image by the backend's functions: do it before the model",
    "Solarization": "solarization by the backend's functions: do it before the model",
    "MaxNumBoundingBoxes": "boxes of a training: take the layer out of the model",
    "TFSMLayer": "a SavedModel: build the model from Keras layers",
    "TorchModuleWrapper": "a PyTorch module: export it by torch.onnx",
    "JaxLayer": "a JAX function: write it in keras.ops",
    "FlaxLayer": "a Flax module: write it in keras.ops",
}


@layer(*(getattr(layers, name) for name in _REFUSED if hasattr(layers, name)))
def _refused(c: Converter, what: Any, *args: Any, **kwargs: Any) -> Any:
    name = next(kind.__name__ for kind in type(what).__mro__ if kind.__name__ in _REFUSED)
    raise NotConvertible(_REFUSED[name])
