"""The registry of networks: every family in `kerascv_course.models` enters its variants here.

Only the standard library is imported at the top: names can be listed without Keras.
"""

from __future__ import annotations

import fnmatch
import importlib
import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, get_type_hints

from kerascv_course.core.errors import UnknownNameError
from kerascv_course.core.schema import convert

__all__ = ["ModelSpec", "list_registered", "model_spec", "register_model"]

#: A builder takes the image tensor (N, H, W, C), the width of the last layer, and options; it returns the output tensor.
Builder = Callable[..., Any]

#: Given a model, the names its layers have in PyTorch state dicts: layer name → module names, the likeliest first.
TorchNames = Callable[[Any], Mapping[str, Sequence[str]]]

#: Given a model and training images as it gets them, float (N, H, W, C), sets what the network takes from data before it learns.
Adapt = Callable[[Any, Any], None]

#: Modules that register networks.
FAMILIES = ("alexnet", "colorizer", "convnet", "densenet", "fastnet", "googlenet", "lenet", "resnet", "vgg")


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
    for family in FAMILIES:
        importlib.import_module(f"kerascv_course.models.{family}")


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def list_registered(pattern: str = "*", names: Iterable[str] | None = None) -> list[str]:
    """Names that match a shell pattern, in natural order; by default those of the registered networks."""
    if names is None:
        _load_families()
        names = _MODELS
    return sorted(fnmatch.filter(names, pattern), key=_natural)


def model_spec(name: str) -> ModelSpec:
    """The entry of a name.

    Raises:
        UnknownNameError: no network has this name; the nearest names are shown.
    """
    known = list_registered()
    if name not in _MODELS:
        raise UnknownNameError("model", name, known)
    return _MODELS[name]
