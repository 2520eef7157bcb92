"""Commands on files of strangers in a child process."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import onnx
import pytest

from export.__main__ import build_parser, guarded_main
from export.commands import COMMANDS
from export.untrusted import guard
from export.untrusted.screen import TRUST
from kerascv_course import analyze

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks, and limits memory as Linux does")

#: Commands that open no file of a stranger, or only in processes of their own.
UNGUARDED = {"schema", "predict-many"}

GUARDED = """
import os, signal, sys, time
from export.untrusted import guard
from kerascv_course.core.errors import InputError, run_cli

def crash(): os.kill(os.getpid(), signal.SIGSEGV)
def hang(): time.sleep(60)
def fill():
    guard._set_limit([], 1)
    bytearray(8 << 30)
def refuse(): raise InputError("no such thing")
def work():
    for _ in range(5):
        time.sleep(0.1)
        guard.alive()
    print("worked")
def defect(): 1 / 0
def validate():
    time.sleep(1)
    with guard.running(): pass
    time.sleep(1)
    print("validated")
def hang_within():
    with guard.running(): time.sleep(60)
def spin():
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as native code that never returns to Python
    print("child", os.getpid(), flush=True)
    time.sleep(600)

what = sys.argv[1]
guard.PER_BYTE = 0
seconds = 0.4 if what in ("hang", "work", "validate", "hang_within") else 60
run_cli(lambda: guard.run_guarded(globals()[what], seconds=seconds, always=what not in ("validate", "hang_within")))
"""


@linux
@pytest.mark.parametrize(
    ("what", "code", "words"),
    [
        ("crash", 1, r"error: the file made the program crash (SIGSEGV)"),
        ("hang", 1, "error: no progress for 0.4 s"),
        ("fill", 1, "error: the file needs more memory"),
        ("refuse", 2, "error: no such thing"),
        ("work", 0, "worked"),
        ("defect", 1, "ZeroDivisionError"),
        ("validate", 0, "validated"),
        ("hang_within", 1, "error: no progress for 0.4 s"),
    ],
)
def test_what_happens_in_a_guarded_command_stays_there(what, code, words):
    ended = subprocess.run([sys.executable, "-c", GUARDED, what], capture_output=True, text=True, timeout=60)
    assert ended.returncode == code and words in ended.stdout + ended.stderr
    assert ("Traceback" in ended.stderr) == (what == "defect")


def gone(process):
    """Wait until a process has ended; whoever inherits it need not have asked for its end."""
    for _ in range(600):
        with contextlib.suppress(FileNotFoundError):
            if Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z":
                time.sleep(0.05)
                continue
        return True
    return False


#: What nohup and shells make of signals in the background is inherited.
USUAL_SIGNALS = "import signal; signal.signal(1, signal.SIG_DFL); signal.signal(2, signal.default_int_handler)"


def start(what):
    command = [sys.executable, "-c", f"{USUAL_SIGNALS}\n{GUARDED}", what]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    word, child = started.stdout.readline().split()
    assert word == "child"
    return started, int(child)


@linux
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGHUP, signal.SIGTERM])
def test_the_child_ends_with_its_parent(sent):
    started, child = start("spin")
    started.send_signal(sent)
    assert gone(child)
    started.communicate(timeout=60)


@linux
def test_the_second_interrupt_ends_a_file_that_hangs():
    started, child = start("spin")
    started.send_signal(signal.SIGINT)
    time.sleep(0.5)  # two signals that nobody has taken are one
    assert started.poll() is None and not os.kill(child, 0)
    started.send_signal(signal.SIGINT)
    _, errors = started.communicate(timeout=60)
    assert started.returncode == 130 and errors == "interrupted\n" and gone(child)


def test_every_command_that_opens_a_file_is_guarded_and_takes_trust():
    for name in set(COMMANDS) - UNGUARDED:
        call = build_parser(name).parse_args([name, *NEEDED.get(name, ["x"])]).call
        assert hasattr(call, "guarded"), name
        assert build_parser(name).parse_args([name, *NEEDED.get(name, ["x"]), "--trust"]).trust
    for name in UNGUARDED:
        module = importlib.import_module(f"export.commands.{COMMANDS[name][0]}")
        assert module


NEEDED = {
    "predict": ["x", "y"],
    "embed": ["x", "y", "--output", "z"],
    "index": ["x", "--output", "z"],
    "search": ["x", "y"],
    "page": ["x", "-o", "z"],
}


@linux
def test_trust_accepts_operators_that_are_refused_otherwise(tiny_run, tmp_path, capfd):
    model = onnx.load(tiny_run / "model.onnx")
    model.graph.node.append(onnx.helper.make_node("Hardmax", [model.graph.output[0].name], ["more"]))
    onnx.save(model, tmp_path / "x.onnx")
    words = ["predict", str(tmp_path / "x.onnx"), str(tiny_run / "samples" / "0_0.png")]
    assert guarded_main(words) == 2
    assert "usual vision network has: Hardmax; --trust" in capfd.readouterr().err
    assert guarded_main([*words, "--trust"]) == 0
    assert analyze.guarded_main([str(tmp_path / "x.onnx")]) == 0, "it runs no operator"
    assert TRUST not in os.environ


@linux
def test_memory_is_limited_by_the_blocks_of_the_model_and_of_its_own_weights(tmp_path, tiny_run, monkeypatch):
    """A sparse file of a terabyte beside the model, or as its weights, allows nothing."""
    asked = []
    monkeypatch.setattr("resource.setrlimit", lambda _, limits: asked.append(limits[0]))
    monkeypatch.setattr(guard, "MEMORY", 0)
    path = tmp_path / "m.onnx"
    path.write_bytes((tiny_run / "model.onnx").read_bytes())
    with (tmp_path / "m.onnx.pad").open("wb") as pad:
        pad.truncate(2**40)
    guard.bound_memory(path)
    (before,) = asked
    guard.bound_memory(path)
    assert abs(asked[1] - before) < 2**27
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="w.data", size_threshold=0)
    os.truncate(tmp_path / "w.data", 2**40)
    guard.bound_memory(path)
    assert len(asked) == 4 and max(asked) - before < 2**28
