"""The registry of networks: every family in `kerascv_course.models` enters its variants here.

Only the standard library is imported at the top: names can be listed without Keras.
"""

from __future__ import annotations

import ast
import fnmatch
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from kerascv_course.core.errors import InputError, UnknownNameError
from kerascv_course.core.schema import convert

if TYPE_CHECKING:
    import keras

__all__ = ["ModelSpec", "create_model", "list_models", "model_spec", "register_model"]

#: A builder takes the image tensor (N, H, W, C), the width of the last layer, and options; it returns the output tensor.
Builder = Callable[..., Any]

#: Given a model, the names its layers have in PyTorch state dicts: layer name → module names, the likeliest first.
TorchNames = Callable[[Any], Mapping[str, Sequence[str]]]

#: Given a model and training images as it gets them, float (N, H, W, C), sets what the network takes from data before it learns.
Adapt = Callable[[Any, Any], None]

APPLICATIONS = "keras.applications/"


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
        min_size: smallest height and width, in pixels, that the network's strides and poolings allow: a number, or a function
            of the options.
        torch_names: names of the layers in published PyTorch state dicts; None: the layers' own names.
        adapt: sets what the network takes from the training images before it learns; None: nothing.
    """

    name: str
    build: Builder
    input_shape: tuple[int, int, int]
    num_classes: int
    parameters: int
    source: str
    min_size: int | Callable[..., int] = 1
    torch_names: TorchNames | None = None
    adapt: Adapt | None = None

    @property
    def _function(self) -> Builder:
        return self.build.func if isinstance(self.build, partial) else self.build

    @property
    def options(self) -> dict[str, inspect.Parameter]:
        """The keyword-only options of the builder, with their defaults and annotations."""
        own = inspect.signature(self._function).parameters
        names = [name for name, p in own.items() if p.kind is inspect.Parameter.KEYWORD_ONLY]
        variant = inspect.signature(self.build).parameters
        return {name: variant[name] for name in names}

    def check_options(self, options: Mapping[str, Any]) -> None:
        """Check names, types and ranges of options.

        Raises:
            UnknownNameError: no such option; the nearest are shown.
            InputError: a value of the wrong type or out of range.
        """
        known = self.options
        if unknown := [option for option in options if option not in known]:
            raise UnknownNameError(f"option of {self.name}", unknown[0], known)
        hints = get_type_hints(self._function, include_extras=True)
        for option, value in options.items():
            convert(hints.get(option, Any), value, what=f"option {option} of {self.name}")

    def smallest(self, **options: Any) -> int:
        """Smallest height and width in pixels with these options."""
        if isinstance(self.min_size, int):
            return self.min_size
        return self.min_size(**{name: p.default for name, p in self.options.items()} | options)


_MODELS: dict[str, ModelSpec] = {}


def register_model(
    *,
    input_shape: tuple[int, int, int],
    parameters: int,
    source: str,
    num_classes: int = 10,
    min_size: int | Callable[..., int] = 1,
    torch_names: TorchNames | None = None,
    adapt: Adapt | None = None,
    name: str | None = None,
) -> Callable[[Builder], Builder]:
    """Enter the decorated builder under its function name; the arguments are `ModelSpec`'s.

    A variant that only binds arguments of a family's function is entered as
    ``resnet34 = register_model(name="resnet34", ...)(partial(resnet, depths=(3, 4, 6, 3)))``.

    Raises:
        ValueError: the name is taken, or a partial function has no name.
    """

    def register(build: Builder) -> Builder:
        entry = name or getattr(build, "__name__", "")
        if not entry:
            raise ValueError(f"a model needs a name: register_model(name=...) for {build!r}")
        if entry in _MODELS:
            taken = f"{_MODELS[entry]._function.__module__}.{entry}"
            raise ValueError(f"a model name may be registered once; {entry!r} is taken by {taken}: choose another name")
        _MODELS[entry] = ModelSpec(entry, build, input_shape, num_classes, parameters, source, min_size, torch_names, adapt)
        return build

    return register


def _load_families() -> None:
    package = importlib.import_module("kerascv_course.models")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def list_models(pattern: str = "*") -> list[str]:
    """Names of the registered networks that match a shell pattern, naturally sorted (resnet18 before resnet50).

    A pattern that begins with ``keras.applications/`` lists what Keras brings along; that alone imports Keras.
    """
    if pattern.startswith(APPLICATIONS):
        from kerascv_course.models.applications import list_applications

        names = list_applications()
    else:
        _load_families()
        names = list(_MODELS)
    return sorted(fnmatch.filter(names, pattern), key=_natural)


def model_spec(name: str) -> ModelSpec:
    """The entry of a name.

    Raises:
        UnknownNameError: no network has this name; the nearest names are shown.
    """
    known = list_models()
    if name not in _MODELS:
        raise UnknownNameError("model", name, known)
    return _MODELS[name]


def adapter(name: str) -> Adapt | None:
    """What sets a network's parts that come from the training images (see `ModelSpec.adapt`); None: it has none.

    Args:
        name: as `create_model` takes it.
    """
    name = _with_query(name, {})[0]
    return None if name.startswith(APPLICATIONS) else model_spec(name).adapt


def check_model(name: str, options: Mapping[str, Any] | None = None) -> None:
    """Refuse an unknown network, or options that it has not, without importing Keras.

    Args:
        name: as `create_model` takes it, options after the name included. Networks of keras.applications are passed over: only
            Keras knows them.
        options: further options.

    Raises:
        UnknownNameError: no network or option has this name; the nearest are shown.
        InputError: an option's value is refused.
    """
    name, joined = _with_query(name, dict(options or {}))
    if not name.startswith(APPLICATIONS):
        model_spec(name).check_options(joined)


def create_model(
    name: str,
    num_classes: int | None = None,
    input_shape: tuple[int, int, int] | None = None,
    *,
    weights: str | Path | None = None,
    strict: bool = True,
    **options: Any,
) -> keras.Model:
    """Build a network.

    Args:
        name: one of `list_models`, or ``keras.applications/<Name>`` for a network that Keras brings along. Options may follow
            where only a text can be given: ``"keras.applications/MobileNet?alpha=0.75"``,
            ``"resnet18?stem=cifar&dropout=0.2"``.
        num_classes: width of the last layer, 1 or more; None: the network's default.
        input_shape: (height, width, channels) of the input, channels last; None: the network's default.
        weights: a file or hub name for `kerascv_course.models.weights.load_weights`; None: fresh weights. The loading report is kept
            as the model's ``loading_report``.
        strict: with `weights`: refuse a source that does not fit entry by entry.
        options: the builder's keyword-only options (``model_spec(name).options``); most classifiers have ``include_top=False``,
            which returns the feature vector under the dense layers and leaves `num_classes` unused.

    Returns:
        A functional model from float32 ``(batch, height, width, channels)`` to logits, without normalisation of the input.

    Raises:
        UnknownNameError: unknown name or option; the nearest spellings are shown.
        InputError: a value that the network cannot be built with, or weights that do not fit.
        DataError: weights that are missing, damaged or cannot be fetched.
    """
    name, options = _with_query(name, options)
    if num_classes is not None:
        if not _is_count(num_classes):
            raise InputError(f"num_classes is a whole number of 1 or more; received {num_classes!r} for {name}")
        num_classes = int(num_classes)
    if input_shape is not None:
        input_shape = _checked_shape(input_shape)
    if name.startswith(APPLICATIONS):
        from kerascv_course.models.applications import build_application

        application = name.removeprefix(APPLICATIONS)
        if weights == "imagenet":
            return build_application(application, num_classes, input_shape, options, weights="imagenet")
        model = build_application(application, num_classes, input_shape, options)
    else:
        model = _build(model_spec(name), num_classes, input_shape, options)
    if weights is not None:
        from kerascv_course.models.weights import load_weights

        model.loading_report = load_weights(model, weights, strict=strict)
    return model


def _with_query(name: str, options: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Split ``name?option=value&option=value`` and join its options to those given; values are Python literals or plain texts."""
    if not isinstance(name, str):
        raise InputError(f"a network's name is a text, one of list_models(); received {name!r}")
    name, _, query = name.partition("?")
    joined = dict(options)
    for item in filter(None, query.split("&")):
        option, sign, text = item.partition("=")
        if not sign:
            raise InputError(f"options after the name are option=value, joined by &; received {item!r} for {name}")
        if option in joined:
            raise InputError(f"option {option} of {name} is given twice")
        if option in ("num_classes", "input_shape", "weights", "strict"):
            raise InputError(f"{option} is an argument of create_model, not an option of {name}: give it apart from the name")
        try:
            joined[option] = ast.literal_eval({"true": "True", "false": "False", "none": "None"}.get(text.lower(), text))
        except (ValueError, SyntaxError):
            joined[option] = text
    return name, joined


def _build(
    spec: ModelSpec, num_classes: int | None, input_shape: tuple[int, int, int] | None, options: Mapping[str, Any]
) -> keras.Model:
    spec.check_options(options)
    classes = spec.num_classes if num_classes is None else num_classes
    shape = spec.input_shape if input_shape is None else input_shape
    if min(shape[:2]) < (least := spec.smallest(**options)):
        raise InputError(
            f"{spec.name} reduces its maps too often for an image under {least}×{least} pixels; received "
            f"input_shape={shape!r}: use larger images or another network{_stem_hint(spec, shape, options)}"
        )

    import keras

    image = keras.Input(shape, name="image")
    return keras.Model(image, spec.build(image, classes, **options), name=spec.name)


def _stem_hint(spec: ModelSpec, shape: tuple[int, int, int], options: Mapping[str, Any]) -> str:
    if "stem" in spec.options and spec.smallest(**{**options, "stem": "cifar"}) <= min(shape[:2]):
        return ", or stem='cifar'"
    return ""


def _checked_shape(shape: tuple[int, int, int]) -> tuple[int, int, int]:
    if not isinstance(shape, (tuple, list)) or len(shape) != 3 or not all(map(_is_count, shape)):
        raise InputError(f"input_shape is (height, width, channels), whole numbers above 0; received {shape!r}")
    return (int(shape[0]), int(shape[1]), int(shape[2]))


def _is_count(value: Any) -> bool:
    """A whole number above 0, Python's or NumPy's."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) > 0
