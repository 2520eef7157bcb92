"""Keras, imported at its first use.

Importing Keras with TensorFlow takes about six seconds. Model families say ``from kerascv_course.core.lazy import keras``, so that
listing models, asking for help or reading an ONNX file never pays for it. (`importlib.util.LazyLoader` and the lazy_loader
package enter their placeholder in `sys.modules`, where it looks as if Keras had been imported; this one does not.)
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
