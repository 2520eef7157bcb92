"""The run folder."""

from __future__ import annotations

import shutil

import pytest

from kerascv_course.core.errors import InputError
from kerascv_course.core.io import WriteError
from kerascv_course.core.lock import LockedError
from kerascv_course.training.run_dir import Run


def test_create_never_overwrites_a_run(tmp_path, tiny_recipe):
    Run.create(tmp_path / "run", tiny_recipe)
    (tmp_path / "run" / "best.keras").write_text("precious")
    with pytest.raises(InputError, match=r"already exists and is never overwritten.*--resume"):
        Run.create(tmp_path / "run", tiny_recipe)
    assert (tmp_path / "run" / "best.keras").read_text() == "precious"


def test_create_refuses_a_file(tmp_path, tiny_recipe):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is a file, not a folder: choose another --run-dir"):
        Run.create(tmp_path / "file", tiny_recipe)
    with pytest.raises(WriteError, match="cannot write"):
        Run.create(tmp_path / "file" / "below", tiny_recipe)


def test_tidy_removes_what_a_killed_process_left(tmp_path, tiny_recipe):
    run = Run.create(tmp_path / "run", tiny_recipe)
    for name in (
        ".partial-7-best.000001.keras",
        "plots/.partial-7-a.png",
        "plots/a.png",
        ".partial-model.onnx-abc_1234/model.onnx",
    ):
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text("half")
    run.tidy()
    assert sorted(path.name for path in run.path.rglob("*")) == ["a.png", "plots", "recipe.json"]


def test_steps_of_an_experiment_refuse_a_second_writer(tiny_recipe, tiny_run, tmp_path, hold):
    from kerascv_course.experiment import Experiment, Options

    hold(tmp_path / "new")
    with pytest.raises(LockedError):
        Experiment(tiny_recipe, tmp_path / "new").run()
    run = shutil.copytree(tiny_run.path, tmp_path / "run")
    hold(run)
    experiment = Experiment(tiny_recipe, run, Options(resume=True))
    for step in (experiment.run, experiment.fit, experiment.finish, experiment.plot, experiment.export, experiment.report):
        with pytest.raises(LockedError):
            step()


def test_recipe_round_trip(tmp_path, tiny_recipe):
    assert Run.create(tmp_path / "run", tiny_recipe).recipe() == tiny_recipe


def test_open_refuses_other_folders(tmp_path, tiny_recipe):
    with pytest.raises(InputError, match="is not a run folder"):
        Run.open(tmp_path)
    run = Run.create(tmp_path / "run", tiny_recipe)
    with pytest.raises(InputError, match=r"metrics\.json is missing because the run is unfinished"):
        run.read_json("metrics.json")
    (run / "recipe.json").write_text('{"name": 3}')
    with pytest.raises(InputError, match=r"recipe\.json"):
        run.recipe()
