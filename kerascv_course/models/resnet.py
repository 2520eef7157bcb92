"""Residual networks: ImageNet and CIFAR stems, and three variants from course reports.

He, Zhang, Ren, Sun: "Deep residual learning for image recognition", CVPR 2016, table 1. The paper prints no parameter counts; ours are
those of torchvision's implementation, which differs from the paper in one point: a bottleneck's stride is in its 3×3 convolution
("v1.5", Goyal et al., arXiv:1706.02677, section 5.1). Shortcuts are projections where the shape changes (option B).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

from kerascv_course.core.lazy import keras
from kerascv_course.core.schema import Fraction, Range
from kerascv_course.models.layers import Initializer, activate, classifier, conv_bn_relu, max_pool
from kerascv_course.models.registry import register_model


@dataclass(frozen=True)
class BlockStyle:
    """What a network's residual blocks have in common.

    Attributes:
        bottleneck: 1×1, 3×3, 1×1 to 4·filters; otherwise two 3×3.
        stride_in_first: the stride is in the first convolution of the main branch, otherwise in the second.
        bias: convolutions have biases.
        relu_last: one ReLU after the sum; False: one at the end of each branch and none after the sum.
        init: initializer of the convolutions.
    """

    bottleneck: bool = False
    stride_in_first: bool = True
    bias: bool = False
    relu_last: bool = True
    init: Initializer = "he"


def residual_block(
    x: Any, filters: int, stride: int = 1, *, name: str, style: BlockStyle = BlockStyle(), project: bool | None = None
) -> Any:
    """A residual block (He et al. 2016, figure 5): (N, H, W, C) to (N, ⌈H/stride⌉, ⌈W/stride⌉, filters, or 4·filters).

    Args:
        x: float tensor (N, H, W, C).
        filters: width of the block's 3×3 convolutions.
        stride: of one convolution in the main branch, and of the shortcut.
        name: prefix of all layers.
        style: of the block.
        project: the shortcut is a 1×1 convolution with batch norm; None: only if the shape changes.
    """
    kernels = (1, 3, 1) if style.bottleneck else (3, 3)
    widths = (filters, filters, 4 * filters) if style.bottleneck else (filters, filters)
    if project is None:
        project = stride != 1 or x.shape[-1] != widths[-1]

    shortcut, main = x, x
    for index, (kernel, width) in enumerate(zip(kernels, widths, strict=True), start=1):
        main = conv_bn_relu(
            main,
            width,
            kernel,
            stride=stride if index == (1 if style.stride_in_first else 2) else 1,
            bias=style.bias,
            relu=index < len(kernels) or not style.relu_last,
            init=style.init,
            name=f"{name}_conv{index}",
        )
    if project:
        relu = not style.relu_last
        shortcut = conv_bn_relu(
            shortcut, widths[-1], 1, stride=stride, bias=style.bias, relu=relu, init=style.init, name=f"{name}_shortcut"
        )
    x = keras.layers.Add(name=f"{name}_add")([main, shortcut])
    return activate(x, name=f"{name}_relu") if style.relu_last else x


# --- ResNet-18, -34, -50 ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ResNet:
    """Options of a ResNet.

    Attributes:
        stem: ``"imagenet"``: 7×7 stride 2 and 3×3 max pooling stride 2; ``"cifar"``: 3×3 stride 1 without pooling, for images of
            about 32×32 pixels (He et al. 2016, section 4.2, with the widths of table 1).
        stem_padding: zeros on each side in the stem's convolution; None: 3 for ``"imagenet"``, 1 for ``"cifar"``, which keeps the
            size.
        dropout: fraction of the pooled vector set to zero in training.
        include_top: False: the pooled feature vector, without dropout and dense layer.
    """

    stem: Literal["imagenet", "cifar"] = "imagenet"
    stem_padding: Annotated[int, Range(0, 3)] | None = None
    dropout: Fraction = 0.0
    include_top: bool = True


def resnet(
    image: Any, num_classes: int, options: ResNet, *, depths: tuple[int, ...], bottleneck: bool = False, last_stride: int = 2
) -> Any:
    """ResNet: (N, H, W, C) to logits (N, num_classes).

    Args:
        image: float tensor (N, H, W, C).
        num_classes: width of the output layer.
        options: of the network.
        depths: number of blocks in each stage.
        bottleneck: blocks of three convolutions.
        last_stride: stride of the last stage.
    """
    # 224×224 -> 112×112×64 -> 56×56
    if options.stem == "cifar":
        x = conv_bn_relu(image, 64, 3, padding=_stem_padding(options), name="stem_conv")
    else:
        x = conv_bn_relu(image, 64, 7, stride=2, padding=_stem_padding(options), name="stem_conv")
        x = max_pool(x, 3, padding=1, name="stem_pool")
    # 56×56×64 -> 28×28×128 -> 14×14×256 -> 7×7×512, four times as many channels with bottlenecks
    style = BlockStyle(bottleneck=bottleneck, stride_in_first=not bottleneck)
    for stage, depth in enumerate(depths, start=1):
        stride = 1 if stage == 1 else last_stride if stage == len(depths) else 2
        for block in range(1, depth + 1):
            x = residual_block(x, 32 * 2**stage, stride if block == 1 else 1, style=style, name=f"stage{stage}_block{block}")
    return classifier(x, num_classes, dropout=options.dropout, include_top=options.include_top)


def _stem_padding(options: ResNet) -> int:
    if options.stem_padding is None:
        return 1 if options.stem == "cifar" else 3
    return options.stem_padding


def _torch_names(model: Any) -> dict[str, tuple[str, ...]]:
    """torchvision's and timm's: ``conv1``, ``bn1``, ``layer1.0.conv1``, ``layer2.0.downsample.0``, ``fc``."""
    names: dict[str, tuple[str, ...]] = {"stem_conv": ("conv1",), "stem_conv_bn": ("bn1",), "logits": ("fc",)}
    for layer in model.layers:
        if match := re.fullmatch(r"stage(\d)_block(\d+)_(conv(\d)|shortcut)(_bn)?", layer.name):
            stage, block, _, conv, norm = match.groups()
            part = f"{'bn' if norm else 'conv'}{conv}" if conv else f"downsample.{1 if norm else 0}"
            names[layer.name] = (f"layer{stage}.{int(block) - 1}.{part}",)
    return names


def _register(name: str, parameters: int, source: str, options: ResNet, *, depths: tuple[int, ...], **variant: Any) -> Any:
    defaults = {key: variant.pop(key) for key in ("input_shape", "num_classes") if key in variant}
    halvings = len(depths) - (1 if variant.get("last_stride", 2) == 2 else 2)

    def smallest(chosen: ResNet) -> int:
        # every stride of 2 needs a map of at least 2: ⌈n/2^(halvings−1)⌉ ≥ 2
        padding = _stem_padding(chosen)
        if chosen.stem == "cifar":
            return max(1, (1 << halvings - 1) + 1 - 2 * (padding - 1))
        return (1 << halvings + 1) + 1 + 2 * (3 - padding)

    register = register_model(
        options, name, parameters=parameters, source=source, min_size=smallest, torch_names=_torch_names, **defaults
    )
    return register(partial(resnet, depths=depths, **variant))


_IMAGENET: dict[str, Any] = {"input_shape": (224, 224, 3), "num_classes": 1000}
_TABLE = "He et al. 2016, table 1; count: torchvision's"
resnet18 = _register("resnet18", 11_689_512, f"{_TABLE} ResNet-18", ResNet(), depths=(2, 2, 2, 2), **_IMAGENET)
resnet34 = _register("resnet34", 21_797_672, f"{_TABLE} ResNet-34", ResNet(), depths=(3, 4, 6, 3), **_IMAGENET)
resnet50 = _register("resnet50", 25_557_032, f"{_TABLE} ResNet-50", ResNet(), depths=(3, 4, 6, 3), bottleneck=True, **_IMAGENET)
# padding 3 with a 3×3 kernel makes 36×36 of 32×32, as in the report's table; stem_padding=1 keeps 32×32
resnet18_cifar = _register(
    "resnet18_cifar",
    11_173_962,
    "report 002, summary table of ResNet-18 (printed total)",
    ResNet(stem="cifar", stem_padding=3),
    depths=(2, 2, 2, 2),
    input_shape=(32, 32, 3),
)
# the last stage keeps its 8×8 maps of a 128×128 image; 11,176,512 without the head, as torchvision's ResNet-18
resnet18_reid = _register(
    "resnet18_reid",
    11_294_502,
    "report 000, question 1 (11,176,512, include_top=False) and question 6 (dense layer for 230 identities, 117,990)",
    ResNet(dropout=0.5),
    depths=(2, 2, 2, 2),
    last_stride=1,
    input_shape=(128, 128, 3),
    num_classes=230,
)


# --- the shortened ResNet-50 of report 003 ----------------------------------------------------------------------------


@dataclass(frozen=True)
class ShortResNet:
    """Options of report 003's ResNet-50.

    Attributes:
        shortcut: ``"always"``: a projection in every block, as in the course's checkpoints; ``"where_needed"``: only where the
            shape changes.
        include_top: False: the pooled feature vector, without the dense layer.
    """

    shortcut: Literal["always", "where_needed"] = "always"
    include_top: bool = True


@register_model(
    ShortResNet(),
    input_shape=(32, 32, 3),
    parameters=14_750_730,
    source="COSE474 project 2 (report 003): a projection in every block; 8,898,826 with shortcut='where_needed'",
    min_size=9,
)
def resnet50_cose474(image: Any, num_classes: int, options: ShortResNet) -> Any:
    """A ResNet-50 without its last stage: (N, H, W, C) to logits (N, num_classes); 32×32×3 in the course.

    Departures from the paper, as in the course's starter code: convolutions have biases; the *last* block of a stage downsamples, in
    its first 1×1 convolution; each branch ends in a ReLU and none follows the sum (both terms are ≥ 0, so it would change nothing);
    weights are initialized from Glorot's uniform distribution.
    """
    # 32×32 -> 16×16×64 -> 8×8
    x = conv_bn_relu(image, 64, 7, stride=2, bias=True, init="glorot", name="stem_conv")
    x = max_pool(x, 3, padding=1, name="stem_pool")
    style = BlockStyle(bottleneck=True, bias=True, relu_last=False, init="glorot")
    project = True if options.shortcut == "always" else None
    # 8×8×64 -> 4×4×256 -> 2×2×512 -> 2×2×1024
    for stage, (filters, depth, stride) in enumerate(((64, 3, 2), (128, 4, 2), (256, 6, 1)), start=1):
        for block in range(1, depth + 1):
            step = stride if block == depth else 1
            x = residual_block(x, filters, step, style=style, project=project, name=f"stage{stage}_block{block}")
    x = keras.layers.GlobalAveragePooling2D(keepdims=True, name="pool")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    return keras.layers.Dense(num_classes, name="logits")(x) if options.include_top else x
