"""What to do, as frozen values: a `Recipe` and its parts. Standard library and tyro's markers only.

The command line is made from these classes by tyro: a field is an option, its docstring is its help.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from tyro.conf import Fixed
from tyro.constructors import PrimitiveConstructorSpec

from kerascv_course.core.errors import InputError

__all__ = [
    "Augmentation",
    "Colorize",
    "Data",
    "Export",
    "Optimizer",
    "Recipe",
    "Retrieve",
    "Scenes",
    "Schedule",
    "with_base_options",
]

OptionValue = bool | int | float | str


class _Given(dict[str, OptionValue]):
    """Options of a network that a command line names, not yet laid over its recipe's own."""


def _given(words: Sequence[str]) -> _Given:
    if len(words) % 2:
        raise ValueError(f"options of the network are pairs of NAME and VALUE; received {' '.join(words)}")
    return _Given({name: _value(text) for name, text in zip(words[::2], words[1::2], strict=True)})


def _value(text: str) -> OptionValue:
    if text in ("True", "False"):
        return text == "True"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


#: How `Recipe.model_options` are written on a command line.
_PAIRS = PrimitiveConstructorSpec[Mapping[str, OptionValue]](
    nargs="*",
    metavar="NAME VALUE …",
    instance_from_str=_given,
    is_instance=lambda value: isinstance(value, dict),
    str_from_instance=lambda options: [str(word) for pair in options.items() for word in pair],
)


def _require(ok: bool, rule: str, value: object) -> None:
    if not ok:
        raise InputError(f"{rule}; received {value!r}")


@dataclass(frozen=True)
class Data:
    """What is learnt from."""

    source: str
    """Named source: digits, cifar10, folder or identities."""
    image_size: tuple[int, int] = (32, 32)
    """Height and width, pixels; pictures of other sizes are resized."""
    channels: Literal[1, 3] = 3
    """1: grey, 3: RGB."""
    resize: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"
    """Resampling filter for pictures of other sizes."""
    validation_share: float = 0.1
    """Share of the training images set aside for validation, where the source brings no validation split."""
    test_share: float = 0.2
    """Share of all images set aside for the test, where the source brings no test split."""
    only: tuple[str, ...] = ()
    """Names of the classes to keep; none: all."""
    split_seed: int = 0
    """Seed of the splits. Not the recipe's seed: runs with several seeds share their splits."""
    normalize_mean: tuple[float, ...] = (0.5,)
    """Subtracted from each channel after scaling pixels to 0–1; one value for all channels or one for each."""
    normalize_std: tuple[float, ...] = (0.25,)
    """Divides each channel after the mean is subtracted."""

    def __post_init__(self) -> None:
        _require(min(self.image_size) > 0, "data.image_size must be a height and a width above 0", self.image_size)
        for name in ("validation_share", "test_share"):
            share = getattr(self, name)
            _require(0 < share < 1, f"data.{name} must be above 0 and below 1", share)
        for name in ("normalize_mean", "normalize_std"):
            values = getattr(self, name)
            counts = " or ".join(map(str, sorted({1, self.channels})))
            _require(
                len(values) in (1, self.channels), f"data.{name} must have as many values as channels, or 1: {counts}", values
            )
        _require(min(self.normalize_std) > 0, "data.normalize_std must be above 0", self.normalize_std)


@dataclass(frozen=True)
class Augmentation:
    """Random changes of the training images, made on the uint8 pixels by tf.data."""

    flip: bool = False
    """Mirror left and right, every other time on average."""
    alternating_flip: bool = False
    """Mirror each image in every other epoch; which half of them starts mirrored, the seed decides (Jordan 2024)."""
    translate: int = 0
    """Shift by up to this many pixels each way: 4 is a random crop after padding by 4 pixels."""
    border: Literal["zeros", "reflect"] = "zeros"
    """What comes in where the image is shifted or turned away."""
    rotate: float = 0.0
    """Turn by up to this many degrees each way."""
    color_jitter: float = 0.0
    """Change brightness, contrast and saturation, each by a factor of up to 1 plus or minus this, 0 to 1."""
    cutout: int = 0
    """Hide a square of so many pixels a side, anywhere, behind the mean colour (data.normalize_mean; DeVries and Taylor 2017)."""
    erase: float = 0.0
    """Fill a rectangle with noise, with this probability (random erasing, Zhong et al. 2020)."""
    mixup: float = 0.0
    """Blend pairs of images and their targets, shares from Beta(this, this) (Zhang et al. 2018); 0: no blending."""
    cutmix: float = 0.0
    """Put a box of one image into another, shares from Beta(this, this) (Yun et al. 2019); with mixup, one of both a batch."""

    @property
    def mixes(self) -> bool:
        """Whether targets become probabilities, because images are made of two."""
        return bool(self.mixup or self.cutmix)

    def __post_init__(self) -> None:
        _require(self.translate >= 0, "augmentation.translate must be 0 pixels or more", self.translate)
        _require(0 <= self.rotate <= 180, "augmentation.rotate must be 0 to 180 degrees", self.rotate)
        _require(self.cutout >= 0, "augmentation.cutout must be 0 pixels or more", self.cutout)
        for name in ("color_jitter", "erase"):
            _require(0 <= getattr(self, name) <= 1, f"augmentation.{name} must be 0 to 1", getattr(self, name))
        for name in ("mixup", "cutmix"):
            _require(0 <= getattr(self, name) < math.inf, f"augmentation.{name} must be 0 or more", getattr(self, name))
        if self.flip and self.alternating_flip:
            raise InputError(
                "augmentation.flip and augmentation.alternating_flip exclude each other; received both: leave one out"
            )


@dataclass(frozen=True)
class Optimizer:
    """How the weights move."""

    name: Literal["sgd", "adam", "adamw", "adamax", "rmsprop", "muon"] = "sgd"
    """Keras optimiser, or muon: orthogonalised steps for the kernels of convolutions, sgd for all else."""
    learning_rate: float = 0.05
    """Peak learning rate."""
    momentum: float = 0.0
    """For sgd, rmsprop and muon."""
    nesterov: bool = False
    """For sgd and muon."""
    weight_decay: float = 0.0
    """Decoupled, multiplied by the learning rate at each step (Keras's convention)."""
    decay_norms: bool = True
    """Let weights decay in batch norms and biases too; without it only kernels decay."""
    norm_rate: float = 0.0
    """For muon: peak learning rate of batch norms and biases; 0: the learning rate."""
    head_rate: float = 0.0
    """For muon: peak learning rate of dense kernels; 0: the learning rate."""
    ema: float = 0.0
    """Validate and keep the moving average of the weights, of this momentum; 0: the weights themselves."""

    def __post_init__(self) -> None:
        _require(self.learning_rate > 0, "optimizer.learning_rate must be above 0", self.learning_rate)
        _require(0 <= self.momentum < 1, "optimizer.momentum must be 0 or more and below 1", self.momentum)
        _require(self.weight_decay >= 0, "optimizer.weight_decay must be 0 or more", self.weight_decay)
        _require(0 <= self.ema < 1, "optimizer.ema must be 0 or more and below 1", self.ema)
        if self.momentum and self.name not in ("sgd", "rmsprop", "muon"):
            raise InputError(f"optimizer.momentum goes with sgd, rmsprop and muon; received it for {self.name}: leave it 0")
        if self.nesterov and self.name not in ("sgd", "muon"):
            raise InputError(f"optimizer.nesterov goes with sgd and muon; received it for {self.name}: leave it out")
        for name in ("norm_rate", "head_rate"):
            _require(getattr(self, name) >= 0, f"optimizer.{name} must be 0 or more", getattr(self, name))
            if getattr(self, name) and self.name != "muon":
                raise InputError(f"optimizer.{name} goes with muon; received it for {self.name}: leave it 0")


@dataclass(frozen=True)
class Schedule:
    """How the learning rate changes."""

    name: Literal["constant", "cosine", "linear", "step"] = "constant"
    """cosine, linear: to zero at the last step; step: times `factor` at each milestone."""
    warmup_epochs: float = 0.0
    """Linear rise from zero, with cosine and linear; some 0.3 of the epochs make it the one-cycle schedule."""
    milestones: tuple[float, ...] = ()
    """Epochs at which the step schedule lowers the rate."""
    factor: float = 0.1
    """What the step schedule multiplies by."""

    def __post_init__(self) -> None:
        _require(self.warmup_epochs >= 0, "schedule.warmup_epochs must be 0 or more", self.warmup_epochs)
        if self.warmup_epochs and self.name not in ("cosine", "linear"):
            raise InputError(f"schedule.warmup_epochs goes with the schedules cosine and linear; received it for {self.name}")
        if (self.name == "step") != bool(self.milestones):
            raise InputError(
                f"schedule.milestones go with the step schedule, which needs one or more; received {self.milestones} for {self.name}: "
                "give both --schedule.name step and --schedule.milestones"
            )
        _require(list(self.milestones) == sorted(self.milestones), "schedule.milestones must rise", self.milestones)
        _require(self.factor > 0, "schedule.factor must be above 0", self.factor)


@dataclass(frozen=True)
class Colorize:
    """How pixels become colour classes and classes become colours; for the task colorize."""

    palette: str | None = None
    """Colours to choose from: a .npy or CSV file of rows red, green, blue, 0–255; None: k-means on the training pixels."""
    colors: int = 24
    """Colours that k-means finds."""
    palette_seed: int = 0
    """Seed of k-means. Not the recipe's seed: runs with several seeds share their palette."""
    input: Literal["gray", "small"] = "gray"
    """gray: the mean of the channels; small: the colours of the picture shrunk, which makes it super-resolution."""
    shrink: Literal[2, 4, 8] = 4
    """For the input small: how many times smaller."""
    rebalance: float = 0.0
    """Weight of rare colours in the loss: 0 all pixels count alike, 1 all colours (Zhang et al. 2016, equation 4: 1 − λ)."""
    decode: Literal["argmax", "annealed-mean"] = "argmax"
    """The colour shown: the likeliest, or the mean of all, weighted by annealed probabilities (Zhang et al. 2016, equation 5)."""
    temperature: float = 0.38
    """Of the annealed mean: towards 0 the likeliest colour, 1 the plain mean."""
    keep_gray: bool = False
    """Shift each shown colour so that its channel mean is the input's: detail comes from the picture, colour from the network."""

    def __post_init__(self) -> None:
        _require(2 <= self.colors <= 256, "colorize.colors must be 2 to 256", self.colors)
        _require(0 <= self.rebalance <= 1, "colorize.rebalance must be 0 to 1", self.rebalance)
        _require(0 < self.temperature <= 1, "colorize.temperature must be above 0 and at most 1", self.temperature)
        _require(self.palette_seed >= 0, "colorize.palette_seed must be 0 or more", self.palette_seed)
        if self.keep_gray and self.input != "gray":
            raise InputError(f"colorize.keep_gray goes with the input gray; received it for {self.input}: leave it out")


@dataclass(frozen=True)
class Scenes:
    """Vision without a network, for the task scenes: how a picture becomes a vector, and what answers from vectors."""

    feature: Literal["tiny", "bag", "vlad", "fisher"] = "bag"
    """tiny: the pixels of the picture at data.image_size; bag: histogram of SIFT words; vlad; fisher: Fisher vector."""
    center: bool = True
    """tiny: subtract the picture's mean."""
    tiny_norm: Literal["none", "l1", "l2"] = "l1"
    """tiny: what the pixels are divided by."""
    step: int = 4
    """SIFT: pixels from one descriptor to the next."""
    bin_sizes: tuple[int, ...] = (4,)
    """SIFT: side of a spatial bin for each scale, pixels; a descriptor has 4×4 bins."""
    window: Literal["triangular", "gaussian"] = "triangular"
    """SIFT: how a bin weighs the pixels around its centre."""
    smooth: int = 0
    """SIFT: times that the picture is smoothed first, each a variance of half a pixel."""
    contrast: float = 0.0
    """SIFT: descriptors of less contrast, in grey levels a pixel, are zero."""
    color: Literal["gray", "rgb", "opponent"] = "gray"
    """SIFT of pictures with three channels: of their luma, of each channel, or of opponent colours."""
    samples: int = 100_000
    """Descriptors that words are learnt from."""
    words: int = 400
    """Size of the vocabulary; for fisher, components of the mixture."""
    vocabulary_seed: int = 0
    """Seed of the sample and of k-means. Not the recipe's seed: runs with several seeds share their words."""
    compress: int = 0
    """Dimensions that descriptors are reduced to by PCA, after taking the roots of their shares; 0: they stay as they are."""
    soft: float = 0.0
    """bag: 0: a descriptor counts for its nearest word; above: for all, by a Gaussian of this width (a descriptor has norm 512)."""
    levels: int = 1
    """Levels of the spatial pyramid: 1: the whole picture; 2: and its quarters; 3: and their quarters."""
    pyramid_weights: bool = True
    """Weigh the levels as Lazebnik et al. do, fine ones more."""
    norm: Literal["none", "l1", "l2", "hellinger", "power"] = "l1"
    """How the vector of each cell of the pyramid is normalised; hellinger: roots of shares; power: signed roots, then L2."""
    normalize_whole: bool = False
    """Normalise all cells by the whole picture's sum."""
    classifier: Literal["knn", "linear"] = "knn"
    """knn: votes of the nearest training pictures; linear: support vector machines."""
    k: int = 1
    """knn: how many vote."""
    distance: Literal["euclidean", "cityblock", "minkowski", "cosine", "chi2", "intersection"] = "cityblock"
    """knn: what is near."""
    power: float = 3.0
    """knn: p of the Minkowski distance."""
    vote: Literal["mode", "nearest", "distance"] = "mode"
    """knn: mode: ties go to the first class; nearest: to the class with the nearer pictures; distance: votes count 1/distance."""
    kernel: Literal["linear", "intersection", "chi2"] = "linear"
    """linear: products are taken of the vectors themselves, or of a feature map that makes them this kernel of histograms."""
    penalties: tuple[float, ...] = (1.0,)
    """linear: values of C to choose from on the validation pictures."""
    refit: bool = True
    """Fit the classifier once more, to the train and validation pictures together, when the settings are chosen."""

    def __post_init__(self) -> None:
        for name in ("step", "words", "samples", "levels", "k"):
            _require(getattr(self, name) >= 1, f"scenes.{name} must be a whole number of 1 or more", getattr(self, name))
        for name in ("smooth", "contrast", "compress", "soft", "vocabulary_seed"):
            _require(getattr(self, name) >= 0, f"scenes.{name} must be 0 or more", getattr(self, name))
        _require(self.levels <= 4, "scenes.levels must be 1 to 4", self.levels)
        _require(
            bool(self.bin_sizes) and all(1 <= size <= 14 for size in self.bin_sizes),
            "scenes.bin_sizes must be one or more of 1 to 14 pixels",
            self.bin_sizes,
        )
        _require(self.power > 0, "scenes.power must be above 0", self.power)
        _require(
            bool(self.penalties) and min(self.penalties) > 0, "scenes.penalties must be one or more above 0", self.penalties
        )
        if self.kernel != "linear" and (self.feature != "bag" or self.norm not in ("l1", "none")):
            raise InputError(
                f"scenes.kernel {self.kernel} compares histograms: it goes with the feature bag and the norm l1 or none; received "
                f"{self.feature} and {self.norm}"
            )
        if self.soft and self.feature != "bag":
            raise InputError(f"scenes.soft goes with the feature bag; received it for {self.feature}: leave it 0")
        signed = self.feature in ("vlad", "fisher")
        if signed and self.norm in ("l1", "hellinger"):
            raise InputError(
                f"scenes.norm of {self.feature} is none, l2 or power, for its values have signs; received {self.norm}"
            )
        if (signed or self.feature == "tiny") and self.classifier == "knn" and self.distance in ("chi2", "intersection"):
            raise InputError(f"scenes.distance {self.distance} compares histograms; received it for {self.feature}")


@dataclass(frozen=True)
class Retrieve:
    """How identities are learnt and found again, for the task retrieve."""

    embedding: int = 0
    """Width of the vector: a dense layer on the pooled feature; 0: the feature itself."""
    neck: bool = False
    """Batch norm between the vector that triplets compare and the one that identities are classified and found by (BNNeck, Luo et
    al. 2019)."""
    dropout: float = 0.5
    """Share of the vector set to zero before the identities' dense layer, while training."""
    identity_loss: Literal["none", "softmax", "arcface", "cosface"] = "softmax"
    """Classification of the training identities: softmax, or with an angular margin."""
    angular_margin: float = 0.5
    """For arcface (radians) and cosface (of the cosine; its paper has 0.35)."""
    angular_scale: float = 30.0
    """For arcface and cosface: what cosines are multiplied by."""
    triplet: Literal["none", "random", "semi-hard", "batch-hard", "batch-all"] = "none"
    """Triplet loss, and which triplets of a batch count."""
    triplet_weight: float = 1.0
    """Of the triplet loss; the identity loss has 1."""
    margin: float = 0.3
    """Of triplets: how much nearer the positive shall be."""
    soft_margin: bool = False
    """Triplets cost log(1 + exp(difference)), which has no margin (Hermans et al. 2017)."""
    distance: Literal["euclidean", "cosine"] = "euclidean"
    """Of triplets. Identities are found by the distance of vectors of length 1 in any case."""
    center_weight: float = 0.0
    """Of the centre loss (Wen et al. 2016); 0: there is none."""
    images_per_identity: int = 0
    """K of PK batches: batch_size / K identities with K images each; 0: batches of any images."""
    protocol: Literal["one-an-identity", "leave-one-out", "query-gallery"] = "one-an-identity"
    """What is looked for among what: the other images among each identity's first; every image among all others; or as the data
    marks them (splits without marks: leave-one-out)."""
    rerank: bool = False
    """Measure k-reciprocal re-ranking too (Zhong et al. 2017)."""

    def __post_init__(self) -> None:
        for name in ("embedding", "triplet_weight", "center_weight", "images_per_identity"):
            _require(getattr(self, name) >= 0, f"retrieve.{name} must be 0 or more", getattr(self, name))
        _require(0 <= self.dropout < 1, "retrieve.dropout must be 0 or more and below 1", self.dropout)
        _require(0 <= self.angular_margin <= math.pi / 2, "retrieve.angular_margin must be 0 to π/2", self.angular_margin)
        _require(self.angular_scale > 0, "retrieve.angular_scale must be above 0", self.angular_scale)
        _require(self.margin > 0, "retrieve.margin must be above 0", self.margin)
        if self.identity_loss == "none" and self.triplet == "none":
            raise InputError("retrieve learns by an identity loss, by triplets or by both; received none of either")
        if self.triplet != "none" and self.images_per_identity < 2:
            raise InputError(
                "triplets need two images or more of each identity in a batch; received retrieve.images_per_identity "
                f"{self.images_per_identity}: give --retrieve.images-per-identity 4"
            )


@dataclass(frozen=True)
class Export:
    """What leaves the run."""

    enabled: bool = True
    """Write model.onnx and check it against Keras on the whole test split."""
    opset: Literal[15, 16, 17, 18, 19, 20, 21, 22, 23] = 17
    """ONNX operator set; beyond 18 by ONNX's version converter."""
    layout: Literal["NHWC", "NCHW"] = "NHWC"
    """Of the file's input: (batch, height, width, channels), or channels first."""
    license: str = ""
    """Licence of the weights, an SPDX name or words, for the contract."""
    tolerance: float = 1e-4
    """Largest absolute difference of any output between Keras and ONNX (see `export.validation`)."""

    def __post_init__(self) -> None:
        _require(self.tolerance > 0, "export.tolerance must be above 0", self.tolerance)


@dataclass(frozen=True)
class Recipe:
    """One experiment, whole: train, measure, plot, export, prove."""

    name: Fixed[str]
    description: Fixed[str]
    """One line: what it is and whose report it comes from."""
    expect: Fixed[str]
    """Machine, time and result to expect."""
    model: str
    """Network, one of `kerascv_course.list_models()`; empty for the task scenes, which has none."""
    data: Data
    """What is learnt from."""
    model_options: Annotated[dict[str, OptionValue], _PAIRS] = field(default_factory=dict)
    """Options of the network, as NAME VALUE pairs; the recipe's others stay as they are, if its network does."""
    weights: str = ""
    """Weights to start from: a .safetensors, .npz, .weights.h5 or .keras file, a hub name, or imagenet for
    those that Keras has for a network of keras.applications. Only the last layer may have another shape; it starts afresh then."""
    train_from: str = ""
    """First layer of the network that learns; those before it keep their weights, batch norms their statistics. Empty: all learn."""
    resize: int = 0
    """Side in pixels to which pictures are enlarged or reduced before the network, bilinearly, inside the graph; 0: as they are."""
    task: Literal["classify", "colorize", "retrieve", "scenes"] = "classify"
    """What is predicted and how it is measured."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    """Random changes of the training images."""
    optimizer: Optimizer = field(default_factory=Optimizer)
    """How the weights move."""
    schedule: Schedule = field(default_factory=Schedule)
    """How the learning rate changes."""
    label_smoothing: float = 0.0
    """Share of the target probability spread over all classes, 0 to below 1."""
    views: Literal["none", "flip", "flip-translate"] = "none"
    """Test-time augmentation: answer by the mean over the picture, its mirror image, and both shifted by a pixel. It is measured,
    and exported inside the graph."""
    colorize: Colorize = field(default_factory=Colorize)
    """Colours, for the task colorize."""
    scenes: Scenes = field(default_factory=Scenes)
    """Features and classifier, for the task scenes."""
    retrieve: Retrieve = field(default_factory=Retrieve)
    """Head, losses, batches and measure, for the task retrieve."""
    epochs: int = 10
    """Passes over the training images, at most."""
    batch_size: int = 64
    """Images a step; the last, incomplete batch of an epoch is left out."""
    shuffle: bool = True
    """A new order of the images every epoch; without it the order of the files."""
    seed: int = 0
    """Seed of the weights, of the order of the images, of augmentation and dropout."""
    validations_per_epoch: int = 1
    """How often an epoch is validated and a checkpoint kept."""
    patience: int = 0
    """Stop after this many validations in a row without a better one; 0: never stop early."""
    monitor: Literal["val_loss", "val_accuracy", "val_R1", "last"] = "val_loss"
    """What makes a checkpoint the best: a figure of the validation split (val_R1: of the task retrieve), or that it is the last."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "float32"
    """What training computes in; weights, and all that is measured and exported, stay float32. auto: what this machine is fast at."""
    jit_compile: Literal["auto", "on", "off"] = "auto"
    """Compile the training step with XLA. auto: on a GPU (with TensorFlow on a CPU it is slower)."""
    fused: bool = False
    """Train batch norm and smooth activations through TensorFlow's fused operations: the same functions, faster on a CPU."""
    norm_groups: int = 1
    """Batch norm over so many equal parts of each batch, as so many devices by themselves would; 1: over the whole batch, however many
    devices share it."""
    log_style: Literal["full", "csc413", "cose474", "ntu"] = "full"
    """Lines of the log: all figures; or as a course prints them: csc413 validation loss and accuracy, cose474 the loss every
    100 steps, ntu accuracy and loss of train and validation."""
    snapshots: int = 1
    """Draw how far it has come after every so many validations, where the task has something to look at; 0: never."""
    deterministic: bool = True
    """Operations that give the same bits every time (slower on a GPU)."""
    export: Export = field(default_factory=Export)
    """What leaves the run."""

    def __post_init__(self) -> None:
        if self.augmentation.mixes and self.task != "classify":
            raise InputError(
                f"augmentation.mixup and augmentation.cutmix mix classes: they go with the task classify; received {self.task}: "
                "leave both 0"
            )
        _require(0 <= self.label_smoothing < 1, "label_smoothing must be 0 or more and below 1", self.label_smoothing)
        _require(self.resize >= 0, "resize must be 0 or a number of pixels", self.resize)
        allowed = {
            "weights": ("classify", "retrieve"),
            "train_from": ("classify", "retrieve"),
            "views": ("classify", "retrieve"),
        }
        for name in ("weights", "train_from", "resize", "views"):
            tasks = allowed.get(name, ("classify",))
            if self.task not in tasks and getattr(self, name) not in ("", 0, "none"):
                raise InputError(
                    f"{name} goes with the task {' or '.join(tasks)}; received {getattr(self, name)!r} for {self.task}: leave it out"
                )
        if self.train_from and not self.weights:
            raise InputError(
                f"train_from keeps the layers before it as they are, which need weights; received {self.train_from!r} without any: "
                "give --weights"
            )
        if self.task == "retrieve":
            each = self.retrieve.images_per_identity
            if each and (self.batch_size % each or self.batch_size < 2 * each):
                raise InputError(
                    f"a batch has retrieve.images_per_identity images of each of two identities or more; received {each} in batches "
                    f"of {self.batch_size}: use a multiple, such as --batch-size {max(2, self.batch_size // each) * each}"
                )
        if (self.monitor == "val_R1") > (self.task == "retrieve") or (self.monitor == "val_accuracy") > (
            self.task != "retrieve"
        ):
            raise InputError(f"the monitor {self.monitor} is none of the task {self.task}: use val_loss or last")
        for name in ("epochs", "batch_size", "validations_per_epoch", "norm_groups"):
            _require(getattr(self, name) >= 1, f"{name} must be a whole number of 1 or more", getattr(self, name))
        if self.batch_size % self.norm_groups:
            raise InputError(
                f"norm_groups are equal parts of a batch; received {self.norm_groups} of {self.batch_size} images: use a divisor"
            )
        _require(self.patience >= 0, "patience must be 0 or more", self.patience)
        if self.patience and self.monitor == "last":
            raise InputError(
                "patience goes with a monitor of the validation split; received it with --monitor last: leave it 0"
            )
        _require(self.seed >= 0, "seed must be 0 or more", self.seed)
        _require(self.snapshots >= 0, "snapshots must be 0 or more", self.snapshots)


def with_base_options(recipe: Recipe, base: Recipe) -> Recipe:
    """A recipe from a command line, with the options of the network that only `base`, which it overrides, has.

    Another network takes none of them.
    """
    given = recipe.model_options if isinstance(recipe.model_options, _Given) else {}
    return replace(recipe, model_options={**(base.model_options if recipe.model == base.model else {}), **given})
