"""Feed mutated files to the readers of files of strangers, and count what happens.

    python scripts/fuzz.py --cases 14000 --seed 0 --json fuzz.json
    nice -n 19 python scripts/fuzz.py --cases 1000000 --log fuzz.log --found found/         # in the background; the same again resumes

Every case is made from its number alone (`fuzz_cases`), so that one can be run again: ``--only KIND:NUMBER``. Cases run in child
processes, forked from one that has imported everything: a child is killed when a case takes too long, and ends with one that crashes.
What crashes, hangs or fills the memory there is run once more by the command line where there is one, which has to end in one of our
own errors (`export.untrusted.guard`), and is reduced to the smallest file that does the same in a child of its own (``--found``). Exit
code 1 if any case ended other than in an answer or in one of our own errors, took more than `SECONDS`, or more than `MAX_MEMORY`.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import functools
import io
import itertools
import json
import mmap
import os
import platform
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from fuzz_cases import KINDS, archives, crashes, make_case, models, pictures

#: Longest that a case may take, and largest resident set that a worker may reach.
SECONDS = 10.0
MAX_MEMORY = 2**30

#: Virtual memory of a worker: well over what is allowed, so that it shows, and well under what the machine has.
ADDRESS_SPACE = 6 * 2**30

#: Kinds that the commands predict and inspect can be run on.
COMMANDED = ("contract", "graph", "bytes", "picture", "fields")


# --- a case -------------------------------------------------------------------------------------------------------


def run_case(kind: str, data: bytes, folder: Path) -> str:
    """Inspect and predict; the outcome in a word: ``answered``, the name of one of our errors, or another exception with its text."""
    from export.commands.inspect import add_inspect
    from export.predictor import OnnxModel
    from kerascv_course.core.errors import CourseError

    outcomes = []

    def attempt(call: Callable[[], Any]) -> None:
        try:
            call()
            outcomes.append("answered")
        except CourseError as error:
            if len(str(error)) > 20_000:
                outcomes.append(f"ERROR a message of {len(str(error)):,} characters")
            outcomes.append(type(error).__name__)
        except BaseException as error:  # whatever it is, it is a finding
            outcomes.append(f"ERROR {type(error).__name__}: {str(error)[:300]}")

    def inspect(path: Path) -> None:
        parser = argparse.ArgumentParser()
        add_inspect(parser)
        arguments = parser.parse_args([str(path)])
        with contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO(), encoding="utf-8")):
            arguments.call(arguments)

    def predict(path: Path, picture: Path) -> None:
        model = OnnxModel(path)
        if model.contract.task == "colorize":
            model.colorize(picture)
        elif model.contract.task == "classify":
            model.predict([picture]).top(3)
        else:
            model.run([picture])

    if kind == "archive":
        suffix, content = data.split(b"\n", 1)
        path = folder / f"case{suffix.decode()}"
        path.write_bytes(content)
        attempt(lambda: _read_archive(path))
        path.unlink()
    elif kind == "operator":
        path = folder / "case.onnx"
        path.write_bytes(data)
        attempt(lambda: _run_operators(path))
    elif kind == "picture":
        model, picture = folder / "whole.onnx", folder / "case.img"
        picture.write_bytes(data)
        model.write_bytes(models()["classifier"])
        attempt(lambda: predict(model, picture))
    else:
        model, picture = folder / "case.onnx", folder / "whole.png"
        model.write_bytes(data)
        picture.write_bytes(pictures()["png"])
        attempt(lambda: inspect(model))
        attempt(lambda: predict(model, picture))
    return next((outcome for outcome in outcomes if outcome.startswith("ERROR")), outcomes[-1])


def _read_archive(path: Path) -> None:
    """Read weights, a checkpoint or vectors."""
    import numpy as np

    from export.gallery.disk_index import VectorFile
    from kerascv_course.core.keras_file import read_arrays
    from kerascv_course.models.weight_files import read_source

    if path.suffix == ".npy":
        vectors = VectorFile(path)
        vectors.rows(np.array([0]))
    else:
        if path.suffix == ".npz":
            read_arrays(path)
        read_source(path)


def _run_operators(path: Path) -> None:
    """Open a file without a contract, and run it on images and on none."""
    import numpy as np

    from export.contract import ContractError
    from export.predictor import open_session

    session = open_session(path, threads=1)
    (source,) = session.get_inputs()
    dtype = np.float32 if source.type == "tensor(float)" else np.int64
    for size in (2, 0):
        try:
            session.run(None, {source.name: np.ones([size] + [4] * (len(source.shape) - 1), dtype)})
        except Exception as error:  # onnxruntime's exceptions share no base class; the predictor makes it one of ours
            if type(error).__module__.partition(".")[0] not in ("onnxruntime", "builtins"):
                raise
            raise ContractError(str(error)[:200]) from None


@functools.cache
def prepare() -> None:
    """Import what cases need, and make the seeds, once for all children. No session is opened, whose threads a fork would lose."""
    import export.commands.inspect
    import export.gallery.disk_index
    import export.predictor  # noqa: F401
    import kerascv_course.analysis
    import kerascv_course.models.weight_files  # noqa: F401

    models(), pictures(), crashes(), archives()


#: Cases that one child runs; what the readers keep in memory counts for each of them.
CASES_A_CHILD = 100

Case = tuple[str, Callable[[], bytes]]


def run_forked(cases: Sequence[Case], folder: Path, seconds: float = SECONDS) -> Iterator[tuple[str, int, float]]:
    """Make and run cases, given by kind, in child processes: of each the outcome, bytes of memory that its child took, and seconds.

    A child runs `CASES_A_CHILD` of them, unless one ends it.
    """
    prepare()
    done = 0
    while done < len(cases):
        for result in _run_child(cases[done : done + CASES_A_CHILD], folder, seconds):
            done += 1
            yield result


def _run_child(cases: Sequence[Case], folder: Path, seconds: float) -> Iterator[tuple[str, int, float]]:
    """Run cases in one child process, up to one that crashes or hangs, and so at least one."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            os.close(reader)
            _work(cases, folder, writer)
        os._exit(0)
    os.close(writer)
    status, started = None, time.monotonic()
    try:
        with open(reader, "rb", buffering=0) as lines:  # noqa: PTH123 (a descriptor)
            before = int(lines.readline())
            for _ in cases:
                in_time = bool(select.select([lines], [], [], seconds)[0])
                line = lines.readline() if in_time else b""
                took, started = time.monotonic() - started, time.monotonic()
                if line:
                    outcome, peak = json.loads(line)
                    yield outcome, peak - before, took
                    if is_bad(judge(outcome, peak - before)):
                        return  # the next one is to be judged by itself
                    continue
                if not in_time:
                    os.kill(child, signal.SIGKILL)
                _, status, usage = os.wait4(child, 0)
                outcome = f"CRASH {signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else status}"
                yield outcome if in_time else f"HANG over {seconds:g} s", usage.ru_maxrss * 1024 - before, took
                return
    finally:
        if status is None:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def _work(cases: Sequence[Case], folder: Path, writer: int) -> None:
    """What a child does: write the memory that it starts with, then a line for each case."""
    limit = _address_space() + ADDRESS_SPACE
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    os.write(writer, f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}\n".encode())
    for kind, make in cases:
        outcome = run_case(kind, make(), folder)[:1000]
        os.write(writer, json.dumps([outcome, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024]).encode() + b"\n")


def _address_space() -> int:
    """Bytes of address space that this process has; 0 where the system does not tell."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[0]) * mmap.PAGESIZE if statm.is_file() else 0


def judge(outcome: str, peak: int) -> str:
    """The outcome with the memory that was taken, where that is too much."""
    return f"MEMORY {peak / 2**30:.1f} GiB, then {outcome}" if peak > MAX_MEMORY else outcome


def is_bad(outcome: str) -> bool:
    """Whether an outcome is neither an answer nor an error of ours."""
    return outcome.split(" ")[0] in ("ERROR", "HANG", "CRASH", "MEMORY")


def reduce(data: bytes, same: Callable[[bytes], bool], most: int = 300) -> bytes:
    """The smallest file found, by leaving out parts of half its size, then a quarter, …, that still does the same.

    Args:
        data: the file.
        same: whether a file does the same.
        most: number of files to try.
    """
    size = max(1, len(data) // 2)
    while size and most > 0:
        at = 0
        while at < len(data) and most > 0:
            shorter = data[:at] + data[at + size :]
            most -= 1
            if same(shorter):
                data = shorter
            else:
                at += size
        size //= 2
    return data


def command_survives(case: str) -> str | None:
    """Run a case by the guarded command line: None if it ends in an answer or an error of ours, else what it does."""
    kind, number = case.split(":")
    with tempfile.TemporaryDirectory() as folder:
        model, picture = Path(folder) / "case.onnx", Path(folder) / "case.img"
        model.write_bytes(models()["classifier"] if kind == "picture" else make_case(kind, int(number)))
        picture.write_bytes(make_case(kind, int(number)) if kind == "picture" else pictures()["png"])
        for words in (["inspect", str(model)], ["predict", str(model), str(picture)]):
            code = (
                f"import sys; sys.argv[1:] = {words!r}; from export import __main__ as m; "
                "from export.untrusted.guard import run_guarded; "
                f"m.run_cli(lambda: run_guarded(m.main, seconds={SECONDS}))"
            )
            before = _children_peak()
            ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=6 * SECONDS)
            told = ended.returncode == 0 or (ended.returncode in (1, 2) and "error: " in ended.stderr)
            told = told and "Traceback" not in ended.stderr
            if not told:
                return f"{words[0]} ended with {ended.returncode}: {ended.stderr[-300:]}"
            if _children_peak() > max(before, MAX_MEMORY):
                return f"{words[0]} took {_children_peak() / 2**30:.1f} GiB"
    return None


def _children_peak() -> int:
    """Largest resident set of any process that was started and has ended, bytes."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024


def fuzz(cases: Iterable[str], log: Path | None = None, found: Path | None = None) -> dict[str, Any]:
    """Run cases one after the other: the figures.

    Args:
        cases: ``KIND:NUMBER`` each.
        log: JSON lines of the figures after every 1,000 cases; a run that finds one goes on behind it.
        found: folder for the files of findings, as made and reduced.
    """
    outcomes: dict[str, collections.Counter[str]] = {kind: collections.Counter() for kind in KINDS}
    figures: dict[str, Any] = {
        "cases": 0,
        "findings": [],
        "caught_by_the_guard": [],
        "peak_mib": 0,
        "slowest_s": 0.0,
        "seconds": 0.0,
    }
    if log and log.is_file() and (lines := log.read_text(encoding="utf-8").splitlines()):
        figures = json.loads(lines[-1])
        for kind, counts in figures.pop("outcomes").items():
            outcomes[kind].update(counts)
    before, started = figures["seconds"], time.perf_counter()

    def state() -> dict[str, Any]:
        seconds = round(before + time.perf_counter() - started, 1)
        return {
            **figures,
            "outcomes": {kind: dict(count.most_common()) for kind, count in outcomes.items() if count},
            "seconds": seconds,
        }

    ahead = itertools.islice(cases, figures["cases"], None)
    with tempfile.TemporaryDirectory() as folder:
        while thousand := list(itertools.islice(ahead, 1000)):
            results = run_forked([_made(case) for case in thousand], Path(folder))
            for case, (outcome, peak, took) in zip(thousand, results, strict=True):
                outcome, kind = judge(outcome, peak), case.partition(":")[0]
                figures["cases"] += 1
                figures["peak_mib"] = max(figures["peak_mib"], round(peak / 2**20))
                figures["slowest_s"] = max(figures["slowest_s"], round(took, 2))
                outcomes[kind][outcome.split(" ")[0]] += 1
                if is_bad(outcome):
                    _record(case, outcome, figures, found)
            if log:
                with log.open("a", encoding="utf-8") as file:
                    print(json.dumps(state(), ensure_ascii=False), file=file)
    return {**state(), "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"}


def _made(case: str) -> Case:
    """The kind of a case, and the call that makes it."""
    kind, _, number = case.partition(":")
    return kind, functools.partial(make_case, kind, int(number))


def _record(case: str, outcome: str, figures: dict[str, Any], found: Path | None) -> None:
    """Add a bad outcome to the figures; what the guard of the command line turns into an error of ours is apart."""
    kind = case.partition(":")[0]
    survives = kind in COMMANDED and not outcome.startswith("ERROR")
    failure = command_survives(case) if survives else outcome
    print(f"{case}: {outcome}; {failure or 'an error of ours by the command line'}", file=sys.stderr, flush=True)
    finding = {"case": case, "outcome": outcome}
    figures["findings" if failure else "caught_by_the_guard"].append({**finding, "failure": failure} if failure else finding)
    if found is None:
        return
    found.mkdir(parents=True, exist_ok=True)
    data = make_case(kind, int(case.partition(":")[2]))
    name = case.replace(":", "-")
    (found / f"{name}.bin").write_bytes(data)
    sort = " ".join(outcome.split(" ")[:2])
    with tempfile.TemporaryDirectory() as folder:

        def same(shorter: bytes) -> bool:
            with contextlib.suppress(ValueError):  # an archive without the line in front
                ((result, peak, _),) = run_forked([(kind, lambda: shorter)], Path(folder))
                return " ".join(judge(result, peak).split(" ")[:2]) == sort
            return False

        (found / f"{name}.reduced.bin").write_bytes(reduce(data, same))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--cases", type=int, default=14_000, help="files in all, shared evenly by the kinds (default: 14000)")
    parser.add_argument("--seed", type=int, default=0, help="first number of the cases (default: 0)")
    parser.add_argument("--only", nargs="+", metavar="KIND:NUMBER", help="these cases alone")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument("--log", type=Path, help="write the figures every 1,000 cases; the same command goes on from there")
    parser.add_argument("--found", type=Path, help="folder for the files of findings, as they were and reduced")
    arguments = parser.parse_args()
    share = -(-arguments.cases // len(KINDS))
    numbered = (f"{kind}:{arguments.seed + i}" for i in range(share) for kind in KINDS)
    figures = fuzz(arguments.only or itertools.islice(numbered, arguments.cases), arguments.log, arguments.found)
    text = json.dumps(figures, indent=2, ensure_ascii=False)
    if arguments.json:
        arguments.json.write_text(text + "\n", encoding="utf-8")
    print(text)
    return 1 if figures["findings"] else 0


if __name__ == "__main__":
    sys.exit(main())
