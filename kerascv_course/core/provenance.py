"""Which weights the files of a run were made from: ``provenance.json`` of its folder.

Training a finished run further changes its best weights. Files made before that stay in the folder until they are made again, but they
are outdated: pages and commands must not present them as the run's.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path

from kerascv_course.core.errors import InputError
from kerascv_course.core.io import write_text

__all__ = ["EXPORTED", "is_current", "outdated", "record_copy", "record_current", "weights_digest"]

#: File of a run: the digest of the weights that each other file was made from.
FILE = "provenance.json"

#: Files of a run with weights inside, as the commands name them.
EXPORTED = ("model.onnx", "model.int8.onnx", "model.float16.onnx", "retriever.onnx")


def weights_digest(folder: Path) -> str:
    """SHA-256 of the weights in a run's best.keras; the date in the file is left out. Empty: there is no such file.

    Raises:
        InputError: the file is damaged.
    """
    path = folder / "best.keras"
    if not path.is_file():
        return ""
    try:
        with zipfile.ZipFile(path) as archive, archive.open("model.weights.h5") as weights:
            return f"sha256:{hashlib.file_digest(weights, 'sha256').hexdigest()}"  # type: ignore[arg-type]
    except Exception as error:  # zipfile raises many types for a damaged archive
        raise InputError(f"{path} is damaged: {error}") from None


def record_current(folder: Path, *names: str) -> None:
    """Record that files were made from the run's best weights."""
    digest = weights_digest(folder)
    _write(folder, {**_read(folder), **dict.fromkeys(names, digest)})


def record_copy(source: Path, target: Path) -> None:
    """Record that one file of a run was made from another; nothing where they are not in the same run folder."""
    recorded = _read(source.parent)
    if recorded and source.parent.resolve() == target.parent.resolve():
        _write(source.parent, {**recorded, target.name: recorded.get(source.name, "unknown")})


def is_current(folder: Path, name: str) -> bool:
    """Whether a file was made from the run's best weights, as far as is known: older versions recorded nothing."""
    recorded = _read(folder)
    return not recorded or recorded.get(name) == weights_digest(folder)


def outdated(folder: Path) -> list[str]:
    """Exported files of a run that were made from earlier weights."""
    recorded = _read(folder)
    if not recorded:
        return []
    digest = weights_digest(folder)
    return [name for name in EXPORTED if (folder / name).is_file() and recorded.get(name) != digest]


def _read(folder: Path) -> dict[str, str]:
    path = folder / FILE
    if not path.is_file():
        return {}
    try:
        recorded = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged: {error}") from None
    if not isinstance(recorded, dict):
        raise InputError(f"{path} is damaged: it holds no object")
    return {str(name): str(digest) for name, digest in recorded.items()}


def _write(folder: Path, recorded: dict[str, str]) -> None:
    write_text(folder / FILE, json.dumps(recorded, indent=2) + "\n")
