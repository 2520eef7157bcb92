"""A look at an ONNX file before onnxruntime gets it: anybody may have written it.

onnxruntime guards itself against much, not against all: sizes near 2⁶³ make it spin or divide by zero, a text that is no UTF-8 raises
something else, and older versions followed references to files anywhere. So the protobuf is walked here first, in plain Python, its
weights skipped, and what no file of ours contains is refused. Standard library only.

Field numbers: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

from __future__ import annotations

import mmap
import os
import struct
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath

from export.contract import MAX_SIDE, ContractError
from export.untrusted.wire import BYTES, MAX_NAME, VARINT, MalformedError, Span, WireReader, signed

__all__ = ["ScreenedFile", "screen"]

#: Graphs within graphs.
MAX_DEPTH = 8

#: Metadata, all together, bytes.
MAX_METADATA = 64 * 2**20

#: Largest kernel, stride, dilation, padding, group or other whole number of an attribute that sets a size.
MAX_SETTING = 65_536
SETTINGS = {
    "kernel_shape",
    "strides",
    "dilations",
    "pads",
    "output_padding",
    "output_shape",
    "group",
    "num_groups",
    "blocksize",
    "shape",
    "num_outputs",
    "hidden_size",
    "k",
}

#: Those that onnxruntime divides by, or steps by: 1 or more.
POSITIVE = {"kernel_shape", "strides", "dilations", "group", "num_groups", "blocksize", "hidden_size", "num_outputs"}

#: What the factors of a Resize may be computed by. onnxruntime reads as many factors as the picture has axes, whatever it is given.
FACTORS = {"Concat", "Cast", "Div", "Mul", "Slice", "Gather", "Unsqueeze", "Squeeze", "Reshape", "Constant", "Identity"}
MAX_FACTORS = 8

#: Elements of a tensor that is declared, and of one that a constant shape asks for.
MAX_ELEMENTS = 2**28

#: Operators whose sizes come from a small constant: position of that input, and the largest value in it.
SIZED = {
    "Pad": {1: 4096},
    "Expand": {1: MAX_SIDE * 4},
    "Tile": {1: 4096},
    "ConstantOfShape": {0: MAX_ELEMENTS},
    "Resize": {2: 64, 3: MAX_SIDE},
    "Upsample": {1: 64},
    "OneHot": {1: 1_000_000},
    "Range": {1: MAX_ELEMENTS},
    "TopK": {1: MAX_ELEMENTS},
}

#: Operators that repeat a graph as often as the file says, and those whose answers differ from call to call. One Loop is let through:
#: outermost, and once for each picture (or each row, or column) that the caller feeds.
REPEATING = {"Loop", "Scan", "SequenceMap"}
REFUSED = REPEATING | {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli"}

#: What leads from the shape of the input to one of its sizes.
SHAPE_STEPS = {"Cast", "Slice", "Squeeze", "Gather", "Identity"}

#: Where operators may come from: ONNX itself, and what onnxruntime adds for quantised files.
DOMAINS = {"", "ai.onnx", "com.microsoft"}

#: Bytes of an element by TensorProto.DataType; texts have none. Four bits take half a byte.
ITEM_BITS = {1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 14: 64, 15: 128, 16: 16} | {
    17: 8,
    18: 8,
    19: 8,
    20: 8,
    21: 4,
    22: 4,
    23: 4,
    24: 8,
}


@dataclass
class ScreenedFile:
    """What was seen.

    Attributes:
        metadata: key to text.
        operators: how many nodes of each operator.
        opsets: version by domain.
        parameters: elements of all stored tensors.
        external: names of files beside this one that hold weights.
    """

    metadata: dict[str, str] = field(default_factory=dict)
    operators: dict[str, int] = field(default_factory=dict)
    opsets: dict[str, int] = field(default_factory=dict)
    parameters: int = 0
    external: set[str] = field(default_factory=set)


def screen(path: Path) -> ScreenedFile:
    """Walk a file.

    Raises:
        ContractError: missing, no whole ONNX file, or with something that is refused: a reference to a file elsewhere, sizes beyond all
            pictures, an operator that is none of ONNX's or repeats as often as it likes.
    """
    if path.is_dir():
        raise ContractError(f"{path} is a folder: give the ONNX file, in a run folder {path / 'model.onnx'}")
    if not path.is_file():
        raise ContractError(f"no such file: {path}")
    try:
        with path.open("rb") as file:
            if not os.fstat(file.fileno()).st_size:
                raise MalformedError("it is empty")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                walker = _Walker(data, path)
                walker.model()
                return walker.seen
    except MalformedError as error:
        raise ContractError(
            f"{path} is not an ONNX model that can be run: cut short, damaged, not ONNX or not safe ({error})"
        ) from None
    except OSError as error:
        raise ContractError(f"{path} cannot be read: {error}") from None


class _Walker(WireReader):
    """Goes through the messages of one file."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        super().__init__(data)
        self.path = path
        self.seen = ScreenedFile()
        #: elements and largest value of each small constant of whole numbers or factors, by name, for `SIZED`
        self.constants: dict[str, tuple[int, float]] = {}
        #: operator by the name of what it makes
        self.makers: dict[str, str] = {}
        #: names of the outermost graph's inputs, and of what is one of their sizes, or all of them
        self.fed: set[str] = set()
        self.sizes: set[str] = set()

    # --- ONNX's messages ---

    def model(self) -> None:
        """ModelProto."""
        graphs, size = 0, 0
        for number, span in self.spans((0, len(self.data))):
            if number == 7:
                graphs += 1
                self._graph(span, 0)
            elif number == 8:
                self._opset(span)
            elif number == 14:
                key, value = self._pair(span, MAX_METADATA)
                size += len(key) + len(value)
                if size > MAX_METADATA:
                    raise MalformedError(f"more than {MAX_METADATA:,} bytes of metadata")
                self.seen.metadata[key] = value
            elif number in (25, 20):
                raise MalformedError("functions or training graphs, which no exported file has")
            elif number in (2, 3, 4, 6):
                self.text(span, MAX_METADATA)
        if graphs != 1:
            raise MalformedError(f"{graphs} graphs in place of one")

    def _opset(self, span: Span) -> None:
        domain, version = "", 0
        for number, kind, value in self.fields(span):
            if number == 1 and kind == BYTES:
                assert isinstance(value, tuple)
                domain = self.text(value)
            elif number == 2 and isinstance(value, int):
                version = signed(value)
        if domain in ("", "ai.onnx") and not 1 <= version <= 100:
            raise MalformedError(f"operator set {version}")
        self.seen.opsets[domain] = version

    def _pair(self, span: Span, limit: int = MAX_NAME) -> tuple[str, str]:
        """StringStringEntryProto."""
        parts = {1: "", 2: ""}
        for number, value in self.spans(span):
            if number in parts:
                parts[number] = self.text(value, limit)
        return parts[1], parts[2]

    def _graph(self, span: Span, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise MalformedError(f"graphs nested more than {MAX_DEPTH} deep")
        nodes = []
        for number, value in self.spans(span):
            if number == 1:
                nodes.append(value)
            elif number == 5:
                self._tensor(value)
            elif number == 15:
                raise MalformedError("sparse tensors, which no exported file has")
            elif number in (11, 12, 13):
                name = self._value(value)
                if number == 11 and depth == 0:
                    self.fed.add(name)
            elif number in (2, 10):
                self.text(value, MAX_METADATA)
        for node in nodes:
            self._node(node, depth)

    def _node(self, span: Span, depth: int) -> None:
        inputs, outputs, operator, domain = [], [], "", ""
        attributes = []
        for number, value in self.spans(span):
            if number == 1:
                inputs.append(self.text(value))
            elif number == 2:
                outputs.append(self.text(value))
            elif number == 4:
                operator = self.text(value)
            elif number == 7:
                domain = self.text(value)
            elif number == 5:
                attributes.append(value)
            elif number in (3, 6, 8):
                self.text(value, MAX_METADATA)
        if domain not in DOMAINS:
            raise MalformedError(f"the operator {operator[:80]!r} of the domain {domain[:80]!r}, which is none of ONNX's")
        by_picture = operator == "Loop" and depth == 0 and inputs[:1] and inputs[0] in self.sizes
        if operator in REFUSED and not by_picture:
            raise MalformedError(f"the operator {operator!r}, which repeats as often as the file says, or answers by chance")
        self.seen.operators[operator] = self.seen.operators.get(operator, 0) + 1
        if operator in ("Resize", "Upsample"):
            factors = (inputs[2:3] if operator == "Resize" else inputs[1:2]) or [""]
            elements, _ = self.constants.get(factors[0], (MAX_FACTORS + 1, 0))
            if factors[0] and elements > MAX_FACTORS and self.makers.get(factors[0]) not in FACTORS:
                raise MalformedError(f"{operator} with factors that are none")
        self.makers.update(dict.fromkeys(outputs, operator))
        if depth == 0 and inputs:
            known = self.fed if operator == "Shape" else self.sizes if operator in SHAPE_STEPS else ()
            self.sizes.update(outputs if inputs[0] in known else ())
        for attribute in attributes:
            self._attribute(attribute, depth, outputs)
        for place, most in SIZED.get(operator, {}).items():
            _, largest = self.constants.get(inputs[place], (0, 0.0)) if place < len(inputs) else (0, 0.0)
            if largest > most:
                raise MalformedError(f"{operator} asks for a size of {largest:g}; at most {most:,} is believed")

    def _attribute(self, span: Span, depth: int, outputs: list[str]) -> None:
        name, numbers = "", []
        for number, kind, value in self.fields(span):
            if number == 1 and isinstance(value, tuple):
                name = self.text(value)
            elif number in (3, 8):
                numbers += list(self.numbers(kind, value))
            elif number in (5, 10) and isinstance(value, tuple):
                self._tensor(value, outputs[0] if outputs else None)
            elif number in (6, 11) and isinstance(value, tuple):
                self._graph(value, depth + 1)
            elif number in (22, 23):
                raise MalformedError("sparse tensors, which no exported file has")
        if name in POSITIVE and any(number < 1 for number in numbers):
            raise MalformedError(f"{name} of {min(numbers):,}; it is 1 or more")
        if name in ("pads", "output_padding") and any(number < 0 for number in numbers):
            raise MalformedError(f"{name} of {min(numbers):,}; it is 0 or more")
        if name in SETTINGS and any(abs(number) > MAX_SETTING for number in numbers):
            raise MalformedError(f"{name} of {max(numbers, key=abs):,}; at most {MAX_SETTING:,} is believed")

    def _value(self, span: Span) -> str:
        """ValueInfoProto: the name; the declared shape is looked at."""
        name = ""
        for number, value in self.spans(span):
            if number == 1:
                name = self.text(value)
            elif number == 2:
                for kind, inner in self.spans(value):
                    if kind == 1:
                        self._tensor_type(inner)
        return name

    def _tensor_type(self, span: Span) -> None:
        elements = 1
        for number, shape in self.spans(span):
            if number != 2:
                continue
            for field_number, dim in self.spans(shape):
                if field_number != 1:
                    continue
                for part, kind, value in self.fields(dim):
                    if part == 1 and kind == VARINT:
                        assert isinstance(value, int)
                        size = signed(value)
                        # tf2onnx writes -1 for a size that it does not know
                        if not -1 <= size <= MAX_ELEMENTS:
                            raise MalformedError(f"a size of {size:,}")
                        elements *= max(size, 1)
                    elif part == 2 and isinstance(value, tuple):
                        self.text(value)
        if elements > MAX_ELEMENTS:
            raise MalformedError(f"a tensor of {elements:,} elements is declared; at most {MAX_ELEMENTS:,} are believed")

    def _tensor(self, span: Span, name: str | None = None) -> None:
        """TensorProto; `name`: of the node's output, where the tensor is a node's constant."""
        dims: list[int] = []
        kind_of_data, stored, raw, external, outside = 0, 0, None, [], False
        for number, kind, value in self.fields(span):
            if number == 1:
                dims += self.numbers(kind, value)
            elif number == 2 and isinstance(value, int):
                kind_of_data = value
            elif number == 8 and isinstance(value, tuple):
                name = self.text(value) or name
            elif number == 9 and isinstance(value, tuple):
                raw = value
            elif number == 13 and isinstance(value, tuple):
                external.append(self._pair(value))
            elif number == 14 and isinstance(value, int):
                outside = value == 1
            elif number in (4, 5, 7, 10, 11) and isinstance(value, tuple):
                stored += value[1] - value[0]
            elif number == 3:
                raise MalformedError("a tensor in segments, which no exported file has")
        elements = 1
        for size in dims:
            if size < 0:
                raise MalformedError(f"a stored tensor of the shape {dims[:8]}")
            elements *= size
        bits = ITEM_BITS.get(kind_of_data)
        expected = None if bits is None else -(-elements * bits // 8)
        self.seen.parameters += elements
        if outside or external:
            self._external(dict(external), expected)
        elif raw is not None and expected is not None and raw[1] - raw[0] != expected:
            raise MalformedError(
                f"a stored tensor of the shape {dims[:8]} with {raw[1] - raw[0]:,} bytes in place of {expected:,}"
            )
        elif raw is None and elements > max(8 * stored, 64):
            raise MalformedError(f"a stored tensor of the shape {dims[:8]} without its values")
        if name and elements <= 64:
            self.constants[name] = elements, self._largest(span, kind_of_data, raw)

    def _largest(self, span: Span, kind_of_data: int, raw: Span | None) -> float:
        """Largest value of a small constant of whole numbers or floats."""
        if raw is not None:
            code = {1: "f", 6: "i", 7: "q", 11: "d"}.get(kind_of_data)
            if code is None:
                return 0.0
            values = [item[0] for item in struct.iter_unpack(f"<{code}", self.data[raw[0] : raw[1]])]
        else:
            values = []
            for number, kind, value in self.fields(span):
                if number in (5, 7):
                    values += list(self.numbers(kind, value))
                elif number == 4 and isinstance(value, tuple) and (value[1] - value[0]) % 4 == 0:
                    values += [item[0] for item in struct.iter_unpack("<f", self.data[value[0] : value[1]])]
        finite = [float(value) for value in values if value == value]
        return max(finite, default=0.0)

    def _external(self, reference: dict[str, str], size: int | None) -> None:
        """A tensor in another file: beside this one, not behind a link, and whole."""
        location = reference.get("location", "")
        parts = PurePosixPath(location).parts
        windows = PureWindowsPath(location)
        if not location or "\0" in location or "\\" in location or ".." in parts or windows.drive or windows.root:
            raise MalformedError(f"a reference to the file {location[:80]!r}: weights stand beside the model")
        folder = self.path.parent.resolve()
        target = folder.joinpath(*parts)
        if target.resolve() != target or not target.is_relative_to(folder) or not target.is_file():
            raise MalformedError(f"a reference to the file {location[:80]!r}, which is not beside the model, or is a link")
        try:
            offset = int(reference.get("offset") or 0)
            length = int(reference.get("length") or (size or 0))
        except ValueError:
            raise MalformedError("a reference to a file with an offset that is no number") from None
        if offset < 0 or length < 0 or offset + length > target.stat().st_size or (size is not None and length != size):
            raise MalformedError(
                f"a reference beyond the end of the file {location[:80]!r}, or of another size than its tensor"
            )
        self.seen.external.add(location)
