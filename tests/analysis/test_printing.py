"""Summaries as table, Markdown, CSV, JSON and module tree; the size check."""

from __future__ import annotations

import csv
import io
import json

import pytest

import kerascv_course as kcc
from kerascv_course.analysis import summarize
from kerascv_course.analysis.printing import check_size, module_tree, to_csv, to_json, to_markdown, to_table
from kerascv_course.core.errors import InputError


@pytest.fixture(scope="module")
def lenet():
    return summarize(kcc.create_model("lenet5"))


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


def test_notes_below_the_table():
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
