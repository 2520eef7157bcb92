"""Switches that change one thing each, and the one command that runs them."""

from __future__ import annotations

import dataclasses

import pytest

from kerascv_course.core.errors import CourseError, InputError, UnknownNameError
from kerascv_course.experiment import Experiment, Interrupted
from kerascv_course.models import create_model
from kerascv_course.recipes import get_recipe
from kerascv_course.recipes.ablations import ABLATIONS, BASE, Ablation, get_ablation, with_changes
from kerascv_course.reports.ablation import plan, run_all, write_summary
from kerascv_course.training import callbacks


@pytest.mark.parametrize("name", ABLATIONS)
def test_every_switch_of_every_ablation_makes_a_recipe(name, tmp_path):
    runs = plan(get_recipe(name), get_ablation(name), (), (0,), tmp_path)
    assert [run.switch for run in runs] == [BASE, *ABLATIONS[name].switches]
    assert len({repr(run.recipe) for run in runs}) == len(runs)


def test_the_assignments_switches_change_one_thing():
    base = get_recipe("tdt4265-base")
    expected = {
        "batch-norm": "network", "more-filters": "network", "filter-3": "network", "filter-7": "network", "l2": "network",
        "dropout": "network", "strided-conv": "network", "augmentation": "augmentation", "adamax": "optimizer",
    }  # fmt: skip
    assert set(get_ablation("tdt4265-base").switches) == set(expected)
    for name, changes in get_ablation("tdt4265-base").switches.items():
        changed = with_changes(base, changes)
        fields = {f.name for f in dataclasses.fields(base) if getattr(changed, f.name) != getattr(base, f.name)}
        assert fields == {"model_options" if expected[name] == "network" else expected[name]}


@pytest.mark.parametrize(("width", "parameters"), [(1.0, 390_410), (2.0, 1_293_130 - 2 * (64 + 128 + 256) - 2 * 64)])
def test_more_filters(width, parameters):
    """Twice the filters are those of model 1, which has batch norm besides."""
    model = create_model("tdt4265_base", width=width)
    assert model.count_params() == parameters


def test_changes_by_dotted_names(tiny_recipe):
    changed = with_changes(
        tiny_recipe, {"seed": 3, "optimizer.name": "sgd", "optimizer.momentum": 0.9, "model_options.dropout": 0.5}
    )
    assert (changed.seed, changed.optimizer.name, changed.optimizer.momentum) == (3, "sgd", 0.9)
    assert changed.model_options == {"dropout": 0.5} and tiny_recipe.model_options == {"dropout": 0.3}
    with pytest.raises(InputError, match="Optimizer has no field 'rate'; it has name, learning_rate"):
        with_changes(tiny_recipe, {"optimizer.rate": 1})
    with pytest.raises(InputError, match="Recipe has no field 'optimiser'"):
        with_changes(tiny_recipe, {"optimiser.name": "sgd"})
    with pytest.raises(InputError, match=r"optimizer\.momentum requires sgd"):
        with_changes(tiny_recipe, {"optimizer.momentum": 0.9})


@pytest.fixture
def quick(tiny_recipe):
    return dataclasses.replace(
        tiny_recipe, epochs=1, validations_per_epoch=1, export=dataclasses.replace(tiny_recipe.export, enabled=False)
    )


def test_run_all_keeps_finished_runs_and_resumes_interrupted_ones(quick, tmp_path, monkeypatch):
    monkeypatch.setattr(Experiment, "plot", lambda self: None)
    ablation = Ablation({"no-dropout": {"model_options.dropout": 0.0}, "wild": {"optimizer.learning_rate": 1e30}}, "a test")
    both = plan(quick, ablation, (), (0, 1), tmp_path)
    assert [run.folder.name for run in both[:4]] == ["base-seed0", "no-dropout-seed0", "wild-seed0", "base-seed1"]
    runs = both[:3]
    with monkeypatch.context() as patch:
        commit = callbacks.save_checkpoint

        def stopping(path, model, progress):
            if path.parent.name == "no-dropout-seed0":
                raise KeyboardInterrupt
            commit(path, model, progress)

        patch.setattr(callbacks, "save_checkpoint", stopping)
        with pytest.raises(Interrupted, match="Resume with the same command"):
            run_all(runs, data_dir=None)
    first = (tmp_path / "base-seed0" / "last.npz").stat().st_mtime_ns
    failed = run_all(runs)
    assert [folder.name for folder in failed] == ["wild-seed0"] and "diverged" in failed[runs[2].folder]
    assert (tmp_path / "base-seed0" / "last.npz").stat().st_mtime_ns == first
    table = write_summary(runs, ablation, tmp_path)
    assert [line.split("|")[1].strip(" :-") for line in table.splitlines()] == ["switch", "", "base", "no-dropout"]
    page = (tmp_path / "ablation.md").read_text()
    assert table in page and "lenet5-digits (a test)" in page and (tmp_path / "ablation.png").is_file()
    with pytest.raises(InputError, match=r"base-seed0 holds a run with other settings.*another --root"):
        run_all(plan(dataclasses.replace(quick, batch_size=64), ablation, (), (0,), tmp_path))


def test_plan_refuses_invalid_switches_and_seeds(quick, tmp_path):
    ablation = get_ablation("lenet5-digits")
    with pytest.raises(UnknownNameError, match="unknown switch of lenet5-digits 'dropout'; did you mean 'no-dropout'"):
        plan(quick, ablation, ("dropout",), (0,), tmp_path)
    with pytest.raises(InputError, match="--seeds needs one or more different seeds; received 1 1"):
        plan(quick, ablation, (), (1, 1), tmp_path)
    with pytest.raises(InputError, match="no-smoothing changes nothing in this base"):
        plan(with_changes(quick, {"classification.label_smoothing": 0.0}), ablation, (), (0,), tmp_path)
    with pytest.raises(CourseError, match="no run of the base is finished"):
        write_summary(plan(quick, ablation, (), (0,), tmp_path), ablation, tmp_path)
    with pytest.raises(UnknownNameError, match="unknown ablation of a recipe 'tdt4265-bas'; did you mean 'tdt4265-base'"):
        get_ablation("tdt4265-bas")


def test_command(command):
    listed = command("kerascv_course.ablate", "--list")
    assert listed.returncode == 0 and "batch-norm    model_options.norm True" in listed.stdout
    for words, told in (
        (["csc413-unet"], "unknown ablation of a recipe 'csc413-unet'"),
        (["--seed", 3], "an ablation takes --seeds; received --seed 3: write --seeds 3"),
        (["tdt4265-base", "--data-dir", "nowhere"], "no such data folder: nowhere"),
    ):
        done = command("kerascv_course.ablate", *words)
        assert done.returncode == 2 and told in done.stderr and "Traceback" not in done.stderr
