"""A short run of scripts/fuzz.py; docs/security.md has a long one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import fuzz
import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "fuzz.py"


KINDS = {"contract", "graph", "bytes", "picture", "fields", "operator", "archive"}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="measures memory as Linux tells it")
def test_mutated_files_end_in_an_answer_or_in_an_error_of_ours(tmp_path):
    ended = subprocess.run(
        [sys.executable, SCRIPT, "--cases", "490", "--seed", "100000", "--json", tmp_path / "fuzz.json"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    figures = json.loads((tmp_path / "fuzz.json").read_text())
    assert ended.returncode == 0 and figures["findings"] == [], ended.stderr
    assert figures["cases"] == 490 and set(figures["outcomes"]) == KINDS
    # the mutations are not so coarse that nothing gets through
    assert all(counts.get("answered") for counts in figures["outcomes"].values())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks")
def test_a_run_goes_on_where_it_ended(tmp_path):
    """Ended after 1,000 cases; here after two, that is before the first line of the log, and after all."""
    log = tmp_path / "fuzz.log"
    log.write_text(json.dumps({**BEFORE, "outcomes": {"bytes": {"answered": 2}}}) + "\n")
    figures = fuzz.fuzz(["bytes:0", "bytes:1", "archive:2", "operator:3"], log)
    assert figures["cases"] == 4 and figures["outcomes"]["bytes"] == {"answered": 2}
    assert sum(figures["outcomes"]["archive"].values()) == sum(figures["outcomes"]["operator"].values()) == 1


#: The last line of a log.
BEFORE = {"cases": 2, "findings": [], "caught_by_the_guard": [], "peak_mib": 0, "slowest_s": 0.0, "seconds": 1.0}


def test_files_are_reduced_to_what_matters():
    assert fuzz.reduce(b"some text with a BUG inside of it", lambda data: b"BUG" in data) == b"BUG"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks")
def test_a_case_that_crashes_hangs_or_fills_memory_is_measured_from_outside(tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz, "prepare", lambda: None)

    def outcome(case, seconds=60.0):
        monkeypatch.setattr(fuzz, "run_case", case)
        ((found, peak, _),) = fuzz.run_forked([("bytes", bytes)], tmp_path, seconds)
        return fuzz.judge(found, peak)

    assert outcome(lambda *_: os.kill(os.getpid(), signal.SIGSEGV)) == "CRASH SIGSEGV"
    assert outcome(lambda *_: time.sleep(60), 0.2) == "HANG over 0.2 s"
    monkeypatch.setattr(fuzz, "MAX_MEMORY", 2**26)
    assert outcome(lambda *_: "answered") == "answered"
    assert outcome(lambda *_: f"{len(b'x' * 2**28)}").startswith("MEMORY 0.")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks")
def test_cases_share_a_child_up_to_one_that_ends_it(tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz, "prepare", lambda: None)

    def case(kind, data, folder):
        if data == b"crash":
            os.kill(os.getpid(), signal.SIGABRT)
        if data == b"hang":
            time.sleep(60)
        return str(os.getpid())

    monkeypatch.setattr(fuzz, "run_case", case)
    files = [b"", b"", b"crash", b"", b"hang", b"", b""]
    processes = [found for found, _, _ in fuzz.run_forked([("bytes", lambda data=data: data) for data in files], tmp_path, 1.0)]
    assert processes[2] == "CRASH SIGABRT" and processes[4] == "HANG over 1 s"
    assert processes[0] == processes[1] and processes[5] == processes[6] and len(set(processes)) == 5
