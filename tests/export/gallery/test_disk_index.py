"""Galleries on disk: the same answers as the search in memory, bounded memory, and refused files."""

from __future__ import annotations

import io
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.gallery import disk_index as disk
from export.gallery.disk_index import MIN_BUDGET, VectorFile, nearest_on_disk, write_vectors
from kerascv_course.core.errors import DataError, InputError
from kerascv_course.core.ranking import nearest


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("vectors")


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    k=st.integers(1, 40),
    distance=st.sampled_from(["euclidean", "cosine"]),
    dtype=st.sampled_from(["<f2", "<f4", "<f8", ">f4"]),
    budget=st.integers(100, 2000),
)
def test_nearest_on_disk_equals_nearest_in_memory(folder, seed, k, distance, dtype, budget):
    rng = np.random.default_rng(seed)
    gallery, queries = rng.integers(-2, 3, (30, 3)).astype(dtype), rng.integers(-2, 3, (7, 3)) * 0.7
    gallery[:, 0] += 10 * (gallery == 0).all(axis=1)
    queries[:, 0] += 10 * (queries == 0).all(axis=1)
    np.save(folder / "gallery.npy", gallery)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(disk, "MIN_BUDGET", 1)  # parts of a few rows
        found = nearest_on_disk(queries, VectorFile(folder / "gallery.npy"), k, distance=distance, budget=budget)
    expected = nearest(queries, gallery.astype(np.float32), k, distance=distance)
    np.testing.assert_array_equal(found.indices, expected.indices)
    np.testing.assert_array_equal(found.distances, expected.distances)


def test_nearest_on_disk_scales_large_vectors_part_by_part(folder):
    rng = np.random.default_rng(0)
    gallery, queries = rng.normal(size=(20_000, 16)).astype(np.float32), rng.normal(size=(5, 16)).astype(np.float32)
    gallery[:10_000] *= np.float32(1e20)
    np.save(folder / "far.npy", gallery)
    found = nearest_on_disk(queries, VectorFile(folder / "far.npy"), 15_000, budget=MIN_BUDGET)
    expected = nearest(queries.astype(np.float64), gallery, 15_000)
    assert (found.indices[:, :10_000] >= 10_000).all()  # those near one
    np.testing.assert_allclose(found.distances[:, 10_000:], expected.distances[:, 10_000:], rtol=1e-6)


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_nearest_on_disk_keeps_to_the_memory_budget(folder, distance):
    """32 MiB on the disk, 2 MiB at once; beyond that what ranking makes of 8,192 vectors at a time."""
    rng = np.random.default_rng(0)
    path = folder / "large.npy"
    assert write_vectors(path, (rng.standard_normal((4096, 128), np.float32) for _ in range(16))) == 65_536
    queries = rng.standard_normal((8, 128), np.float32)
    calls: list[int] = []
    tracemalloc.start()
    found = nearest_on_disk(queries, VectorFile(path), 10, distance=distance, budget=2 * 2**20, progress=calls.append)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert path.stat().st_size > 32 * 2**20 > 2 * 12 * 2**20 > 2 * peak
    assert calls[-1] == 65_536 and len(calls) >= 16
    np.testing.assert_array_equal(found.indices, nearest(queries, np.load(path), 10, distance=distance).indices)


def test_write_vectors_in_parts_writes_one_array(folder):
    values = np.random.default_rng(0).standard_normal((1000, 7)).astype(np.float32)
    path = folder / "parts.npy"
    assert write_vectors(path, (values[i : i + 33] for i in range(0, 1000, 33))) == 1000
    np.testing.assert_array_equal(np.load(path, allow_pickle=False), values)
    gallery = VectorFile(path)
    assert (len(gallery), gallery.width) == (1000, 7)
    np.testing.assert_array_equal(gallery.rows(np.array([999, 0, 0])), values[[999, 0, 0]])
    again = folder / "again.npy"
    np.save(again, values)
    assert VectorFile(again).fingerprint() == gallery.fingerprint()
    values[0, 0] += 1
    np.save(again, values)
    assert VectorFile(again).fingerprint() != gallery.fingerprint()


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([], "one vector or more; received none"),
        ([np.ones((2, 3)), np.ones((2, 4))], "one width; received 4 after 3"),
        ([np.ones((2, 3)), np.full((2, 3), np.nan)], "contain NaN or infinity"),
    ],
)
def test_write_vectors_refuses_bad_vectors(tmp_path, parts, message):
    with pytest.raises(InputError, match=message):
        write_vectors(tmp_path / "x.npy", iter(parts))
    assert not list(tmp_path.iterdir())


def saved(values, **how) -> bytes:
    file = io.BytesIO()
    np.save(file, values, **how)
    return file.getvalue()


GOOD = saved(np.ones((4, 3), np.float32))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a .npy file"),
        (b"not an array at all", "not a .npy file"),
        (saved(np.array([[1, "x"]], object), allow_pickle=True), "Python objects, which are pickles"),
        (saved(np.asfortranarray(np.ones((4, 3)))), "column-major"),
        (saved(np.ones((4, 3), np.int32)), "float16, float32 or float64 .*int32"),
        (saved(np.ones((4, 3), np.complex64)), "float16, float32 or float64"),
        (saved(np.ones(4)), r"\(N, width\)"),
        (saved(np.ones((0, 3))), "one vector or more"),
        (saved(np.ones((4, 0))), "one vector or more"),
        (GOOD[:-1], "promises 48 bytes of vectors and has 47"),
        (GOOD + b"x", "promises 48 bytes of vectors and has 49"),
        (GOOD.replace(b"(4, 3), }" + 15 * b" ", b"(4000000000, 3000000), }"), "promises 48,000,000,000,000,000 bytes"),
        (GOOD.replace(b"(4, 3)", b"(-4,3)"), "one vector or more|promises|not a .npy file"),
        (GOOD.replace(b"(4, 3), }" + 12 * b" ", b"().__class__, }      "), "not a .npy file"),
        (GOOD.replace(b"False, 'shape'", b"False, ('hape'"), "header that cannot be read"),
        (GOOD[:6] + b"\x03\x00" + GOOD[8:], "version"),
    ],
)
def test_vector_file_refuses_other_files(tmp_path, content, message):
    path = tmp_path / "gallery.npy"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        VectorFile(path)


def test_nearest_on_disk_refuses_bad_arguments(tmp_path):
    path = tmp_path / "gallery.npy"
    with pytest.raises(DataError, match="no such file"):
        VectorFile(path)
    np.save(path, np.ones((600_000, 2), np.float32))
    gallery = VectorFile(path)
    with pytest.raises(InputError, match="k must be 1 or more; received 0"):
        nearest_on_disk(np.ones((1, 2)), gallery, 0)
    with pytest.raises(InputError, match="one width; received 3 and 2"):
        nearest_on_disk(np.ones((1, 3)), gallery, 1)
    with pytest.raises(InputError, match="memory budget must be 1,048,576 bytes or more; received 1,000"):
        nearest_on_disk(np.ones((1, 2)), gallery, 1, budget=1000)
    with pytest.raises(InputError, match="queries are compared by cosine"):
        nearest_on_disk(np.zeros((1, 2)), gallery, 1, distance="cosine")
    values = np.load(path)
    values[500_000] = np.nan
    np.save(path, values)
    with pytest.raises(InputError, match=r"gallery.npy, from vector \d{6} on: .* NaN"):
        nearest_on_disk(np.ones((1, 2)), gallery, 1, budget=MIN_BUDGET)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(DataError, match="became shorter"):
        gallery.rows(np.array([599_999]))
