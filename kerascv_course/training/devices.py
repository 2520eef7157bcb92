"""A training spread over several devices, of one process or of several: by TensorFlow's and Keras's own data parallelism.

Each device computes its part of every batch, and the gradients are averaged before each step, so that all devices hold the same
weights. On TensorFlow `tf.distribute.MirroredStrategy` does so for the devices of one process; on JAX
`keras.distribution.DataParallel` does, for one process or several (`kerascv_course.training.distributed`). What is learnt
depends on the recipe alone: order, seeds and augmentation are drawn for the whole batch, and batch norm is over the whole batch
unless the recipe's ``norm_groups`` says otherwise.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import keras
import numpy as np

from kerascv_course.core.errors import InputError
from kerascv_course.data.splits import Split

__all__ = ["ONE", "Devices", "find_devices", "mean_over_replicas", "replicas", "whole_batches", "without_distribution"]


@dataclass(frozen=True)
class Devices:
    """What one training is spread over.

    Attributes:
        local: devices of each process.
        processes: how many there are.
        process: number of this one; 0 is the one that writes the run folder.
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
        """Refuse a batch that does not divide into equal parts.

        Raises:
            InputError: it does not.
        """
        if batch_size % self.total:
            raise InputError(
                f"every device has an equal part of each batch; received batches of {batch_size} for {self.total} devices: use "
                f"a multiple, such as --batch-size {max(1, batch_size // self.total) * self.total}"
            )

    def part(self, batch_size: Any) -> slice:
        """This process's rows of a batch that divides into equal parts; the size is a number or a tensor."""
        each = batch_size // self.processes
        return slice(self.process * each, (self.process + 1) * each)

    def multiple(self, batch_size: int) -> int:
        """The nearest size of a batch, from this one on, that divides into equal parts."""
        return -(-batch_size // self.total) * self.total

    def share(self, split: Split) -> tuple[Split, Split]:
        """A split's images that the devices can share equally, and those that are left over (always none on TensorFlow, whose strategy
        shares unequally)."""
        whole = len(split)
        if keras.backend.backend() == "jax":
            whole -= len(split) % self.total
        index = np.arange(len(split))
        return split.take(index[:whole]), split.take(index[whole:])

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        """Within it a model that is built is spread over the devices. Of one device: nothing is changed."""
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
        """Within it `fit` spreads the batches of a model that was built in `scope`; on TensorFlow the model does so by itself."""
        if self.total == 1 or keras.backend.backend() == "tensorflow":
            yield
        else:
            import jax

            chosen = [
                device for rank in range(self.processes) for device in jax.local_devices(process_index=rank)[: self.local]
            ]
            names = [f"{device.platform}:{device.id}" for device in chosen]
            # each process is given its own rows already (`kerascv_course.data.pipeline`)
            with keras.distribution.DataParallel(devices=names, auto_shard_dataset=False).scope():
                yield

    def describe(self) -> str:
        """One phrase for the log."""
        if self.processes > 1:
            return f"{self.total} devices of {self.processes} processes"
        return f"{self.local} devices"


#: One device of one process, without any distribution.
ONE = Devices()


def find_devices(asked: int | Literal["all"] | None) -> Devices:
    """The devices of this process that a training is to use; to be called before the first computation.

    Without a GPU, so many logical devices are made of the processor: to try the thing, for it makes nothing faster.

    Args:
        asked: how many; "all": every GPU; None: what Keras takes of itself, which is one.

    Raises:
        InputError: fewer than one, more than there are, or more than one on a backend that cannot.
    """
    if asked is not None and asked != "all" and asked < 1:
        raise InputError(f"--devices must be 1 or more, or all; received {asked}")
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        there = len(tf.config.list_physical_devices("GPU"))
        count = _count(asked, there)
        if count > 1 and not there:
            logical = [tf.config.LogicalDeviceConfiguration()] * count
            tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], logical)
        return Devices(count)
    if backend == "jax":
        import jax
        import tensorflow as tf

        tf.config.set_visible_devices([], "GPU")  # the pictures are made ready on the processor; the GPU is all JAX's
        if isinstance(asked, int):
            jax.config.update("jax_num_cpu_devices", asked)
        there = sum(device.platform != "cpu" for device in jax.local_devices())
        return Devices(_count(asked, there), jax.process_count(), jax.process_index())
    if asked not in (None, 1):
        raise InputError(
            f"--devices goes with the Keras backends tensorflow and jax; received {asked} on {backend}: leave it out"
        )
    return Devices()


def _count(asked: int | Literal["all"] | None, gpus: int) -> int:
    if asked == "all":
        return max(gpus, 1)
    if gpus and (asked or 1) > gpus:
        raise InputError(f"--devices {asked}: this machine has {gpus} GPUs that may be used; use --devices {gpus} or all")
    return asked or 1


@functools.cache
def _mirrored(count: int) -> Any:
    """One strategy for all trainings of a process: two would take each other's messages for their own."""
    import tensorflow as tf

    names = [device.name for device in tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")]
    return tf.distribute.MirroredStrategy(names[:count])


def replicas() -> int:
    """Into how many parts TensorFlow's strategy in force cuts a batch before the loss sees it; 1 on other backends and without one."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return int(tf.distribute.get_strategy().num_replicas_in_sync)


def mean_over_replicas(value: Any) -> Any:
    """The mean of what each of `replicas` has, in all of them; within a training step."""
    if replicas() == 1:
        return value
    import tensorflow as tf

    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.MEAN, value)


@contextlib.contextmanager
def without_distribution() -> Iterator[None]:
    """Within it Keras computes on this process's own device, as if there were no others."""
    before: Any = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(before)


class _Whole(keras.distribution.DataParallel):
    """Every device is given whole batches."""

    def get_data_layout(self, data_shape: Any) -> Any:
        """Nothing is cut."""
        return keras.distribution.TensorLayout([None] * len(data_shape), self.device_mesh)


@contextlib.contextmanager
def whole_batches() -> Iterator[None]:
    """Within it every device of Keras's distribution in force computes every batch, whole."""
    mesh = keras.distribution.distribution().device_mesh
    with _Whole(device_mesh=mesh, auto_shard_dataset=False).scope():
        yield
