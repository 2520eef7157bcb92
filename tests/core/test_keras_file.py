"""Opening .keras files that somebody made to do harm."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from kerascv_course.core.errors import InputError
from kerascv_course.core.keras_file import check_archive, load_keras, read_arrays
from kerascv_course.tasks.retrieval.losses import CosineLogits

keras = pytest.importorskip("keras")


@pytest.fixture
def archive(tmp_path):
    """A small .keras file, and a way to write it with another config.json."""
    path = tmp_path / "model.keras"
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).save(path)

    def rewrite(config):
        target = tmp_path / "other.keras"
        with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as copy:
            for name in source.namelist():
                copy.writestr(name, config if name == "config.json" else source.read(name))
        return target

    return path, rewrite


def test_a_whole_file_is_loaded(archive):
    assert load_keras(archive[0]).output_shape == (None, 2)


def test_a_lambda_layer_is_refused(tmp_path):
    path = tmp_path / "lambda.keras"
    keras.Sequential([keras.Input((4,)), keras.layers.Lambda(lambda x: x * 2)]).save(path)
    with pytest.raises(InputError, match=r"cannot be opened as a Keras model: .*Lambda"):
        load_keras(path)


@pytest.mark.parametrize(
    "config",
    [
        {"module": "os", "class_name": "system", "config": {"command": "touch PWNED"}, "registered_name": None},
        {
            "module": "keras.utils",
            "class_name": "get_file",
            "config": {"origin": "file:///etc/passwd"},
            "registered_name": None,
        },
        {"module": "builtins", "class_name": "function", "config": "print", "registered_name": "function"},
        {"module": "keras.layers", "class_name": "Dense", "config": {"units": 3}, "registered_name": None},
        {"module": "keras", "class_name": "Sequential", "config": {"layers": [{"deep": []}]}, "registered_name": None},
        [],
    ],
)
def test_what_is_no_model_of_keras_layers_is_refused(archive, config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"cannot be opened as a Keras model|not a Keras model"):
        load_keras(archive[1](json.dumps(config)))
    assert not (tmp_path / "PWNED").exists()


def test_deep_json_is_refused(archive):
    with pytest.raises(InputError, match="cannot be opened as a Keras model"):
        load_keras(archive[1]("[" * 200_000))


def test_bombs_and_damaged_archives_are_refused_before_they_are_unpacked(archive, tmp_path):
    path, rewrite = archive
    with pytest.raises(InputError, match=r"is a decompression bomb: 'config.json' unpacks from .* to 100,000,000 bytes"):
        check_archive(rewrite(" " * 100_000_000))
    cut = tmp_path / "cut.keras"
    cut.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"not a \.keras archive, or damaged"):
        load_keras(cut)
    with pytest.raises(InputError, match="no such file"):
        load_keras(tmp_path / "none.keras")


def test_this_package_s_own_layers_are_known_in_a_fresh_process(tmp_path):
    """Whoever opens the file need not have imported what made it."""
    image = keras.Input((4,))
    keras.Model(image, CosineLogits(3, name="identity")(image)).save(tmp_path / "own.keras")
    code = "import sys; from kerascv_course.core.keras_file import load_keras; print(load_keras(sys.argv[1]).output_shape)"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "own.keras")], capture_output=True, text=True, timeout=120
    )
    assert done.stdout.splitlines()[-1:] == ["(None, 3)"], done.stderr[-2000:]


def test_members_that_are_allowed_each_are_bounded_together(tmp_path):
    path = tmp_path / "many.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        for number in range(50):
            made.writestr(f"{number}.bin", bytes(2**21))
    with pytest.raises(InputError, match="is a decompression bomb: 50 members unpack to 104,857,600 bytes"):
        check_archive(path)


def npy(header, data=b""):
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }", bytes(8)), "an array of float64"),
        (npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", bytes(8)), "an array of object"),
        (npy("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }", bytes(8)), "an array of float64"),
        (npy("{'descr': '<f8', 'fortran_order'", bytes(8)), "is damaged"),
        (b"", "is damaged"),
        (b"\x93NUMPY\x09\x00" + bytes(200), "is damaged"),
    ],
)
def test_arrays_are_as_large_as_their_headers_state(tmp_path, content, reason):
    path = tmp_path / "a.npz"
    np.savez(path, a=np.arange(3), b=np.array("text"), c=np.empty((0, 4)), d=np.asfortranarray(np.ones((2, 3), np.float32)))
    read = read_arrays(path)
    assert all((read[name] == value).all() for name, value in np.load(path).items()) and str(read["b"]) == "text"
    assert read["d"].shape == (2, 3) and read["d"].flags.writeable and list(read_arrays(path, "a".__eq__)) == ["a"]
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("e.npy", content)
    with pytest.raises(InputError, match=reason):
        read_arrays(path)


def test_a_bomb_of_arrays_is_refused_before_it_is_unpacked(tmp_path):
    np.savez_compressed(tmp_path / "b.npz", a=np.zeros(2**25, np.uint8))
    with pytest.raises(InputError, match="is a decompression bomb"):
        read_arrays(tmp_path / "b.npz")
