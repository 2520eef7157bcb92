"""GoogLeNet, and MyNet, a variant for 32×32 images from a course report.

Szegedy et al.: "Going deeper with convolutions", CVPR 2015, table 1. The paper counts 6.8 million parameters (table 1's column
adds up to that); ours is the reference implementation's in torchvision without its two auxiliary heads, 6,624,904, which
departs from the paper in having batch norm (epsilon 1e-3) and no biases, 3×3 for the 5×5 convolutions (a known slip, kept for
its weights), and pools that round up.
"""

from __future__ import annotations

import re
from typing import Any, Literal

from kerascv_course.core.lazy import keras
from kerascv_course.core.schema import Share
from kerascv_course.models.layers import classifier, conv_bn_relu, max_pool
from kerascv_course.models.registry import register_model

#: Name: widths of branch 1, of branch 2 (1×1 → 3×3), of branch 3 (1×1 → 3×3 or 5×5), and of branch 4. Table 1 of the paper.
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
    input_shape=(224, 224, 3),
    num_classes=1000,
    parameters=6_624_904,
    source="Szegedy et al. 2015, table 1; count: torchvision's GoogLeNet without auxiliary heads",
    min_size=lambda *, stem, **_: 31 if stem == "imagenet" else 4,
    torch_names=_torch_names,
)
def googlenet(
    image: Any,
    num_classes: int,
    *,
    stem: Literal["imagenet", "cifar"] = "imagenet",
    branch3_kernel: Literal[3, 5] = 3,
    batch_norm: bool = True,
    dropout: Share = 0.2,
    include_top: bool = True,
) -> Any:
    """GoogLeNet without auxiliary heads: (N, H, W, C) to logits (N, num_classes).

    With ``branch3_kernel=5, batch_norm=False`` it is the paper's network: 6,998,552 parameters.

    Args:
        image: float tensor (N, H, W, C).
        num_classes: width of the output layer.
        stem: ``"imagenet"``: 7×7 stride 2, pool, 1×1, 3×3, pool; ``"cifar"`` for small images: one 3×3 of 192 channels at full
            size, as in MyNet.
        branch3_kernel: window of branch 3; the paper's is 5.
        batch_norm: batch norm and no biases; the paper has biases and no batch norm.
        dropout: share of the pooled vector set to zero while training; the paper's is 0.4.
        include_top: False: the pooled feature vector (N, 1024), without dropout and dense layer.
    """
    norm: dict[str, Any] = {"norm": batch_norm, "bias": not batch_norm, "epsilon": 1e-3, "init": "he_in"}
    if stem == "cifar":
        x = conv_bn_relu(image, 192, 3, **norm, name="stem_conv1")
    else:
        # 224×224 -> 112×112×64 -> 56×56 -> 56×56×192 -> 28×28
        x = conv_bn_relu(image, 64, 7, stride=2, padding=3, **norm, name="stem_conv1")
        x = max_pool(x, 3, ceil=True, name="stem_pool1")
        x = conv_bn_relu(x, 64, 1, **norm, name="stem_conv2")
        x = conv_bn_relu(x, 192, 3, **norm, name="stem_conv3")
        x = max_pool(x, 3, ceil=True, name="stem_pool2")
    # 28×28×480 -> 14×14×832 -> 7×7×1024
    for block in _BLOCKS:
        if block == "4a":
            x = max_pool(x, 3, ceil=True, name="stage3_pool")
        if block == "5a":
            x = max_pool(x, 2, ceil=True, name="stage4_pool")
        x = inception(x, block, kernel=branch3_kernel, norm=batch_norm, name=f"inception{block}")
    return classifier(x, num_classes, dropout=dropout, include_top=include_top)


@register_model(
    input_shape=(32, 32, 3),
    parameters=6_158_538,
    source="report 002, summary table of MyNet (printed total)",
    min_size=3,
    torch_names=_torch_names,
)
def mynet(image: Any, num_classes: int, *, dropout: Share = 0.2, include_top: bool = True) -> Any:
    """MyNet, a GoogLeNet for 32×32 images: (N, H, W, C) to logits (N, num_classes).

    Its departures: one 3×3 convolution for the stem, one more 3×3 in branch 3 (3×3 for 5×5), all pools 3×3 with padding 1. The
    stem's convolution has a bias and its batch norm epsilon 1e-5; the inception blocks' epsilon is 1e-3.

    Args:
        image: float tensor (N, H, W, C).
        num_classes: width of the output layer.
        dropout: share of the pooled vector set to zero while training.
        include_top: False: the pooled feature vector (N, 1024), without dropout and dense layer.
    """
    x = conv_bn_relu(image, 192, 3, bias=True, name="stem_conv")
    # 32×32×480 -> 16×16×832 -> 8×8×1024
    for block in _BLOCKS:
        if block in ("4a", "5a"):
            x = max_pool(x, 3, padding=1, name=f"stage{int(block[0]) - 1}_pool")
        x = inception(x, block, depth=2, name=f"inception{block}")
    return classifier(x, num_classes, dropout=dropout, include_top=include_top)
