"""The contract of an exported file: one JSON document in its ONNX metadata (schema: `contract.schema.json`).

Standard library only. `export.untrusted.screen.read_contract` reads it from a file.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from kerascv_course.core.errors import InputError
from kerascv_course.core.schema import convert, parse_json

__all__ = [
    "KEY",
    "VERSION",
    "Contract",
    "ContractError",
    "Input",
    "Metric",
    "Output",
    "Parity",
    "Precision",
    "Preprocessing",
    "Tiling",
    "dump_contract",
    "parse_contract",
]

#: Metadata key that holds the document.
KEY = "kerascv_course.contract"

#: Version of the document; a reader refuses versions it does not know.
VERSION = 2

#: Longest document that is read, characters.
MAX_CHARACTERS = 16_000_000

#: Longest rule that an error tells, characters: it quotes values.
MAX_RULE = 500

#: Largest overlap of tiles that is believed, pixels.
MAX_OVERLAP = 4096

#: Largest height and width of a fixed input that is believed, pixels, and the largest product.
MAX_SIDE = 16_384
MAX_AREA = 2**24

Meaning = Literal["logits", "probabilities", "classes", "picture", "embedding", "neighbors", "distances", "values"]


class ContractError(InputError):
    """A file without our contract, or with an inconsistent one."""


@dataclass(frozen=True)
class Input:
    """The input.

    Attributes:
        name: of the tensor.
        dtype: ``uint8`` (0–255), or ``float32`` where preprocessing happens before the graph.
        layout: order of the axes; N is the batch.
        height: in pixels; None: any height, and then any width.
        width: in pixels.
        channels: 1 or 3.
        color: ``gray`` or ``RGB``: order of the input's channels.
        range: smallest and largest value of a pixel, before preprocessing.
        resize: resampling filter for images of another size, antialiased as in Pillow; the aspect ratio is not kept.
    """

    name: str
    dtype: Literal["uint8", "float32"]
    layout: Literal["NHWC", "NCHW"]
    height: int | None
    width: int | None
    channels: int
    color: Literal["gray", "RGB"]
    range: tuple[float, float] = (0.0, 255.0)
    resize: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"


@dataclass(frozen=True)
class Preprocessing:
    """Preprocessing of pixels 0–255: ``(pixel · scale − mean) / std``, per channel.

    Attributes:
        where: ``graph``: inside the file, which takes raw pixels; ``caller``: before the file, which takes the result.
        scale: factor on the pixels of 0–255.
        mean: one value, or one per channel in the order of `channels`; None: inside the graph, unknown.
        std: standard deviation: one value, or one per channel in the order of `channels`; None: inside the graph, unknown.
        channels: channel order of the network: ``BGR``: the channels are reversed first; ``as fed``: they are not.
    """

    where: Literal["graph", "caller"]
    scale: float = 1 / 255
    mean: tuple[float, ...] | None = (0.0,)
    std: tuple[float, ...] | None = (1.0,)
    channels: Literal["as fed", "BGR"] = "as fed"


@dataclass(frozen=True)
class Output:
    """An output.

    Attributes:
        name: of the tensor.
        meaning: ``logits``: unnormalized scores; ``probabilities``: scores of 0 to 1, their softmax or fractions of votes; ``classes``:
            integers, the class predicted at each position; ``picture``: a uint8 RGB image of the input's height and width;
            ``embedding``: a vector to be compared by distance; ``neighbors``: numbers of gallery entries, nearest first;
            ``distances``: to these; ``values``: anything else.
        shape: without the batch axis; None for a size that varies.
        activation: the last step: ``softmax``, ``sigmoid``, ``l2`` (vectors of unit length), or ``none``.
    """

    name: str
    meaning: Meaning
    shape: tuple[int | None, ...]
    activation: Literal["none", "softmax", "sigmoid", "l2"] = "none"


@dataclass(frozen=True)
class Tiling:
    """How a large image can be processed in tiles with the same result as the whole.

    Attributes:
        multiple: tiles start at multiples of this many pixels.
        overlap: pixels added on every inner side of a tile, whose outputs are dropped: no output depends on pixels farther away.
    """

    multiple: int
    overlap: int


@dataclass(frozen=True)
class Metric:
    """A measured metric.

    Attributes:
        name: such as ``accuracy``, a fraction of 0 to 1.
        split: images it was measured on: ``train``, ``validation``, ``test``, or another name.
        value: of the metric.
    """

    name: str
    split: str
    value: float


@dataclass(frozen=True)
class Parity:
    """The validation of the file: its outputs against the Keras model's.

    Attributes:
        images: how many were compared.
        tolerance: largest absolute difference allowed.
        largest_difference: of any value of any output.
        agreement: fraction of equal predictions (of embeddings: of equal rank lists), 0 to 1; None for a task without predictions.
        accuracy_keras: accuracy (of embeddings: R1) of the Keras model; None if targets were not known.
        accuracy_onnx: the same of the file.
    """

    images: int
    tolerance: float
    largest_difference: float
    agreement: float | None = None
    accuracy_keras: float | None = None
    accuracy_onnx: float | None = None


@dataclass(frozen=True)
class Precision:
    """How a file of lower precision than float32 was made, with its loss of accuracy and its speedup.

    Attributes:
        kind: ``int8``: static quantization of weights and activations; ``float16``: half precision.
        method: in words.
        calibration_images: training images used for calibration; 0 for float16.
        float_nodes: nodes with weights that stay in float32 to preserve accuracy.
        split: images that accuracy was measured on: ``test``, or another name.
        images: how many.
        accuracy_float32: accuracy of the float32 file.
        accuracy: accuracy of this file.
        batch_sizes: at which speed was measured.
        speedups: median time of the float32 file divided by this one's, per batch size.
        machine: of the measurement: processor or GPU, cores, onnxruntime's provider.
        refused: why the file failed the verdict, if it was kept by force; empty: it passed.
    """

    kind: Literal["int8", "float16"]
    method: str
    calibration_images: int
    float_nodes: tuple[str, ...]
    split: str
    images: int
    accuracy_float32: float
    accuracy: float
    batch_sizes: tuple[int, ...]
    speedups: tuple[float, ...]
    machine: str
    refused: tuple[str, ...] = ()


@dataclass(frozen=True)
class Contract:
    """The contract of an exported file.

    Attributes:
        task: ``classify``; ``scenes``: the same by classical vision; ``colorize``: its labels are the colors; ``embed``: images to
            embeddings; ``rank``: the nearest entries of a gallery; or ``tensor``: outputs without a stated meaning.
        name: of the recipe, or of the model.
        input: the input.
        preprocessing: of the pixels, and where it happens.
        outputs: in the order of the graph.
        labels: class names in the order of the last axis; may be empty.
        gallery: name of each gallery entry, indexed by ``neighbors``.
        recipe: the whole recipe, if a recipe made the model.
        data: source, fingerprint and citation of the data.
        metrics: each with its split.
        versions: of the packages that made the file.
        git_commit: of the source that made the file, with ``+`` if it was modified; empty outside a checkout.
        license: of the weights, an SPDX name or words; empty: not stated.
        tiling: how to tile large images; None: do not tile.
        parity: the validation; None: not validated yet.
        precision: None: float32.
        converter: that wrote the graph: ``native``, ``tf2onnx``, or empty: not stated.
        version: of the contract format.
    """

    task: Literal["classify", "scenes", "colorize", "embed", "rank", "tensor"]
    name: str
    input: Input
    preprocessing: Preprocessing
    outputs: tuple[Output, ...]
    labels: tuple[str, ...] = ()
    gallery: tuple[str, ...] = ()
    recipe: dict[str, Any] = field(default_factory=dict)
    data: dict[str, str] = field(default_factory=dict)
    metrics: tuple[Metric, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)
    git_commit: str = ""
    license: str = ""
    tiling: Tiling | None = None
    parity: Parity | None = None
    precision: Precision | None = None
    converter: str = ""
    version: int = VERSION

    def __post_init__(self) -> None:
        """Check the rules that types cannot express.

        Raises:
            ContractError: parts that contradict each other.
        """
        if self.version != VERSION:
            raise _other_version(self.version)
        for ok, rule in itertools.chain(_input_rules(self), _output_rules(self), _record_rules(self)):
            if not ok:
                raise ContractError(f"a contract has {rule if len(rule) < MAX_RULE else rule[:MAX_RULE] + ' …'}")

    def metric(self, name: str, split: str = "test") -> float | None:
        """A metric; None if it was not measured."""
        return next((metric.value for metric in self.metrics if (metric.name, metric.split) == (name, split)), None)

    @property
    def classifies(self) -> bool:
        """Whether the file predicts a class, with the scores of all classes."""
        return self.task in ("classify", "scenes")

    def output(self, meaning: str) -> Output | None:
        """The first output of a meaning."""
        for output in self.outputs:
            if output.meaning == meaning:
                return output
        return None


#: A rule in words, and whether it holds; checked in order, so that one may rely on those before it.
Rules = Iterator[tuple[bool, str]]


def _input_rules(contract: Contract) -> Rules:
    image, steps = contract.input, contract.preprocessing
    size = f"{image.height}×{image.width}"
    sides = (image.height or 0, image.width or 0)
    known = min(sides) >= 1 and max(sides) <= MAX_SIDE
    yield (
        known or (image.height is None and image.width is None),
        f"input height and width of 1 to {MAX_SIDE}, or neither, not {size}",
    )
    yield sides[0] * sides[1] <= MAX_AREA, f"an input of at most {MAX_AREA:,} pixels, not {size}"
    channels = {"gray": 1, "RGB": 3}[image.color]
    yield channels == image.channels, f"{channels} channels for {image.color}, not {image.channels}"
    yield (
        (steps.mean is None) == (steps.std is None) and (steps.mean is not None or steps.where == "graph"),
        "both mean and std; only where preprocessing is in the graph may they be unknown (null)",
    )
    yield math.isfinite(steps.scale), f"a finite scale, not {steps.scale}"
    yield (
        (image.dtype == "uint8") == (steps.where == "graph"),
        f"preprocessing in the graph for uint8 input and before it for float32, not {steps.where} for {image.dtype}",
    )
    yield steps.channels == "as fed" or channels == 3, "BGR for 3 channels only"
    for name, values in (("mean", steps.mean), ("std", steps.std)):
        if values is not None:
            yield len(values) in (1, channels), f"1 or {channels} values of {name}, not {len(values)}"
            yield all(map(math.isfinite, values)), f"finite values of {name}, not {values}"
            yield name == "mean" or min(values) > 0, f"std above 0, not {values}"


#: Outputs that a task needs, by meaning; the last is what its labels name.
_NEEDED = {
    "classify": ("probabilities",),
    "scenes": ("probabilities",),
    "colorize": ("picture", "logits"),
    "embed": ("embedding",),
    "rank": ("neighbors", "distances"),
    "tensor": (),
}


def _output_rules(contract: Contract) -> Rules:
    outputs, labels, task = contract.outputs, contract.labels, contract.task
    yield len(outputs) > 0, "one output or more"
    yield len(dict.fromkeys(map(operator.attrgetter("name"), outputs))) == len(outputs), "outputs of different names"
    scores = None
    for meaning in _NEEDED[task]:
        scores = contract.output(meaning)
        yield scores is not None, f"an output of {meaning} for the task {task}"
    if scores is not None and (task == "colorize" or (contract.classifies and labels)):
        fits = scores.shape[-1:] == (len(labels),) and (task == "colorize" or len(scores.shape) == 1)
        yield fits, f"one {'color' if task == 'colorize' else 'label'} a class: {len(labels)} for {scores.shape}"
    yield task != "rank" or bool(contract.gallery), "a gallery for the task rank"


def _record_rules(contract: Contract) -> Rules:
    texts = (contract.name, contract.license, *contract.labels, *contract.gallery, *contract.data.values())
    yield set(map(type, texts)) <= {str}, "texts for name, license, labels, gallery and data"
    for metric in contract.metrics:
        yield math.isfinite(metric.value), f"finite metrics, not {metric.value}"
    for name in ("parity", "precision"):
        for key in ("agreement", "accuracy", "accuracy_keras", "accuracy_onnx", "accuracy_float32"):
            share = getattr(getattr(contract, name), key, None)
            yield share is None or 0 <= share <= 1, f"{name}.{key} of 0 to 1, not {share}"
    if precision := contract.precision:
        yield len(precision.speedups) == len(precision.batch_sizes), "one speedup a batch size"
        yield all(0 < speedup < math.inf for speedup in precision.speedups), "speedups above 0"
    if tiling := contract.tiling:
        yield (
            tiling.multiple >= 1 and 0 <= tiling.overlap <= MAX_OVERLAP,
            f"tiles at multiples of 1 or more and an overlap of 0 to {MAX_OVERLAP}, not {tiling}",
        )
        yield tiling.overlap % tiling.multiple == 0, f"an overlap of whole multiples, not {tiling}"


def _other_version(version: int) -> ContractError:
    return ContractError(
        f"the contract has version {str(version)[:20]}; this reader knows version {VERSION}: "
        + ("export the model again" if version < VERSION else "update the reader")
    )


#: Parts of a contract that follow from the model, its data and its metrics.
STATED = ("task", "name", "input", "preprocessing", "labels", "license", "tiling")


#: How far a metric may be from one measured again, on other hardware.
SAME_METRIC = 1e-4


def contract_differences(contract: Contract, expected: Contract) -> list[str]:
    """What a contract states otherwise than it should, a sentence each.

    Args:
        contract: of a file.
        expected: what it should be; recipe, versions, commit, parity, precision, the citation of the data and the order
            of outputs are not compared.
    """
    pairs: list[tuple[str, Any, Any]] = [(part, getattr(contract, part), getattr(expected, part)) for part in STATED]
    data = [{key: value for key, value in one.data.items() if key != "citation"} for one in (contract, expected)]
    pairs.append(("data", data[0], data[1]))
    pairs.append(("outputs", sorted(map(str, contract.outputs)), sorted(map(str, expected.outputs))))
    measured = [{f"{metric.split} {metric.name}": metric.value for metric in one.metrics} for one in (contract, expected)]
    for name in sorted(measured[0].keys() | measured[1].keys()):
        value, right = (metrics.get(name) for metrics in measured)
        if value is None or right is None or not abs(value - right) <= SAME_METRIC * max(1, abs(right)):
            pairs.append((f"metrics: {name}", value, right))
    found = []
    for part, ours, theirs in pairs:
        if ours != theirs:
            if dataclasses.is_dataclass(ours) and dataclasses.is_dataclass(theirs):
                names = [field.name for field in dataclasses.fields(ours)]
                name = next(name for name in names if getattr(ours, name) != getattr(theirs, name, None))
                part, ours, theirs = f"{part}.{name}", getattr(ours, name), getattr(theirs, name, None)
            elif isinstance(ours, list) and isinstance(theirs, list):
                ours, theirs = sorted(set(ours) - set(theirs)), sorted(set(theirs) - set(ours))
            found.append(f"the contract states {part} {str(ours)[:200]}; the model has {str(theirs)[:200]}")
    return found


def dump_contract(contract: Contract) -> str:
    """The document as JSON text.

    Raises:
        ContractError: a value that JSON cannot hold.
    """
    try:
        text = json.dumps(dataclasses.asdict(contract), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        text.encode("utf-8")
    except (TypeError, ValueError) as error:  # UnicodeEncodeError, for an unpaired surrogate, is a ValueError
        raise ContractError(f"the contract cannot be written as JSON: {error}") from None
    return text


def parse_contract(metadata: Mapping[str, str], *, what: str) -> Contract:
    """The contract among an ONNX file's metadata properties.

    Args:
        metadata: key to text.
        what: name of the file in errors.

    Raises:
        ContractError: there is none, or it is not valid.
    """
    if KEY not in metadata:
        raise ContractError(
            f"{what} has no contract (metadata {KEY!r}), so its input and labels are unknown: export the model with export_model "
            "or python -m export, or run it with onnxruntime directly"
        )
    text = metadata[KEY]
    if len(text) > MAX_CHARACTERS:
        raise ContractError(f"the contract of {what} has {len(text):,} characters; at most {MAX_CHARACTERS:,} are read")
    try:
        plain = parse_json(text, what=f"the contract of {what}")
        version = plain.get("version") if isinstance(plain, dict) else None
        if isinstance(version, int) and version != VERSION:  # before the fields, which differ between versions
            raise _other_version(version)
        contract: Contract = convert(Contract, plain, what=f"the contract of {what}")
        return contract
    except ContractError:
        raise
    except InputError as error:
        raise ContractError(str(error)) from None
