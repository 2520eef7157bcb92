"""Networks that `benchmark_train` compares with, in plain torch.nn; layer for layer the Keras ones."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["NETWORKS"]


def lenet5() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)),
    )


def tdt4265_base() -> nn.Module:
    stages: list[nn.Module] = []
    for before, width in ((3, 32), (32, 64), (64, 128)):
        stages += [nn.Conv2d(before, width, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*stages, nn.Flatten(), nn.Linear(2048, 64), nn.ReLU(), nn.Linear(64, 10))


class BasicBlock(nn.Module):
    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(before, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.shortcut = nn.Sequential()
        if before != width:
            self.shortcut = nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


def resnet18_cifar() -> nn.Module:
    blocks: list[nn.Module] = []
    for stage, (before, width) in enumerate(((64, 64), (64, 128), (128, 256), (256, 512))):
        blocks += [BasicBlock(before, width, 2 if stage else 1), BasicBlock(width, width, 1)]
    # padding 3 makes 36×36 of 32×32, as in the Keras network
    stem = (nn.Conv2d(3, 64, 3, 1, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU())
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))


def norm_shift(width: int) -> nn.Module:
    """Batch norm that learns no scale."""
    norm = nn.BatchNorm2d(width, momentum=0.4)
    norm.weight.requires_grad_(False)
    return norm


def fastnet() -> nn.Module:
    whiten = nn.Conv2d(3, 24, 2, bias=False).requires_grad_(False)
    layers: list[nn.Module] = [whiten, nn.SiLU()]
    for before, width in ((24, 64), (64, 256), (256, 256)):
        layers += [nn.Conv2d(before, width, 3, 1, 1, bias=False), nn.MaxPool2d(2), norm_shift(width), nn.SiLU()]
        layers += [nn.Conv2d(width, width, 3, 1, 1, bias=False), norm_shift(width), nn.SiLU()]
    return nn.Sequential(*layers, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(256, 10, bias=False))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "lenet5": lenet5,
    "tdt4265_base": tdt4265_base,
    "fastnet": fastnet,
    "resnet18_cifar": resnet18_cifar,
}
