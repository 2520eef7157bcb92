"""Opening a .keras file that may be anybody's."""

from __future__ import annotations

import contextlib
import importlib
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from kerascv_course.core.errors import InputError

if TYPE_CHECKING:
    import keras

__all__ = ["check_archive", "load_keras", "load_model"]

#: A part of the archive may unpack to so many times its size, and so many bytes, at most; weights hardly shrink at all.
MAX_RATIO, ALWAYS_ALLOWED = 100, 16 * 2**20

#: Modules with layers that are saved in files.
OWN_LAYERS = (
    "kerascv_course.tasks.retrieval.losses",
    *(f"kerascv_course.tasks.scenes.{name}" for name in ("features", "encoders", "classifiers")),
)

#: Longest configuration that is read, bytes.
MAX_CONFIG = 64 * 2**20


def load_keras(path: str | Path) -> keras.Model:
    """Load a .keras file for inference, nothing in it run: ``safe_mode`` refuses lambda layers, which hold program code.

    Raises:
        InputError: missing, damaged, a bomb, or with parts that are not Keras's own.
    """
    path = Path(path)
    if path.is_file() and path.suffix != ".keras":
        raise InputError(f"{path} is not a .keras file, the one format that is read: save the model with model.save('x.keras')")
    check_archive(path)
    _import_own_layers(path)
    import keras

    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises all sorts for a damaged archive
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(
            f"{path} cannot be opened as a Keras model: {lines[0][:300]} ({type(error).__name__}); layers that are not Keras's own, "
            "and Lambda layers, which hold code, are refused"
        ) from error
    if not isinstance(model, keras.Model):
        raise InputError(f"{path} holds no Keras model but {type(model).__name__}")
    return model


def load_model(path: str | Path) -> keras.Model:
    """Load a run's best weights, or a .keras file, for inference.

    Args:
        path: a run folder, or a .keras file.

    Raises:
        InputError: no such file, a run without a checkpoint, or a file that `load_keras` refuses.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "best.keras"
        if not path.is_file():
            raise InputError(
                f"{path} is missing: not a run folder, or the run stopped before its first checkpoint: train it again"
            )
    return load_keras(path)


def _import_own_layers(path: Path) -> None:
    """Keras knows this package's layers once the modules that have them are imported; only these are, whatever the file names."""
    with zipfile.ZipFile(path) as archive, contextlib.suppress(KeyError, OSError, zipfile.BadZipFile):
        if b"kerascv_course>" in archive.read("config.json"):
            for module in OWN_LAYERS:
                importlib.import_module(module)


def check_archive(path: Path) -> None:
    """Refuse a .keras or .npz archive that unpacks to far more than it is, before anything of it is unpacked.

    Raises:
        InputError: missing, no archive, or such a bomb.
    """
    if not path.is_file():
        raise InputError(f"no such file: {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            for part in archive.infolist():
                if part.file_size > max(ALWAYS_ALLOWED, MAX_RATIO * part.compress_size):
                    raise InputError(
                        f"{path} is a bomb: {part.filename[:80]!r} unpacks from {part.compress_size:,} to {part.file_size:,} bytes"
                    )
                if part.filename.endswith(".json") and part.file_size > MAX_CONFIG:
                    raise InputError(
                        f"{path}: {part.filename[:80]!r} has {part.file_size:,} bytes; at most {MAX_CONFIG:,} are read"
                    )
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
        if isinstance(error, InputError):
            raise
        kind = "a Keras model" if path.suffix == ".keras" else "weights"
        raise InputError(f"{path} cannot be opened as {kind}: no {path.suffix} archive, or damaged: {error}") from None
