"""Block diagrams and block tables."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

import kerascv_course as kcc
from kerascv_course.analysis import summarize
from kerascv_course.analysis.diagram import block_diagram, block_table, blocks_text, diagram_svg, diagram_text


@pytest.fixture(scope="module")
def lenet():
    return summarize(kcc.create_model("lenet5"))


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
