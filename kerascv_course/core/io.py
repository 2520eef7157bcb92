"""Files that a reader finds whole or not at all, and new folders; standard library only."""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path

from kerascv_course.core.errors import CourseError, InputError

__all__ = ["LOCK", "WriteError", "atomic_write", "check_links", "check_new_folder", "make_free_folder", "write_text"]

#: File by which a process holds a folder (`kerascv_course.core.lock`).
LOCK = ".lock"


class WriteError(CourseError):
    """The disk is full or the folder cannot be written; the previous content is unchanged."""


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to `path`, with its suffix; the file replaces `path` when the block succeeds.

    What a killed process of this machine has left of the same file is removed.

    Raises:
        WriteError: an operating-system error within the block; `path` keeps its previous content.
    """
    temporary = path.with_name(f".partial-{os.getpid()}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in _left_behind(path.parent.resolve()).pop(path.name, []):
            left.unlink(missing_ok=True)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        why = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else str(error)
        raise WriteError(f"cannot write {path}: {why}; its previous content is unchanged") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@functools.cache
def _left_behind(folder: Path) -> dict[str, list[Path]]:
    """Half-written files in a folder whose processes have ended, by the name that they would have got; it is looked at once."""
    found: dict[str, list[Path]] = {}
    if os.name == "posix":
        for path in folder.glob(".partial-*"):
            match = re.fullmatch(r"\.partial-(\d+)-(.+)", path.name, re.DOTALL)
            if match and path.is_file() and not _runs(int(match[1])):
                found.setdefault(match[2], []).append(path)
    return found


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically.

    Raises:
        WriteError: see `atomic_write`.
    """
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def make_free_folder(path: Path) -> Path:
    """Create the folder `path`, or where it exists the first of ``path-2``, ``path-3`` … that does not; no two callers get the same.

    Raises:
        OSError: it cannot be created.
    """
    for number in itertools.count(1):
        free = path if number == 1 else path.with_name(f"{path.name}-{number}")
        with contextlib.suppress(FileExistsError):
            free.mkdir(parents=True)
            return free
    raise AssertionError


def check_links(folder: Path) -> None:
    """Refuse a folder with a link to somewhere else: a stranger's could have our files read into a page, or others written.

    Raises:
        InputError: there is one.
    """
    inside = folder.resolve()
    for place, folders, files in os.walk(folder):
        for path in (Path(place, name) for name in (*folders, *files)):
            if path.is_symlink() and not path.resolve().is_relative_to(inside):
                raise InputError(f"{path} is a link out of {folder}, which is neither followed nor written to: remove it")


def check_new_folder(path: Path, remedy: str) -> None:
    """Refuse an output folder that exists already; an empty folder, and one with nothing but its `LOCK`, is accepted.

    Args:
        path: the folder.
        remedy: what the user can do, such as ``"choose another --output"``.

    Raises:
        InputError: the folder has files, or `path` is a file.
    """
    if path.is_dir() and any(item.name != LOCK for item in path.iterdir()):
        raise InputError(f"{path} already exists and is never overwritten: {remedy}")
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file, not a folder: {remedy}")
