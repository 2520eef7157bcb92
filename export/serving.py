"""Models as they are served: preprocessing arithmetic, named outputs, softmax and unit length.

The one place for them: tasks train behind `normalization`, the converter exports `serving_graph`, and what runs a file of float32
input uses `preprocess`. Keras is imported by the functions that build layers, so that prediction does without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kerascv_course.core.errors import InputError

if TYPE_CHECKING:
    import keras

    from export.contract import Preprocessing

__all__ = ["ends_in_softmax", "normalization", "normalized", "preprocess", "serving_classifier", "serving_graph"]


def preprocess(pixels: np.ndarray, steps: Preprocessing) -> np.ndarray:
    """``(pixel · scale − mean) / std`` of pixels of 0–255.

    Args:
        pixels: uint8 (N, height, width, channels).
        steps: the contract's preprocessing.

    Returns:
        float32 of the same shape.
    """
    if steps.channels == "BGR":
        pixels = pixels[..., ::-1]
    values = pixels.astype(np.float32) * np.float32(steps.scale)
    return (values - np.asarray(steps.mean, np.float32)) / np.asarray(steps.std, np.float32)


def normalization(mean: Sequence[float], std: Sequence[float], channels: int, *, scale: float = 1 / 255) -> keras.layers.Layer:
    """The layer ``normalize``: ``(pixel · scale − mean) / std``.

    Args:
        mean: one value or one a channel, of scaled pixels.
        std: standard deviation: one value or one a channel, of scaled pixels.
        channels: of the images.
        scale: factor on pixels of 0–255.
    """
    import keras

    means, stds = (np.broadcast_to(np.asarray(values, np.float64), (channels,)) for values in (mean, std))
    return keras.layers.Rescaling((scale / stds).tolist(), (-means / stds).tolist(), name="normalize")


def normalized(
    network: keras.Model,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    dtype: str = "uint8",
    image_shape: tuple[int, int, int] | None = None,
) -> keras.Model:
    """Put ``(pixel/255 − mean) / std`` in front of a network.

    Args:
        network: from float32 (batch, height, width, channels).
        mean: one value or one a channel, of pixels scaled to 0–1.
        std: standard deviation: one value or one a channel, of pixels scaled to 0–1.
        dtype: of the new input: ``"uint8"``, or ``"float32"`` for pixels of 0–255 in floating point.
        image_shape: (height, width, channels) of images that are resized to the network's input (bilinear); None: no resizing.
    """
    import keras

    shape = network.input_shape[1:]
    image = keras.Input(image_shape or shape, dtype=dtype, name="image")
    x = normalization(mean, std, shape[-1])(image)
    if image_shape is not None and image_shape != shape:
        x = keras.layers.Resizing(*shape[:2], interpolation="bilinear", name="resize")(x)
    return keras.Model(image, network(x), name=network.name)


def serving_classifier(model: keras.Model) -> keras.Model:
    """A classifier with named outputs, each (batch, classes): ``logits`` and their softmax, ``probabilities``.

    A model that ends in a softmax has ``probabilities`` alone.
    """
    import keras

    image, scores = _called(model)
    outputs = {}
    if ends_in_softmax(model):
        outputs["probabilities"] = keras.layers.Identity(name="probabilities")(scores)
    else:
        outputs["logits"] = keras.layers.Identity(name="logits")(scores)
        outputs["probabilities"] = keras.layers.Softmax(name="probabilities")(scores)
    return keras.Model(image, outputs, name=model.name)


def ends_in_softmax(layer: keras.layers.Layer) -> bool:
    """Whether the last operation of a layer, or of a model's last layer, is a softmax."""
    import keras

    layer = _last(layer)
    return isinstance(layer, keras.layers.Softmax) or getattr(layer, "activation", None) is keras.activations.softmax


def serving_graph(model: keras.Model, *, task: str | None, input_dtype: str, steps: Preprocessing) -> keras.Model:
    """The model as it is exported: one input ``image``, a dict of named outputs.

    Args:
        model: as `export.export_model` takes it; one whose output is a dict keeps its outputs.
        task: as in `export.export_model`.
        input_dtype: as in `export.export_model`.
        steps: put in front of a model of floating-point input where `input_dtype` is ``"uint8"``.

    Raises:
        InputError: the task does not fit the model's outputs.
    """
    import keras

    named = not isinstance(model, keras.Sequential) and isinstance(model.output, dict)
    if input_dtype == "uint8" and model.inputs[0].dtype != "uint8":
        model = _preprocessed(model, steps)
    if named:
        return model
    one_vector = len(model.outputs) == 1 and len(model.outputs[0].shape) == 2
    if one_vector and task not in ("tensor", "embed"):
        return serving_classifier(model)
    if task in ("classify", "embed") and not one_vector:
        shapes = [tuple(output.shape) for output in model.outputs]
        raise InputError(f"the task {task!r} has one output (batch, values); {model.name} has {shapes}")
    image, values = _called(model)
    if task == "embed":
        if not isinstance(_last(model), keras.layers.UnitNormalization):
            values = keras.layers.UnitNormalization(name="unit_length")(values)
        outputs = {"embedding": values}
    else:
        values = keras.tree.flatten(values)
        outputs = {f"output_{i}": value for i, value in enumerate(values)} if len(values) > 1 else {"output": values[0]}
    outputs = {name: keras.layers.Identity(name=name)(value) for name, value in outputs.items()}
    return keras.Model(image, outputs, name=model.name)


def _called(model: keras.Model) -> tuple[Any, Any]:
    """A new input ``image`` and what the model makes of it."""
    import keras

    image = keras.Input(model.inputs[0].shape[1:], dtype=model.inputs[0].dtype, name="image")
    return image, model(image)


def _last(layer: Any) -> Any:
    """The last layer of a model, through models inside it."""
    while layers := getattr(layer, "layers", None):
        layer = layers[-1]
    return layer


def _preprocessed(model: keras.Model, steps: Preprocessing) -> keras.Model:
    """The model behind `preprocess`, from uint8 pixels."""
    import keras

    shape = tuple(model.inputs[0].shape[1:])
    image = keras.Input(shape, dtype="uint8", name="image")
    pixels = keras.ops.flip(image, axis=-1) if steps.channels == "BGR" else image
    normalize = normalization(steps.mean or (0,), steps.std or (1,), shape[-1], scale=steps.scale)
    return keras.Model(image, model(normalize(pixels)), name=model.name)
