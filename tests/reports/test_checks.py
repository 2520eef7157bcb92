"""Every erratum is shown by a computation: the right value comes out, and is typed in nowhere."""

from __future__ import annotations

import ast
import csv
import importlib
import inspect
import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

from kerascv_course.core.errors import InputError, UnknownNameError
from kerascv_course.reports import checks
from kerascv_course.reports.checks import show
from kerascv_course.reports.checks.evidence import CHECKS
from kerascv_course.reports.targets import all_errata, erratum, printed, printed_numbers

IDS = [one.id for one in all_errata()]
STRICT = [e.id for e in all_errata() if e.kind.split()[0].split("/")[0] in ("arithmetic", "conceptual", "algebra", "sign")]
MODULES = list(Path(checks.__file__).parent.glob("*.py"))
NUMBER = re.compile(r"(?<![\d\w)])-?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+(?:\.\d+)?)|(?<=[a-zA-Z^(])\d+")
#: Numbers in the right text that name a place or belong to the lost pages: nothing to compute.
PLACES = {"E000-02": {3}, "E001-08": {2}, "E002-03": {5}, "E002-09": {167, 1, 59, 130, 2}}


def numbers(text: str) -> list[tuple[float, int]]:
    """Numbers with their decimals."""
    found = [match.replace(",", "") for match in NUMBER.findall(text)]
    return [(float(token), len(token.partition(".")[2])) for token in found]


def missing(identifier: str, lines: tuple[str, ...] | list[str]) -> set[float]:
    """Numbers of the right text that the lines do not have."""
    shown = [value for value, _ in numbers(" ".join(lines))]
    return {
        value
        for value, decimals in numbers(erratum(identifier).correct)
        if value not in PLACES.get(identifier, ()) and not any(round(number, decimals) == value for number in shown)
    }


def in_order(identifier: str, lines: tuple[str, ...] | list[str]) -> bool:
    """The numbers of the right text stand in the lines, in its order."""
    shown = iter([value for value, _ in numbers(" ".join(lines))])
    return all(
        any(round(number, decimals) == value for number in shown) for value, decimals in numbers(erratum(identifier).correct)
    )


@pytest.fixture(scope="module")
def shown():
    return {identifier: show(identifier) for identifier in IDS}


def test_every_erratum_has_evidence_and_an_existing_source(shown):
    assert set(CHECKS) == set(IDS) and len(IDS) == 47
    for identifier, one in shown.items():
        assert one.erratum is erratum(identifier)
        assert one.lines and all(line.strip() and "\n" not in line for line in one.lines)
        assert identifier in str(one) and one.source in str(one)
        for name in one.source.split(", "):
            module, _, attribute = name.rpartition(".")
            assert callable(getattr(importlib.import_module(module), attribute))


@pytest.mark.parametrize("identifier", IDS)
def test_correct_values_are_computed(shown, identifier):
    assert not missing(identifier, shown[identifier].lines)


@pytest.mark.parametrize("identifier", STRICT)
def test_correct_values_are_computed_in_order(shown, identifier):
    lines = shown[identifier].lines
    text = "\n".join(lines)
    right = erratum(identifier).correct
    if identifier == "E001-03":
        assert (
            re.search(r"max pooling is unchanged 64 times", text) and "convolution 0 times" in text and "max pooling" in right
        )
    elif identifier == "E001-13":
        gaps = [float(n) for n in re.findall(r"([\d.]+) points", text)]
        assert [round(gap) for gap in gaps] == [int(n) for n in re.search(r"(\d+)-(\d+) point", right).groups()]
    elif identifier == "E002-07":
        symmetric, other = (re.search(r"_ji\| ([\d.]+).* accuracy (\d+) %", line).groups() for line in lines)
        assert float(symmetric[0]) == 0 < float(other[0]) and int(symmetric[1]) < int(other[1])
    elif identifier == "E003-01":
        for line, model in zip(lines, ("VGG16", "ResNet50_layer4"), strict=False):
            means = printed_numbers("003", "1 epoch", "running mean", model)
            blocks = [value for value, _ in numbers(line.split("themselves")[1])][: len(means)]
            again = [sum(blocks[:n]) / n for n in range(1, len(means) + 1)]
            assert again == pytest.approx(means, abs=1e-4)  # the mean over the blocks so far is what was printed
            assert max(blocks) - min(blocks) > max(means) - min(means)
    elif identifier == "E004-01":
        plus, minus = (float(n) for n in re.findall(r"[+-]\(2 eta/b\) t_B0\^T B0 by ([\d.e+-]+)", text))
        assert plus < 1e-12 < 1e-2 < minus and f"the sign is {right[0]};" in text
    elif identifier == "E004-02":
        assert lines[0].count("undefined") == 2 and "undefined" not in lines[1]
        assert float(lines[1].rpartition(" ")[2]) < 1e-12
    elif identifier == "E004-05":
        assert lines[0].count(right[: right.index("]") + 1]) == 2  # by the formula, and by differences
    elif identifier == "E004-07":
        assert lines[0].endswith("O(1)") and lines[1].endswith("O(t)") and right.startswith("O(1)")
    elif identifier == "E004-13":
        assert all(part in lines[0] for part in re.findall(r"p=\d -> \d+", right))
        assert lines[1] == "1+2 asymmetric gives 32" and "symmetric paddings that give 32: 0" in lines[0]
    else:
        assert numbers(right) and in_order(identifier, lines)


def test_evidence_without_numbers(shown):
    text = {identifier: "\n".join(one.lines) for identifier, one in shown.items()}
    assert "is the sum over the channels: True" in text["E000-01"]
    assert "with stride 1 on 16×16 are equal: True" in text["E000-02"]
    assert (
        "unused: fc.weight and fc.bias" in text["E000-03"] and "0 variables of the modified network missing" in text["E000-03"]
    )
    assert "ResBlock ×2 512×8×8" in text["E000-04"] and "stride 1 with" in text["E000-04"]
    assert "no image gives the printed row: True" in text["E001-01"]
    assert "15 of 15 entries" in text["E001-02"]
    assert "not above: none" in text["E001-08"].splitlines()[0] and "test 0.7742" in text["E001-08"].splitlines()[1]
    assert "between fc1 (64 units) and logits (10 units)" in text["E001-11"]
    assert "different counts: 1;" in text["E001-12"]
    assert "dropout row: 214 rows" in text["E002-01"] and text["E002-01"].count("the same") == 1
    assert "34 images apart" in text["E002-02"] and "a gain of 0.00 points" in text["E002-03"]
    assert "0 are called step; its tunable is n_clusters: True" in text["E002-05"]
    assert "column sum, of 5, 2, 9: True" in text["E002-06"]
    assert "above it: k=1,4,5,8,10; equal to it: k=7; below it: k=2,3,6,9" in text["E002-08"]
    assert "1 + 3·13 = 40 convolutions on the main path" in text["E003-02"] and "1 stage, conv5, is absent" in text["E003-02"]
    assert text["E003-03"].count("True") == 2 and text["E004-03"].count("True") == 1
    assert "FCNN" in text["E004-10"] and "the closed forms are equal for every k, NIC, NF and NC: True" in text["E004-11"]
    assert text["E004-14"].count("True") == 2


def test_printed_values_follow_from_the_printed_error(shown):
    """The printed end follows from the printed gradient and settings: the slip is in the gradient alone."""
    assert re.search(r"w=\(.*?\)", erratum("E004-06").printed).group() in shown["E004-06"].lines[0]
    assert erratum("E001-06").printed in shown["E001-06"].lines[1]
    for identifier in ("E001-04", "E001-05"):
        assert erratum(identifier).printed.split(" = ")[1] in shown[identifier].lines[1]


def test_wrong_computations_are_detected(monkeypatch):
    assert in_order("E001-01", show("E001-01").lines)
    monkeypatch.setattr(checks.report_001, "SOBEL_X", tuple(zip(*checks.report_001.SOBEL_X, strict=True)))
    assert not in_order("E001-01", show("E001-01").lines)
    monkeypatch.setattr(checks.report_001, "_BASE", checks.report_001._BASE.replace("conv5-64", "conv3-64"))
    assert missing("E001-04", show("E001-04").lines) and missing("E001-06", show("E001-06").lines)


def test_checks_contain_no_correct_values():
    """Neither as text nor as number: four characters or more of a right value stand in no constant, and `correct` is not read."""
    tokens = {token.lstrip("-") for found in all_errata() for token in NUMBER.findall(found.correct)}
    right = {float(token.replace(",", "")) for token in tokens if len(token) >= 4}
    assert {51264.0, 390410.0, 0.33013, 23701500.0} <= right
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            assert not (isinstance(node, ast.Attribute) and node.attr in ("correct", "evidence")), f"{path.name}:{node.lineno}"
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found = {float(token.replace(",", "")) for token in re.findall(r"\d[\d,]*(?:\.\d+)?", node.value)}
            elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
                found = {float(node.value)}
            else:
                continue
            assert not found & right, f"{path.name}:{node.lineno} types in {found & right}"


@pytest.mark.parametrize("identifier", IDS)
def test_source_functions_are_called(shown, identifier):
    compute = CHECKS[identifier].compute
    tree = ast.parse(inspect.getsource(compute))
    called = {
        node.func.id if isinstance(node.func, ast.Name) else node.func.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute)
    }
    helpers = {"network": {"create_model", "summarize"}, "_convolution": {"count_layers"}}
    # a formula of several steps is worked out by the functions it is made of
    helpers |= {"fully_connected_equivalent": {"count_layers"}, "printed": set()}
    called |= {name for helper, inside in helpers.items() if helper in called for name in inside}
    for name in CHECKS[identifier].source.split(", "):
        assert name.rpartition(".")[2] in called | {compute.__name__}


def test_checks_without_network_import_no_tensorflow(shown):
    light = [identifier for identifier in IDS if "create_model" not in CHECKS[identifier].source]
    assert len(light) > 35
    code = (
        "import sys; from kerascv_course.reports.checks import show\n"
        f"for identifier in {light!r}: show(identifier)\n"
        "assert not {'tensorflow', 'keras', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_printed_values():
    rows = list(csv.DictReader((files("kerascv_course.reports") / "targets.csv").read_text(encoding="utf-8").splitlines()))
    assert {row["report"] for row in rows} == {"000", "001", "002", "003", "004"}
    assert printed("001", "Task 1(c)") == ["2"]
    assert printed_numbers("002", "1.2.1 Table 2")[0] == max(printed_numbers("002", "1.2.1 Table 2"))
    with pytest.raises(InputError, match="prints no 'speed'"):
        printed("001", "Task 1(c)", "speed")


def test_unknown_erratum():
    with pytest.raises(UnknownNameError, match="did you mean"):
        show("E001-99")
