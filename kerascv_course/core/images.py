"""Image files to uint8 arrays, the same way for training and for prediction; NumPy and Pillow only."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from kerascv_course.core.errors import DataError

__all__ = [
    "COLORS",
    "MAX_PIXELS",
    "Filter",
    "ImageError",
    "Images",
    "bounded_batch",
    "convert_image",
    "image_files",
    "image_suffixes",
    "read_image",
    "resize_image",
]

#: Images with more pixels are refused before decoding: a small file can unpack to gigabytes. With its copies of 4 bytes per pixel an
#: image of this size stays below 1 GiB.
MAX_PIXELS = 50_000_000

#: Pixels of a batch that is evaluated: 256 images of 128×128. The values within a network take many times the memory of its images.
BATCH_PIXELS = 256 * 128 * 128

#: Formats that are opened. Pillow supports more, some of which run other programs (EPS).
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "AVIF", "JPEG2000", "PPM", "TGA", "ICO", "PCX")

#: Number of channels of each color order.
COLORS = {"gray": 1, "RGB": 3}

Filter = Literal["nearest", "bilinear", "bicubic", "lanczos"]


class ImageError(DataError):
    """A file or an array that is not a usable image."""


class Images(Protocol):
    """Images of one size, uint8 (N, height, width, channels): an array, or what reads them when they are asked for.

    An index gives an array, whatever holds the images; `numpy.asarray` gives one of them all.
    """

    @property
    def shape(self) -> Any:
        """(N, height, width, channels)."""

    @property
    def dtype(self) -> Any:
        """Of the values."""

    @property
    def ndim(self) -> int:
        """4."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Any]: ...

    def __getitem__(self, index: Any) -> Any: ...


def bounded_batch(most: int, shape: tuple[int, ...]) -> int:
    """Images to evaluate at once: `most`, or fewer of large ones, so that memory is bounded.

    Args:
        most: number of small images.
        shape: (N, height, width, channels) of the images.
    """
    return max(1, min(most, BATCH_PIXELS // (shape[1] * shape[2])))


def read_image(
    path: str | Path, height: int | None, width: int | None, channels: int, filter: Filter = "bilinear"
) -> np.ndarray:
    """Read an image file of any common format and resize it.

    EXIF orientation is applied; 16-bit gray levels are scaled to 8 bits (not clipped); palettes are resolved; transparent pixels are
    composited on white; color becomes gray by ITU-R 601-2 luma (Pillow's ``L``) where one channel is requested.

    Args:
        path: the file.
        height: height of the result, pixels; None: keep the file's height and width.
        width: width of the result, pixels.
        channels: 1 (gray) or 3 (RGB).
        filter: resampling filter, used only if the size differs; when shrinking, Pillow's filters are antialiased. The aspect ratio
            is not kept.

    Returns:
        uint8 array (height, width, channels), 0–255.

    Raises:
        ImageError: missing, not an image, damaged, or larger than `MAX_PIXELS`.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise ImageError(f"no such image: {path}")
        Image.init()
        _check_icon(path)
        with Image.open(path, formats=sorted({*FORMATS}.intersection(Image.OPEN))) as image:  # those that Pillow was built with
            if image.width * image.height > MAX_PIXELS:
                raise ImageError(f"{path} has {image.width}×{image.height} pixels; the limit is {MAX_PIXELS:,}: shrink it")
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return resize_image(convert_image(image, channels), height, width, filter)
    except ImageError as error:
        raise ImageError(str(error) if str(path) in str(error) else f"{path}: {error}") from None
    except UnidentifiedImageError:
        raise ImageError(f"{path} is not an image that Pillow can read (PNG, JPEG, BMP, GIF, TIFF, WebP …)") from None
    except Image.DecompressionBombError:
        raise ImageError(f"{path} has far more pixels than the limit of {MAX_PIXELS:,}: shrink it") from None
    except PermissionError:
        raise ImageError(f"{path} may not be read: permission denied") from None
    except MemoryError:
        raise ImageError(f"{path} needs more memory than is available: shrink it") from None
    except Exception as error:  # Pillow's readers raise many types for damaged files
        raise ImageError(f"{path} is a damaged image: {str(error)[:200]}") from None


def _check_icon(path: Path) -> None:
    """Refuse an icon with an image beyond `MAX_PIXELS`: Pillow decodes it when it opens the file, and its own header may lie.

    Raises:
        ImageError: there is one.
    """
    with path.open("rb") as file:
        if file.read(4) != b"\0\0\1\0":
            return
        for entry in range(int.from_bytes(file.read(2), "little")):
            file.seek(6 + 16 * entry + 12)
            file.seek(int.from_bytes(file.read(4), "little"))
            head = file.read(24)
            png = head.startswith(b"\x89PNG")  # else a bitmap, whose height counts its mask
            order: Literal["big", "little"] = "big" if png else "little"
            width, height = (int.from_bytes(head[at : at + 4], order, signed=True) for at in ((16, 20) if png else (4, 8)))
            if abs(width * height) > (MAX_PIXELS if png else 2 * MAX_PIXELS):
                raise ImageError(f"{path} holds {width}×{height} pixels; the limit is {MAX_PIXELS:,}: shrink it")


def convert_image(image: Image.Image, channels: int) -> Image.Image:
    """Bring a Pillow image of any mode to ``L`` (channels 1) or ``RGB`` (channels 3), as `read_image` describes.

    Raises:
        ImageError: floating-point or 32-bit pixels, whose range is unknown, or channels other than 1 and 3.
    """
    if channels not in COLORS.values():
        raise ImageError(f"images have 1 (gray) or 3 (RGB) channels; received {channels}")
    if image.mode.startswith("I;16"):
        values = np.asarray(image)
        scaled = np.empty(values.shape, np.uint8)
        for row, line in enumerate(values):  # row by row: the copies of a whole image would take four times its memory
            scaled[row] = (line.astype(np.uint32) + 128) // 257
        image = Image.fromarray(scaled)
    elif image.mode in ("I", "F"):
        raise ImageError(f"pixels of mode {image.mode!r} have no known range; save the image with 8 or 16 bits per channel")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("L" if channels == 1 else "RGB")


def resize_image(image: Image.Image, height: int | None, width: int | None, filter: Filter) -> np.ndarray:
    """Resize a Pillow image of mode ``L`` or ``RGB`` where its size differs: uint8 (height, width, 1 or 3); None: keep the size."""
    if height is not None and width is not None and image.size != (width, height):
        image = image.resize((width, height), Image.Resampling[filter.upper()])
    array = np.asarray(image, dtype=np.uint8)
    return array[:, :, None] if array.ndim == 2 else array


@functools.cache
def image_suffixes() -> frozenset[str]:
    """File name suffixes of the formats that `read_image` opens, such as ``.png``."""
    known = Image.registered_extensions()  # loads all of Pillow's formats
    readable = {*FORMATS}.intersection(Image.OPEN) | {"MPO"}  # an MPO file is a JPEG with further images inside
    return frozenset(suffix for suffix, name in known.items() if name in readable)


def image_files(folder: Path) -> list[Path]:
    """Files of a folder with an image suffix, sorted, without hidden ones."""
    suffixes = image_suffixes()
    return sorted(
        path
        for path in folder.glob("*")
        if path.suffix.lower() in suffixes and not path.name.startswith(".") and path.is_file()
    )
