"""Results of long work, kept by content: the same images and settings are never computed twice. No pickles."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kerascv_course.core.io import atomic_write

__all__ = ["cache_folder", "cached", "digest"]

#: Part of every key: raise it when what is computed changes.
VERSION = 1


def cache_folder() -> Path:
    """``KERASCV_COURSE_CACHE``, else ``kerascv_course`` in the user's cache folder; it may be deleted at any time."""
    if folder := os.environ.get("KERASCV_COURSE_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kerascv_course"


def digest(*parts: Any) -> str:
    """SHA-256 over arrays (type, shape and bytes) and JSON-able values, hexadecimal."""
    total = hashlib.sha256(f"version {VERSION}".encode())
    for part in parts:
        if isinstance(part, np.ndarray):
            total.update(f"{part.dtype}{part.shape}".encode())
            total.update(np.ascontiguousarray(part).data)
        else:
            total.update(json.dumps(part, sort_keys=True).encode())
    return total.hexdigest()


def cached(kind: str, key: str, compute: Callable[[], Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Arrays by name from the cache, or computed and kept there. A damaged file is computed anew.

    Args:
        kind: what it is, a word.
        key: from `digest`, of all that the result depends on.
        compute: makes them.

    Raises:
        WriteError: the cache cannot be written.
    """
    path = cache_folder() / kind / f"{key[:40]}.npz"
    if path.is_file():
        with (
            contextlib.suppress(OSError, ValueError, zipfile.BadZipFile, EOFError, KeyError),
            np.load(path, allow_pickle=False) as file,
        ):
            return {name: file[name] for name in file.files}
    arrays = dict(compute())
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)  # type: ignore[arg-type]
    return arrays
