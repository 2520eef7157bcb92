"""A gallery inside the file: an embedder's graph, the gallery's vectors and their names make a file that names the nearest entries.

The graph takes twice as many candidates as needed by a matrix product, computes their distances from the differences themselves, and
sorts them by distance; equal distances are in the order of the gallery. Enrolling adds rows; nothing is trained.
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
from kerascv_course.core.progress import track
from kerascv_course.core.ranking import nearest

__all__ = ["NEAREST", "RetrieverError", "build_retriever", "enroll", "read_gallery", "validate_retriever"]

#: Default number of entries in an answer.
NEAREST = 10

#: Names in the graph: prefix of what the retriever adds, except its outputs.
PREFIX, OUTPUTS = "retriever_", ("embedding", "neighbors", "distances")
GALLERY, WANTED = f"{PREFIX}gallery", f"{PREFIX}wanted"

#: Images that are embedded at once.
BATCH = 64

#: Largest difference of a distance, and batch sizes, for validation.
TOLERANCE, BATCH_SIZES = 1e-4, (1, 7, 64)


class RetrieverError(CourseError):
    """The file does not rank as it should; it is kept as ``….rejected.onnx``."""


def read_gallery(folder: Path) -> tuple[list[Path], list[str]]:
    """Images of a gallery and their names.

    Args:
        folder: with one folder an identity, which gives the name; an image directly in it has the name of its file.

    Raises:
        DataError: no images.
    """
    if not folder.is_dir():
        raise DataError(f"a gallery must be a folder with one folder an identity; no such folder: {folder}")
    entries = [(path, path.stem) for path in image_files(folder)]
    for inside in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        entries += [(path, inside.name) for path in image_files(inside)]
    if not entries:
        raise DataError(f"the gallery {folder} is empty: it must have one folder an identity, with one image or more")
    return [path for path, _ in entries], [name for _, name in entries]


def build_retriever(source: Path, folder: Path, target: Path, *, count: int = NEAREST) -> Path:
    """Write a retriever: uint8 images to the nearest entries of a gallery.

    Args:
        source: a validated file of the task ``embed``.
        folder: the gallery, see `read_gallery`.
        target: file to write.
        count: number of entries in an answer; a smaller gallery answers with all of its own.

    Raises:
        InputError: no such file, a gallery that is empty or has damaged images, or `count` below 1.
        RetrieverError: the file does not rank as NumPy does.
    """
    if count < 1:
        raise InputError(f"a retriever must answer with 1 neighbor or more; received {count}")
    embedder = OnnxModel(source)
    if embedder.contract.task != "embed":
        raise ContractError(
            f"a retriever is made from a file of the task 'embed'; {source} has {embedder.contract.task!r}: train a retrieval "
            "recipe such as hkust-id"
        )
    if embedder.contract.parity is None:
        raise ContractError(f"{source} is not validated: export it again by python -m export RUN")
    paths, names = read_gallery(folder)
    images, vectors = _embed(embedder, paths)
    proto = onnx.load(source)
    _append_ranking(proto)
    _set_constants(proto, vectors, count)
    outputs = _declare_outputs(proto, min(count, len(vectors)))
    contract = dataclasses.replace(embedder.contract, task="rank", outputs=outputs, gallery=tuple(names))
    return _write(proto, contract, target, images, vectors)


def enroll(path: Path, folder: Path, target: Path | None = None) -> tuple[int, int]:
    """Add images to a retriever's gallery.

    Args:
        path: the retriever.
        folder: as for `read_gallery`; more images for names that the gallery has already are allowed.
        target: file to write; None: `path` itself is replaced, once the new file is validated.

    Returns:
        Number of images added, and number of new names.

    Raises:
        InputError: not a retriever, or images that cannot be used.
        RetrieverError: the file does not rank as NumPy does; nothing is changed.
    """
    model = OnnxModel(path)
    proto = onnx.load(path)
    gallery, wanted = (_constant(proto, name) for name in (GALLERY, WANTED))
    ours = gallery.ndim == 2 and len(gallery) == len(model.contract.gallery) and wanted.shape == (1,) and wanted[0] >= 1
    if model.contract.task != "rank" or not ours:
        raise ContractError(
            f"images can be added to a retriever of ours only; {path} has the task {model.contract.task!r}: make one by python "
            "-m export RUN --gallery FOLDER"
        )
    paths, names = read_gallery(folder)
    images, vectors = _embed(model, paths)
    _set_constants(proto, np.concatenate([gallery, vectors]), int(wanted[0]))
    contract = dataclasses.replace(model.contract, gallery=(*model.contract.gallery, *names))
    _write(proto, contract, target or path, images, vectors)
    return len(names), len(set(names) - set(model.contract.gallery))


def _embed(model: OnnxModel, paths: Sequence[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Images as the file takes them, and their embeddings."""
    if model.contract.input.height is None:
        raise ContractError(f"{model.path} takes images of any size; a gallery needs one size")
    images, damaged = [], []
    for path in track(paths, "reading images"):
        try:
            images.append(model.load(path))
        except ImageError as error:
            damaged.append(str(error))
    if damaged:
        raise DataError(
            f"{len(damaged)} of {len(paths)} images cannot be used; repair or remove them: " + "; ".join(damaged[:10])
        )
    stacked = np.stack(images)
    starts = track(range(0, len(stacked), BATCH), "embedding", "batches")
    return stacked, np.concatenate([model.run(stacked[start : start + BATCH])["embedding"] for start in starts])


def _constant(proto: onnx.ModelProto, name: str) -> np.ndarray:
    """A constant of the graph; empty where there is none."""
    return next((numpy_helper.to_array(entry) for entry in proto.graph.initializer if entry.name == name), np.empty(0))


def _set_constants(proto: onnx.ModelProto, gallery: np.ndarray, count: int) -> None:
    """Store the gallery and the sizes that follow from it in the graph."""
    sizes = {WANTED: count, f"{PREFIX}k": min(count, len(gallery)), f"{PREFIX}candidates": min(2 * count, len(gallery))}
    constants = {
        GALLERY: np.ascontiguousarray(gallery, np.float32),
        f"{PREFIX}ones": np.ones(gallery.shape[1], np.float32),
        f"{PREFIX}row": np.array([1], np.int64),
        **{name: np.array([size], np.int64) for name, size in sizes.items()},
    }
    others = [entry for entry in proto.graph.initializer if entry.name not in constants]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(others)
    proto.graph.initializer.extend(numpy_helper.from_array(values, name) for name, values in constants.items())


def _append_ranking(proto: onnx.ModelProto) -> None:
    """Append nodes that find the nearest gallery entries to the embedder's graph."""
    graph = proto.graph
    embedding = next(output for output in graph.output if output.name == "embedding")

    def node(kind: str, inputs: list[str], outputs: list[str], **attributes: int) -> None:
        inputs, outputs = ([name if name in OUTPUTS else PREFIX + name for name in names] for names in (inputs, outputs))
        graph.node.append(helper.make_node(kind, inputs, outputs, name=PREFIX + outputs[-1], **attributes))

    # candidates: the largest products, in the order of the gallery
    node("Gemm", ["embedding", "gallery"], ["products"], transB=1)
    node("TopK", ["products", "candidates"], ["best", "found"], axis=1)
    node("TopK", ["found", "candidates"], ["numbers", "places"], axis=1, largest=0)
    # distances to them; TopK keeps the order of equal ones
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


def _declare_outputs(proto: onnx.ModelProto, count: int) -> tuple[Output, ...]:
    """Declare the outputs in the graph, and return them for the contract."""
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


def _write(proto: onnx.ModelProto, contract: Contract, target: Path, images: np.ndarray, vectors: np.ndarray) -> Path:
    """Write a retriever as ….rejected.onnx, and give it its name once it is validated on the images."""
    gallery = _constant(proto, GALLERY)
    count = int(min(_constant(proto, WANTED)[0], len(gallery)))
    contract = dataclasses.replace(contract, outputs=_declare_outputs(proto, count), parity=None)
    describe(proto, contract)
    candidate = target.with_name(f"{target.stem}.rejected.onnx")
    save_model(proto, candidate, lambda path: onnx.checker.check_model(str(path), full_check=True))
    parity = validate_retriever(candidate, images, vectors, gallery)
    rewrite_contract(candidate, dataclasses.replace(contract, parity=parity))
    replace_model(candidate, target)
    return target


def validate_retriever(path: Path, images: np.ndarray, vectors: np.ndarray, gallery: np.ndarray) -> Parity:
    """Compare a retriever's answers with NumPy's exact ranking, at several batch sizes, optimized and as written.

    Args:
        path: the file.
        images: uint8 (N, height, width, channels).
        vectors: (N, width), their embeddings.
        gallery: (G, width).

    Raises:
        RetrieverError: vectors or distances differ by more than 1e-4, or fewer than 99.9 % of the lists are equal.
    """
    model = OnnxModel(path)
    worst, agreement = 0.0, 1.0
    count = min(len(gallery), model.contract.outputs[-1].shape[0] or 1)
    wanted = nearest(vectors, gallery, count)
    variants = [*((size, True) for size in BATCH_SIZES), (BATCH_SIZES[-1], False)]
    for size, optimize in track(variants, "validating the file", "passes"):
        model.session = open_session(path, optimize=optimize)
        outputs = model.run(images, batch_size=size)
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
    return Parity(len(images), TOLERANCE, worst, agreement)
