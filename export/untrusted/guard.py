"""Commands on untrusted files in a child process; standard library only.

`export.untrusted.screen` refuses what is known to harm onnxruntime. Anything else crashes, hangs or fills the memory of the child
only, and the command ends with an error of ours. Where the system cannot fork (Windows) the command runs in this process.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from export.untrusted.screen import TRUST, screen
from kerascv_course.core.errors import CourseError, run_cli

__all__ = [
    "SECONDS",
    "GuardError",
    "add_trust",
    "alive",
    "bound_memory",
    "die_with_parent",
    "free_memory",
    "guarded",
    "guarding",
    "limit_memory",
    "run_guarded",
    "running",
    "trust_operators",
]

#: Longest time without a sign of life (one batch or tile, or opening a file), seconds.
SECONDS = 300.0

#: Memory beyond the program itself, bytes, and for each byte of the file (weights, and their copies in another order).
MEMORY, PER_BYTE = 900 * 2**20, 4

#: Signal that Linux sends to a process whose parent has ended: the number of the request (prctl).
PR_SET_PDEATHSIG = 1

#: What a child writes: a sign of life; it begins and ends to run a file.
ALIVE, BEGIN, END = b".", b"(", b")"

Command = Callable[[argparse.Namespace], int | None]
AnyCommand = TypeVar("AnyCommand", bound=Command)


class GuardError(CourseError):
    """The file made the program crash, hang or exceed its memory limit."""


#: File descriptor that signs of life are written to; None outside a guarded command.
_pipe: int | None = None


def alive() -> None:
    """Tell the guard that the command makes progress."""
    _tell(ALIVE)


@contextlib.contextmanager
def running() -> Iterator[None]:
    """Within it a file is opened or run: it must end in time, also in a command that may otherwise take as long as it likes."""
    _tell(BEGIN)
    try:
        yield
    finally:
        _tell(END)


def _tell(message: bytes) -> None:
    if _pipe is not None:
        with contextlib.suppress(OSError):
            os.write(_pipe, message)


def guarded(*, always: bool = True) -> Callable[[AnyCommand], AnyCommand]:
    """Decorate a command that opens files of strangers: it runs in a child process (`run_guarded`), and takes ``--trust``.

    Args:
        always: all of it must make progress; False: it also trains, validates or the like, and only running a file is timed.
    """

    def mark(command: AnyCommand) -> AnyCommand:
        command.guarded = always  # type: ignore[attr-defined]
        return command

    return mark


def guarding(command: Command) -> Command:
    """A command as it was decorated: in a child process, or as it is."""
    always = getattr(command, "guarded", None)
    if always is None:
        return command

    def run(arguments: argparse.Namespace) -> int:
        return run_guarded(lambda: _trusting(command, arguments), always=always)

    return run


def _trusting(command: Command, arguments: argparse.Namespace) -> int | None:
    """Run a command in a process of its own."""
    if getattr(arguments, "trust", False):
        trust_operators()
    return command(arguments)


def add_trust(parser: argparse.ArgumentParser) -> None:
    """The option ``--trust`` of a command that opens ONNX files."""
    what = "accept all of ONNX's operators in the files, not only those of exported files and usual vision networks"
    parser.add_argument("--trust", action="store_true", help=what)


def trust_operators() -> None:
    """Accept all of ONNX's operators in this process and those that it starts, which are the command's own."""
    os.environ[TRUST] = "1"


def limit_memory(*files: Path, external: bool = True) -> None:
    """In a guarded command, allow as much memory as files of these sizes need; elsewhere do nothing (`bound_memory`)."""
    if _pipe is not None:
        bound_memory(*files, external=external)


def bound_memory(*files: Path, images: int = 1, external: bool = True) -> None:
    """Limit the memory of this process to what these files need; does nothing where the system is not Linux.

    Args:
        files: ONNX files; those that hold their weights count as well, all by the blocks that they have on the disk. Walking through
            a file (`screen`) is itself under the limit.
        images: number of images decoded at the same time, by threads.
        external: files with weights count; False: they are not read, and the files are not walked through.

    Raises:
        ContractError: a file is missing or refused by `screen`.
    """
    if not sys.platform.startswith("linux"):
        return
    _set_limit(files, images)
    weights = {file.parent / name for file in files for name in screen(file).external} if external else set()
    if weights:
        _set_limit([*files, *weights], images)


def _set_limit(files: Iterable[Path], images: int) -> None:
    import resource

    status = Path("/proc/self/status").read_text()
    used = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmData"))
    size = 0
    for file in files:
        with contextlib.suppress(OSError):
            stat = file.stat()
            size += min(stat.st_size, 512 * stat.st_blocks)  # what a sparse file lacks takes no memory
    most = resource.getrlimit(resource.RLIMIT_DATA)[1]
    limit = used + MEMORY * images + PER_BYTE * size
    resource.setrlimit(resource.RLIMIT_DATA, (limit if most == resource.RLIM_INFINITY else min(limit, most), most))


def free_memory() -> None:
    """Undo a limit that this process inherits from a guarded command."""
    if sys.platform.startswith("linux"):
        import resource

        most = resource.getrlimit(resource.RLIMIT_DATA)[1]
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def die_with_parent(parent: int) -> None:
    """End this process when its parent ends, in whatever way. Linux; elsewhere nothing (see `_die_with`)."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it has ended already
            os._exit(1)


def _die_with(reader: int) -> None:
    """End this process when the other end of a pipe is closed: its holder has ended."""

    def wait() -> None:
        os.read(reader, 1)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def run_guarded(main: Callable[[], int | None], *, seconds: float = SECONDS, always: bool = True) -> int:
    """Run a command line in a child process and give its exit code. The child ends with this process, however that ends.

    Args:
        main: the command.
        seconds: it is killed after this time without a sign of life (`alive`).
        always: False: only within `running`.

    Raises:
        GuardError: it crashed or hung.
        KeyboardInterrupt: Ctrl-C was pressed twice: the first asks the command to end, the second ends it.
    """
    global _pipe
    if not hasattr(os, "fork"):
        return main() or 0
    reader, writer = os.pipe()
    life, held = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        os.close(reader)
        os.close(held)
        _pipe = writer
        if sys.platform.startswith("linux"):
            die_with_parent(parent)
        else:
            _die_with(life)
        os._exit(_call(main))
    os.close(writer)
    os.close(life)
    previous = signal.signal(signal.SIGTERM, lambda *_: _end(child))
    try:
        finished, interrupted = _watch(reader, seconds, always)
        if not finished:
            _end(child)
        _, status = os.waitpid(child, 0)
    finally:
        signal.signal(signal.SIGTERM, previous)
        os.close(reader)
        os.close(held)
    if interrupted > 1:
        raise KeyboardInterrupt
    if not finished:
        raise GuardError(f"no progress for {seconds:g} s, so it was killed: the file is damaged, hostile or far too slow here")
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


def _watch(reader: int, seconds: float, always: bool) -> tuple[bool, int]:
    """Wait until the child closes the pipe: whether it did so in time, and how often Ctrl-C was pressed.

    It is late after so many seconds without a sign of life, or where Ctrl-C was pressed twice.
    """
    last, depth, interrupted = time.monotonic(), int(always), 0
    while True:
        try:
            left = max(0.0, last + seconds - time.monotonic()) if depth else None
            ready, _, _ = select.select([reader], [], [], left)
            if not ready:
                return False, interrupted
            message = os.read(reader, 4096)
            if not message:
                return True, interrupted
            depth += message.count(BEGIN) - message.count(END)
            last = time.monotonic()
        except KeyboardInterrupt:  # the child has it too, and ends by itself, unless the file keeps it busy
            interrupted += 1
            if interrupted > 1:
                return False, interrupted


def _end(child: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
