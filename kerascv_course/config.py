"""Recipes: the settings of experiments, as frozen dataclasses. Standard library only.

A recipe is what all tasks share, and one section of its own task (`kerascv_course.tasks.*.config`). The command line is made from
these classes: a field is an option, the docstring below it is its help.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal

from kerascv_course.core.errors import InputError, UnknownNameError
from kerascv_course.core.schema import (
    Fraction,
    NonNegative,
    NonNegativeInt,
    Positive,
    PositiveInt,
    Probability,
    ProperFraction,
    Range,
    check_fields,
    convert,
    parse_json,
)

__all__ = [
    "TASKS",
    "Augmentation",
    "Data",
    "Export",
    "Optimizer",
    "OptionValue",
    "Recipe",
    "Schedule",
    "TrainedRecipe",
    "changed_fields",
    "check_resumed",
    "parse_options",
    "read_recipe",
    "recipe_class",
    "recipe_from_plain",
    "with_base_options",
]

OptionValue = bool | int | float | str

#: Name of a task to its package in `kerascv_course.tasks`.
TASKS = {"classify": "classification", "retrieve": "retrieval", "colorize": "colorization", "scenes": "scenes"}


@dataclass(frozen=True)
class Data:
    """Dataset."""

    source: str
    """Dataset source: digits, cifar10, folder or identities."""
    image_size: tuple[PositiveInt, PositiveInt] = (32, 32)
    """Image height and width in pixels; images of other sizes are resized."""
    channels: Literal[1, 3] = 3
    """Image channels: 1 for grayscale, 3 for RGB."""
    resize: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"
    """Interpolation used to resize images."""
    validation_share: ProperFraction = 0.1
    """Fraction of the training images held out for validation, if the source has no validation split."""
    test_share: ProperFraction = 0.2
    """Fraction of all images held out for testing, if the source has no test split."""
    only: tuple[str, ...] = ()
    """Names of the classes to keep; all by default."""
    split_seed: int = 0
    """Random seed of the splits, separate from the recipe's seed so that runs with different seeds share their splits."""
    normalize_mean: tuple[float, ...] = (0.5,)
    """Mean subtracted from pixels scaled to 0-1: one value, or one per channel."""
    normalize_std: tuple[Positive, ...] = (0.25,)
    """Standard deviation that divides the pixels after the mean is subtracted: one value, or one per channel."""
    cache: Literal["auto", "memory", "disk", "none"] = "auto"
    """Where a folder's decoded images are kept: in memory, in a temporary file, or nowhere, to be read again whenever they are needed.
    auto: in memory up to 1 GiB, beyond that nowhere. The result is the same."""

    def __post_init__(self) -> None:
        check_fields(self, "data")
        for name in ("normalize_mean", "normalize_std"):
            if len(values := getattr(self, name)) not in (1, self.channels):
                raise InputError(
                    f"data.{name} must have one value, or one for each of {self.channels} channels; received {values}"
                )


@dataclass(frozen=True)
class Augmentation:
    """Data augmentation of the training images, applied to uint8 pixels in the input pipeline."""

    flip: bool = False
    """Flip images horizontally with probability 0.5."""
    alternating_flip: bool = False
    """Flip each image horizontally in every other epoch (Jordan 2024)."""
    translate: NonNegativeInt = 0
    """Shift images by up to this many pixels in each direction; 4 equals a random crop after padding by 4."""
    border: Literal["zeros", "reflect"] = "zeros"
    """Fill mode for pixels that a shift or rotation exposes."""
    rotate: Annotated[float, Range(0, 180)] = 0.0
    """Rotate images by up to this many degrees."""
    color_jitter: Probability = 0.0
    """Scale brightness, contrast and saturation by random factors of 1 plus or minus up to this value, 0 to 1."""
    cutout: NonNegativeInt = 0
    """Mask a random square with this side length in pixels (DeVries and Taylor 2017)."""
    erase: Probability = 0.0
    """Probability of random erasing: filling a random rectangle with noise (Zhong et al. 2020)."""
    mixup: NonNegative = 0.0
    """Alpha of mixup (Zhang et al. 2018); 0 disables it."""
    cutmix: NonNegative = 0.0
    """Alpha of CutMix (Yun et al. 2019); 0 disables it. With mixup also on, each batch uses one of the two."""

    @property
    def mixes(self) -> bool:
        """Whether targets become probabilities, because images are mixed."""
        return bool(self.mixup or self.cutmix)

    def __post_init__(self) -> None:
        check_fields(self, "augmentation")
        if self.flip and self.alternating_flip:
            raise InputError("augmentation.flip and augmentation.alternating_flip exclude each other; received both: use one")


@dataclass(frozen=True)
class Optimizer:
    """Optimizer."""

    name: Literal["sgd", "adam", "adamw", "adamax", "rmsprop", "muon"] = "sgd"
    """Keras optimizer, or muon: orthogonalized updates for convolution kernels, SGD for all other weights."""
    learning_rate: Positive = 0.05
    """Peak learning rate."""
    momentum: Fraction = 0.0
    """Momentum of sgd, rmsprop and muon."""
    nesterov: bool = False
    """Use Nesterov momentum, for sgd and muon."""
    weight_decay: NonNegative = 0.0
    """Decoupled weight decay, scaled by the learning rate as in Keras."""
    decay_norms: bool = True
    """Apply weight decay to batch normalization weights and biases, not only to kernels."""
    norm_rate: NonNegative = 0.0
    """muon: peak learning rate of batch normalization weights and biases; 0 uses the learning rate."""
    head_rate: NonNegative = 0.0
    """muon: peak learning rate of dense kernels; 0 uses the learning rate."""
    ema: Fraction = 0.0
    """Momentum of an exponential moving average of the weights, which is then validated and saved; 0 disables it."""

    def __post_init__(self) -> None:
        check_fields(self, "optimizer")
        for name, supported in (
            ("momentum", ("sgd", "rmsprop", "muon")),
            ("nesterov", ("sgd", "muon")),
            ("norm_rate", ("muon",)),
            ("head_rate", ("muon",)),
        ):
            if getattr(self, name) and self.name not in supported:
                raise InputError(f"optimizer.{name} requires {' or '.join(supported)}; received it for {self.name}: omit it")


@dataclass(frozen=True)
class Schedule:
    """Learning rate schedule."""

    name: Literal["constant", "cosine", "linear", "step"] = "constant"
    """cosine and linear decay to zero at the last step; step multiplies the rate by `factor` at each milestone."""
    warmup_epochs: NonNegative = 0.0
    """Epochs of linear warmup from zero, for cosine and linear; about 0.3 of all epochs gives a one-cycle schedule."""
    milestones: tuple[float, ...] = ()
    """Epochs at which the step schedule changes the rate."""
    factor: Positive = 0.1
    """Factor of the step schedule."""

    def __post_init__(self) -> None:
        check_fields(self, "schedule")
        if self.warmup_epochs and self.name not in ("cosine", "linear"):
            raise InputError(f"schedule.warmup_epochs requires the schedule cosine or linear; received it for {self.name}")
        if (self.name == "step") != bool(self.milestones):
            raise InputError(
                f"the step schedule requires schedule.milestones, and no other schedule takes them; received {self.milestones} for "
                f"{self.name}: give both --schedule.name step and --schedule.milestones"
            )
        if list(self.milestones) != sorted(self.milestones):
            raise InputError(f"schedule.milestones must be ascending; received {self.milestones}")


@dataclass(frozen=True)
class Export:
    """ONNX export."""

    enabled: bool = True
    """Write model.onnx and validate it against Keras on the whole test split."""
    opset: Literal[15, 16, 17, 18, 19, 20, 21, 22, 23] = 17
    """ONNX operator set."""
    layout: Literal["NHWC", "NCHW"] = "NHWC"
    """Layout of the input: channels last or channels first."""
    license: str = ""
    """License of the weights for the contract: an SPDX identifier or free text."""
    tolerance: Positive = 1e-4
    """Largest absolute difference allowed between Keras and ONNX outputs, besides the relative one."""
    relative: NonNegative = 1e-5
    """Difference allowed in addition: this times the largest absolute value of the output."""
    provider: Literal["cpu", "cuda"] = "cpu"
    """Where onnxruntime runs the file while it is validated; on CUDA with a tolerance of 1e-2, for TensorFloat-32."""

    def __post_init__(self) -> None:
        check_fields(self, "export")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A complete experiment: train, evaluate, plot, export, validate. `name`, `description` and `expect` are fixed."""

    #: Fields that are not command-line options, and those that may change when a run is resumed.
    fixed: ClassVar[tuple[str, ...]] = ("name", "description", "expect")
    resumable: ClassVar[tuple[str, ...]] = ()

    name: str
    """Name, COURSE-EXPERIMENT."""
    description: str
    """One line: what it is and which report it reproduces."""
    expect: str
    """Expected result, with machine and time."""
    task: str = field(default="", init=False)
    """Task, a key of `TASKS`; each class has its own."""
    data: Data
    """Dataset."""
    seed: NonNegativeInt = 0
    """Random seed of the initial weights, shuffling, augmentation and dropout."""
    export: Export = field(default_factory=Export)
    """ONNX export."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class TrainedRecipe(Recipe):
    """A recipe that trains a network by gradient descent."""

    resumable: ClassVar[tuple[str, ...]] = ("epochs", "patience")
    #: Values of `monitor` that the task has.
    monitors: ClassVar[tuple[str, ...]] = ("val_loss", "val_accuracy", "last")

    model: str
    """Network, one of kerascv_course.list_models()."""
    model_options: dict[str, OptionValue] = field(default_factory=dict)
    """Options of the network as NAME VALUE pairs; the recipe's other options are kept unless the network changes."""
    weights: str = ""
    """Initial weights: a .safetensors, .npz, .weights.h5 or .keras file, a hub name, or imagenet for keras.applications. The shape of
    the last layer may differ; it is then initialized randomly."""
    train_from: str = ""
    """First layer to train; all layers before it are frozen. By default all layers are trained."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    """Data augmentation."""
    optimizer: Optimizer = field(default_factory=Optimizer)
    """Optimizer."""
    schedule: Schedule = field(default_factory=Schedule)
    """Learning rate schedule."""
    epochs: PositiveInt = 10
    """Maximum number of epochs."""
    batch_size: PositiveInt = 64
    """Images per training step; the last, incomplete batch of an epoch is dropped."""
    shuffle: bool = True
    """Shuffle the training images every epoch."""
    validations_per_epoch: PositiveInt = 1
    """Validations, and checkpoints, per epoch."""
    patience: NonNegativeInt = 0
    """Stop after this many validations without improvement; 0 disables early stopping."""
    monitor: Literal["val_loss", "val_accuracy", "val_R1", "last"] = "val_loss"
    """Validation metric that selects the best checkpoint, or last: the final one. val_R1 is for the task retrieve."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "float32"
    """Training precision. Weights, evaluation and export stay float32. auto: the fastest of this machine."""
    jit_compile: Literal["auto", "on", "off"] = "auto"
    """Compile the training step with XLA. auto: on a GPU or with JAX."""
    fused: bool = False
    """Train with TensorFlow's fused batch normalization and activations: same results, faster on a CPU."""
    norm_groups: PositiveInt = 1
    """Compute batch normalization separately over this many equal parts of the batch, as that many devices would."""
    log_style: Literal["full", "csc413", "cose474", "ntu"] = "full"
    """Log all metrics, or print them as one of the courses does."""
    snapshots: NonNegativeInt = 1
    """Save a figure of predictions every this many validations, if the task has one; 0 disables them."""
    deterministic: bool = True
    """Use deterministic operations (slower on a GPU)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.augmentation.mixes and self.task != "classify":
            raise InputError(
                f"augmentation.mixup and augmentation.cutmix require the task classify; received them for {self.task}: leave both 0"
            )
        if self.train_from and not self.weights:
            raise InputError(
                f"train_from freezes the layers before it and requires weights; received {self.train_from!r} without any: give "
                "--weights"
            )
        if self.monitor not in self.monitors:
            raise InputError(
                f"the task {self.task} has the monitors {', '.join(self.monitors)}; received {self.monitor}: use one of them"
            )
        if self.batch_size % self.norm_groups:
            raise InputError(
                f"norm_groups must divide batch_size; received {self.norm_groups} for {self.batch_size} images: use a divisor"
            )
        if self.patience and self.monitor == "last":
            raise InputError("patience requires a validation metric to monitor; received it with --monitor last: leave it 0")


def recipe_class(task: str) -> type[Recipe]:
    """The recipe class of a task; its module alone is imported.

    Raises:
        UnknownNameError: no such task.
    """
    if task not in TASKS:
        raise UnknownNameError("task", task, TASKS)
    found: type[Recipe] = importlib.import_module(f"kerascv_course.tasks.{TASKS[task]}.config").RECIPE
    return found


def read_recipe(text: str | bytes, *, what: str) -> Recipe:
    """Read a recipe from JSON, such as a run's recipe.json.

    Args:
        text: JSON text.
        what: how an error calls the text, such as a file's name.

    Raises:
        InputError: not JSON, an unknown task, or a field that is unknown, missing or of the wrong type.
    """
    return recipe_from_plain(parse_json(text, what=what), what=what)


def recipe_from_plain(plain: Any, *, what: str) -> Recipe:
    """`read_recipe` for JSON that is parsed already, such as the recipe of a contract."""
    if not isinstance(plain, dict) or not isinstance(plain.get("task"), str):
        raise InputError(f"{what} is not a recipe: it must be an object with a task, one of {', '.join(TASKS)}")
    kind = recipe_class(plain["task"])
    recipe: Recipe = convert(kind, {name: value for name, value in plain.items() if name != "task"}, what=what)
    return recipe


def parse_options(words: Sequence[str]) -> dict[str, OptionValue]:
    """Options of a network from NAME VALUE pairs of a command line; numbers, True and False are converted.

    Raises:
        ValueError: an odd number of words.
    """
    if len(words) % 2:
        raise ValueError(f"network options are pairs of NAME and VALUE; received {' '.join(words)}")
    return {name: _parse_value(text) for name, text in zip(words[::2], words[1::2], strict=True)}


def _parse_value(text: str) -> OptionValue:
    if text in ("True", "False"):
        return text == "True"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def with_base_options(recipe: Recipe, base: Recipe, given: dict[str, OptionValue]) -> Recipe:
    """A recipe whose network has the options `given`, and the other options of `base` unless the network differs."""
    if not isinstance(recipe, TrainedRecipe) or not isinstance(base, TrainedRecipe):
        return recipe
    return replace(recipe, model_options={**(base.model_options if recipe.model == base.model else {}), **given})


def changed_fields(before: Recipe, now: Recipe) -> list[str]:
    """Names of the fields in which two recipes differ; `task` if their classes do."""
    if type(before) is not type(now):
        return ["task"]
    return [one.name for one in dataclasses.fields(now) if getattr(before, one.name) != getattr(now, one.name)]


def check_resumed(before: Recipe, now: Recipe) -> None:
    """Refuse to resume a run with another recipe; what is "auto" now is this machine's choice, which is not known here.

    Where decoded images are kept (`Data.cache`) may always change.

    Raises:
        InputError: a field differs that is not among the recipe's `resumable` ones.
    """
    for name in changed_fields(before, replace(now, data=replace(now.data, cache=before.data.cache))):
        if name not in before.resumable and "auto" not in (getattr(before, name, None), getattr(now, name, None)):
            allowed = f", only {' and '.join(before.resumable)} may change" if before.resumable else ""
            raise InputError(f"a resumed run keeps its recipe{allowed}; received another {name}: start a new run for it")
