"""The registry of networks, which every family fills with its variants. Names can be listed without Keras."""

from __future__ import annotations

import dataclasses
import fnmatch
import importlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Required, TypedDict, Unpack, get_type_hints

from kerascv_course.core.errors import UnknownNameError
from kerascv_course.core.schema import convert

__all__ = ["Adapt", "ModelSpec", "list_registered", "model_spec", "register_model"]

#: Builds a network: the image tensor (N, H, W, C), the width of the last layer, and the network's options, to the output tensor.
Builder = Callable[[Any, int, Any], Any]

#: Maps layer names to their module names in PyTorch state dicts, the most likely first; takes the model.
TorchNames = Callable[[Any], Mapping[str, Sequence[str]]]

#: Initializes the parts of a network that depend on data; takes the model and training images as the model gets them, float
#: (N, H, W, C).
Adapt = Callable[[Any, Any], None]

#: Modules and the networks that each registers, so that names are listed, and one network is built, without importing all of them.
FAMILIES = {
    "alexnet": ("alexnet",),
    "colorizer": ("pool_upsample_net", "conv_transpose_net", "unet_colorizer"),
    "convnet": ("tdt4265_base", "tdt4265_model1", "tdt4265_model2"),
    "densenet": ("densenet121", "densenet_bc100"),
    "fastnet": ("fastnet",),
    "googlenet": ("googlenet", "mynet"),
    "lenet": ("lenet5",),
    "resnet": ("resnet18", "resnet34", "resnet50", "resnet18_cifar", "resnet18_reid", "resnet50_cose474"),
    "vgg": ("vgg16", "vgg19", "vgg16_wide", "vgg16_cose474"),
}


@dataclass(frozen=True)
class ModelSpec:
    """A registered network.

    Attributes:
        name: as for `create_model`.
        build: ``build(image, num_classes, options) -> logits``.
        defaults: the default options, a frozen dataclass.
        input_shape: default (height, width, channels).
        parameters: exact number of trainable parameters with all defaults.
        source: paper or report, with the table or section of the architecture and of the count.
        num_classes: default width of the last layer.
        min_size: smallest height and width in pixels that leaves something for every downsampling; may depend on the options.
        torch_names: names of the layers in published PyTorch state dicts; None: the layers' own names.
        adapt: called with training images before training starts; None: not needed.
    """

    name: str
    build: Builder
    defaults: Any
    input_shape: tuple[int, int, int]
    parameters: int
    source: str
    num_classes: int = 10
    min_size: int | Callable[[Any], int] = 1
    torch_names: TorchNames | None = None
    adapt: Adapt | None = None

    @property
    def options(self) -> dict[str, Any]:
        """Names and default values of the options."""
        return {field.name: getattr(self.defaults, field.name) for field in dataclasses.fields(self.defaults)}

    def configure(self, options: Mapping[str, Any]) -> Any:
        """The default options with some replaced.

        Raises:
            UnknownNameError: no such option; the nearest are shown.
            InputError: a value of the wrong type or out of range.
        """
        if unknown := [option for option in options if option not in self.options]:
            raise UnknownNameError(f"option of {self.name}", unknown[0], self.options)
        hints = get_type_hints(type(self.defaults), include_extras=True)
        checked = {key: convert(hints[key], value, what=f"option {key} of {self.name}") for key, value in options.items()}
        return dataclasses.replace(self.defaults, **checked)

    def smallest(self, **options: Any) -> int:
        """Smallest height and width in pixels with these options."""
        return self.min_size if isinstance(self.min_size, int) else self.min_size(self.configure(options))


class SpecFields(TypedDict, total=False):
    """Fields of `ModelSpec` for `register_model`."""

    input_shape: Required[tuple[int, int, int]]
    parameters: Required[int]
    source: Required[str]
    num_classes: int
    min_size: int | Callable[[Any], int]
    torch_names: TorchNames | None
    adapt: Adapt | None


_MODELS: dict[str, ModelSpec] = {}


def register_model(defaults: Any, name: str | None = None, **fields: Unpack[SpecFields]) -> Callable[[Builder], Builder]:
    """Register the decorated builder.

    A variant of a family's builder is registered by calling the decorator: ``register_model(VGG(), "vgg16", …)(partial(vgg, …))``.

    Args:
        defaults: `ModelSpec.defaults`.
        name: of the network; None: that of the function.
        fields: the other fields of `ModelSpec`.

    Raises:
        ValueError: the name is taken or missing.
    """

    def register(build: Builder) -> Builder:
        entry = name or getattr(build, "__name__", "")
        if not entry:
            raise ValueError(f"a model needs a name: register_model(…, name=…) for {build!r}")
        if entry in _MODELS:
            raise ValueError(f"the model name {entry!r} is already registered: choose another name")
        _MODELS[entry] = ModelSpec(entry, build, defaults, **fields)
        return build

    return register


def list_registered(pattern: str = "*", names: Iterable[str] | None = None) -> list[str]:
    """Names that match a shell pattern, in natural order (resnet18 before resnet101); by default those of registered networks."""

    def natural(name: str) -> list[tuple[int, str]]:
        return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]

    if names is None:
        names = {*_MODELS, *(name for family in FAMILIES.values() for name in family)}
    return sorted(fnmatch.filter(names, pattern), key=natural)


def model_spec(name: str) -> ModelSpec:
    """The entry of a network; its family is imported.

    Raises:
        UnknownNameError: no such network; the nearest names are shown.
    """
    for family, names in FAMILIES.items():
        if name in names:
            importlib.import_module(f"kerascv_course.models.{family}")
    if name not in _MODELS:
        raise UnknownNameError("model", name, list_registered())
    return _MODELS[name]
