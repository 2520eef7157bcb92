"""Load untrusted .keras files and other archives."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np

from kerascv_course.core.errors import DataError, InputError
from kerascv_course.core.lazy import keras

__all__ = ["check_archive", "check_format", "load_keras", "load_model", "read_arrays", "save_model"]

#: Largest allowed ratio of unpacked to packed size of an archive member (weights hardly compress), and bytes that are always allowed.
MAX_RATIO, ALWAYS_ALLOWED = 100, 16 * 2**20

#: Most members of an archive, and bytes that all of them together may unpack to in any case.
MAX_MEMBERS, ALL_ALLOWED = 100_000, 64 * 2**20

#: Largest JSON member, in bytes.
MAX_CONFIG = 64 * 2**20


_OPERATIONS = "holds TensorFlow's operations, not Keras layers: save the model where it was made, model.save('x.keras')"
_WEIGHTS = "holds weights without a model: build the model, load them, and model.save('x.keras')"
_HDF5 = "is in Keras's old format: in a program that has its layers, keras.models.load_model(FILE).save('x.keras')"
_PYTORCH = "is PyTorch's: export it with torch.onnx.export"

#: What to do with models that other programs save, by the end of the name; the first that fits counts.
_REMEDIES = {
    **dict.fromkeys((".weights.h5", ".ckpt", ".index"), _WEIGHTS),
    **dict.fromkeys((".h5", ".hdf5"), _HDF5),
    **dict.fromkeys((".pb", ".tflite"), _OPERATIONS),
    **dict.fromkeys((".pt", ".pth", ".safetensors"), _PYTORCH),
    ".onnx": "is exported already: python -m export inspect shows what it holds",
    "": "is not a .keras file, the only supported format: model.save('x.keras')",
}


def check_format(path: Path) -> None:
    """Say what to do with a model in another format than .keras.

    Raises:
        InputError: a SavedModel folder, or a file that is not called .keras.
    """
    if (path / "saved_model.pb").is_file():
        raise InputError(f"{path} is a SavedModel, which {_OPERATIONS}")
    if path.is_file() and path.suffix != ".keras":
        raise InputError(f"{path} {next(remedy for end, remedy in _REMEDIES.items() if path.name.lower().endswith(end))}")


def load_keras(path: str | Path) -> keras.Model:
    """Load a .keras file for inference without running code from it: ``safe_mode`` rejects Lambda layers.

    Raises:
        InputError: missing, damaged, a decompression bomb, or with layers that are neither Keras's nor ours.
    """
    path = Path(path)
    check_format(path)
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
    check_format(path)
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
        DataError: missing, not an archive, or a decompression bomb.
    """
    if not path.is_file():
        raise DataError(f"no such file: {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
            for part in parts:
                if part.file_size > max(ALWAYS_ALLOWED, MAX_RATIO * part.compress_size):
                    sizes = f"{part.compress_size:,} to {part.file_size:,} bytes"
                    raise DataError(f"{path} is a decompression bomb: {part.filename[:80]!r} unpacks from {sizes}")
                if part.filename.endswith(".json") and part.file_size > MAX_CONFIG:
                    raise DataError(
                        f"{path}: {part.filename[:80]!r} has {part.file_size:,} bytes; at most {MAX_CONFIG:,} are read"
                    )
            packed, unpacked = (sum(getattr(part, name) for part in parts) for name in ("compress_size", "file_size"))
            if unpacked > max(ALL_ALLOWED, MAX_RATIO * packed) or len(parts) > MAX_MEMBERS:
                raise DataError(f"{path} is a decompression bomb: {len(parts):,} members unpack to {unpacked:,} bytes")
    except InputError:
        raise
    except PermissionError:
        raise DataError(f"{path} may not be read: permission denied") from None
    except Exception as error:  # zipfile raises many types for a damaged archive
        kind = "a Keras model" if path.suffix == ".keras" else "weights"
        raise DataError(f"{path} cannot be opened as {kind}: not a {path.suffix} archive, or damaged: {error}") from None


def read_arrays(path: Path, wanted: Callable[[str], bool] = lambda _: True) -> dict[str, np.ndarray]:
    """Arrays of a .npz file by name, each of exactly the size that its header states; nothing larger than the file is unpacked.

    Args:
        path: the file.
        wanted: whether to read the array of a name.

    Raises:
        DataError: missing, damaged, a decompression bomb, or with Python objects.
    """
    check_archive(path)
    try:
        with zipfile.ZipFile(path) as archive:
            arrays = {}
            for part in archive.infolist():
                name = part.filename.removesuffix(".npy")
                if wanted(name):
                    with archive.open(part) as file:
                        arrays[name] = _read_array(file, part.file_size)
            return arrays
    except Exception as error:  # zipfile and NumPy raise many types for damaged files
        reason = str(error).partition("\n")[0][:200] or type(error).__name__
        raise DataError(f"{path} is damaged, or no archive of arrays: {reason}") from None


def _read_array(file: IO[bytes], size: int) -> np.ndarray:
    """An array in NumPy's format of so many bytes, header included."""
    version = np.lib.format.read_magic(file)
    read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
    shape, fortran, dtype = read_header(file)
    header = file.tell()
    if dtype.hasobject or dtype.itemsize * math.prod(shape) != size - header:
        raise ValueError(f"an array of {dtype} {shape} in {size - header:,} bytes")
    values = np.frombuffer(bytearray(file.read()), dtype) if size > header else np.empty(0, dtype)
    return values.reshape(shape, order="F" if fortran else "C")
