"""Color palettes and the assignment of pixels to their nearest color.

A palette is a uint8 array (colors, 3) of red, green, blue. Integers make the assignment exact: NumPy here and TensorFlow in the
pipeline choose the same color for every pixel, ties included.
"""

from __future__ import annotations

import re
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

#: Random pixels used by k-means; with more, its centers no longer move by a full level.
KMEANS_PIXELS = 100_000

#: Classes of a uint8 class map.
MAX_COLORS = 256

#: Pixels assigned at once: 24 colors take 100 MB of float32.
CHUNK = 1 << 20

RULE = "a palette must have 2 to 256 rows of red, green and blue, each 0 to 255"


def kmeans_palette(images: np.ndarray, colors: int, seed: int) -> np.ndarray:
    """Cluster pixels in RGB by k-means (Lloyd's algorithm, k-means++ initialization, best of three).

    Args:
        images: uint8 (N, height, width, 3); up to `KMEANS_PIXELS` of their pixels are sampled.
        colors: number of clusters, the colors of the palette.
        seed: of sampling and initialization.

    Returns:
        uint8 (colors, 3): rounded cluster centers, darkest first.

    Raises:
        DataError: fewer distinct colors than `colors`, or centers that coincide after rounding.
    """
    from sklearn.cluster import KMeans

    pixels = images.reshape(-1, 3)
    rng = np.random.default_rng(seed)
    if len(pixels) > KMEANS_PIXELS:
        pixels = pixels[rng.choice(len(pixels), KMEANS_PIXELS, replace=False)]
    different = len(np.unique(pixels, axis=0))
    if different < colors:
        raise DataError(
            f"k-means needs at least as many distinct colors as clusters; the training images have {different}, requested were "
            f"{colors}: use other images or --colorization.colors {max(different, 2)}"
        )
    centers = KMeans(colors, n_init=3, random_state=seed).fit(pixels.astype(np.float64)).cluster_centers_
    palette = np.clip(np.rint(centers), 0, 255).astype(np.uint8)
    palette = palette[np.lexsort((*palette.T[::-1], palette.astype(int).sum(1)))]
    return check_palette(palette, "the k-means palette (use fewer --colorization.colors)")


def load_palette(path: str | Path) -> np.ndarray:
    """Read a palette from a ``.npy`` file or a CSV file of rows red, green, blue (a header row is skipped).

    Returns:
        uint8 (colors, 3); fractional values are rounded.

    Raises:
        DataError: missing or damaged, Python objects (pickles are never opened), wrong shape, values outside 0–255 or all within
            0–1, or duplicate colors.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"no such palette: {path}")
    try:
        if path.suffix.lower() == ".npy":
            values = np.load(path, allow_pickle=False)
        else:
            lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
            rows = lines if lines and re.match(r"\s*[-+.\d]", lines[0]) else lines[1:]
            values = np.loadtxt(rows, delimiter=",", ndmin=2) if rows else np.empty((0, 3))
    except (ValueError, EOFError, OSError, tokenize.TokenError) as error:
        raise DataError(
            f"the palette {path} cannot be read: {error}. It must be a CSV file or an array saved by numpy.save; Python objects are "
            f"not opened, since they can run code: {RULE}"
        ) from None
    return check_palette(values, str(path))


def check_palette(values: np.ndarray, what: str) -> np.ndarray:
    """Convert an array to a palette.

    Args:
        values: numbers (colors, 3), 0–255.
        what: its name in error messages.

    Returns:
        uint8 (colors, 3).

    Raises:
        DataError: wrong shape, values out of range, or duplicate colors.
    """
    if values.ndim != 2 or values.shape[1] != 3 or not 2 <= len(values) <= MAX_COLORS:
        raise DataError(f"{RULE}; {what} has the shape {values.shape}")
    if values.dtype.kind not in "uif" or not np.isfinite(values).all() or values.min() < 0 or values.max() > 255:
        worst = values.max() if values.dtype.kind in "uif" else values.dtype
        raise DataError(f"{RULE}; {what} has a largest value of {worst}, or values below 0: scale it")
    if values.dtype.kind == "f" and values.max() <= 1:
        raise DataError(f"{RULE}; {what} has no value above 1: multiply it by 255")
    palette: np.ndarray = np.rint(values).astype(np.uint8)
    _, first = np.unique(palette, axis=0, return_index=True)
    if len(first) < len(palette):
        duplicate = min(set(range(len(palette))) - set(first.tolist()))
        raise DataError(f"the colors of a palette must be distinct; row {duplicate + 1} of {what} is a duplicate: remove it")
    return palette


def format_palette(palette: np.ndarray) -> str:
    """Format a palette as the CSV text that `load_palette` reads."""
    return "\n".join(["red,green,blue", *(",".join(map(str, color)) for color in palette.tolist())]) + "\n"


def color_names(palette: np.ndarray) -> tuple[str, ...]:
    """Colors as ``#rrggbb``, in palette order: the class names of a pixel."""
    return tuple(f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in palette.tolist())


def palette_of(names: Sequence[str]) -> np.ndarray:
    """Inverse of `color_names`: uint8 (colors, 3).

    Raises:
        DataError: a name is not a color.
    """
    try:
        return np.array([[int(name[i : i + 2], 16) for i in (1, 3, 5)] for name in names], np.uint8)
    except (ValueError, IndexError):
        raise DataError(f"colors must be written #rrggbb; received {', '.join(map(repr, list(names)[:3]))} …") from None


def nearest_colors(images: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Index of the nearest palette color of every pixel: Euclidean distance in RGB, ties to the first.

    Args:
        images: uint8 (…, 3), pixels in RGB.
        palette: uint8 (colors, 3), at most 256 colors in RGB.

    Returns:
        uint8 (…).
    """
    pixels = images.reshape(-1, 3)
    # |x − c|² without |x|²; at most 3·3·255², so exact in float32
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
