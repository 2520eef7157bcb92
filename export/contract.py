"""What an exported file promises: one JSON document in its ONNX metadata.

Standard library and onnxruntime only: whoever has the file can read it without TensorFlow.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from kerascv_course.errors import InputError
from kerascv_course.jsondata import from_json

__all__ = [
    "KEY",
    "VERSION",
    "Contract",
    "ContractError",
    "Input",
    "Output",
    "Preprocessing",
    "Tiling",
    "parse_contract",
    "read_contract",
]

#: Metadata key that holds the document.
KEY = "kerascv_course.contract"

#: Version of the document; a reader refuses versions it does not know.
VERSION = 1

#: Longest document that is read, characters.
MAX_CHARACTERS = 16_000_000


#: Largest overlap of tiles that is believed, pixels.
MAX_OVERLAP = 4096


class ContractError(InputError):
    """A file without our contract, or with one that does not hold together."""


@dataclass(frozen=True)
class Input:
    """The one input.

    Attributes:
        name: of the tensor.
        dtype: ``uint8`` (0–255), or ``float32`` where preprocessing happens before the graph.
        layout: order of the axes.
        height: rows, pixels; None: any number, and so the width.
        width: columns, pixels.
        channels: 1 or 3.
        color: ``gray`` or ``RGB``.
        range: smallest and largest value, before preprocessing.
        resize: resampling filter for pictures of another size; the aspect ratio is not kept.
    """

    name: str
    dtype: Literal["uint8", "float32"]
    layout: Literal["NHWC"]
    height: int | None
    width: int | None
    channels: int
    color: Literal["gray", "RGB"]
    range: tuple[float, float] = (0.0, 255.0)
    resize: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"


@dataclass(frozen=True)
class Preprocessing:
    """What is done to pixels of 0–255: ``(pixel · scale − mean) / std``, per channel.

    Attributes:
        where: ``graph``: inside the file, feed raw pixels; ``caller``: before it, the input takes the result.
        scale: factor.
        mean: one value, or one for each channel; None: it is in the graph, but what it does is not known.
        std: likewise.
    """

    where: Literal["graph", "caller"]
    scale: float = 1 / 255
    mean: tuple[float, ...] | None = (0.0,)
    std: tuple[float, ...] | None = (1.0,)


@dataclass(frozen=True)
class Output:
    """One output.

    Attributes:
        name: of the tensor.
        meaning: ``logits``: unnormalised scores; ``probabilities``: their softmax over the last axis; ``classes``: whole numbers,
            the class answered at each position; ``picture``: uint8 RGB of the input's height and width; ``values``: anything else.
        shape: after the batch axis; None where it varies.
    """

    name: str
    meaning: Literal["logits", "probabilities", "classes", "picture", "values"]
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class Tiling:
    """How a large picture can be answered in pieces, which then give what the whole would have given.

    Attributes:
        multiple: pieces begin at multiples of it, pixels.
        overlap: a piece is run with so many pixels more on every side where the picture goes on, and these answers are dropped:
            no answer depends on anything farther away.
    """

    multiple: int
    overlap: int


@dataclass(frozen=True)
class Contract:
    """The document.

    Attributes:
        task: ``classify``; ``colorize`` (its labels are the colours); or ``tensor``: an answer that only its user knows.
        name: of the recipe, or of the model.
        input: the one input.
        preprocessing: what is done to the pixels, and where.
        outputs: in the order of the graph.
        labels: class names in the order of the last axis; empty where there are none.
        recipe: the whole recipe, where one made the model.
        data: source, fingerprint and citation of the data.
        metrics: figures with the split in their name, such as ``test_accuracy``.
        versions: of the packages that made the file.
        tiling: how to cut large pictures; None: they are not to be cut.
        version: of this document's form.
    """

    task: Literal["classify", "colorize", "tensor"]
    name: str
    input: Input
    preprocessing: Preprocessing
    outputs: tuple[Output, ...]
    labels: tuple[str, ...] = ()
    recipe: dict[str, Any] = field(default_factory=dict)
    data: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    tiling: Tiling | None = None
    version: int = VERSION

    def __post_init__(self) -> None:
        """Check what the types cannot say.

        Raises:
            ContractError: parts that contradict each other.
        """
        if self.version != VERSION:
            raise ContractError(f"the contract has version {self.version}; this reader knows version {VERSION}: update it")
        image = self.input
        size = (image.height, image.width)
        _require(
            size == (None, None) or all(n is not None and n >= 1 for n in size),
            f"input height and width of 1 or more, or neither, not {image.height}×{image.width}",
        )
        colors = {"gray": 1, "RGB": 3}
        _require(
            colors[image.color] == image.channels, f"{colors[image.color]} channels for {image.color}, not {image.channels}"
        )
        steps = self.preprocessing
        _require(
            (steps.mean is None) == (steps.std is None) and (steps.mean is not None or steps.where == "graph"),
            "both mean and std; only where preprocessing is in the graph may they be unknown (null)",
        )
        for name in ("mean", "std"):
            values = getattr(steps, name)
            if values is None:
                continue
            _require(len(values) in (1, image.channels), f"1 or {image.channels} values of {name}, not {len(values)}")
            _require(all(map(math.isfinite, values)), f"finite values of {name}, not {values}")
            _require(name == "mean" or min(values) > 0, f"std above 0, not {values}")
        _require(len(self.outputs) > 0, "one output or more")
        _require(len({output.name for output in self.outputs}) == len(self.outputs), "outputs of different names")
        if self.task == "classify":
            scores = [output for output in self.outputs if output.meaning == "probabilities"]
            _require(bool(scores), "an output of probabilities for the task classify")
            if self.labels:
                _require(scores[0].shape == (len(self.labels),), f"one label a class: {len(self.labels)} for {scores[0].shape}")

        if self.task == "colorize":
            scores = [output for output in self.outputs if output.meaning == "logits"]
            _require(self.output("picture") is not None and bool(scores), "outputs picture and logits for the task colorize")
            _require(
                scores[0].shape[-1:] == (len(self.labels),),
                f"one colour a class: {len(self.labels)} for {scores[0].shape}",
            )
        if self.tiling is not None:
            _require(
                self.tiling.multiple >= 1 and 0 <= self.tiling.overlap <= MAX_OVERLAP,
                f"tiles at multiples of 1 or more and an overlap of 0 to {MAX_OVERLAP}, not {self.tiling}",
            )
            _require(self.tiling.overlap % self.tiling.multiple == 0, f"an overlap of whole multiples, not {self.tiling}")

    def output(self, meaning: str) -> Output | None:
        """The first output of a meaning."""
        return next((output for output in self.outputs if output.meaning == meaning), None)


def _require(ok: bool, rule: str) -> None:
    if not ok:
        raise ContractError(f"a contract has {rule}")


def parse_contract(metadata: Mapping[str, str], *, what: str) -> Contract:
    """The contract among an ONNX file's metadata properties.

    Args:
        metadata: key to text.
        what: how an error calls the file.

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
        return from_json(Contract, text, what=f"the contract of {what}")
    except ContractError:
        raise
    except InputError as error:
        raise ContractError(str(error)) from None


def read_contract(path: Any) -> Contract:
    """The contract of an ONNX file.

    Raises:
        ContractError: the file is missing, is no ONNX model, or has no valid contract.
    """
    from export.runtime import OnnxModel

    return OnnxModel(path).contract
