"""``embed``, ``index``, ``search``: galleries of embeddings on disk (docs/retrieval.md)."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from export.commands.images import find_images, load_batches
from export.commands.paths import model_file
from export.contract import ContractError
from export.gallery.disk_index import VectorFile, nearest_on_disk, write_vectors
from export.gallery.ivf_index import IvfIndex, IvfSearcher, load_index, recall, save_index, train_index
from export.predictor import OnnxModel
from export.untrusted.guard import guarded, limit_memory
from kerascv_course.core.errors import DataError, InputError
from kerascv_course.core.io import atomic_write
from kerascv_course.core.output import printable
from kerascv_course.core.progress import Wait, say
from kerascv_course.core.ranking import Distance, Nearest

__all__ = ["add_embed", "add_index", "add_search"]

#: Neighbors that the recall of an index is measured by.
MEASURED = 10

#: Numbers of cells visited that it is measured for.
PROBES = (1, 4, 16, 64)


def add_embed(parser: argparse.ArgumentParser) -> None:
    """Options of ``embed``."""
    parser.add_argument("model", type=Path, help="exported ONNX file of the task embed, or run folder with one")
    parser.add_argument("images", nargs="+", help="images, folders or patterns; -: a list on standard input")
    parser.add_argument(
        "--output", type=Path, required=True, help=".npy file to write; the images' paths are written beside it (.txt)"
    )
    parser.add_argument("--provider", choices=("cpu", "cuda"), default="cpu", help="onnxruntime provider (default: cpu)")
    parser.set_defaults(call=_embed)


def add_index(parser: argparse.ArgumentParser) -> None:
    """Options of ``index``."""
    parser.add_argument("gallery", type=Path, help=".npy file of vectors (N, width)")
    parser.add_argument("--output", type=Path, required=True, help=".npz file to write")
    parser.add_argument("--distance", choices=("euclidean", "cosine"), default="euclidean", help="(default: euclidean)")
    parser.add_argument("--cells", type=int, metavar="N", help="k-means clusters (default: 4 times the root of N)")
    parser.add_argument("--code-bytes", type=int, metavar="N", help="bytes of a vector's code (default: width / 4)")
    parser.add_argument("--queries", type=int, default=200, metavar="N", help="vectors to measure the recall by (default: 200)")
    _add_budget(parser)
    parser.set_defaults(call=_index)


def add_search(parser: argparse.ArgumentParser) -> None:
    """Options of ``search``."""
    parser.add_argument("gallery", type=Path, help=".npy file of vectors (N, width)")
    parser.add_argument("queries", type=Path, help=".npy file of query vectors")
    parser.add_argument("--top", type=int, default=3, help="number of neighbors to show (default: 3)")
    parser.add_argument("--distance", choices=("euclidean", "cosine"), help="(default: euclidean, or the index's)")
    parser.add_argument("--index", type=Path, help="search approximately with this .npz file (default: exactly)")
    parser.add_argument("--probes", type=int, default=16, metavar="N", help="with --index: cells to visit (default: 16)")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    _add_budget(parser)
    parser.set_defaults(call=_search)


def _add_budget(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--budget", type=int, default=256, metavar="MIB", help="memory for vectors, MiB (default: 256)")


@guarded()
def _embed(arguments: argparse.Namespace) -> None:
    if arguments.output.suffix != ".npy":
        raise InputError(f"--output must be a .npy file; received {arguments.output}")
    file = model_file(arguments.model)
    if arguments.provider == "cpu":
        limit_memory(file)
    model = OnnxModel(file, provider=arguments.provider)
    output = model.contract.output("embedding")
    if output is None:
        raise ContractError(
            f"{file} has the task {model.contract.task!r} and no embeddings: train a retrieval recipe such as hkust-id"
        )
    paths = find_images(arguments.images)
    if broken := next((path for path in paths if len(str(path).splitlines()) != 1), None):
        raise InputError(f"paths are written one a line; rename {str(broken)!r}, which has a line break")
    done: list[Path] = []
    skipped: list[InputError] = []

    def parts() -> Iterator[np.ndarray]:
        try:
            for images in load_batches(model, paths, "embedding"):
                done.extend(images)
                yield model.run(list(images.values()))[output.name]
        except InputError as error:  # names the skipped images, after the last batch
            skipped.append(error)

    count = write_vectors(arguments.output, parts())
    with atomic_write(_names_file(arguments.output)) as temporary:
        temporary.write_text("".join(f"{path}\n" for path in done), encoding="utf-8", errors="surrogateescape")
    print(f"{arguments.output}: {count:,} embeddings of {output.shape[0]} numbers")
    if skipped:
        raise skipped[0]


@guarded(always=False)
def _index(arguments: argparse.Namespace) -> None:
    if arguments.output.suffix != ".npz" or arguments.queries < 1:
        raise InputError(
            f"--output must be a .npz file and --queries 1 or more; received {arguments.output}, {arguments.queries}"
        )
    gallery, budget = VectorFile(arguments.gallery), 2**20 * arguments.budget
    with Wait("indexing", len(gallery), "vectors") as wait:
        index = train_index(
            gallery,
            distance=arguments.distance,
            cells=arguments.cells,
            code_bytes=arguments.code_bytes,
            budget=budget,
            progress=wait.to,
        )
    save_index(index, arguments.output)
    size = f"{len(gallery):,} vectors in {len(index.centers):,} cells, {index.nbytes / 2**20:,.1f} MiB in memory"
    print(f"{arguments.output}: {size}")
    _print_recall(index, gallery, arguments.queries, budget)


def _print_recall(index: IvfIndex, gallery: VectorFile, count: int, budget: int) -> None:
    """Measure the recall for some vectors of the gallery against the exact search."""
    own = np.unique(np.linspace(0, len(gallery) - 1, count).astype(np.int64))
    queries, searcher, k = gallery.rows(own), IvfSearcher(index, gallery), min(MEASURED, len(gallery) - 1)

    def others(found: Nearest) -> Nearest:
        """Of one neighbor more than is needed, those that are not the query itself."""
        order = np.argsort(found.indices == own[:, None], axis=1, kind="stable")[:, :k]
        return Nearest(*(np.take_along_axis(values, order, axis=1) for values in found))

    with Wait("searching exactly", len(gallery), "vectors") as wait:
        exact = others(nearest_on_disk(queries, gallery, k + 1, distance=index.distance, budget=budget, progress=wait.to))
    print(f"recall of the {k} nearest, for {len(own)} vectors of the gallery against the exact search:")
    for probes in PROBES:
        found = others(searcher.nearest(queries, k + 1, probes=probes, budget=budget))
        print(f"  --probes {probes:<4} {recall(found, exact):.4f}")


@guarded(always=False)
def _search(arguments: argparse.Namespace) -> None:
    if arguments.top < 1:
        raise InputError(f"--top must be 1 or more; received {arguments.top}")
    gallery, asked = VectorFile(arguments.gallery), VectorFile(arguments.queries)
    # half of it for queries, half for the gallery
    budget = 2**20 * arguments.budget // (2 if arguments.budget > 1 else 1)
    names, titles = _read_names(gallery), _read_names(asked)
    index = load_index(arguments.index, gallery) if arguments.index else None
    if index and arguments.distance not in (None, index.distance):
        raise InputError(f"{arguments.index} uses {index.distance} distance; received --distance {arguments.distance}")
    searcher = IvfSearcher(index, gallery) if index else None
    distance: Distance = arguments.distance or "euclidean"
    with Wait("searching", len(asked), "queries") as wait:
        for start, queries in asked.parts(budget):
            if searcher:
                found = searcher.nearest(queries, arguments.top, probes=arguments.probes, budget=budget)
            else:
                with Wait("comparing", len(gallery), "vectors") as compared:
                    found = nearest_on_disk(
                        queries, gallery, arguments.top, distance=distance, budget=budget, progress=compared.to
                    )
            for number, (indices, distances) in enumerate(zip(found.indices, found.distances, strict=True), start):
                title = titles[number] if titles else f"{number}"
                pairs = zip(indices.tolist(), distances.tolist(), strict=True)
                rows = [(names[i] if names else f"{i}", d, i) for i, d in pairs if i >= 0]
                say(_line(title, rows, as_json=arguments.json))
            wait.advance(len(queries))


def _line(title: str, rows: list[tuple[str, float, int]], *, as_json: bool) -> str:
    """A query's name with the name, distance and number of each neighbor."""
    if as_json:
        entries = [{"name": name, "distance": round(d, 6), "entry": i} for name, d, i in rows]
        return printable(json.dumps({"query": title, "nearest": entries}, ensure_ascii=False))
    return f"{printable(title)}  " + "   ".join(f"{printable(name)} {d:.3f}" for name, d, _ in rows)


def _names_file(vectors: Path) -> Path:
    return vectors.with_suffix(".txt")


def _read_names(vectors: VectorFile) -> list[str] | None:
    """Paths of the images that the vectors were computed from; None without such a file beside them.

    Raises:
        DataError: the file has another number of lines.
    """
    path = _names_file(vectors.path)
    if not path.is_file():
        return None
    names = path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    if len(names) != len(vectors):
        raise DataError(
            f"{path} must have one line for each of the {len(vectors):,} vectors of {vectors.path}; it has {len(names):,}"
        )
    return names
