"""Weights of an independent PyTorch network, ported by the public function, give the same outputs.

Both compute in float64 and must agree to 1e-9: what float32 rounding could hide would show. (In float32 most agree to about
1e-6; a ResNet-50 with random weights amplifies rounding to some 2e-5.) The batch-norm statistics come from data and are disturbed,
so that a wrong epsilon, order or statistic shows; odd sizes make every padding and rounding show.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kerascv_course as kcc

torch = pytest.importorskip("torch", reason="PyTorch is not installed (extra [compare])")
safetensors_torch = pytest.importorskip("safetensors.torch", reason="safetensors is not installed (extra [pretrained])")
import torch_reference as reference  # noqa: E402
from torch import nn  # noqa: E402

D = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)
E = (64, 64, 0, 128, 128, 0, 256, 256, 256, 256, 0, 512, 512, 512, 512, 0, 512, 512, 512, 512, 0)
WIDE = (96, 96, *D[2:])
SMALL_HEAD = {"head": (32, 32)}


TOLERANCE = 1e-9


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    import keras

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_dtype_policy(before)


def settle(model: nn.Module, shape: tuple[int, int, int]) -> nn.Module:
    """Weights that let the image through to the output; statistics of data in every batch norm, then disturbed."""
    height, width, channels = shape
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight)
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = None
    model.train().double()
    with torch.no_grad():
        for norm in norms:
            norm.weight.uniform_(0.6, 1.4)
            norm.bias.normal_(0, 0.2)
        model(torch.rand(8, channels, height, width, dtype=torch.float64))
        for norm in norms:
            norm.running_mean.add_(torch.randn_like(norm.running_mean) * norm.running_var.sqrt() * 0.2)
            norm.running_var.mul_(torch.empty_like(norm.running_var).uniform_(0.7, 1.4))
    return model.eval()


def compare(module: nn.Module, name: str, shape: tuple[int, int, int], options: dict[str, Any], folder: Path) -> None:
    module.float().double()  # the file holds float32
    state = {key: value.float().contiguous() for key, value in module.state_dict().items()}
    safetensors_torch.save_file(state, folder / "weights.safetensors")
    model = kcc.create_model(name, 10, shape, weights=folder / "weights.safetensors", **options)
    assert model.loading_report.complete

    images = np.random.default_rng(1).random((3, *shape), dtype=np.float32)
    with torch.no_grad():
        expected = module(torch.from_numpy(images.transpose(0, 3, 1, 2)).double()).numpy()
    if expected.ndim == 4:
        expected = expected.transpose(0, 2, 3, 1)
    got = model(images, training=False).numpy()
    assert got.shape == expected.shape
    assert expected.std(axis=0).max() > 1e-3, "the images make no difference: the comparison would prove little"
    assert got.dtype == expected.dtype == np.float64
    assert np.abs(got - expected).max() <= TOLERANCE * max(1.0, np.abs(expected).max())


CASES: dict[str, tuple[str, tuple[int, int, int], dict[str, Any], Any]] = {
    # 2×3 map: the order of the flattened values matters
    "alexnet": ("alexnet", (95, 127, 3), {}, lambda: reference.alexnet(10, 256 * 2 * 3)),
    "vgg16": ("vgg16", (32, 32, 3), SMALL_HEAD, lambda: reference.vgg(10, D, 512, 32, norm=False)),
    "vgg16-bn-64x96": (
        "vgg16",
        (64, 96, 3),
        SMALL_HEAD | {"batch_norm": True},
        lambda: reference.vgg(10, D, 3072, 32, norm=True),
    ),
    "vgg19": ("vgg19", (64, 33, 3), SMALL_HEAD, lambda: reference.vgg(10, E, 1024, 32, norm=False)),
    "vgg19-bn": ("vgg19", (32, 32, 3), SMALL_HEAD | {"batch_norm": True}, lambda: reference.vgg(10, E, 512, 32, norm=True)),
    "vgg16_wide": ("vgg16_wide", (32, 32, 3), SMALL_HEAD, lambda: reference.vgg(10, WIDE, 512, 32, norm=False)),
    "vgg16_cose474": ("vgg16_cose474", (32, 32, 3), {}, lambda: reference.vgg_cose474(10, D)),
    "googlenet": ("googlenet", (75, 93, 3), {}, lambda: reference.GoogLeNet(10)),
    "mynet": ("mynet", (17, 32, 3), {}, lambda: reference.MyNet(10)),
    "densenet121": ("densenet121", (47, 50, 3), {}, lambda: reference.DenseNet(10, (6, 12, 24, 16), 32, small=False)),
    "densenet_bc100": ("densenet_bc100", (16, 19, 3), {}, lambda: reference.DenseNet(10, (16, 16, 16), 12, small=True)),
    "resnet18": ("resnet18", (49, 64, 3), {}, lambda: reference.ResNet(10, (2, 2, 2, 2), False, None)),
    "resnet34": ("resnet34", (64, 49, 3), {}, lambda: reference.ResNet(10, (3, 4, 6, 3), False, None)),
    "resnet50": ("resnet50", (50, 45, 3), {}, lambda: reference.ResNet(10, (3, 4, 6, 3), True, None)),
    "resnet18_cifar": ("resnet18_cifar", (15, 16, 3), {}, lambda: reference.ResNet(10, (2, 2, 2, 2), False, 3)),
    "resnet18_cifar-1": (
        "resnet18_cifar",
        (15, 16, 3),
        {"stem_padding": 1},
        lambda: reference.ResNet(10, (2, 2, 2, 2), False, 1),
    ),
    "resnet18_reid": ("resnet18_reid", (48, 33, 3), {}, lambda: reference.ResNet(10, (2, 2, 2, 2), False, None, last=1)),
    "resnet50_cose474": ("resnet50_cose474", (32, 32, 3), {}, lambda: reference.Cose474(10, always=True)),
    "resnet50_cose474-8.9M": (
        "resnet50_cose474",
        (32, 32, 3),
        {"shortcut": "where_needed"},
        lambda: reference.Cose474(10, always=False),
    ),
    "tdt4265_model1": ("tdt4265_model1", (32, 32, 3), {}, lambda: reference.Tdt4265(10, (64, 128, 256), False, False, 32)),
    "tdt4265_model1-other": (
        "tdt4265_model1",
        (16, 16, 3),
        {"order": "conv-norm-pool", "downsampling": "strided_conv", "filters": (16, 8)},
        lambda: reference.Tdt4265(10, (16, 8), True, True, 16),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_same_outputs(case: str, tmp_path: Path) -> None:
    name, shape, options, build = CASES[case]
    torch.manual_seed(0)
    compare(settle(build(), shape), name, shape, options, tmp_path)


@pytest.mark.parametrize("kernel", range(2, 8))
@pytest.mark.parametrize(
    ("name", "kind"), [("pool_upsample_net", "pool"), ("conv_transpose_net", "strided"), ("unet_colorizer", "unet")]
)
def test_colorizers(name: str, kind: str, kernel: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    shape = (12, 16, 3)
    module = settle(reference.Colorizer(kind, 3, 8, 10, kernel), shape)
    compare(module, name, shape, {"kernel": kernel, "filters": 8}, tmp_path)


TORCHVISION = {"convolution": "conv", "normalization": "bn"}


def torchvision_name(name: str) -> str:
    """transformers' name of a ResNet's entry to torchvision's."""
    parts = name.split(".")
    if parts[0] == "classifier":
        return f"fc.{parts[-1]}"
    kind = TORCHVISION[parts[-2]]
    if parts[1] == "embedder":
        return f"{kind}1.{parts[-1]}"
    stage, block = int(parts[3]) + 1, parts[5]
    if parts[6] == "shortcut":
        return f"layer{stage}.{block}.downsample.{('conv', 'bn').index(kind)}.{parts[-1]}"
    return f"layer{stage}.{block}.{kind}{int(parts[7]) + 1}.{parts[-1]}"


@pytest.mark.parametrize(
    ("name", "depths", "bottleneck"),
    [("resnet18", (2, 2, 2, 2), False), ("resnet50", (3, 4, 6, 3), True)],
)
def test_resnets_of_transformers(name: str, depths: tuple[int, ...], bottleneck: bool, tmp_path: Path) -> None:
    """An implementation that nobody here wrote."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed (extra [compare])")
    config = transformers.ResNetConfig(
        hidden_sizes=[(256 if bottleneck else 64) * 2**stage for stage in range(4)],
        depths=list(depths),
        layer_type="bottleneck" if bottleneck else "basic",
        num_labels=10,
    )
    torch.manual_seed(0)

    class Renamed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = transformers.ResNetForImageClassification(config)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x).logits

        def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
            return {torchvision_name(key): value for key, value in self.inner.state_dict().items()}

    shape = (49, 64, 3)
    compare(settle(Renamed(), shape), name, shape, {}, tmp_path)
