"""Screening of untrusted ONNX files before onnxruntime opens them; standard library only.

onnxruntime does not withstand every file: sizes near 2⁶³ make it spin or divide by zero, text that is not UTF-8 raises an exception
of its own, and older versions followed references to any file. So the protobuf is walked first, in plain Python, without its weights,
and anything that no exported file contains is refused.

Wire format: https://protobuf.dev/programming-guides/encoding; field numbers: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

from __future__ import annotations

import itertools
import math
import mmap
import os
import struct
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from export.contract import MAX_SIDE, Contract, ContractError, parse_contract

__all__ = ["ScreenedFile", "read_contract", "screen"]

#: Graphs within graphs.
MAX_DEPTH = 8

#: Fields of one message.
MAX_FIELDS = 10_000_000

#: Dimensions of a tensor.
MAX_DIMS = 32

#: Names of tensors, nodes and operators, bytes.
MAX_NAME = 4096

#: Metadata, all together, bytes.
MAX_METADATA = 64 * 2**20

#: Largest whole number of an attribute that sets a size.
MAX_SETTING = 65_536

#: Attributes that set a size.
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

#: Those that onnxruntime divides or steps by: 1 or more.
POSITIVE = {"kernel_shape", "strides", "dilations", "group", "num_groups", "blocksize", "hidden_size", "num_outputs"}

#: Position of the input with the factors.
FACTOR_INPUT = {"Resize": 2, "Upsample": 1}

#: Factors that are stored; onnxruntime reads as many as the image has axes, whatever it is given.
MAX_FACTORS = 8

#: Operators that factors which are not stored may come from.
FACTORS = {"Concat", "Cast", "Div", "Mul", "Slice", "Gather", "Unsqueeze", "Squeeze", "Reshape", "Constant", "Identity"}

#: Elements of a declared tensor, and of one that a constant shape asks for.
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

#: Operators that repeat a graph as often as the file says.
REPEATING = {"Loop", "Scan", "SequenceMap"}

#: Those and random ones. One Loop is allowed: outermost, and once for each image (or each row, or column) of the input.
REFUSED = REPEATING | {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli"}

#: Operators that lead from the shape of the input to one of its sizes.
SHAPE_STEPS = {"Cast", "Slice", "Squeeze", "Gather", "Identity"}

#: Domains of operators: ONNX's own, and onnxruntime's for quantized files.
DOMAINS = {"", "ai.onnx", "com.microsoft"}

#: Bits of an element by TensorProto.DataType from 0; None: text, or no type.
ITEM_BITS = (None, 32, 8, 8, 16, 16, 32, 64, None, 8, 16, 64, 32, 64, 64, 128, 16, 8, 8, 8, 8, 4, 4, 4, 8)

#: Format of an element in `struct`, for small constants.
ITEM_CODES = {1: "f", 6: "i", 7: "q", 11: "d"}

#: Where bytes are: first, and one after the last.
Span = tuple[int, int]


def screen(path: Path) -> ScreenedFile:
    """Walk through a file.

    Raises:
        ContractError: missing, not a whole ONNX file, or with something that is refused: a reference to a file elsewhere, sizes
            beyond all images, an operator that is not one of ONNX's or repeats without bound.
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
                found = ScreenedFile(path, data)
                found.model()
                return found
    except MalformedError as error:
        raise ContractError(
            f"{path} is not an ONNX model that can be run: cut short, damaged, not ONNX or not safe ({error})"
        ) from None
    except OSError as error:
        raise ContractError(f"{path} cannot be read: {error}") from None


def read_contract(path: str | Path) -> Contract:
    """The contract of an ONNX file, which is not run.

    Raises:
        ContractError: the file is missing, is not an ONNX model, or has no valid contract.
    """
    return parse_contract(screen(Path(path)).metadata, what=str(path))


class MalformedError(Exception):
    """Why a file is refused; whoever reads it names the file."""


@dataclass
class ScreenedFile:
    """What a file contains, and the walk through it.

    Attributes:
        path: the file.
        data: its bytes, which are closed after the walk.
        metadata: key to text.
        operators: number of nodes of each operator.
        opsets: version by domain.
        parameters: elements of all stored tensors.
        external: names of files beside this one that hold weights.
    """

    path: Path
    data: mmap.mmap
    metadata: dict[str, str] = field(default_factory=dict)
    operators: Counter[str] = field(default_factory=Counter)
    opsets: dict[str, int] = field(default_factory=dict)
    parameters: int = 0
    external: set[str] = field(default_factory=set)
    #: Elements, type and message of each small constant, by name, for `SIZED`.
    _constants: dict[str, tuple[int, int, dict[int, list[Any]]]] = field(default_factory=dict)
    #: Operator by the name of its output.
    _makers: dict[str, str] = field(default_factory=dict)
    #: The model's own inputs, and tensors that hold a size of theirs.
    _fed: set[str] = field(default_factory=set)
    _sizes: set[str] = field(default_factory=set)

    # --- wire format ---

    def varint(self, at: int, end: int) -> tuple[int, int]:
        """A 64-bit number, and where it ends."""
        value = shift = 0
        while at < end and shift < 70:
            byte = self.data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & (2**64 - 1), at
            shift += 7
        raise MalformedError("a number has no end")

    def parts(self, span: Any) -> dict[int, list[Any]]:
        """Fields of a message by number: whole numbers, or where the bytes are."""
        if not isinstance(span, tuple):
            raise MalformedError("a number in place of a message")
        at, end = span
        found: dict[int, list[Any]] = defaultdict(list)
        for _ in range(MAX_FIELDS):
            if at == end:
                return found
            key, at = self.varint(at, end)
            number, kind = key >> 3, key & 7
            value: Any
            if kind == 0:
                value, at = self.varint(at, end)
            elif kind in (1, 5):
                size = 8 if kind == 1 else 4
                value, at = (at, at + size), at + size
            elif kind == 2:
                size, at = self.varint(at, end)
                value, at = (at, at + size), at + size
            else:
                raise MalformedError(f"invalid protobuf wire type {kind}")
            if at > end or number == 0:
                raise MalformedError("a part goes beyond the end")
            found[number].append(value)
        raise MalformedError(f"more than {MAX_FIELDS:,} fields in one message")

    def text(self, span: Any, limit: int = MAX_NAME) -> str:
        """UTF-8 text of at most `limit` bytes; empty where the field is missing."""
        if span == []:
            return ""
        if not isinstance(span, tuple):
            raise MalformedError("a number in place of a text")
        start, end = span
        if end - start > limit:
            raise MalformedError(f"a name has {end - start:,} bytes; at most {limit:,} are read")
        try:
            return self.data[start:end].decode("utf-8")
        except UnicodeDecodeError:
            raise MalformedError("a name is no UTF-8") from None

    def numbers(self, values: list[Any]) -> list[int]:
        """Signed whole numbers, one to a field or packed."""
        found = []
        for value in values:
            if isinstance(value, int):
                found.append(value)
                continue
            at, end = value
            while at < end:
                number, at = self.varint(at, end)
                found.append(number)
        for i, number in enumerate(found):
            if number >= 2**63:
                found[i] = number - 2**64
        return found

    # --- messages ---

    def model(self) -> None:
        """ModelProto."""
        parts = self.parts((0, len(self.data)))
        if parts[20] or parts[25]:
            raise MalformedError("functions or training graphs, which no exported file has")
        for span in itertools.chain(parts[2], parts[3], parts[4], parts[6]):
            self.text(span, MAX_METADATA)
        for span in parts[8]:
            entry = self.parts(span)
            domain, version = self.text(entry[1] and entry[1][-1]), (self.numbers(entry[2]) or [0])[-1]
            if domain in ("", "ai.onnx") and not 1 <= version <= 100:
                raise MalformedError(f"operator set {version}")
            self.opsets[domain] = version
        room = MAX_METADATA
        for span in parts[14]:
            entry = self.parts(span)
            key, text = self.text(entry[1] and entry[1][-1], room), self.text(entry[2] and entry[2][-1], room)
            room -= len(key) + len(text)
            if room < 0:
                raise MalformedError(f"more than {MAX_METADATA:,} bytes of metadata")
            self.metadata[key] = text
        if len(parts[7]) != 1:
            raise MalformedError(f"{len(parts[7])} graphs in place of one")
        self.graph(parts[7][0], 0)

    def graph(self, span: Any, depth: int) -> None:
        """GraphProto."""
        if depth > MAX_DEPTH:
            raise MalformedError(f"graphs nested more than {MAX_DEPTH} deep")
        parts = self.parts(span)
        if parts[15]:
            raise MalformedError("sparse tensors, which no exported file has")
        for tensor in parts[5]:
            self.tensor(tensor)
        for text in itertools.chain(parts[2], parts[10]):
            self.text(text, MAX_METADATA)
        inputs = set(map(self.value_info, parts[11]))
        if depth == 0:
            self._fed |= inputs
        for value in itertools.chain(parts[12], parts[13]):
            self.value_info(value)
        for node in parts[1]:
            self.node(node, depth)

    def node(self, span: Any, depth: int) -> None:
        """NodeProto."""
        parts = self.parts(span)
        inputs, outputs = list(map(self.text, parts[1])), list(map(self.text, parts[2]))
        operator, domain = self.text(parts[4] and parts[4][-1]), self.text(parts[7] and parts[7][-1])
        for text in itertools.chain(parts[3], parts[6], parts[8]):
            self.text(text, MAX_METADATA)
        if domain not in DOMAINS:
            raise MalformedError(f"the operator {operator[:80]!r} of the domain {domain[:80]!r}, which is none of ONNX's")
        by_image = operator == "Loop" and depth == 0 and inputs[:1] and inputs[0] in self._sizes
        if operator in REFUSED and not by_image:
            raise MalformedError(f"the operator {operator!r}, which repeats as often as the file says, or answers by chance")
        self.operators[operator] += 1
        if operator in FACTOR_INPUT:
            factors = (inputs + [""] * 3)[FACTOR_INPUT[operator]]
            elements = self._constants[factors][0] if factors in self._constants else MAX_FACTORS + 1
            if factors and elements > MAX_FACTORS and self._makers.get(factors) not in FACTORS:
                raise MalformedError(f"{operator} with factors that are none")
        self._makers.update(dict.fromkeys(outputs, operator))
        known = {"Shape": self._fed, **dict.fromkeys(SHAPE_STEPS, self._sizes)}.get(operator, set())
        if depth == 0 and inputs[:1] and inputs[0] in known:
            self._sizes.update(outputs)
        for attribute in parts[5]:
            self.attribute(attribute, depth, outputs)
        for place, most in SIZED.get(operator, {}).items():
            largest = self.largest(inputs[place]) if place < len(inputs) else 0.0
            if largest > most:
                raise MalformedError(f"{operator} asks for a size of {largest:g}; at most {most:,} is believed")

    def attribute(self, span: Any, depth: int, outputs: list[str]) -> None:
        """AttributeProto of a node with these outputs."""
        parts = self.parts(span)
        name = self.text(parts[1] and parts[1][-1])
        if parts[22] or parts[23]:
            raise MalformedError("sparse tensors, which no exported file has")
        for tensor in itertools.chain(parts[5], parts[10]):
            self.tensor(tensor, outputs[0] if outputs else None)
        for graph in itertools.chain(parts[6], parts[11]):
            self.graph(graph, depth + 1)
        numbers = self.numbers(parts[3] + parts[8])
        least, largest = min(numbers, default=1), max(numbers, key=abs, default=0)
        if name in POSITIVE and least < 1:
            raise MalformedError(f"{name} of {least:,}; it is 1 or more")
        if name in ("pads", "output_padding") and least < 0:
            raise MalformedError(f"{name} of {least:,}; it is 0 or more")
        if name in SETTINGS and abs(largest) > MAX_SETTING:
            raise MalformedError(f"{name} of {largest:,}; at most {MAX_SETTING:,} is believed")

    def value_info(self, span: Any) -> str:
        """ValueInfoProto: its name; the declared shape is checked."""
        parts = self.parts(span)
        for kind in parts[2]:
            for tensor in self.parts(kind)[1]:
                elements = 1
                for shape in self.parts(tensor)[2]:
                    for dim in self.parts(shape)[1]:
                        fields = self.parts(dim)
                        for text in fields[2]:
                            self.text(text)
                        for size in self.numbers(fields[1]):
                            if not -1 <= size <= MAX_ELEMENTS:  # tf2onnx writes -1 for a size that it does not know
                                raise MalformedError(f"a size of {size:,}")
                            elements *= max(size, 1)
                if elements > MAX_ELEMENTS:
                    raise MalformedError(
                        f"a tensor of {elements:,} elements is declared; at most {MAX_ELEMENTS:,} are believed"
                    )
        return self.text(parts[1] and parts[1][-1])

    def tensor(self, span: Any, name: str | None = None) -> None:
        """TensorProto; `name`: of the node's output, where the tensor is a node's constant."""
        parts = self.parts(span)
        if parts[3]:
            raise MalformedError("a tensor in segments, which no exported file has")
        dims, kind = self.numbers(parts[1]), (self.numbers(parts[2]) or [0])[-1]
        if min(dims, default=0) < 0 or len(dims) > MAX_DIMS:
            raise MalformedError(f"a stored tensor of the shape {dims[:8]}")
        elements = math.prod(dims)
        self.parameters += elements
        bits = ITEM_BITS[kind] if 0 <= kind < len(ITEM_BITS) else None
        expected = None if bits is None else -(-elements * bits // 8)
        raw = parts[9][-1] if parts[9] and isinstance(parts[9][-1], tuple) else None
        if parts[13] or 1 in parts[14]:
            reference = {}
            for span in parts[13]:
                entry = self.parts(span)
                reference[self.text(entry[1] and entry[1][-1])] = self.text(entry[2] and entry[2][-1])
            self.check_external(reference, expected)
        elif raw is not None and expected is not None and raw[1] - raw[0] != expected:
            raise MalformedError(
                f"a stored tensor of the shape {dims[:8]} with {raw[1] - raw[0]:,} bytes in place of {expected:,}"
            )
        elif raw is None:
            values = itertools.chain(parts[4], parts[5], parts[7], parts[10], parts[11])
            stored = 0
            for value in values:
                stored += value[1] - value[0] if isinstance(value, tuple) else 0
            if elements > max(8 * stored, 64):
                raise MalformedError(f"a stored tensor of the shape {dims[:8]} without its values")
        name = self.text(parts[8][-1]) if parts[8] else name
        if name and elements <= 64:
            self._constants[name] = elements, kind, parts

    def largest(self, name: str) -> float:
        """Largest value of a small constant of integers or floats; 0 for other tensors."""
        if name not in self._constants:
            return 0.0
        _, kind, parts = self._constants[name]
        values: list[float] = [*self.numbers(parts[5] + parts[7])]
        spans = [(span, "f") for span in parts[4]]
        if parts[9]:
            values, spans = [], [(parts[9][-1], ITEM_CODES.get(kind, ""))]
        for span, code in spans:
            start, end = span if isinstance(span, tuple) else (0, 0)
            if code and (end - start) % struct.calcsize(code) == 0:
                values += itertools.chain.from_iterable(struct.iter_unpack(f"<{code}", self.data[start:end]))
        return max((float(value) for value in values if value == value), default=0.0)

    def check_external(self, reference: dict[str, str], size: int | None) -> None:
        """A tensor in another file: beside this one, not behind a link, and whole."""
        location = reference.get("location", "")
        parts = PurePosixPath(location).parts
        windows = PureWindowsPath(location)
        if not location or "\0" in location or "\\" in location or ".." in parts or windows.drive or windows.root:
            raise MalformedError(f"a reference to the file {location[:80]!r}: weights are beside the model")
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
        self.external.add(location)
