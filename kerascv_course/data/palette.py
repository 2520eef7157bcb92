"""Palettes: the colours that pixels are sorted into, and the sorting. NumPy; scikit-learn for k-means, TensorFlow for tf.data.

A palette is a uint8 array (colours, 3) of red, green, blue. Whole numbers make the sorting exact: NumPy here and TensorFlow inside
the pipeline find the same colour for every pixel, ties included.
"""

from __future__ import annotations

import csv
import io
import tokenize
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kerascv_course.core.errors import DataError

if TYPE_CHECKING:
    import tensorflow as tf

__all__ = [
    "color_names",
    "format_palette",
    "kmeans_palette",
    "load_palette",
    "nearest_colors",
    "nearest_colors_tf",
    "palette_of",
]

#: Pixels that k-means sees, drawn at random: its centres no longer move by a whole level with more.
KMEANS_PIXELS = 100_000

#: Colours a class map of uint8 can number.
MAX_COLORS = 256

#: Pixels sorted at once: 24 colours take 100 MB of float32.
CHUNK = 1 << 20

REMEDY = "a palette has 2 to 256 rows of red, green and blue, each 0 to 255"


def kmeans_palette(images: np.ndarray, colors: int, seed: int) -> np.ndarray:
    """The centres of k-means (Lloyd's algorithm, k-means++ starts, the best of three) on pixels, in RGB, darkest first.

    Args:
        images: uint8 (N, height, width, 3); up to `KMEANS_PIXELS` of their pixels are drawn.
        colors: how many.
        seed: of the draw and of the starts.

    Returns:
        uint8 (colors, 3): the centres rounded to whole levels, by rising mean of the channels.

    Raises:
        DataError: the images have fewer different colours than asked for, or centres that are equal once rounded.
    """
    from sklearn.cluster import KMeans

    pixels = images.reshape(-1, 3)
    rng = np.random.default_rng(seed)
    if len(pixels) > KMEANS_PIXELS:
        pixels = pixels[rng.choice(len(pixels), KMEANS_PIXELS, replace=False)]
    different = len(np.unique(pixels, axis=0))
    if different < colors:
        raise DataError(
            f"k-means finds as many colours as there are different ones, or fewer; the training pictures have {different}, "
            f"{colors} were asked for: use more colourful pictures or --colorize.colors {max(different, 2)}"
        )
    centres = KMeans(colors, n_init=3, random_state=seed).fit(pixels.astype(np.float64)).cluster_centers_
    palette = np.clip(np.rint(centres), 0, 255).astype(np.uint8)
    palette = palette[np.lexsort((*palette.T[::-1], palette.astype(int).sum(1)))]
    return check_palette(palette, "the palette of k-means (use fewer --colorize.colors)")


def load_palette(path: str | Path) -> np.ndarray:
    """Read a palette from a ``.npy`` file or a CSV of rows red, green, blue (a first line of names is passed over).

    Returns:
        uint8 (colours, 3); values that are not whole are rounded.

    Raises:
        DataError: missing or damaged, Python objects inside (a pickle, which is never opened), another shape, values outside
            0–255 or all within 0–1, or a colour that is there twice.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"no such palette: {path}")
    if path.suffix.lower() == ".npy":
        try:
            return check_palette(np.load(path, allow_pickle=False), str(path))
        except (ValueError, EOFError, OSError, tokenize.TokenError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(
                f"the palette {path} cannot be read: {error}. It must be a plain array; Python objects are not opened, since they "
                "can run code: save the (colours, 3) array alone by numpy.save, or as CSV"
            ) from None
    try:
        rows = [row for row in csv.reader(io.StringIO(path.read_text(encoding="utf-8"))) if row]
        if rows and not _is_number(rows[0][0]):
            rows = rows[1:]
        values = [[float(value) for value in row] for row in rows]
    except (ValueError, OSError, csv.Error) as error:
        raise DataError(f"the palette {path} is no CSV of numbers ({error}): {REMEDY}") from None
    if len({len(row) for row in values}) > 1:
        raise DataError(f"the rows of the palette {path} differ in length: {REMEDY}")
    return check_palette(np.array(values), str(path))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def check_palette(values: np.ndarray, what: str) -> np.ndarray:
    """Make a palette of an array.

    Args:
        values: numbers (colours, 3), 0–255.
        what: how an error calls it.

    Returns:
        uint8 (colours, 3).

    Raises:
        DataError: another shape, values out of range, or a colour that is there twice.
    """
    if values.ndim != 2 or values.shape[1] != 3 or not 2 <= len(values) <= MAX_COLORS:
        raise DataError(f"{REMEDY}; {what} has the shape {values.shape}")
    if values.dtype.kind not in "uif" or not np.isfinite(values).all() or values.min() < 0 or values.max() > 255:
        worst = values.max() if values.dtype.kind in "uif" else values.dtype
        raise DataError(f"{REMEDY}; {what} has values up to {worst}, or below 0, or none: scale it")
    if values.dtype.kind == "f" and values.max() <= 1:
        raise DataError(f"{REMEDY}; {what} has none above 1: multiply it by 255")
    palette = np.rint(values).astype(np.uint8)
    _, first = np.unique(palette, axis=0, return_index=True)
    if len(first) < len(palette):
        twice = sorted(set(range(len(palette))) - set(first.tolist()))[0]
        raise DataError(f"the colours of a palette differ; row {twice + 1} of {what} is there already: remove it")
    return palette


def format_palette(palette: np.ndarray) -> str:
    """A palette as the CSV text that `load_palette` reads."""
    return "\n".join(["red,green,blue", *(",".join(map(str, color)) for color in palette.tolist())]) + "\n"


def color_names(palette: np.ndarray) -> tuple[str, ...]:
    """Colours as ``#rrggbb``, in the order of the palette: the class names of a pixel."""
    return tuple(f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in palette.tolist())


def palette_of(names: Sequence[str]) -> np.ndarray:
    """The palette of `color_names`: uint8 (colours, 3).

    Raises:
        DataError: a name that is no colour.
    """
    try:
        return np.array([[int(name[i : i + 2], 16) for i in (1, 3, 5)] for name in names], np.uint8)
    except (ValueError, IndexError):
        raise DataError(f"colours are written #rrggbb; received {', '.join(map(repr, list(names)[:3]))} …") from None


def nearest_colors(images: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Number of the nearest colour of every pixel: Euclidean distance in RGB, of equal ones the first.

    Args:
        images: uint8 (…, 3).
        palette: uint8 (colours, 3).

    Returns:
        uint8 (…).
    """
    pixels = images.reshape(-1, 3)
    # |x − c|² without |x|²; at most 3·3·255², so float32 holds every value exactly
    colors = palette.astype(np.float32)
    lengths = (colors**2).sum(1)
    result = np.empty(len(pixels), np.uint8)
    for start in range(0, len(pixels), CHUNK):
        part = pixels[start : start + CHUNK].astype(np.float32)
        result[start : start + CHUNK] = (lengths - 2 * part @ colors.T).argmin(1)
    return result.reshape(images.shape[:-1])


def nearest_colors_tf(images: tf.Tensor, palette: np.ndarray) -> tf.Tensor:
    """`nearest_colors` for tf.data: uint8 (…, 3) to uint8 (…)."""
    import tensorflow as tf

    colors = tf.constant(palette, tf.float32)
    pixels = tf.cast(images, tf.float32)
    distances = tf.reduce_sum(colors**2, 1) - 2 * tf.tensordot(pixels, colors, [[-1], [1]])
    return tf.cast(tf.argmin(distances, -1), tf.uint8)
