"""A folder of results in shards, which a job that was killed is taken up from; pyarrow is imported at first use.

The folder:

- ``job.json``: what was asked for (`Job`).
- ``inputs.parquet``: the names of all pictures; row group *n* is shard *n*.
- ``predictions/part-0000n.parquet``: the answers of shard *n*, in the order of the names. It is written beside and renamed, last of
  all: where it stands, the shard is done.
- ``unreadable/part-0000n.parquet``: number, path and reason of what could not be used of shard *n*; only where there is any.
- ``attempts/n``: one byte for each time that shard *n* was begun by the command that runs now.
- ``summary.json``: counts, once all is done.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from export.contract import Contract, ContractError, parse_contract
from export.untrusted.screen import screen
from kerascv_course.core.errors import CourseError, InputError
from kerascv_course.core.images import ImageError
from kerascv_course.core.io import atomic_write
from kerascv_course.core.schema import from_json, to_json

if TYPE_CHECKING:
    import pyarrow

__all__ = ["Folder", "Inputs", "Job", "answer_schema", "find_inputs", "fingerprint", "picture_path"]

#: Tables of names that are read, by their suffix.
TABLES = (".csv", ".parquet")

#: How often a shard is begun before its pictures, or the file, are held to be what ends the workers.
ATTEMPTS = 3


@dataclass(frozen=True)
class Job:
    """What was asked for, as far as it changes the answers: a folder of results belongs to one job.

    Attributes:
        model: SHA-256 of the ONNX file and of the weights beside it.
        inputs: SHA-256 of the names of all pictures, in their order.
        pictures: how many.
        root: the folder that the names are below.
        shard: pictures a shard.
        top: how many classes, or entries of a gallery, are kept of each picture.
        provider: what the file runs on.
        version: of this form.
    """

    model: str
    inputs: str
    pictures: int
    root: str
    shard: int
    top: int
    provider: str
    version: int = 1


# --- what goes in -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Inputs:
    """Names of pictures below a folder; a name that leads out of it is kept apart as an unreadable picture.

    Attributes:
        source: a folder, or a table with a column of names.
        root: the folder that the names are below, absolute.
        column: of the table.
    """

    source: Path
    root: Path
    column: str

    def names(self) -> Iterator[str]:
        """All names in their order, a few at a time in memory.

        Raises:
            InputError: the folder or table cannot be read, or the table has no such column of texts.
        """
        try:
            if self.source.is_dir():
                yield from _walk(self.root, frozenset(Image.registered_extensions()))
            else:
                yield from _column(self.source, self.column)
        except OSError as error:
            raise InputError(f"cannot list the pictures of {self.source}: {error}") from None


def find_inputs(source: Path, *, column: str = "path", root: Path | None = None) -> Inputs:
    """The pictures of a folder (all below it, sorted), or those that a table names.

    Args:
        source: a folder, a ``.csv`` with a header, or a ``.parquet`` file.
        column: of a table: names relative to `root`, or absolute ones below it.
        root: the folder that a table's names must stay in; None: the table's own. A folder of pictures is its own root.

    Raises:
        InputError: no such folder or table, or a root for a folder.
    """
    if source.is_dir():
        if root is not None:
            raise InputError(f"--root goes with a table of names; {source} is a folder of pictures")
        return Inputs(source, _absolute(source), column)
    if source.suffix.lower() not in TABLES:
        raise InputError(
            f"pictures come from a folder, or from a {' or '.join(TABLES)} table of their names; received {source}"
        )
    if not source.is_file():
        raise InputError(f"no such table: {source}")
    if root is not None and not root.is_dir():
        raise InputError(f"--root is a folder; received {root}")
    return Inputs(source, _absolute(source.parent if root is None else root), column)


def picture_path(root: Path, name: str) -> Path:
    """The file that a name stands for.

    Raises:
        ImageError: none, or one outside the root. Links below the root are followed: whoever may put a link there may as well put
            the picture.
    """
    if not name:
        raise ImageError("this row names no picture")
    path = Path(os.path.normpath(root / name))
    if not path.is_relative_to(root):
        raise ImageError(f"{name} leads out of the folder {root}: where that is meant, name a folder above by --root")
    return path


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100 (Path.resolve would follow links)


def _walk(folder: Path, suffixes: frozenset[str], below: str = "") -> Iterator[str]:
    """What `export.predictor.expand_paths` finds in a folder, in its order, with one folder's names in memory at a time."""
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path), suffixes, f"{below}{entry.name}/")
        elif os.path.splitext(entry.name)[1].lower() in suffixes and entry.is_file():  # noqa: PTH122 (a million of them)
            # a name that is not UTF-8 gets one that can be written down, is not found, and so stands among the unreadable
            yield (below + entry.name).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _column(table: Path, column: str) -> Iterator[str]:
    import pyarrow
    import pyarrow.csv
    import pyarrow.parquet

    try:
        if table.suffix.lower() == ".csv":
            options = pyarrow.csv.ConvertOptions(
                include_columns=[column], column_types={column: pyarrow.string()}, strings_can_be_null=False
            )
            batches: Iterable[pyarrow.RecordBatch] = pyarrow.csv.open_csv(table, convert_options=options)
        else:
            file = pyarrow.parquet.ParquetFile(table)
            kind = file.schema_arrow.field(column).type
            if not (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)):
                raise InputError(f"the column {column!r} of {table} holds texts, the names of pictures; received {kind}")
            batches = file.iter_batches(columns=[column])
        for batch in batches:
            for name in batch.column(0).to_pylist():
                yield name or ""
    except (pyarrow.ArrowException, KeyError, UnicodeDecodeError) as error:
        reason = str(error).partition("\n")[0][:200]
        raise InputError(
            f"{table} has no column of names called {column!r} that can be read ({reason}): see --column"
        ) from None


def fingerprint(model: Path) -> tuple[Contract, str]:
    """Contract and SHA-256 of an ONNX file, with the weights beside it; nothing of it is run.

    Raises:
        ContractError: no such file, or a task whose answers are no rows of a table.
    """
    seen = screen(model)
    contract = parse_contract(seen.metadata, what=str(model))
    answer_schema(contract)
    digest = hashlib.sha256()
    for path in [model, *(model.parent / name for name in sorted(seen.external))]:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return contract, digest.hexdigest()


# --- what comes out ---------------------------------------------------------------------------------------------------


def answer_schema(contract: Contract) -> pyarrow.Schema:
    """The columns of ``predictions``.

    All tasks have ``number`` (int64, of the picture among all, from 0) and ``path`` (as the input names it). Then, of a classifier,
    ``label`` and ``score`` (float32, 0 to 1) of the best class, and ``labels`` and ``scores`` of the best few, best first; of a
    retriever ``name`` and ``distance`` of the nearest, and ``names``, ``distances`` (float32, 0 to 2) and ``entries`` (int64, in the
    gallery); of an embedder ``embedding`` (float32 vector).

    Raises:
        ContractError: the task's answers are no rows of a table.
    """
    import pyarrow

    text, number, real = pyarrow.string(), pyarrow.int64(), pyarrow.float32()
    columns: dict[str, Any] = {"number": number, "path": text}
    if contract.classifies:
        columns |= {"label": text, "score": real, "labels": pyarrow.list_(text), "scores": pyarrow.list_(real)}
    elif contract.task == "rank":
        columns |= {"name": text, "distance": real, "names": pyarrow.list_(text)}
        columns |= {"distances": pyarrow.list_(real), "entries": pyarrow.list_(number)}
    elif contract.task == "embed":
        columns |= {"embedding": pyarrow.list_(real)}
    else:
        way = "use predict, which writes pictures" if contract.task == "colorize" else "run it by export.OnnxModel"
        raise ContractError(f"the answers of the task {contract.task!r} are no rows of a table: {way}")
    return pyarrow.schema(list(columns.items()))


@dataclass(frozen=True)
class Folder:
    """The folder of results.

    Attributes:
        path: where it is.
    """

    path: Path

    def take_up(self, inputs: Inputs, job: Job) -> Job:
        """Begin a job, or go on with the same one; what a killed command left half-written is removed.

        Args:
            inputs: the pictures.
            job: what is asked for; `Job.inputs` and `Job.pictures` are found here.

        Returns:
            The job with these two.

        Raises:
            InputError: no pictures; the folder holds something else, or the results of another job.
            WriteError: it cannot be written.
        """
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"--output is a folder; received the file {self.path}")
        there = {path.name for path in self.path.glob("[!.]*")}
        begun = "job.json" in there
        if not begun and there - {"inputs.parquet"}:  # which is written first
            raise InputError(f"--output is a new folder, or one that this command began; received {self.path}")
        before = from_json(Job, (self.path / "job.json").read_bytes(), what=f"{self.path}/job.json") if begun else None
        # a folder of another shard size holds the same names in other row groups
        job = self._write_inputs(inputs, job) if before is None else _count(inputs, job)
        if before is not None and (changed := [f.name for f in fields(Job) if getattr(before, f.name) != getattr(job, f.name)]):
            told = "; ".join(f"{name}: {getattr(before, name)}, now {getattr(job, name)}" for name in changed)
            raise InputError(
                f"{self.path} holds the results of another job ({told}): give another --output, or what was given then"
            )
        for left in self.path.rglob(".partial-*"):
            left.unlink(missing_ok=True)
        shutil.rmtree(self.path / "attempts", ignore_errors=True)
        if before is None:
            with atomic_write(self.path / "job.json") as temporary:
                temporary.write_text(to_json(job))
        for folder in ("predictions", "unreadable", "attempts"):
            (self.path / folder).mkdir(exist_ok=True)
        return job

    def _write_inputs(self, inputs: Inputs, job: Job) -> Job:
        import pyarrow
        import pyarrow.parquet

        schema = pyarrow.schema([("path", pyarrow.string())])
        counted = _Counter(inputs.names())
        names = iter(counted)
        with (
            atomic_write(self.path / "inputs.parquet") as temporary,
            pyarrow.parquet.ParquetWriter(temporary, schema, compression="zstd") as writer,
        ):
            while some := list(islice(names, job.shard)):
                writer.write_table(pyarrow.table({"path": some}, schema), row_group_size=job.shard)
            job = counted.told(inputs, job)
        return job

    def names(self, shard: int) -> list[str]:
        """The names of a shard's pictures."""
        import pyarrow.parquet

        with pyarrow.parquet.ParquetFile(self.path / "inputs.parquet") as file:
            return file.read_row_group(shard).column("path").to_pylist()

    def missing(self, job: Job) -> list[int]:
        """The shards that are not done."""
        done = {path.name for path in self.path.glob("predictions/part-*.parquet")}
        return [shard for shard in range(-(-job.pictures // job.shard)) if _part(shard) not in done]

    def begin(self, shard: int) -> None:
        """Note that a worker begins with a shard.

        Raises:
            CourseError: others have begun and never ended.
        """
        with (self.path / "attempts" / str(shard)).open("ab") as file:
            file.write(b".")
            attempts = file.tell()
        if attempts > ATTEMPTS:
            raise CourseError(
                f"shard {shard} ended its worker {ATTEMPTS} times (a crash, no answer for minutes, or no memory left): row group "
                f"{shard} of {self.path / 'inputs.parquet'} names its pictures. Try them by python -m export predict"
            )

    def write(self, shard: int, answers: pyarrow.Table, unreadable: list[tuple[int, str, str]]) -> None:
        """Keep a shard's answers, and (number, path, reason) of what could not be used; what a shard has already is replaced.

        Raises:
            WriteError: the disk is full or the folder cannot be written.
        """
        import pyarrow

        apart = self.path / "unreadable" / _part(shard)
        if unreadable:
            numbers, names, reasons = zip(*unreadable, strict=True)
            _write(apart, pyarrow.table({"number": numbers, "path": names, "reason": reasons}))
        else:
            apart.unlink(missing_ok=True)
        _write(self.path / "predictions" / _part(shard), answers)
        with contextlib.suppress(OSError):
            (self.path / "attempts" / str(shard)).unlink()

    def count(self, kind: str) -> int:
        """Rows of all ``predictions`` or ``unreadable`` parts, from the ends of the files."""
        import pyarrow.parquet

        return sum(pyarrow.parquet.read_metadata(path).num_rows for path in self.path.glob(f"{kind}/part-*.parquet"))


class _Counter:
    """Names that are passed on, counted and hashed."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names, self.digest, self.count = names, hashlib.sha256(), 0

    def __iter__(self) -> Iterator[str]:
        for name in self.names:
            self.digest.update(name.encode() + b"\0")
            self.count += 1
            yield name

    def told(self, inputs: Inputs, job: Job) -> Job:
        if not self.count:
            raise InputError(f"no pictures in {inputs.source}")
        return Job(**{**vars(job), "inputs": self.digest.hexdigest(), "pictures": self.count})


def _count(inputs: Inputs, job: Job) -> Job:
    counted = _Counter(inputs.names())
    for _ in counted:
        pass
    return counted.told(inputs, job)


def _part(shard: int) -> str:
    return f"part-{shard:05d}.parquet"


def _write(path: Path, table: pyarrow.Table) -> None:
    import pyarrow.parquet

    with atomic_write(path) as temporary:
        pyarrow.parquet.write_table(table, temporary, compression="zstd")
