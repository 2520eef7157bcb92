"""scripts/reproduce.py: resumes a run and writes a record of it that is small, whole and names no machine."""

from __future__ import annotations

import csv
import json
import re
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "reproduce.py"


@pytest.fixture(scope="module")
def script():
    """The script's functions."""
    return SimpleNamespace(**runpy.run_path(str(SCRIPT)))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A short run on the digits, stopped before the test split, and what the script made of it: its run and its record."""
    root = tmp_path_factory.mktemp("reproduce")
    run = root / "runs" / "lenet5-digits-seed0"
    options = ["lenet5-digits", "--epochs", "12", "--batch-size", "16", "--train-only", "--run-dir", str(run)]
    execute("-m", "kerascv_course.train", *options)
    assert not (run / "metrics.json").exists()
    output = reproduce(root)
    assert f"--resume {run}" in output
    return run, root / "results" / "lenet5-digits" / "seed-0"


def execute(*words: str) -> str:
    """Run Python on these words; what it printed."""
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def reproduce(root: Path) -> str:
    """Run the script for the digits."""
    places = ["--runs", str(root / "runs"), "--results", str(root / "results")]
    return execute(str(SCRIPT), "--only", "^lenet5-digits$", *places)


def test_record_has_its_files(folders):
    _, record = folders
    assert {path.name for path in record.iterdir()} == {
        "confusion.csv",
        "environment.json",
        "history.csv",
        "log.txt",
        "metrics.json",
        "parity.json",
        "recipe.json",
        "record.json",
        "steps.csv",
    }
    kept = json.loads((record / "record.json").read_text())
    assert kept["command"] == "python -m kerascv_course.train lenet5-digits --epochs 12 --batch-size 16 --train-only"
    assert re.fullmatch("[0-9a-f]{64}", kept["weights_sha256"])


def test_record_has_the_numbers_of_the_run(folders):
    run, record = folders
    for name in ("metrics.json", "recipe.json"):
        assert json.loads((record / name).read_text()) == json.loads((run / name).read_text())
    assert (record / "history.csv").read_text() == (run / "history.csv").read_text()
    table = list(csv.reader((record / "confusion.csv").open()))
    images = json.loads((run / "metrics.json").read_text())["test"]["images"]
    assert sum(int(cell) for row in table[1:] for cell in row[1:]) == images


def test_steps_are_thinned(folders):
    run, record = folders
    whole, kept = ((folder / "steps.csv").read_text().splitlines() for folder in (run, record))
    assert len(whole) > 501 >= len(kept)
    assert kept[0] == whole[0] and kept[-1] == whole[-1]
    assert set(kept) <= set(whole)


def test_record_is_small(folders):
    _, record = folders
    assert sum(path.stat().st_size for path in record.iterdir()) < 200_000


def test_record_names_no_path_of_the_machine(folders):
    run, record = folders
    text = "".join(path.read_text(encoding="utf-8") for path in record.iterdir())
    for place in (str(run.parent), str(Path.home()), str(Path.cwd()), sys.prefix):
        assert place not in text


def test_recorded_run_is_skipped(folders):
    run, record = folders
    before = (record / "record.json").stat().st_mtime_ns
    assert reproduce(run.parents[1]) == ""
    assert (record / "record.json").stat().st_mtime_ns == before


def test_record_alone(folders, tmp_path):
    run, record = folders
    execute(str(SCRIPT), "--record", str(run), "--results", str(tmp_path), "--name", "other")
    again = tmp_path / "other" / "seed-0"
    assert (again / "metrics.json").read_text() == (record / "metrics.json").read_text()
    assert json.loads((again / "record.json").read_text())["name"] == "other"


def test_large_record_is_refused(folders, script, tmp_path, monkeypatch):
    monkeypatch.setitem(script.record.__globals__, "MAX_BYTES", 1000)
    with pytest.raises(SystemExit, match="more than 1,000"):
        script.record(folders[0], tmp_path)
    assert not list(tmp_path.iterdir())


def test_unfinished_run_is_refused(script, tmp_path):
    with pytest.raises(SystemExit, match="not a finished run"):
        script.record(tmp_path, tmp_path)


@pytest.mark.parametrize("rows", [0, 1, 499, 500, 501, 1000, 1201])
def test_thinned(script, rows):
    lines = script.thinned("\n".join(["step", *map(str, range(rows))]) + "\n").splitlines()
    assert lines[0] == "step" and len(lines) - 1 <= 500
    assert len(lines) - 1 >= min(rows, 250)
    if rows:
        assert lines[-1] == str(rows - 1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("report /home/me/runs/lenet/report.html", "report report.html"),
        ("--data-dir /data/market279/", "--data-dir market279"),
        ("~/tensorflow_datasets", "tensorflow_datasets"),
        (r"C:\Users\me\runs\a.onnx", "a.onnx"),
        ("epoch 1/16, 70 images/s, 3.1 / 4", "epoch 1/16, 70 images/s, 3.1 / 4"),
        ("https://example.org/a/b", "https://example.org/a/b"),
        ("runs/lenet5-digits", "runs/lenet5-digits"),
    ],
)
def test_without_paths(script, text, expected):
    assert script.without_paths(text) == expected


def test_runs_name_recipes_and_each_name_once(script):
    from kerascv_course.recipes import get_recipe

    names = [entry.name for entry in script.RUNS]
    assert len(names) == len(set(names))
    for entry in script.RUNS:
        get_recipe(entry.command.split()[0])
