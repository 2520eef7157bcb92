"""Colorization networks of CSC413 assignment 2 (report 004): from a gray image to a color class for every pixel.

Sections 4 (pooling and upsampling), 5 (strides and transposed convolutions) and, of the public assignment, 6 (the same with skip
connections, after Ronneberger, Fischer, Brox: "U-Net", MICCAI 2015). With NIC = 1 input channel, NF = 32 filters, NC = 24 colors and
k = 3 they have 49,728, 49,728 and 56,856 parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from kerascv_course.core.errors import InputError
from kerascv_course.core.lazy import keras
from kerascv_course.core.schema import Kernel, PositiveInt, Range
from kerascv_course.models.layers import activate, batch_norm, conv, max_pool, transposed_conv, upsample_nearest
from kerascv_course.models.registry import SpecFields, register_model


@dataclass(frozen=True)
class Colorizer:
    """Options of a colorization network.

    Attributes:
        filters: channels of the first block (NF); the second has twice as many.
        kernel: window k of all convolutions, 2 to 7; the padding follows from it (report 004, question 5.4).
    """

    filters: PositiveInt = 32
    kernel: Kernel = 3


@dataclass(frozen=True)
class StridedColorizer(Colorizer):
    """Options of a colorization network without pooling.

    Attributes:
        filters: channels of the first block (NF); the second has twice as many.
        kernel: window k of all convolutions, 2 to 7; the padding follows from it (report 004, question 5.4).
        extra: additional convolutions of the same width in each of the first three blocks.
    """

    extra: Annotated[int, Range(0, 8)] = 0


def _fields(parameters: int, source: str) -> SpecFields:
    return {
        "input_shape": (32, 32, 1),
        "num_classes": 24,
        "min_size": 4,
        "parameters": parameters,
        "source": f"CSC413 assignment 2, section {source}",
    }


def _norm_relu(x: Any, name: str) -> Any:
    return activate(batch_norm(x, name=f"{name}_bn"), name=f"{name}_relu")


def _require_quarters(image: Any) -> None:
    height, width = image.shape[1:3]
    if None in (height, width):  # open sizes: Keras refuses those of other images when they come
        return
    if height % 4 or width % 4:
        raise InputError(
            f"height and width must be multiples of 4, so that the size is the same after downsampling and upsampling twice; "
            f"received {height}×{width}: crop or pad the images to {-(-height // 4) * 4}×{-(-width // 4) * 4}"
        )


@register_model(Colorizer(), **_fields(49_728, "4.1 (report 004, question 4)"))
def pool_upsample_net(image: Any, num_classes: int, options: Colorizer) -> Any:
    """Max pooling and nearest-neighbor upsampling: (N, H, W, NIC) to logits (N, H, W, NC), H and W multiples of 4."""
    _require_quarters(image)

    def block(x: Any, width: int, resample: Callable[..., Any], name: str) -> Any:
        x = conv(x, width, options.kernel, bias=True, init="lecun", name=f"{name}_conv")
        return _norm_relu(resample(x), name)

    # 32×32 -> 16×16×NF -> 8×8×2NF -> 16×16×NF -> 32×32×NC -> 32×32×NC
    # pooling comes before batch norm and ReLU, and has no padding
    filters = options.filters
    x = block(image, filters, lambda t: max_pool(t, 2, name="block1_pool"), "block1")
    x = block(x, 2 * filters, lambda t: max_pool(t, 2, name="block2_pool"), "block2")
    x = block(x, filters, lambda t: upsample_nearest(t, name="block3_upsample"), "block3")
    x = block(x, num_classes, lambda t: upsample_nearest(t, name="block4_upsample"), "block4")
    return conv(x, num_classes, options.kernel, bias=True, init="lecun", name="logits")


def _strided(image: Any, num_classes: int, options: StridedColorizer, *, skips: bool) -> Any:
    _require_quarters(image)
    filters, kernel = options.filters, options.kernel

    def block(x: Any, width: int, stride: int, name: str) -> Any:
        return _norm_relu(conv(x, width, kernel, stride=stride, bias=True, init="lecun", name=f"{name}_conv"), name)

    def deepen(x: Any, name: str) -> Any:
        for number in range(2, 2 + options.extra):
            deeper = f"{name}_conv{number}"
            x = _norm_relu(conv(x, x.shape[-1], kernel, bias=True, init="lecun", name=deeper), deeper)
        return x

    # 32×32 -> 16×16×NF -> 8×8×2NF -> 16×16×NF -> 32×32×NC -> 32×32×NC
    first = deepen(block(image, filters, 2, "block1"), "block1")
    x = deepen(block(first, 2 * filters, 2, "block2"), "block2")
    x = deepen(_norm_relu(transposed_conv(x, filters, kernel, name="block3_deconv"), "block3"), "block3")
    if skips:
        x = keras.layers.Concatenate(name="block3_concat")([x, first])
    x = _norm_relu(transposed_conv(x, num_classes, kernel, name="block4_deconv"), "block4")
    if skips:
        x = keras.layers.Concatenate(name="block4_concat")([x, image])
    return conv(x, num_classes, kernel, bias=True, init="lecun", name="logits")


@register_model(StridedColorizer(), **_fields(49_728, "5.1 (report 004, question 5)"))
def conv_transpose_net(image: Any, num_classes: int, options: StridedColorizer) -> Any:
    """Strided and transposed convolutions: (N, H, W, NIC) to logits (N, H, W, NC), H and W multiples of 4."""
    return _strided(image, num_classes, options, skips=False)


@register_model(StridedColorizer(), **_fields(56_856, "6.1 (count by hand: 56,376 weights, 480 others)"))
def unet_colorizer(image: Any, num_classes: int, options: StridedColorizer) -> Any:
    """`conv_transpose_net` with skip connections: (N, H, W, NIC) to logits (N, H, W, NC), H and W multiples of 4.

    Block 4 also sees the output of block 1, and the last convolution the image.
    """
    return _strided(image, num_classes, options, skips=True)
