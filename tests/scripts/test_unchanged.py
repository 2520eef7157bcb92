"""scripts/unchanged.py: what counts as a difference between two records, and which numbers are read."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "unchanged.py"

OLD = {"runs": {"a": {"metrics": {"test": {"accuracy": 0.5, "views": 2}}, "task": "classify", "labels": ["x", "y"]}}}


@pytest.fixture(scope="module")
def script():
    """The script's functions."""
    return SimpleNamespace(**runpy.run_path(str(SCRIPT)))


def changed(**values):
    """OLD with entries of its run replaced."""
    return {"runs": {"a": {**OLD["runs"]["a"], **values}}}


def test_equal_records(script):
    assert script.compare(OLD, OLD, {}) == []


@pytest.mark.parametrize(
    ("new", "line"),
    [
        (changed(labels=["x", "z"]), "differs: runs/a/labels/1: 'y' -> 'z'"),
        (changed(labels=["x"]), "missing: runs/a/labels/1 = 'y'"),
        (changed(more=1), "new: runs/a/more = 1"),
    ],
)
def test_differences(script, new, line):
    assert script.compare(OLD, new, {}) == [line]


def test_number_that_differs_in_the_last_digit(script):
    new = changed(metrics={"test": {"accuracy": float(np.nextafter(0.5, 1)), "views": 2}})
    assert len(script.compare(OLD, new, {})) == 1


def test_renamed_words_and_paths(script):
    new = {"runs": {"a": {"metrics": {"tested": {"accuracy": 0.5, "tta": 2}}, "task": "classification", "extra": {"b": 1}}}}
    renamed = {
        "words": {"views": "tta", "classify": "classification"},
        "paths": {"runs/*/metrics/test": "runs/*/metrics/tested", "runs/a/labels": None},
        "added": ["runs/*/extra"],
    }
    assert script.compare(OLD, new, renamed) == []


def test_exit_codes(tmp_path):
    for name, value in (("old", OLD), ("new", changed(task="scenes")), ("map", {"words": {"classify": "scenes"}})):
        (tmp_path / name).write_text(json.dumps(value))
    command = [sys.executable, str(SCRIPT), "compare", str(tmp_path / "old"), str(tmp_path / "new")]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 1
    assert subprocess.run([*command, "--renamed", str(tmp_path / "map")], capture_output=True, check=False).returncode == 0


def test_digest_depends_on_content_only(script):
    one, two = np.arange(6.0).reshape(2, 3), np.ones(2, np.float32)
    assert script.digest([one, two]) == script.digest([two, one])
    assert script.digest([one])["sha256"] != script.digest([one.reshape(3, 2)])["sha256"]
    assert script.digest([one])["sha256"] != script.digest([one + 1e-12])["sha256"]


def test_page_numbers_without_times_commits_and_names(script, tmp_path):
    page = tmp_path / "README.md"
    page.write_text(
        "resnet18 has 11,176,512 weights and reaches 0.5.\n\ntook 12 seconds\n\n"
        "| accuracy | training, s | commit |\n| --- | --- | --- |\n| 0.25 | 31 | 123456 |\n"
    )
    assert script.page_numbers(page) == {"0.25": 1, "0.5": 1, "11,176,512": 1}
