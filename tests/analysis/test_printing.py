"""Printers: the reports' torchsummary tables digit for digit, trees, diagrams, Markdown, CSV, JSON and the size check."""

from __future__ import annotations

import csv
import io
import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

import kerascv_course as kcc
from kerascv_course.analysis import summarize
from kerascv_course.analysis.diagram import block_diagram, block_table, blocks_text, diagram_svg, diagram_text
from kerascv_course.analysis.printing import check_size, module_tree, to_csv, to_json, to_markdown, to_table
from kerascv_course.analysis.torchsummary import TorchStyle, torch_rows, torch_summary
from kerascv_course.core.errors import InputError

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


def test_block_diagram_of_report_000():
    summary = summarize(kcc.create_model("resnet18_reid", include_top=False))
    assert [str(b) for b in block_diagram(summary)] == [
        "Input 3×128×128",
        "Conv 7×7+BN+ReLU 64×64×64",
        "max pool 64×32×32",
        "ResBlock ×2 64×32×32",
        "ResBlock-D 128×16×16",
        "ResBlock 128×16×16",
        "ResBlock-D 256×8×8",
        "ResBlock 256×8×8",
        "ResBlock ×2 512×8×8",
        "average pool 512×1×1",
        "Output",
    ]


def test_block_diagrams_of_other_structures():
    text = diagram_text(summarize(kcc.create_model("mynet")))
    assert "Inception ×3 512×16×16" in text and "dropout" in text and text.endswith("→ Output")
    assert all(len(line) <= 100 for line in text.splitlines())
    dense = [b.label for b in block_diagram(summarize(kcc.create_model("densenet_bc100")))]
    assert dense.count("DenseLayer") == 48
    unet = diagram_text(summarize(kcc.create_model("unet_colorizer")))
    assert "Transposed conv 3×3+BN+ReLU 24×32×32 → concatenate 25×32×32" in " ".join(unet.split())


def test_block_table_answers_report_000_question_4():
    summary = summarize(kcc.create_model("resnet18_reid", include_top=False))
    blocks = block_table(summary)
    first = next(b for b in blocks if b.label == "ResBlock")
    assert (first.trainable, first.shape) == (73_984, (64, 32, 32))
    assert [b.label for b in blocks].count("ResBlock") + [b.label for b in blocks].count("ResBlock-D") == 8
    assert "73,984" in blocks_text(summary)


@pytest.mark.parametrize("name", kcc.list_models("*net*"))
def test_blocks_sum_to_the_totals(name):
    summary = summarize(kcc.create_model(name, **({"include_top": False} if name == "alexnet" else {})))
    blocks = block_table(summary)
    assert sum(b.trainable for b in blocks) == summary.trainable
    assert sum(b.frozen for b in blocks) == summary.frozen
    assert sum(b.macs for b in blocks) == summary.macs


def test_diagram_as_svg(lenet):
    root = ET.fromstring(diagram_svg(lenet))
    texts = ["".join(t.itertext()) for t in root.iter("{http://www.w3.org/2000/svg}text")]
    assert texts[0] == "Input 1×32×32" and texts[-1] == "Output"
    assert "Conv 5×5+ReLU 6×28×28" in texts


def test_module_tree():
    text = module_tree(summarize(kcc.create_model("resnet18_cifar")))
    lines = text.splitlines()
    assert lines[0] == "resnet18_cifar(" and lines[-1] == ")"
    names = [line.strip().split(":")[0] for line in lines if ":" in line]
    assert "(stage1)" in names and "(block2)" in names and "(conv1_bn)" in names
    # every layer is there once, in its order
    assert sum("Conv2D(" in line for line in lines) == 20
    assert "(conv1): Conv2D(36×36×64 → 36×36×64, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), 36,864 parameters)" in text
    assert text.count("(") == text.count(")")


def test_table_and_markdown(lenet):
    table = to_table(lenet)
    assert "MACs         416,520" in table and "61,706 trainable" in table
    assert [line.split()[1] for line in table.splitlines()[2:4]] == ["InputLayer", "Conv2D"]
    markdown = to_markdown(lenet).splitlines()
    assert len({line.count("|") for line in markdown[:16]}) == 1
    assert " ".join(markdown[15].split()).startswith("| | total | lenet5 |")
    assert "- field        32×32 input pixels per output, shared by all outputs" in markdown


def test_notes_stand_below_the_table():
    text = to_table(summarize(kcc.create_model("pool_upsample_net")))
    assert "≤" in text and "neighboring units share their field" in text


def test_csv_and_json_carry_everything(lenet):
    rows = list(csv.DictReader(io.StringIO(to_csv(lenet))))
    assert [int(r["macs"]) for r in rows] == [r.macs for r in lenet.rows]
    assert rows[1]["field"] == "5,5" and rows[1]["kernel"] == "5,5"
    data = json.loads(to_json(lenet))
    assert data["parameters"] == 61_706 and len(data["rows"]) == len(lenet.rows)
    assert data["rows"][1]["receptive_field"]["size"] == [5, 5]
    assert data["neurons"] == sum(r["neurons"] for r in data["rows"])


def test_size_check():
    summary = summarize(kcc.create_model("vgg16_wide"))
    check = check_size(summary)
    assert not check.fits and "ABOVE the limit of 80 MB" in str(check)
    assert check_size(summary, 200).fits
    assert check_size(summarize(kcc.create_model("mynet"))).fits
    with pytest.raises(InputError, match="above 0 MB; received 0"):
        check_size(summary, 0)


def test_size_check_of_a_file_counts_the_file(tmp_path):
    from export import export_model

    path = export_model(kcc.create_model("lenet5"), tmp_path / "m.onnx", input_dtype="float32")
    check = check_size(summarize(path), 0.1)
    assert not check.fits and f"file {path.stat().st_size / 2**20:.2f} MB" in str(check)
