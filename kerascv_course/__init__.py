"""Vision courses as recipes: train, measure, plot, export to ONNX and prove that the file gives the same answers.

Importing this package imports neither TensorFlow nor Keras.
"""

from kerascv_course._version import __version__
from kerascv_course.models import create_model, list_models

__all__ = ["__version__", "create_model", "list_models"]
