"""Average pooling as a convolution (report 000, question 3): which convolution it is, and which it is not.

Pooling averages each channel on its own. It equals a *depthwise* convolution with all weights 1/k², the pool's own window and
stride, no bias and no training; or a dense convolution whose cross-channel weights are zero. A dense convolution with *all*
weights 1/k², as the report has it, returns in every channel the sum of all channels' averages.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kerascv_course.core.errors import InputError

if TYPE_CHECKING:
    import numpy as np

__all__ = ["PoolingCheck", "average_pool", "average_pooling_layer_as_convolution", "check_average_pooling", "pooling_kernel"]


@dataclass(frozen=True)
class PoolingCheck:
    """Average pooling beside three convolutions: the largest absolute differences on random integer maps.

    Attributes:
        kernel, stride, channels, size: what was compared.
        depthwise: of the depthwise convolution.
        diagonal: of the dense convolution with zeros between channels.
        all_equal: of the dense convolution with all weights equal.
        all_equal_is_sum: whether that one is the sum of the channels' averages.
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
        """Depthwise and diagonal convolution equal the pooling, to rounding."""
        return self.depthwise < 1e-9 and self.diagonal < 1e-9

    def __str__(self) -> str:
        def verdict(difference: float) -> str:
            return "equal" if difference < 1e-9 else f"NOT equal (differs by up to {difference:.4g})"

        maps = f"{self.size}×{self.size}×{self.channels}"
        return "\n".join(
            (
                f"average pooling {self.kernel}×{self.kernel}, stride {self.stride}, on {maps}, beside",
                f"  depthwise convolution, weights 1/{self.kernel**2}:              {verdict(self.depthwise)}",
                f"  dense convolution, 1/{self.kernel**2} on the channel diagonal:  {verdict(self.diagonal)}",
                f"  dense convolution, all weights 1/{self.kernel**2}:              {verdict(self.all_equal)}"
                + ("; it is the sum over the channels" if self.all_equal_is_sum and self.channels > 1 else ""),
            )
        )


def average_pool(images: np.ndarray, kernel: int, stride: int | None = None) -> np.ndarray:
    """Average pooling without padding: (N, H, W, C) to (N, ⌊(H − k)/s⌋ + 1, …, C)."""
    return _windows(images, kernel, stride or kernel).mean(axis=(-2, -1))


def pooling_kernel(kernel: int, channels: int, *, depthwise: bool = True) -> np.ndarray:
    """The weights that make a convolution average pooling: (k, k, C, 1) for a depthwise one, (k, k, C, C) for a dense one."""
    import numpy as np

    if depthwise:
        return np.full((kernel, kernel, channels, 1), 1 / kernel**2)
    return np.broadcast_to(np.eye(channels) / kernel**2, (kernel, kernel, channels, channels)).copy()


def check_average_pooling(kernel: int = 8, stride: int | None = None, channels: int = 3, size: int = 8) -> PoolingCheck:
    """Compare average pooling with the three convolutions on random integer maps (seed 0).

    Args:
        kernel: of the pooling.
        stride: of the pooling, which the convolution must share; None: `kernel`.
        channels: of the maps.
        size: height and width of the maps.

    Raises:
        InputError: a value below 1, or a window larger than the map.
    """
    import numpy as np

    stride = kernel if stride is None else stride
    if min(kernel, stride, channels, size) < 1 or kernel > size:
        raise InputError(f"kernel, stride and channels are 1 or more and the kernel fits the map; received kernel {kernel}, "
                         f"stride {stride}, channels {channels}, size {size}")  # fmt: skip
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
    """A built, frozen Keras DepthwiseConv2D that computes what an AveragePooling2D layer computes.

    Args:
        layer: an AveragePooling2D, called at least once, channels last.

    Raises:
        InputError: another layer, one that has not been called yet, or ``padding="same"`` that pads: its border averages leave
            the padding out, which no convolution with constant weights does.
    """
    import keras

    if not isinstance(layer, keras.layers.AveragePooling2D) or layer.data_format != "channels_last":
        raise InputError(f"an AveragePooling2D layer with channels last can be converted; received {type(layer).__name__}")
    try:
        shape = layer.input.shape
    except AttributeError as error:
        raise InputError(f"the layer {layer.name!r} has not been called on anything yet: its channels are not known") from error
    height, width = layer.pool_size
    if layer.padding == "same" and any(
        n is None or n % s or k > s for n, k, s in zip(shape[1:3], layer.pool_size, layer.strides, strict=True)
    ):
        raise InputError(
            f"the layer {layer.name!r} pads and leaves the padding out of its border averages, which no convolution does: "
            'use padding="valid"'
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
    import numpy as np

    conv.set_weights([np.full((height, width, shape[-1], 1), 1 / (height * width), "float32")])
    return conv


def _windows(images: np.ndarray, kernel: int, stride: int) -> np.ndarray:
    """(N, H', W', C, k, k)."""
    import numpy as np

    return np.lib.stride_tricks.sliding_window_view(images, (kernel, kernel), axis=(1, 2))[:, ::stride, ::stride]
