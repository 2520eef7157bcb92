from __future__ import annotations

import dataclasses
import importlib.util

import keras
import numpy as np
import pytest

from kerascv_course.core.errors import CourseError, InputError
from kerascv_course.experiment import Experiment, Options
from kerascv_course.training.watching import Watch, check_watch


def test_watching_writes_beside_and_changes_nothing(tiny_recipe, tmp_path, caplog):
    pytest.importorskip("tensorboard")
    recipe = dataclasses.replace(
        tiny_recipe, export=dataclasses.replace(tiny_recipe.export, enabled=False), epochs=1, batch_size=16
    )
    with caplog.at_level("INFO", logger="kerascv_course"):
        watched = Experiment(recipe, tmp_path / "watched", Options(watch=Watch(tensorboard=True, profile=True))).run().folder
    alone = Experiment(recipe, tmp_path / "alone").run().folder
    assert len(list(watched.path.glob("tensorboard/*/events.out.tfevents.*"))) == 2  # train and validation
    assert len(list(watched.path.glob("profile/**/*.xplane.pb"))) == 1
    assert "profile of steps 20 to 30" in caplog.text
    assert not (alone / "tensorboard").exists() and not (alone / "profile").exists()
    assert (watched / "steps.csv").read_bytes() == (alone / "steps.csv").read_bytes()
    for value, other in zip(
        *(keras.saving.load_model(r / "best.keras", compile=False).get_weights() for r in (watched, alone)), strict=True
    ):
        np.testing.assert_array_equal(value, other)


def test_what_cannot_be_watched(monkeypatch):
    check_watch(Watch())
    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(CourseError, match=r"needs the package tensorboard.*'kerascv_course\[tensorboard\]'"):
            check_watch(Watch(tensorboard=True))
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(InputError, match="--profile records TensorFlow's work; Keras runs on jax here"):
        check_watch(Watch(profile=True))
