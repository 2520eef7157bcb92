"""Layer tables of the course reports, row by row: type, shape and parameters of every row, and every printed convolution.

The tables are PyTorch summaries. Containers (BasicBlock, Inception …) have rows of their own there, shortcuts that change
nothing appear as Identity, some ReLUs are functional and have none, and padding belongs to the layer that it precedes.
"""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import kerascv_course as kcc

GOLDEN = Path(__file__).parents[1] / "golden"

TYPES = {
    "Conv2D": "Conv2d",
    "Conv2DTranspose": "ConvTranspose2d",
    "ReLU": "ReLU",
    "MaxPooling2D": "MaxPool2d",
    "GlobalAveragePooling2D": "AvgPool2d",
    "UpSampling2D": "Upsample",
    "Concatenate": "Concat",
    "Flatten": "Flatten",
    "Dropout": "Dropout",
    "Dense": "Linear",
}


class Row(NamedTuple):
    type: str
    shape: str
    params: int


def execution_order(model: Any) -> list[Any]:
    """Layers in the order a PyTorch forward runs: the first input of a sum or concatenation is finished before the second."""
    order: list[Any] = []

    def visit(tensor: Any) -> None:
        layer, node, _ = tensor._keras_history
        if layer not in order:
            for source in layer._inbound_nodes[node].input_tensors:
                visit(source)
            order.append(layer)

    visit(model.output)
    return order[1:]  # without the input


def torch_type(layer: Any) -> str:
    kind = type(layer).__name__
    return f"BatchNorm{len(layer.output.shape) - 2 or 1}d" if kind == "BatchNormalization" else TYPES.get(kind, kind)


def channels_first(layer: Any) -> str:
    _, *space, channels = layer.output.shape
    if type(layer).__name__ == "GlobalAveragePooling2D":
        space = [1, 1]
    return ",".join(map(str, [channels, *space]))


def trainable(layer: Any) -> int:
    return sum(math.prod(weight.shape) for weight in layer.trainable_weights)


def rows(model: Any, types_of: Any = lambda layer: [torch_type(layer)]) -> list[Row]:
    """A PyTorch-like table; `types_of` gives the rows that a layer has in it, the first with the layer's parameters."""
    table: list[Row] = []
    for layer in execution_order(model):
        kind = type(layer).__name__
        if kind == "ZeroPadding2D":
            continue
        if kind == "Cropping2D":  # the padding of the transposed convolution before it
            table[-1] = table[-1]._replace(shape=channels_first(layer))
            continue
        for index, name in enumerate(types_of(layer)):
            table.append(Row(name, channels_first(layer), 0 if index else trainable(layer)))
    return table


def golden(name: str) -> list[Row]:
    with (GOLDEN / f"{name}.csv").open(newline="") as file:
        return [Row(row["type"], row["output_shape"], int(row["params"])) for row in csv.DictReader(file)]


def reid_types(layer: Any) -> list[str]:
    kind = torch_type(layer)
    if kind == "Add":
        second = layer._inbound_nodes[0].input_tensors[1]._keras_history[0]
        return [] if second.name.endswith("_shortcut_bn") else ["Identity"]
    return ["ReLU", "ResBlock"] if kind == "ReLU" and "_conv" not in layer.name else [kind]


def cifar_types(layer: Any) -> list[str]:
    kind = torch_type(layer)
    if kind == "Add":
        return []
    if layer.name == "stem_conv_relu":
        return ["ReLU", "Identity"]  # the max-pool that was taken out
    if kind == "ReLU" and "_conv" not in layer.name:
        return ["ReLU", "BasicBlock"]
    return {"Linear": ["Linear", "ResNet"], "AvgPool2d": ["AdaptiveAvgPool2d"]}.get(kind, [kind])


def mynet_types(layer: Any) -> list[str]:
    kind = torch_type(layer)
    if kind == "ReLU" and layer.name != "stem_conv_relu":
        return ["BasicConv2d"]
    return ["Inception"] if kind == "Concat" else [kind]


def cose_types(layer: Any) -> list[str]:
    kind = torch_type(layer)
    return ["ResidualBlock"] if kind == "Add" else [kind]


PRINTED = {
    "000_reid_resnet18": (72, "resnet18_reid", {"include_top": False}, reid_types),
    "002_mynet": (214, "mynet", {"dropout": 0.0}, mynet_types),
    "002_resnet18_cifar": (69, "resnet18_cifar", {}, cifar_types),
    "derived_003_resnet50_layer4": (176, "resnet50_cose474", {}, cose_types),
}
DERIVED = {
    "derived_001_base_cnn": (13, "tdt4265_base"),
    "derived_001_model1": (18, "tdt4265_model1"),
    "derived_001_model2": (17, "tdt4265_model2"),
    "derived_003_vgg16": (38, "vgg16_cose474"),
    "derived_004_pool_upsample_net_32": (17, "pool_upsample_net"),
    "derived_004_conv_transpose_net_32": (13, "conv_transpose_net"),
    "derived_004_unet_32": (15, "unet_colorizer"),
}


@pytest.mark.parametrize("table", PRINTED)
def test_tables_with_containers(table: str) -> None:
    count, name, options, types_of = PRINTED[table]
    expected = golden(table)
    assert len(expected) == count
    assert rows(kcc.create_model(name, **options), types_of) == expected


@pytest.mark.parametrize("table", DERIVED)
def test_tables_without_containers(table: str) -> None:
    count, name = DERIVED[table]
    expected = golden(table)
    assert len(expected) == count
    assert rows(kcc.create_model(name)) == expected


@pytest.mark.parametrize("name", ["pool_upsample_net", "conv_transpose_net", "unet_colorizer"])
def test_colorizers_at_64(name: str) -> None:
    table = {"unet_colorizer": "unet"}.get(name, name)
    assert rows(kcc.create_model(name, input_shape=(64, 64, 1))) == golden(f"derived_004_{table}_64")


@pytest.mark.parametrize(("table", "name"), [("002_mynet_convs", "mynet"), ("002_resnet18_convs", "resnet18_cifar")])
def test_every_printed_convolution(table: str, name: str) -> None:
    """Channels, kernel, stride, padding and bias as the printed module trees have them."""
    with (GOLDEN / f"{table}.csv").open(newline="") as file:
        expected = [
            (
                *(int(row[key]) for key in ("cin", "cout", "kernel", "stride", "padding")),
                row["bias"] == "True",
                int(row["params"]),
            )
            for row in csv.DictReader(file)
        ]
    found, padding = [], 0
    for layer in execution_order(kcc.create_model(name)):
        kind = type(layer).__name__
        if kind == "ZeroPadding2D":
            padding = layer.padding[0][0]
        if kind == "Conv2D":
            (kernel, _), (stride, _) = layer.kernel_size, layer.strides
            zeros = kernel // 2 if layer.padding == "same" else padding
            found.append((layer.kernel.shape[2], layer.filters, kernel, stride, zeros, layer.use_bias, trainable(layer)))
            padding = 0
    assert found == expected


def test_no_table_is_forgotten() -> None:
    tested = {*PRINTED, *DERIVED, "002_mynet_convs", "002_resnet18_convs"}
    tested |= {f"derived_004_{name}_64" for name in ("pool_upsample_net", "conv_transpose_net", "unet")}
    assert {path.stem for path in GOLDEN.glob("*.csv")} == tested
