"""Models as they are served: preprocessing in front, named outputs, probabilities and unit length."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from export.contract import Preprocessing
from export.converter.heads import Head, read_head, try_model
from export.serving import normalization
from kerascv_course.core.errors import InputError

__all__ = ["flat_outputs", "serving_classifier", "serving_graph"]

log = logging.getLogger(__name__)


def serving_graph(
    model: keras.Model, *, task: str | None, input_dtype: str, steps: Preprocessing, labels: Sequence[str] = ()
) -> keras.Model:
    """The model as it is exported: one input ``image``, a dict of named outputs.

    Args:
        model: as `export.export_model` takes it; one whose output is a dict keeps its outputs, nested ones as ``outer/inner``.
        task: as in `export.export_model`.
        input_dtype: as in `export.export_model`.
        steps: put in front of a model of floating-point input where `input_dtype` is ``"uint8"``.
        labels: class names, if they are known.

    Raises:
        InputError: task or labels do not fit the model's outputs.
    """
    values = model.output if not isinstance(model, keras.Sequential) else model.outputs[0]
    one_vector = not isinstance(values, dict) and len(model.outputs) == 1 and len(model.outputs[0].shape) == 2
    if task in ("classify", "embed") and not one_vector and not isinstance(values, dict):
        shapes = [tuple(output.shape) for output in model.outputs]
        raise InputError(f"the task {task!r} has one output (batch, values); {model.name} has {shapes}")
    head: Head = "values"
    if one_vector and task not in ("tensor", "embed"):
        head = read_head(model, try_model(model, steps), task=task, labels=labels)
        _check_labels(model, head, labels)
    if input_dtype == "uint8" and model.inputs[0].dtype != "uint8":
        model = _preprocessed(model, steps)
    if head != "values":
        return _classifier(model, head)
    if isinstance(values, dict):
        return model if all(isinstance(one, keras.KerasTensor) for one in values.values()) else _named(model)
    if task != "embed":
        if one_vector and task is None:
            log.warning(
                "%s: its output is exported as a tensor: nothing tells that it is the scores of classes (task='classify' does)",
                model.name,
            )
        return _named(model)
    image, result = _called(model)
    if not isinstance(model.layers[-1], keras.layers.UnitNormalization):
        result = keras.layers.UnitNormalization(name="unit_length")(result)
    return keras.Model(image, {"embedding": keras.layers.Identity(name="embedding")(result)}, name=model.name)


def serving_classifier(model: keras.Model) -> keras.Model:
    """A classifier with named outputs, each (batch, classes): ``logits`` and their softmax, ``probabilities``.

    A model whose output is probabilities has ``probabilities`` alone.
    """
    return _classifier(model, read_head(model, try_model(model, Preprocessing("caller")), task="classify", labels=()))


def flat_outputs(values: Any) -> dict[str, Any]:
    """Outputs by name: a dict's keys, ``outer/inner`` for nested ones; of several without names ``output_0`` …; of one ``output``."""
    if not isinstance(values, (dict, list, tuple)):
        return {"output": values}
    named = {}
    for key, value in values.items() if isinstance(values, dict) else enumerate(values):
        name = str(key) if isinstance(values, dict) else f"output_{key}"
        inner = flat_outputs(value) if isinstance(value, (dict, list, tuple)) else {"": value}
        named.update({f"{name}/{below}" if below else name: one for below, one in inner.items()})
    return named if len(named) > 1 or isinstance(values, dict) else {"output": next(iter(named.values()))}


def _classifier(model: keras.Model, head: Head) -> keras.Model:
    image, scores = _called(model)
    if head == "logits":
        outputs = {"logits": keras.layers.Identity(name="logits")(scores)}
        outputs["probabilities"] = keras.layers.Softmax(name="probabilities")(scores)
        return keras.Model(image, outputs, name=model.name)
    if head in ("binary", "logit"):
        second = ops.sigmoid(scores) if head == "logit" else scores
        scores = ops.concatenate([1 - second, second], axis=-1)
    return keras.Model(image, {"probabilities": keras.layers.Identity(name="probabilities")(scores)}, name=model.name)


def _check_labels(model: keras.Model, head: Head, labels: Sequence[str]) -> None:
    if not labels:
        return
    count = model.outputs[0].shape[-1]
    if head in ("binary", "logit") and len(labels) != 2:
        raise InputError(
            f"the output of {model.name} is one probability, of the second of two classes: give two labels, not {len(labels)}"
        )
    if head == "values":
        raise InputError(
            f"labels are for the scores of classes; the output of {model.name} has {count} values that nothing tells to be scores: "
            "give task='classify' if they are, or no labels"
        )


def _named(model: keras.Model) -> keras.Model:
    """The model with its outputs as a dict."""
    image, values = _called(model)
    return keras.Model(image, flat_outputs(values), name=model.name)


def _called(model: keras.Model) -> tuple[Any, Any]:
    """A new input ``image`` and what the model makes of it."""
    image = keras.Input(model.inputs[0].shape[1:], dtype=model.inputs[0].dtype, name="image")
    return image, model(image)


def _preprocessed(model: keras.Model, steps: Preprocessing) -> keras.Model:
    """The model behind `preprocess`, from uint8 pixels."""
    shape = tuple(model.inputs[0].shape[1:])
    image = keras.Input(shape, dtype="uint8", name="image")
    pixels = ops.flip(image, axis=-1) if steps.channels == "BGR" else image
    normalize = normalization(steps.mean or (0,), steps.std or (1,), shape[-1], scale=steps.scale)
    return keras.Model(image, model(normalize(pixels)), name=model.name)
