"""What a network is trained with on this machine: precision, XLA, fused operations and grouped batch norm.

A task builds its network once, in float32 and from Keras's own layers. A copy of it is trained (`training_copy`), which may compute
in another precision and through other layers; its weights are float32 all the same and are copied back to the original network,
which alone is evaluated, saved and exported. So a .keras file never depends on how its weights were trained.
"""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from kerascv_course.config import TrainedRecipe
from kerascv_course.core.errors import InputError
from kerascv_course.training.devices import ONE, Devices, mean_over_replicas

__all__ = [
    "FusedActivation",
    "FusedBatchNormalization",
    "GroupedBatchNormalization",
    "choose_for_device",
    "describe_choice",
    "give_weights",
    "seed_states",
    "training_copy",
]

#: CPU flags of instructions that make bfloat16 faster than float32.
FAST_BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}

Precision = Literal["float32", "bfloat16", "float16"]

_POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}


def choose_for_device(recipe: TrainedRecipe, before: TrainedRecipe | None = None) -> TrainedRecipe:
    """The recipe with this machine's choice in place of each "auto"; a resumed run keeps the choice made `before`.

    Precision: on a GPU bfloat16, or float16 below compute capability 8.0, or float32 below 7.0; on a CPU with bfloat16
    instructions bfloat16 on TensorFlow; else float32. XLA: on a GPU, and always for JAX.
    """
    if before is not None:
        kept = {name: getattr(before, name) for name in ("precision", "jit_compile") if getattr(recipe, name) == "auto"}
        recipe = dataclasses.replace(recipe, **kept)
    capability = _gpu_capability()
    if recipe.precision == "auto":
        precision: Precision
        if capability:
            precision = "bfloat16" if capability >= (8, 0) else "float16" if capability >= (7, 0) else "float32"
        else:
            # measured with TensorFlow only
            fast = keras.backend.backend() == "tensorflow" and _cpu_flags() & FAST_BFLOAT16
            precision = "bfloat16" if fast else "float32"
        recipe = dataclasses.replace(recipe, precision=precision)
    if recipe.jit_compile == "auto":
        recipe = dataclasses.replace(recipe, jit_compile="on" if capability or keras.backend.backend() == "jax" else "off")
    return recipe


def describe_choice(recipe: TrainedRecipe, devices: Devices = ONE) -> str:
    """One line for the log: devices, backend, precision and XLA."""
    fused = ", fused operations" if recipe.fused else ""
    kind = "GPU" if _gpu_capability() else "CPU"
    where = f"the {kind}" if devices.total == 1 else f"{devices.describe()} ({kind})"
    backend = "" if keras.backend.backend() == "tensorflow" else f" with {keras.backend.backend()}"
    return f"training on {where}{backend} in {recipe.precision}{fused}, XLA {recipe.jit_compile}"


def _gpu_capability() -> tuple[int, int] | None:
    """Compute capability of the first GPU that TensorFlow or JAX sees; None without a GPU."""
    if keras.backend.backend() == "jax":
        import jax

        for gpu in jax.local_devices():
            if gpu.platform != "cpu":
                major, _, minor = getattr(gpu, "compute_capability", "8.0").partition(".")
                return int(major), int(minor or 0)
        return None
    for gpu in tf.config.list_physical_devices("GPU"):
        major, minor = tf.config.experimental.get_device_details(gpu).get("compute_capability", (8, 0))
        return major, minor
    return None


def _cpu_flags() -> set[str]:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return set(line.split(":", 1)[1].split())
    return set()


# --- The copy that is trained ---


def training_copy(model: keras.Model, recipe: TrainedRecipe, devices: Devices = ONE) -> keras.Model:
    """A copy for training: the same layer names and weights, variable by variable.

    Args:
        model: float32, functional.
        recipe: gives precision, fused operations, the weights' moving average and the groups of batch norm.
        devices: devices that the copy is spread over.

    Returns:
        The copy, with float32 outputs; or `model` itself where nothing would differ.

    Raises:
        InputError: the groups of batch norm do not divide among the devices.
    """
    plain = recipe.precision == "float32" and not recipe.fused and not recipe.optimizer.ema and recipe.norm_groups == 1
    if plain and devices.total == 1:
        return model
    policy, tensorflow = _POLICIES[recipe.precision], keras.backend.backend() == "tensorflow"
    # a layer sees its device's part of the batch on TensorFlow, and the whole batch on JAX
    parts = devices.local if tensorflow else 1
    if recipe.norm_groups > 1 and recipe.norm_groups % parts:
        raise InputError(
            f"norm_groups must be 1 or a multiple of the devices on TensorFlow; received {recipe.norm_groups} for {parts} devices"
        )

    def copy(layer: Any) -> Any:
        cls, config = layer.__class__, layer.get_config()
        if not isinstance(layer, keras.layers.Layer):
            return cls.from_config(config)
        config["dtype"] = policy
        if isinstance(layer, keras.layers.BatchNormalization):
            if recipe.norm_groups > 1:
                return GroupedBatchNormalization(**config, groups=recipe.norm_groups // parts)
            config["synchronized"] = recipe.norm_groups < parts
        if recipe.fused and tensorflow:
            cls = _fused_class(layer)
        return cls.from_config(config)

    clone = keras.models.clone_model(model, clone_function=copy, recursive=True)
    if policy != "float32":
        output = keras.layers.Activation("linear", dtype="float32", name="float32")(clone.output)
        clone = keras.Model(clone.input, output, name=model.name)
    clone.set_weights(model.get_weights())
    if plain:  # dropout draws what it would have drawn in the model itself
        for to, seed in zip(seed_states(clone), seed_states(model), strict=True):
            to.assign(ops.convert_to_numpy(seed))
    return clone


def seed_states(model: keras.Model) -> list[Any]:
    """State variables of a model's random seeds, such as those of dropout."""
    return [v for v in model.non_trainable_variables if v.path.endswith("seed_generator_state")]


def give_weights(model: keras.Model, built: keras.Model) -> None:
    """Copy the trained weights, or their moving average where the optimizer keeps one, to the original network.

    Args:
        model: compiled, from `training_copy`.
        built: the original, changed in place unless it is `model`.
    """
    if model is built:
        return
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    average = {}
    if optimizer.use_ema:
        variables = zip(model.trainable_variables, optimizer._model_variables_moving_average, strict=True)
        average = {id(variable): mean for variable, mean in variables}
    for to, variable in zip(built.weights, model.weights, strict=True):
        # through NumPy: one may be on several devices, the other on one
        to.assign(np.asarray(ops.convert_to_numpy(average.get(id(variable), variable))))


# --- Layers for training, with the weights and configuration of Keras's own ---


class GroupedBatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` over the last axis, for each of `groups` equal parts of a training batch separately.

    Ghost batch norm (Hoffer et al. 2017, "Train longer, generalize better"): the parts regularize as small batches do, on any
    number of devices. The moving mean and variance follow the averages over the parts.

    Args:
        groups: number of parts; it divides the batch size.
        **kwargs: of `keras.layers.BatchNormalization`.
    """

    def __init__(self, groups: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.groups = groups

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Normalize; at inference as Keras does."""
        if not (training and self.trainable):
            return super().call(inputs, training=training, mask=mask)
        x = ops.cast(inputs, "float32")
        # split the first axis, so that each device keeps its own rows
        x = ops.reshape(x, (self.groups, -1, *inputs.shape[1:]))
        mean, variance = ops.moments(x, axes=tuple(range(1, len(x.shape) - 1)), keepdims=True)
        for moving, part in ((self.moving_mean, mean), (self.moving_variance, variance)):
            average = mean_over_replicas(ops.mean(ops.reshape(part, (self.groups, -1)), axis=0))
            moving.assign(moving * self.momentum + average * (1 - self.momentum))
        scale = ops.rsqrt(variance + self.epsilon)
        if self.scale:
            scale = scale * ops.cast(self.gamma, "float32")
        offset = -mean * scale
        if self.center:
            offset = offset + ops.cast(self.beta, "float32")
        return ops.cast(ops.reshape(x * scale + offset, ops.shape(inputs)), self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        """The arguments."""
        return {**super().get_config(), "groups": self.groups}


class FusedBatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` of (N, H, W, C) over the last axis, as one TensorFlow operation while training.

    On a CPU Keras's own is a dozen passes over memory in float32.
    """

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Normalize; at inference as Keras does."""
        if not (training and self.trainable) or len(inputs.shape) != 4 or mask is not None or self.renorm or self.synchronized:
            return super().call(inputs, training=training, mask=mask)
        channels = inputs.shape[-1]
        result = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=self.gamma.value if self.scale else tf.ones([channels]),
            offset=self.beta.value if self.center else tf.zeros([channels]),
            mean=tf.zeros([0]),
            variance=tf.zeros([0]),
            epsilon=self.epsilon,
            is_training=True,
        )
        # The operation returns the unbiased variance; Keras's moving variance is the biased one.
        count = tf.cast(tf.size(inputs) // channels, tf.float32)
        for moving, batch in (
            (self.moving_mean, result.batch_mean),
            (self.moving_variance, result.batch_variance * (count - 1) / count),
        ):
            moving.assign(moving * self.momentum + batch * (1 - self.momentum))
        return result.y


class FusedActivation(keras.layers.Activation):
    """`keras.layers.Activation`, compiled by XLA into one pass forward and one backward, in float32 internally."""

    def build(self, input_shape: Any) -> None:
        """Compile."""
        function, dtype = self.activation, tf.as_dtype(self.compute_dtype)

        def forward(x: tf.Tensor) -> tf.Tensor:
            return tf.cast(function(tf.cast(x, tf.float32)), dtype)

        def backward(x: tf.Tensor, upstream: tf.Tensor) -> tf.Tensor:
            wide = tf.cast(x, tf.float32)
            with tf.GradientTape() as tape:
                tape.watch(wide)
                y = function(wide)
            return tf.cast(tape.gradient(y, wide, tf.cast(upstream, tf.float32)), dtype)

        compiled, gradient = tf.function(forward, jit_compile=True), tf.function(backward, jit_compile=True)

        def call(x: tf.Tensor) -> Any:
            return compiled(x), lambda upstream: gradient(x, upstream)

        self._fused = tf.custom_gradient(call)
        super().build(input_shape)

    def call(self, inputs: Any) -> Any:
        """Apply the activation."""
        return self._fused(inputs)


def _fused_class(layer: keras.layers.Layer) -> type[keras.layers.Layer]:
    """The class for a layer's copy: a fused one where there is one, else its own."""
    if type(layer) is keras.layers.BatchNormalization and layer.axis in (-1, 3):
        return FusedBatchNormalization
    smooth = (keras.activations.silu, keras.activations.gelu, keras.activations.elu, keras.activations.tanh)
    if type(layer) is keras.layers.Activation and layer.activation in smooth:
        return FusedActivation
    return type(layer)
