"""The registry of networks: every family in `kerascv_course.models` enters its variants here.

Only the standard library is imported at the top: names can be listed without Keras.
"""

from __future__ import annotations

import fnmatch
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kerascv_course.errors import InputError, UnknownNameError

if TYPE_CHECKING:
    import keras

__all__ = ["ModelSpec", "create_model", "list_models", "model_spec", "register_model"]

#: A builder takes the image tensor (N, H, W, C), the width of the last layer, and options; it returns the output tensor.
Builder = Callable[..., Any]


@dataclass(frozen=True)
class ModelSpec:
    """What the registry knows of a network.

    Attributes:
        name: the name for `create_model`.
        build: ``build(image, num_classes, **options) -> logits``.
        input_shape: default (height, width, channels).
        num_classes: default width of the last layer.
        parameters: trainable parameters at these defaults, exactly.
        source: the paper or report, with table or section, that the network and the count are taken from.
        min_size: smallest height and width, in pixels, that the network's strides and poolings allow.
    """

    name: str
    build: Builder
    input_shape: tuple[int, int, int]
    num_classes: int
    parameters: int
    source: str
    min_size: int = 1

    @property
    def options(self) -> dict[str, inspect.Parameter]:
        """The keyword-only options of the builder, with their defaults and annotations."""
        parameters = inspect.signature(self.build).parameters
        return {name: p for name, p in parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}


_MODELS: dict[str, ModelSpec] = {}


def register_model(
    *,
    input_shape: tuple[int, int, int],
    parameters: int,
    source: str,
    num_classes: int = 10,
    min_size: int = 1,
) -> Callable[[Builder], Builder]:
    """Enter the decorated builder under its function name; the arguments are `ModelSpec`'s.

    Raises:
        ValueError: the name is taken.
    """

    def register(build: Builder) -> Builder:
        name = build.__name__
        if name in _MODELS:
            taken = f"{_MODELS[name].build.__module__}.{name}"
            raise ValueError(f"a model name may be registered once; {name!r} is taken by {taken}: choose another name")
        _MODELS[name] = ModelSpec(name, build, input_shape, num_classes, parameters, source, min_size)
        return build

    return register


def _load_families() -> None:
    package = importlib.import_module("kerascv_course.models")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def list_models(pattern: str = "*") -> list[str]:
    """Names of the registered networks that match a shell pattern, naturally sorted (resnet18 before resnet50)."""
    _load_families()
    return sorted(fnmatch.filter(_MODELS, pattern), key=_natural)


def model_spec(name: str) -> ModelSpec:
    """The entry of a name.

    Raises:
        UnknownNameError: no network has this name; the nearest names are shown.
    """
    known = list_models()
    if name not in _MODELS:
        raise UnknownNameError("model", name, known)
    return _MODELS[name]


def create_model(
    name: str,
    num_classes: int | None = None,
    input_shape: tuple[int, int, int] | None = None,
    **options: Any,
) -> keras.Model:
    """Build a network with fresh weights.

    Args:
        name: one of `list_models`.
        num_classes: width of the last layer, 1 or more; None: the network's default.
        input_shape: (height, width, channels) of the input, channels last; None: the network's default.
        options: the builder's keyword-only options (``model_spec(name).options``).

    Returns:
        A functional model from float32 ``(batch, height, width, channels)`` to logits, without normalisation of the input.

    Raises:
        UnknownNameError: unknown name or option; the nearest spellings are shown.
        InputError: a value that the network cannot be built with.
    """
    spec = model_spec(name)
    if unknown := [option for option in options if option not in spec.options]:
        raise UnknownNameError(f"option of {name}", unknown[0], spec.options)
    classes = spec.num_classes if num_classes is None else num_classes
    if isinstance(classes, bool) or not isinstance(classes, int) or classes < 1:
        raise InputError(f"num_classes is a whole number of 1 or more; received {num_classes!r} for {name}")
    shape = spec.input_shape if input_shape is None else _checked_shape(spec, input_shape)

    import keras

    image = keras.Input(shape, name="image")
    return keras.Model(image, spec.build(image, classes, **options), name=name)


def _checked_shape(spec: ModelSpec, shape: tuple[int, int, int]) -> tuple[int, int, int]:
    ok = len(shape) == 3 and all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in shape)
    if not ok:
        raise InputError(f"input_shape is (height, width, channels), whole numbers above 0; received {shape!r}")
    if min(shape[:2]) < spec.min_size:
        raise InputError(
            f"{spec.name} halves its maps too often for an image under {spec.min_size}×{spec.min_size} pixels; "
            f"received input_shape={tuple(shape)!r}: use larger images or another network"
        )
    return (shape[0], shape[1], shape[2])
