"""Errors that a command prints as one line without a traceback; standard library only.

A message states the rule, the value received and the remedy.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import os
import shlex
import sys
from collections.abc import Callable, Iterable

from kerascv_course.core.output import open_streams, printable, write_out
from kerascv_course.core.progress import say

__all__ = ["CourseError", "DataError", "InputError", "UnknownNameError", "nearest_names", "run_cli", "shell_word", "suggest"]

#: A missing module of these packages is a defect, not an incomplete installation.
OUR_PACKAGES = ("kerascv_course", "export")

#: What an operating system answers that no program can help: rights, names, disks.
ENVIRONMENT = {
    *(errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ELOOP),
    *(
        errno.ENOTDIR,
        errno.EISDIR,
        errno.EFBIG,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENODEV,
        errno.ENXIO,
        errno.EBADF,
        errno.EILSEQ,
    ),
}

#: Longest path that such an error shows, characters.
SHOWN = 200


class CourseError(Exception):
    """Base of all errors of this project; `exit_code` is the exit code of a command that it ends."""

    exit_code = 1


class InputError(CourseError, ValueError):
    """Bad usage or bad input, which the user can fix (exit code 2)."""

    exit_code = 2


class DataError(InputError):
    """Data that is missing, empty, damaged or unsuitable."""


class UnknownNameError(InputError):
    """A name that is not registered.

    Args:
        kind: what the name stands for, such as ``"model"``.
        name: the name received.
        known: the registered names; the nearest are shown.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        super().__init__(f"unknown {kind} {name!r}; {suggest(name, known)}")


def suggest(name: str, known: Iterable[str]) -> str:
    """The nearest spellings of a name as ``did you mean 'a' or 'b'?``, or all known names where none is near or it is a number."""
    known = list(known)
    near = [] if name.isdigit() else nearest_names(name, known)
    return f"did you mean {' or '.join(map(repr, near))}?" if near else f"known: {', '.join(known)}"


def nearest_names(name: str, known: Iterable[str]) -> list[str]:
    """At most three known names that a mistyped or shortened one may mean: those that it begins first, then similar ones."""
    known = list(known)
    beginning = [one for one in known if name and one.startswith(name)]
    similar = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    return list(dict.fromkeys([*beginning, *similar]))[:3]


def shell_word(path: object) -> str:
    """A path as it is written in a command that a message suggests: in quotes where it has blanks or the like."""
    return shlex.quote(str(path))


def run_cli(main: Callable[[], int | None]) -> None:
    """Run a command and exit: 0 success, 1 failure, 2 bad usage or input, 130 interrupted by Ctrl-C.

    A `CourseError` becomes one line on stderr, and so does what the operating system refuses: a full disk, a file that may not be read,
    a name that is too long. Any other exception is a defect and keeps its traceback. What is printed goes through `printable`.
    """
    streams = sys.stdout, sys.stderr
    try:
        sys.exit(_run(main))
    finally:
        sys.stdout, sys.stderr = streams


def _run(main: Callable[[], int | None]) -> int:
    """A command's exit code, once its output is written."""
    if not open_streams():
        print("error: standard output is closed: redirect it to a file, or to /dev/null", file=sys.stderr)
        return 2
    try:
        code = _exit_code(main)
        write_out()
        return code
    except BrokenPipeError:  # the reader of the pipe, such as head, has exited
        return 1
    except OSError as error:
        if error.errno not in ENVIRONMENT:
            raise
        if error.filename is None:
            _print_error(f"cannot write to standard output: {error.strerror}")
            return 1
        path = os.fsdecode(error.filename) if isinstance(error.filename, bytes | str) else str(error.filename)
        _print_error(f"{path if len(path) < SHOWN else path[:SHOWN] + ' …'}: {error.strerror}")
        return 2
    finally:
        with contextlib.suppress(OSError, ValueError):
            write_out()


def _exit_code(main: Callable[[], int | None]) -> int:
    """Run a command; errors of ours are printed."""
    try:
        return main() or 0
    except SystemExit as end:  # argparse
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except CourseError as error:
        _print_error(str(error))
        return error.exit_code
    except ModuleNotFoundError as error:
        if error.name and error.name.split(".")[0] in OUR_PACKAGES:
            raise
        _print_error(
            f"this command needs the package {error.name!r}, which is not installed (predict and inspect of python -m export "
            "work without it): install kerascv_course with its dependencies"
        )
        return 1
    except KeyboardInterrupt:
        say("interrupted", sys.stderr)
        return 130


def _print_error(text: str) -> None:
    """An error, of which only the first line begins at the margin: a name in it cannot look like another message."""
    first, *more = printable(text, lines=True).split("\n")
    say("\n".join([f"error: {first}", *(line if line.startswith(" ") else f"  {line}" for line in more)]), sys.stderr)
