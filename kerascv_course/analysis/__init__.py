"""Analysis of networks: parameters, neurons, connections, MACs, memory and receptive fields, for Keras models and ONNX files.

Objects first; text is made apart, in `printing`, `torchsummary` and `diagram`. Calculators that need no network: `arithmetic`
(sizes, padding), `convolution` (small images, pooling) and `scaling` (training on many devices).
"""

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
