"""Image features as Keras layers: tiny images and dense SIFT; `by_image` runs a model image by image.

Dense SIFT is Lowe's descriptor (2004, section 6: 4×4 spatial bins of 8 orientations, normalized, clipped at 0.2, normalized again) on a
regular grid, in the formulation of VLFeat's ``dsift`` (Vedaldi and Fulkerson 2010): gradients are split between the two nearest
orientations, and the spatial bins of all descriptors are convolutions of the eight orientation maps with a window.

Arctangents and the order of summation differ in the last bit between engines, which would flip nearest words and neighbors. Therefore
gradients of uint8 pixels, which are integers, look up their orientation weights in an integer table; convolutions add integers below
2²⁴, exact in float32 in any order; the norm is computed in float64; and descriptors are rounded to integers of norm 512, as VLFeat and
OpenCV store them. On a GPU, TF32 must be off.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from kerascv_course.core.errors import InputError

__all__ = ["DIMENSIONS", "NORM", "DenseSIFT", "FixedLayer", "Grid", "TinyImage", "by_image", "orientation_table", "to_float32"]

#: Images processed in parallel by `by_image`.
PARALLEL = 2

#: Length of a descriptor: 4×4 spatial bins of 8 orientations.
DIMENSIONS = 128
BINS, ORIENTATIONS = 4, 8

#: Euclidean norm of a descriptor, before rounding to integers.
NORM = 512

#: Largest bin size, pixels; sums of larger bins would exceed 2²⁴, the limit of exact integers in float32.
MAX_BIN = 14

#: The clipped descriptor is rounded to integers at this norm, so that the sum of 128 squares is exact.
_FINE = 2048

_EXACT = 2**24
_LARGEST_GRADIENT = 255 * 2**0.5


class FixedLayer(keras.layers.Layer):
    """Layer without trainable weights that keeps float64 inputs (Keras would cast them to float32)."""

    #: Constructor arguments, which are attributes as well.
    arguments: ClassVar[tuple[str, ...]] = ()

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(autocast=False, **{**kwargs, "trainable": False})

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {**super().get_config(), **{name: getattr(self, name) for name in self.arguments}}


def to_float32(values: Any, largest: int) -> Any:
    """Round float64 to multiples of ``largest`` · 2⁻²⁴ and cast to float32, which is then exact.

    Before a layer that continues in float64, a plain cast does not suffice: the ONNX converter removes a cast and its inverse although
    the former rounds, so the file would compute with other numbers.

    Args:
        values: float64, absolute values of at most `largest`.
        largest: a power of two.
    """
    grid = 2.0**24 / largest
    return ops.cast(ops.round(values * grid) / grid, "float32")


@keras.saving.register_keras_serializable(package="kerascv_course")
class ByImage(keras.layers.Wrapper):
    """Apply a model with one input and one output to each image of a batch separately; a Loop node in ONNX."""

    def compute_output_spec(self, images: Any) -> keras.KerasTensor:
        """Shape and type of the result."""
        one = self.layer.output
        return keras.KerasTensor((images.shape[0], *one.shape[1:]), dtype=one.dtype)

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        """Shape of the result."""
        return input_shape[0], *self.layer.output.shape[1:]

    def call(self, images: Any) -> Any:
        """(batch, …) to (batch, …)."""
        one = self.layer.output
        spec = tf.TensorSpec(one.shape[1:], one.dtype)
        return tf.map_fn(
            lambda image: self.layer(image[None])[0], images, parallel_iterations=PARALLEL, fn_output_signature=spec
        )


def by_image(model: keras.Model) -> keras.Model:
    """Wrap a model of uint8 images so that batches need the memory of a few images only; weights are shared."""
    image = keras.Input(model.inputs[0].shape[1:], dtype=model.inputs[0].dtype, name="image")
    return keras.Model(image, ByImage(model, name="by_image")(image), name=model.name)


@keras.saving.register_keras_serializable(package="kerascv_course")
class TinyImage(FixedLayer):
    """Pixels as a vector (Torralba et al. 2008): (batch, height, width, channels), 0–255, to float32 (batch, values).

    Images are downscaled when they are read (`kerascv_course.core.images.read_image`), in training and prediction alike.

    Args:
        center: subtract the mean of the image.
        norm: ``"l1"``: absolute values sum to 1; ``"l2"``: Euclidean norm 1; ``"none"``: keep 0–255. A centered uniform image is
            zero.
    """

    arguments = ("center", "norm")

    def __init__(self, center: bool = True, norm: Literal["none", "l1", "l2"] = "l1", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.center, self.norm = center, norm

    def compute_output_spec(self, images: Any) -> keras.KerasTensor:
        """Shape and type of the result."""
        return keras.KerasTensor((images.shape[0], images.shape[1] * images.shape[2] * images.shape[3]), dtype="float32")

    def call(self, images: Any) -> Any:
        """(batch, height, width, channels) to (batch, values), computed in float64."""
        x = ops.cast(ops.reshape(images, (-1, images.shape[1] * images.shape[2] * images.shape[3])), "float64")
        if self.center:
            x = x - ops.mean(x, axis=1, keepdims=True)
        if self.norm != "none":
            size = ops.sum(ops.abs(x), axis=1, keepdims=True)
            if self.norm == "l2":
                size = ops.sqrt(ops.sum(x * x, axis=1, keepdims=True))
            x = x / ops.maximum(size, 1e-9)
        return to_float32(x, 1 if self.norm != "none" else 256)


class Grid:
    """Positions of the descriptors of one scale, a centered regular grid.

    Args:
        height: of the image, pixels.
        width: of the image, pixels.
        step: distance between descriptors, pixels.
        bin_size: side of a spatial bin, pixels; the centers of the 4×4 bins span 3 bins.

    Raises:
        InputError: the image is smaller than a descriptor.

    Attributes:
        rows: y of the first bin center of each row of descriptors, pixels.
        columns: x of the first bin center of each column of descriptors, pixels.
        centers: float64 (rows · columns, 2), y and x of each descriptor's center relative to height and width, 0–1.
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
    """Contributions of integer gradients to the orientations 0°, 45° and 90°.

    Args:
        scale: contributions are multiplied by it and rounded.

    Returns:
        float32 (3, 256 · 256) of integers, indexed by 256 · |horizontal| + |vertical|. A gradient between two orientations is split
        linearly by its angle (Lowe 2004, section 6.1: trilinear interpolation).
    """
    vertical, horizontal = np.meshgrid(np.arange(256.0), np.arange(256.0))
    magnitude = np.hypot(horizontal, vertical) * scale
    position = np.arctan2(vertical, horizontal) / (np.pi / 4)
    parts = [magnitude * np.clip(1 - np.abs(position - bin), 0, 1) for bin in range(3)]
    table: np.ndarray = np.rint(np.stack(parts).reshape(3, -1)).astype(np.float32)
    return table


def _window(kind: str, bin_size: int) -> np.ndarray:
    """Integer weights of the ``2 · bin_size − 1`` pixels around a bin center; their sum is at most bin_size²."""
    distance = np.abs(np.arange(1 - bin_size, bin_size))
    if kind == "triangular":
        return bin_size - distance
    return np.floor(bin_size * np.exp(-0.5 * (distance / (bin_size / 2)) ** 2) * 0.79 + 0.5)


@keras.saving.register_keras_serializable(package="kerascv_course")
class DenseSIFT(FixedLayer):
    """SIFT descriptors on a grid: (batch, height, width, channels), integers 0–255, to (batch, descriptors, 128 · channels).

    Descriptors are float32 integers of norm about 512 (values 0 to about 180), zero without contrast. Their axes are bins from top to
    bottom, bins from left to right, then orientations in steps of 45° from 0° (brighter to the right) towards brighter below.
    Scales are concatenated; within a scale descriptors go row by row.

    Args:
        step: distance between descriptors, pixels.
        bin_sizes: side of a spatial bin, pixels, for each scale; 1 to 14.
        window: weights of the pixels around a bin center: ``"triangular"`` is bilinear interpolation, reaching one bin size (VLFeat's
            flat window); ``"gaussian"`` has a standard deviation of half a bin.
        weighting: weight the bins by a Gaussian with a standard deviation of two bins (Lowe 2004, section 6.1).
        smooth: number of passes of a rounded (1, 2, 1)/4 filter in both directions, each of variance ½ pixel².
        contrast: descriptors are zero if the norm of their bins, in gray levels per pixel averaged over the window, is below it.
        color: for three channels: ``"gray"``: luma; ``"rgb"``: concatenate the descriptors of the channels; ``"opponent"``: of
            red − green, yellow − blue and intensity (van de Sande et al. 2010), rounded to 8 bits.

    Raises:
        InputError: a value out of range, or at the first call images smaller than a descriptor.
    """

    arguments = ("step", "bin_sizes", "window", "weighting", "smooth", "contrast", "color")

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
                f"dense SIFT needs a step of 1 or more, bin sizes of 1 to {MAX_BIN}, smooth and contrast of 0 or more; received step "
                f"{step}, bin sizes {tuple(bin_sizes)}, smooth {smooth}, contrast {contrast}"
            )
        self.step, self.bin_sizes, self.window = step, tuple(bin_sizes), window
        self.weighting, self.smooth, self.contrast, self.color = weighting, smooth, contrast, color

    def grids(self, height: int, width: int) -> list[Grid]:
        """Grid of each scale for an image size."""
        return [Grid(height, width, self.step, size) for size in self.bin_sizes]

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        """Shape of the descriptors."""
        batch, height, width, channels = input_shape
        count = sum(len(grid.centers) for grid in self.grids(height or 0, width or 0))
        return batch, count, DIMENSIONS * (1 if self.color == "gray" else channels or 1)

    def call(self, images: Any) -> Any:
        """(batch, height, width, channels) to (batch, descriptors, values)."""
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
        """The planes (batch, height, width) to describe, integers 0–255."""
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
        """Twice the central differences, vertical and horizontal, integers −255 to 255; the border is replicated."""
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
        """Convolution with the window at the bin centers, as products with band matrices: columns, then rows."""
        weights = _window(self.window, bin_size)
        height, width = maps.shape[2:]
        binned = ops.matmul(maps, _band(_bin_centers(grid.columns, bin_size)[0], width, weights).T)
        return ops.matmul(_band(_bin_centers(grid.rows, bin_size)[0], height, weights), binned)

    def _collect(self, binned: Any, grid: Grid, bin_size: int) -> Any:
        """Gather the 4×4 bins of each descriptor: (batch, descriptors, 128)."""
        (row_centers, rows), (column_centers, columns) = (_bin_centers(p, bin_size) for p in (grid.rows, grid.columns))
        places = len(row_centers) * len(column_centers)
        binned = ops.transpose(ops.reshape(binned, (-1, ORIENTATIONS, places)), (0, 2, 1))
        index = rows[:, None, :, None] * len(column_centers) + columns[None, :, None, :]
        bins = ops.take(binned, index.reshape(-1).astype(np.int32), axis=1)
        return ops.reshape(bins, (-1, len(grid.centers), DIMENSIONS))

    def _normalize(self, bins: Any, unit: float) -> Any:
        """Weight, normalize, clip at 0.2, normalize to 512, round. `unit`: bin value of one gray level per pixel."""
        if self.weighting:
            place = (np.arange(BINS) - (BINS - 1) / 2) / (BINS / 2)
            along = np.exp(-0.5 * place**2)
            bins = bins * np.repeat(np.outer(along, along).ravel(), ORIENTATIONS).astype(np.float32)
        norm = ops.sqrt(_squares(ops.cast(bins, "float64")))
        lowest = max(self.contrast * unit, 1.0)
        factor = ops.where(norm >= lowest, _FINE / ops.maximum(norm, 1.0), 0.0)
        clipped = ops.round(ops.minimum(bins * ops.cast(factor, "float32"), 0.2 * _FINE))
        # integers whose squares sum to less than 2²⁴: exact in float32, at half the memory
        again = NORM / ops.maximum(ops.sqrt(ops.cast(_squares(clipped), "float64")), 1.0)
        return ops.round(clipped * ops.cast(again, "float32"))


def _squares(values: Any) -> Any:
    return ops.sum(values * values, axis=-1, keepdims=True)


def _pad(plane: Any) -> Any:
    """Replicate the border by one pixel on each side."""
    plane = ops.concatenate([plane[:, :1], plane, plane[:, -1:]], axis=1)
    return ops.concatenate([plane[:, :, :1], plane, plane[:, :, -1:]], axis=2)


def _orientation_maps(vertical: Any, horizontal: Any, scale: int) -> Any:
    """Contribution of each gradient to each orientation, (batch, 8, height, width), integers."""
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
    """Distinct bin centers, and the indices of each descriptor's: (centers,) and (descriptors, 4)."""
    centers = places[:, None] + np.arange(BINS) * bin_size
    unique, index = np.unique(centers, return_inverse=True)
    return unique, index.reshape(centers.shape)


def _band(centers: np.ndarray, size: int, weights: np.ndarray) -> np.ndarray:
    """float32 (centers, size): the window weights around each center; pixels outside the image are ignored."""
    matrix = np.zeros((len(centers), size + len(weights)), np.float32)
    reach = len(weights) // 2
    for row, center in enumerate(centers):
        matrix[row, center : center + len(weights)] = weights
    return matrix[:, reach : reach + size]
