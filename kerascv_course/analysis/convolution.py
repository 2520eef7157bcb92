"""Convolution of small images, exact in integers; and average pooling as a convolution.

Average pooling averages each channel on its own (report 000, question 3). It equals a *depthwise* convolution with all weights 1/k²
and the same window and stride, or a dense convolution whose cross-channel weights are zero. A dense convolution with *all* weights
1/k², as the report has it, returns the sum of all channels' averages in every channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from kerascv_course.core.errors import InputError
from kerascv_course.core.lazy import keras

__all__ = [
    "SOBEL_X",
    "Border",
    "PoolingCheck",
    "average_pool",
    "average_pooling_layer_as_convolution",
    "check_average_pooling",
    "convolve",
    "correlate",
    "parse_matrix",
    "pooling_kernel",
    "render_matrix",
]

#: Values beyond the border: zero; the image mirrored at its outermost row; its outermost row repeated.
Border = Literal["zero", "reflect", "edge"]
_NUMPY_MODE = {"zero": "constant", "reflect": "reflect", "edge": "edge"}

#: A matrix of numbers.
Matrix = Sequence[Sequence[int]] | np.ndarray

#: Horizontal Sobel kernel.
SOBEL_X = ((-1, 0, 1), (-2, 0, 2), (-1, 0, 1))


def correlate(
    image: Matrix, kernel: Matrix, padding: int | None = None, border: Border = "zero", stride: int = 1
) -> np.ndarray:
    """Cross-correlation, which deep-learning libraries call convolution: the kernel is not flipped.

    Args:
        image: numbers (H, W), one channel.
        kernel: numbers (k, l), not flipped.
        padding: rows and columns added on every side; None: ⌊k/2⌋ and ⌊l/2⌋, which keeps the size for odd kernels.
        border: values added around the image: ``zero``, its ``edge``, or the image ``reflect``-ed.
        stride: step between windows in both directions.

    Returns:
        (⌊(H + 2p − k)/s⌋ + 1, …); integers stay integers.

    Raises:
        InputError: not a matrix, a kernel larger than the padded image, a reflection larger than the image allows.
    """
    pixels, taps = _array(image, "image"), _array(kernel, "kernel")
    pads = tuple(n // 2 for n in taps.shape) if padding is None else (padding, padding)
    if border not in _NUMPY_MODE:
        raise InputError(f"border must be one of {', '.join(_NUMPY_MODE)}; received {border!r}")
    if stride < 1 or min(pads) < 0:
        raise InputError(f"stride must be 1 or more and padding 0 or more; received stride {stride}, padding {min(pads)}")
    if border == "reflect" and any(p >= n for p, n in zip(pads, pixels.shape, strict=True)):
        raise InputError(f"a reflected border must be smaller than the image ({_size(pixels)}); received padding {max(pads)}")
    padded = np.pad(pixels, [(p, p) for p in pads], mode=_NUMPY_MODE[border])  # type: ignore[call-overload]
    if any(k > n for k, n in zip(taps.shape, padded.shape, strict=True)):
        raise InputError(f"the kernel ({_size(taps)}) is larger than the padded image ({_size(padded)})")
    windows = np.lib.stride_tricks.sliding_window_view(padded, taps.shape)[::stride, ::stride]
    return np.asarray(np.einsum("ijkl,kl->ij", windows, taps))


def convolve(image: Matrix, kernel: Matrix, padding: int | None = None, border: Border = "zero", stride: int = 1) -> np.ndarray:
    """Convolution as in signal processing: `correlate` with the kernel rotated by 180°."""
    return correlate(image, _array(kernel, "kernel")[::-1, ::-1], padding, border, stride)


def _array(matrix: Matrix, name: str) -> np.ndarray:
    try:
        array: np.ndarray = np.asarray(matrix)
    except ValueError:  # rows of different lengths
        array = np.zeros(())
    if array.ndim != 2 or array.size == 0 or array.dtype.kind not in "iuf":
        raise InputError(f"the {name} must be a matrix of numbers with rows of equal length; received {str(matrix)[:60]!r}")
    return array


def _size(array: np.ndarray) -> str:
    return f"{array.shape[0]}×{array.shape[1]}"


def parse_matrix(text: str) -> list[list[int]]:
    """A matrix from text such as ``"1,0,2; 3,2,0"``: rows separated by ``;`` or ``/``, numbers by commas or spaces.

    Raises:
        InputError: not integers, or rows of different lengths.
    """
    rows = [row.replace(",", " ").split() for row in text.replace("/", ";").split(";") if row.strip()]
    try:
        matrix = [[int(n) for n in row] for row in rows]
    except ValueError:
        matrix = []
    if not matrix or len({len(row) for row in matrix}) != 1:
        raise InputError(f'a matrix is written as "1,0,2; 3,2,0": integers, rows of equal length; received {text!r}')
    return matrix


def render_matrix(matrix: Matrix) -> str:
    """A matrix as aligned rows of text."""
    cells = [[str(n) for n in row] for row in matrix]
    width = max(len(c) for row in cells for c in row)
    return "\n".join("  ".join(c.rjust(width) for c in row) for row in cells)


# --- average pooling as a convolution ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class PoolingCheck:
    """Largest absolute differences between average pooling and three convolutions, on random integer maps.

    Attributes:
        kernel, stride, channels, size: of the pooling and of the maps.
        depthwise: difference of the depthwise convolution.
        diagonal: difference of the dense convolution with zeros between channels.
        all_equal: difference of the dense convolution with equal weights.
        all_equal_is_sum: whether the latter is the sum of the channels' averages.
    """

    kernel: int
    stride: int
    channels: int
    size: int
    depthwise: float
    diagonal: float
    all_equal: float
    all_equal_is_sum: bool

    @property
    def equal(self) -> bool:
        """Depthwise and diagonal convolution equal the pooling, up to rounding."""
        return self.depthwise < 1e-9 and self.diagonal < 1e-9

    def __str__(self) -> str:
        def verdict(difference: float) -> str:
            return "equal" if difference < 1e-9 else f"NOT equal (differs by up to {difference:.4g})"

        weight = f"1/{self.kernel**2}"
        is_sum = "; it is the sum over the channels" if self.all_equal_is_sum and self.channels > 1 else ""
        return "\n".join(
            (
                f"average pooling {self.kernel}×{self.kernel}, stride {self.stride}, on {self.size}×{self.size}×{self.channels}, "
                "compared with",
                f"  depthwise convolution, weights {weight}:              {verdict(self.depthwise)}",
                f"  dense convolution, {weight} on the channel diagonal:  {verdict(self.diagonal)}",
                f"  dense convolution, all weights {weight}:              {verdict(self.all_equal)}{is_sum}",
            )
        )


def average_pool(images: np.ndarray, kernel: int, stride: int | None = None) -> np.ndarray:
    """Average pooling without padding: (N, H, W, C) to (N, ⌊(H − k)/s⌋ + 1, …, C)."""
    return np.asarray(_windows(images, kernel, stride or kernel).mean(axis=(-2, -1)))


def pooling_kernel(kernel: int, channels: int, *, depthwise: bool = True) -> np.ndarray:
    """The weights of the convolution that is average pooling: depthwise (k, k, C, 1), or dense (k, k, C, C)."""
    if depthwise:
        return np.full((kernel, kernel, channels, 1), 1 / kernel**2)
    return np.broadcast_to(np.eye(channels) / kernel**2, (kernel, kernel, channels, channels)).copy()


def check_average_pooling(kernel: int = 8, stride: int | None = None, channels: int = 3, size: int = 8) -> PoolingCheck:
    """Compare average pooling with the three convolutions on random integer maps (seed 0).

    Args:
        kernel: height and width of the pooling's window.
        stride: of the pooling; None: `kernel`.
        channels: number of channels of the maps.
        size: height and width of the maps.

    Raises:
        InputError: a value below 1, or a kernel larger than the map.
    """
    stride = kernel if stride is None else stride
    if min(kernel, stride, channels, size) < 1 or kernel > size:
        raise InputError(
            "kernel, stride and channels must be 1 or more and the kernel must fit the map; received kernel "
            f"{kernel}, stride {stride}, channels {channels}, size {size}"
        )
    images = np.random.default_rng(0).integers(0, 256, (2, size, size, channels)).astype(float)
    pooled = average_pool(images, kernel, stride)
    windows = _windows(images, kernel, stride)
    single = np.einsum("nhwckl,klco->nhwc", windows, pooling_kernel(kernel, channels))
    diagonal = np.einsum("nhwckl,klco->nhwo", windows, pooling_kernel(kernel, channels, depthwise=False))
    every = np.einsum("nhwckl,klco->nhwo", windows, np.full((kernel, kernel, channels, channels), 1 / kernel**2))
    sums = np.broadcast_to(pooled.sum(axis=-1, keepdims=True), every.shape)
    return PoolingCheck(
        kernel,
        stride,
        channels,
        size,
        depthwise=float(np.abs(single - pooled).max()),
        diagonal=float(np.abs(diagonal - pooled).max()),
        all_equal=float(np.abs(every - pooled).max()),
        all_equal_is_sum=bool(np.allclose(every, sums)),
    )


def average_pooling_layer_as_convolution(layer: Any) -> Any:
    """A built, frozen Keras DepthwiseConv2D that computes the same as an AveragePooling2D layer.

    Args:
        layer: an AveragePooling2D that has been called, channels last.

    Raises:
        InputError: another layer, one that has not been called, or ``padding="same"`` with padding: its averages leave the padding
            out, which no convolution with constant weights does.
    """
    if not isinstance(layer, keras.layers.AveragePooling2D) or layer.data_format != "channels_last":
        raise InputError(f"only AveragePooling2D layers with channels last can be converted; received {type(layer).__name__}")
    try:
        shape = layer.input.shape
    except AttributeError as error:
        raise InputError(f"layer {layer.name!r} has not been called yet, so its number of channels is unknown") from error
    height, width = layer.pool_size
    if layer.padding == "same" and any(
        n is None or n % s or k > s for n, k, s in zip(shape[1:3], layer.pool_size, layer.strides, strict=True)
    ):
        raise InputError(
            f"layer {layer.name!r} pads, and its averages leave the padding out, which no convolution does: use padding='valid'"
        )
    conv = keras.layers.DepthwiseConv2D(
        layer.pool_size,
        strides=layer.strides,
        padding=layer.padding,
        use_bias=False,
        trainable=False,
        name=f"{layer.name}_conv",
    )
    conv.build(shape)
    conv.set_weights([np.full((height, width, shape[-1], 1), 1 / (height * width), "float32")])
    return conv


def _windows(images: np.ndarray, kernel: int, stride: int) -> np.ndarray:
    """(N, H', W', C, k, k)."""
    return np.lib.stride_tricks.sliding_window_view(images, (kernel, kernel), axis=(1, 2))[:, ::stride, ::stride]
