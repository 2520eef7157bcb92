"""An onnxruntime session in a process of its own, with limits of memory and time, for files that nobody vouches for.

Messages both ways: 8 bytes of length, JSON of that length, then the bytes of the arrays that it lists. Nothing that the process answers
is unpickled or evaluated.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from export.contract import ContractError
from export.untrusted.guard import SECONDS, GuardError

__all__ = ["IsolatedSession", "read_message", "write_message"]

#: Longest header of a message, and bytes of the arrays that an answer may have.
MAX_HEADER, MAX_ANSWER = 2**27, 2**31

#: Kinds of NumPy's types that arrays may have: floats, integers, truth values.
KINDS = "fiub"

#: Bytes that are read or written at once.
PART = 2**20


@dataclass(frozen=True)
class Signature:
    """An input or output, as onnxruntime describes it."""

    name: str
    type: str
    shape: list[int | str | None]


@dataclass(frozen=True)
class Metadata:
    """Metadata of a file, as onnxruntime describes it."""

    custom_metadata_map: dict[str, str] = field(default_factory=dict)


class IsolatedSession:
    """A session in a process of its own, which ends with this one. After a crash the next call starts another.

    Calls of several threads take turns. A process that is forked or gets this object by pickle has a process of its own.

    Args:
        path: the ONNX file.
        seconds: longest time for opening the file and for a call.
        options: of `export.predictor.open_session`.

    Raises:
        ContractError: not an ONNX file that can be run.
        GuardError: opening it crashed, hung or took too much memory.
    """

    def __init__(self, path: Path, *, seconds: float = SECONDS, **options: Any) -> None:
        self._settings = {"path": str(path), **options}
        self._seconds = seconds
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        with self._lock:
            opened = self._start()
        self._inputs, self._outputs = ([Signature(*each) for each in opened[key]] for key in ("inputs", "outputs"))
        self._metadata = Metadata({str(key): str(value) for key, value in opened["metadata"].items()})
        self._providers = list(map(str, opened["providers"]))

    def get_inputs(self) -> list[Signature]:
        """As onnxruntime's."""
        return self._inputs

    def get_outputs(self) -> list[Signature]:
        """As onnxruntime's."""
        return self._outputs

    def get_modelmeta(self) -> Metadata:
        """As onnxruntime's."""
        return self._metadata

    def get_providers(self) -> list[str]:
        """As onnxruntime's."""
        return self._providers

    def run(self, names: Sequence[str], feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """As onnxruntime's.

        Raises:
            ContractError: the graph fails on these inputs.
            GuardError: it crashed, hung or took too much memory.
        """
        with self._lock:
            if self._process is None or self._owner != os.getpid():
                self._process = None  # of the process that forked this one, which goes on using it
                self._start()
            return self._ask({"names": list(names), "feeds": list(feeds)}, list(feeds.values()))[1]

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None and self._owner == os.getpid():
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                assert stream is not None  # both are pipes
                with contextlib.suppress(OSError):
                    stream.close()

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):  # not begun
            self.close()

    def _start(self) -> dict[str, Any]:
        # it imports from where this process does, and not from the current folder, which may be a stranger's (-P)
        places = os.pathsep.join(place for place in sys.path if place)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "export.session_server"],
            env={**os.environ, "PYTHONPATH": places},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )
        self._owner = os.getpid()
        return self._ask(self._settings)[0]

    def _ask(self, request: Mapping[str, Any], arrays: Sequence[np.ndarray] = ()) -> tuple[dict[str, Any], list[np.ndarray]]:
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        ends = time.monotonic() + self._seconds
        try:
            write_message(process.stdin, request, arrays)
            header, answers = read_message(process.stdout, ends)
        except TimeoutError:
            self.close()
            raise GuardError(
                f"no answer in {self._seconds:g} s, so its process was killed: the file is damaged, hostile or far too slow here"
            ) from None
        except (OSError, ValueError, EOFError):
            self.close()
            raise GuardError(
                "the file made its process crash, or needs more memory than is allowed for its size: damaged or hostile"
            ) from None
        except BaseException:  # interrupted: the answer that is still to come would be taken for that of the next request
            self.close()
            raise
        if "error" in header:
            raise ContractError(str(header["error"])[:1000])
        return header, answers


def write_message(stream: IO[bytes], header: Mapping[str, Any], arrays: Sequence[np.ndarray] = ()) -> None:
    """Write a header and arrays to a stream without buffer."""
    listed = [{"dtype": array.dtype.str, "shape": array.shape} for array in arrays]
    text = json.dumps({**header, "arrays": listed}).encode()
    _write(stream, len(text).to_bytes(8, "little") + text)
    for array in arrays:
        _write(stream, np.ascontiguousarray(array).data.cast("B") if array.size else b"")


def _write(stream: IO[bytes], data: bytes | memoryview) -> None:
    view, at = memoryview(data), 0
    while at < len(view):
        at += stream.write(view[at : at + PART]) or 0


def read_message(stream: IO[bytes], ends: float = math.inf) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Read a header and its arrays from a stream without buffer.

    Args:
        stream: to read.
        ends: by `time.monotonic`.

    Raises:
        EOFError: the other process has ended.
        TimeoutError: it is too late.
        ValueError: what came is no message.
    """
    length = int.from_bytes(_read(stream, 8, ends), "little")
    if length > MAX_HEADER:
        raise ValueError("a header without end")
    header = json.loads(_read(stream, length, ends))
    arrays, room = [], MAX_ANSWER
    for entry in header.pop("arrays"):
        dtype, shape = np.dtype(str(entry["dtype"])), tuple(map(int, entry["shape"]))
        size = dtype.itemsize * math.prod(shape)
        room -= size
        if dtype.kind not in KINDS or min(shape, default=0) < 0 or room < 0:
            raise ValueError("an array of another kind")
        arrays.append(np.frombuffer(_read(stream, size, ends), dtype).reshape(shape))
    return header, arrays


def _read(stream: IO[bytes], size: int, ends: float) -> bytearray:
    data = bytearray()
    while len(data) < size:
        if ends != math.inf and not select.select([stream], [], [], max(0.0, ends - time.monotonic()))[0]:
            raise TimeoutError
        part = stream.read(min(size - len(data), PART))
        if not part:
            raise EOFError
        data += part
    return data
