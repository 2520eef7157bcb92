"""Models, losses, optimizers and callbacks run on another backend of Keras."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys

import pytest

TRAINING = """
import dataclasses, json, pathlib, sys
from kerascv_course.data import load
from kerascv_course.config import Augmentation, Optimizer, Schedule
from kerascv_course.recipes import get_recipe
from kerascv_course.tasks.classification.config import Classification
from kerascv_course.tasks.classification.task import ClassificationTask
from kerascv_course.training.run_dir import Run
from kerascv_course.training.trainer import prepare, train
import keras

recipe = dataclasses.replace(
    get_recipe("lenet5-digits"),
    model="lenet5",
    model_options={"dropout": 0.2},
    epochs=1,
    batch_size=115,
    classification=Classification(label_smoothing=0.1),
    augmentation=Augmentation(translate=2, mixup=0.2),
    optimizer=Optimizer("muon", learning_rate=0.05, momentum=0.6, nesterov=True, weight_decay=1e-4, decay_norms=False, ema=0.5),
    schedule=Schedule("constant"),
    fused=True,
)
run = Run.create(pathlib.Path(sys.argv[1]), recipe)
training = prepare(ClassificationTask(recipe), load(recipe.data))
train(training, run)
resumed = ClassificationTask(dataclasses.replace(recipe, epochs=2))
progress = train(dataclasses.replace(training, task=resumed), run, resume=True)
print(json.dumps({"backend": keras.backend.backend(), "history": progress.history}))
"""


def test_recipe_trains_and_resumes_on_pytorch(tmp_path):
    if importlib.util.find_spec("torch") is None:
        pytest.skip("PyTorch is not installed (extra [compare])")
    run = tmp_path / "run"
    # one thread: for such a small network several threads are slower
    settings = {"KERAS_BACKEND": "torch", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", TRAINING, str(run)]
    done = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["backend"] == "torch"
    assert [row["epoch"] for row in result["history"]] == [1, 2]
    assert result["history"][-1]["val_accuracy"] > 0.5
    assert (run / "best.keras").is_file()


EXPORTING = """
import sys

import keras

from export.__main__ import main

image = keras.Input((8, 8, 3))
x = keras.layers.Flatten()(keras.layers.Conv2D(4, 3, activation="relu")(image))
keras.Model(image, keras.layers.Dense(3, activation="softmax")(x)).save(sys.argv[1])
sys.exit(main([sys.argv[1], "--noise"]))
"""


def test_a_keras_file_is_exported_on_pytorch_without_tensorflow(tmp_path):
    if importlib.util.find_spec("torch") is None:
        pytest.skip("PyTorch is not installed (extra [compare])")
    (tmp_path / "tensorflow.py").write_text("raise ModuleNotFoundError('no TensorFlow here')")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "KERAS_BACKEND": "torch", "PYTHONPATH": path}
    command = [sys.executable, "-c", EXPORTING, str(tmp_path / "x.keras")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "parity passed" in done.stdout and (tmp_path / "x.onnx").is_file()
