"""What the outputs of a Keras model are: found by tracing back to the last operation that changes values, and tried on images.

Neither alone is enough: a softmax may stand in a layer of any kind and before others that change nothing, and what looks like
probabilities on one image need not be on the next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import keras
import numpy as np

from export.contract import Meaning, Preprocessing
from export.converter.native import ACTIVATIONS
from export.converter.trace import NotConvertible, Step, Symbol, clean_up, trace
from export.serving import preprocess

__all__ = ["Head", "last_operation", "meaning_of", "read_head", "sums_to_one", "try_model"]

#: ``logits``: unnormalized scores of classes; ``logit``: one, of the second of two classes; ``probabilities``: of all classes, with
#: the sum 1; ``binary``: one probability, of the second of two classes; ``sigmoid``: one probability for each of labels that do not
#: exclude each other; ``values``: none of these.
Head = Literal["logits", "logit", "probabilities", "binary", "sigmoid", "values"]

#: Operations that change no value (or, as a cast, hardly).
_PASSING = {"Cast", "Copy", "ExpandDims", "Flatten", "Identity", "Reshape", "Squeeze", "StopGradient"}

#: Operations that unnormalized scores do not come from, in lower case.
_BOUNDING = {
    "relu",
    "relu6",
    "sigmoid",
    "softmax",
    "tanh",
    "hardsigmoid",
    "hardtanh",
    "multiply",
    "exp",
    "sqrt",
    "softplus",
    "clip",
}

#: Images that a model is tried on, and their height and width where these are open, pixels.
TRIED, OPEN_SIZE = 4, 128

#: Largest distance of a sum of probabilities from 1.
SUM = 1e-3


def try_model(model: keras.Model, steps: Preprocessing) -> Any:
    """Outputs of a model for a few images: black, white, and noise.

    Args:
        model: of one image input (batch, height, width, channels).
        steps: preprocessing of a model of floating-point input.

    Returns:
        The structure that the model returns, with arrays (4, …).
    """
    _, height, width, channels = model.inputs[0].shape
    shape = (TRIED, height or OPEN_SIZE, width or OPEN_SIZE, channels)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    pixels[0], pixels[1] = 0, 255
    values = pixels if model.inputs[0].dtype == "uint8" else preprocess(pixels, steps)
    return keras.tree.map_structure(keras.ops.convert_to_numpy, model(values, training=False))


def read_head(model: keras.Model, values: np.ndarray, *, task: str | None, labels: Sequence[str]) -> Head:
    """What the output of a model is.

    Args:
        model: of one output (batch, n).
        values: its output for a few images, see `try_model`.
        task: ``"classify"`` or ``"scenes"``: scores of classes, whatever else it looks like; None: not told.
        labels: class names; empty: not told.

    Returns:
        Probabilities are told from values by their last operation and by `values`. Unnormalized scores are told from other values only
        by `task`, by `labels` that fit, by the loss that the model was compiled with, or by a last layer
        called ``logits`` or, as in `keras.applications`, ``predictions``.
    """
    last, count = last_operation(model), values.shape[-1]
    name = last.kind if last else ""
    unit = bool(((values >= 0) & (values <= 1)).all())
    if count > 1 and sums_to_one(values):
        return "probabilities"
    if unit and name in ("Sigmoid", "HardSigmoid"):
        return "binary" if count == 1 else "sigmoid"
    scores = _scores_by_loss(model)
    told = task in ("classify", "scenes")
    if not told and scores is not False and not _is_bounded(last):
        named = _last_layer(model).name in ("logits", "predictions") and count > 1
        told = bool(scores) or len(labels) == max(count, 2) or named
    if not told:
        return "values"
    return "logits" if count > 1 else "logit"


def sums_to_one(values: np.ndarray) -> bool:
    """Whether values (…, n) are between 0 and 1 and have the sum 1 over the last axis."""
    unit = (values >= 0) & (values <= 1 + SUM)
    return bool(unit.all() and (np.abs(values.sum(axis=-1, dtype=np.float64) - 1) <= SUM).all())


def meaning_of(name: str, value: keras.KerasTensor, tried: np.ndarray) -> Meaning:
    """The meaning of an output by its name, if shape, dtype and values do not speak against it.

    Args:
        name: of the output.
        value: the symbolic tensor.
        tried: the output for a few images.
    """
    rank, real = len(value.shape), "float" in value.dtype
    fits: Mapping[Meaning, bool] = {
        "logits": real and rank >= 2,
        "probabilities": real and rank >= 2 and (sums_to_one(tried) or bool(((tried >= 0) & (tried <= 1)).all())),
        "classes": "int" in value.dtype,
        "embedding": real and rank == 2,
        "neighbors": "int" in value.dtype and rank == 2,
        "distances": real and rank == 2,
    }
    if name == "colorized":
        return "picture" if value.dtype == "uint8" and rank == 4 and value.shape[-1] == 3 else "values"
    return next((meaning for meaning, fit in fits.items() if meaning == name and fit), "values")


def last_operation(model: keras.Model, output: str | None = None) -> Step | None:
    """The last operation before an output that changes values.

    Args:
        model: functional, Sequential, or any other with known inputs.
        output: key of a model whose output is a dict; None: the only output.

    Returns:
        An operation of `keras.ops`, or a layer whose call cannot be traced; None: the output is the input.
    """
    sizes = [tuple(size or (2 if i == 0 else OPEN_SIZE) for i, size in enumerate(one.shape)) for one in model.inputs]
    inputs = [Symbol(shape, one.dtype) for shape, one in zip(sizes, model.inputs, strict=True)]

    def call(*tensors: Any) -> Any:
        result = model(tensors[0] if len(tensors) == 1 else list(tensors), training=False)
        return result if output is None else result[output]

    with clean_up(model):
        found = _trace_back(call, inputs, {})
    return found if isinstance(found, Step) else None


def _trace_back(function: Any, args: Any, kwargs: Any, place: tuple[int, int] = (0, 1)) -> Step | Symbol | None:
    """The step that a function's result comes from, or the argument that it is; `place`: which one of how many results."""
    steps, result = trace(function, args, kwargs, 2)
    results = [one for one in keras.tree.flatten(result) if isinstance(one, Symbol)]
    if len(results) != place[1]:
        return None
    symbol, made = results[place[0]], {one: step for step in steps for one in step.outputs}
    while step := made.get(symbol):
        what = step.operations[0]
        tensors = [one for one in keras.tree.flatten((step.args, step.kwargs)) if isinstance(one, Symbol)]
        if not isinstance(what, keras.Layer):
            if step.kind not in _PASSING or len(tensors) != 1:
                return step
            symbol = tensors[0]
            continue
        inner = _inside(what, step, (step.outputs.index(symbol), len(step.outputs)))
        if not isinstance(inner, Symbol):
            return inner if isinstance(inner, Step) else step
        symbol = inner
    return symbol


def _inside(layer: Any, step: Step, place: tuple[int, int]) -> Step | Symbol | None:
    function = getattr(layer, "activation", None) if isinstance(layer, keras.layers.Activation) else None
    kwargs = {key: value for key, value in step.kwargs.items() if key != "training"}
    try:
        if function is not None:
            return _trace_back(ACTIVATIONS.get(function, function), step.args, kwargs)
        if layer._call_has_training_arg:
            kwargs["training"] = False
        return _trace_back(layer.call, step.args, kwargs, place)
    except NotConvertible:
        return None
    except Exception:  # calls of other people's layers on symbolic tensors fail in any way
        return None


def _last_layer(layer: Any) -> Any:
    """The last layer of a model, through models inside it."""
    while layers := getattr(layer, "layers", None):
        layer = layers[-1]
    return layer


def _is_bounded(last: Step | None) -> bool:
    """Whether the last operation gives no unnormalized scores. Factors that are numbers or weights change nothing in their order."""
    if last is None or last.kind.lower() not in _BOUNDING:
        return False
    return last.kind != "Multiply" or len([one for one in keras.tree.flatten(last.args) if isinstance(one, Symbol)]) > 1


def _scores_by_loss(model: keras.Model) -> bool | None:
    """Whether the loss that a model was compiled with is one of scores of classes; None: it has none, or one of its own kind."""
    loss = getattr(model, "loss", None)
    name = loss if isinstance(loss, str) else getattr(loss, "__name__", type(loss).__name__)
    name = name.lower().replace("_", "")
    if "crossentropy" in name or "hinge" in name:
        return True
    regression = ("mean", "mse", "mae", "mape", "msle", "huber", "logcosh", "poisson", "tversky")
    return False if any(word in name for word in regression) else None
