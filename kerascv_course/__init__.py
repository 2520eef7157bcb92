"""Computer vision courses as recipes: train, evaluate, plot, export to ONNX, and validate the exported file.

Importing this package imports neither TensorFlow nor Keras; its names are imported at first use. From then on Keras opens models with
our layers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from kerascv_course._version import __version__
from kerascv_course.core.own_layers import register_own_layers

if TYPE_CHECKING:
    from kerascv_course.core.keras_file import load_model
    from kerascv_course.experiment import Experiment
    from kerascv_course.models import create_model, list_models

__all__ = ["Experiment", "__version__", "create_model", "list_models", "load_model"]

_MODULES = {
    "Experiment": "experiment",
    "create_model": "models",
    "list_models": "models",
    "load_model": "core.keras_file",
}


register_own_layers()


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'kerascv_course' has no attribute {name!r}")
    return getattr(importlib.import_module(f"kerascv_course.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
