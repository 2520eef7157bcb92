"""Data-parallel training over several devices, of one process or of several.

Each device computes its part of every batch, and gradients are averaged before each step, so that all devices hold the same weights:
by `tf.distribute.MirroredStrategy` on TensorFlow for the devices of one process, by `keras.distribution.DataParallel` on JAX for one
process or several (`kerascv_course.training.distributed`). The result depends on the recipe alone: order, seeds and augmentation
are drawn for the whole batch, and batch norm is over the whole batch unless the recipe's ``norm_groups`` says otherwise.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from kerascv_course.config import Recipe, TrainedRecipe
from kerascv_course.core.errors import CourseError, InputError
from kerascv_course.data.splits import Split

__all__ = [
    "ONE",
    "Devices",
    "OutOfMemoryError",
    "find_devices",
    "is_out_of_memory",
    "mean_over_replicas",
    "replicas",
    "report_out_of_memory",
    "whole_batches",
    "without_distribution",
]


@dataclass(frozen=True)
class Devices:
    """The devices that one training is spread over.

    Attributes:
        local: devices of each process.
        processes: number of processes.
        process: index of this process; process 0 writes the run folder.
    """

    local: int = 1
    processes: int = 1
    process: int = 0

    @property
    def total(self) -> int:
        """Devices of all processes."""
        return self.local * self.processes

    @property
    def writes(self) -> bool:
        """Whether this process writes the run folder."""
        return self.process == 0

    def check_batch(self, batch_size: int) -> None:
        """Refuse a batch size that does not divide among the devices.

        Raises:
            InputError: it does not.
        """
        if batch_size % self.total:
            raise InputError(
                f"the batch size must be a multiple of the {self.total} devices; received {batch_size}: use for example "
                f"--batch-size {max(1, batch_size // self.total) * self.total}"
            )

    def part(self, batch_size: Any) -> slice:
        """This process's rows of a batch that divides among the processes; the size is a number or a tensor."""
        each = batch_size // self.processes
        return slice(self.process * each, (self.process + 1) * each)

    def multiple(self, batch_size: int) -> int:
        """The smallest batch size from this one up that divides among the devices."""
        return -(-batch_size // self.total) * self.total

    def share(self, split: Split) -> tuple[Split, Split]:
        """The images that divide evenly among the devices, and the rest (none on TensorFlow, whose strategy divides unevenly)."""
        whole = len(split)
        if keras.backend.backend() == "jax":
            whole -= len(split) % self.total
        index = np.arange(len(split))
        return split.take(index[:whole]), split.take(index[whole:])

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        """Context in which a model must be built to be spread over the devices; no effect for one device."""
        if self.total == 1:
            yield
        elif keras.backend.backend() == "tensorflow":
            with _mirrored(self.local).scope():
                yield
        else:
            with self.fitting():
                yield

    @contextlib.contextmanager
    def fitting(self) -> Iterator[None]:
        """Context in which `fit` spreads batches over the devices on JAX; on TensorFlow the model from `scope` does so by itself."""
        if self.total == 1 or keras.backend.backend() == "tensorflow":
            yield
        else:
            import jax

            chosen = [
                device for rank in range(self.processes) for device in jax.local_devices(process_index=rank)[: self.local]
            ]
            names = [f"{device.platform}:{device.id}" for device in chosen]
            # each process reads its own rows already (`kerascv_course.data.pipeline`)
            with keras.distribution.DataParallel(devices=names, auto_shard_dataset=False).scope():
                yield

    def describe(self) -> str:
        """One phrase for the log."""
        if self.processes > 1:
            return f"{self.total} devices of {self.processes} processes"
        return f"{self.local} devices"


#: One device of one process, not distributed.
ONE = Devices()


def find_devices(asked: int | Literal["all"] | None) -> Devices:
    """The devices of this process to train on; must be called before the first computation.

    On a machine without a GPU the CPU is divided into logical devices, for trying it out: nothing becomes faster.

    Args:
        asked: number of devices; "all": every GPU; None: Keras's default, one.

    Raises:
        InputError: fewer than one, more than available, or more than one on an unsupported backend.
    """
    if asked is not None and asked != "all" and asked < 1:
        raise InputError(f"--devices must be 1 or more, or all; received {asked}")
    backend = keras.backend.backend()
    if backend == "tensorflow":
        gpus = len(tf.config.list_physical_devices("GPU"))
        count = _count(asked, gpus)
        if count > 1 and not gpus:
            logical = [tf.config.LogicalDeviceConfiguration()] * count
            tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], logical)
        return Devices(count)
    if backend == "jax":
        import jax

        tf.config.set_visible_devices([], "GPU")  # tf.data runs on the CPU; the GPU is left to JAX
        if isinstance(asked, int):
            config: Any = jax.config
            config.update("jax_num_cpu_devices", asked)
        gpus = sum(device.platform != "cpu" for device in jax.local_devices())
        return Devices(_count(asked, gpus), jax.process_count(), jax.process_index())
    if asked not in (None, 1):
        raise InputError(f"--devices needs the Keras backend tensorflow or jax; received {asked} on {backend}: omit it")
    return Devices()


def _count(asked: int | Literal["all"] | None, gpus: int) -> int:
    if asked == "all":
        return max(gpus, 1)
    if gpus and (asked or 1) > gpus:
        raise InputError(f"--devices {asked}: this machine has {gpus} usable GPUs; use --devices {gpus} or all")
    return asked or 1


@functools.cache
def _mirrored(count: int) -> Any:
    """One strategy for all trainings of a process: two would receive each other's messages."""
    names = [device.name for device in tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")]
    return tf.distribute.MirroredStrategy(names[:count])


def replicas() -> int:
    """Parts that TensorFlow's current strategy cuts a batch into before the loss; 1 without a strategy and on other backends."""
    return int(tf.distribute.get_strategy().num_replicas_in_sync) if keras.backend.backend() == "tensorflow" else 1


def mean_over_replicas(value: Any) -> Any:
    """The mean of a value over all `replicas`, in each of them; within a training step."""
    if replicas() == 1:
        return value
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.MEAN, value)


@contextlib.contextmanager
def without_distribution() -> Iterator[None]:
    """Context in which Keras computes on this process's own device alone."""
    before: Any = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(before)


@contextlib.contextmanager
def whole_batches() -> Iterator[None]:
    """Context in which every device of Keras's current distribution computes every batch as a whole."""

    class Whole(keras.distribution.DataParallel):
        def get_data_layout(self, data_shape: Any) -> Any:
            return keras.distribution.TensorLayout([None] * len(data_shape), self.device_mesh)

    mesh = keras.distribution.distribution().device_mesh
    with Whole(device_mesh=mesh, auto_shard_dataset=False).scope():
        yield


# --- Memory ---


class OutOfMemoryError(CourseError):
    """The machine or its GPU has not enough memory for a step; earlier checkpoints are kept."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python, TensorFlow, JAX or PyTorch reports a lack of memory.

    TensorFlow has a class for it, ``ResourceExhaustedError``; JAX puts RESOURCE_EXHAUSTED into a general error.
    """
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"MemoryError", "ResourceExhaustedError", "OutOfMemoryError"}) or "RESOURCE_EXHAUSTED" in str(error)


@contextlib.contextmanager
def report_out_of_memory(recipe: Recipe, run: Path) -> Iterator[None]:
    """Turn a lack of memory within the block into an `OutOfMemoryError` with the batch size and the options.

    Args:
        recipe: the recipe that runs.
        run: its folder, to resume.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, CourseError) or not is_out_of_memory(error):
            raise
        lines = str(error).strip().splitlines() or [type(error).__name__]
        what, options = f"{recipe.name} with images", "with smaller images (--data.image-size)"
        if isinstance(recipe, TrainedRecipe):
            what = f"{recipe.model} in batches of {recipe.batch_size} images"
            options = f"with a smaller --batch-size, such as {max(1, recipe.batch_size // 2)}, {options}"
            if recipe.precision in ("auto", "float32"):
                options += ", or with --precision bfloat16"
        kept = f" All finished validations are kept in {run}." if (run / "last.npz").exists() else ""
        size = "×".join(map(str, recipe.data.image_size))
        raise OutOfMemoryError(f"out of memory: {what} of {size}: {lines[0][:200]}. Try a new run {options}.{kept}") from error
