"""Build networks by name: those of the registry and those of `keras.applications`; and open trained ones."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, Literal

from kerascv_course.core.environment import start_keras
from kerascv_course.core.errors import DataError, InputError, UnknownNameError
from kerascv_course.core.lazy import keras
from kerascv_course.models.registry import Adapt, ModelSpec, list_registered, model_spec
from kerascv_course.models.weight_files import is_run
from kerascv_course.models.weights import load_all_but_head, load_weights

__all__ = ["adapter", "check_model", "create_model", "find_network", "list_models"]

APPLICATIONS = "keras.applications/"

#: Height, width, channels; a height or width of None is open.
ImageShape = tuple[int | None, int | None, int]

#: Arguments of the functions of keras.applications that `create_model` sets itself.
_SET_HERE = {"weights", "input_tensor", "input_shape", "classes", "classifier_activation", "name"}


def list_models(pattern: str = "*") -> list[str]:
    """Names of the registered networks that match a shell pattern, in natural order (resnet18 before resnet50).

    A pattern that starts with ``keras.applications/`` lists the networks of Keras instead; only then is Keras imported.
    """
    if pattern.startswith(APPLICATIONS):
        return list_registered(pattern, [APPLICATIONS + name for name in _applications()])
    return list_registered(pattern)


def create_model(
    name: str,
    num_classes: int | None = None,
    input_shape: ImageShape | None = None,
    *,
    weights: str | Path | None = None,
    strict: bool = True,
    **options: Any,
) -> keras.Model:
    """Build a network.

    Args:
        name: one of `list_models`, or ``keras.applications/<Name>``. Options may be part of the name, for places that take text
            only: ``"keras.applications/MobileNet?alpha=0.75"``, ``"resnet18?stem=cifar&dropout=0.2"``.
        num_classes: width of the last layer, 1 or more; None: the network's default.
        input_shape: (height, width, channels), channels last; None: the network's default. Networks with global pooling also take
            None for height and width: images of any size.
        weights: a file or hub name for `kerascv_course.models.weights.load_weights`, whose report is kept as the model's
            ``loading_report``; or a run of this network, whose last layer is left out, with a warning, if it has another width; for
            networks of Keras also ``"imagenet"``. None: random initialization.
        strict: with `weights`: reject weights that do not fit entry by entry.
        options: options of the network (``model_spec(name).options``). Most classifiers have ``include_top=False``, which returns
            the feature vector below the dense layers and ignores `num_classes`.

    Returns:
        A functional model from float32 (N, height, width, channels) to logits, without normalization of the input.

    Raises:
        UnknownNameError: unknown name or option; the nearest spellings are shown.
        InputError: a value that the network cannot be built with, or weights that do not fit.
        DataError: weights that are missing or damaged, or cannot be downloaded.
    """
    name, options = _split_options(name, options)
    if num_classes is not None:
        if not _is_count(num_classes):
            raise InputError(f"num_classes must be an integer of 1 or more; received {num_classes!r} for {name}")
        num_classes = int(num_classes)
    if input_shape is not None:
        input_shape = _checked_shape(input_shape)
    if name.startswith(APPLICATIONS):
        pretrained: Literal["imagenet"] | None = "imagenet" if weights == "imagenet" else None
        model = _build_application(name.removeprefix(APPLICATIONS), num_classes, input_shape, options, pretrained)
        weights = None if pretrained else weights
    else:
        model = _build(model_spec(name), num_classes, input_shape, options)
    if weights is not None:
        if strict and is_run(weights):
            model.loading_report = load_all_but_head(model, weights, has_head=options.get("include_top") is not False)
        else:
            model.loading_report = load_weights(model, weights, strict=strict)
    return model


def check_model(name: str, options: Mapping[str, Any] | None = None) -> None:
    """Check a network's name and options without importing Keras. Networks of keras.applications are not checked.

    Args:
        name: as for `create_model`.
        options: further options.

    Raises:
        UnknownNameError: no network or option has this name; the nearest are shown.
        InputError: an option's value is not allowed.
    """
    name, joined = _split_options(name, dict(options or {}))
    if not name.startswith(APPLICATIONS):
        model_spec(name).configure(joined)


def adapter(name: str) -> Adapt | None:
    """`ModelSpec.adapt` of a network; `name` is as for `create_model`."""
    name = _split_options(name, {})[0]
    return None if name.startswith(APPLICATIONS) else model_spec(name).adapt


def find_network(
    network: str, input_shape: Sequence[int] | None = None, num_classes: int | None = None, weights: str | None = None
) -> keras.Model | Path:
    """What a command line names as MODEL|RUN|FILE: a new model for the name of a network, or the path of a run or file.

    Keras is started quietly, unless the network is an ``.onnx`` file.

    Raises:
        InputError: nothing of this name, or arguments that only networks by name take.
    """
    path = Path(network)
    application = network.startswith(APPLICATIONS)
    if not application and (path.exists() or ("?" not in network and (path.suffix or len(path.parts) > 1))):
        for option, value in (("--num-classes", num_classes), ("--weights", weights)):
            if value is not None:
                raise InputError(f"{option} is for networks by name; {network} is a file")
        if path.suffix != ".onnx":
            start_keras()
        return path
    check_model(network)  # before Keras is imported
    if input_shape is not None and len(input_shape) != 3:
        raise InputError(f"--input-shape takes height, width and channels; received {len(input_shape)} numbers")
    shape = None if input_shape is None else (input_shape[0], input_shape[1], input_shape[2])
    start_keras()
    return create_model(network, num_classes, shape, weights=weights)


# --- arguments --------------------------------------------------------------------------------------------------------


def _split_options(name: str, options: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Split ``name?option=value&option=value`` and merge its options with the given ones; values are Python literals or text."""
    if not isinstance(name, str):
        raise InputError(f"the name of a network must be a string, one of list_models(); received {name!r}")
    name, _, query = name.partition("?")
    joined = dict(options)
    for item in filter(None, query.split("&")):
        option, sign, text = item.partition("=")
        if not sign:
            raise InputError(f"options after the name are option=value, separated by &; received {item!r} for {name}")
        if option in joined:
            raise InputError(f"option {option} of {name} is given twice")
        if option in ("num_classes", "input_shape", "weights", "strict"):
            raise InputError(f"{option} is an argument of create_model, not an option of {name}: it cannot follow the name")
        try:
            joined[option] = ast.literal_eval({"true": "True", "false": "False", "none": "None"}.get(text.lower(), text))
        except (ValueError, SyntaxError):
            joined[option] = text
    return name, joined


def _checked_shape(shape: ImageShape) -> ImageShape:
    given = isinstance(shape, (tuple, list)) and len(shape) == 3
    if not given or not all(size is None or _is_count(size) for size in shape[:2]) or not _is_count(shape[2]):
        raise InputError(
            "input_shape must be (height, width, channels), integers above 0, or None for an open height or width; received "
            f"{shape!r}"
        )
    height, width = (None if size is None else int(size) for size in shape[:2])
    return height, width, int(shape[2])


def _is_count(value: Any) -> bool:
    """An integer above 0, Python's or NumPy's."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) > 0


# --- networks of the registry -----------------------------------------------------------------------------------------


def _build(spec: ModelSpec, num_classes: int | None, input_shape: ImageShape | None, options: Mapping[str, Any]) -> keras.Model:
    configured = spec.configure(options)
    classes = spec.num_classes if num_classes is None else num_classes
    shape = spec.input_shape if input_shape is None else input_shape
    least = spec.smallest(**options)
    if (given := min((size for size in shape[:2] if size is not None), default=least)) < least:
        cifar = "stem" in spec.options and spec.smallest(**{**options, "stem": "cifar"}) <= given
        raise InputError(
            f"{spec.name} downsamples too often for images smaller than {least}×{least} pixels; received input_shape={shape!r}: "
            f"use larger images or another network{', or stem=' + repr('cifar') if cifar else ''}"
        )
    image = keras.Input(shape, name="image")
    return keras.Model(image, spec.build(image, classes, configured), name=spec.name)


# --- networks of keras.applications -----------------------------------------------------------------------------------


def _applications() -> dict[str, Callable[..., Any]]:
    names = (name for name in dir(keras.applications) if name[0].isupper())
    found = {name: getattr(keras.applications, name) for name in names}
    return {name: function for name, function in found.items() if callable(function)}


def _build_application(
    name: str,
    num_classes: int | None,
    input_shape: ImageShape | None,
    options: Mapping[str, Any],
    weights: Literal["imagenet"] | None,
) -> keras.Model:
    """A network of keras.applications with logits out.

    Some of these normalize their input themselves (EfficientNet); if that is an option (``include_preprocessing``), it is off by
    default. ``include_top=False`` gives the average-pooled vector unless ``pooling`` says otherwise.
    """
    functions = _applications()
    if name not in functions:
        raise UnknownNameError("network of keras.applications", name, functions)
    known = set(inspect.signature(functions[name]).parameters) - _SET_HERE
    if unknown := [option for option in options if option not in known]:
        raise UnknownNameError(f"option of {APPLICATIONS}{name}", unknown[0], sorted(known))
    arguments: dict[str, Any] = {"weights": weights, "input_shape": input_shape, "classes": num_classes or 1000}
    arguments["classifier_activation"] = None
    if "include_preprocessing" in known:
        arguments["include_preprocessing"] = False
    if options.get("include_top") is False:
        arguments["pooling"] = "avg"
    try:
        return functions[name](**{**arguments, **options})
    except Exception as error:  # Keras raises bare Exception for a failed download
        reason = " ".join(str(error).split())
        if isinstance(error, (ValueError, TypeError)):
            given = f"num_classes={num_classes}, input_shape={input_shape}, options {dict(options)!r}"
            raise InputError(f"{APPLICATIONS}{name} cannot be built with {given}: {reason}") from error
        raise DataError(f"{APPLICATIONS}{name}: {reason}") from error
