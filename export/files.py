"""ONNX models to files: metadata that other tools read, external data beyond protobuf's limit, whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError, Message

from export.contract import KEY, Contract, dump_contract
from kerascv_course.core.io import WriteError
from kerascv_course.core.lock import partial_folder

__all__ = ["describe", "replace_model", "rewrite_contract", "save_model", "staged", "write_model"]

#: Largest weights in the file itself, bytes: protobuf refuses messages of 2 GiB.
MAX_SINGLE_FILE = 2**31 - 2**24

#: What ONNX's own metadata says of an image (onnx/docs/MetadataProps.md).
PIXEL_FORMATS = {"gray": "Gray8", "RGB": "Rgb8"}

#: Pixel ranges that ONNX has a name for, by mean and std of pixels scaled to 0–1.
NORMALIZED = {
    (frozenset({0.0}), frozenset({1.0})): "Normalized_0_1",
    (frozenset({0.5}), frozenset({0.5})): "Normalized_1_1",
}

#: Denotations of the axes (onnx/docs/DimensionDenotation.md).
AXES = {"N": "DATA_BATCH", "C": "DATA_CHANNEL", "H": "DATA_FEATURE", "W": "DATA_FEATURE"}


def describe(proto: onnx.ModelProto, contract: Contract, *, text: str | None = None) -> None:
    """Write the contract, and what ONNX itself has fields for, into a model; what was there is replaced.

    Args:
        proto: the model.
        contract: the contract.
        text: the same as `dump_contract` writes it, where that is at hand.

    Raises:
        ContractError: the contract cannot be written.
    """
    image, steps = contract.input, contract.preprocessing
    proto.producer_name = "kerascv_course"
    proto.producer_version = contract.versions.get("kerascv_course", "")
    proto.doc_string = f"{contract.name}: {contract.task}, {len(contract.labels)} labels; see the metadata {KEY}"
    pixels = "NominalRange_0_255"
    if steps.where == "caller" and steps.scale == 1 / 255:
        pixels = NORMALIZED.get((frozenset(steps.mean or ()), frozenset(steps.std or ())), pixels)
    properties = {
        KEY: text or dump_contract(contract),
        "Image.BitmapPixelFormat": PIXEL_FORMATS[image.color],
        "Image.ColorSpaceGamma": "SRGB",
        "Image.NominalPixelRange": pixels,
    }
    onnx.helper.set_model_props(proto, properties)
    value = proto.graph.input[0]
    value.type.denotation = "IMAGE"
    for dim, axis in zip(value.type.tensor_type.shape.dim, image.layout, strict=True):
        dim.denotation = AXES[axis]


@contextlib.contextmanager
def staged(path: Path) -> Iterator[Path]:
    """A name for a model file in a new folder beside `path`; the folder is removed in the end.

    Write there (`write_model`), check, and give the file its final name by `replace_model`: what was at `path` stays until then.

    Raises:
        WriteError: any operating-system error within the block.
    """
    try:
        with partial_folder(path) as folder:
            yield folder / path.name
    except OSError as error:
        why = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else str(error)
        raise WriteError(f"cannot write {path}: {why}; its previous content is unchanged") from error


def write_model(proto: onnx.ModelProto, path: Path) -> None:
    """Write a model; weights beyond `MAX_SINGLE_FILE` go to ``weights-HASH.data`` beside the file.

    The name changes with the weights, so that a file never meets another's. They move out of `proto`, which then refers to them.
    """
    if sum(len(tensor.raw_data) for tensor in proto.graph.initializer) <= MAX_SINGLE_FILE:
        _write_by_weight(proto, path)
        return
    digest = hashlib.sha256()
    for tensor in proto.graph.initializer:
        digest.update(tensor.raw_data)
    location = f"weights-{digest.hexdigest()[:16]}.data"
    onnx.save(proto, path, save_as_external_data=True, all_tensors_to_one_file=True, location=location, size_threshold=256)


def _write_by_weight(proto: onnx.ModelProto, path: Path) -> None:
    """As `onnx.save`, a weight at a time: protobuf takes twice a message's size to serialize it.

    A field of a message is its number and kind, its length, and its bytes, and fields may come in any order.
    """
    graph, frame = proto.graph, onnx.ModelProto()
    _copy_fields(proto, frame, "graph")
    rest = onnx.GraphProto()
    _copy_fields(graph, rest, "initializer")
    heads = []
    for tensor in graph.initializer:
        head = onnx.TensorProto()
        _copy_fields(tensor, head, "raw_data")
        size = len(tensor.raw_data)
        text = head.SerializeToString() + (_field(onnx.TensorProto, "raw_data", size) if tensor.HasField("raw_data") else b"")
        heads.append((_field(onnx.GraphProto, "initializer", len(text) + size) + text, size))
    inside = rest.SerializeToString()
    total = len(inside) + sum(len(head) + size for head, size in heads)
    with path.open("wb") as file:
        file.write(frame.SerializeToString() + _field(onnx.ModelProto, "graph", total) + inside)
        for tensor, (head, _) in zip(graph.initializer, heads, strict=True):
            file.write(head)
            file.write(tensor.raw_data)


def _copy_fields(source: Message, target: Message, but: str) -> None:
    for field, value in source.ListFields():
        if field.name == but:
            continue
        if isinstance(value, Message):
            getattr(target, field.name).CopyFrom(value)
        elif hasattr(value, "extend"):
            getattr(target, field.name).extend(value)
        else:
            setattr(target, field.name, value)


def _field(message: type[Message], name: str, size: int) -> bytes:
    """What precedes the bytes of a field: its number, the kind of those with a length, and the length, as protobuf's numbers."""
    numbers = b""
    for value in (message.DESCRIPTOR.fields_by_name[name].number << 3 | 2, size):
        while value > 127:
            numbers += bytes([value & 127 | 128])
            value >>= 7
        numbers += bytes([value])
    return numbers


def save_model(proto: onnx.ModelProto, path: Path, check: Callable[[Path], None]) -> None:
    """Write a model, check the written file, and only then give it its name.

    Args:
        proto: the model; large weights move out of it (`write_model`).
        path: the file.
        check: raises an error for a file that must not be kept.

    Raises:
        WriteError: the disk is full or the folder cannot be written.
    """
    with staged(path) as candidate:
        write_model(proto, candidate)
        check(candidate)
        replace_model(candidate, path)


def replace_model(source: Path, target: Path) -> None:
    """Give a written file and its weights their final place; weights that only the replaced file used are removed."""
    before = _weight_files(target)
    if source.parent == target.parent:
        now = _weight_files(source)
    else:  # a folder of its own, see `staged`
        now = {item.name for item in source.parent.glob("weights-*.data")}
        for name in now:
            (source.parent / name).replace(target.parent / name)
    _move(source, target)
    for name in before - now:
        (target.parent / name).unlink(missing_ok=True)


def _move(source: Path, target: Path) -> None:
    """Rename a file once it is on the disk."""
    with source.open("rb") as file:
        os.fsync(file.fileno())
    source.replace(target)


def _weight_files(path: Path) -> set[str]:
    """Names of the files that `write_model` put a model's weights into; no other name in a file is believed."""
    beside = {item.name for item in path.parent.glob("weights-*.data")}
    if not beside or not path.is_file() or path.stat().st_size > MAX_SINGLE_FILE:
        return set()
    try:
        proto = onnx.load(path, load_external_data=False)
    except DecodeError:  # what is replaced may be anything
        return set()
    locations = {entry.value for tensor in proto.graph.initializer for entry in tensor.external_data if entry.key == "location"}
    return {name for name in locations & beside if re.fullmatch(r"weights-[0-9a-f]{16}\.data", name)}


def rewrite_contract(path: Path, contract: Contract) -> None:
    """Replace the contract of a file; graph and weights stay as they are.

    Raises:
        ContractError: the contract cannot be written.
        WriteError: the disk is full or the folder cannot be written.
    """
    proto = onnx.load(path, load_external_data=False)  # weights outside the file stay where they are
    describe(proto, contract)
    with staged(path) as candidate:
        onnx.save(proto, candidate)
        _move(candidate, path)
