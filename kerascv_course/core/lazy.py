"""Keras, imported at its first use.

Importing Keras with TensorFlow takes about six seconds. With ``from kerascv_course.core.lazy import keras`` commands that do not need
it, such as ``--help`` or reading an ONNX file, do not import it. (`importlib.util.LazyLoader` and the lazy_loader package put their
placeholder into `sys.modules`, as if Keras had been imported; this one does not.)
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any

__all__ = ["keras"]


class _LazyModule(ModuleType):
    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self.__name__), name)


if TYPE_CHECKING:
    import keras
else:
    keras = _LazyModule("keras")
