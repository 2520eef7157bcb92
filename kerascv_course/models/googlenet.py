"""GoogLeNet, and MyNet, a variant for 32×32 images from a course report.

Szegedy et al.: "Going deeper with convolutions", CVPR 2015, table 1, whose column of parameters sums up to 6.8 million. Ours is
torchvision's implementation without its two auxiliary heads, 6,624,904 parameters. It departs from the paper: batch norm (epsilon 1e-3)
and no biases, 3×3 instead of 5×5 convolutions (a known mistake, kept for its weights), and pooling that rounds sizes up.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from kerascv_course.core.lazy import keras
from kerascv_course.core.schema import Fraction
from kerascv_course.models.layers import classifier, conv_bn_relu, max_pool
from kerascv_course.models.registry import register_model

#: Widths of branch 1, branch 2 (1×1 → 3×3), branch 3 (1×1 → 3×3 or 5×5) and branch 4: table 1 of the paper.
_BLOCKS = {
    "3a": (64, (96, 128), (16, 32), 32),
    "3b": (128, (128, 192), (32, 96), 64),
    "4a": (192, (96, 208), (16, 48), 64),
    "4b": (160, (112, 224), (24, 64), 64),
    "4c": (128, (128, 256), (24, 64), 64),
    "4d": (112, (144, 288), (32, 64), 64),
    "4e": (256, (160, 320), (32, 128), 128),
    "5a": (256, (160, 320), (32, 128), 128),
    "5b": (384, (192, 384), (48, 128), 128),
}


@dataclass(frozen=True)
class GoogLeNet:
    """Options of GoogLeNet. With ``branch3_kernel=5, batch_norm=False`` it is the paper's network: 6,998,552 parameters.

    Attributes:
        stem: ``"imagenet"``: 7×7 stride 2, pooling, 1×1, 3×3, pooling; ``"cifar"``, for small images: one 3×3 of 192 channels at
            full size, as in MyNet.
        branch3_kernel: window of branch 3; the paper's is 5.
        batch_norm: batch norm and no biases; the paper has biases and no batch norm.
        dropout: fraction of the pooled vector set to zero in training; the paper's is 0.4.
        include_top: False: the pooled feature vector (N, 1024), without dropout and dense layer.
    """

    stem: Literal["imagenet", "cifar"] = "imagenet"
    branch3_kernel: Literal[3, 5] = 3
    batch_norm: bool = True
    dropout: Fraction = 0.2
    include_top: bool = True


@dataclass(frozen=True)
class MyNet:
    """Options of MyNet.

    Attributes:
        dropout: fraction of the pooled vector set to zero in training.
        include_top: False: the pooled feature vector (N, 1024), without dropout and dense layer.
    """

    dropout: Fraction = 0.2
    include_top: bool = True


def inception(x: Any, block: str, *, kernel: int = 3, depth: int = 1, norm: bool = True, name: str) -> Any:
    """An inception block: (N, H, W, C) to (N, H, W, sum of the four branches' widths).

    Args:
        x: float tensor (N, H, W, C).
        block: its row of the paper's table 1, ``"3a"`` to ``"5b"``.
        kernel: window of branch 3.
        depth: convolutions of that window in branch 3.
        norm: batch norm and no biases, or biases only.
        name: prefix of all layers.
    """
    width1, (reduce2, width2), (reduce3, width3), width4 = _BLOCKS[block]

    def step(tensor: Any, filters: int, window: int, layer: str) -> Any:
        return conv_bn_relu(
            tensor, filters, window, bias=not norm, norm=norm, epsilon=1e-3, init="he_in", name=f"{name}_{layer}"
        )

    one = step(x, width1, 1, "branch1_conv1")
    two = step(step(x, reduce2, 1, "branch2_conv1"), width2, 3, "branch2_conv2")
    three = step(x, reduce3, 1, "branch3_conv1")
    for index in range(depth):
        three = step(three, width3, kernel, f"branch3_conv{index + 2}")
    four = step(max_pool(x, 3, stride=1, padding=1, name=f"{name}_branch4_pool"), width4, 1, "branch4_conv1")
    return keras.layers.Concatenate(name=f"{name}_concat")([one, two, three, four])


def _torch_names(model: Any) -> dict[str, tuple[str, ...]]:
    """torchvision's: ``conv1.conv``, ``inception3a.branch2.1.bn``, ``fc``; MyNet's blocks are spelt ``inception_3a``."""
    names: dict[str, tuple[str, ...]] = {
        "stem_conv": ("conv1.0", "conv1"),
        "stem_conv_bn": ("conv1.1", "bn1"),
        "logits": ("fc",),
    }
    for layer in model.layers:
        part = "bn" if layer.name.endswith("_bn") else "conv"
        if match := re.fullmatch(r"stem_conv(\d)(_bn)?", layer.name):
            names[layer.name] = (f"conv{match[1]}.{part}",)
        elif match := re.fullmatch(r"inception(..)_branch(\d)_conv(\d)(_bn)?", layer.name):
            block, branch, index = match[1], match[2], int(match[3]) - 1
            step = {"1": f"branch1.{part}", "4": f"branch4.1.{part}"}.get(branch, f"branch{branch}.{index}.{part}")
            names[layer.name] = (f"inception{block}.{step}", f"inception_{block}.{step}")
    return names


@register_model(
    GoogLeNet(),
    input_shape=(224, 224, 3),
    num_classes=1000,
    parameters=6_624_904,
    source="Szegedy et al. 2015, table 1; count: torchvision's GoogLeNet without auxiliary heads",
    min_size=lambda options: 31 if options.stem == "imagenet" else 4,
    torch_names=_torch_names,
)
def googlenet(image: Any, num_classes: int, options: GoogLeNet) -> Any:
    """GoogLeNet without auxiliary heads: (N, H, W, C) to logits (N, num_classes)."""

    def step(x: Any, filters: int, kernel: int, name: str, stride: int = 1) -> Any:
        norm = options.batch_norm
        return conv_bn_relu(x, filters, kernel, stride=stride, norm=norm, bias=not norm, epsilon=1e-3, init="he_in", name=name)

    if options.stem == "cifar":
        x = step(image, 192, 3, "stem_conv1")
    else:
        # 224×224 -> 112×112×64 -> 56×56 -> 56×56×192 -> 28×28
        x = step(image, 64, 7, "stem_conv1", stride=2)
        x = max_pool(x, 3, ceil=True, name="stem_pool1")
        x = step(x, 64, 1, "stem_conv2")
        x = step(x, 192, 3, "stem_conv3")
        x = max_pool(x, 3, ceil=True, name="stem_pool2")
    # 28×28×480 -> 14×14×832 -> 7×7×1024
    for block in _BLOCKS:
        if block == "4a":
            x = max_pool(x, 3, ceil=True, name="stage3_pool")
        if block == "5a":
            x = max_pool(x, 2, ceil=True, name="stage4_pool")
        x = inception(x, block, kernel=options.branch3_kernel, norm=options.batch_norm, name=f"inception{block}")
    return classifier(x, num_classes, dropout=options.dropout, include_top=options.include_top)


@register_model(
    MyNet(),
    input_shape=(32, 32, 3),
    parameters=6_158_538,
    source="report 002, summary table of MyNet (printed total)",
    min_size=3,
    torch_names=_torch_names,
)
def mynet(image: Any, num_classes: int, options: MyNet) -> Any:
    """MyNet, a GoogLeNet for 32×32 images: (N, H, W, C) to logits (N, num_classes).

    Differences from GoogLeNet: a single 3×3 convolution as the stem, two 3×3 in branch 3, and pooling always 3×3 with padding 1. The
    stem has a bias and batch norm with epsilon 1e-5; in the inception blocks epsilon is 1e-3.
    """
    x = conv_bn_relu(image, 192, 3, bias=True, name="stem_conv")
    # 32×32×480 -> 16×16×832 -> 8×8×1024
    for block in _BLOCKS:
        if block in ("4a", "5a"):
            x = max_pool(x, 3, padding=1, name=f"stage{int(block[0]) - 1}_pool")
        x = inception(x, block, depth=2, name=f"inception{block}")
    return classifier(x, num_classes, dropout=options.dropout, include_top=options.include_top)
