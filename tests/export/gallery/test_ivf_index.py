"""Approximate search: exact if all cells are visited, recall if not, and refused index files."""

from __future__ import annotations

import dataclasses
import io
import zipfile

import numpy as np
import pytest

from export.__main__ import main
from export.gallery.disk_index import VectorFile, nearest_on_disk
from export.gallery.ivf_index import IvfSearcher, load_index, recall, save_index, train_index
from kerascv_course.core.errors import DataError, InputError
from kerascv_course.core.ranking import nearest

pytest.importorskip("faiss", reason="faiss is not installed (extra [search])")


@pytest.fixture(scope="module")
def gallery(tmp_path_factory):
    """3,000 vectors around 40 centres, 8 wide."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("gallery") / "gallery.npy"
    np.save(path, (rng.normal(size=(40, 8))[rng.integers(0, 40, 3000)] + 0.3 * rng.normal(size=(3000, 8))).astype(np.float32))
    return VectorFile(path)


@pytest.fixture(scope="module")
def queries():
    return np.random.default_rng(1).normal(size=(50, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def cells(gallery):
    return train_index(gallery, cells=30, code_bytes=4)


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_searcher_that_visits_all_cells_is_exact(gallery, queries, distance):
    """Codes round, the vectors on disk give the exact order."""
    index = IvfSearcher(train_index(gallery, distance=distance, cells=10, budget=2**20), gallery)
    found = index.nearest(queries, 7, probes=10, candidates=3000, budget=2**20)
    exact = nearest(queries, np.load(gallery.path), 7, distance=distance)
    np.testing.assert_array_equal(found.indices, exact.indices)
    np.testing.assert_array_equal(found.distances, exact.distances)
    assert recall(found, exact) == 1


def test_more_probes_and_candidates_raise_the_recall(gallery, queries, cells):
    vectors = np.load(gallery.path)
    index, exact = IvfSearcher(cells, gallery), nearest(queries, vectors, 5)
    found = [index.nearest(queries, 5, probes=probes, candidates=3000) for probes in (1, 3, 10, 30)]
    shares = [recall(one, exact) for one in found]
    assert shares == sorted(shares) and 0.2 < shares[0] < 1 == shares[-1]
    fewer = recall(index.nearest(queries, 5, probes=30, candidates=5), exact)
    assert fewer < recall(index.nearest(queries, 5, probes=30, candidates=200), exact) <= 1
    measured = np.linalg.norm(queries[:, None].astype(np.float64) - vectors[found[0].indices], axis=2)
    np.testing.assert_allclose(found[0].distances, measured, rtol=1e-12)


def test_searcher_fills_missing_neighbors(gallery, queries, cells):
    found = IvfSearcher(cells, gallery).nearest(queries, 2900, probes=1, candidates=2900)
    assert (found.indices[:, -1] == -1).all() and np.isinf(found.distances[:, -1]).all() and (found.indices[:, 0] >= 0).all()


def test_index_file_round_trip(gallery, queries, cells, tmp_path):
    path = tmp_path / "index.npz"
    save_index(cells, path)
    again = load_index(path, gallery)
    before, after = (IvfSearcher(one, gallery).nearest(queries, 5) for one in (cells, again))
    np.testing.assert_array_equal(before.indices, after.indices)
    assert again.nbytes == cells.nbytes < 0.6 * gallery.path.stat().st_size and again.distance == "euclidean"
    other = tmp_path / "other.npy"
    np.save(other, np.load(gallery.path)[::-1])
    with pytest.raises(DataError, match="index of another gallery"):
        load_index(path, VectorFile(other))


def test_recall_on_faces(lfw279_dir, tmp_path):
    """447 pictures of 49 people, as 16×16 pixels."""
    from PIL import Image

    paths = sorted((lfw279_dir / "val").glob("*/*.jpg"))
    vectors = np.stack([np.asarray(Image.open(path).convert("L").resize((16, 16)), np.float32).ravel() for path in paths])
    np.save(tmp_path / "faces.npy", vectors)
    gallery = VectorFile(tmp_path / "faces.npy")
    index, exact = IvfSearcher(train_index(gallery, cells=8, code_bytes=16), gallery), nearest(vectors, vectors, 5)
    few, all_ = (recall(index.nearest(vectors, 5, probes=probes), exact) for probes in (2, 8))
    assert 0.6 < few < all_ and all_ > 0.97


def changed(cells, **what):
    return {**{field.name: np.asarray(getattr(cells, field.name)) for field in dataclasses.fields(cells)}, **what}


def edited(values, place, value):
    values = values.copy()
    values[place] = value
    return values


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: {"centers": c.centers[:, :7]}, "centers of another width"),
        (lambda c: {"centers": edited(c.centers, (0, 0), np.nan)}, "not finite"),
        (lambda c: {"centers": c.centers[:0]}, "centers of another width"),
        (lambda c: {"centers": c.centers.astype(np.float64)}, "centers is float64"),
        (lambda c: {"books": c.books[:, :255]}, "code books of another shape"),
        (lambda c: {"books": c.books[0]}, r"books is float32 \(256, 2\)"),
        (lambda c: {"codes": c.codes[:, :3]}, "code books of another shape"),
        (lambda c: {"codes": c.codes[:, :0]}, "code books of another shape"),
        (lambda c: {"codes": c.codes[:10]}, "another number of vectors"),
        (lambda c: {"numbers": c.numbers[:10]}, "another number of vectors"),
        (lambda c: {"numbers": edited(c.numbers, 0, 3000)}, "numbers that are not those of the vectors"),
        (lambda c: {"numbers": edited(c.numbers, 0, -1)}, "numbers that are not those of the vectors"),
        (lambda c: {"numbers": edited(c.numbers, 0, c.numbers[1])}, "numbers that are not those of the vectors"),
        (lambda c: {"starts": c.starts[:0]}, "do not follow one another"),
        (lambda c: {"starts": c.starts[:-1]}, "do not follow one another"),
        (lambda c: {"starts": edited(c.starts, 3, 2**60)}, "do not follow one another"),
        (lambda c: {"starts": edited(c.starts, -1, 3001)}, "beyond its entries"),
        (lambda c: {"starts": edited(c.starts, 0, -5)}, "beyond its entries"),
        (lambda c: {"distance": np.asarray("manhattan")}, "unknown distance"),
        (lambda c: {"distance": np.asarray("x" * 100)}, "distance is <U100"),
        (lambda c: {"more": np.ones(3)}, "other arrays than an index"),
        (lambda c: {"gallery": np.asarray("0123456789abcdef")}, "index of another gallery"),
        (lambda c: {"numbers": c.numbers.astype(object)}, "Python objects, which are pickles"),
    ],
)
def test_load_index_refuses_wrong_arrays(gallery, cells, tmp_path, change, message):
    path = tmp_path / "index.npz"
    np.savez(path, **changed(cells, **change(cells)))
    with pytest.raises(DataError, match=message):
        load_index(path, gallery)


def test_load_index_refuses_damaged_and_compressed_files(gallery, cells, tmp_path):
    path = tmp_path / "index.npz"
    with pytest.raises(DataError, match="no such file"):
        load_index(path, gallery)
    np.savez_compressed(path, **changed(cells))
    with pytest.raises(DataError, match="is compressed"):
        load_index(path, gallery)
    save_index(cells, path)
    whole = path.read_bytes()
    for content in (b"", whole[:1000], whole[:-100], whole.replace(b"(3000, 4)", b"(9000, 4)")):
        path.write_bytes(content)
        with pytest.raises(DataError, match="is not an index of"):
            load_index(path, gallery)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (2**62, 4)})
    with zipfile.ZipFile(path, "w") as archive:
        for name, value in changed(cells).items():
            file = io.BytesIO()
            np.save(file, value)
            archive.writestr(f"{name}.npy", header.getvalue() if name == "codes" else file.getvalue())
    with pytest.raises(DataError, match="codes is cut short"):
        load_index(path, gallery)


def test_mutated_files_are_answered_or_refused(gallery, queries, cells, tmp_path):
    """Bytes of an index, values and shapes of its arrays, bytes of a gallery: never anything but an answer or our own error."""
    path = tmp_path / "index.npz"
    save_index(cells, path)
    whole, header = path.read_bytes(), gallery.path.read_bytes()
    arrays, outcomes = changed(cells), set()
    for number in range(240):
        rng = np.random.default_rng(number)
        what = number % 3
        try:
            if what == 1:
                name = list(arrays)[rng.integers(5)]
                values = arrays[name].copy()
                if rng.random() < 0.5:
                    values = np.resize(values, (rng.integers(2 * len(values)), *values.shape[1:]))
                else:
                    values.view(np.uint8).reshape(-1)[rng.integers(values.nbytes)] = rng.integers(256)
                np.savez(path, **{**arrays, name: values})
            else:
                content = bytearray(header if what == 2 else whole)
                for place in rng.integers(128 if what == 2 else len(content), size=rng.integers(1, 8)):
                    content[place] = rng.integers(256)
                (tmp_path / "gallery.npy" if what == 2 else path).write_bytes(content)
            if what == 2:
                nearest_on_disk(queries, VectorFile(tmp_path / "gallery.npy"), 5)
            else:
                IvfSearcher(load_index(path, gallery), gallery).nearest(queries, 5, probes=30)
            outcomes.add("answered")
        except InputError:
            outcomes.add("refused")
    assert outcomes == {"answered", "refused"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cells": 0}, "cells must be 1 to 3000, the number of vectors; received 0"),
        ({"cells": 3001}, "received 3001"),
        ({"code_bytes": 3}, "bytes of a code must divide the width 8; received 3"),
        ({"distance": "manhattan"}, "euclidean or cosine; received 'manhattan'"),
    ],
)
def test_train_index_refuses_bad_arguments(gallery, options, message):
    with pytest.raises(InputError, match=message):
        train_index(gallery, **options)


def test_searcher_refuses_few_vectors_and_bad_queries(gallery, cells, queries, tmp_path):
    np.save(tmp_path / "few.npy", np.ones((255, 4), np.float32))
    with pytest.raises(InputError, match=r"256 vectors or more; .* has 255: search it exactly"):
        train_index(VectorFile(tmp_path / "few.npy"))
    index = IvfSearcher(cells, gallery)
    for asked in ({"k": 0}, {"k": 5, "probes": 0}, {"k": 5, "candidates": 4}):
        with pytest.raises(InputError, match="candidates at least k"):
            index.nearest(queries, **asked)
    with pytest.raises(InputError, match="one width; received 3 and 8"):
        index.nearest(queries[:, :3], 5)


def test_index_and_search_commands(gallery, queries, tmp_path, capsys):
    path, index, asked = str(gallery.path), str(tmp_path / "index.npz"), tmp_path / "asked.npy"
    np.save(asked, queries[:2])
    assert main(["index", path, "--output", index, "--cells", "12", "--queries", "20"]) == 0
    printed = capsys.readouterr().out
    assert "3,000 vectors in 12 cells" in printed and "--probes 16   1.0000" in printed
    exact = nearest(queries[:2], np.load(path), 2)
    first = f"0  {exact.indices[0, 0]} {exact.distances[0, 0]:.3f}   {exact.indices[0, 1]} {exact.distances[0, 1]:.3f}"
    for more in ([], ["--index", index]):
        assert main(["search", path, str(asked), "--top", "2", *more]) == 0
        assert capsys.readouterr().out.splitlines()[0] == first
    (tmp_path / "asked.txt").write_text("an\x1b[2Ja.png\nberta.png\n")
    assert main(["search", path, str(asked), "--top", "1", "--json"]) == 0
    assert '{"query": "berta.png", "nearest": [{"name": ' in capsys.readouterr().out
    assert main(["search", path, str(asked), "--top", "1"]) == 0
    assert capsys.readouterr().out.startswith("an\\u001b[2Ja.png  ")
    (tmp_path / "asked.txt").write_text("only one\n")
    with pytest.raises(DataError, match=r"one line for each of the 2 vectors .*; it has 1"):
        main(["search", path, str(asked)])
    (tmp_path / "asked.txt").unlink()
    for budget in ("0", "-3"):
        with pytest.raises(InputError, match="memory budget must be 1,048,576 bytes or more"):
            main(["search", path, str(asked), "--budget", budget])
    with pytest.raises(InputError, match="uses euclidean distance; received --distance cosine"):
        main(["search", path, path, "--index", index, "--distance", "cosine"])
