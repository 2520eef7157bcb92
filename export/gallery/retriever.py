"""A gallery within the file: the embedder's graph, the gallery's vectors and their names make a file that answers who it is.

The graph takes twice as many candidates as are wanted by a matrix product, measures these by the differences themselves, and sorts
them by distance; equal distances stand in the order of the gallery. Enrolling somebody new adds rows, and no network is trained.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.contract import Contract, ContractError, Output, Parity
from export.files import describe, replace_model, rewrite_contract, save_model
from export.gallery.rank_lists import MIN_EQUAL, TIE
from export.predictor import OnnxModel, open_session
from kerascv_course.core.errors import CourseError, DataError, InputError
from kerascv_course.core.images import ImageError, image_files
from kerascv_course.core.ranking import nearest

__all__ = ["RetrieverError", "build_retriever", "enrol", "prove", "read_gallery"]

#: Nearest entries that a file answers with, unless told.
NEAREST = 10

#: Names within the graph: of what the retriever adds, but for its outputs.
PREFIX, PUBLIC = "retriever_", ("embedding", "neighbors", "distances")
GALLERY, WANTED = f"{PREFIX}gallery", f"{PREFIX}wanted"

#: Largest difference of a distance, and images a call, at which a file is proved.
TOLERANCE, BATCH_SIZES = 1e-4, (1, 7, 64)


class RetrieverError(CourseError):
    """The file does not rank as it should; it is kept as ``….rejected.onnx``."""


def read_gallery(folder: Path) -> tuple[list[Path], list[str]]:
    """Pictures of a gallery and the names of who is on them.

    Args:
        folder: with one folder an identity, which gives its name; a picture that lies in it directly is called as its file is.

    Raises:
        DataError: no pictures.
    """
    if not folder.is_dir():
        raise DataError(f"a gallery is a folder with one folder an identity; no such folder: {folder}")
    entries = [(path, path.stem) for path in image_files(folder)]
    for inside in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        entries += [(path, inside.name) for path in image_files(inside)]
    if not entries:
        raise DataError(f"the gallery {folder} is empty: it holds one folder an identity, with one picture or more")
    return [path for path, _ in entries], [name for _, name in entries]


def build_retriever(source: Path, folder: Path, target: Path, *, count: int = NEAREST) -> Path:
    """Write a retriever: uint8 pictures to the nearest of a gallery.

    Args:
        source: a proved file of the task ``embed``.
        folder: the gallery, see `read_gallery`.
        target: the file to write.
        count: nearest entries that it answers with; a smaller gallery has all of its own.

    Raises:
        InputError: no such file, a gallery that is empty or has damaged pictures, or `count` below 1.
        RetrieverError: the file does not rank as NumPy does.
    """
    if count < 1:
        raise InputError(f"a retriever answers with 1 neighbour or more; received {count}")
    embedder = OnnxModel(source)
    if embedder.contract.task != "embed":
        raise ContractError(
            f"a retriever is made of a file of the task 'embed'; {source} has {embedder.contract.task!r}: train a recipe of the task "
            "retrieve, such as hkust-id"
        )
    if embedder.contract.parity is None:
        raise ContractError(f"{source} is not proved: export it anew by python -m export RUN, through the gate")
    paths, names = read_gallery(folder)
    pictures, vectors = _embed(embedder, paths)
    proto = onnx.load(source)
    _append(proto)
    _set_constants(proto, vectors, count)
    outputs = _declare(proto, min(count, len(vectors)))
    contract = dataclasses.replace(embedder.contract, task="rank", outputs=outputs, gallery=tuple(names))
    return _write(proto, contract, target, pictures, vectors, vectors)


def enrol(path: Path, folder: Path, target: Path | None = None) -> tuple[int, int]:
    """Add pictures to a retriever's gallery.

    Args:
        path: the retriever.
        folder: as for `read_gallery`; a name that the gallery has already gets more pictures.
        target: the file to write; None: `path` itself is replaced, once the new one is proved.

    Returns:
        How many pictures were added, and how many names are new.

    Raises:
        InputError: no retriever, or pictures that cannot be used.
        RetrieverError: the file does not rank as NumPy does; nothing is changed.
    """
    model = OnnxModel(path)
    proto = onnx.load(path)
    stored = {entry.name: numpy_helper.to_array(entry) for entry in proto.graph.initializer if entry.name in (GALLERY, WANTED)}
    gallery, wanted = (stored.get(name, np.empty(0)) for name in (GALLERY, WANTED))
    ours = gallery.ndim == 2 and len(gallery) == len(model.contract.gallery) and wanted.shape == (1,) and wanted[0] >= 1
    if model.contract.task != "rank" or not ours:
        raise ContractError(
            f"pictures are added to a retriever of ours; {path} has the task {model.contract.task!r}: make one by python -m export "
            "RUN --gallery FOLDER"
        )
    paths, names = read_gallery(folder)
    pictures, vectors = _embed(model, paths)
    together = np.concatenate([gallery, vectors])
    _set_constants(proto, together, int(wanted[0]))
    contract = dataclasses.replace(model.contract, gallery=(*model.contract.gallery, *names))
    _write(proto, contract, target or path, pictures, vectors, together)
    return len(names), len(set(names) - set(model.contract.gallery))


def _embed(model: OnnxModel, paths: Sequence[Path]) -> tuple[np.ndarray, np.ndarray]:
    """The pictures as the file takes them, and their vectors."""
    if model.contract.input.height is None:
        raise ContractError(f"{model.path} takes pictures of any size; a gallery needs one size")
    pictures, damaged = [], []
    for path in paths:
        try:
            pictures.append(model.load(path))
        except ImageError as error:
            damaged.append(str(error))
    if damaged:
        raise DataError(
            f"{len(damaged)} of {len(paths)} pictures cannot be used; repair or remove them: " + "; ".join(damaged[:10])
        )
    stacked = np.stack(pictures)
    return stacked, model.run(stacked)["embedding"]


def _set_constants(proto: onnx.ModelProto, gallery: np.ndarray, count: int) -> None:
    """Put the gallery and what follows from its size into the graph, in the place of what is there."""
    sizes = {WANTED: count, "retriever_k": min(count, len(gallery)), "retriever_candidates": min(2 * count, len(gallery))}
    constants = {
        GALLERY: np.ascontiguousarray(gallery, np.float32),
        "retriever_ones": np.ones(gallery.shape[1], np.float32),
        "retriever_row": np.array([1], np.int64),
        **{name: np.array([size], np.int64) for name, size in sizes.items()},
    }
    others = [entry for entry in proto.graph.initializer if entry.name not in constants]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(others)
    proto.graph.initializer.extend(numpy_helper.from_array(values, name) for name, values in constants.items())


def _append(proto: onnx.ModelProto) -> None:
    """Let the embedder's graph end in the nearest of the gallery."""
    graph = proto.graph
    embedding = next(output for output in graph.output if output.name == "embedding")

    def node(kind: str, inputs: list[str], outputs: list[str], **attributes: int) -> None:
        inputs, outputs = ([name if name in PUBLIC else PREFIX + name for name in names] for names in (inputs, outputs))
        graph.node.append(helper.make_node(kind, inputs, outputs, name=PREFIX + outputs[-1], **attributes))

    # candidates: the largest products, put in the order of the gallery
    node("Gemm", ["embedding", "gallery"], ["products"], transB=1)
    node("TopK", ["products", "candidates"], ["best", "found"], axis=1)
    node("TopK", ["found", "candidates"], ["numbers", "places"], axis=1, largest=0)
    # distances to them; of equal ones TopK puts the first before the others
    node("Gather", ["gallery", "numbers"], ["vectors"], axis=0)
    node("Unsqueeze", ["embedding", "row"], ["query"])
    node("Sub", ["vectors", "query"], ["differences"])
    node("Mul", ["differences", "differences"], ["squares"])
    node("MatMul", ["squares", "ones"], ["sums"])
    node("Sqrt", ["sums"], ["measured"])
    node("TopK", ["measured", "k"], ["distances", "order"], axis=1, largest=0)
    node("GatherElements", ["numbers", "order"], ["neighbors"], axis=1)
    del graph.output[:]
    graph.output.append(embedding)


def _declare(proto: onnx.ModelProto, count: int) -> tuple[Output, ...]:
    """State the outputs in the graph, and give what the contract says of them."""
    embedding = next(output for output in proto.graph.output if output.name == "embedding")
    batch, width = embedding.type.tensor_type.shape.dim
    del proto.graph.output[1:]
    for name, kind in (("neighbors", TensorProto.INT64), ("distances", TensorProto.FLOAT)):
        proto.graph.output.append(helper.make_tensor_value_info(name, kind, [batch.dim_param, count]))
    return (
        Output("embedding", "embedding", (width.dim_value,), "l2"),
        Output("neighbors", "neighbors", (count,)),
        Output("distances", "distances", (count,)),
    )


def _write(
    proto: onnx.ModelProto, contract: Contract, target: Path, pictures: np.ndarray, vectors: np.ndarray, gallery: np.ndarray
) -> Path:
    """Write a retriever, prove it on the pictures, and only then give it its name; a file that fails is kept as ….rejected.onnx."""
    count = int(min(numpy_helper.to_array(_constant(proto, WANTED))[0], len(gallery)))
    contract = dataclasses.replace(contract, outputs=_declare(proto, count), parity=None)
    describe(proto, contract)
    candidate = target.with_name(f"{target.stem}.rejected.onnx")
    save_model(proto, candidate, lambda path: onnx.checker.check_model(str(path), full_check=True))
    parity = prove(candidate, pictures, vectors, gallery)
    rewrite_contract(candidate, dataclasses.replace(contract, parity=parity))
    replace_model(candidate, target)
    return target


def _constant(proto: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(entry for entry in proto.graph.initializer if entry.name == name)


def prove(path: Path, pictures: np.ndarray, vectors: np.ndarray, gallery: np.ndarray) -> Parity:
    """Compare a retriever's answers with NumPy's exact ranking, at several batch sizes, optimised and as written.

    Args:
        path: the file.
        pictures: uint8 (N, height, width, channels).
        vectors: (N, width), what the embedder makes of them.
        gallery: (G, width).

    Raises:
        RetrieverError: vectors or distances differ by more than 1e-4, or fewer than 99.9 % of the lists are equal.
    """
    model = OnnxModel(path)
    worst, agreement = 0.0, 1.0
    count = min(len(gallery), model.contract.outputs[-1].shape[0] or 1)
    wanted = nearest(vectors, gallery, count)
    for size, optimize in (*((size, True) for size in BATCH_SIZES), (BATCH_SIZES[-1], False)):
        model.session = open_session(path, optimize=optimize)
        outputs = model.run(pictures, batch_size=size)
        found = outputs["neighbors"]
        measured = np.linalg.norm(vectors[:, None].astype(np.float64) - gallery[found], axis=-1)
        differences = [abs(outputs["embedding"] - vectors).max(), abs(outputs["distances"] - measured).max()]
        worst = max(worst, *map(float, differences))
        equal = (found == wanted.indices) | (np.abs(measured - wanted.distances) <= TIE)
        agreement = min(agreement, float(equal.all(axis=1).mean()))
    if not worst <= TOLERANCE or agreement < MIN_EQUAL:
        raise RetrieverError(
            f"{path} does not rank as NumPy does: vectors or distances differ by {worst:.3g} (at most {TOLERANCE:g}), "
            f"{agreement:.2%} of the lists are equal (at least {MIN_EQUAL:.1%})"
        )
    return Parity(len(pictures), TOLERANCE, worst, agreement)
