"""Weights as arrays by name, from files and from the Hugging Face hub.

No pickle is ever opened: PyTorch's .pt and .pth files are rejected by name, and NumPy files are read without object arrays.
"""

from __future__ import annotations

import io
import logging
import os
import re
import socket
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from kerascv_course.core.errors import CourseError, DataError, InputError
from kerascv_course.core.keras_file import ALL_ALLOWED, ALWAYS_ALLOWED, MAX_RATIO, check_archive, read_arrays

__all__ = ["Arrays", "is_run", "read_source"]

Arrays = dict[str, np.ndarray]

#: Files of a run folder: that which makes a folder one, and the weights.
RECIPE, BEST = "recipe.json", "best.keras"

HUB_FILE = "model.safetensors"
_PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle", ".tar", ".npy", ".joblib")
_HUB_NAME = re.compile(r"(hf-hub:)?(?P<name>[A-Za-z0-9][\w.-]*/[\w.-]+)")


def is_run(source: str | Path) -> bool:
    """Whether weights are those of a run: its folder, or its best.keras."""
    path = Path(source)
    return (path / RECIPE).is_file() or (path.name == BEST and path.with_name(RECIPE).is_file())


def read_source(source: str | Path) -> Arrays:
    """Read a file or a hub name.

    Args:
        source: a .safetensors, .npz, .weights.h5 or .keras file; a run folder, which means its best.keras; or ``owner/name`` of a model
            on the Hugging Face hub, whose model.safetensors is downloaded once and then taken from the client's cache.

    Returns:
        Arrays by their names in the source; in Keras's files these are ``layer/index of the variable``.

    Raises:
        InputError: an unsupported kind of file, such as a pickle, or neither a file nor a hub name.
        DataError: the file is missing or damaged, or the hub cannot be reached.
    """
    path = Path(source)
    if (path / RECIPE).is_file():
        path = path / BEST
    reader = _reader(path.name)
    if reader is None:
        name = _HUB_NAME.fullmatch(str(source))
        if path.suffix in _PICKLES:
            raise InputError(
                f"weights are read from .safetensors, .npz, .weights.h5 and .keras files; received {str(source)!r}, which "
                "may hold a pickle, and opening a pickle can run any code. If you trust it, convert it once with "
                "safetensors.torch.save_file(torch.load(file, weights_only=True), 'weights.safetensors')"
            )
        if path.exists() or name is None:
            raise InputError(
                "weights are a .safetensors, .npz, .weights.h5 or .keras file, or a hub name such as 'timm/resnet18.tv_in1k'; "
                f"received {str(source)!r}"
            )
        path, reader = _fetch(name["name"]), _read_safetensors
    if not path.is_file():
        raise DataError(
            f"no weights file {str(path)!r}; give the path of a file, or a hub name such as 'timm/resnet18.tv_in1k'"
        )
    try:
        arrays = reader(path)
    except CourseError:
        raise
    except Exception as error:  # h5py, zipfile and NumPy raise many types for damaged files
        reason = str(error).partition("\n")[0][:200] or type(error).__name__
        raise DataError(f"{str(path)!r} cannot be read as {path.suffix.lstrip('.')} weights: {reason}") from error
    if not arrays:
        raise DataError(f"{str(path)!r} holds no weights")
    return arrays


def _reader(name: str) -> Callable[[Path], Arrays] | None:
    readers: dict[str, Callable[[Path], Arrays]] = {
        ".safetensors": _read_safetensors,
        ".npz": _read_npz,
        ".weights.h5": _read_h5,
        ".keras": _read_keras,
    }
    return next((reader for suffix, reader in readers.items() if name.endswith(suffix)), None)


def _read_safetensors(path: Path) -> Arrays:
    try:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file
    except ImportError as error:
        raise InputError("reading .safetensors files needs safetensors: pip install 'kerascv_course[pretrained]'") from error
    try:
        return dict(load_file(path))
    except SafetensorError as error:
        raise DataError(f"{str(path)!r} is not a safetensors file: {error}") from error


def _read_npz(path: Path) -> Arrays:
    return read_arrays(path)


def _read_h5(path: Path | io.BytesIO) -> Arrays:
    import h5py

    size = path.getbuffer().nbytes if isinstance(path, io.BytesIO) else path.stat().st_size
    arrays, total, most = {}, 0, max(ALL_ALLOWED, MAX_RATIO * size)
    with h5py.File(path, "r") as file:
        for name, dataset in _variables(file, size):
            total += dataset.nbytes
            if total > most:
                raise ValueError(f"its arrays unpack to more than {most:,} bytes")
            arrays[name] = np.asarray(dataset)
    return arrays


def _read_keras(path: Path) -> Arrays:
    check_archive(path)
    with zipfile.ZipFile(path) as archive:
        return _read_h5(io.BytesIO(archive.read("model.weights.h5")))


def _variables(group: Any, size: int, top: bool = True) -> Iterator[tuple[str, Any]]:
    """Keras's layout: a group ``vars``, with the layer's name as an attribute, holds the layer's variables, numbered from 0.

    Args:
        group: of an HDF5 file.
        size: of the file, bytes.
        top: the group is the file's root.

    Raises:
        ValueError: a part stored in another file, or an array far larger than the file.
    """
    for key in group:
        child = _own(group, key, size)
        if not hasattr(child, "items") or (top and key in ("optimizer", "metrics", "_metrics")):
            continue
        if key != "vars":
            yield from _variables(child, size, top=False)
            continue
        layer = child.attrs.get("name", group.name.rsplit("/", 1)[-1])
        for number in child:
            yield f"{layer}/{number}", _own(child, number, size)


def _own(group: Any, key: str, size: int) -> Any:
    """A member of a group, which must be stored in the same file; HDF5 members can refer to any readable file."""
    import h5py

    if not isinstance(group.get(key, getlink=True), h5py.HardLink):
        raise ValueError(f"{key[:80]!r} is a link, which weights do not have")
    child = group[key]
    if isinstance(child, h5py.Dataset):
        if child.external or child.is_virtual:
            raise ValueError(f"{key[:80]!r} is stored in another file, which weights are not")
        if child.nbytes > max(ALWAYS_ALLOWED, MAX_RATIO * size):
            raise ValueError(f"{key[:80]!r} unpacks to {child.nbytes:,} bytes, from a file of {size:,}")
    return child


def _require_network() -> None:
    """Fail at once if the hub's host name cannot be resolved; its client would retry for half a minute."""
    from urllib.parse import urlsplit
    from urllib.request import getproxies

    host = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co")).hostname
    if host and not getproxies():
        socket.getaddrinfo(host, None)


def _fetch(name: str) -> Path:
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise InputError(
            f"fetching {name!r} from the hub needs huggingface_hub: pip install 'kerascv_course[pretrained]', or download its "
            f"{HUB_FILE} and give that file"
        ) from error
    try:
        return Path(hf_hub_download(name, HUB_FILE, local_files_only=True))
    except Exception as error:  # not in the cache: ask the hub
        logging.getLogger(__name__).debug("%s is not cached: %s", name, error)
    try:
        _require_network()
        return Path(hf_hub_download(name, HUB_FILE))
    except Exception as error:  # the client's errors come from several libraries
        lines = str(error).strip().splitlines() or [""]
        raise DataError(
            f"{HUB_FILE} of {name!r} could not be fetched from the hub ({type(error).__name__}: {lines[0]}); check the name and "
            f"the network, or download that file elsewhere and give its path"
        ) from error
