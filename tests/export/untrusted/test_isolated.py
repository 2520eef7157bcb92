"""Sessions in processes of their own, and models in other threads and processes."""

from __future__ import annotations

import concurrent.futures
import io
import multiprocessing
import os
import pickle
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from fuzz_cases import models

from export.contract import ContractError
from export.predictor import OnnxModel
from export.untrusted.guard import GuardError
from export.untrusted.isolated import IsolatedSession, read_message, write_message

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="waits for pipes as POSIX does")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A small classifier of 8×8 images."""
    path = tmp_path_factory.mktemp("isolated") / "model.onnx"
    path.write_bytes(models()["classifier"])
    return path


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), np.uint8)


def test_an_isolated_file_answers_the_same_bits(file, pixels):
    inside, apart = OnnxModel(file), OnnxModel(file, isolated=True)
    assert (apart.predict(pixels).scores == inside.predict(pixels).scores).all()
    assert apart.run(pixels)["logits"].shape == (5, 4) and apart.contract == inside.contract


def test_a_crash_ends_the_other_process_only_and_the_next_call_starts_another(file, pixels):
    model = OnnxModel(file, isolated=True)
    expected = model.predict(pixels).scores
    model.session._process.kill()
    with pytest.raises(ContractError, match="made its process crash"):
        model.predict(pixels)
    assert (model.predict(pixels).scores == expected).all()


def test_a_hang_ends_in_time(file, pixels):
    session = IsolatedSession(file, seconds=60)
    session._seconds = 0.2
    os.kill(session._process.pid, signal.SIGSTOP)
    with pytest.raises(GuardError, match=r"no answer in 0\.2 s, so its process was killed"):
        session.run(["logits"], {"image": pixels})
    assert session._process is None


def test_files_that_are_refused_are_refused_there_too(file, tmp_path):
    (tmp_path / "x.onnx").write_bytes(file.read_bytes()[:-20])
    with pytest.raises(ContractError, match=r"x\.onnx is not an ONNX model"):
        OnnxModel(tmp_path / "x.onnx", isolated=True)
    with pytest.raises(ContractError, match="no such file"):
        OnnxModel(tmp_path / "y.onnx", isolated=True)


@pytest.mark.parametrize(
    "message",
    [
        b"\xff" * 8,
        (2).to_bytes(8, "little") + b"[]",
        (2).to_bytes(8, "little") + b"{}",
        (40).to_bytes(8, "little") + b'{"arrays":[{"dtype":"|O","shape":[1]}]}'.ljust(40),
        (41).to_bytes(8, "little") + b'{"arrays":[{"dtype":"<f8","shape":[-1]}]}',
        (48).to_bytes(8, "little") + b'{"arrays":[{"dtype":"<f8","shape":[1e12, 1e12]}]}'[:48],
    ],
)
def test_what_is_no_answer_is_not_believed(message):
    with pytest.raises((ValueError, TypeError, KeyError, AttributeError)):
        read_message(io.BytesIO(message))


def test_messages_keep_arrays():
    arrays = [np.arange(6, dtype=np.float32).reshape(2, 3), np.empty((0, 4), np.int64), np.array(True)]
    stream = io.BytesIO()
    write_message(stream, {"a": 1}, arrays)
    stream.seek(0)
    header, read = read_message(stream)
    assert header == {"a": 1} and all((a == b).all() and a.dtype == b.dtype for a, b in zip(arrays, read, strict=True))
    with pytest.raises(EOFError):
        read_message(stream)


def answer(model, pixels):
    return model.predict(pixels).scores


@pytest.mark.parametrize("apart", [False, True])
def test_a_model_is_used_by_32_threads(file, pixels, apart):
    model = OnnxModel(file, threads=1, isolated=apart)
    expected = model.predict(pixels).scores
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        found = list(pool.map(lambda _: answer(model, pixels), range(128)))
    assert all((scores == expected).all() for scores in found)


@pytest.mark.parametrize("apart", [False, True])
def test_a_pickled_model_opens_its_file(file, pixels, apart, monkeypatch):
    monkeypatch.chdir(file.parent)
    model = OnnxModel(Path(file.name), threads=1, isolated=apart)
    text = pickle.dumps(model)
    monkeypatch.chdir("/")
    assert len(text) < 1000 and (pickle.loads(text).predict(pixels).scores == model.predict(pixels).scores).all()


@pytest.mark.parametrize("how", ["fork", "spawn"])
@pytest.mark.parametrize("apart", [False, True])
def test_a_model_is_used_in_other_processes(file, pixels, how, apart):
    model = OnnxModel(file, isolated=apart)
    expected = model.predict(pixels).scores
    with multiprocessing.get_context(how).Pool(2) as pool:
        found = pool.starmap_async(answer, [(model, pixels)] * 4).get(timeout=120)
    assert all((scores == expected).all() for scores in found)
    assert (model.predict(pixels).scores == expected).all()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.parametrize("apart", [False, True])
def test_a_model_that_a_fork_inherits_is_opened_anew(file, pixels, apart):
    model = OnnxModel(file, isolated=apart)
    expected = model.predict(pixels).scores
    child = os.fork()
    if child == 0:
        signal.alarm(60)  # a session without its threads would hang
        os._exit(0 if (model.predict(pixels).scores == expected).all() else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert (model.predict(pixels).scores == expected).all()


def test_the_other_process_imports_nothing_from_the_current_folder(file, tmp_path, monkeypatch, pixels):
    (tmp_path / "numpy.py").write_text("raise SystemExit('not this one')")
    monkeypatch.chdir(tmp_path)
    assert OnnxModel(file, isolated=True).predict(pixels).labels


def test_after_an_interrupt_the_next_answer_is_its_own(file, pixels, monkeypatch):
    expected = OnnxModel(file).run_batch(pixels[1:2])
    model = OnnxModel(file, isolated=True)

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("export.untrusted.isolated.read_message", interrupted)
        with pytest.raises(KeyboardInterrupt):
            model.run_batch(pixels[:1])
    answers = model.run_batch(pixels[1:2])
    for name, values in expected.items():
        np.testing.assert_array_equal(answers[name], values)
