"""The networks that Keras brings along, by the names ``keras.applications/<Name>``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Literal

from kerascv_course.core.errors import DataError, InputError, UnknownNameError
from kerascv_course.core.lazy import keras

__all__ = ["build_application", "list_applications"]

PREFIX = "keras.applications/"

#: Arguments that this project's own arguments stand for.
_OURS = {"weights", "input_tensor", "input_shape", "classes", "classifier_activation", "name"}


def _functions() -> dict[str, Callable[..., Any]]:
    names = (name for name in dir(keras.applications) if name[0].isupper())
    found = {name: getattr(keras.applications, name) for name in names}
    return {name: function for name, function in found.items() if callable(function)}


def list_applications() -> list[str]:
    """Names such as ``keras.applications/MobileNet``; this imports Keras."""
    return [PREFIX + name for name in _functions()]


def build_application(
    name: str,
    num_classes: int | None,
    input_shape: tuple[int, int, int] | None,
    options: Mapping[str, Any],
    *,
    weights: Literal["imagenet"] | None = None,
) -> Any:
    """Build a network of keras.applications with logits out.

    What Keras builds into some of them stays in: EfficientNet, for one, normalises its input itself. Where that can be chosen
    (``include_preprocessing``) it is left out unless asked for.

    Args:
        name: of the function, such as ``"MobileNet"``.
        num_classes: width of the last layer; None: 1000.
        input_shape: (height, width, channels); None: the network's own.
        options: the function's other arguments, such as ``alpha=0.75``; ``include_top=False`` gives the average-pooled vector
            unless ``pooling`` says otherwise.
        weights: ``"imagenet"``: Keras downloads its own; None: fresh weights.

    Raises:
        UnknownNameError: unknown network or option; the nearest are shown.
        InputError: a combination that Keras refuses; its reason is told.
        DataError: the download failed.
    """
    functions = _functions()
    if name not in functions:
        raise UnknownNameError("network of keras.applications", name, functions)
    parameters = set(inspect.signature(functions[name]).parameters)
    known = parameters - _OURS
    if unknown := [option for option in options if option not in known]:
        raise UnknownNameError(f"option of {PREFIX}{name}", unknown[0], sorted(known))
    ours: dict[str, Any] = {"weights": weights, "input_shape": input_shape, "classes": num_classes or 1000}
    ours["classifier_activation"] = None
    if "include_preprocessing" in known:
        ours["include_preprocessing"] = False
    if options.get("include_top") is False:
        ours["pooling"] = "avg"
    try:
        return functions[name](**{**ours, **options})
    except Exception as error:  # Keras raises bare Exception where a download fails
        reason = " ".join(str(error).split())
        if isinstance(error, (ValueError, TypeError)):
            given = f"num_classes={num_classes}, input_shape={input_shape}, options {dict(options)!r}"
            raise InputError(f"{PREFIX}{name} cannot be built with {given}: {reason}") from error
        raise DataError(f"{PREFIX}{name}: {reason}") from error
