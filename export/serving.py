"""A model as it is served: one image input, named outputs, preprocessing inside or before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import keras
import numpy as np

from export.contract import Meaning, Output, Preprocessing
from kerascv_course.core.errors import InputError, UnknownNameError
from kerascv_course.tasks.classification.task import ends_in_softmax, serving_classifier

__all__ = ["PREPROCESSING", "describe_outputs", "preprocessing_steps", "serving_graph"]

#: Preprocessing by name: the modes of ``keras.applications.imagenet_utils.preprocess_input``, and pixels as they are.
PREPROCESSING = {
    "pixels": Preprocessing("graph", scale=1.0),
    "tf": Preprocessing("graph", mean=(0.5,), std=(0.5,)),
    "torch": Preprocessing("graph", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    "caffe": Preprocessing("graph", scale=1.0, mean=(103.939, 116.779, 123.68), channels="BGR"),
}

#: What outputs of these names hold.
MEANINGS: dict[str, Meaning] = {
    "logits": "logits",
    "probabilities": "probabilities",
    "classes": "classes",
    "colorized": "picture",
    "embedding": "embedding",
    "neighbors": "neighbors",
    "distances": "distances",
}


def preprocessing_steps(
    given: str | tuple[Sequence[float], Sequence[float]] | Preprocessing | None,
    *,
    inside: bool,
    where: Literal["graph", "caller"],
) -> Preprocessing:
    """The preprocessing of `export_model` as the contract states it.

    Args:
        given: as `export_model` takes it.
        inside: the model takes uint8, so that its preprocessing is in it already.
        where: of the file.
    """
    if given is None:
        unknown = {"mean": None, "std": None} if inside else {}
        return Preprocessing(where, **unknown)  # type: ignore[arg-type]
    if isinstance(given, str):
        if given not in PREPROCESSING:
            raise UnknownNameError("preprocessing", given, PREPROCESSING)
        given = PREPROCESSING[given]
    if isinstance(given, Preprocessing):
        return Preprocessing(where, given.scale, given.mean, given.std, given.channels)
    mean, std = (tuple(float(value) for value in values) for values in given)
    return Preprocessing(where, mean=mean, std=std)


def serving_graph(model: keras.Model, *, task: str | None, input_dtype: str, steps: Preprocessing) -> keras.Model:
    """The model as it is served: one input ``image``, a dict of named outputs.

    Args:
        model: as in `export.export_model`; a model whose output is a dict is served as it is.
        task: as in `export.export_model`.
        input_dtype: as in `export.export_model`.
        steps: put before a model of floating-point input where `input_dtype` is ``"uint8"``.

    Raises:
        InputError: a task that does not fit the model's outputs.
    """
    inside = model.inputs[0].dtype == "uint8"
    named = not isinstance(model, keras.Sequential) and isinstance(model.output, dict)
    if input_dtype == "uint8" and not inside:
        model = _preprocessed(model, steps)
    if named:
        return model
    single = len(model.outputs) == 1 and len(model.outputs[0].shape) == 2
    if task == "embed" and single:
        image, vectors = _called(model)
        if not _ends_in(model, keras.layers.UnitNormalization):
            vectors = keras.layers.UnitNormalization(name="unit_length")(vectors)
        return keras.Model(image, {"embedding": keras.layers.Identity(name="embedding")(vectors)}, name=model.name)
    if task not in ("tensor", "embed") and single:
        return serving_classifier(model)
    if task in ("classify", "embed"):
        raise InputError(
            f"the task {task!r} has one output (batch, values); {model.name} has {[tuple(o.shape) for o in model.outputs]}"
        )
    image, values = _called(model)
    values = keras.tree.flatten(values)
    names = [f"output_{i}" for i in range(len(values))] if len(values) > 1 else ["output"]
    return keras.Model(
        image, {key: keras.layers.Identity(name=key)(v) for key, v in zip(names, values, strict=True)}, name=model.name
    )


def _called(model: keras.Model) -> tuple[Any, Any]:
    image = keras.Input(model.inputs[0].shape[1:], dtype=model.inputs[0].dtype, name="image")
    return image, model(image)


def _preprocessed(model: keras.Model, steps: Preprocessing) -> keras.Model:
    """The model behind ``(pixel · scale − mean) / std`` from uint8 pixels."""
    shape = tuple(model.inputs[0].shape[1:])
    image = keras.Input(shape, dtype="uint8", name="image")
    mean, std = (
        np.broadcast_to(np.asarray(values, np.float64), (shape[-1],)) for values in (steps.mean or (0,), steps.std or (1,))
    )
    values = keras.layers.Rescaling((steps.scale / std).tolist(), (-mean / std).tolist(), name="normalize")(
        keras.ops.flip(image, axis=-1) if steps.channels == "BGR" else image
    )
    return keras.Model(image, model(values), name=model.name)


def describe_outputs(serving: keras.Model, names: Sequence[str]) -> tuple[Output, ...]:
    """What the contract says of the outputs of a serving graph, in the order of `names`."""
    outputs = []
    for name in names:
        meaning = MEANINGS.get(name, "values")
        activation: Literal["none", "softmax", "sigmoid", "l2"] = "none"
        if meaning == "probabilities":
            activation = "softmax" if _softmax_makes(serving, name) else "none"
        elif meaning == "embedding":
            activation = "l2"
        outputs.append(Output(name, meaning, tuple(serving.output[name].shape[1:]), activation))
    return tuple(outputs)


def _softmax_makes(serving: keras.Model, name: str) -> bool:
    """Whether an output comes from a softmax, through layers that only name it."""
    operation = serving.output[name]._keras_history.operation
    while isinstance(operation, keras.layers.Identity):
        operation = operation.input._keras_history.operation
    return ends_in_softmax(operation)


def _ends_in(model: keras.Model, kind: type) -> bool:
    last = model.layers[-1]
    return _ends_in(last, kind) if isinstance(last, keras.Model) else isinstance(last, kind)
