"""Several processes that train one network: connecting, agreeing, equal results, and losing a process."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from kerascv_course.core.errors import CourseError, InputError
from kerascv_course.training.distributed import (
    LostProcessError,
    ProcessGroup,
    choose_backend,
    exit_immediately,
    is_worker,
    join,
    report_lost_processes,
    supervise,
)

NEEDS_JAX = pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed (extra [jax])")

#: Long enough to be killed in the middle of; 50 images divide among two devices and among five, 288 of validation not among five.
RECIPE = ("lenet5-digits", "--epochs", "12", "--batch-size", "50")

ALONE = """
import dataclasses, pathlib, sys
from kerascv_course.recipes import get_recipe
from kerascv_course.training.devices import ONE, Devices, find_devices
find_devices(5)
from kerascv_course.experiment import Experiment, Options
recipe = dataclasses.replace(get_recipe("lenet5-digits"), epochs=12, batch_size=50)
Experiment(recipe, pathlib.Path(sys.argv[1]) / "two", Options(train_only=True, devices=Devices(2))).run()
for name, devices in (("one", ONE), ("five", Devices(5))):
    its = dataclasses.replace(recipe, epochs=1, schedule=dataclasses.replace(recipe.schedule, name="constant"))
    Experiment(its, pathlib.Path(sys.argv[1]) / name, Options(train_only=True, devices=devices)).run()

import keras, numpy as np, tensorflow as tf
from kerascv_course.training.precision import training_copy
images, targets = np.random.default_rng(0).normal(size=(20, 8, 8, 3)), np.arange(20) % 4
batch = tf.data.Dataset.from_tensors((images.astype("float32"), targets))
image = keras.Input((8, 8, 3))
x = keras.layers.BatchNormalization()(keras.layers.Conv2D(6, 3)(image))
built = keras.Model(image, keras.layers.Dense(4)(keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(x))))
for groups in (1, 4):
    results = []
    for devices in (ONE, Devices(5)):
        with devices.scope():
            copy = training_copy(built, dataclasses.replace(recipe, batch_size=20, norm_groups=groups, fused=True), devices)
            copy.compile(keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
            copy.fit(batch, epochs=2, verbose=0)
        results.append(np.concatenate([value.ravel() for value in copy.get_weights()]))
    np.testing.assert_allclose(results[1], results[0], rtol=0, atol=1e-6)
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def start(folder: Path, *arguments: str) -> list[subprocess.Popen[str]]:
    """Two processes of one training; what they print goes to files."""
    where = ["--distributed", "--coordinator", f"127.0.0.1:{free_port()}", "--processes", "2", "--connect-timeout", "300"]
    environment = {name: value for name, value in os.environ.items() if name != "KERAS_BACKEND"}
    processes = []
    for number in range(2):
        command = [sys.executable, "-m", "kerascv_course.train", *arguments, *where, "--process-id", str(number)]
        with (folder / f"{number}.txt").open("w") as output:
            processes.append(subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, text=True, env=environment))
    return processes


def wait_for(path: Path, rows: int) -> None:
    end = time.monotonic() + 300
    while not path.exists() or len(path.read_text().splitlines()) <= rows:
        assert time.monotonic() < end, f"{path} has not come"
        time.sleep(0.05)


def steps(run: Path) -> np.ndarray:
    return np.loadtxt(run / "steps.csv", delimiter=",", skiprows=1)


@NEEDS_JAX
def test_two_processes_resume_after_a_kill_and_equal_one_process(tmp_path):
    """To the bit what two devices of one process learn; within 1e-5 what one device learns, over an epoch."""
    alone = subprocess.Popen([sys.executable, "-c", ALONE, str(tmp_path)], env={**os.environ, "KERAS_BACKEND": "jax"})
    run = tmp_path / "run"
    first, second = start(tmp_path, *RECIPE, "--run-dir", str(run))
    try:
        wait_for(run / "history.csv", 2)
        second.send_signal(signal.SIGKILL)
        assert first.wait(timeout=120) == 1
        second.wait()
        assert "another process of this training has ended" in (tmp_path / "0.txt").read_text()
        assert len(steps(run)) < 12 * 23
        first, second = start(tmp_path, "--resume", str(run))
        assert first.wait(timeout=300) == 0, (tmp_path / "0.txt").read_text()
        assert second.wait(timeout=60) == 0, (tmp_path / "1.txt").read_text()
        assert alone.wait(timeout=300) == 0
    finally:
        for process in (first, second, alone):
            process.kill()
    assert "parity passed" in (run / "log.txt").read_text() and (run / "model.onnx").is_file()
    with np.load(run / "last.npz") as found, np.load(tmp_path / "two/last.npz") as wanted:
        for name in (name for name in wanted.files if name.startswith("variable") or name == "steps"):
            np.testing.assert_array_equal(found[name], wanted[name])
    one, five = (np.loadtxt(tmp_path / f"{name}/history.csv", delimiter=",", skiprows=1)[:6] for name in ("one", "five"))
    np.testing.assert_allclose(steps(tmp_path / "five"), steps(tmp_path / "one"), rtol=0, atol=1e-5)
    np.testing.assert_allclose(five, one, rtol=0, atol=1e-5)


@NEEDS_JAX
def test_agree_refuses_different_recipes(tmp_path):
    where = ["--distributed", "--coordinator", f"127.0.0.1:{free_port()}", "--processes", "2", "--connect-timeout", "300"]
    command = [sys.executable, "-m", "kerascv_course.train", "lenet5-digits", "--run-dir", str(tmp_path / "run"), *where]
    processes = [
        subprocess.Popen([*command, "--process-id", str(i), "--seed", str(i)], stderr=subprocess.PIPE, text=True)
        for i in range(2)
    ]
    for process in processes:
        _, told = process.communicate(timeout=300)
        assert process.returncode == 2 and "all processes of a training need the same recipe" in told
    assert not (tmp_path / "run").exists()


def test_process_group_of_environment():
    environment = {"JAX_COORDINATOR_ADDRESS": "a:1", "KERAS_DISTRIBUTION_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "3"}
    assert ProcessGroup.of(ProcessGroup(), environment) == ProcessGroup("a:1", 4, 3)
    assert ProcessGroup.of(ProcessGroup("b:2", 2, 0), environment) == ProcessGroup("b:2", 2, 0)
    assert ProcessGroup.of(ProcessGroup(), {"KERAS_DISTRIBUTION_JOB_ADDRESSES": "a:1,b:2"}) == ProcessGroup("a:1")
    assert ProcessGroup.of(ProcessGroup(), {}) == ProcessGroup()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (ProcessGroup("node0", 2, 0), "HOST:PORT, such as node0:7777; received 'node0'"),
        (ProcessGroup("a:1", 0, 0), "--processes must be 1 or more; received 0"),
        (ProcessGroup("a:1", 2, 2), "must be 0 to --processes − 1; received 2 of 2"),
        (ProcessGroup("a:1", 2, -1), "must be 0 to"),
        (ProcessGroup("a:1", 2, 1, 0), "--connect-timeout must be 1 second or more; received 0"),
    ],
)
def test_process_group_refuses_bad_values(given, message):
    with pytest.raises(InputError, match=message):
        ProcessGroup.of(given, {})


def test_process_group_refuses_bad_environment():
    with pytest.raises(InputError, match="number of processes or process ID is not an integer"):
        ProcessGroup.of(ProcessGroup(), {"JAX_PROCESS_ID": "first"})


def test_choose_backend_refuses_other_backends():
    with pytest.raises(
        InputError, match=r"MultiWorkerMirroredStrategy fails in model.fit with Keras 3.*KERAS_BACKEND=tensorflow"
    ):
        choose_backend({"KERAS_BACKEND": "tensorflow"})


@NEEDS_JAX
def test_join_reports_an_unreachable_coordinator():
    with pytest.raises(LostProcessError, match=r"cannot be reached .*: start process 0 there"):
        join(ProcessGroup(f"127.0.0.1:{free_port()}", 2, 1, timeout=1))
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        with pytest.raises(InputError, match="choose another port"):
            join(ProcessGroup(f"127.0.0.1:{taken.getsockname()[1]}", 2, 0, timeout=1))


def test_report_lost_processes():
    with pytest.raises(LostProcessError, match="Restart all processes"), report_lost_processes(None):
        raise RuntimeError("UNKNOWN: Gloo AllGather failed: Connection closed by peer [127.0.0.1]:29057")
    with pytest.raises(RuntimeError, match="something else"), report_lost_processes(None):
        raise RuntimeError("something else")


@NEEDS_JAX
@pytest.mark.parametrize(
    ("code", "error", "message"),
    [
        ("sys.stderr.write('F0101 the JAX distributed service detected fatal errors')", LostProcessError, "--resume RUN"),
        ("sys.stderr.write('F0101 coordination ... RegisterTask')", LostProcessError, "not all processes connected within"),
        ("sys.stderr.write('E0101 a secret')", CourseError, r"ended by signal 6 \(SIGABRT\)"),
    ],
)
def test_supervise_reports_an_aborted_child(tmp_path, monkeypatch, capfd, code, error, message):
    (tmp_path / "aborts.py").write_text(f"import os, sys\n{code}\nsys.stderr.flush()\nos.abort()\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        with pytest.raises(error, match=message):
            supervise("aborts", [], "RUN")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert ("a secret" in capfd.readouterr().err) == ("secret" in code)


def test_single_process_is_no_worker(monkeypatch):
    monkeypatch.delenv("KERASCV_COURSE_SUPERVISOR", raising=False)
    assert not is_worker()
    with pytest.raises(SystemExit), exit_immediately():
        sys.exit(2)
