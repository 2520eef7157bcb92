"""What a worker of `export.batch.cluster` does with a shard: the single machine's predictor, and rows of a table; no Ray in it."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from export.batch.shards import Folder, answer_schema, picture_path
from export.contract import ContractError
from export.predictor import MAX_LOADED, OnnxModel, Provider
from export.untrusted.guard import SECONDS, bound_memory
from export.untrusted.screen import read_contract
from kerascv_course.core.environment import peak_memory
from kerascv_course.core.errors import CourseError
from kerascv_course.core.images import ImageError

if TYPE_CHECKING:
    import pyarrow

__all__ = ["ShardPredictor", "Work"]

#: Bytes of pictures of any size that are run at once: whether a large one fits must not depend on those beside it.
LARGE = 2**20

#: glibc's malloc.h: blocks from so many bytes on are the system's own, and go back to it.
M_MMAP_THRESHOLD = -3


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


@contextlib.contextmanager
def _watched() -> Iterator[None]:
    """End this process where it gives no sign of life (`_alive`) for so long as `export.untrusted.guard` waits: Ray starts another."""
    _alive()
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def _alive() -> None:
    faulthandler.dump_traceback_later(SECONDS, exit=True, file=2)  # stderr, even where it is something else in Python


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
            # here and nowhere else: this process is Ray's own
            _return_memory()
            bound_memory(self.work.model, pictures=self.work.cpus)
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
        return {"shard": shard, "worker": worker, "peak_memory": peak_memory() or 0, "failure": failure, "exit_code": code}

    @_watched()
    def answer(self, shard: int) -> tuple[pyarrow.Table, list[tuple[int, str, str]]]:
        """Answers for the pictures of a shard, and (number, name, reason) of those that cannot be used."""
        import pyarrow

        model = self._open()
        schema = answer_schema(model.contract)
        unreadable: list[tuple[int, str, str]] = []
        tables: list[pyarrow.Table] = []
        batch: list[tuple[int, str, np.ndarray]] = []
        most = MAX_LOADED if model.contract.input.height is not None else LARGE

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
            if batch and picture.shape != batch[0][2].shape:
                flush()
            batch.append((number, name, picture))
            if len(batch) == self.work.batch_size or sum(loaded.nbytes for _, _, loaded in batch) >= most:
                flush()
            del picture  # before the next one is loaded
        flush()
        return pyarrow.concat_tables(tables) if tables else schema.empty_table(), sorted(unreadable)

    def _open(self) -> OnnxModel:
        if self.model is None:
            # what a large picture took would be missing for the next ones, which could be used
            arena = read_contract(self.work.model).input.height is not None
            self.model = OnnxModel(self.work.model, provider=self.work.provider, threads=self.work.cpus, arena=arena)
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
        names = {"number": [number for number, _, _ in batch], "path": [name for _, name, _ in batch]}
        return pyarrow.table({**names, **columns}, schema)
    except (ContractError, MemoryError) as error:
        if model.contract.input.height is not None:
            raise
        reason = str(error)
    # after the handler, in which what failed still holds its memory
    if len(batch) > 1:
        return pyarrow.concat_tables([_rows(model, [one], top, schema, unreadable) for one in batch])
    number, name, picture = batch[0]
    height, width = picture.shape[:2]
    unreadable.append((number, name, reason or f"{name}: {height}×{width} pixels take more memory than there is: shrink it"))
    return schema.empty_table()


def _answers(model: OnnxModel, pictures: list[np.ndarray], top: int) -> dict[str, Any]:
    """The columns of `answer_schema` after the first two, for pictures of one shape."""
    count = len(pictures)
    images = pictures[0][None] if count == 1 else np.stack(pictures)
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


def _return_memory() -> None:
    """Give the memory of large pictures back at once, where the C library is glibc: threads would keep it for pictures of their own."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 2**20)
