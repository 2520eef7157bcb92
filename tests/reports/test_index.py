"""The reports' pages: what is printed beside ours, nothing passed over, nothing typed in, from runs or from functions."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import json
import re
from pathlib import Path

import pytest

from kerascv_course.core.environment import describe_environment
from kerascv_course.core.errors import InputError, UnknownNameError
from kerascv_course.core.schema import to_json
from kerascv_course.recipes import get_recipe
from kerascv_course.recipes.ablations import get_ablation, with_changes
from kerascv_course.report import main
from kerascv_course.reports.index import make_page, write_index
from kerascv_course.reports.page import (
    ComparedNumber,
    FigurePart,
    MissingPart,
    NumbersPart,
    Page,
    Section,
    Source,
    TablePart,
    TextPart,
    write_page,
)
from kerascv_course.reports.parts import TEST, best_figure, curves, measured, missing_run
from kerascv_course.reports.runs import RunIndex
from kerascv_course.reports.targets import REPORTS, difference, errata_of, target, targets_of

FUNCTION = Source("function", "kerascv_course.reports.paper.count_layers")

#: A PNG of one pixel.
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c63606060f80f0001040100"
    "5fe5c34b0000000049454e44ae426082"
)


def make_run(folder: Path, name: str, accuracy: float, *, changes=None, finished: bool = True, **fields) -> Path:
    """A run folder as training leaves it, without the training."""
    recipe = dataclasses.replace(with_changes(get_recipe(name), changes or {}), **fields)
    folder.mkdir(parents=True)
    (folder / "recipe.json").write_text(to_json(recipe))
    split = {"images": 10, "loss": 0.5, "accuracy": accuracy}
    metrics = {
        "train": split, "validation": split, "test": split, "headline": {"test accuracy": f"{accuracy:.4f}"}, "epochs": 3.0,
        "best_epoch": 2.0, "training_seconds": 12.0, "data": {"source": recipe.data.source},
    }  # fmt: skip
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "environment.json").write_text(json.dumps({**describe_environment(), "command": f"train {name}"}))
    (folder / "history.csv").write_text("epoch,loss,val_loss,val_accuracy\n1,2,2,0.3\n2,1,1.5,0.5\n")
    (folder / "plots").mkdir()
    (folder / "plots/step_curves.png").write_bytes(PIXEL)
    if finished:
        (folder / "report.html").write_text("a page")
    return folder


# --- what is printed --------------------------------------------------------------------------------------------------


def test_targets_have_unique_ids():
    targets = [one for report in REPORTS.values() for one in targets_of(report)]
    assert len(targets) == 133 and len({one.id for one in targets}) == 133
    assert (
        target("T001-13").value == "0.7422"
        and target("T001-13").text == "Task 2(b), base CNN, test accuracy (printed as Test Loss)"
    )


def test_without_arguments_all_reports_are_listed(capsys):
    assert main([]) == 2
    told = " ".join(capsys.readouterr().out.split())
    assert all(f"{name} (report {number})" in told for name, number in REPORTS.items())


def test_unknown_report():
    with pytest.raises(UnknownNameError, match="report '005'"):
        targets_of("005")
    with pytest.raises(UnknownNameError, match="did you mean 'tdt4265_a3'"):
        make_page("tdt4265_a4", [])


@pytest.mark.parametrize(
    ("printed", "ours", "text"),
    [
        ("0.7422", 0.7295, "-0.0127"),
        ("0.7422", 0.7422, "equal"),
        ("0.2", 0.2227, "+0.0227"),
        ("148810", 390410, "+241,600"),
        ("81.42", "81.42", "equal"),
        ("2 -1 13", "2  -1 13", "equal"),
        ("2 -1 13", "2 -1 11", "differs"),
        ("> 0.84", "<= 0.84", "differs"),
    ],
)
def test_difference(printed, ours, text):
    assert difference(printed, ours) == text


def test_small_runs_and_rules_are_not_compared():
    answer = ComparedNumber(target("T001-13"), 0.9, Source("run", "x", small=True))
    assert answer.difference == "–" and dataclasses.replace(answer, source=FUNCTION).difference == "+0.1578"
    assert dataclasses.replace(answer, source=FUNCTION, given=True).difference == "–"
    assert dataclasses.replace(answer, source=FUNCTION, holds=False).difference == "does not hold"


# --- finding runs -----------------------------------------------------------------------------------------------------


def test_best_run_is_chosen_on_validation(tmp_path):
    make_run(tmp_path / "a/seed0", "tdt4265-base", 0.70)
    best = make_run(tmp_path / "b", "tdt4265-base", 0.74, seed=1, epochs=12)
    make_run(tmp_path / "unfinished", "tdt4265-base", 0.99, finished=False)
    make_run(tmp_path / "other-data", "tdt4265-base", 0.99, changes={"data.source": "digits"})
    make_run(tmp_path / "other-rate", "tdt4265-base", 0.99, changes={"optimizer.learning_rate": 0.1})
    damaged = make_run(tmp_path / "damaged", "tdt4265-base", 0.99)
    (damaged / "recipe.json").write_text("{")
    runs = RunIndex([tmp_path, tmp_path / "b", tmp_path / "missing"])
    assert [found.folder.path for found in runs.all("tdt4265-base")] == [best, tmp_path / "a/seed0"]
    assert runs.best("tdt4265-base").source == Source("run", str(best), "train tdt4265-base", False)
    assert runs.best("tdt4265-model1") is None


def test_runs_of_ablation_switches(tmp_path):
    switches = get_ablation("tdt4265-base").switches
    for seed, accuracy in ((0, 0.70), (1, 0.72)):
        make_run(tmp_path / f"base{seed}", "tdt4265-base", accuracy, seed=seed)
        make_run(tmp_path / f"norm{seed}", "tdt4265-base", accuracy + 0.05, changes=switches["batch-norm"], seed=seed)
    make_run(tmp_path / "l2", "tdt4265-base", 0.71, changes=switches["l2"])
    make_run(tmp_path / "other-seed", "tdt4265-base", 0.9, changes=switches["dropout"], seed=7)
    runs = RunIndex([tmp_path])
    assert runs.gains("tdt4265-base") == pytest.approx({"batch-norm": 0.05, "l2": 0.01})
    base, switched = runs.switch("tdt4265-base", "batch-norm")
    assert (base.recipe.seed, switched.recipe.model_options["norm"]) == (1, True)
    assert runs.switch("tdt4265-base", "dropout") is None
    assert all(found.recipe.model_options == {"init": "lecun"} for found in runs.all("tdt4265-base"))


def test_finished_sweeps(tmp_path):
    for number, test in ((1, None), (2, 0.5)):
        folder = tmp_path / str(number)
        folder.mkdir()
        facts = {
            "recipe": {"name": "ntu-tiny-knn"},
            "over": ["k"],
            "rows": [{"settings": {"k": 3}, "test": test}],
            "environment": {"command": "sweep"},
        }
        (folder / "sweep.json").write_text(json.dumps(facts))
    (tmp_path / "1/damaged").mkdir()
    (tmp_path / "1/damaged/sweep.json").write_text("[]")
    runs = RunIndex([tmp_path])
    assert runs.sweep("ntu-tiny-knn", "k").path == tmp_path / "2"
    assert runs.sweep("ntu-tiny-knn", "step") is None and runs.sweep("ntu-bag-of-sift", "k") is None


# --- parts of pages ---------------------------------------------------------------------------------------------------


def test_parts_from_a_run(tmp_path):
    run = make_run(tmp_path / "run", "tdt4265-base", 0.7312)
    runs = RunIndex([tmp_path])
    part = measured(runs, "tdt4265-base", {"T001-13": TEST}, {"T001-13": "said besides"})
    assert part == NumbersPart((ComparedNumber(target("T001-13"), 0.7312, runs.best("tdt4265-base").source, "said besides"),))
    drawn = best_figure(runs, "tdt4265-base", "step_curves", "Losses.")
    assert isinstance(drawn, FigurePart) and drawn.png == PIXEL and drawn.source.name == str(run)
    assert isinstance(best_figure(runs, "tdt4265-base", "palette", "Colours."), MissingPart)
    both = curves({"base": runs.best("tdt4265-base")}, ("loss+val_loss",), "curves", "Losses.")
    assert both.png.startswith(b"\x89PNG") and both.caption == "Losses. Runs: run."


def test_missing_run_shows_its_command():
    part = measured(RunIndex([]), "tdt4265-base", {"T001-13": TEST})
    assert part == missing_run("tdt4265-base", "T001-13")
    assert part.command == "python -m kerascv_course.train tdt4265-base" and part.targets == (target("T001-13"),)


def test_write_page_html_and_markdown(tmp_path):
    run = make_run(tmp_path / "runs/a run", "tdt4265-base", 0.7312)
    source = Source("run", str(run), "train", small=True)
    page = Page(
        "some_page",
        "A <title>",
        "About.",
        (
            Section(
                "First",
                "Why?",
                (
                    TextPart("5 < 6 & so on"),
                    TablePart("Folded", ("a|b",), (("1",),), FUNCTION, folded=True),
                    FigurePart("pixel", PIXEL, "A pixel.", source),
                    NumbersPart(
                        (ComparedNumber(target("T001-13"), 0.9, source), ComparedNumber(target("T001-10"), 390410, FUNCTION))
                    ),
                    MissingPart("a thing", "Nobody ran it.", "python -m that", (target("T001-11"),)),
                ),
            ),
        ),
        small=True,
    )
    output = tmp_path / "reports"
    output.mkdir()
    html, markdown = write_page(page, output)
    text = html.read_text()
    assert "A &lt;title&gt;" in text and "5 &lt; 6 &amp; so on" in text and "small runs on embedded data" in text
    assert "../runs/a%20run/report.html" in text and 'id="T001-13"' in text and "+241,600" in text
    assert "http" not in re.sub(r"data:image/png;base64,\S+", "", text), "a page needs no network"
    lines = markdown.read_text()
    assert "![A pixel.](pixel.png)" in lines and (output / "some_page/pixel.png").read_bytes() == PIXEL
    assert "a\\|b" in lines and "small [run a run](../../runs/a%20run/report.html)" in lines
    assert "**Missing: a thing.** Nobody ran it. Run `python -m that`." in lines
    assert "printed 0.8677, ours missing" in lines


def test_write_index(tmp_path):
    make_run(tmp_path / "runs/one", "tdt4265-base", 0.7312)
    (tmp_path / "csc413_a2.html").write_text("a page")
    text = write_index(tmp_path, [tmp_path / "runs"]).read_text()
    assert "csc413_a2.html" in text and "tdt4265_a3.html" not in text
    assert "runs/one/report.html" in text and "test accuracy 0.7312" in text


# --- the five pages ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pages():
    """Made from no run at all."""
    return {name: make_page(name, []) for name in REPORTS}


#: How many printed numbers functions alone answer.
COMPUTED = {"hkust_pa2": 3, "tdt4265_a3": 13, "ntu_cv_hw2": 13, "cose474_p2": 0, "csc413_a2": 24}


@pytest.mark.parametrize("name", REPORTS)
def test_every_printed_number_is_compared_or_missing(pages, name):
    page = pages[name]
    answered = [answer.target.id for answer in page.numbers()]
    missing = [one.id for part in page.missing() for one in part.targets]
    assert sorted(answered + missing) == [one.id for one in targets_of(REPORTS[name])], "each is answered or missing, once"
    assert len(answered) == COMPUTED[name] and all(answer.source.kind == "function" for answer in page.numbers())


@pytest.mark.parametrize("name", REPORTS)
def test_every_erratum_is_on_its_page(pages, name):
    shown = [one.erratum.id for one in pages[name].evidence()]
    assert sorted(shown) == [erratum.id for erratum in errata_of(REPORTS[name])]
    assert all(one.lines for one in pages[name].evidence())


@pytest.mark.parametrize("name", REPORTS)
def test_source_functions_exist(pages, name):
    sources = [answer.source for answer in pages[name].numbers()]
    for source in {source.name for source in sources if source.kind == "function"}:
        for dotted in source.split(", "):
            module, _, function = dotted.rpartition(".")
            assert callable(getattr(importlib.import_module(module), function)), dotted


@pytest.mark.parametrize("name", REPORTS)
def test_reports_contain_no_printed_numbers(name):
    """No number of a report's module is one that the report prints; small whole numbers are sizes and indices."""
    module = importlib.import_module(f"kerascv_course.reports.{name}")
    constants = {
        node.value
        for node in ast.walk(ast.parse(Path(module.__file__).read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float)
    }
    printed = set()
    for one in targets_of(REPORTS[name]):
        printed |= {float(number) for number in re.findall(r"\d+\.?\d*", one.value)}
    assert not {number for number in constants & printed if number > 10 or number != int(number)}


def test_computed_numbers(pages):
    answers = {answer.target.id: answer for answer in pages["tdt4265_a3"].numbers()}
    assert answers["T001-10"].ours == 390_410 and answers["T001-10"].difference == "+241,600"
    assert answers["T001-26"].ours == "2 -1 11 -2 -13" and answers["T001-27"].difference == "equal"
    answers = {answer.target.id: answer for answer in pages["csc413_a2"].numbers()}
    assert answers["T004-19"].ours == "0.87912, 0.81633" and answers["T004-20"].difference == "equal"
    assert answers["T004-21"].difference == answers["T004-22"].difference == "holds"
    assert answers["T004-27"].ours.startswith("none symmetric")
    assert all(answers[f"T004-{number:02d}"].difference == "equal" for number in (*range(5, 19), *range(23, 27), 28))


# --- the command ------------------------------------------------------------------------------------------------------


def test_command_refuses_invalid_arguments(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["tdt4265"])
    assert stopped.value.code == 2 and "did you mean tdt4265_a3" in capsys.readouterr().err
    with pytest.raises(InputError, match="there is no"):
        main(["tdt4265_a3", "--runs", str(tmp_path / "none")])
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="--output needs a folder"):
        main(["tdt4265_a3", "--runs", str(tmp_path), "--output", str(tmp_path / "file")])
