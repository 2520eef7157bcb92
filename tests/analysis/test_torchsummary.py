"""torchsummary's table: the reports' own tables digit for digit."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

import kerascv_course as kcc
from kerascv_course.analysis import summarize
from kerascv_course.analysis.torchsummary import TorchStyle, torch_rows, torch_summary

GOLDEN = Path(__file__).parents[1] / "golden"
TABLES = {
    "000_reid_resnet18": ("resnet18_reid", {"include_top": False}),
    "002_mynet": ("mynet", {}),
    "002_resnet18_cifar": ("resnet18_cifar", {}),
    "derived_001_base_cnn": ("tdt4265_base", {}),
    "derived_001_model1": ("tdt4265_model1", {}),
    "derived_001_model2": ("tdt4265_model2", {}),
    "derived_003_resnet50_layer4": ("resnet50_cose474", {}),
    "derived_003_vgg16": ("vgg16_cose474", {}),
    **{f"derived_004_conv_transpose_net_{s}": ("conv_transpose_net", {"input_shape": (s, s, 1)}) for s in (32, 64)},
    **{f"derived_004_pool_upsample_net_{s}": ("pool_upsample_net", {"input_shape": (s, s, 1)}) for s in (32, 64)},
    **{f"derived_004_unet_{s}": ("unet_colorizer", {"input_shape": (s, s, 1)}) for s in (32, 64)},
}


@pytest.fixture(scope="module")
def lenet():
    return summarize(kcc.create_model("lenet5"))


@pytest.mark.parametrize("table", TABLES)
def test_torch_rows_are_the_golden_table(table):
    name, options = TABLES[table]
    rows = torch_rows(summarize(kcc.create_model(name, **options)))
    with (GOLDEN / f"{table}.csv").open() as file:
        golden = [(int(r["index"]), r["type"], r["output_shape"], int(r["params"])) for r in csv.DictReader(file)]
    assert [(r.index, r.type, ",".join(map(str, r.shape)), r.parameters) for r in rows] == golden


@pytest.mark.parametrize(
    ("name", "options", "parameters", "sizes"),
    [
        ("resnet18_reid", {"include_top": False}, 11_176_512, ("0.19", "25.13", "42.64", "67.95")),
        ("mynet", {}, 6_158_538, ("0.01", "81.42", "23.49", "104.93")),
        ("resnet18_cifar", {}, 11_173_962, ("0.01", "20.55", "42.63", "63.19")),
    ],
)
def test_torch_summary_prints_the_reports_totals(name, options, parameters, sizes):
    lines = torch_summary(summarize(kcc.create_model(name, **options))).splitlines()
    assert lines[-9:] == [
        f"Total params: {parameters:,}",
        f"Trainable params: {parameters:,}",
        "Non-trainable params: 0",
        "-" * 64,
        f"Input size (MB): {sizes[0]}",
        f"Forward/backward pass size (MB): {sizes[1]}",
        f"Params size (MB): {sizes[2]}",
        f"Estimated Total Size (MB): {sizes[3]}",
        "-" * 64,
    ]


def test_torch_summary_lines(lenet):
    lines = torch_summary(lenet).splitlines()
    assert lines[:4] == [
        "-" * 64,
        "        Layer (type)               Output Shape         Param #",
        "=" * 64,
        "            Conv2d-1            [-1, 6, 28, 28]             156",
    ]
    assert "           Flatten-7                  [-1, 400]               0" in lines
    assert "            Linear-8                  [-1, 120]          48,120" in lines


def test_frozen_parameters_are_non_trainable_and_moving_statistics_are_none():
    model = kcc.create_model("tdt4265_model1")
    for layer in model.layers[:-1]:
        layer.trainable = False
    text = torch_summary(summarize(model))
    assert "Total params: 1,293,130\nTrainable params: 650\nNon-trainable params: 1,292,480" in text


def test_another_style_names_other_containers():
    rows = torch_rows(summarize(kcc.create_model("resnet18_cifar")), TorchStyle(residual="Block"))
    assert [r.type for r in rows].count("Block") == 8
    assert not [r for r in rows if r.type in ("BasicBlock", "ResNet", "Identity")]
