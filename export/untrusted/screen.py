"""Screening of untrusted ONNX files before onnxruntime opens them; standard library only.

onnxruntime does not withstand every file: sizes near 2⁶³ make it spin or divide by zero, text that is not UTF-8 raises an exception
of its own, and older versions followed references to any file. So the protobuf is walked first, in plain Python, without its weights,
and anything that no exported file contains is refused.

Wire format: https://protobuf.dev/programming-guides/encoding; field numbers: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

from __future__ import annotations

import io
import itertools
import math
import os
import struct
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from export.contract import Contract, ContractError, parse_contract
from export.untrusted.operators import (
    AXIS,
    BOUNDS,
    DOMAINS,
    FACTOR_INPUT,
    FACTORS,
    HANDED_ON,
    LISTS,
    MAX_DIMS,
    MAX_ELEMENTS,
    MAX_ENLARGED,
    MAX_FACTORS,
    MAX_MADE,
    MAX_STORED,
    MAX_VALUES,
    PRODUCTS,
    REPEATING_OR_RANDOM,
    SETTING,
    SIZED,
    VALUED,
    allowed,
)

__all__ = ["ScreenedFile", "read_contract", "screen"]

#: Graphs within graphs.
MAX_DEPTH = 8

#: Fields of all messages together, and of one: what takes seconds to walk through. A network of 1,000 layers has about 50,000.
MAX_FIELDS = 2_000_000

#: Names of tensors, nodes and operators, bytes.
MAX_NAME = 4096

#: Metadata, all together, bytes.
MAX_METADATA = 64 * 2**20

#: Operators that lead from the shape of the input to one of its sizes.
SHAPE_STEPS = {"Cast", "Slice", "Squeeze", "Gather", "Identity"}

#: Bits of an element by TensorProto.DataType from 0; None: text, or no type.
ITEM_BITS = (None, 32, 8, 8, 16, 16, 32, 64, None, 8, 16, 64, 32, 64, 64, 128, 16, 8, 8, 8, 8, 4, 4, 4, 8)

#: Format of an element in `struct`, for small constants.
ITEM_CODES = {1: "f", 2: "B", 3: "b", 4: "H", 5: "h", 6: "i", 7: "q", 9: "?", 10: "e", 11: "d", 12: "I", 13: "Q"}

#: Bytes that are read at once.
BLOCK = 2**16

#: Environment variable that allows all of ONNX's operators in this process and those that it starts: ``--trust``.
TRUST = "KERASCV_COURSE_TRUST"

#: Where bytes are: first, and one after the last.
Span = tuple[int, int]


def screen(path: Path, *, trust: bool = False) -> ScreenedFile:
    """Walk through a file.

    Args:
        path: the file.
        trust: accept all of ONNX's operators, not only those that exported files and usual vision networks have.

    Raises:
        ContractError: missing, not a whole ONNX file, or with something that is refused: a reference to a file elsewhere, sizes
            beyond all images, an operator that is not one of ONNX's or repeats without bound.
    """
    try:
        if path.is_dir():
            raise ContractError(f"{path} is a folder: give the ONNX file, in a run folder {path / 'model.onnx'}")
        if not path.is_file():
            raise ContractError(f"no such file: {path}")
        with path.open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            if not size:
                raise MalformedError("it is empty")
            found = ScreenedFile(path, trust=trust or bool(os.environ.get(TRUST)))
            found.model(file, size)
            return found
    except MalformedError as error:
        raise ContractError(
            f"{path} is not an ONNX model that can be run: cut short, damaged, not ONNX or not safe ({error})"
        ) from None
    except OSError as error:
        raise ContractError(f"{path} cannot be read: {error.strerror or error}") from None


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
        trust: accept all of ONNX's operators.
        metadata: key to text.
        operators: number of nodes of each operator.
        opsets: version by domain.
        parameters: elements of all stored tensors.
        external: names of files beside this one that hold weights.
    """

    path: Path
    trust: bool = False
    metadata: dict[str, str] = field(default_factory=dict)
    operators: Counter[str] = field(default_factory=Counter)
    opsets: dict[str, int] = field(default_factory=dict)
    parameters: int = 0
    external: set[str] = field(default_factory=set)
    #: Number of elements of each constant, and the values of small ones.
    _elements: dict[str, int] = field(default_factory=dict)
    _values: dict[str, list[float]] = field(default_factory=dict)
    #: Elements that constants ask for, so far.
    _made: float = 0.0
    _unlisted: set[str] = field(default_factory=set)
    #: Operator by the name of its output.
    _makers: dict[str, str] = field(default_factory=dict)
    #: The model's own inputs, and tensors that hold a size of theirs.
    _fed: set[str] = field(default_factory=set)
    _sizes: set[str] = field(default_factory=set)
    #: Open file, what was read of it last, where that begins, and fields so far.
    _file: io.RawIOBase | None = None
    _block: bytes = b""
    _begin: int = 0
    _fields: int = 0

    # --- wire format ---

    def bytes(self, start: int, end: int) -> bytes:
        """Bytes of the file. It is read, not mapped: reading what another process cuts short is an error, not the end of this one."""
        if start < self._begin or end > self._begin + len(self._block):
            assert self._file is not None  # nothing is read before or after the walk
            self._file.seek(start)
            self._block, self._begin = self._file.read(max(end - start, BLOCK)) or b"", start
        found = self._block[start - self._begin : end - self._begin]
        if len(found) != end - start:
            raise MalformedError("it was cut short while it was read")
        return found

    def varint(self, at: int, end: int) -> tuple[int, int]:
        """A 64-bit number, and where it ends."""
        value = shift = 0
        for byte in self.bytes(at, min(at + 10, end)):
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
        while self._fields < MAX_FIELDS:
            if at == end:
                return found
            self._fields += 1
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
        raise MalformedError(f"more than {MAX_FIELDS:,} fields")

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
            return self.bytes(start, end).decode("utf-8")
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
                self._fields += 1
                if self._fields > MAX_FIELDS:
                    raise MalformedError(f"more than {MAX_FIELDS:,} numbers")
        return [number - 2**64 if number >= 2**63 else number for number in found]

    def floats(self, values: list[Any], code: str = "f") -> list[float]:
        """Numbers of a `struct` format, one to a field or packed."""
        found: list[float] = []
        for start, end in (value for value in values if isinstance(value, tuple)):
            if (end - start) % struct.calcsize(code) == 0:
                found += itertools.chain.from_iterable(struct.iter_unpack(f"<{code}", self.bytes(start, end)))
        return found

    # --- messages ---

    def model(self, file: io.RawIOBase, size: int) -> None:
        """ModelProto; `size`: of the open file, bytes."""
        self._file = file
        parts = self.parts((0, size))
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
        self._file, self._block = None, b""
        if self._unlisted:
            names = ", ".join(sorted(self._unlisted)[:8])
            raise MalformedError(
                f"operators that no exported file and no usual vision network has: {names}; --trust (in Python trust=True) accepts them"
            )

    def graph(self, span: Any, depth: int) -> None:
        """GraphProto."""
        if depth > MAX_DEPTH:
            raise MalformedError(f"graphs nested more than {MAX_DEPTH} deep")
        parts = self.parts(span)
        if parts[15]:
            raise MalformedError("sparse tensors, which no exported file has")
        stored = set()
        for tensor in parts[5]:
            stored.add(self.tensor(tensor))
        for text in itertools.chain(parts[2], parts[10]):
            self.text(text, MAX_METADATA)
        inputs = set(map(self.value_info, parts[11]))
        if depth == 0:
            self._fed |= inputs - stored
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
        if domain not in DOMAINS and not (self.trust and domain == "ai.onnx.ml"):
            raise MalformedError(f"the operator {operator[:80]!r} of the domain {domain[:80]!r}, which is none of ONNX's")
        by_image = operator == "Loop" and depth == 0 and inputs[:1] and inputs[0] in self._sizes
        if operator in REPEATING_OR_RANDOM and not by_image and not self.trust:
            raise MalformedError(f"the operator {operator!r}, which repeats as often as the file says, or answers by chance")
        if not self.trust and not allowed(operator, domain):
            self._unlisted.add(operator[:80] or "one without a name")
        self.operators[operator] += 1
        if operator in FACTOR_INPUT:
            factors = (inputs + [""] * 3)[FACTOR_INPUT[operator]]
            if (
                factors
                and self._elements.get(factors, MAX_FACTORS + 1) > MAX_FACTORS
                and self._makers.get(factors) not in FACTORS
            ):
                raise MalformedError(f"{operator} with factors that are none")
        self._makers.update(dict.fromkeys(outputs, operator))
        known = {"Shape": self._fed, **dict.fromkeys(SHAPE_STEPS, self._sizes)}.get(operator, set())
        if depth == 0 and inputs[:1] and inputs[0] in known:
            self._sizes.update(outputs)
        for attribute in parts[5]:
            self.attribute(attribute, depth, operator, outputs)
        self.check_sizes(operator, inputs)
        self.hand_on(operator, inputs, outputs)

    def check_sizes(self, operator: str, inputs: list[str]) -> None:
        """Refuse sizes that a node's constant inputs ask for, each and as a product."""
        empty = VALUED.get(operator, (1,) if operator.startswith("Reduce") else ())
        if any(self._elements.get(name) == 0 for name in (inputs[place] for place in empty if place < len(inputs))):
            raise MalformedError(f"{operator} with a constant without values")
        found: dict[int, list[float]] = {}
        bounds = {1: AXIS} if operator.startswith("Reduce") else SIZED.get(operator, {})
        for place, (least, most) in bounds.items():
            found[place] = self._values.get(inputs[place], []) if place < len(inputs) else []
            for value in found[place]:
                if not least <= value <= most:  # not a number is refused too
                    raise MalformedError(f"{operator} asks for a size of {value:g}; {least:g} to {most:,.0f} is believed")
        product, most = 0.0, float(MAX_MADE)
        if operator in ("ConstantOfShape", "Expand"):
            product = _product(found[0 if operator == "ConstantOfShape" else 1])
            self._made += product
        elif operator == "Range":
            start, stop, step = ((found[place] or [default])[0] for place, default in ((0, 0.0), (1, 0.0), (2, 1.0)))
            product = abs(stop - start) / abs(step) if step else math.inf
            self._made += product
        elif operator == "Tile":
            product, most = _product(found[1]), 2.0**16
            self._made += product * self._elements.get(inputs[0], 0) if inputs else 0
        elif operator == "Pad":
            half = len(found[1]) // 2
            product = _product(1 + max(a, 0) + max(b, 0) for a, b in zip(found[1][:half], found[1][half:], strict=False))
        elif operator == "Resize":
            product = max(_product(found[3]), _product(found[2]) * MAX_MADE / MAX_ENLARGED)
        if product > most or self._made > MAX_MADE:
            asked = product if product > most else self._made
            raise MalformedError(f"{operator} asks for {asked:.3g} elements; at most {min(most, MAX_MADE):,.0f} are believed")

    def hand_on(self, operator: str, inputs: list[str], outputs: list[str]) -> None:
        """The values of a node's output, where they are its constant inputs'."""
        if operator not in HANDED_ON and operator != "Concat":
            return
        taken = inputs if operator == "Concat" else inputs[:1]
        if taken and outputs and all(name in self._values for name in taken):
            values = list(itertools.chain.from_iterable(self._values[name] for name in taken))
            self.remember(outputs[0], len(values), values)

    def remember(self, name: str, elements: int, values: list[float]) -> None:
        """A constant."""
        self._elements[name] = elements
        if elements <= MAX_VALUES:
            self._values[name] = values

    def attribute(self, span: Any, depth: int, operator: str, outputs: list[str]) -> None:
        """AttributeProto of a node of this operator with these outputs."""
        parts = self.parts(span)
        name = self.text(parts[1] and parts[1][-1])
        if parts[22] or parts[23]:
            raise MalformedError("sparse tensors, which no exported file has")
        for tensor in itertools.chain(parts[5], parts[10]):
            self.tensor(tensor, outputs[0] if outputs else None)
        for graph in itertools.chain(parts[6], parts[11]):
            self.graph(graph, depth + 1)
        numbers, floats = self.numbers(parts[3] + parts[8]), self.floats(parts[2] + parts[7])
        if operator == "Constant" and outputs and name.startswith("value_") and (numbers or floats):
            self.remember(outputs[0], len(numbers or floats), [*map(float, numbers), *floats])
            return
        least, most = BOUNDS.get(name, SETTING)
        if (lowest := min(numbers, default=least)) < least:
            raise MalformedError(f"{name} of {lowest:,}; it is {least:,} or more")
        if (highest := max(numbers, default=most)) > most:
            raise MalformedError(f"{name} of {highest:,}; at most {most:,} is believed")
        if name in LISTS and not numbers:
            raise MalformedError(f"{name} without numbers")
        half = len(numbers) // 2
        factors: list[float] = [*map(float, numbers), *floats]
        if name == "pads":
            factors = [1.0 + a + b for a, b in zip(numbers[:half], numbers[half:], strict=False)]
        limit = MAX_ENLARGED if name == "strides" and operator == "ConvTranspose" else PRODUCTS.get(name, math.inf)
        if _product(factors) > limit:
            raise MalformedError(
                f"{name} of {', '.join(f'{value:g}' for value in factors[:8])}: the product is at most {limit:,}"
            )

    def value_info(self, span: Any) -> str:
        """ValueInfoProto: its name; the declared shape is checked."""
        parts = self.parts(span)
        for kind in parts[2]:
            for tensor in self.parts(kind)[1]:
                for shape in self.parts(tensor)[2]:
                    self.declared(self.parts(shape)[1])
        return self.text(parts[1] and parts[1][-1])

    def declared(self, dims: list[Any]) -> None:
        """The dimensions of TensorShapeProto."""
        if len(dims) > MAX_DIMS:
            raise MalformedError(f"a tensor of {len(dims):,} dimensions; at most {MAX_DIMS} are believed")
        elements = 1
        for dim in dims:
            fields = self.parts(dim)
            for text in fields[2]:
                self.text(text)
            for size in self.numbers(fields[1][:MAX_DIMS]):
                if not -1 <= size <= MAX_ELEMENTS:  # tf2onnx writes -1 for a size that it does not know
                    raise MalformedError(f"a size of {size:,}")
                elements *= max(size, 1)
                if elements > MAX_ELEMENTS:
                    raise MalformedError(
                        f"a tensor of {elements:,} elements or more is declared; at most {MAX_ELEMENTS:,} are believed"
                    )

    def tensor(self, span: Any, name: str | None = None) -> str:
        """TensorProto: its name; `name`: of the node's output, where the tensor is a node's constant."""
        parts = self.parts(span)
        if parts[3]:
            raise MalformedError("a tensor in segments, which no exported file has")
        dims, kind = self.numbers(parts[1]), (self.numbers(parts[2]) or [0])[-1]
        if len(dims) > MAX_DIMS or min(dims, default=0) < 0 or math.prod(max(size, 1) for size in dims) > MAX_STORED:
            raise MalformedError(f"a stored tensor of the shape {dims[:8]}{' …' if len(dims) > 8 else ''}")
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
            stored = 0
            for value in itertools.chain(parts[4], parts[5], parts[7], parts[10], parts[11]):
                stored += value[1] - value[0] if isinstance(value, tuple) else 0
            if elements > max(8 * stored, 64):
                raise MalformedError(f"a stored tensor of the shape {dims[:8]} without its values")
        own = self.text(parts[8][-1]) if parts[8] else ""
        values: list[float] = []
        if elements <= MAX_VALUES and raw is not None and kind in ITEM_CODES:
            values = self.floats([raw], ITEM_CODES[kind])
        elif elements <= MAX_VALUES and raw is None:
            values = [*map(float, self.numbers(parts[5] + parts[7] + parts[11])), *self.floats(parts[4])]
            values += self.floats(parts[10], "d")
        for key in {name or own, own} - {""}:
            self.remember(key, elements, values)
        return own

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


def _product(values: Iterable[float]) -> float:
    """The product of sizes; 0 and the −1 of an open size count as 1."""
    return math.prod(max(abs(value), 1.0) for value in values)
