"""Exact ranking beside faiss-cpu's flat index: time and memory, in turns, each in a process of its own.

    python scripts/benchmark_retrieval.py                    # 100,000 gallery × 10,000 queries of 512 floats, ten nearest
    python scripts/benchmark_retrieval.py --gallery 20000 --queries 2000 --rounds 3

Needs faiss-cpu (extra [compare]). Both get the same random vectors of length 1 and the same number of threads.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time

import numpy as np


def vectors(count: int, width: int, seed: int) -> np.ndarray:
    values = np.random.default_rng(seed).standard_normal((count, width), np.float32)
    values /= np.sqrt(np.einsum("ij,ij->i", values, values))[:, None]  # no copy: the peak before the search is the data alone
    return values


def one(tool: str, gallery_size: int, queries_size: int, width: int, k: int, threads: int) -> dict[str, float]:
    """Seconds of one search, and how far the peak of resident memory rose above the data, MiB."""
    gallery, queries = vectors(gallery_size, width, 0), vectors(queries_size, width, 1)
    if tool == "faiss":
        import faiss

        faiss.omp_set_num_threads(threads)
        index = faiss.IndexFlatL2(width)
        before = peak()
        started = time.perf_counter()
        index.add(gallery)
        _, found = index.search(queries, k)
    else:
        from kerascv_course.core.ranking import nearest

        before = peak()
        started = time.perf_counter()
        found = nearest(queries, gallery, k).indices
    return {"seconds": time.perf_counter() - started, "mebibytes": peak() - before, "checksum": float(found.sum())}


def peak() -> float:
    scale = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale


def main() -> None:
    parser = argparse.ArgumentParser(description=f"{__doc__}".split("\n")[0])
    for name, default in (("gallery", 100_000), ("queries", 10_000), ("width", 512), ("k", 10), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument(
        "--one", choices=("ours", "faiss"), help="run one search in this process and print it (for the program itself)"
    )
    arguments = parser.parse_args()
    sizes = (arguments.gallery, arguments.queries, arguments.width, arguments.k, arguments.threads)
    if arguments.one:
        print(json.dumps(one(arguments.one, *sizes)))
        return
    found: dict[str, list[dict[str, float]]] = {"ours": [], "faiss": []}
    threads = str(arguments.threads)
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
    for _ in range(arguments.rounds):
        for tool, rows in found.items():
            done = subprocess.run(
                [sys.executable, __file__, *sys.argv[1:], "--one", tool],
                env=environment,
                capture_output=True,
                text=True,
                check=True,
            )
            rows.append(json.loads(done.stdout))
    print(
        f"{arguments.gallery:,} gallery × {arguments.queries:,} queries × {arguments.width}, k {arguments.k}, {threads} threads"
    )
    for tool, rows in found.items():
        seconds = [row["seconds"] for row in rows]
        memory = max(row["mebibytes"] for row in rows)
        spread = f"{min(seconds):.2f}–{max(seconds):.2f}"
        print(f"{tool:<6} median {statistics.median(seconds):.2f} s ({spread}), {memory:.0f} MiB above the data")
    ours, faiss = (statistics.median(row["seconds"] for row in found[tool]) for tool in ("ours", "faiss"))
    same = len({row["checksum"] for rows in found.values() for row in rows}) == 1
    print(f"ratio {ours / faiss:.2f}; the same neighbours: {'yes' if same else 'not all (equal or nearly equal distances)'}")


if __name__ == "__main__":
    main()
