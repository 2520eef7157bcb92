"""Load untrusted .keras files."""

from __future__ import annotations

import zipfile
from pathlib import Path

from kerascv_course.core.errors import InputError
from kerascv_course.core.lazy import keras

__all__ = ["check_archive", "load_keras", "load_model", "save_model"]

#: Largest allowed ratio of unpacked to packed size of an archive member (weights hardly compress), and bytes that are always allowed.
MAX_RATIO, ALWAYS_ALLOWED = 100, 16 * 2**20

#: Largest JSON member, in bytes.
MAX_CONFIG = 64 * 2**20


def load_keras(path: str | Path) -> keras.Model:
    """Load a .keras file for inference without running code from it: ``safe_mode`` rejects Lambda layers.

    Raises:
        InputError: missing, damaged, a decompression bomb, or with layers that are neither Keras's nor ours.
    """
    path = Path(path)
    if path.is_file() and path.suffix != ".keras":
        raise InputError(f"{path} is not a .keras file, the only supported format: save the model with model.save('x.keras')")
    check_archive(path)
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises many types for a damaged archive
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(
            f"{path} cannot be opened as a Keras model: {lines[0][:300]} ({type(error).__name__}); only layers of Keras are "
            "supported, without Lambda layers, which hold code"
        ) from error
    if not isinstance(model, keras.Model):
        raise InputError(f"{path} holds a {type(model).__name__}, not a Keras model")
    return model


def load_model(path: str | Path) -> keras.Model:
    """Load a run's best weights, or a .keras file, for inference: uint8 images in, normalization inside, not compiled.

    It may be called, be a layer of another model, or be compiled and trained; `keras.saving.load_model` of the file is the same.

    Args:
        path: a run folder, whose ``best.keras`` is loaded, or a .keras file.

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


def save_model(model: keras.Model, path: Path) -> None:
    """Save a functional model for inference, without optimizer and loss, so that Keras alone opens it where its layers are Keras's."""
    keras.Model(model.input, model.output, name=model.name).save(path)


def check_archive(path: Path) -> None:
    """Reject a .keras or .npz archive that unpacks to far more than its size, before anything is unpacked.

    Raises:
        InputError: missing, not an archive, or a decompression bomb.
    """
    if not path.is_file():
        raise InputError(f"no such file: {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            for part in archive.infolist():
                if part.file_size > max(ALWAYS_ALLOWED, MAX_RATIO * part.compress_size):
                    sizes = f"{part.compress_size:,} to {part.file_size:,} bytes"
                    raise InputError(f"{path} is a decompression bomb: {part.filename[:80]!r} unpacks from {sizes}")
                if part.filename.endswith(".json") and part.file_size > MAX_CONFIG:
                    raise InputError(
                        f"{path}: {part.filename[:80]!r} has {part.file_size:,} bytes; at most {MAX_CONFIG:,} are read"
                    )
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
        if isinstance(error, InputError):
            raise
        kind = "a Keras model" if path.suffix == ".keras" else "weights"
        raise InputError(f"{path} cannot be opened as {kind}: not a {path.suffix} archive, or damaged: {error}") from None
