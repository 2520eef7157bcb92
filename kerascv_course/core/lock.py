"""One writer of a folder at a time, by a lock of the operating system that ends with its process; standard library only."""

from __future__ import annotations

import contextlib
import errno
import glob
import json
import logging
import os
import re
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from kerascv_course.core.errors import InputError
from kerascv_course.core.io import LOCK, WriteError, check_new_folder, make_free_folder

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

__all__ = ["LockedError", "new_folder", "partial_folder", "remove_partial", "sole_writer"]

#: Files of `atomic_write` and folders of `partial_folder` that a killed process has left.
PARTIAL_FILE, PARTIAL_FOLDER = re.compile(r"\.partial-\d+-.+"), re.compile(r"\.partial-.+-[a-z0-9_]{8}")

#: Where Windows locks a byte: beyond the text, which other processes could not read otherwise.
BYTE = 2**30

#: What a file system without locks answers.
UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}

#: Folders that this process holds.
_held: set[Path] = set()

log = logging.getLogger("kerascv_course")


class LockedError(InputError):
    """Another process writes into the folder."""


@contextlib.contextmanager
def sole_writer(folder: Path) -> Iterator[Path]:
    """Hold a folder within the block: every other process that asks for it is refused.

    The lock ends with the process, however that ends; the file ``.lock`` names the process and its host, and may stay after a
    ``kill -9``. The process that holds a folder may take it again, and so may its child processes. A folder that does not exist is
    created, and removed in the end if nothing was written.

    Args:
        folder: to write into.

    Yields:
        The folder.

    Raises:
        LockedError: another process holds it.
        InputError: it is a file.
        WriteError: it cannot be written.
    """
    key = folder.resolve()
    if key in _held:
        yield folder
        return
    with _created(folder):
        file = _take(folder)
        if file is None:
            yield folder
            return
        _held.add(key)
        try:
            yield folder
        finally:
            _held.discard(key)
            _release(file, folder / LOCK)


@contextlib.contextmanager
def new_folder(path: Path, remedy: str, *, numbered: bool = False) -> Iterator[Path]:
    """Create a folder and hold it within the block, as `sole_writer` does.

    Args:
        path: the folder, new or empty.
        remedy: what the user can do if it is not, such as ``"choose another --output"``.
        numbered: take the first of `path`, ``path-2``, ``path-3`` … that does not exist.

    Yields:
        The folder.

    Raises:
        LockedError: another process holds it.
        InputError: it has files, or is a file.
        WriteError: it cannot be created.
    """
    if not numbered:
        check_new_folder(path, remedy)
    with _created(path, numbered=numbered) as folder, sole_writer(folder):
        check_new_folder(folder, remedy)
        yield folder


@contextlib.contextmanager
def partial_folder(path: Path) -> Iterator[Path]:
    """A new folder beside `path` for the files that it is made of, held within the block and removed in the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".partial-{path.name}-", dir=path.parent))
    try:
        with sole_writer(folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_partial(folder: Path) -> None:
    """Remove what killed processes left half-written in a folder that this process holds.

    Other names, folders that a process still writes into, and run folders within are left alone.
    """
    for place, folders, files in os.walk(folder):
        for name in filter(PARTIAL_FILE.fullmatch, files):
            Path(place, name).unlink(missing_ok=True)
        for name in filter(PARTIAL_FOLDER.fullmatch, folders):
            with contextlib.suppress(LockedError), sole_writer(Path(place, name)):
                shutil.rmtree(Path(place, name), ignore_errors=True)
        folders[:] = [
            name for name in folders if not PARTIAL_FOLDER.fullmatch(name) and not Path(place, name, "recipe.json").exists()
        ]


@contextlib.contextmanager
def _created(path: Path, *, numbered: bool = False) -> Iterator[Path]:
    """Create a folder unless it exists, and remove in the end what was created and is empty."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    if path.exists() and not path.is_dir() and not numbered:
        raise InputError(f"{path} is a file, not a folder: choose another")
    try:
        if numbered:
            _remove_abandoned(path)
            path = make_free_folder(path)
            missing = [path, *missing]
        else:
            path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(f"cannot write {path}: {error}") from None
    try:
        yield path
    finally:
        for folder in missing:
            with contextlib.suppress(OSError):  # it has content
                folder.rmdir()


def _remove_abandoned(path: Path) -> None:
    """Remove folders of this name and its numbers that have nothing but the lock of a process that was killed at its start."""
    for folder in (path, *path.parent.glob(f"{glob.escape(path.name)}-[0-9]*")):
        with contextlib.suppress(OSError):  # another process holds it, or has removed it
            # a lock file without text is of a process that is about to lock it
            if [item.name for item in folder.iterdir()] == [LOCK] and (folder / LOCK).stat().st_size:
                with (folder / LOCK).open("r+b") as file:
                    if _lock(file):
                        (folder / LOCK).unlink()
                        folder.rmdir()


def _take(folder: Path) -> IO[bytes] | None:
    """The open and locked lock file; None: a parent process holds it, for this one as well."""
    path = folder / LOCK
    while True:
        if path.is_symlink():  # in a folder of a stranger it may lead to any file, which would be overwritten
            raise InputError(f"{path} is a link, which a lock never is: remove it")
        try:
            file = open(path, "a+b", opener=_open_itself)  # noqa: SIM115 (it stays open)
        except OSError as error:
            raise WriteError(f"cannot write {folder}: {error}") from None
        try:
            _lock(file)
        except BlockingIOError:
            holder = _read(file)
            file.close()
            if (holder.get("process"), holder.get("host")) == (os.getppid(), socket.gethostname()):
                return None
            raise LockedError(
                f"only one process at a time may write into {folder}; now it is {_describe(holder)}: wait until it ends, or end it"
            ) from None
        if _is_same(file, path):
            file.truncate(0)
            file.write(json.dumps(_this_process()).encode())
            file.flush()
            return file
        file.close()  # the process that held it has removed it in the meantime


def _open_itself(path: str, flags: int) -> int:
    """Open a file, and fail for a link, also for one that has just taken the file's place."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def _lock(file: IO[bytes]) -> bool:
    """Lock an open file without waiting; False: the file system has no locks.

    Raises:
        BlockingIOError: another process holds it.
    """
    if sys.platform == "win32":
        file.seek(BYTE)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError as error:
            raise BlockingIOError from error
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        log.warning(
            "%s is on a file system without locks: make sure that no other process writes there", Path(file.name).parent
        )
        return False
    return True


def _release(file: IO[bytes], path: Path) -> None:
    """Remove the lock file, while it is locked where the system allows that, and unlock it."""
    if sys.platform != "win32":
        path.unlink(missing_ok=True)
    file.close()
    if sys.platform == "win32":
        with contextlib.suppress(OSError):  # the next process has opened it
            path.unlink(missing_ok=True)


def _is_same(file: IO[bytes], path: Path) -> bool:
    """Whether an open file is the one at a path."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    return False


def _this_process() -> dict[str, Any]:
    return {
        "process": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(sys.argv),
    }


def _read(file: IO[bytes]) -> dict[str, Any]:
    """What the holder has written; empty before it has."""
    file.seek(0)
    try:
        holder = json.loads(file.read())
    except (OSError, ValueError):
        return {}
    return holder if isinstance(holder, dict) else {}


def _describe(holder: dict[str, Any]) -> str:
    if not holder:
        return "another process"
    return f"process {holder.get('process')} on {holder.get('host')} since {holder.get('since')} ({holder.get('command')})"
