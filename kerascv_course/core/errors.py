"""Errors that are told to the user in one line, without a traceback; standard library only.

The rule for a message: what the rule is, what was received, and what to do about it.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Iterable

__all__ = ["CourseError", "DataError", "InputError", "UnknownNameError", "run_cli"]

#: A module of these that is missing is a defect, not an installation to be completed.
OUR_PACKAGES = ("kerascv_course", "export")


class CourseError(Exception):
    """Base of every error of this project; `exit_code` is what a command line ends with."""

    exit_code = 1


class InputError(CourseError, ValueError):
    """Bad usage or bad input: something that the user can mend (exit code 2)."""

    exit_code = 2


class DataError(InputError):
    """Data that is missing, empty, damaged or does not fit."""


class UnknownNameError(InputError):
    """A name that is not registered.

    Args:
        kind: what was looked for, such as ``"model"``.
        name: the name received.
        known: the names there are; the nearest are shown.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        known = list(known)
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"known: {', '.join(known)}"
        super().__init__(f"unknown {kind} {name!r}; {hint}")


def run_cli(main: Callable[[], int | None]) -> None:
    """Run a command line and leave the process: 0 done, 2 bad usage or input, 1 failure.

    Our own errors become one line on stderr; any other exception is a defect and keeps its traceback.
    """
    try:
        code = main() or 0
    except CourseError as error:
        print(f"error: {error}", file=sys.stderr)
        code = error.exit_code
    except ModuleNotFoundError as error:
        if error.name and error.name.split(".")[0] in OUR_PACKAGES:
            raise
        print(
            f"error: this command needs the package {error.name!r}, which is not installed here (predict and inspect of "
            "python -m export do without): install kerascv_course with its dependencies",
            file=sys.stderr,
        )
        code = 1
    except BrokenPipeError:  # the reader of a pipe, such as head, has left
        sys.stderr.close()
        code = 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 1
    sys.exit(code)
