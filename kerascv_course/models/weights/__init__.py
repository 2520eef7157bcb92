"""Weights from elsewhere into a Keras model, with a report of what fitted; no pickle is ever opened."""

from kerascv_course.models.weights.load import load_weights
from kerascv_course.models.weights.report import LoadedEntry, LoadingReport, MismatchedEntry

__all__ = ["LoadedEntry", "LoadingReport", "MismatchedEntry", "load_weights"]
