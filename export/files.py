"""ONNX models to files: metadata that other tools read, external data beyond protobuf's limit, whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from export.contract import KEY, Contract, dump_contract
from kerascv_course.core.io import WriteError, atomic_write

__all__ = ["describe", "replace_model", "rewrite_contract", "save_model"]

#: Largest file without external data, bytes: protobuf refuses messages of 2 GiB.
MAX_SINGLE_FILE = 2**31 - 2**24

#: What ONNX's own metadata says of an image (onnx/docs/MetadataProps.md).
PIXEL_FORMATS = {"gray": "Gray8", "RGB": "Rgb8"}

#: Denotations of the axes (onnx/docs/DimensionDenotation.md).
AXES = {"N": "DATA_BATCH", "C": "DATA_CHANNEL", "H": "DATA_FEATURE", "W": "DATA_FEATURE"}


def describe(proto: onnx.ModelProto, contract: Contract) -> None:
    """Write the contract, and what ONNX itself has fields for, into a model; what stood there is replaced.

    Raises:
        ContractError: the contract cannot be written.
    """
    image, steps = contract.input, contract.preprocessing
    proto.producer_name = "kerascv_course"
    proto.producer_version = contract.versions.get("kerascv_course", "")
    proto.doc_string = f"{contract.name}: {contract.task}, {len(contract.labels)} labels; see the metadata {KEY}"
    onnx.helper.set_model_props(
        proto,
        {
            KEY: dump_contract(contract),
            "Image.BitmapPixelFormat": PIXEL_FORMATS[image.color],
            "Image.ColorSpaceGamma": "SRGB",
            "Image.NominalPixelRange": "NominalRange_0_255"
            if steps.where == "graph"
            else {(0.0, 1.0): "Normalized_0_1", (0.5, 0.5): "Normalized_1_1"}.get(_single(contract), "NominalRange_0_255"),
        },
    )
    value = proto.graph.input[0]
    value.type.denotation = "IMAGE"
    for dim, axis in zip(value.type.tensor_type.shape.dim, image.layout, strict=True):
        dim.denotation = AXES[axis]


def _single(contract: Contract) -> tuple[float, float]:
    """Mean and deviation where there is one of each, of pixels scaled to 0–1."""
    steps = contract.preprocessing
    means, stds = set(steps.mean or ()), set(steps.std or ())
    if len(means) == len(stds) == 1 and steps.scale == 1 / 255:
        return means.pop(), stds.pop()
    return (-1.0, -1.0)


def save_model(proto: onnx.ModelProto, path: Path, check: Callable[[Path], None]) -> None:
    """Write a model, check the written file, and only then give it its name.

    Weights of a model beyond `MAX_SINGLE_FILE` go to ``weights-HASH.data`` beside the file. The name changes with the weights,
    so that a file never meets another's.

    Args:
        proto: the model; its weights may move out of it.
        path: the file.
        check: raises an error for a file that must not be kept.

    Raises:
        WriteError: the disk is full or the folder cannot be written.
    """
    if proto.ByteSize() <= MAX_SINGLE_FILE:
        with atomic_write(path) as temporary:
            onnx.save(proto, temporary)
            check(temporary)
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".partial-{path.name}-", dir=path.parent))
    except OSError as error:
        raise WriteError(f"cannot write {path}: {error}") from error
    try:
        digest = hashlib.sha256()
        for tensor in proto.graph.initializer:
            digest.update(tensor.raw_data)
        data = f"weights-{digest.hexdigest()[:16]}.data"
        onnx.save(
            proto,
            folder / path.name,
            save_as_external_data=True,
            all_tensors_to_one_file=True,
            location=data,
            size_threshold=256,
        )
        check(folder / path.name)
        (folder / data).replace(path.parent / data)
        replace_model(folder / path.name, path)
    except OSError as error:
        raise WriteError(f"cannot write {path}: {error}; its previous content is unchanged") from error
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(folder)


def replace_model(source: Path, target: Path) -> None:
    """Give a written file its final name in the folder that it is for; weights that only the replaced file used are removed."""
    before = _weight_files(target)
    source.replace(target)
    for name in before - _weight_files(target):
        (target.parent / name).unlink(missing_ok=True)


def _weight_files(path: Path) -> set[str]:
    """The names of the files that `save_model` put a model's weights into; no other name in a file is believed."""
    if not path.is_file() or path.stat().st_size > MAX_SINGLE_FILE:
        return set()
    try:
        proto = onnx.load(path, load_external_data=False)
    except DecodeError:  # what is replaced may be anything
        return set()
    locations = {entry.value for tensor in proto.graph.initializer for entry in tensor.external_data if entry.key == "location"}
    return {name for name in locations if re.fullmatch(r"weights-[0-9a-f]{16}\.data", name)}


def rewrite_contract(path: Path, contract: Contract) -> None:
    """Replace the contract of a file; the graph and its weights stay as they are.

    Raises:
        ContractError: the contract cannot be written.
        WriteError: the disk is full or the folder cannot be written.
    """
    proto = onnx.load(path, load_external_data=False)  # weights outside the file stay where they are
    describe(proto, contract)
    with atomic_write(path) as temporary:
        onnx.save(proto, temporary)
