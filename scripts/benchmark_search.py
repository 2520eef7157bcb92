"""A gallery larger than the memory it is given: exact search from the disk, and cells of faiss, each in a process of its own.

    python scripts/benchmark_search.py                                   # 2,000,000 × 128 floats (1 GB), 1,000 queries, 256 MiB
    python scripts/benchmark_search.py --vectors gallery.npy --queries-file queries.npy      # of your own
    python scripts/benchmark_search.py --count 200000 --folder /tmp/search                   # kept there, and used again

Prints seconds, the peak of resident memory above what the process had before (program, faiss and queries), and the recall of the k
nearest against the exact search. Random vectors vary in 16 directions and a little in all 128. Needs faiss-cpu (extra
[search]); without it only the exact search runs.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from benchmark_retrieval import peak

from export.gallery.disk_index import VectorFile, nearest_on_disk, write_vectors
from export.gallery.ivf_index import IvfSearcher, load_index, recall, save_index, train_index
from kerascv_course.core.ranking import Nearest

#: Vectors vary in so many directions, and a little in all.
DIRECTIONS, NOISE = 16, 0.05


def parts(count: int, width: int, seed: int) -> Iterator[np.ndarray]:
    """Random vectors in the same few directions for every seed, of length 1."""
    directions = np.random.default_rng(0).standard_normal((DIRECTIONS, width), np.float32)
    rng = np.random.default_rng(seed)
    for start in range(0, count, 50_000):
        size = min(50_000, count - start)
        values = np.tanh(rng.standard_normal((size, DIRECTIONS), np.float32) @ directions / np.float32(DIRECTIONS**0.5))
        values += np.float32(NOISE) * rng.standard_normal((size, width), np.float32)
        values /= np.sqrt(np.einsum("ij,ij->i", values, values))[:, None]
        yield values


def one(what: str, arguments: argparse.Namespace, folder: Path) -> dict[str, float]:
    """One measurement in this process; answers are left in the folder."""
    if what == "make":
        write_vectors(arguments.vectors, parts(arguments.count, arguments.width, 1))
        write_vectors(arguments.queries_file, parts(arguments.queries, arguments.width, 2))
        return {}
    gallery, budget = VectorFile(arguments.vectors), arguments.budget * 2**20
    queries = np.load(arguments.queries_file, allow_pickle=False)[: arguments.queries]
    if what != "exact":
        import faiss

        faiss.IndexFlatL2(1)
    before, started = peak(), time.perf_counter()
    result = {}
    if what == "exact":
        found = nearest_on_disk(queries, gallery, arguments.k, budget=budget)
        np.savez(folder / "exact.npz", indices=found.indices, distances=found.distances)
    elif what == "build":
        index = train_index(gallery, cells=arguments.cells, code_bytes=arguments.code_bytes, budget=budget)
        save_index(index, folder / "index.npz")
        result = {"cells": len(index.centers), "index": index.nbytes / 2**20}
    else:
        searcher = IvfSearcher(load_index(folder / "index.npz", gallery), gallery)
        loaded = time.perf_counter()
        found = searcher.nearest(queries, arguments.k, probes=int(what), budget=budget)
        with np.load(folder / "exact.npz", allow_pickle=False) as exact:
            result = {"recall": recall(found, Nearest(exact["indices"], exact["distances"]))}
        result["search"] = time.perf_counter() - loaded
    return {"seconds": time.perf_counter() - started, "mebibytes": peak() - before, **result}


def main() -> None:
    parser = argparse.ArgumentParser(description=f"{__doc__}".split("\n")[0])
    for name, default in (("count", 2_000_000), ("width", 128), ("queries", 1000), ("k", 10), ("budget", 256)):
        parser.add_argument(f"--{name}", type=int, default=default, help="MiB" if name == "budget" else None)
    parser.add_argument("--cells", type=int, help="default: as export index")
    parser.add_argument("--code-bytes", type=int)
    parser.add_argument("--probes", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--vectors", type=Path, help=".npy file, instead of random vectors")
    parser.add_argument("--queries-file", type=Path)
    parser.add_argument("--folder", type=Path, help="where vectors and index are kept (default: nowhere)")
    parser.add_argument("--one", help="run one measurement in this process and print it (for the program itself)")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(one(arguments.one, arguments, arguments.folder)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        vectors = arguments.vectors or folder / "vectors.npy"
        asked = arguments.queries_file or folder / "queries.npy"

        def measure(what: str) -> dict[str, float]:
            paths = ["--vectors", str(vectors), "--queries-file", str(asked), "--folder", str(folder), "--one", what]
            done = subprocess.run([sys.executable, __file__, *sys.argv[1:], *paths], capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stderr)
            return json.loads(done.stdout)

        if not vectors.exists():  # elsewhere: the peak of this process is where those of its children begin
            measure("make")
        gallery = VectorFile(vectors)
        size = vectors.stat().st_size / 2**20
        print(f"{len(gallery):,} × {gallery.width} {gallery.dtype}, {size:,.0f} MiB on the disk; budget {arguments.budget} MiB")

        found = measure("exact")
        print(f"exact     {found['seconds']:8.1f} s, {found['mebibytes']:6.0f} MiB", flush=True)
        if importlib.util.find_spec("faiss") is None:
            print("cells: faiss is not installed (extra [search])")
            return
        found = measure("build")
        made = f"{found['cells']:,.0f} cells, index {found['index']:,.1f} MiB"
        print(f"build     {found['seconds']:8.1f} s, {found['mebibytes']:6.0f} MiB; {made}", flush=True)
        for probes in arguments.probes:
            found = measure(str(probes))
            print(
                f"probes {probes:<4}{found['search']:7.1f} s, {found['mebibytes']:6.0f} MiB; recall {found['recall']:.4f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
