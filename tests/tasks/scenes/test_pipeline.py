"""The scenes pipeline: cache, resumed encoding, loaded models."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from kerascv_course.tasks.scenes import pipeline
from kerascv_course.tasks.scenes.task import SceneTask


def test_cached_stores_arrays_by_content_and_recomputes_damaged_files(tmp_path, monkeypatch):
    monkeypatch.setenv("KERASCV_COURSE_CACHE", str(tmp_path))
    calls = []

    def compute():
        calls.append(1)
        return {"x": np.arange(3)}

    key = pipeline.digest(np.zeros(2), {"step": 3})
    assert key != pipeline.digest(np.zeros(2), {"step": 4}) and key != pipeline.digest(np.zeros(2, np.float32), {"step": 3})
    for _ in range(2):
        np.testing.assert_array_equal(pipeline.cached("things", key, compute)["x"], [0, 1, 2])
    assert len(calls) == 1
    (file,) = tmp_path.glob("things/*.npz")
    for damaged in (file.read_bytes()[:-30], b"", b"not an archive"):
        file.write_bytes(damaged)
        np.testing.assert_array_equal(pipeline.cached("things", key, compute)["x"], [0, 1, 2])
    assert len(calls) == 4
    np.savez(file, x=np.array([{"a": 1}], dtype=object))  # pickles are not opened
    np.testing.assert_array_equal(pipeline.cached("things", key, compute)["x"], [0, 1, 2])


def test_interrupted_encode_resumes_at_the_last_chunk(stripes, monkeypatch, scene_recipe):
    monkeypatch.setattr(pipeline, "CHUNK", 10)
    features = pipeline.Features.learn(scene_recipe(words=7).scenes, stripes.train.images)
    calls = []
    original = pipeline.by_image

    def counting(model, stop_after=None):
        streamed = original(model)
        run = streamed.predict_on_batch

        def counted(images):
            calls.append(len(images))
            if stop_after is not None and len(calls) > stop_after:
                raise KeyboardInterrupt
            return run(images)

        monkeypatch.setattr(streamed, "predict_on_batch", counted)
        return streamed

    monkeypatch.setattr(pipeline, "by_image", lambda model: counting(model, stop_after=2))
    with pytest.raises(KeyboardInterrupt):
        features.encode(stripes.train.images)
    calls.clear()
    monkeypatch.setattr(pipeline, "by_image", counting)
    assert features.encode(stripes.train.images).shape == (30, 7)
    assert calls == [10]  # the first twenty images were cached


def test_loaded_model_has_the_same_cache_key(stripes, tmp_path, scene_recipe):
    model, _, _ = SceneTask(scene_recipe()).fit(stripes)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    assert pipeline.split_model(loaded)[0].key == pipeline.split_model(model)[0].key
    images = stripes.test.images
    np.testing.assert_array_equal(loaded.predict(images, verbose=0), model.predict(images, verbose=0))
