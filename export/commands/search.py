"""``embed``, ``index``, ``search``: galleries of vectors that stay on the disk (docs/retrieval.md)."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from export.commands import Commands
from kerascv_course.core.errors import DataError, InputError

if TYPE_CHECKING:
    import numpy as np

    from export.gallery.disk_index import VectorFile

#: Neighbours that an index is measured by, and the numbers of cells looked into.
MEASURED, PROBES = 10, (1, 4, 16, 64)


def add_parsers(commands: Commands) -> None:
    """The commands ``embed``, ``index`` and ``search``."""
    embed = commands.add_parser("embed", help="write the vectors of pictures to a .npy file, however many", allow_abbrev=False)
    embed.add_argument("model", type=Path, help="exported ONNX file of the task embed")
    embed.add_argument("images", nargs="+", help="as for predict: pictures, folders, patterns; -: a list on stdin")
    embed.add_argument(
        "--output", type=Path, required=True, help=".npy file to write, with the pictures' paths beside it (.txt)"
    )
    embed.add_argument("--provider", choices=("cpu", "cuda"), default="cpu", help="where it runs (default: cpu)")
    embed.set_defaults(call=embed_command)

    index = commands.add_parser("index", help="index a gallery of vectors for approximate search (faiss)", allow_abbrev=False)
    index.add_argument("gallery", type=Path, help=".npy file of vectors (N, width)")
    index.add_argument("--output", type=Path, required=True, help=".npz file to write")
    index.add_argument("--distance", choices=("euclidean", "cosine"), default="euclidean")
    index.add_argument("--cells", type=int, metavar="N", help="k-means clusters (default: four times the root of the vectors)")
    index.add_argument("--code-bytes", type=int, metavar="N", help="of a vector's code (default: a quarter of the width)")
    index.add_argument("--queries", type=int, default=200, metavar="N", help="vectors to measure the recall by (default: 200)")
    index.set_defaults(call=index_command)

    search = commands.add_parser("search", help="the nearest of a gallery on the disk for each vector", allow_abbrev=False)
    search.add_argument("gallery", type=Path, help=".npy file of vectors (N, width)")
    search.add_argument("queries", type=Path, help=".npy file of vectors to look for")
    search.add_argument("--top", type=int, default=3, help="how many to show (default: 3)")
    search.add_argument("--distance", choices=("euclidean", "cosine"), help="default: euclidean, or the index's own")
    search.add_argument("--index", type=Path, help="search approximately by this .npz file (default: exactly)")
    search.add_argument("--probes", type=int, default=16, metavar="N", help="with --index: cells looked into (default: 16)")
    search.add_argument("--json", action="store_true", help="one JSON object a line")
    search.set_defaults(call=search_command)
    for command in (index, search):
        command.add_argument("--budget", type=int, default=256, metavar="MIB", help="of vectors held at once (default: 256)")


def embed_command(arguments: argparse.Namespace) -> int:
    """Write vectors and paths; pictures that cannot be read are left out and told at the end."""
    from export.commands.predict import loaded_batches, stdin_lines
    from export.contract import ContractError
    from export.gallery.disk_index import write_vectors
    from export.predictor import OnnxModel, expand_paths
    from export.untrusted.guard import limit_memory
    from kerascv_course.core.io import atomic_write

    if arguments.output.suffix != ".npy":
        raise InputError(f"--output is a .npy file; received {arguments.output}")
    if arguments.provider == "cpu":
        limit_memory(arguments.model)
    model = OnnxModel(arguments.model, provider=arguments.provider)
    output = model.contract.output("embedding")
    if output is None:
        raise ContractError(
            f"{arguments.model} has the task {model.contract.task!r} and gives no vectors: train a recipe of retrieve"
        )
    paths = expand_paths(word for given in arguments.images for word in (stdin_lines() if given == "-" else [given]))
    if broken := next((path for path in paths if len(str(path).splitlines()) != 1), None):
        raise InputError(f"the paths are written one a line; received {str(broken)!r}: rename it")
    done: list[Path] = []
    skipped: list[InputError] = []

    def parts() -> Iterator[np.ndarray]:
        batches = loaded_batches(model, paths)
        while True:
            try:
                pictures = next(batches, None)
            except InputError as error:  # of the pictures that were left out, after the last
                skipped.append(error)
                return
            if pictures is None:
                return
            done.extend(pictures)
            yield model.run(list(pictures.values()))[output.name]

    count = write_vectors(arguments.output, parts())
    with atomic_write(_names_of(arguments.output)) as temporary:
        temporary.write_text("".join(f"{path}\n" for path in done), encoding="utf-8", errors="surrogateescape")
    print(f"{arguments.output}: {count:,} vectors of {output.shape[0]} numbers")
    if skipped:
        raise skipped[0]
    return 0


def index_command(arguments: argparse.Namespace) -> int:
    """Write an index, and print what share of the nearest it finds."""
    import numpy as np

    from export.gallery.disk_index import VectorFile, nearest_on_disk
    from export.gallery.ivf_index import CellIndex, build_cells, recall, save_cells
    from kerascv_course.core.ranking import Nearest

    if arguments.output.suffix != ".npz" or arguments.queries < 1:
        raise InputError(f"--output is a .npz file and --queries 1 or more; received {arguments.output}, {arguments.queries}")
    gallery, budget = VectorFile(arguments.gallery), 2**20 * arguments.budget
    cells = build_cells(
        gallery,
        distance=arguments.distance,
        cells=arguments.cells,
        code_bytes=arguments.code_bytes,
        budget=budget,
        tell=_progress(len(gallery), "indexed"),
    )
    save_cells(cells, arguments.output)
    print(
        f"{arguments.output}: {len(gallery):,} vectors in {len(cells.centers):,} cells, {cells.nbytes / 2**20:,.1f} MiB in memory"
    )
    own = np.unique(np.linspace(0, len(gallery) - 1, arguments.queries).astype(np.int64))
    queries, index, k = gallery.rows(own), CellIndex(cells, gallery), min(MEASURED, len(gallery) - 1)

    def others(found: Nearest) -> Nearest:
        """Of one more than are wanted, those that are not the query itself."""
        order = np.argsort(found.indices == own[:, None], axis=1, kind="stable")[:, :k]
        return Nearest(*(np.take_along_axis(values, order, axis=1) for values in found))

    progress = _progress(len(gallery), "searched exactly")
    exact = others(nearest_on_disk(queries, gallery, k + 1, distance=arguments.distance, budget=budget, tell=progress))
    print(f"recall of the {k} nearest, of {len(own)} of its own vectors against the exact search:")
    for probes in PROBES:
        found = others(index.nearest(queries, k + 1, probes=probes, budget=budget))
        print(f"  --probes {probes:<4} {recall(found, exact):.4f}")
    return 0


def search_command(arguments: argparse.Namespace) -> int:
    """Print the nearest of the gallery for each query."""
    from export.commands.inspect import printable
    from export.gallery.disk_index import VectorFile, nearest_on_disk
    from export.gallery.ivf_index import CellIndex, load_cells

    if arguments.top < 1:
        raise InputError(f"--top is 1 or more; received {arguments.top}")
    gallery, asked = VectorFile(arguments.gallery), VectorFile(arguments.queries)
    # half of it for queries, half for the gallery
    budget = 2**20 * arguments.budget // (2 if arguments.budget > 1 else 1)
    names, titles = read_names(gallery), read_names(asked)
    cells = load_cells(arguments.index, gallery) if arguments.index else None
    if cells and arguments.distance not in (None, cells.distance):
        raise InputError(f"{arguments.index} searches by {cells.distance} distance; received --distance {arguments.distance}")
    index = CellIndex(cells, gallery) if cells else None
    for start, queries in asked.parts(budget):
        if index:
            found = index.nearest(queries, arguments.top, probes=arguments.probes, budget=budget)
        else:
            tell = _progress(len(gallery), "searched")
            found = nearest_on_disk(
                queries, gallery, arguments.top, distance=arguments.distance or "euclidean", budget=budget, tell=tell
            )
        for number, (indices, distances) in enumerate(
            zip(found.indices.tolist(), found.distances.tolist(), strict=True), start
        ):
            title = titles[number] if titles else f"{number}"
            rows = [(names[i] if names else f"{i}", d, i) for i, d in zip(indices, distances, strict=True) if i >= 0]
            if arguments.json:
                entries = [{"name": name, "distance": round(d, 6), "entry": i} for name, d, i in rows]
                print(json.dumps({"query": title, "nearest": entries}, ensure_ascii=False))
            else:
                print(f"{printable(title)}  " + "   ".join(f"{printable(name)} {d:.3f}" for name, d, _ in rows))
    return 0


def _names_of(vectors: Path) -> Path:
    return vectors.with_suffix(".txt")


def read_names(vectors: VectorFile) -> list[str] | None:
    """The paths of the pictures that vectors were made of, one each; None: no such file beside them.

    Raises:
        DataError: the file has more lines or fewer.
    """
    path = _names_of(vectors.path)
    if not path.is_file():
        return None
    names = path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    if len(names) != len(vectors):
        raise DataError(f"{path} has a line for each of the {len(vectors):,} vectors of {vectors.path}; it has {len(names):,}")
    return names


def _progress(total: int, what: str) -> Callable[[int], None]:
    """Tells how many vectors are done, on stderr; nothing where that is no terminal."""

    def tell(done: int) -> None:
        if sys.stderr.isatty():
            text = f"{done:,} of {total:,} vectors {what}"
            print(f"\r{text}" if done < total else "\r" + " " * len(text) + "\r", end="", file=sys.stderr, flush=True)

    return tell
