"""Our layers in saved models: Keras knows their names once this package is imported, and a model that has them imports their modules.

Keras opens a file with layers of others only if they are registered, which importing their modules does. That takes seconds, because
they need Keras and TensorFlow, and importing this package must not: so each name is registered with a stand-in.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__all__ = ["OWN", "register_own_layers"]

#: Classes registered with Keras in the package ``kerascv_course``, by module.
OWN = {
    "kerascv_course.tasks.colorization.serving": ("CropLike", "Decode", "PadToMultiple"),
    "kerascv_course.tasks.retrieval.losses": (
        *(
            "AngularMarginLoss",
            "CenterDistances",
            "CenterLoss",
            "CosineLogits",
            "IdentityCrossentropy",
            "PartLoss",
            "TripletLoss",
        ),
        "WeightedParts",
    ),
    "kerascv_course.tasks.scenes.classifiers": ("KNeighborsLayer", "KernelMap"),
    "kerascv_course.tasks.scenes.encoders": ("VLAD", "BagOfWords", "Compress", "FisherVector", "Normalize"),
    "kerascv_course.tasks.scenes.features": ("ByImage", "DenseSIFT", "TinyImage"),
}


class _Later:
    """Stands for a class of ours until a file is opened that has it."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.__name__ = module, name

    def from_config(self, config: dict[str, Any]) -> Any:
        """An instance of the class, which takes the place of this object: its module registers it."""
        return getattr(importlib.import_module(self.module), self.__name__).from_config(config)


class _AfterKeras(MetaPathFinder):
    """Registers our layers when Keras is imported; the import itself is left to the other finders."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """The spec of Keras, whose loader then also registers; None for all other modules."""
        if name != "keras":
            return None
        specs = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        spec = next((found for found in specs if found is not None), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                _register(module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def register_own_layers() -> None:
    """Register our layers with Keras: now if it is imported, otherwise when it will be."""
    if keras := sys.modules.get("keras"):
        _register(keras)
    elif not any(isinstance(finder, _AfterKeras) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterKeras())


def _register(keras: Any) -> None:
    """Register a stand-in for each class that is not registered yet."""
    known = keras.saving.get_custom_objects()
    for module, names in OWN.items():
        for name in names:
            known.setdefault(f"kerascv_course>{name}", _Later(module, name))
