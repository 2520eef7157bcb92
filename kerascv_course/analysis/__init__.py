"""Analysis of networks: parameters, neurons, connections, MACs, memory and receptive fields, for Keras models and ONNX files.

Objects first; printing is apart (`printing`). Calculators without a network: `arithmetic` (sizes, padding), `images` (small
convolutions), `pooling`, `paper` (counting by hand), `closed_forms`, `answers` and `errata` (the course reports). No network of
this project is imported: the functions take a built model or a file, anybody's. Importing this package imports neither
TensorFlow nor onnx.
"""

from kerascv_course.analysis.counting import REPORT_004, Convention, Counts
from kerascv_course.analysis.folding import Comparison, compare
from kerascv_course.analysis.receptive import ReceptiveField
from kerascv_course.analysis.summary import Row, Summary, summarize

__all__ = ["REPORT_004", "Comparison", "Convention", "Counts", "ReceptiveField", "Row", "Summary", "compare", "summarize"]
