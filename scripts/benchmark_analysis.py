"""Seconds until a command answers ``--help``, and until a network or a file is counted."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from kerascv_course.core.environment import describe_machine, package_versions
from kerascv_course.core.io import atomic_write

DOCS = Path(__file__).resolve().parent.parent / "docs"

COMMANDS = ("kerascv_course.train", "kerascv_course.analyze", "kerascv_course.calc", "export")

#: A process of its own for each, as a user's; NASNetMobile has the most layers of keras.applications' small networks.
CODE = {
    "`summarize(NASNetMobile)`, beyond building it": """
        import keras
        from kerascv_course.analysis import summarize
        target = keras.applications.NASNetMobile(weights=None)""",
    "`summarize` of an ONNX file of {megabytes:.0f} MB, imports included": "target = {file!r}",
}
MEASURE = """
import time
start = time.perf_counter()
from kerascv_course.analysis import summarize
summarize(target)
print(time.perf_counter() - start)
"""


def analysis(rounds: int = 5, output: Path = DOCS / "analysis_speed.md") -> None:
    """How soon the commands and the analysis answer.

    Args:
        rounds: of all in turn; medians are reported.
        output: Markdown file.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "resnet50.onnx"
        _save(file)
        values = {"file": str(file), "megabytes": file.stat().st_size / 1e6}
        codes = {
            name.format(**values): "\n".join(map(str.strip, code.format(**values).split("\n"))) for name, code in CODE.items()
        }
        seconds: dict[str, list[float]] = {}
        for _ in range(rounds):
            for module in COMMANDS:
                timed = "import subprocess, sys, time; start = time.perf_counter(); "
                timed += f"subprocess.run([sys.executable, '-m', {module!r}, '--help'], capture_output=True, check=True); "
                seconds.setdefault(f"`python -m {module} --help`", []).append(
                    _printed(timed + "print(time.perf_counter() - start)")
                )
            for name, code in codes.items():
                seconds.setdefault(name, []).append(_printed(code + MEASURE))
    machine, versions = describe_machine(), package_versions()
    lines = [
        "# How soon the analysis answers",
        "",
        f"Made by `python scripts/benchmark.py analysis` on {datetime.now(UTC):%Y-%m-%d}: {machine['processor']}, "
        f"{machine['cores']} cores; keras {versions['keras']}, onnx {versions['onnx']}; {rounds} rounds in turns, medians; each in a "
        "process of its own.",
        "",
        "| what | seconds |",
        "| --- | ---: |",
        *(f"| {name} | {median(values):.2f} |" for name, values in seconds.items()),
    ]
    text = "\n".join(lines) + "\n"
    with atomic_write(output) as path:
        path.write_text(text, encoding="utf-8")
    print(text)


def _save(path: Path) -> None:
    code = f"""
from pathlib import Path
from export import export_model
from kerascv_course import create_model
export_model(create_model("resnet50"), Path({str(path)!r}))"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def _printed(code: str) -> float:
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])
