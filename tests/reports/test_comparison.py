from __future__ import annotations

import dataclasses

import pytest

from kerascv_course.core.errors import InputError
from kerascv_course.reports.comparison import (
    compare_runs,
    differences,
    format_differences,
    format_groups,
    format_unevaluated,
    group_runs,
    read_history,
)
from kerascv_course.training.run_dir import Run


@pytest.fixture
def make(tiny_run, tiny_recipe, tmp_path):
    """A finished run with another seed, learning rate or accuracy, without training."""

    def run(name, *, accuracy=0.9, fingerprint=None, **changes):
        made = Run.create(tmp_path / name, dataclasses.replace(tiny_recipe, **changes))
        metrics = tiny_run.read_json("metrics.json")
        metrics["test"]["accuracy"] = accuracy
        metrics["data"]["fingerprint"] = fingerprint or metrics["data"]["fingerprint"]
        made.write_json("metrics.json", metrics)
        made.write_text("history.csv", (tiny_run / "history.csv").read_text())
        return made

    return run


def test_compare_runs_groups_seeds(make):
    runs = [make("a", seed=0, accuracy=0.8), make("b", seed=1, accuracy=0.9), make("c", batch_size=64, accuracy=0.7)]
    first, second = compare_runs(runs)
    assert (first.settings, first.seeds, first.metrics["test_accuracy"]) == ({"batch_size": 128}, (0, 1), (0.8, 0.9))
    assert (second.settings, second.seeds, second.metrics["test_accuracy"]) == ({"batch_size": 64}, (0,), (0.7,))
    table = format_groups([first, second], ["test_accuracy", "parameters"]).splitlines()
    a, b, c = (str(run.path) for run in runs)
    assert [[cell.strip() for cell in line.strip("|").split("|")] for line in (table[0], *table[2:])] == [
        ["batch_size", "runs", "seeds", "test_accuracy", "parameters"],
        ["128", f"{a}, {b}", "2 (0 1)", "0.8500 ± 0.0707", "61,706"],
        ["64", c, "1 (0)", "0.7000", "61,706"],
    ]
    assert [row["epoch"] for row in read_history(runs[0])] == [0.5, 1, 1.5, 2, 2.5, 3]


def test_runs_that_are_not_evaluated_have_validation_metrics(make, tiny_run):
    done, trained = make("a", seed=0), make("b", seed=1)
    (trained / "metrics.json").unlink()
    first, second = compare_runs([done, trained])
    assert (first.evaluated, second.evaluated) == (True, False)
    expected = tiny_run.read_json("metrics.json")
    for name in ("val_accuracy", "val_loss"):
        assert second.metrics[f"best_{name}"] == pytest.approx((expected["best"][name],), rel=1e-4)
        assert second.metrics[f"last_{name}"] == pytest.approx((expected["last"][name],), rel=1e-4)
    assert second.metrics["best_epoch"] == (expected["best_epoch"],)
    assert second.metrics["training_s"] == pytest.approx((expected["training_seconds"],), abs=0.1)
    for groups in ([first, second], [second, first]):
        table = format_groups(groups, ["test_accuracy", "training_s"]).splitlines()
        row = next(line for line in table if str(trained.path) in line)
        assert [cell.strip() for cell in row.strip("|").split("|")][2:4] == ["1 (1)", "—"]
    notes = format_unevaluated([first, second])
    assert notes == (
        f"{trained.path} is not evaluated: validation metrics after epoch 3 of 3; continue with python -m kerascv_course.train "
        f"--resume {trained.path}"
    )
    assert format_unevaluated([first]) == ""


def test_the_same_run_twice_is_refused(make, tmp_path):
    run = make("a")
    with pytest.raises(InputError, match="a twice: leave one out"):
        compare_runs([run, Run.open(run.path)])
    (tmp_path / "link").symlink_to(run.path)
    with pytest.raises(InputError, match="the same folder: leave one out"):
        compare_runs([run, Run.open(tmp_path / "link")])


def test_single_run_is_labeled_by_recipe(make, tiny_recipe):
    assert compare_runs([make("a")])[0].settings == {"name": tiny_recipe.name}


def test_differences_are_per_seed(make):
    base = [make("a", seed=0, accuracy=0.5), make("b", seed=1, accuracy=0.6), make("c", seed=2, accuracy=0.7)]
    other = [make("d", seed=2, accuracy=0.75), make("e", seed=1, accuracy=0.63)]
    rows = group_runs({"base": base, "dropout": other}, "switch")
    assert differences(rows["dropout"], rows["base"], "test_accuracy") == pytest.approx((0.05, 0.03))
    lines = format_differences(rows, "base", ["test_accuracy"], {"dropout": "dropout 0.2"}).splitlines()
    head, _, first, second = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert head[:5] == ["switch", "changes", "seeds", "test accuracy", "difference, points"]
    assert first[:5] == ["base", "", "3 (0 1 2)", "0.6000 ± 0.1000", "–"]
    assert second[:5] == ["dropout", "dropout 0.2", "2 (2 1)", "0.6900 ± 0.0849", "+4.00 ± 1.41"]
    with pytest.raises(InputError, match="evaluated on other data than"):
        group_runs({"base": base, "dropout": [make("f", fingerprint="sha256:0")]}, "switch")


def test_compare_runs_refuses_other_data_and_unfinished_runs(make, color_run):
    with pytest.raises(InputError, match="one run or more"):
        compare_runs([])
    with pytest.raises(InputError, match="evaluated on other data than"):
        compare_runs([make("a"), make("b", fingerprint="sha256:0")])
    with pytest.raises(InputError, match="evaluated on other data than"):
        compare_runs([make("c"), color_run])
    with pytest.raises(InputError, match="the runs have no metric 'test_acuracy'; they have best_epoch"):
        format_groups(compare_runs([make("d")]), ["test_acuracy"])
    unfinished = make("e")
    (unfinished / "metrics.json").unlink()
    (unfinished / "history.csv").unlink()
    with pytest.raises(InputError, match="the run is unfinished"):
        compare_runs([unfinished])
    with pytest.raises(InputError, match="no validation yet"):
        read_history(unfinished)


def test_command_draws_curves(color_run, command, tmp_path):
    done = command("kerascv_course.compare", color_run.path, "--plot", "curves.png", "--metrics", "test_accuracy", "training_s")
    assert done.returncode == 0, done.stderr
    assert (
        done.stdout.splitlines()[0].replace(" ", "") == "|name|runs|seeds|test_accuracy|training_s|"
        and (tmp_path / "curves.png").is_file()
    )
    done = command("kerascv_course.compare", color_run.path, "--plot", "curves.png", "--curves", "val_los")
    assert done.returncode == 2 and "the histories have no column 'val_los'; they have epoch" in done.stderr
    done = command("kerascv_course.compare", "nowhere")
    assert done.returncode == 2 and "nowhere is not a run folder" in done.stderr
