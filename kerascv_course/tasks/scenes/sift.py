"""Dense SIFT as a Keras layer: whole numbers in float32, so that every engine gives the same bits.

The descriptor is Lowe's (2004, section 6: 4×4 spatial bins of 8 orientations, normalised, clipped at 0.2, normalised again) on a
regular grid, in the formulation of VLFeat's ``dsift`` (Vedaldi and Fulkerson 2010): gradients are split between the two nearest
orientations, and the spatial bins of all descriptors at once are convolutions of the eight orientation maps with a window.

Two steps would differ in the last bit from engine to engine and make nearest words and neighbours flip: arctangents, and sums in
another order. So gradients of uint8 pixels, which are whole numbers, look up their orientation shares in a table of whole numbers;
convolutions add whole numbers below 2²⁴, which float32 does exactly in any order; the norm is taken in float64; and the descriptor
is rounded to whole numbers of norm 512, as VLFeat and OpenCV store it. On a GPU the TF32 mode has to be off for this.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import keras
import numpy as np
from keras import ops

from kerascv_course.core.errors import InputError
from kerascv_course.tasks.scenes.fixed import FixedLayer

__all__ = ["DIMENSIONS", "MAX_BIN", "NORM", "DenseSIFT", "Grid", "orientation_table"]

#: Numbers of a descriptor: 4×4 spatial bins of 8 orientations.
DIMENSIONS = 128
BINS, ORIENTATIONS = 4, 8

#: Euclidean norm of a descriptor, before rounding to whole numbers.
NORM = 512

#: Largest bin size, pixels: from there on sums would pass 2²⁴, up to which float32 holds every whole number.
MAX_BIN = 14

#: The clipped descriptor is rounded to whole numbers at this norm: 128 squares of it still add up exactly.
_FINE = 2048

_EXACT = 2**24
_LARGEST_GRADIENT = 255 * 2**0.5


class Grid:
    """Where the descriptors of one scale lie on an image; the grid is centred.

    Args:
        height: of the image, pixels.
        width: likewise.
        step: from one descriptor to the next, pixels.
        bin_size: side of a spatial bin, pixels; a descriptor's 4×4 bin centres span 3 of them.

    Raises:
        InputError: the image is smaller than a descriptor.

    Attributes:
        rows: y of the first bin centre of each row of descriptors, pixels.
        columns: likewise x.
        centers: float64 (rows · columns, 2), y and x of each descriptor's middle as shares of height and width, 0–1.
    """

    def __init__(self, height: int, width: int, step: int, bin_size: int) -> None:
        span = (BINS - 1) * bin_size
        if min(height, width) < span + 1:
            raise InputError(
                f"a descriptor of bin size {bin_size} spans {span + 1} pixels; received images of {height}×{width}: use larger images "
                "or a smaller bin size"
            )
        self.rows, self.columns = (self._places(size, step, span) for size in (height, width))
        middle = np.meshgrid(self.rows + span / 2 + 0.5, self.columns + span / 2 + 0.5, indexing="ij")
        self.centers = np.stack([middle[0].ravel() / height, middle[1].ravel() / width], axis=1)

    @staticmethod
    def _places(size: int, step: int, span: int) -> np.ndarray:
        free = size - 1 - span
        return free % step // 2 + np.arange(free // step + 1) * step


def orientation_table(scale: int) -> np.ndarray:
    """Shares of a gradient of whole numbers in the orientations 0°, 45° and 90°.

    Args:
        scale: shares are multiplied by it and rounded.

    Returns:
        float32 (3, 256 · 256) of whole numbers, the second axis running over 256 · |horizontal| + |vertical|. A gradient between two
        orientations is split linearly by its angle (Lowe 2004, section 6.1: trilinear interpolation).
    """
    vertical, horizontal = np.meshgrid(np.arange(256.0), np.arange(256.0))
    magnitude = np.hypot(horizontal, vertical) * scale
    position = np.arctan2(vertical, horizontal) / (np.pi / 4)
    shares = [magnitude * np.clip(1 - np.abs(position - bin), 0, 1) for bin in range(3)]
    return np.rint(np.stack(shares).reshape(3, -1)).astype(np.float32)


def _window(kind: str, bin_size: int) -> np.ndarray:
    """Whole weights by distance from the bin centre, of ``2 · bin_size − 1`` pixels, which add up to at most bin_size²."""
    distance = np.abs(np.arange(1 - bin_size, bin_size))
    if kind == "triangular":
        return bin_size - distance
    return np.floor(bin_size * np.exp(-0.5 * (distance / (bin_size / 2)) ** 2) * 0.79 + 0.5)


@keras.saving.register_keras_serializable(package="kerascv_course")
class DenseSIFT(FixedLayer):
    """SIFT descriptors on a grid: (batch, height, width, channels) of whole numbers 0–255 to (batch, descriptors, 128 · channels).

    The result is float32 of whole numbers, norm about 512 (each value 0 to some 180), zero where there is no contrast. A descriptor
    runs over rows of bins from the top, bins from the left, then orientations from 0° (brighter to the right) towards brighter
    below in steps of 45°. Scales follow one another; within a scale descriptors go row by row.

    Args:
        step: from one descriptor to the next, pixels.
        bin_sizes: side of a spatial bin, pixels, for each scale; 1 to 14.
        window: how a bin counts pixels around its centre: ``"triangular"`` is bilinear interpolation, reaching one bin size
            (VLFeat's flat window); ``"gaussian"`` has a standard deviation of half a bin.
        weighting: weigh the bins by a Gaussian of a standard deviation of two bins over the descriptor (Lowe 2004, section 6.1).
        smooth: times that the image is smoothed by (1, 2, 1)/4 both ways, each a variance of ½ pixel², and rounded.
        contrast: descriptors are zero where the norm of the bins, in grey levels a pixel averaged over the window, is below it.
        color: of three channels: ``"gray"``: their luma; ``"rgb"``: a descriptor for each channel, one after the other;
            ``"opponent"``: likewise for red − green, yellow − blue and intensity (van de Sande et al. 2010), rounded to 8 bits.

    Raises:
        InputError: a value out of range, or at the first call images smaller than a descriptor.
    """

    def __init__(
        self,
        step: int = 4,
        bin_sizes: Sequence[int] = (4,),
        *,
        window: Literal["triangular", "gaussian"] = "triangular",
        weighting: bool = True,
        smooth: int = 0,
        contrast: float = 0.0,
        color: Literal["gray", "rgb", "opponent"] = "gray",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if step < 1 or not bin_sizes or not all(1 <= size <= MAX_BIN for size in bin_sizes) or smooth < 0 or contrast < 0:
            raise InputError(
                f"dense SIFT has a step of 1 or more, bin sizes of 1 to {MAX_BIN}, smooth and contrast of 0 or more; received step "
                f"{step}, bin sizes {tuple(bin_sizes)}, smooth {smooth}, contrast {contrast}"
            )
        self.step, self.bin_sizes, self.window = step, tuple(bin_sizes), window
        self.weighting, self.smooth, self.contrast, self.color = weighting, smooth, contrast, color

    def get_config(self) -> dict[str, Any]:
        """The arguments."""
        names = ("step", "bin_sizes", "window", "weighting", "smooth", "contrast", "color")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}

    def grids(self, height: int, width: int) -> list[Grid]:
        """The grid of each scale on images of a size."""
        return [Grid(height, width, self.step, size) for size in self.bin_sizes]

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        """Shape of the descriptors."""
        batch, height, width, channels = input_shape
        count = sum(len(grid.centers) for grid in self.grids(height or 0, width or 0))
        return batch, count, DIMENSIONS * (1 if self.color == "gray" else channels or 1)

    def call(self, images: Any) -> Any:
        """Descriptors of images (see the class)."""
        height, width = images.shape[1:3]
        grids = self.grids(height, width)
        parts = []
        for plane in self._planes(ops.cast(images, "float32")):
            vertical, horizontal = self._gradients(plane)
            scales = [
                self._describe(vertical, horizontal, grid, size) for grid, size in zip(grids, self.bin_sizes, strict=True)
            ]
            parts.append(scales[0] if len(scales) == 1 else ops.concatenate(scales, axis=1))
        return parts[0] if len(parts) == 1 else ops.concatenate(parts, axis=2)

    def _planes(self, images: Any) -> list[Any]:
        """The images (batch, height, width) that are described, of whole numbers 0–255."""
        planes = [images[..., channel] for channel in range(images.shape[-1])]
        if len(planes) == 1 or self.color == "rgb":
            return planes
        red, green, blue = planes
        if self.color == "gray":
            return [ops.round((299.0 * red + 587.0 * green + 114.0 * blue) / 1000.0)]
        return [
            ops.round((red - green + 255.0) / 2.0),
            ops.round((red + green - 2.0 * blue + 510.0) / 4.0),
            ops.round((red + green + blue) / 3.0),
        ]

    def _gradients(self, plane: Any) -> tuple[Any, Any]:
        """Twice the central differences, vertical and horizontal, of whole numbers −255 to 255; the border is repeated."""
        for _ in range(self.smooth):
            padded = _pad(plane)
            rows = padded[:, :-2] + 2.0 * padded[:, 1:-1] + padded[:, 2:]
            plane = ops.round((rows[:, :, :-2] + 2.0 * rows[:, :, 1:-1] + rows[:, :, 2:]) / 16.0)
        padded = _pad(plane)
        return padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1], padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]

    def _describe(self, vertical: Any, horizontal: Any, grid: Grid, bin_size: int) -> Any:
        """Descriptors (batch, descriptors, 128) of one scale."""
        total = float(_window(self.window, bin_size).sum())
        scale = 2 ** int(np.log2(_EXACT / (_LARGEST_GRADIENT * total**2)))
        maps = _orientation_maps(vertical, horizontal, scale)
        bins = self._collect(self._windows(maps, grid, bin_size), grid, bin_size)
        return self._normalize(bins, 2 * scale * total**2)

    def _windows(self, maps: Any, grid: Grid, bin_size: int) -> Any:
        """Convolution with the window, at the bin centres only, as a product with a band matrix: columns, then rows."""
        weights = _window(self.window, bin_size)
        height, width = maps.shape[2:]
        binned = ops.matmul(maps, _band(_bin_centers(grid.columns, bin_size)[0], width, weights).T)
        return ops.matmul(_band(_bin_centers(grid.rows, bin_size)[0], height, weights), binned)

    def _collect(self, binned: Any, grid: Grid, bin_size: int) -> Any:
        """Each descriptor's 4×4 bins: (batch, descriptors, 128)."""
        (row_centers, rows), (column_centers, columns) = (_bin_centers(p, bin_size) for p in (grid.rows, grid.columns))
        places = len(row_centers) * len(column_centers)
        binned = ops.transpose(ops.reshape(binned, (-1, ORIENTATIONS, places)), (0, 2, 1))
        index = rows[:, None, :, None] * len(column_centers) + columns[None, :, None, :]
        bins = ops.take(binned, index.reshape(-1).astype(np.int32), axis=1)
        return ops.reshape(bins, (-1, len(grid.centers), DIMENSIONS))

    def _normalize(self, bins: Any, unit: float) -> Any:
        """Weigh, bring to norm 1, clip at 0.2, bring to norm 512, round. `unit`: what a grey level a pixel comes to in a bin."""
        if self.weighting:
            place = (np.arange(BINS) - (BINS - 1) / 2) / (BINS / 2)
            along = np.exp(-0.5 * place**2)
            bins = bins * np.repeat(np.outer(along, along).ravel(), ORIENTATIONS).astype(np.float32)
        norm = ops.sqrt(_squares(ops.cast(bins, "float64")))
        lowest = max(self.contrast * unit, 1.0)
        factor = ops.where(norm >= lowest, _FINE / ops.maximum(norm, 1.0), 0.0)
        clipped = ops.round(ops.minimum(bins * ops.cast(factor, "float32"), 0.2 * _FINE))
        # whole numbers, whose squares add up to less than 2²⁴: exact in float32, at half the memory
        again = NORM / ops.maximum(ops.sqrt(ops.cast(_squares(clipped), "float64")), 1.0)
        return ops.round(clipped * ops.cast(again, "float32"))


def _squares(values: Any) -> Any:
    return ops.sum(values * values, axis=-1, keepdims=True)


def _pad(plane: Any) -> Any:
    """Repeat the border, one pixel each way."""
    plane = ops.concatenate([plane[:, :1], plane, plane[:, -1:]], axis=1)
    return ops.concatenate([plane[:, :, :1], plane, plane[:, :, -1:]], axis=2)


def _orientation_maps(vertical: Any, horizontal: Any, scale: int) -> Any:
    """(batch, 8, height, width): how much of each gradient falls to each orientation, whole numbers."""
    index = ops.cast(256.0 * ops.abs(horizontal) + ops.abs(vertical), "int32")
    across, diagonal, along = (ops.take(row, index, axis=0) for row in orientation_table(scale))
    right, left = (ops.cast(mask, "float32") for mask in (horizontal > 0, horizontal < 0))
    below, above = (ops.cast(mask, "float32") for mask in (vertical > 0, vertical < 0))
    lower, upper = diagonal * below, diagonal * above
    return ops.stack(
        [across * right, lower * right, along * below, lower * left, across * left, upper * left, along * above, upper * right],
        axis=1,
    )


def _bin_centers(places: np.ndarray, bin_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Every bin centre once, and which of them each descriptor has: (centres,) and (descriptors, 4)."""
    centers = places[:, None] + np.arange(BINS) * bin_size
    unique, index = np.unique(centers, return_inverse=True)
    return unique, index.reshape(centers.shape)


def _band(centers: np.ndarray, size: int, weights: np.ndarray) -> np.ndarray:
    """float32 (centers, size): the window's weights around each centre; what lies outside the image counts nothing."""
    matrix = np.zeros((len(centers), size + len(weights)), np.float32)
    reach = len(weights) // 2
    for row, center in enumerate(centers):
        matrix[row, center : center + len(weights)] = weights
    return matrix[:, reach : reach + size]
