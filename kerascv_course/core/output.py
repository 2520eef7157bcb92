"""Standard streams that take any text: nothing that a file says can steer a terminal; standard library only."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from typing import Any

__all__ = ["PrintableStream", "open_streams", "printable", "write_out"]

#: What our own progress lines need: they end at the end of a line.
ERASE = "\x1b[K"


def printable(text: str, *, lines: bool = False) -> str:
    """A text with every character escaped as in JSON that could move the cursor of a terminal, turn its direction or forge a line.

    Those are control characters (C0 and C1), marks of direction, and halves of characters, by which Python stands for bytes of file
    names that are no UTF-8. JSON text means the same afterwards.

    Args:
        text: the text.
        lines: keep line breaks.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or (lines and c == "\n") else json.dumps(c)[1:-1] for c in text)


class PrintableStream:
    """A text stream that escapes what `printable` does, but for line breaks, tabs and our own progress lines.

    Args:
        stream: that is written to; whatever is not written is its own.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text: its length."""
        if not text.isprintable():
            parts = re.split(r"(\x1b\[K|[\n\r\t])", text)
            text = "".join(part if part == ERASE or part in "\n\r\t" else printable(part) for part in parts)
        self._stream.write(text)
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __iter__(self) -> Any:
        return iter(self._stream)


def open_streams() -> bool:
    """Make standard output and error take any text, whatever the terminal's encoding; False where standard output is closed.

    Descriptors that are closed are opened on nothing, so that no file that is opened later becomes a standard stream.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            with contextlib.suppress(OSError):
                os.open(os.devnull, os.O_RDWR)  # the lowest that is free
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 (for the whole process)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None or isinstance(stream, PrintableStream):
            continue
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
        setattr(sys, name, PrintableStream(stream))
    return sys.stdout is not None


def write_out() -> None:
    """Write what standard output holds back; what cannot be written is dropped, so that the end of the process does not try again.

    Raises:
        OSError: the disk is full, or the reader of a pipe has exited.
    """
    try:
        sys.stdout.flush()
    except OSError:
        with contextlib.suppress(OSError, ValueError):
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, sys.stdout.fileno())
            os.close(nothing)
        raise
