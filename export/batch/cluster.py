"""Prediction over many images on the cores and GPUs of one machine or of a Ray cluster; Ray is imported at first use.

Ray Data deals shards out to stateful workers (`map_batches` with an actor pool), restarts lost workers, and repeats their shards. A
worker (`export.batch.worker`) reads and writes its shards itself; only counts travel.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, Unpack

import numpy as np

from export.batch.shards import BatchJob, ImageNames, ResultFolder, find_images, fingerprint
from export.batch.worker import ShardPredictor, WorkerSettings
from export.predictor import Provider
from kerascv_course.core.environment import core_count
from kerascv_course.core.errors import CourseError, InputError
from kerascv_course.core.io import write_text
from kerascv_course.core.lock import sole_writer
from kerascv_course.core.schema import to_json

__all__ = ["BatchOptions", "BatchSummary", "ClusterError", "predict_many"]

#: Shared memory of a local Ray, bytes; only counts travel.
OBJECT_STORE = 128 * 2**20

#: Longest wait for the machine at an address, seconds.
CONNECT_SECONDS = 10.0

#: Attempts to start a local Ray, which gives itself 30 s: too little on a busy machine.
STARTS = 4

#: Most blocks of shards: Ray keeps some data for each.
MAX_BLOCKS = 4096


class ClusterError(CourseError):
    """Workers are not available, or were lost; finished shards stay."""


@dataclass(frozen=True)
class BatchSummary:
    """The result of a job.

    Attributes:
        pictures: number of images.
        predicted: rows of ``predictions``.
        unreadable: rows of ``unreadable``.
        shards: number of shards.
        done_before: shards that an earlier command had finished.
        workers: processes that did the others.
        peak_memory: largest resident memory of a worker, bytes.
    """

    pictures: int
    predicted: int
    unreadable: int
    shards: int
    done_before: int
    workers: int
    peak_memory: int


class BatchOptions(TypedDict, total=False):
    """Options of `predict_many`.

    Attributes:
        column: column of a table with the names (default: ``"path"``).
        root: folder that a table's names are relative to (default: the table's own).
        top: number of classes or gallery entries to keep for each image (default: 3).
        provider: ``"cpu"`` (default) or ``"cuda"``.
        shard: images that are saved, or repeated, together (default: 1000).
        batch_size: images a call (default: 64).
        workers: number of processes (default: one for each free core or GPU).
        cpus: cores of each worker (default: 1).
        gpus: GPUs of each worker; 0.5: two workers share one (default: 0).
        address: address of a Ray cluster (default: ``RAY_ADDRESS``, else a Ray of its own on this machine, which ends with the call).
            In a process that is connected already, that connection is used.
        trust: accept all of ONNX's operators, not only those of exported files and usual vision networks (default: False).
        progress: called with the numbers of images done and in all, before the first shard and after each.
    """

    column: str
    root: Path | str | None
    top: int
    provider: Provider
    shard: int
    batch_size: int
    workers: int | None
    cpus: int
    gpus: float
    address: str | None
    trust: bool
    progress: Callable[[int, int], None] | None


DEFAULTS: BatchOptions = {
    "column": "path",
    "root": None,
    "top": 3,
    "provider": "cpu",
    "shard": 1000,
    "batch_size": 64,
    "workers": None,
    "cpus": 1,
    "gpus": 0.0,
    "address": None,
    "trust": False,
    "progress": None,
}


def predict_many(model: Path | str, source: Path | str, output: Path | str, **options: Unpack[BatchOptions]) -> BatchSummary:
    """Predict every image of a folder or table into a folder of Parquet files (`export.batch.shards`).

    Stopped at any time and called again with the same arguments, it does the shards that are missing. Numbers of workers, threads and
    images a call may differ then; options that change answers may not.

    Args:
        model: exported file that classifies, ranks or embeds.
        source: folder of images, or a ``.csv`` or ``.parquet`` table of their names.
        output: folder of the results: a new one, or that of the same job.
        **options: see `BatchOptions`.

    Returns:
        The counts, which ``summary.json`` holds too.

    Raises:
        InputError: an argument out of range; no images; another job's folder; no image could be predicted.
        LockedError: another process writes into the folder.
        ContractError: not an exported file, or a task whose answers are not rows of a table.
        ClusterError: Ray is missing, cannot be reached, has no room for a worker, or lost one too often.
        WriteError: the folder cannot be written.
    """
    given: BatchOptions = {**DEFAULTS, **options}
    _check(given)
    model, output = Path(os.path.abspath(model)), Path(os.path.abspath(output))  # noqa: PTH100 (links stay)
    root = given["root"]
    names = find_images(Path(source), column=given["column"], root=None if root is None else Path(root))
    with sole_writer(output):
        return _predict(model, names, ResultFolder(output), given)


def _predict(model: Path, names: ImageNames, folder: ResultFolder, given: BatchOptions) -> BatchSummary:
    """`predict_many` into a folder that no other process writes into."""
    _, digest = fingerprint(model, trust=given["trust"])
    output, shard = folder.path, given["shard"]
    job = folder.begin(names, BatchJob(digest, "", 0, str(names.root), shard, given["top"], given["provider"]))
    missing = folder.missing(job)
    settings = WorkerSettings(
        model, output, names.root, shard, given["top"], given["provider"], given["batch_size"], given["cpus"], given["trust"]
    )
    workers, peak = _run(settings, job, missing, given)
    predicted, unreadable = folder.count("predictions"), folder.count("unreadable")
    if predicted + unreadable != job.pictures:
        raise CourseError(
            f"{output} has {predicted} answers and {unreadable} unreadable images of {job.pictures}: was it modified?"
        )
    shards = -(-job.pictures // shard)
    summary = BatchSummary(job.pictures, predicted, unreadable, shards, shards - len(missing), workers, peak)
    write_text(output / "summary.json", to_json(summary))
    if not predicted:
        raise InputError(f"none of {job.pictures} images could be used; reasons: {output / 'unreadable'}")
    return summary


def _check(given: BatchOptions) -> None:
    for name in ("top", "shard", "batch_size", "cpus", "workers"):
        value = given[name]
        if value is not None and value < 1:
            raise InputError(f"{name.replace('_', ' ')} must be 1 or more; received {value}")
    if not 0 <= given["gpus"] < float("inf"):
        raise InputError(f"gpus must be 0 or more; received {given['gpus']}")
    if given["provider"] == "cuda" and not given["gpus"]:
        raise InputError("--provider cuda needs GPUs, or a share of one, for each worker: give --gpus")
    for package in ("pyarrow", "ray"):
        if importlib.util.find_spec(package) is None:
            raise InputError(f"this needs the package {package!r}: pip install 'kerascv_course[cluster]'")


def _run(settings: WorkerSettings, job: BatchJob, missing: Sequence[int], given: BatchOptions) -> tuple[int, int]:
    """Do the missing shards; returns the number of workers and their peak memory, bytes."""
    sizes = {number: min(job.shard, job.pictures - number * job.shard) for number in missing}
    done, used, peak, progress = job.pictures - sum(sizes.values()), set(), 0, given["progress"]
    if progress is not None:
        progress(done, job.pictures)
    for row in _deal(settings, missing, given) if missing else ():
        if row["failure"]:
            raise (InputError if int(row["exit_code"]) == InputError.exit_code else ClusterError)(row["failure"])
        used.add(row["worker"])
        done, peak = done + sizes[int(row["shard"])], max(peak, int(row["peak_memory"]))
        if progress is not None:
            progress(done, job.pictures)
    return len(used), peak


# --- Ray --------------------------------------------------------------------------------------------------------------


def _deal(settings: WorkerSettings, shards: Sequence[int], given: BatchOptions) -> Iterator[dict[str, Any]]:
    """One row for each shard, as `ShardPredictor` returns them, in the order in which they are done."""
    cpus, gpus, workers = given["cpus"], given["gpus"], given["workers"]
    with _connected(cpus, workers, given["address"]):
        import ray
        import ray.data

        room = sum(
            int(min(node["Resources"].get("CPU", 0) // cpus, node["Resources"].get("GPU", 0) / gpus if gpus else np.inf))
            for node in ray.nodes()
            if node["Alive"]
        )
        if not room:
            raise ClusterError(
                f"no machine of this Ray has {cpus} cores and {gpus:g} GPUs for a worker: ask for fewer by --cpus and --gpus, or start "
                "such a machine first"
            )
        count = min(workers or room, room, len(shards))
        try:
            yield from (
                ray.data.from_items([{"shard": number} for number in shards], override_num_blocks=min(len(shards), MAX_BLOCKS))
                .map_batches(
                    ShardPredictor,
                    fn_constructor_args=[settings],
                    batch_size=1,
                    # the first worker that is ready starts, even if there is no room for the others at the moment
                    compute=ray.data.ActorPoolStrategy(min_size=1, max_size=count, initial_size=count),
                    num_cpus=cpus,
                    num_gpus=gpus,
                )
                .iter_rows()
            )
        except ray.exceptions.RayTaskError:
            raise  # a defect of ours keeps its traceback
        except ray.exceptions.RayError as error:
            first = str(error).strip().partition("\n")[0][:300]
            raise ClusterError(f"the workers were lost ({first}): run the same command again to resume") from None


@contextlib.contextmanager
def _connected(cpus: int, workers: int | None, address: str | None) -> Iterator[None]:
    """A connection to Ray within the block; an existing one is used and stays."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what matters is raised as an exception
    import ray

    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    local = {
        "num_cpus": cpus * (workers or max(1, core_count() // cpus)),
        "include_dashboard": False,
        "object_store_memory": OBJECT_STORE,
    }
    if address not in ("local", "auto"):
        _check_address(address)
    for remaining in range(STARTS, 0, -1):
        try:
            ray.init(address, logging_level="error", log_to_driver=False, **(local if address == "local" else {}))
            break
        except Exception as error:  # Ray raises many kinds
            ray.shutdown()
            reason = str(error).strip().partition("\n")[0][:300]
            if remaining == 1 or "timed out during startup" not in reason:
                raise ClusterError(f"no connection to the Ray at {address!r}: {reason}") from None
    try:
        import ray.data

        ray.data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        yield
    finally:
        ray.shutdown()


def _check_address(address: str) -> None:
    """Fail within seconds if nothing answers; Ray itself tries for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, ValueError, OverflowError) as error:
        raise ClusterError(
            f"no Ray answers at {address!r} ({error}): an address is HOST:PORT, as ray start --head prints it"
        ) from None
