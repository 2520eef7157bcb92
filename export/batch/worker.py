"""A worker of `export.batch.cluster`: the single machine's predictor, and rows of a table; without Ray."""

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

from export.batch.shards import ResultFolder, answer_schema, image_path
from export.contract import ContractError
from export.predictor import MAX_LOADED, OnnxModel, Provider
from export.untrusted.guard import SECONDS, bound_memory, trust_operators
from export.untrusted.screen import read_contract
from kerascv_course.core.environment import peak_memory
from kerascv_course.core.errors import CourseError
from kerascv_course.core.images import ImageError

if TYPE_CHECKING:
    import pyarrow

__all__ = ["ShardPredictor", "WorkerSettings"]

#: Bytes of images of any size that are run at once: whether a large one fits must not depend on those beside it.
LARGE = 2**20

#: glibc's malloc.h: blocks from this size on are the system's own, and go back to it.
M_MMAP_THRESHOLD = -3


@dataclass(frozen=True)
class WorkerSettings:
    """Settings of a worker; the paths must lead to the same files on every machine.

    Attributes:
        model: the ONNX file.
        output: folder of the results.
        root: folder that the names are relative to.
        shard: images a shard.
        top: number of classes or gallery entries kept for each image.
        provider: onnxruntime's.
        batch_size: images a call.
        cpus: threads for decoding images, and for onnxruntime.
        trust: accept all of ONNX's operators.
    """

    model: Path
    output: Path
    root: Path
    shard: int
    top: int
    provider: Provider
    batch_size: int
    cpus: int
    trust: bool = False


@contextlib.contextmanager
def _watched() -> Iterator[None]:
    """End this process if `_alive` is not called for as long as `export.untrusted.guard` waits; Ray starts another."""
    _alive()
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def _alive() -> None:
    faulthandler.dump_traceback_later(SECONDS, exit=True, file=2)  # stderr, even where Python's is replaced


class ShardPredictor:
    """A process with the file open, which gets one shard after the other.

    Args:
        settings: what to do.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        self.settings = settings
        self.folder = ResultFolder(settings.output)
        self.model: OnnxModel | None = None

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        """Do shards by their numbers; returns for each the process, its peak memory (bytes), and the failure, if any."""
        # only here: this process is Ray's own
        if self.settings.trust:
            trust_operators()
        if self.model is None and self.settings.provider == "cpu":
            _return_memory()
            bound_memory(self.settings.model, images=self.settings.cpus)
        rows = [self.run(int(shard)) for shard in batch["shard"]]
        return {key: [row[key] for row in rows] for key in rows[0]}

    def run(self, shard: int) -> dict[str, Any]:
        """Do one shard; our own errors are returned, not raised: Ray would wrap them, and repeat the shard for nothing."""
        failure, code = "", 0
        try:
            self.folder.attempt(shard)
            self.folder.write(shard, *self.answer(shard))
        except CourseError as error:
            failure, code = str(error), error.exit_code
        except MemoryError:
            failure, code = f"shard {shard} needs more memory than a worker has: reduce --batch-size", 1
        worker = f"{os.uname().nodename}:{os.getpid()}" if hasattr(os, "uname") else str(os.getpid())
        return {"shard": shard, "worker": worker, "peak_memory": peak_memory() or 0, "failure": failure, "exit_code": code}

    def answer(self, shard: int) -> tuple[pyarrow.Table, list[tuple[int, str, str]]]:
        """Answers for the images of a shard, and (number, name, reason) of those that cannot be used."""
        with _watched():
            return self._answer(shard)

    def _answer(self, shard: int) -> tuple[pyarrow.Table, list[tuple[int, str, str]]]:
        import pyarrow

        model = self._open()
        schema = answer_schema(model.contract)
        unreadable: list[tuple[int, str, str]] = []
        tables: list[pyarrow.Table] = []
        batch: list[tuple[int, str, np.ndarray]] = []
        most = MAX_LOADED if model.contract.input.height is not None else LARGE

        def flush() -> None:
            if batch:
                tables.append(_rows(model, batch, self.settings.top, schema, unreadable))
                batch.clear()
                _alive()

        for number, name, image in self._images(model, shard):
            if isinstance(image, str):
                unreadable.append((number, name, image))
                if not len(unreadable) % self.settings.batch_size:
                    _alive()
                continue
            if batch and image.shape != batch[0][2].shape:
                flush()
            batch.append((number, name, image))
            if len(batch) == self.settings.batch_size or sum(loaded.nbytes for _, _, loaded in batch) >= most:
                flush()
            del image  # before the next one is loaded
        flush()
        return pyarrow.concat_tables(tables) if tables else schema.empty_table(), sorted(unreadable)

    def _open(self) -> OnnxModel:
        if self.model is None:
            settings = self.settings
            # without an arena for files of any size: what a large image took would be missing for the next ones
            arena = read_contract(settings.model).input.height is not None
            self.model = OnnxModel(settings.model, provider=settings.provider, threads=settings.cpus, arena=arena)
        return self.model

    def _images(self, model: OnnxModel, shard: int) -> Iterator[tuple[int, str, np.ndarray | str]]:
        """Number, name, and pixels or the reason why there are none, of each image; threads decode some images ahead."""
        spec, cpus = model.contract.input, self.settings.cpus
        size = (spec.height or 0) * (spec.width or 0) * spec.channels
        # of images of any size, which may be large, one a thread; of others a batch
        ahead = max(cpus, min(self.settings.batch_size, MAX_LOADED // size)) if size else cpus - 1

        def load(name: str) -> np.ndarray | str:
            try:
                return model.load(image_path(self.settings.root, name))
            except (ImageError, OSError) as error:
                return str(error)

        pending: deque[tuple[int, str, Future[np.ndarray | str]]] = deque()

        def take() -> tuple[int, str, np.ndarray | str]:  # a function, which keeps no image longer than needed
            number, name, future = pending.popleft()
            return number, name, future.result()

        with ThreadPoolExecutor(cpus) as pool:
            for number, name in enumerate(self.folder.names(shard), start=shard * self.settings.shard):
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
    """The rows of a batch. Where a file of any size fails, each image is tried alone: one may be too small or too large."""
    import pyarrow

    try:
        columns = _answers(model, [image for _, _, image in batch], top)
        names = {"number": [number for number, _, _ in batch], "path": [name for _, name, _ in batch]}
        return pyarrow.table({**names, **columns}, schema)
    except (ContractError, MemoryError) as error:
        if model.contract.input.height is not None:
            raise
        reason = str(error)
    # after the handler, in which what failed still holds its memory
    if len(batch) > 1:
        return pyarrow.concat_tables([_rows(model, [one], top, schema, unreadable) for one in batch])
    number, name, image = batch[0]
    height, width = image.shape[:2]
    unreadable.append((number, name, reason or f"{name}: {height}×{width} pixels need more memory than there is: shrink it"))
    return schema.empty_table()


def _answers(model: OnnxModel, images: list[np.ndarray], top: int) -> dict[str, Any]:
    """The columns of `answer_schema` after the first two, for images of one shape."""
    count = len(images)
    stacked = images[0][None] if count == 1 else np.stack(images)
    if model.contract.classifies:
        predictions = model.predict(stacked, batch_size=count)
        names = model.contract.labels or [str(number) for number in range(predictions.scores.shape[1])]
        best = predictions.top(top)
        labels, scores = [[names[c] for c, _ in row] for row in best], [[score for _, score in row] for row in best]
        return {"label": predictions.labels, "score": [row[0] for row in scores], "labels": labels, "scores": scores}
    if model.contract.task == "rank":
        found = model.nearest(stacked, batch_size=count)
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
    return {"embedding": list(model.run(stacked, batch_size=count)[output.name])}


def _return_memory() -> None:
    """Return the memory of large images to the system at once, with glibc: threads would keep it for later images."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 2**20)
