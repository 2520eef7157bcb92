"""Colourisation networks of CSC413 assignment 2 (report 004): from a grey image to a colour class for every pixel.

Sections 4 (pooling and up-sampling), 5 (strides and transposed convolutions) and, from the public assignment, 6 (the same with
skip connections, after Ronneberger, Fischer, Brox: "U-Net", MICCAI 2015). With NIC = 1 input channel, NF = 32 filters, NC = 24
colours and k = 3 the counts are 49,728, 49,728 and 56,856.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from kerascv_course.core.errors import InputError
from kerascv_course.core.lazy import keras
from kerascv_course.core.schema import Count, Kernel, Range
from kerascv_course.models.layers import activate, batch_norm, conv, max_pool, transposed_conv, upsample_nearest
from kerascv_course.models.registry import register_model

#: Convolutions added to a block.
Extra = Annotated[int, Range(0, 8)]

_DEFAULTS: dict[str, Any] = {"input_shape": (32, 32, 1), "num_classes": 24, "min_size": 4}


def _norm_relu(x: Any, name: str) -> Any:
    return activate(batch_norm(x, name=f"{name}_bn"), name=f"{name}_relu")


def _require_quarters(image: Any) -> None:
    height, width = image.shape[1:3]
    if height % 4 or width % 4:
        raise InputError(
            f"height and width must be multiples of 4, so that two halvings and two doublings give the size back; "
            f"received {height}×{width}: crop or pad the images to {-(-height // 4) * 4}×{-(-width // 4) * 4}"
        )


@register_model(parameters=49_728, source="CSC413 assignment 2, section 4.1 (report 004, question 4)", **_DEFAULTS)
def pool_upsample_net(image: Any, num_classes: int, *, filters: Count = 32, kernel: Kernel = 3) -> Any:
    """Halve by max-pooling, double by nearest up-sampling: (N, H, W, NIC) to logits (N, H, W, num_classes).

    Args:
        image: float tensor (N, H, W, NIC), H and W multiples of 4.
        num_classes: colours to choose from (NC).
        filters: channels of the first block (NF); the second has twice as many.
        kernel: window k of all convolutions, 2 to 7. The size is kept: ⌊(k−1)/2⌋ zeros before and ⌊k/2⌋ after.
    """
    _require_quarters(image)

    def block(x: Any, width: int, resample: Callable[..., Any], name: str) -> Any:
        x = conv(x, width, kernel, bias=True, init="lecun", name=f"{name}_conv")
        return _norm_relu(resample(x), name)

    # 32×32 -> 16×16×NF -> 8×8×2NF -> 16×16×NF -> 32×32×NC -> 32×32×NC
    # The pool stands before batch norm and ReLU, and has no padding.
    x = block(image, filters, lambda t: max_pool(t, 2, name="block1_pool"), "block1")
    x = block(x, 2 * filters, lambda t: max_pool(t, 2, name="block2_pool"), "block2")
    x = block(x, filters, lambda t: upsample_nearest(t, name="block3_upsample"), "block3")
    x = block(x, num_classes, lambda t: upsample_nearest(t, name="block4_upsample"), "block4")
    return conv(x, num_classes, kernel, bias=True, init="lecun", name="logits")


def _strided(image: Any, num_classes: int, filters: int, kernel: int, extra: int, skips: bool) -> Any:
    _require_quarters(image)
    bias: dict[str, Any] = {"bias": True, "init": "lecun"}

    def deepen(x: Any, name: str) -> Any:
        for number in range(2, 2 + extra):
            deeper = f"{name}_conv{number}"
            x = _norm_relu(conv(x, x.shape[-1], kernel, **bias, name=deeper), deeper)
        return x

    # 32×32 -> 16×16×NF -> 8×8×2NF -> 16×16×NF -> 32×32×NC -> 32×32×NC
    first = deepen(_norm_relu(conv(image, filters, kernel, stride=2, **bias, name="block1_conv"), "block1"), "block1")
    x = deepen(_norm_relu(conv(first, 2 * filters, kernel, stride=2, **bias, name="block2_conv"), "block2"), "block2")
    x = deepen(_norm_relu(transposed_conv(x, filters, kernel, name="block3_deconv"), "block3"), "block3")
    if skips:
        x = keras.layers.Concatenate(name="block3_concat")([x, first])
    x = _norm_relu(transposed_conv(x, num_classes, kernel, name="block4_deconv"), "block4")
    if skips:
        x = keras.layers.Concatenate(name="block4_concat")([x, image])
    return conv(x, num_classes, kernel, **bias, name="logits")


@register_model(parameters=49_728, source="CSC413 assignment 2, section 5.1 (report 004, question 5)", **_DEFAULTS)
def conv_transpose_net(image: Any, num_classes: int, *, filters: Count = 32, kernel: Kernel = 3, extra: Extra = 0) -> Any:
    """Halve by strides, double by transposed convolutions: (N, H, W, NIC) to logits (N, H, W, num_classes).

    Args:
        image: float tensor (N, H, W, NIC), H and W multiples of 4.
        num_classes: colours to choose from (NC).
        filters: channels of the first block (NF); the second has twice as many.
        kernel: window k of all convolutions, 2 to 7; paddings follow from it (report 004, question 5.4).
        extra: more convolutions of the same width in each of the first three blocks, which make the network deeper.
    """
    return _strided(image, num_classes, filters, kernel, extra, skips=False)


@register_model(
    parameters=56_856, source="CSC413 assignment 2, section 6.1 (count by hand: 56,376 weights, 480 others)", **_DEFAULTS
)
def unet_colorizer(image: Any, num_classes: int, *, filters: Count = 32, kernel: Kernel = 3, extra: Extra = 0) -> Any:
    """`conv_transpose_net` with skip connections: (N, H, W, NIC) to logits (N, H, W, num_classes).

    Block 4 also sees block 1's output, and the last convolution the image.

    Args:
        image: float tensor (N, H, W, NIC), H and W multiples of 4.
        num_classes: colours to choose from (NC).
        filters: channels of the first block (NF); the second has twice as many.
        kernel: window k of all convolutions, 2 to 7; paddings follow from it.
        extra: more convolutions of the same width in each of the first three blocks, which make the network deeper.
    """
    return _strided(image, num_classes, filters, kernel, extra, skips=True)
