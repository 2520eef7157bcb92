"""Pictures in files to uint8 arrays, the same way for training and for prediction; NumPy and Pillow only.

One function serves the data loaders and the ONNX predictor, so that a picture is seen alike by both.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from kerascv_course.core.errors import DataError

__all__ = ["COLORS", "MAX_PIXELS", "Filter", "ImageError", "convert_image", "read_image", "resize_image"]

#: Pictures with more pixels are refused before they are decoded: a small file can unpack to gigabytes. With its copies of 4 bytes a
#: pixel a picture of this size stays under 1 GiB.
MAX_PIXELS = 50_000_000

#: Formats that are opened. Pillow knows more, some of which run other programs (EPS).
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "AVIF", "JPEG2000", "PPM", "TGA", "ICO", "PCX")

#: Number of channels of each colour order.
COLORS = {"gray": 1, "RGB": 3}

Filter = Literal["nearest", "bilinear", "bicubic", "lanczos"]


class ImageError(DataError):
    """A file or an array that is no picture we can use."""


def read_image(
    path: str | Path, height: int | None, width: int | None, channels: int, filter: Filter = "bilinear"
) -> np.ndarray:
    """Read a picture of any usual kind and bring it to a shape.

    EXIF orientation is applied; 16-bit greys are scaled to 8 bits (not clipped); palettes are resolved; transparent pixels are
    laid on white; colour becomes grey by ITU-R 601-2 luma (Pillow's ``L``) where one channel is asked for.

    Args:
        path: the file.
        height: rows of the result, pixels; None: the picture's own, and so the width.
        width: columns of the result, pixels.
        channels: 1 (grey) or 3 (RGB).
        filter: resampling filter, used only if the size differs; when shrinking, Pillow's filters cover the whole source area
            (antialiasing). The aspect ratio is not kept.

    Returns:
        uint8 array (height, width, channels), 0–255.

    Raises:
        ImageError: missing, not a picture, damaged, or larger than `MAX_PIXELS`.
    """
    path = Path(path)
    if not path.is_file():
        raise ImageError(f"no such picture: {path}")
    try:
        with Image.open(path, formats=_formats()) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ImageError(f"{path} has {image.width}×{image.height} pixels; at most {MAX_PIXELS:,} are read: shrink it")
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            picture = convert_image(image, channels)
        return resize_image(picture, height, width, filter)
    except ImageError as error:
        raise ImageError(str(error) if str(path) in str(error) else f"{path}: {error}") from None
    except UnidentifiedImageError:
        raise ImageError(f"{path} is not a picture that Pillow can read (PNG, JPEG, BMP, GIF, TIFF, WebP …)") from None
    except Image.DecompressionBombError:
        raise ImageError(f"{path} has far more than {MAX_PIXELS:,} pixels, which is the most that is read: shrink it") from None
    except MemoryError:
        raise ImageError(f"{path} takes more memory than there is: shrink it") from None
    except Exception as error:  # Pillow's readers raise all sorts for damaged files
        raise ImageError(f"{path} is a damaged picture: {str(error)[:200]}") from None


def _formats() -> list[str]:
    """Those of `FORMATS` that this Pillow was built with."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def convert_image(image: Image.Image, channels: int) -> Image.Image:
    """Bring a Pillow image of any mode to ``L`` (channels 1) or ``RGB`` (channels 3), as `read_image` describes.

    Raises:
        ImageError: floating-point or 32-bit pixels, whose range is unknown, or a number of channels other than 1 and 3.
    """
    if channels not in COLORS.values():
        raise ImageError(f"pictures have 1 (gray) or 3 (RGB) channels; received {channels}")
    if image.mode.startswith("I;16"):
        values = np.asarray(image)
        scaled = np.empty(values.shape, np.uint8)
        for row, line in enumerate(values):  # a line at a time: whole, the copies would be four times the picture
            scaled[row] = (line.astype(np.uint32) + 128) // 257
        image = Image.fromarray(scaled)
    elif image.mode in ("I", "F"):
        raise ImageError(f"pixels of mode {image.mode!r} have no known range; save the picture with 8 or 16 bits a channel")
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
