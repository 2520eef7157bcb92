"""The networks once more, in plain torch.nn, with the parameter names of torchvision where it has the network.

Written from the papers and the published names and shapes, independently of the Keras code: nothing of the package is imported.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def alexnet(classes: int, flat: int) -> nn.Module:
    features = nn.Sequential(
        nn.Conv2d(3, 64, 11, stride=4, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
    )
    head: list[nn.Module] = [nn.Dropout(), nn.Linear(flat, 4096), nn.ReLU()]
    head += [nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, classes)]
    return FlatHead(features, nn.Sequential(*head))


class FlatHead(nn.Module):
    def __init__(self, features: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.features, self.classifier = features, classifier

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.features(x), 1))


def vgg(classes: int, plan: Iterable[int], flat: int, head: int, norm: bool) -> nn.Module:
    """`plan`: widths, 0 for a pool."""
    features: list[nn.Module] = []
    channels = 3
    for width in plan:
        if not width:
            features.append(nn.MaxPool2d(2, 2))
            continue
        features.append(nn.Conv2d(channels, width, 3, padding=1))
        features += [nn.BatchNorm2d(width)] if norm else []
        features.append(nn.ReLU())
        channels = width
    classifier: list[nn.Module] = [nn.Linear(flat, head), nn.ReLU(), nn.Dropout()]
    classifier += [nn.Linear(head, head), nn.ReLU(), nn.Dropout(), nn.Linear(head, classes)]
    return FlatHead(nn.Sequential(*features), nn.Sequential(*classifier))


def vgg_cose474(classes: int, plan: Iterable[int]) -> nn.Module:
    model = vgg(classes, plan, 512, 8, norm=False)
    model.classifier = nn.Sequential(
        nn.Dropout(), nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Dropout(), nn.Linear(512, classes)
    )
    return model


class BasicConv(nn.Module):
    def __init__(self, cin: int, cout: int, kernel: int, stride: int = 1, padding: int = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(cin, cout, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(cout, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class Inception(nn.Module):
    def __init__(self, cin: int, one: int, two: tuple[int, int], three: tuple[int, ...], four: int, ceil: bool) -> None:
        super().__init__()
        self.branch1 = BasicConv(cin, one, 1)
        self.branch2 = nn.Sequential(BasicConv(cin, two[0], 1), BasicConv(two[0], two[1], 3, padding=1))
        steps = [BasicConv(cin, three[0], 1)]
        steps += [BasicConv(a, b, 3, padding=1) for a, b in pairwise(three)]
        self.branch3 = nn.Sequential(*steps)
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, 1, ceil_mode=ceil), BasicConv(cin, four, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


TABLE = {
    "3a": (192, 64, (96, 128), (16, 32), 32),
    "3b": (256, 128, (128, 192), (32, 96), 64),
    "4a": (480, 192, (96, 208), (16, 48), 64),
    "4b": (512, 160, (112, 224), (24, 64), 64),
    "4c": (512, 128, (128, 256), (24, 64), 64),
    "4d": (512, 112, (144, 288), (32, 64), 64),
    "4e": (528, 256, (160, 320), (32, 128), 128),
    "5a": (832, 256, (160, 320), (32, 128), 128),
    "5b": (832, 384, (192, 384), (48, 128), 128),
}


class GoogLeNet(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1 = BasicConv(3, 64, 7, 2, 3)
        self.conv2 = BasicConv(64, 64, 1)
        self.conv3 = BasicConv(64, 192, 3, padding=1)
        for block, (cin, one, two, three, four) in TABLE.items():
            setattr(self, f"inception{block}", Inception(cin, one, two, three, four, ceil=True))
        self.fc = nn.Linear(1024, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.conv1(x), 3, 2, ceil_mode=True)
        x = F.max_pool2d(self.conv3(self.conv2(x)), 3, 2, ceil_mode=True)
        for block in TABLE:
            if block == "4a":
                x = F.max_pool2d(x, 3, 2, ceil_mode=True)
            if block == "5a":
                x = F.max_pool2d(x, 2, 2, ceil_mode=True)
            x = getattr(self, f"inception{block}")(x)
        return self.fc(x.mean((2, 3)))


class MyNet(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv2d(3, 192, 3, padding=1), nn.BatchNorm2d(192), nn.ReLU())
        for block, (cin, one, two, (reduce, width), four) in TABLE.items():
            setattr(self, f"inception_{block}", Inception(cin, one, two, (reduce, width, width), four, ceil=False))
        self.fc = nn.Linear(1024, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        for block in TABLE:
            if block in ("4a", "5a"):
                x = F.max_pool2d(x, 3, 2, 1)
            x = getattr(self, f"inception_{block}")(x)
        return self.fc(x.mean((2, 3)))


class DenseLayer(nn.Module):
    def __init__(self, cin: int, growth: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(cin), nn.Conv2d(cin, 4 * growth, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(4 * growth), nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        new = self.conv1(F.relu(self.norm1(x)))
        return torch.cat([x, self.conv2(F.relu(self.norm2(new)))], 1)


class DenseNet(nn.Module):
    def __init__(self, classes: int, depths: tuple[int, ...], growth: int, small: bool) -> None:
        super().__init__()
        channels = 2 * growth
        self.features = nn.Sequential()
        if small:
            self.features.add_module("conv0", nn.Conv2d(3, channels, 3, 1, 1, bias=False))
        else:
            self.features.add_module("conv0", nn.Conv2d(3, channels, 7, 2, 3, bias=False))
            self.features.add_module("norm0", nn.BatchNorm2d(channels))
            self.features.add_module("relu0", nn.ReLU())
            self.features.add_module("pool0", nn.MaxPool2d(3, 2, 1))
        for stage, depth in enumerate(depths, 1):
            block = nn.Sequential()
            for layer in range(1, depth + 1):
                block.add_module(f"denselayer{layer}", DenseLayer(channels, growth))
                channels += growth
            self.features.add_module(f"denseblock{stage}", block)
            if stage < len(depths):
                transition = nn.Sequential()
                transition.add_module("norm", nn.BatchNorm2d(channels))
                transition.add_module("relu", nn.ReLU())
                transition.add_module("conv", nn.Conv2d(channels, channels // 2, 1, bias=False))
                transition.add_module("pool", nn.AvgPool2d(2, 2))
                self.features.add_module(f"transition{stage}", transition)
                channels //= 2
        self.features.add_module("norm5", nn.BatchNorm2d(channels))
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(F.relu(self.features(x)).mean((2, 3)))


class Block(nn.Module):
    def __init__(self, cin: int, width: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        cout = 4 * width if bottleneck else width
        kernels = (1, 3, 1) if bottleneck else (3, 3)
        strided = 1 if bottleneck else 0
        channels = cin
        self.count = len(kernels)
        for i, kernel in enumerate(kernels):
            out = cout if i == self.count - 1 else width
            step = stride if i == strided else 1
            setattr(self, f"conv{i + 1}", nn.Conv2d(channels, out, kernel, step, kernel // 2, bias=False))
            setattr(self, f"bn{i + 1}", nn.BatchNorm2d(out))
            channels = out
        self.downsample = None
        if stride != 1 or cin != cout:
            self.downsample = nn.Sequential(nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout))

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for i in range(1, self.count + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            y = F.relu(y) if i < self.count else y
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """`padding` None: the ImageNet stem; else a 3×3 stem with that padding and no pool."""

    def __init__(self, classes: int, depths: tuple[int, ...], bottleneck: bool, padding: int | None, last: int = 2) -> None:
        super().__init__()
        self.pool = padding is None
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False) if padding is None else nn.Conv2d(3, 64, 3, 1, padding, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        channels = 64
        for stage, (depth, stride) in enumerate(zip(depths, (1, 2, 2, last), strict=True)):
            width = 64 * 2**stage
            blocks = []
            for index in range(depth):
                blocks.append(Block(channels, width, 1 if index else stride, bottleneck))
                channels = 4 * width if bottleneck else width
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.max_pool2d(x, 3, 2, 1) if self.pool else x
        for stage in range(1, 5):
            x = getattr(self, f"layer{stage}")(x)
        return self.fc(x.mean((2, 3)))


class Cose474(nn.Module):
    """The shortened ResNet-50 of report 003, under the Keras layers' names."""

    def __init__(self, classes: int, always: bool) -> None:
        super().__init__()
        self.plan = []
        self._unit("stem_conv", 3, 64, 7)
        channels = 64
        for stage, (width, depth, stride) in enumerate(((64, 3, 2), (128, 4, 2), (256, 6, 1)), 1):
            for block in range(1, depth + 1):
                name, step = f"stage{stage}_block{block}", stride if block == depth else 1
                self._unit(f"{name}_conv1", channels, width, 1)
                self._unit(f"{name}_conv2", width, width, 3)
                self._unit(f"{name}_conv3", width, 4 * width, 1)
                project = always or step != 1 or channels != 4 * width
                if project:
                    self._unit(f"{name}_shortcut", channels, 4 * width, 1)
                self.plan.append((name, step, project))
                channels = 4 * width
        self.logits = nn.Linear(channels, classes)

    def _unit(self, name: str, cin: int, cout: int, kernel: int) -> None:
        setattr(self, name, nn.Conv2d(cin, cout, kernel))
        setattr(self, f"{name}_bn", nn.BatchNorm2d(cout))

    def _run(self, name: str, x: Tensor, stride: int = 1, padding: int = 0) -> Tensor:
        conv = getattr(self, name)
        return F.relu(getattr(self, f"{name}_bn")(F.conv2d(x, conv.weight, conv.bias, stride, padding)))

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self._run("stem_conv", x, 2, 3), 3, 2, 1)
        for name, stride, project in self.plan:
            y = self._run(f"{name}_conv1", x, stride)
            y = self._run(f"{name}_conv3", self._run(f"{name}_conv2", y, 1, 1))
            x = y + (self._run(f"{name}_shortcut", x, stride) if project else x)
        return self.logits(F.avg_pool2d(x, 2).flatten(1))


class Tdt4265(nn.Module):
    def __init__(self, classes: int, filters: tuple[int, ...], norm_first: bool, strided: bool, size: int) -> None:
        super().__init__()
        self.norm_first, self.strided, self.stages = norm_first, strided, len(filters)
        channels = 3
        for stage, width in enumerate(filters, 1):
            setattr(self, f"stage{stage}_conv", nn.Conv2d(channels, width, 5, 2 if strided else 1, 2))
            setattr(self, f"stage{stage}_norm", nn.BatchNorm2d(width))
            channels = width
        self.fc1 = nn.Linear(channels * (size // 2 ** len(filters)) ** 2, 64)
        self.fc1_norm = nn.BatchNorm1d(64)
        self.logits = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        for stage in range(1, self.stages + 1):
            norm = getattr(self, f"stage{stage}_norm")
            x = getattr(self, f"stage{stage}_conv")(x)
            x = F.relu(norm(x) if self.norm_first else x)
            x = x if self.strided else F.max_pool2d(x, 2)
            x = x if self.norm_first else norm(x)
        return self.logits(self.fc1_norm(F.relu(self.fc1(x.flatten(1)))))


class Colorizer(nn.Module):
    """The three colorizers of report 004: ``pool``, ``strided`` or ``unet``."""

    def __init__(self, kind: str, inputs: int, filters: int, colors: int, k: int) -> None:
        super().__init__()
        self.kind, self.k = kind, k
        pad = (k - 1) // 2
        up = {"stride": 2, "padding": pad, "output_padding": k % 2}
        skip = kind == "unet"
        if kind == "pool":
            self.block1_conv, self.block2_conv = nn.Conv2d(inputs, filters, k), nn.Conv2d(filters, 2 * filters, k)
            self.block3_conv, self.block4_conv = nn.Conv2d(2 * filters, filters, k), nn.Conv2d(filters, colors, k)
        else:
            self.block1_conv = nn.Conv2d(inputs, filters, k, 2, pad)
            self.block2_conv = nn.Conv2d(filters, 2 * filters, k, 2, pad)
            self.block3_deconv = nn.ConvTranspose2d(2 * filters, filters, k, **up)
            self.block4_deconv = nn.ConvTranspose2d(2 * filters if skip else filters, colors, k, **up)
        self.block1_bn, self.block2_bn = nn.BatchNorm2d(filters), nn.BatchNorm2d(2 * filters)
        self.block3_bn, self.block4_bn = nn.BatchNorm2d(filters), nn.BatchNorm2d(colors)
        self.logits = nn.Conv2d(colors + inputs if skip else colors, colors, k)

    def _same(self, conv: nn.Module, x: Tensor) -> Tensor:
        before, after = (self.k - 1) // 2, self.k // 2
        return conv(F.pad(x, (before, after, before, after)))

    def forward(self, image: Tensor) -> Tensor:
        if self.kind == "pool":
            x = F.relu(self.block1_bn(F.max_pool2d(self._same(self.block1_conv, image), 2)))
            x = F.relu(self.block2_bn(F.max_pool2d(self._same(self.block2_conv, x), 2)))
            x = F.relu(self.block3_bn(F.interpolate(self._same(self.block3_conv, x), scale_factor=2)))
            x = F.relu(self.block4_bn(F.interpolate(self._same(self.block4_conv, x), scale_factor=2)))
        else:
            first = F.relu(self.block1_bn(self.block1_conv(image)))
            x = F.relu(self.block2_bn(self.block2_conv(first)))
            x = F.relu(self.block3_bn(self.block3_deconv(x)))
            x = torch.cat([x, first], 1) if self.kind == "unet" else x
            x = F.relu(self.block4_bn(self.block4_deconv(x)))
            x = torch.cat([x, image], 1) if self.kind == "unet" else x
        return self._same(self.logits, x)
