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


def test_a_run_with_a_link_to_elsewhere_is_not_opened(tmp_path, tiny_recipe):
    run = Run.create(tmp_path / "run", tiny_recipe)
    (run / "plots").mkdir()
    (run / "plots" / "x.png").symlink_to("/etc/passwd")
    with pytest.raises(InputError, match=r"x\.png is a link out of .*run, which is neither followed nor written to"):
        Run.open(run.path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is damaged: Expecting value: line 1"),
        ('{\n"a": 1,\n}', "is damaged: .*line 3"),
        ("[" * 100_000, "is damaged"),
        ("\udcff", "is damaged"),
        ("[]", "is damaged: it holds no object"),
        ("{}", r"is damaged: data is missing"),
        ('{"data": 3}', "is damaged: data is no object"),
        ('{"data": {"fingerprint": 3}}', "is damaged: data.fingerprint is 3"),
    ],
)
def test_damaged_json_is_named_with_the_place(tmp_path, text, reason):
    (tmp_path / "metrics.json").write_text(text, errors="surrogateescape")
    with pytest.raises(InputError, match=rf"metrics\.json {reason}"):
        Run(tmp_path).read_json("metrics.json")


@pytest.mark.parametrize(
    ("text", "line"),
    [("epoch,loss\n1,2\n2,x\n", 3), ("epoch,loss\n1\n", 2), ("epoch,loss\n1,2,3\n", 2), ("a,b\n1,2\n", 2), ('epoch\n"1\n', 2)],
)
def test_a_damaged_history_is_named_with_the_line(tmp_path, text, line):
    (tmp_path / "history.csv").write_text(text)
    with pytest.raises(InputError, match=rf"history\.csv, line {line}, is damaged"):
        Run(tmp_path).history()


DAMAGED = {
    "metrics.json": ["{", "[]", "{}", '{"data": null}', '{"test": 7}'],
    "parity.json": ["{", "null", '{"ok": "yes"}', '{"ok": true, "rows": [3]}'],
    "history.csv": ["epoch,loss\n1,x\n", "epoch\n1,2\n"],
    "environment.json": ["{", "[]", '{"resumes": 3}', '{"versions": 3}'],
    "provenance.json": ["{", "[]"],
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_page_of_a_damaged_run_is_refused_in_one_line(tiny_run, tmp_path, name):
    from kerascv_course.run_page import write_run_page

    run = Run(shutil.copytree(tiny_run.path, tmp_path / "run"))
    for text in DAMAGED[name]:
        (run / name).write_text(text)
        with pytest.raises(InputError, match="damaged") as caught:
            write_run_page(run)
        assert name in str(caught.value) and "\n" not in str(caught.value)
