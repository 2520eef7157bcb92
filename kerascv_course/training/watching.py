"""What can be recorded of a training beside the run's own files: TensorBoard's events and a profile. Neither changes a figure."""

from __future__ import annotations

import importlib.util
import logging
import os
from dataclasses import dataclass
from typing import Any

import keras

from kerascv_course.core.errors import CourseError, InputError
from kerascv_course.training.run_dir import Run

__all__ = ["Profiler", "Watch", "check_watch", "watchers"]

#: Steps that are profiled, counted from where the training begins: the first few trace, compile and allocate.
PROFILE_FROM, PROFILE_TO = 20, 30

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Watch:
    """What is recorded.

    Attributes:
        tensorboard: the figures of every validation, and the graph, into ``tensorboard/`` of the run.
        profile: what TensorFlow computes, when and where, over a few steps, into ``profile/`` of the run.
    """

    tensorboard: bool = False
    profile: bool = False


class MissingPackageError(CourseError):
    """An optional package that is not installed."""


def check_watch(watch: Watch) -> None:
    """Refuse what cannot be recorded here, before anything is trained.

    Raises:
        MissingPackageError: ``tensorboard`` is not installed.
        InputError: a profile is asked for with a Keras backend other than TensorFlow.
    """
    if watch.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise MissingPackageError(
            "--tensorboard needs the package tensorboard, which is not installed here: pip install 'kerascv_course[tensorboard]', "
            "or pip install tensorboard"
        )
    if watch.profile and keras.backend.backend() != "tensorflow":
        raise InputError(f"--profile records TensorFlow's work; Keras runs on {keras.backend.backend()} here: leave it out")


def watchers(run: Run, watch: Watch) -> list[keras.callbacks.Callback]:
    """The callbacks that record what is asked for into the run's folder."""
    callbacks: list[keras.callbacks.Callback] = []
    if watch.tensorboard:
        callbacks.append(keras.callbacks.TensorBoard(str(run / "tensorboard"), update_freq="epoch"))
        log.info("TensorBoard: tensorboard --logdir %s", run / "tensorboard")
    if watch.profile:
        callbacks.append(Profiler(run))
    return callbacks


class Profiler(keras.callbacks.Callback):
    """Records a few steps with the TensorFlow profiler, into ``profile/`` of the run.

    Args:
        run: the folder.
        first: first step that is recorded; 1 is the training's first.
        last: last one; a training that ends earlier is recorded as far as it goes.
    """

    def __init__(self, run: Run, first: int = PROFILE_FROM, last: int = PROFILE_TO) -> None:
        super().__init__()
        self.run, self.first, self.last = run, first, last
        self._step, self._recording = 0, False

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Begin to record, before the first step."""
        import tensorflow as tf

        self._step += 1
        if self._step == self.first:
            tf.profiler.experimental.start(os.fspath(self.run / "profile"))
            self._recording = True

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Write, after the last."""
        if self._step == self.last:
            self._stop()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Write what there is."""
        self._stop()

    def _stop(self) -> None:
        import tensorflow as tf

        if self._recording:
            tf.profiler.experimental.stop()
            self._recording = False
            log.info(
                "profile of steps %d to %d: tensorboard --logdir %s (with the package tensorboard-plugin-profile)",
                self.first,
                self._step,
                self.run / "profile",
            )
