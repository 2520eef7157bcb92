"""Prediction over many files, on the cores and GPUs of one machine or of a Ray cluster; Ray is imported at first use.

Ray Data deals shards out to stateful workers (`map_batches` with an actor pool), starts lost workers anew, and runs what they had in
hand again. A worker (`export.batch.worker`) reads and writes its shards itself, so that only counts travel.
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
from typing import Any

import numpy as np

from export.batch.shards import Folder, Job, find_inputs, fingerprint
from export.batch.worker import ShardPredictor, Work
from export.predictor import Provider
from kerascv_course.core.environment import core_count
from kerascv_course.core.errors import CourseError, InputError
from kerascv_course.core.io import atomic_write
from kerascv_course.core.schema import to_json

__all__ = ["ClusterError", "Summary", "predict_many"]

#: Shared memory of a local Ray, bytes; only counts travel.
OBJECT_STORE = 128 * 2**20

#: Longest wait for the machine at an address, seconds.
CONNECT_SECONDS = 10.0

#: How often a local Ray is started: it gives itself 30 s, which a busy machine can take longer than.
STARTS = 4

#: Most parts that shards are dealt out in: Ray keeps a little of each.
MAX_BLOCKS = 4096


class ClusterError(CourseError):
    """Workers cannot be had, or were lost; shards that are done stay done."""


@dataclass(frozen=True)
class Summary:
    """What came of a job.

    Attributes:
        pictures: in all.
        predicted: rows of ``predictions``.
        unreadable: rows of ``unreadable``.
        shards: in all.
        done_before: shards that an earlier command had done.
        workers: processes that did the others.
        peak_memory: bytes, resident, the largest of them.
    """

    pictures: int
    predicted: int
    unreadable: int
    shards: int
    done_before: int
    workers: int
    peak_memory: int


def predict_many(
    model: Path | str,
    source: Path | str,
    output: Path | str,
    *,
    column: str = "path",
    root: Path | str | None = None,
    top: int = 3,
    provider: Provider = "cpu",
    shard: int = 1000,
    batch_size: int = 64,
    workers: int | None = None,
    cpus: int = 1,
    gpus: float = 0.0,
    address: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Summary:
    """Answer for every picture of a folder or table, into a folder of Parquet files (`export.batch.shards`).

    Killed at any time and called again with the same arguments, it does the shards that are not done. How many workers, threads and
    pictures at once may differ then; what changes answers may not.

    Args:
        model: an exported file that classifies, ranks or embeds.
        source: a folder of pictures, or a ``.csv`` or ``.parquet`` table of their names.
        output: the folder of results, new or of the same job.
        column: of a table, with the names.
        root: the folder that a table's names are below; None: the table's own.
        top: how many classes, or entries of a gallery, to keep of each picture.
        provider: ``"cpu"`` or ``"cuda"``.
        shard: pictures that are kept, or done again, together.
        batch_size: pictures run at once.
        workers: processes; None: as many as there are cores or GPUs for.
        cpus: cores of each.
        gpus: of each; a share such as 0.5 lets two use one.
        address: of a Ray cluster; None: that in ``RAY_ADDRESS``, or else a Ray of its own on this machine, which ends with the call.
            In a process that is connected already, that connection is used.
        progress: called with the pictures done and all, after each shard.

    Returns:
        The counts, which ``summary.json`` holds as well.

    Raises:
        InputError: an argument out of range; nothing to predict; another job's folder; nothing of it could be predicted.
        ContractError: no exported file, or a task whose answers are no rows of a table.
        ClusterError: Ray is missing, cannot be reached, has no room for a worker, or lost one too often.
        WriteError: the folder cannot be written.
    """
    for name, value in (("top", top), ("shard", shard), ("batch size", batch_size), ("cpus", cpus), ("workers", workers)):
        if value is not None and value < 1:
            raise InputError(f"{name} is 1 or more; received {value}")
    if not 0 <= gpus < float("inf"):
        raise InputError(f"gpus is 0 or more; received {gpus}")
    if provider == "cuda" and not gpus:
        raise InputError("--provider cuda takes GPUs, or a share of one, for each worker: give --gpus")
    for package in ("pyarrow", "ray"):
        if importlib.util.find_spec(package) is None:
            raise InputError(f"this needs the package {package!r}: pip install 'kerascv_course[cluster]'")
    model, output = Path(os.path.abspath(model)), Path(os.path.abspath(output))  # noqa: PTH100 (links stay)
    inputs = find_inputs(Path(source), column=column, root=None if root is None else Path(root))
    _, digest = fingerprint(model)
    folder = Folder(output)
    job = folder.take_up(inputs, Job(digest, "", 0, str(inputs.root), shard, top, provider))
    missing, shards = folder.missing(job), -(-job.pictures // shard)
    done, used, peak = job.pictures - sum(_size(job, number) for number in missing), set(), 0
    if missing:
        work = Work(model, output, inputs.root, shard, top, provider, batch_size, cpus)
        for row in _deal(work, missing, workers=workers, gpus=gpus, address=address):
            if row["failure"]:
                raise _failure(row["failure"], int(row["exit_code"]))
            used.add(row["worker"])
            done, peak = done + _size(job, int(row["shard"])), max(peak, int(row["peak_memory"]))
            if progress is not None:
                progress(done, job.pictures)
    predicted, unreadable = folder.count("predictions"), folder.count("unreadable")
    if predicted + unreadable != job.pictures:
        raise CourseError(
            f"{output} has {predicted} answers and {unreadable} unreadable pictures of {job.pictures}: was it changed?"
        )
    summary = Summary(job.pictures, predicted, unreadable, shards, shards - len(missing), len(used), peak)
    with atomic_write(output / "summary.json") as temporary:
        temporary.write_text(to_json(summary))
    if not predicted:
        raise InputError(f"none of {job.pictures} pictures could be used: {output / 'unreadable'} says why")
    return summary


def _size(job: Job, shard: int) -> int:
    return min(job.shard, job.pictures - shard * job.shard)


def _failure(text: str, exit_code: int) -> CourseError:
    return InputError(text) if exit_code == InputError.exit_code else ClusterError(text)


# --- the driver -------------------------------------------------------------------------------------------------------


def _deal(
    work: Work, shards: Sequence[int], *, workers: int | None, gpus: float, address: str | None
) -> Iterator[dict[str, Any]]:
    """One row for each shard, as `ShardPredictor` gives them, in the order in which they are done."""
    with _connected(work.cpus, workers, address):
        import ray
        import ray.data

        room = sum(
            int(min(node["Resources"].get("CPU", 0) // work.cpus, node["Resources"].get("GPU", 0) / gpus if gpus else np.inf))
            for node in ray.nodes()
            if node["Alive"]
        )
        if not room:
            raise ClusterError(
                f"no machine of this Ray has {work.cpus} cores and {gpus:g} GPUs for a worker: ask for fewer by --cpus and --gpus, or "
                "start such a machine first"
            )
        count = min(workers or room, room, len(shards))
        try:
            yield from (
                ray.data.from_items([{"shard": number} for number in shards], override_num_blocks=min(len(shards), MAX_BLOCKS))
                .map_batches(
                    ShardPredictor,
                    fn_constructor_args=[work],
                    batch_size=1,
                    # the first worker that is ready begins, whether or not there is room for the others at the moment
                    compute=ray.data.ActorPoolStrategy(min_size=1, max_size=count, initial_size=count),
                    num_cpus=work.cpus,
                    num_gpus=gpus,
                )
                .iter_rows()
            )
        except ray.exceptions.RayTaskError:
            raise  # a defect of ours keeps its traceback
        except ray.exceptions.RayError as error:
            first = str(error).strip().partition("\n")[0][:300]
            raise ClusterError(f"the workers were lost ({first}): the same command goes on with the shards not done") from None


@contextlib.contextmanager
def _connected(cpus: int, workers: int | None, address: str | None) -> Iterator[None]:
    """A connection to Ray; one that was not there before is ended afterwards."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # nothing is sent anywhere
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what matters comes as an exception
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
        _reach(address)
    for tries in range(STARTS, 0, -1):
        try:
            ray.init(address, logging_level="error", log_to_driver=False, **(local if address == "local" else {}))
            break
        except Exception as error:  # Ray raises all sorts
            ray.shutdown()
            reason = str(error).strip().partition("\n")[0][:300]
            if tries == 1 or "timed out during startup" not in reason:
                raise ClusterError(f"no connection to the Ray at {address!r}: {reason}") from None
    try:
        import ray.data

        ray.data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        yield
    finally:
        ray.shutdown()


def _reach(address: str) -> None:
    """Ray itself tries for many minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, ValueError, OverflowError) as error:
        raise ClusterError(
            f"no Ray answers at {address!r} ({error}): an address is HOST:PORT, as ray start --head prints it"
        ) from None
