"""The benchmark: every engine once without looking at its times, and the report with made-up times."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest

import export.benchmark.benchmark
from export.__main__ import main
from export.benchmark.benchmark import EngineError, EngineProcess, benchmark
from export.benchmark.engines import ENGINES, EngineSpec, random_pixels, serve, take_turns, time_calls
from export.predictor import OnnxModel, ProviderError
from kerascv_course.core.errors import InputError, UnknownNameError


def spec(engine, run, **changes):
    given = {"onnx": str(run / "model.onnx"), "keras": str(run / "best.keras"), "provider": "cpu", "side": 32}
    return EngineSpec(**{"engine": engine, **given, **changes})


def served(first, *requests):
    """Answers of the process to these requests."""
    answers = io.StringIO()
    serve(io.StringIO("".join(json.dumps(line) + "\n" for line in (vars(first), *requests))), answers)
    return [json.loads(line) for line in answers.getvalue().splitlines()]


@pytest.mark.parametrize("engine", [name for name in ENGINES if name not in ("torch", "xla")])
def test_engine_gives_the_scores_of_the_file(engine, tiny_run):
    if engine == "openvino":
        pytest.importorskip("openvino")
    opened, timed = served(spec(engine, tiny_run), {"batch": 3, "calls": 2})
    outputs = OnnxModel(tiny_run / "model.onnx").run(random_pixels(spec(engine, tiny_run), 8))
    kind = "logits" if engine in ("keras", "tf.function") else "probabilities"
    np.testing.assert_allclose(opened["scores"], outputs[kind], atol=1e-4)
    assert len(timed["seconds"]) == 2 and timed["peak"] > 10_000_000


def test_engine_errors_are_answered(tiny_run, tmp_path):
    (answer,) = served(spec("keras", tiny_run, keras=None))
    assert "give --run RUN" in answer["error"] and answer["exit_code"] == 2
    (answer,) = served(spec("onnxruntime", tiny_run, onnx=str(tmp_path / "gone.onnx")))
    assert "no such file" in answer["error"]
    (answer,) = served(spec("teapot", tiny_run))
    assert answer == {"error": "KeyError: 'teapot'", "exit_code": 1}


def test_engine_process_opens_answers_and_ends(tiny_run):
    with EngineProcess(spec("onnxruntime", tiny_run)) as process:
        assert process.scores.shape == (8, 10) and 0 < process.load < process.first
        assert len(process.turn(3, batch_size=2)) == 3 and process.peak > 10_000_000
        process.process.kill()
        with pytest.raises(EngineError, match="process of engine 'onnxruntime' ended"):
            process.turn(1, batch_size=1)
    with pytest.raises(InputError, match="engine 'predictor': no such file"):
        EngineProcess(spec("predictor", tiny_run, onnx="gone.onnx"))


def test_keras_engine_runs_models_with_layers_of_this_package(identity_run):
    """In a process that has imported nothing of ours; a file of ``ntu-tiny-knn`` crashed there."""
    with EngineProcess(spec("keras", identity_run, side=16)) as process:
        assert process.scores.shape[0] == 8 and np.isfinite(process.scores).all()


class FakeProcess:
    """An `EngineProcess` with made-up times."""

    milliseconds = {"predictor": 1.0, "onnxruntime": 2.0, "tf.function": 4.0}  # noqa: RUF012
    load, first, peak = 0.1, 0.2, 10**8

    def __init__(self, spec):
        self.spec, self.file = spec, spec.keras or spec.onnx
        logits = np.arange(80.0).reshape(8, 10) % 7
        self.scores = logits if spec.keras else np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)

    def turn(self, count, *, batch_size):
        return [self.milliseconds[self.spec.engine] * batch_size / 1e3] * count

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def test_benchmark_report_has_every_engine_and_batch_size(tiny_run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(export.benchmark.benchmark, "EngineProcess", FakeProcess)
    model, target, plot = str(tiny_run / "model.onnx"), tmp_path / "b.json", tmp_path / "b.png"
    words = ["benchmark", model, "--against", "tf.function", "--batch", "1", "4", "--seconds", "1e-9"]
    assert main([*words, "--json", str(target), "--plot", str(plot)]) == 0
    plain = json.loads(target.read_bytes())
    assert [row["engine"] for row in plain["rows"]] == ["predictor", "onnxruntime", "tf.function"]
    first, _, last = plain["rows"]
    speed = first["speeds"][1]
    assert speed.pop("calls") >= 5 and speed == {"batch_size": 4, "p50_ms": 4.0, "p95_ms": 4.0, "images_per_second": 1000.0}
    assert last["file"].endswith("best.keras") and last["difference"] < 1e-12, "logits are compared as probabilities"
    assert plain["providers"] == ["CPUExecutionProvider"] and plain["image_shape"] == [32, 32, 1]
    table = capsys.readouterr().out
    assert "predictor, model.onnx" in table and "4.000 / 4.000" in table
    assert plot.read_bytes()[:4] == b"\x89PNG"


def test_benchmark_refuses_bad_arguments(tiny_run, color_run, tmp_path):
    model = tiny_run / "model.onnx"
    with pytest.raises(UnknownNameError, match="unknown engine 'openvin'; did you mean 'openvino'"):
        benchmark([model], against=["openvin"])
    with pytest.raises(InputError, match="provider must be cpu or cuda; received 'tpu'"):
        benchmark([model], provider="tpu")
    with pytest.raises(ProviderError, match="CUDAExecutionProvider"):
        benchmark([model], provider="cuda")
    with pytest.raises(InputError, match="one exported file or more"):
        benchmark([])
    with pytest.raises(InputError, match="batch sizes must be 1 or more"):
        benchmark([model], batch_sizes=[0])
    with pytest.raises(InputError, match="must have one input shape"):
        benchmark([model, color_run / "model.onnx"])
    with pytest.raises(InputError, match=r"--plot must end in \.png; received b\.pdf"):
        main(["benchmark", str(model), "--plot", "b.pdf"])
    with pytest.raises(InputError, match=r"it has no best\.keras"):
        main(["benchmark", str(model), "--run", str(tmp_path)])


def test_take_turns_alternates_and_does_not_count_warm_up_calls():
    calls = []
    turns = {name: lambda count, name=name: time_calls(lambda: calls.append(name), count) for name in "ab"}
    times = take_turns(turns, seconds=0, min_rounds=2)
    repeats = {name: len(times[name]) // 2 for name in "ab"}
    counted = "".join(calls)[6:]  # two calls and a warm-up of each estimate the duration of a call
    turn = {name: name * (1 + count // 4 + count) for name, count in repeats.items()}
    assert counted == (turn["a"] + turn["b"]) * 2
