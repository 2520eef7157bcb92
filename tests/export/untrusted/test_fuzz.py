"""A short run of scripts/fuzz.py; docs/security.md has a long one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "fuzz.py"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="measures memory as Linux tells it")
def test_mutated_files_end_in_an_answer_or_in_an_error_of_ours(tmp_path):
    ended = subprocess.run(
        [sys.executable, SCRIPT, "--cases", "400", "--seed", "100000", "--json", tmp_path / "fuzz.json"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    figures = json.loads((tmp_path / "fuzz.json").read_text())
    assert ended.returncode == 0 and figures["findings"] == [], ended.stderr
    assert figures["cases"] == 400 and set(figures["outcomes"]) == {"contract", "graph", "bytes", "picture"}
    # the mutations are not so coarse that nothing gets through
    assert all(counts.get("answered") for counts in figures["outcomes"].values())
