"""Analysis of networks: parameters, neurons, connections, MACs, memory and receptive fields, for Keras models and ONNX files.

Objects first; text is made apart, in `printing`, `torchsummary` and `diagram`. Calculators that need no network: `arithmetic`
(sizes, padding), `convolution` (small images, pooling) and `scaling` (training on many devices). Names are imported at first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kerascv_course.analysis.counting import REPORT_004, Convention, Counts
    from kerascv_course.analysis.receptive import ReceptiveField
    from kerascv_course.analysis.summary import ExportComparison, LayerSummary, Summary, compare, summarize

__all__ = [
    "REPORT_004",
    "Convention",
    "Counts",
    "ExportComparison",
    "LayerSummary",
    "ReceptiveField",
    "Summary",
    "compare",
    "summarize",
]

_MODULES = {
    "counting": ("REPORT_004", "Convention", "Counts"),
    "receptive": ("ReceptiveField",),
    "summary": ("ExportComparison", "LayerSummary", "Summary", "compare", "summarize"),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
