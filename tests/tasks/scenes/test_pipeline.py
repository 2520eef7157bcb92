"""The cache of the scenes pipeline."""

from __future__ import annotations

import numpy as np

from kerascv_course.tasks.scenes import pipeline


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
