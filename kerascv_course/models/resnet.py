"""Residual networks: ImageNet and CIFAR stems, and three variants from course reports.

He, Zhang, Ren, Sun: "Deep residual learning for image recognition", CVPR 2016, table 1. The paper gives no parameter counts;
ours are those of the reference implementation in torchvision, which differs from the paper in one place: a bottleneck's stride
is in its 3×3 convolution ("v1.5", Goyal et al., arXiv:1706.02677, section 5.1), and its shortcuts are projections where shapes
change (option B).
"""

from __future__ import annotations

import re
from functools import partial
from typing import Annotated, Any, Literal

from kerascv_course.core.lazy import keras
from kerascv_course.core.schema import Range, Share
from kerascv_course.models.layers import Initializer, activate, classifier, conv_bn_relu, max_pool
from kerascv_course.models.registry import register_model

Padding = Annotated[int, Range(0, 3)]


def residual_block(
    x: Any,
    filters: int,
    stride: int = 1,
    *,
    bottleneck: bool = False,
    stride_in_first: bool = True,
    bias: bool = False,
    project: bool | None = None,
    relu_last: bool = True,
    init: Initializer = "he",
    name: str,
) -> Any:
    """A residual block (He et al. 2016, figure 5): (N, H, W, C) to (N, ⌈H/stride⌉, ⌈W/stride⌉, filters, or 4·filters).

    Args:
        x: float tensor (N, H, W, C).
        filters: width of the block's 3×3 convolutions.
        stride: of one convolution in the main branch, and of the shortcut.
        bottleneck: 1×1, 3×3, 1×1 to 4·filters; otherwise two 3×3.
        stride_in_first: the stride is in the branch's first convolution; otherwise in its second.
        bias: convolutions have biases.
        project: the shortcut is a 1×1 convolution with batch norm; None: where the shape changes only.
        relu_last: one ReLU after the sum; False: one on each branch's end and none after the sum.
        init: how the convolutions start.
        name: prefix of all layers.
    """
    kernels = (1, 3, 1) if bottleneck else (3, 3)
    widths = (filters, filters, 4 * filters) if bottleneck else (filters, filters)
    if project is None:
        project = stride != 1 or x.shape[-1] != widths[-1]

    shortcut, main = x, x
    for index, (kernel, width) in enumerate(zip(kernels, widths, strict=True), start=1):
        main = conv_bn_relu(
            main,
            width,
            kernel,
            stride=stride if index == (1 if stride_in_first else 2) else 1,
            bias=bias,
            relu=index < len(kernels) or not relu_last,
            init=init,
            name=f"{name}_conv{index}",
        )
    if project:
        shortcut = conv_bn_relu(
            shortcut, widths[-1], 1, stride=stride, bias=bias, relu=not relu_last, init=init, name=f"{name}_shortcut"
        )
    x = keras.layers.Add(name=f"{name}_add")([main, shortcut])
    return activate(x, name=f"{name}_relu") if relu_last else x


# --- ResNet-18, -34, -50 ----------------------------------------------------------------------------------------------


def resnet(
    image: Any,
    num_classes: int,
    depths: tuple[int, ...],
    bottleneck: bool,
    last_stride: int = 2,
    *,
    stem: Literal["imagenet", "cifar"] = "imagenet",
    stem_padding: Padding | None = None,
    dropout: Share = 0.0,
    include_top: bool = True,
) -> Any:
    """ResNet: (N, H, W, C) to logits (N, num_classes).

    Args:
        image: float tensor (N, H, W, C).
        num_classes: width of the output layer.
        depths: blocks of each stage.
        bottleneck: three-convolution blocks.
        last_stride: stride of the last stage.
        stem: ``"imagenet"``: 7×7 stride 2 and a 3×3 max-pool stride 2; ``"cifar"``: 3×3 stride 1 without a pool, for images of
            some 32×32 pixels (He et al. 2016, section 4.2, with the widths of table 1).
        stem_padding: zeros on each side in the stem's convolution; None: 3 for ``"imagenet"``, 1 for ``"cifar"``, which keeps
            the size.
        dropout: share of the pooled vector set to zero while training.
        include_top: False: the pooled feature vector, without dropout and dense layer.
    """
    # 224×224 -> 112×112×64 -> 56×56
    small = stem == "cifar"
    if stem_padding is None:
        stem_padding = 1 if small else 3
    x = conv_bn_relu(image, 64, 3 if small else 7, stride=1 if small else 2, padding=stem_padding, name="stem_conv")
    if not small:
        x = max_pool(x, 3, padding=1, name="stem_pool")
    # 56×56×64 -> 28×28×128 -> 14×14×256 -> 7×7×512, four times as many channels with bottlenecks
    for stage, depth in enumerate(depths, start=1):
        stride = 1 if stage == 1 else last_stride if stage == len(depths) else 2
        for block in range(1, depth + 1):
            x = residual_block(
                x,
                32 * 2**stage,
                stride if block == 1 else 1,
                bottleneck=bottleneck,
                stride_in_first=not bottleneck,
                name=f"stage{stage}_block{block}",
            )
    return classifier(x, num_classes, dropout=dropout, include_top=include_top)


def _torch_names(model: Any) -> dict[str, tuple[str, ...]]:
    """torchvision's and timm's: ``conv1``, ``bn1``, ``layer1.0.conv1``, ``layer2.0.downsample.0``, ``fc``."""
    names: dict[str, tuple[str, ...]] = {"stem_conv": ("conv1",), "stem_conv_bn": ("bn1",), "logits": ("fc",)}
    for layer in model.layers:
        if match := re.fullmatch(r"stage(\d)_block(\d+)_(conv(\d)|shortcut)(_bn)?", layer.name):
            stage, block, _, conv, norm = match.groups()
            part = f"{'bn' if norm else 'conv'}{conv}" if conv else f"downsample.{1 if norm else 0}"
            names[layer.name] = (f"layer{stage}.{int(block) - 1}.{part}",)
    return names


def _smallest(*, stem: str, stem_padding: int | None, halvings: int = 3, **_: Any) -> int:
    # Every stride 2 must have a map of 2 or more to halve: ⌈n/2^(reductions−1)⌉ ≥ 2.
    if stem == "cifar":
        return max(1, 2 ** (halvings - 1) + 1 - 2 * ((1 if stem_padding is None else stem_padding) - 1))
    kept = 2 ** (halvings + 1) + 1
    return kept if stem_padding is None else kept + 2 * (3 - stem_padding)


def _register(name: str, parameters: int, source: str, size: int, classes: int, halvings: int = 3, **variant: Any) -> Any:
    return register_model(
        name=name,
        input_shape=(size, size, 3),
        num_classes=classes,
        parameters=parameters,
        source=source,
        min_size=partial(_smallest, halvings=halvings),
        torch_names=_torch_names,
    )(partial(resnet, **variant))


_TABLE = "He et al. 2016, table 1; count: torchvision's"
resnet18 = _register("resnet18", 11_689_512, f"{_TABLE} ResNet-18", 224, 1000, depths=(2, 2, 2, 2), bottleneck=False)
resnet34 = _register("resnet34", 21_797_672, f"{_TABLE} ResNet-34", 224, 1000, depths=(3, 4, 6, 3), bottleneck=False)
resnet50 = _register("resnet50", 25_557_032, f"{_TABLE} ResNet-50", 224, 1000, depths=(3, 4, 6, 3), bottleneck=True)
# Padding 3 with a 3×3 kernel makes 36×36 of 32×32: the report's table has it; stem_padding=1 keeps 32×32.
resnet18_cifar = _register(
    "resnet18_cifar",
    11_173_962,
    "report 002, summary table of ResNet-18 (printed total)",
    32,
    10,
    depths=(2, 2, 2, 2),
    bottleneck=False,
    stem="cifar",
    stem_padding=3,
)
# The last stage keeps its 8×8 maps of a 128×128 image; 11,176,512 without the head, as torchvision's ResNet-18.
resnet18_reid = _register(
    "resnet18_reid",
    11_294_502,
    "report 000, question 1 (11,176,512, include_top=False) and question 6 (dense layer for 230 identities, 117,990)",
    128,
    230,
    halvings=2,
    depths=(2, 2, 2, 2),
    bottleneck=False,
    last_stride=1,
    dropout=0.5,
)


# --- the shortened ResNet-50 of report 003 ----------------------------------------------------------------------------


@register_model(
    input_shape=(32, 32, 3),
    parameters=14_750_730,
    source="COSE474 project 2 (report 003): a projection in every block; 8,898,826 with shortcut='where_needed'",
    min_size=9,
)
def resnet50_cose474(
    image: Any,
    num_classes: int,
    *,
    shortcut: Literal["always", "where_needed"] = "always",
    include_top: bool = True,
) -> Any:
    """A ResNet-50 without its last stage: (N, H, W, C) to logits (N, num_classes).

    Departures from the paper, as the course's starter code has them: convolutions have biases, the *last* block of a stage
    reduces, in its first 1×1 convolution, each branch ends in a ReLU and none follows the sum (both terms are ≥ 0, so it would
    change nothing), and weights start from Glorot's uniform distribution.

    Args:
        image: float tensor (N, H, W, C); 32×32×3 in the course.
        num_classes: width of the output layer.
        shortcut: ``"always"``: a projection in every block, as the course's checkpoints have it; ``"where_needed"``: where the
            shape changes only.
        include_top: False: the pooled feature vector, without the dense layer.
    """
    # 32×32 -> 16×16×64 -> 8×8
    x = conv_bn_relu(image, 64, 7, stride=2, bias=True, init="glorot", name="stem_conv")
    x = max_pool(x, 3, padding=1, name="stem_pool")
    # 8×8×64 -> 4×4×256 -> 2×2×512 -> 2×2×1024
    for stage, (filters, depth, stride) in enumerate(((64, 3, 2), (128, 4, 2), (256, 6, 1)), start=1):
        for block in range(1, depth + 1):
            x = residual_block(
                x,
                filters,
                stride if block == depth else 1,
                bottleneck=True,
                bias=True,
                project=True if shortcut == "always" else None,
                relu_last=False,
                init="glorot",
                name=f"stage{stage}_block{block}",
            )
    x = keras.layers.GlobalAveragePooling2D(keepdims=True, name="pool")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    return keras.layers.Dense(num_classes, name="logits")(x) if include_top else x
