"""Prediction over many files, on the cores and GPUs of one machine or of a Ray cluster; Ray is imported at first use.

Ray Data deals shards out to stateful workers (`map_batches` with an actor pool), starts lost workers anew, and runs what they had in
hand again. What a worker does with a shard (`ShardPredictor`) is the single machine's predictor; it writes the shard itself, so that
only counts travel.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib.util
import logging
import os
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from export.contract import ContractError
from export.guard import SECONDS, bound_memory
from export.runtime import MAX_LOADED, OnnxModel, Provider
from export.shards import Folder, Job, answer_schema, find_inputs, fingerprint, picture_path
from kerascv_course.errors import CourseError, InputError
from kerascv_course.files import write_beside
from kerascv_course.images import ImageError
from kerascv_course.jsondata import to_json

if TYPE_CHECKING:
    import pyarrow

__all__ = ["ClusterError", "ShardPredictor", "Summary", "Work", "predict_many"]

#: Shared memory of a local Ray, bytes; only counts travel.
OBJECT_STORE = 128 * 2**20

#: Longest wait for the machine at an address, seconds.
CONNECT_SECONDS = 10.0

#: Most parts that shards are dealt out in: Ray keeps a little of each.
MAX_BLOCKS = 4096


class ClusterError(CourseError):
    """Workers cannot be had, or were lost; shards that are done stay done."""


@dataclass(frozen=True)
class Work:
    """What a worker needs to know; the paths have to lead to the same files on every machine.

    Attributes:
        model: the ONNX file.
        output: the folder of results.
        root: the folder that the names are below.
        shard: pictures a shard.
        top: how many classes, or entries of a gallery, are kept of each picture.
        provider: what the file runs on.
        batch_size: pictures run at once.
        cpus: threads that decode pictures, and that onnxruntime computes with.
    """

    model: Path
    output: Path
    root: Path
    shard: int
    top: int
    provider: Provider
    batch_size: int
    cpus: int


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
    """Answer for every picture of a folder or table, into a folder of Parquet files (`export.shards`).

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
    with write_beside(output / "summary.json") as temporary:
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
        ray.data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
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
            first = str(error).strip().splitlines()[0][:300]
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
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    local = {
        "num_cpus": cpus * (workers or max(1, cores // cpus)),
        "include_dashboard": False,
        "object_store_memory": OBJECT_STORE,
    }
    if address not in ("local", "auto"):
        _reach(address)
    try:
        ray.init(address, logging_level="error", log_to_driver=False, **(local if address == "local" else {}))
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        reason = str(error).strip().splitlines()[0][:300]
        raise ClusterError(f"no connection to the Ray at {address!r}: {reason}") from None
    try:
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


# --- a worker ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _watched() -> Iterator[None]:
    """End this process where it gives no sign of life (`_alive`) for so long as `export.guard` waits: Ray starts another."""
    _alive()
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def _alive() -> None:
    faulthandler.dump_traceback_later(SECONDS, exit=True, file=sys.__stderr__)


class ShardPredictor:
    """One process with the file open, which gets one shard after the other.

    Args:
        work: what to do.
    """

    def __init__(self, work: Work) -> None:
        self.work = work
        self.folder = Folder(work.output)
        self.model: OnnxModel | None = None

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        """Do shards: their numbers, and for each the process, its peak memory (bytes), and why it failed (empty: it did not)."""
        if self.model is None and self.work.provider == "cpu":
            bound_memory(self.work.model, pictures=self.work.cpus)  # here and nowhere else: this process is Ray's own
        rows = [self.report(int(shard)) for shard in batch["shard"]]
        return {key: [row[key] for row in rows] for key in rows[0]}

    def report(self, shard: int) -> dict[str, Any]:
        """Do one shard; an error of ours is told, not raised: Ray would wrap it, and try again for nothing."""
        failure, code = "", 0
        try:
            self.folder.begin(shard)
            answers, unreadable = self.answer(shard)
            self.folder.write(shard, answers, unreadable)
        except CourseError as error:
            failure, code = str(error), error.exit_code
        except MemoryError:
            failure, code = f"shard {shard} takes more memory than a worker is given: a smaller --batch-size takes less", 1
        worker = f"{os.uname().nodename}:{os.getpid()}" if hasattr(os, "uname") else str(os.getpid())
        return {"shard": shard, "worker": worker, "peak_memory": _peak_memory(), "failure": failure, "exit_code": code}

    @_watched()
    def answer(self, shard: int) -> tuple[pyarrow.Table, list[tuple[int, str, str]]]:
        """Answers for the pictures of a shard, and (number, name, reason) of those that cannot be used."""
        import pyarrow

        model = self._open()
        schema = answer_schema(model.contract)
        unreadable: list[tuple[int, str, str]] = []
        tables: list[pyarrow.Table] = []
        batch: list[tuple[int, str, np.ndarray]] = []

        def flush() -> None:
            if batch:
                tables.append(_rows(model, batch, self.work.top, schema, unreadable))
                batch.clear()
                _alive()

        for number, name, picture in self._pictures(model, shard):
            if isinstance(picture, str):
                unreadable.append((number, name, picture))
                if not len(unreadable) % self.work.batch_size:
                    _alive()
                continue
            batch.append((number, name, picture))
            if len(batch) == self.work.batch_size or sum(loaded.nbytes for _, _, loaded in batch) >= MAX_LOADED:
                flush()
            del picture  # before the next one is loaded
        flush()
        return pyarrow.concat_tables(tables) if tables else schema.empty_table(), sorted(unreadable)

    def _open(self) -> OnnxModel:
        if self.model is None:
            self.model = OnnxModel(self.work.model, provider=self.work.provider, threads=self.work.cpus)
        return self.model

    def _pictures(self, model: OnnxModel, shard: int) -> Iterator[tuple[int, str, np.ndarray | str]]:
        """Number, name, and pixels or why there are none, of each picture in turn; threads decode some pictures ahead."""
        spec = model.contract.input
        size = (spec.height or 0) * (spec.width or 0) * spec.channels
        # of pictures of any size, which may be large, no more than one for each thread; of others a batch
        ahead = max(self.work.cpus, min(self.work.batch_size, MAX_LOADED // size)) if size else self.work.cpus - 1

        def load(name: str) -> np.ndarray | str:
            try:
                return model.load(picture_path(self.work.root, name))
            except (ImageError, OSError) as error:
                return str(error)

        pending: deque[tuple[int, str, Future[np.ndarray | str]]] = deque()

        def take() -> tuple[int, str, np.ndarray | str]:  # a function, which keeps no picture longer than that
            number, name, future = pending.popleft()
            return number, name, future.result()

        with ThreadPoolExecutor(self.work.cpus) as pool:
            for number, name in enumerate(self.folder.names(shard), start=shard * self.work.shard):
                pending.append((number, name, pool.submit(load, name)))
                if len(pending) > ahead:
                    yield take()
            while pending:
                yield take()


def _rows(
    model: OnnxModel,
    batch: Sequence[tuple[int, str, np.ndarray]],
    top: int,
    schema: pyarrow.Schema,
    unreadable: list[tuple[int, str, str]],
) -> pyarrow.Table:
    """The rows of a batch. Where a file of any size fails, each picture is tried alone, for one may be too small or too large."""
    import pyarrow

    try:
        columns = _answers(model, [picture for _, _, picture in batch], top)
    except (ContractError, MemoryError) as error:
        if model.contract.input.height is not None:
            raise
        if len(batch) > 1:
            return pyarrow.concat_tables([_rows(model, [one], top, schema, unreadable) for one in batch])
        number, name, picture = batch[0]
        height, width = picture.shape[:2]
        reason = f"{name} takes more memory than there is at {height}×{width} pixels: shrink it"
        unreadable.append((number, name, reason if isinstance(error, MemoryError) else str(error)))
        return schema.empty_table()
    names = {"number": [number for number, _, _ in batch], "path": [name for _, name, _ in batch]}
    return pyarrow.table({**names, **columns}, schema)


def _answers(model: OnnxModel, pictures: list[np.ndarray], top: int) -> dict[str, Any]:
    """The columns of `answer_schema` after the first two."""
    alike = len({picture.shape for picture in pictures}) == 1
    count = len(pictures)
    images: Any = pictures[0][None] if count == 1 else np.stack(pictures) if alike else pictures
    if model.contract.classifies:
        predictions = model.predict(images, batch_size=count)
        names = model.contract.labels or [str(number) for number in range(predictions.scores.shape[1])]
        best = predictions.top(top)
        labels, scores = ([[pick(pair) for pair in row] for row in best] for pick in (lambda p: names[p[0]], lambda p: p[1]))
        return {"label": predictions.labels, "score": [row[0] for row in scores], "labels": labels, "scores": scores}
    if model.contract.task == "rank":
        found = model.nearest(images, batch_size=count)
        distances = found.distances[:, :top].tolist()
        return {
            "name": [row[0] for row in found.names],
            "distance": [row[0] for row in distances],
            "names": [row[:top] for row in found.names],
            "distances": distances,
            "entries": found.numbers[:, :top].tolist(),
        }
    output = model.contract.output("embedding")
    assert output is not None  # the contract of an embedder has one
    return {"embedding": list(model.run(images, batch_size=count)[output.name])}


def _peak_memory() -> int:
    """Largest resident memory of this process so far, bytes; 0 where the system does not tell."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
