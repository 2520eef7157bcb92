"""Protobuf's wire format, as far as a look through a file needs it; standard library only.

https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator

__all__ = ["BYTES", "MAX_NAME", "VARINT", "MalformedError", "Span", "WireReader", "signed"]

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

#: Names of tensors, nodes and operators, bytes.
MAX_NAME = 4096

#: Where bytes stand: first, and one after the last.
Span = tuple[int, int]


class MalformedError(Exception):
    """Says why a file is refused; whoever reads it names the file."""


def signed(value: int) -> int:
    """An int64 from its 64 bits."""
    return value - 2**64 if value >= 2**63 else value


class WireReader:
    """Fields of messages.

    Args:
        data: the file.
    """

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        value = shift = 0
        while at < end and shift < 70:
            byte = self.data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & (2**64 - 1), at
            shift += 7
        raise MalformedError("a number has no end")

    def fields(self, span: Span) -> Iterator[tuple[int, int, int | Span]]:
        """Number, wire type and value (a whole number, or where the bytes stand) of each field of a message."""
        at, end = span
        while at < end:
            key, at = self._varint(at, end)
            number, kind = key >> 3, key & 7
            value: int | Span
            if kind == VARINT:
                value, at = self._varint(at, end)
            elif kind in (FIXED64, FIXED32):
                size = 8 if kind == FIXED64 else 4
                value, at = (at, at + size), at + size
            elif kind == BYTES:
                size, at = self._varint(at, end)
                value, at = (at, at + size), at + size
            else:
                raise MalformedError(f"a field of the unknown kind {kind}")
            if at > end or number == 0:
                raise MalformedError("a part goes beyond the end")
            yield number, kind, value

    def spans(self, span: Span) -> Iterator[tuple[int, Span]]:
        """Only fields of bytes."""
        for number, kind, value in self.fields(span):
            if kind == BYTES:
                assert isinstance(value, tuple)
                yield number, value

    def text(self, span: Span, limit: int = MAX_NAME) -> str:
        """UTF-8 text of at most `limit` bytes."""
        start, end = span
        if end - start > limit:
            raise MalformedError(f"a name has {end - start:,} bytes; at most {limit:,} are read")
        try:
            return self.data[start:end].decode("utf-8")
        except UnicodeDecodeError:
            raise MalformedError("a name is no UTF-8") from None

    def numbers(self, kind: int, value: int | Span) -> Iterator[int]:
        """Whole numbers with a sign, one to a field or packed."""
        if isinstance(value, int):
            yield signed(value)
        elif kind == BYTES:
            at, end = value
            while at < end:
                number, at = self._varint(at, end)
                yield signed(number)
