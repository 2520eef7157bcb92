"""Writing files so that a reader finds each whole or not at all; standard library only."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from kerascv_course.core.errors import CourseError

__all__ = ["WriteError", "write_beside"]


class WriteError(CourseError):
    """The disk is full or the folder cannot be written; what was there before is unchanged."""


@contextlib.contextmanager
def write_beside(path: Path) -> Iterator[Path]:
    """Give a temporary file beside `path` (with its suffix), which replaces `path` when the block ends well.

    Raises:
        WriteError: any operating-system error within the block; `path` keeps its old content.
    """
    temporary = path.with_name(f".partial-{os.getpid()}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        why = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else str(error)
        raise WriteError(f"cannot write {path}: {why}; what was there before is unchanged") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
