"""Commands on untrusted files in a child process; standard library only.

`export.untrusted.screen` refuses what is known to harm onnxruntime. Anything else crashes, hangs or fills the memory of the child
only, and the command ends with an error of ours. Where the system cannot fork (Windows) the command runs in this process.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from kerascv_course.core.errors import CourseError, run_cli

__all__ = ["SECONDS", "GuardError", "alive", "bound_memory", "limit_memory", "run_guarded"]

#: Longest time without a sign of life (one batch or tile, or opening a file), seconds.
SECONDS = 300.0

#: Memory beyond the program itself, bytes, and for each byte of the file (weights, and their copies in another order).
MEMORY, PER_BYTE = 900 * 2**20, 4


class GuardError(CourseError):
    """The file made the program crash, hang or exceed its memory limit."""


#: File descriptor that signs of life are written to; None outside a guarded command.
_pipe: int | None = None


def alive() -> None:
    """Tell the guard that the command makes progress."""
    if _pipe is not None:
        with contextlib.suppress(OSError):
            os.write(_pipe, b".")


def limit_memory(path: Path) -> None:
    """In a guarded command, allow as much memory as a file of this size needs; elsewhere do nothing."""
    if _pipe is not None:
        bound_memory(path)


def bound_memory(path: Path, *, images: int = 1) -> None:
    """Limit the memory of this process to what a file of this size needs; does nothing where the system is not Linux.

    Args:
        path: the file.
        images: number of images decoded at the same time, by threads.
    """
    if not sys.platform.startswith("linux"):
        return
    import resource

    status = Path("/proc/self/status").read_text()
    used = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmData"))
    with contextlib.suppress(OSError, ValueError):
        files = [path, *path.parent.glob(f"{path.name}*")]
        limit = used + MEMORY * images + PER_BYTE * sum(file.stat().st_size for file in set(files))
        resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.getrlimit(resource.RLIMIT_DATA)[1]))


def run_guarded(main: Callable[[], int | None], *, seconds: float = SECONDS) -> int:
    """Run a command line in a child process and give its exit code.

    Args:
        main: the command.
        seconds: it is killed after this time without a sign of life (`alive`).

    Raises:
        GuardError: it crashed or hung.
    """
    global _pipe
    if not hasattr(os, "fork"):
        return main() or 0
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _pipe = writer
        os._exit(_call(main))
    os.close(writer)
    previous = signal.signal(signal.SIGTERM, lambda *_: _end(child))
    try:
        if not _watch(reader, seconds):
            _end(child)
            os.waitpid(child, 0)
            raise GuardError(
                f"no progress for {seconds:g} s, so it was killed: the file is damaged, hostile or far too slow here"
            )
        _, status = os.waitpid(child, 0)
    finally:
        signal.signal(signal.SIGTERM, previous)
        os.close(reader)
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        raise GuardError(f"the file made the program crash ({name}) or needs more memory than is available: damaged or hostile")
    return os.waitstatus_to_exitcode(status)


def _call(main: Callable[[], int | None]) -> int:
    """The command as `run_cli` runs it: its exit code."""
    code: object = 1
    try:
        run_cli(main)
    except SystemExit as end:
        code = end.code
    except MemoryError:
        print("error: the file needs more memory than is allowed for its size: damaged or hostile", file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    with contextlib.suppress(OSError, ValueError):  # the reader of a pipe may have left
        sys.stdout.flush()
        sys.stderr.flush()
    return code if isinstance(code, int) else 1


def _watch(reader: int, seconds: float) -> bool:
    """Wait until the child closes the pipe; False after so many seconds without a sign of life."""
    last = time.monotonic()
    while True:
        try:
            ready, _, _ = select.select([reader], [], [], max(0.0, last + seconds - time.monotonic()))
        except KeyboardInterrupt:  # the child has it too, and ends by itself
            continue
        if not ready:
            return False
        if not os.read(reader, 4096):
            return True
        last = time.monotonic()


def _end(child: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
