"""Weights that somebody made to do harm."""

from __future__ import annotations

import io
import random
import zipfile

import numpy as np
import pytest

from kerascv_course.core.errors import InputError
from kerascv_course.data.palette import load_palette
from kerascv_course.models.weight_files import read_source

h5py = pytest.importorskip("h5py")


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "secret.h5"
    with h5py.File(path, "w") as file:
        file["layers/dense/vars/0"] = np.ones(3)
    return path


def write(path, change):
    with h5py.File(path, "w") as file:
        file["layers/dense/vars/0"] = np.zeros(3)
        change(file)
    return path


HOSTILE = {
    "a link to another file": (lambda file: file.__setitem__("more", h5py.ExternalLink("secret.h5", "/layers")), "is a link"),
    "a link within": (lambda file: file.__setitem__("more", h5py.SoftLink("/layers")), "is a link"),
    "values of another file": (
        lambda file: file["layers/dense/vars"].create_dataset("1", (16,), "u1", external=[("secret.h5", 0, 16)]),
        "is stored in another file",
    ),
    "a bomb": (
        lambda file: file["layers/dense/vars"].create_dataset("1", (2**20, 2**20), "f4", chunks=(64, 64), compression="gzip"),
        "unpacks to 4,398,046,511,104 bytes",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.parametrize("suffix", [".weights.h5", ".keras"])
def test_hdf5_links_and_huge_arrays_are_rejected(case, suffix, secret, tmp_path):
    change, message = HOSTILE[case]
    path = write(tmp_path / "x.weights.h5", change)
    if suffix == ".keras":
        with zipfile.ZipFile(tmp_path / "x.keras", "w") as archive:
            archive.write(path, "model.weights.h5")
        path = tmp_path / "x.keras"
    with pytest.raises(InputError, match=message):
        read_source(path)


def test_an_npz_bomb_is_rejected(tmp_path):
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(2**26, np.uint8))
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", buffer.getvalue())
    with pytest.raises(InputError, match=r"is a decompression bomb: 'a\.npy' unpacks from"):
        read_source(tmp_path / "x.npz")


def test_unreadable_npy_headers_are_rejected(tmp_path):
    """NumPy tries them as Python 2's, by tokens, and raises tokenize.TokenError, which is no ValueError."""
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((4, 3), np.float32))
    content = buffer.getvalue().replace(b"False, 'shape'", b"False, ('hape'")
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("a.npy", content)
    with pytest.raises(InputError, match=r"x\.npz is damaged, or no archive of arrays"):
        read_source(tmp_path / "x.npz")
    (tmp_path / "palette.npy").write_bytes(content)
    with pytest.raises(InputError, match=r"the palette .* cannot be read"):
        load_palette(tmp_path / "palette.npy")


@pytest.mark.parametrize("suffix", [".weights.h5", ".keras", ".npz"])
def test_damaged_weights_are_one_of_our_errors_whatever_the_damage(tmp_path, suffix):
    """Bytes are overwritten, cut off, repeated and left out, as scripts/fuzz.py does."""
    keras = pytest.importorskip("keras")
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2), keras.layers.BatchNormalization()])
    whole, path = tmp_path / f"whole{suffix}", tmp_path / f"x{suffix}"
    if suffix == ".keras":
        model.save(whole)
    elif suffix == ".npz":
        np.savez_compressed(whole, **{f"v{i}": value for i, value in enumerate(model.get_weights())})
    else:
        model.save_weights(whole)
    data, read = whole.read_bytes(), 0
    assert read_source(whole)
    for number in range(150):
        rng = random.Random(number)
        damaged = bytearray(data)
        for _ in range(rng.choice((1, 2, 8, 40))):
            at = rng.randrange(len(damaged))
            size = rng.choice((1, 2, 8))
            if number % 5 == 0:
                del damaged[at : at + size]
            else:
                damaged[at : at + size] = rng.randbytes(size)
        path.write_bytes(damaged[: rng.randrange(len(damaged))] if number % 7 == 0 else damaged)
        try:
            read += bool(read_source(path))
        except InputError as error:
            assert "\n" not in str(error) and len(str(error)) < 1000
    assert read < 150


def test_arrays_that_are_allowed_each_are_bounded_together(tmp_path):
    def many(file):
        for number in range(1, 40):
            file["layers/dense/vars"].create_dataset(f"{number}", (2**20,), "f4", chunks=(64,), compression="gzip")

    with pytest.raises(InputError, match=r"its arrays unpack to more than .* bytes"):
        read_source(write(tmp_path / "x.weights.h5", many))
