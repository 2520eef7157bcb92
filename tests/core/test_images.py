from __future__ import annotations

import os
import typing
from typing import Literal

import numpy as np
import pytest
from PIL import Image

from kerascv_course import config as recipe
from kerascv_course.core import images
from kerascv_course.core.images import ImageError, read_image

RGB = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [40, 40, 40]]], np.uint8)


def save(path, array, mode=None, **options):
    Image.fromarray(array, mode).save(path, **options)
    return path


def test_read_image_keeps_rgb(tmp_path):
    assert (read_image(save(tmp_path / "a.png", RGB), 2, 2, 3) == RGB).all()


def test_read_image_converts_between_gray_and_rgb(tmp_path):
    gray = np.array([[0, 100], [200, 255]], np.uint8)
    assert (read_image(save(tmp_path / "g.png", gray), 2, 2, 3) == gray[:, :, None]).all()
    # ITU-R 601-2: 0.299 R + 0.587 G + 0.114 B
    assert read_image(save(tmp_path / "c.png", RGB), 2, 2, 1)[:, :, 0].tolist() == [[76, 150], [29, 40]]


def test_read_image_scales_16_bits(tmp_path):
    values = np.array([[0, 257], [32768, 65535]], np.uint16)
    assert read_image(save(tmp_path / "g16.png", values), 2, 2, 1)[:, :, 0].tolist() == [[0, 1], [128, 255]]


def test_read_image_composites_alpha_on_white(tmp_path):
    rgba = np.dstack([RGB, np.array([[255, 0], [255, 128]], np.uint8)])
    read = read_image(save(tmp_path / "t.png", rgba), 2, 2, 3)
    assert read[0].tolist() == [[255, 0, 0], [255, 255, 255]]
    assert abs(int(read[1, 1, 0]) - (40 * 128 + 255 * 127) // 255) <= 1


def test_read_image_resolves_palettes(tmp_path):
    Image.fromarray(RGB).convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "p.png")
    assert np.abs(read_image(tmp_path / "p.png", 2, 2, 3).astype(int) - RGB).max() <= 4


def test_read_image_composites_palette_transparency_on_white(tmp_path):
    image = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.save(tmp_path / "p.png", transparency=1)
    assert read_image(tmp_path / "p.png", 1, 2, 3).tolist() == [[[10, 20, 30], [255, 255, 255]]]


def test_read_image_applies_exif_orientation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 270 degrees
    image = Image.fromarray(np.zeros((4, 8), np.uint8))
    image.save(tmp_path / "e.jpg", exif=exif)
    assert read_image(tmp_path / "e.jpg", 8, 4, 1).shape == (8, 4, 1)


def test_read_image_accepts_cmyk_and_1_bit(tmp_path):
    Image.fromarray(RGB).resize((16, 16)).convert("CMYK").save(tmp_path / "c.jpg")
    Image.fromarray(RGB).convert("1").save(tmp_path / "b.png")
    assert read_image(tmp_path / "c.jpg", 16, 16, 3).shape == (16, 16, 3)
    assert set(read_image(tmp_path / "b.png", 2, 2, 1).ravel().tolist()) <= {0, 255}


def test_read_image_resizes_with_antialiasing(tmp_path):
    checkers = np.indices((64, 64)).sum(0) % 2 * 255
    read = read_image(save(tmp_path / "c.png", checkers.astype(np.uint8)), 8, 8, 1)
    assert read.shape == (8, 8, 1) and np.abs(read[2:-2, 2:-2].astype(int) - 127).max() <= 2


@pytest.mark.parametrize("mode", ["I", "F"])
def test_read_image_refuses_pixels_of_unknown_range(tmp_path, mode):
    Image.new(mode, (2, 2)).save(tmp_path / "x.tiff")
    with pytest.raises(ImageError, match="no known range"):
        read_image(tmp_path / "x.tiff", 2, 2, 1)


def test_read_image_refuses_other_files(tmp_path):
    text = tmp_path / "notes.png"
    text.write_text("hello")
    with pytest.raises(ImageError, match=r"notes\.png is not an image that Pillow can read"):
        read_image(text, 2, 2, 1)
    with pytest.raises(ImageError, match="no such image"):
        read_image(tmp_path / "none.png", 2, 2, 1)
    with pytest.raises(ImageError, match="no such image"):
        read_image(tmp_path, 2, 2, 1)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "gif", "tiff", "webp"])
def test_read_image_refuses_truncated_files(tmp_path, suffix):
    path = save(tmp_path / f"whole.{suffix}", np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    cut = tmp_path / f"cut.{suffix}"
    cut.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ImageError, match=r"damaged|not an image"):
        read_image(cut, 8, 8, 3)


def test_read_image_refuses_too_many_pixels(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 3)
    with pytest.raises(ImageError, match="2×2 pixels; the limit is 3"):
        read_image(save(tmp_path / "a.png", RGB), 2, 2, 3)


@pytest.mark.parametrize("error", [RuntimeError("inside"), MemoryError(), ZeroDivisionError("x"), TypeError("y")])
def test_read_image_turns_any_exception_into_image_error(tmp_path, monkeypatch, error):
    path = save(tmp_path / "a.png", RGB)

    def broken(*_):
        raise error

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", broken)
    with pytest.raises(ImageError, match=r"is a damaged image|needs more memory"):
        read_image(path, 2, 2, 3)


def test_read_image_refuses_decompression_bombs(tmp_path):
    path = tmp_path / "bomb.png"
    Image.new("1", (20_000, 20_000)).save(path)
    assert path.stat().st_size < 100_000
    with pytest.raises(
        ImageError, match=r"20000×20000 pixels; the limit is 50,000,000|far more pixels than the limit of 50,000,000"
    ):
        read_image(path, 2, 2, 1)


def test_read_image_opens_no_format_that_runs_programs(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "x.eps")
    Image.fromarray(RGB).save(tmp_path / "y.eps", format="PNG")
    with pytest.raises(ImageError, match="is not an image that Pillow can read"):
        read_image(tmp_path / "x.eps", 2, 2, 3)
    assert read_image(tmp_path / "y.eps", 2, 2, 3).shape == (2, 2, 3)


@pytest.mark.parametrize("suffix", sorted(Image.registered_extensions()))
def test_image_suffixes_are_those_that_read_image_decodes(tmp_path, suffix):
    path, image = tmp_path / f"x{suffix}", Image.fromarray(np.zeros((8, 8, 3), np.uint8))
    try:
        image.save(path, **({"save_all": True, "append_images": [image]} if suffix == ".mpo" else {}))
    except Exception:  # Pillow cannot write it, or not with colors
        assert suffix not in images.image_suffixes()
        return
    if suffix in images.image_suffixes():
        assert read_image(path, 8, 8, 3).shape == (8, 8, 3)
    else:
        with pytest.raises(ImageError):
            read_image(path, 8, 8, 3)


def test_image_files_are_files_of_readable_formats(tmp_path):
    for name in ("b.png", "a.JPG", "c.pdf", "d.h5", "e.mpg", "f.heic", "g.psd", "h.txt", ".i.png"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    assert [path.name for path in images.image_files(tmp_path)] == ["a.JPG", "b.png"]


def test_recipes_and_images_have_the_same_filters():
    hint = typing.get_type_hints(recipe.Data)["resize"]
    assert hint == images.Filter == Literal["nearest", "bilinear", "bicubic", "lanczos"]


def test_an_icon_is_refused_by_the_images_that_it_holds(tmp_path, monkeypatch):
    """Its own header says 16×16; Pillow would decode what lies behind it when it opens the file."""
    Image.fromarray(RGB).resize((48, 48)).save(tmp_path / "x.ico", sizes=[(48, 48)])
    data = bytearray((tmp_path / "x.ico").read_bytes())
    data[6:8] = 16, 16
    (tmp_path / "x.ico").write_bytes(data)
    assert read_image(tmp_path / "x.ico", 2, 2, 3).shape == (2, 2, 3)
    monkeypatch.setattr(images, "MAX_PIXELS", 48 * 48 - 1)
    with pytest.raises(ImageError, match="holds 48×48 pixels"):
        read_image(tmp_path / "x.ico", 2, 2, 3)
    Image.fromarray(RGB).resize((48, 48)).save(tmp_path / "y.ico", sizes=[(48, 48)], bitmap_format="bmp")
    with pytest.raises(ImageError, match="holds 48×96 pixels"):
        read_image(tmp_path / "y.ico", 2, 2, 3)


@pytest.mark.skipif(os.name != "posix", reason="rights as POSIX has them")
def test_an_image_that_may_not_be_read_is_not_called_damaged(tmp_path):
    path = save(tmp_path / "a.png", RGB)
    path.chmod(0)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:  # as a user whom the rights hold back
        message = b""
        try:
            os.seteuid(65534) if os.geteuid() == 0 else None
            tmp_path.parent.chmod(0o755) if os.geteuid() != 65534 else None
            read_image(path, 2, 2, 3)
        except BaseException as error:
            message = str(error).encode()
        os.write(write, message)
        os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    message = os.read(read, 10_000).decode()
    os.close(read)
    assert message.lower().endswith("permission denied")
    assert "damaged" not in message
