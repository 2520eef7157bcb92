"""Tasks: the only place that knows what a target, a loss, a metric, a figure and a served answer are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from kerascv_course.errors import UnknownNameError

if TYPE_CHECKING:
    import keras
    from matplotlib.figure import Figure

    from kerascv_course.data import DataInfo, Splits
    from kerascv_course.recipe import Recipe

__all__ = ["Task", "get_task"]


class Task(Protocol):
    """What trainer, export and reports need to know of a task; they never ask which one it is."""

    #: Key of the metric that is drawn against the epoch, beside the loss.
    curve: str
    #: Name of the output whose argmax over the last axis is the task's answer.
    answer: str

    def build(self, recipe: Recipe, info: DataInfo) -> keras.Model:
        """The trainable model, from uint8 images to what the loss takes, normalisation inside."""

    def compile_arguments(self, recipe: Recipe) -> dict[str, Any]:
        """Loss and metrics for `keras.Model.compile`."""

    def evaluate(self, model: keras.Model, splits: Splits, info: DataInfo) -> dict[str, Any]:
        """Every figure of metrics.json: for each split a dict, JSON-able; its plain numbers are shown in tables."""

    def headline(self, metrics: Mapping[str, Any]) -> dict[str, str]:
        """The few figures of the summary: name to text."""

    def figures(self, model: keras.Model, splits: Splits, info: DataInfo, metrics: Mapping[str, Any]) -> dict[str, Figure]:
        """The task's own plots by file stem."""

    def serving_graph(self, model: keras.Model) -> keras.Model:
        """What is exported: from uint8 images to named final answers."""

    def describe(self, recipe: Recipe, info: DataInfo, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """What the task puts into the exported file's contract."""


def get_task(name: str) -> Task:
    """The task of a name.

    Raises:
        UnknownNameError: there is none.
    """
    from kerascv_course.tasks.classify import Classify

    tasks: dict[str, type[Task]] = {"classify": Classify}
    if name not in tasks:
        raise UnknownNameError("task", name, tasks)
    return tasks[name]()
