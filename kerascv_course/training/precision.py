"""What training computes in, and with: precision, XLA and fused operations, chosen for the machine at hand.

A task builds its network once, in float32 and of Keras's own layers. What is trained is a copy of it (`training_copy`) that may
compute in another precision and through fused operations; its weights are float32 all the same and go back to the network as it was
built, which alone is validated for good, saved and exported. So a .keras file never depends on how its weights were found.
"""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np

from kerascv_course.config import Recipe
from kerascv_course.core.errors import InputError
from kerascv_course.training.batch_norm import GroupedBatchNormalization
from kerascv_course.training.devices import ONE, Devices

__all__ = ["choose_for_device", "describe_choice", "give_weights", "seed_states", "training_copy"]

#: What the kernel calls the instructions that make bfloat16 faster than float32.
FAST_BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}

Precision = Literal["float32", "bfloat16", "float16"]

_POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}


def choose_for_device(recipe: Recipe, before: Recipe | None = None) -> Recipe:
    """The recipe with this machine's choice in the place of each "auto"; of a resumed run, the choice that was made `before`.

    Precision: on a GPU bfloat16, or float16 where it is older than compute capability 8.0, or float32 before 7.0; on a processor
    with bfloat16 instructions bfloat16 on TensorFlow; else float32. XLA: on a GPU, and always for JAX.
    """
    if before is not None:
        made = {name: getattr(before, name) for name in ("precision", "jit_compile") if getattr(recipe, name) == "auto"}
        recipe = dataclasses.replace(recipe, **made)
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


def describe_choice(recipe: Recipe, devices: Devices = ONE) -> str:
    """One line for the log."""
    fused = ", fused operations" if recipe.fused else ""
    kind = "a GPU" if _gpu_capability() else "the CPU"
    where = kind if devices.total == 1 else f"{devices.describe()} ({kind.split()[1]})"
    other = "" if keras.backend.backend() == "tensorflow" else f" by {keras.backend.backend()}"
    return f"training on {where}{other} in {recipe.precision}{fused}, XLA {recipe.jit_compile}"


def training_copy(model: keras.Model, recipe: Recipe, devices: Devices = ONE) -> keras.Model:
    """What is trained in the model's stead: the same layers by the same names with the same weights, variable by variable.

    Args:
        model: float32, functional.
        recipe: gives precision, fused operations, the optimiser's moving average and the parts that batch norm is over.
        devices: what the copy is spread over.

    Returns:
        A copy with float32 outputs, or `model` itself where nothing would differ.

    Raises:
        InputError: the parts that batch norm is over lie across the devices.
    """
    plain = recipe.precision == "float32" and not recipe.fused and not recipe.optimizer.ema and recipe.norm_groups == 1
    if plain and devices.total == 1:
        return model
    policy = _POLICIES[recipe.precision]
    # TensorFlow's strategy shows each layer its device's part of the batch, JAX the whole of it
    parts = devices.local if keras.backend.backend() == "tensorflow" else 1
    if recipe.norm_groups > 1 and recipe.norm_groups % parts:
        raise InputError(
            f"norm_groups must be 1 or a multiple of the devices on TensorFlow; received {recipe.norm_groups} for {parts} devices"
        )
    groups = recipe.norm_groups // parts

    def copy(layer: Any) -> Any:
        if not isinstance(layer, keras.layers.Layer):
            return layer.__class__.from_config(layer.get_config())
        config = {**layer.get_config(), "dtype": policy}
        cls = layer.__class__
        if isinstance(layer, keras.layers.BatchNormalization):
            if recipe.norm_groups > 1:
                return GroupedBatchNormalization(**config, groups=groups)
            config["synchronized"] = recipe.norm_groups < parts
        if recipe.fused and keras.backend.backend() == "tensorflow":
            from kerascv_course.training.fused import fused_layer

            cls = fused_layer(layer)
        return cls.from_config(config)

    clone = keras.models.clone_model(model, clone_function=copy, recursive=True)
    if policy != "float32":
        output = keras.layers.Activation("linear", dtype="float32", name="float32")(clone.output)
        clone = keras.Model(clone.input, output, name=model.name)
    clone.set_weights(model.get_weights())
    if plain:  # it stands for the model itself, with what its dropout would have drawn
        for to, seed in zip(seed_states(clone), seed_states(model), strict=True):
            to.assign(keras.ops.convert_to_numpy(seed))
    return clone


def seed_states(model: keras.Model) -> list[Any]:
    """State of the random seeds of a model's layers, such as dropout."""
    return [v for v in model.non_trainable_variables if v.path.endswith("seed_generator_state")]


def give_weights(model: keras.Model, built: keras.Model) -> None:
    """Give a network its training copy's weights: the moving average of them where the optimiser keeps one.

    Args:
        model: compiled, from `training_copy`.
        built: changed in place, unless it is `model`.
    """
    if model is built:
        return
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    average = {}
    if optimizer.use_ema:
        variables = zip(model.trainable_variables, optimizer._model_variables_moving_average, strict=True)
        average = {id(variable): mean for variable, mean in variables}
    for to, variable in zip(built.weights, model.weights, strict=True):
        # by way of NumPy: the one may lie on several devices, the other on one
        to.assign(np.asarray(keras.ops.convert_to_numpy(average.get(id(variable), variable))))


def _gpu_capability() -> tuple[int, int] | None:
    """Compute capability of the first GPU that TensorFlow, or JAX, sees; None without one."""
    if keras.backend.backend() == "jax":
        import jax

        for gpu in jax.local_devices():
            if gpu.platform != "cpu":
                major, _, minor = getattr(gpu, "compute_capability", "8.0").partition(".")
                return int(major), int(minor or 0)
        return None
    import tensorflow as tf

    for gpu in tf.config.list_physical_devices("GPU"):
        return tf.config.experimental.get_device_details(gpu).get("compute_capability", (8, 0))
    return None


def _cpu_flags() -> set[str]:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return set(line.split(":", 1)[1].split())
    return set()
