"""A folder of results in shards, from which a stopped job is resumed; pyarrow is imported at first use.

The folder:

- ``job.json``: the job (`BatchJob`).
- ``inputs.parquet``: the names of all images; row group *n* is shard *n*.
- ``predictions/part-0000n.parquet``: the answers of shard *n*, in the order of the names. It is written atomically and last of all:
  where it exists, the shard is done.
- ``unreadable/part-0000n.parquet``: number, path and reason of the images of shard *n* that could not be used, if any.
- ``attempts/n``: one byte for each time that the running command began shard *n*.
- ``summary.json``: counts, once all is done.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.contract import Contract, ContractError, parse_contract
from export.untrusted.screen import screen
from kerascv_course.core.errors import CourseError, InputError
from kerascv_course.core.images import ImageError, image_suffixes
from kerascv_course.core.io import atomic_write, write_text
from kerascv_course.core.lock import remove_partial
from kerascv_course.core.schema import from_json, to_json

if TYPE_CHECKING:
    import pyarrow

__all__ = ["BatchJob", "ImageNames", "ResultFolder", "answer_schema", "find_images", "fingerprint", "image_path"]

#: Suffixes of tables of names.
TABLES = (".csv", ".parquet")

#: Times that a shard is begun before its images, or the file, are assumed to end the workers.
ATTEMPTS = 3


@dataclass(frozen=True)
class BatchJob:
    """What determines the answers: a folder of results belongs to one job.

    Attributes:
        model: SHA-256 of the ONNX file and of the weights beside it.
        inputs: SHA-256 of the names of all images, in order.
        pictures: number of images.
        root: folder that the names are relative to.
        shard: images a shard.
        top: number of classes or gallery entries kept for each image.
        provider: onnxruntime's.
        version: of this format.
    """

    model: str
    inputs: str
    pictures: int
    root: str
    shard: int
    top: int
    provider: str
    version: int = 1


# --- input ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ImageNames:
    """Names of images below a folder; a name that leads out of it counts as unreadable.

    Attributes:
        source: a folder, or a table with a column of names.
        root: folder that the names are relative to, absolute.
        column: of the table.
    """

    source: Path
    root: Path
    column: str

    def read(self) -> Iterator[str]:
        """All names in order, a few at a time in memory.

        Raises:
            InputError: the folder or table cannot be read, or the table has no such column of strings.
        """
        try:
            if self.source.is_dir():
                yield from _walk(self.root, image_suffixes())
            else:
                yield from _read_column(self.source, self.column)
        except OSError as error:
            raise InputError(f"cannot list the images of {self.source}: {error}") from None


def find_images(source: Path, *, column: str = "path", root: Path | None = None) -> ImageNames:
    """The images of a folder (all below it, sorted), or those that a table names.

    Args:
        source: a folder, a ``.csv`` with a header, or a ``.parquet`` file.
        column: of a table: names relative to `root`, or absolute ones below it.
        root: folder that a table's names must stay in; None: the table's own. A folder of images is its own root.

    Raises:
        InputError: no such folder or table, or a root for a folder.
    """
    if source.is_dir():
        if root is not None:
            raise InputError(f"--root is for a table of names; {source} is a folder of images")
        return ImageNames(source, _absolute(source), column)
    if source.suffix.lower() not in TABLES:
        raise InputError(f"images must be a folder, or a {' or '.join(TABLES)} table of their names; received {source}")
    if not source.is_file():
        raise InputError(f"no such table: {source}")
    if root is not None and not root.is_dir():
        raise InputError(f"--root must be a folder; received {root}")
    return ImageNames(source, _absolute(source.parent if root is None else root), column)


def image_path(root: Path, name: str) -> Path:
    """The file of a name.

    Raises:
        ImageError: no name, or a file outside the root. Links below the root are followed: whoever can put a link there could as well
            put the image.
    """
    if not name:
        raise ImageError("this row names no image")
    path = Path(os.path.normpath(root / name))
    if not path.is_relative_to(root):
        raise ImageError(f"{name} leads out of the folder {root}: if that is intended, give a folder above with --root")
    return path


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100 (Path.resolve would follow links)


def _walk(folder: Path, suffixes: frozenset[str], below: str = "") -> Iterator[str]:
    """Names as `export.predictor.expand_paths` finds them, in its order, with one folder's names in memory at a time."""
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path), suffixes, f"{below}{entry.name}/")
        elif os.path.splitext(entry.name)[1].lower() in suffixes and entry.is_file():  # noqa: PTH122 (a million of them)
            # a name that is not UTF-8 is replaced by one that can be stored, is not found, and so counts as unreadable
            yield (below + entry.name).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _read_column(table: Path, column: str) -> Iterator[str]:
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
                raise InputError(f"the column {column!r} of {table} must hold strings, the names of images; received {kind}")
            batches = file.iter_batches(columns=[column])
        for batch in batches:
            for name in batch.column(0).to_pylist():
                yield name or ""
    except (pyarrow.ArrowException, KeyError, UnicodeDecodeError) as error:
        reason = str(error).partition("\n")[0][:200]
        raise InputError(f"{table} has no readable column of names called {column!r} ({reason}): see --column") from None


def fingerprint(model: Path, *, trust: bool = False) -> tuple[Contract, str]:
    """Contract and SHA-256 of an ONNX file, with the weights beside it; nothing of it is run.

    Args:
        model: the file.
        trust: see `export.untrusted.screen.screen`.

    Raises:
        ContractError: no such file, or a task whose answers are not rows of a table.
    """
    seen = screen(model, trust=trust)
    contract = parse_contract(seen.metadata, what=str(model))
    answer_schema(contract)
    digest = hashlib.sha256()
    for path in [model, *(model.parent / name for name in sorted(seen.external))]:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return contract, digest.hexdigest()


# --- output -----------------------------------------------------------------------------------------------------------


def answer_schema(contract: Contract) -> pyarrow.Schema:
    """The columns of ``predictions``.

    All tasks have ``number`` (int64, position of the image, from 0) and ``path`` (as the input names it). A classifier adds ``label``
    and ``score`` (float32, 0 to 1) of the best class, and ``labels`` and ``scores`` of the best few, best first; a retriever ``name``
    and ``distance`` of the nearest entry, and ``names``, ``distances`` (float32, 0 to 2) and ``entries`` (int64, positions in the
    gallery); an embedder ``embedding`` (float32 vector).

    Raises:
        ContractError: the task's answers are not rows of a table.
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
        way = "use predict, which writes images" if contract.task == "colorize" else "run it by export.OnnxModel"
        raise ContractError(f"the answers of the task {contract.task!r} are not rows of a table: {way}")
    return pyarrow.schema(list(columns.items()))


@dataclass(frozen=True)
class ResultFolder:
    """The folder of results.

    Attributes:
        path: where it is.
    """

    path: Path

    def begin(self, names: ImageNames, job: BatchJob) -> BatchJob:
        """Begin a job or resume the same one; files that a stopped command left half-written are removed.

        Args:
            names: the images.
            job: the job, without `BatchJob.inputs` and `BatchJob.pictures`.

        Returns:
            The complete job.

        Raises:
            InputError: no images; the folder holds something else, or the results of another job.
            WriteError: it cannot be written.
        """
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"--output must be a folder; received the file {self.path}")
        there = {path.name for path in self.path.glob("[!.]*")}
        begun = "job.json" in there
        if not begun and there - {"inputs.parquet"}:  # which is written first
            raise InputError(f"--output must be a new folder, or one that this command began; received {self.path}")
        before = from_json(BatchJob, (self.path / "job.json").read_bytes(), what=f"{self.path}/job.json") if begun else None
        # with another shard size, the row groups differ
        job = self._complete(names, job, write=before is None)
        changed = [f.name for f in fields(BatchJob) if before and getattr(before, f.name) != getattr(job, f.name)]
        if changed:
            changes = "; ".join(f"{name}: {getattr(before, name)}, now {getattr(job, name)}" for name in changed)
            raise InputError(
                f"{self.path} has the results of another job ({changes}): choose another --output, or repeat that job"
            )
        remove_partial(self.path)
        shutil.rmtree(self.path / "attempts", ignore_errors=True)
        if before is None:
            write_text(self.path / "job.json", to_json(job))
        for folder in ("predictions", "unreadable", "attempts"):
            (self.path / folder).mkdir(exist_ok=True)
        return job

    def _complete(self, names: ImageNames, job: BatchJob, *, write: bool) -> BatchJob:
        """Count and hash the names, and write them if asked to."""
        import pyarrow
        import pyarrow.parquet

        digest, count = hashlib.sha256(), 0
        schema = pyarrow.schema([("path", pyarrow.string())])
        with contextlib.ExitStack() as stack:
            writer = None
            if write:
                temporary = stack.enter_context(atomic_write(self.path / "inputs.parquet"))
                writer = stack.enter_context(pyarrow.parquet.ParquetWriter(temporary, schema, compression="zstd"))
            left = names.read()
            while some := list(islice(left, job.shard)):
                for name in some:
                    digest.update(name.encode() + b"\0")
                count += len(some)
                if writer:
                    writer.write_table(pyarrow.table({"path": some}, schema), row_group_size=job.shard)
            if not count:
                raise InputError(f"no images in {names.source}")
        return dataclasses.replace(job, inputs=digest.hexdigest(), pictures=count)

    def names(self, shard: int) -> list[str]:
        """Names of a shard's images."""
        import pyarrow.parquet

        with pyarrow.parquet.ParquetFile(self.path / "inputs.parquet") as file:
            names: list[str] = file.read_row_group(shard).column("path").to_pylist()
        return names

    def missing(self, job: BatchJob) -> list[int]:
        """Shards that are not done."""
        done = {path.name for path in self.path.glob("predictions/part-*.parquet")}
        return [shard for shard in range(-(-job.pictures // job.shard)) if _part(shard) not in done]

    def attempt(self, shard: int) -> None:
        """Record that a worker begins a shard.

        Raises:
            CourseError: too many began it and never finished.
        """
        with (self.path / "attempts" / str(shard)).open("ab") as file:
            file.write(b".")
            attempts = file.tell()
        if attempts > ATTEMPTS:
            raise CourseError(
                f"shard {shard} ended its worker {ATTEMPTS} times (a crash, no answer for minutes, or no memory left): row group "
                f"{shard} of {self.path / 'inputs.parquet'} names its images. Try them with python -m export predict"
            )

    def write(self, shard: int, answers: pyarrow.Table, unreadable: list[tuple[int, str, str]]) -> None:
        """Write a shard's answers, and (number, path, reason) of images that could not be used; earlier files are replaced.

        Raises:
            WriteError: the disk is full or the folder cannot be written.
        """
        import pyarrow

        apart = self.path / "unreadable" / _part(shard)
        if unreadable:
            numbers, names, reasons = zip(*unreadable, strict=True)
            _write_table(apart, pyarrow.table({"number": numbers, "path": names, "reason": reasons}))
        else:
            apart.unlink(missing_ok=True)
        _write_table(self.path / "predictions" / _part(shard), answers)
        with contextlib.suppress(OSError):
            (self.path / "attempts" / str(shard)).unlink()

    def count(self, kind: str) -> int:
        """Rows of all ``predictions`` or ``unreadable`` parts, from the ends of the files."""
        import pyarrow.parquet

        return sum(pyarrow.parquet.read_metadata(path).num_rows for path in self.path.glob(f"{kind}/part-*.parquet"))


def _part(shard: int) -> str:
    return f"part-{shard:05d}.parquet"


def _write_table(path: Path, table: pyarrow.Table) -> None:
    import pyarrow.parquet

    with atomic_write(path) as temporary:
        pyarrow.parquet.write_table(table, temporary, compression="zstd")
