from __future__ import annotations

import errno
import os

import pytest

from kerascv_course.core.errors import InputError
from kerascv_course.core.io import WriteError, atomic_write
from kerascv_course.training.run_dir import Run


def test_a_run_that_exists_is_never_overwritten(tmp_path, tiny_recipe):
    Run.create(tmp_path / "run", tiny_recipe)
    (tmp_path / "run" / "best.keras").write_text("precious")
    with pytest.raises(InputError, match=r"already exists and is never overwritten.*--resume"):
        Run.create(tmp_path / "run", tiny_recipe)
    assert (tmp_path / "run" / "best.keras").read_text() == "precious"


def test_a_file_is_no_place_for_a_run(tmp_path, tiny_recipe):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is a file, not a folder: choose another --run-dir"):
        Run.create(tmp_path / "file", tiny_recipe)
    with pytest.raises(WriteError, match="cannot write"):
        Run.create(tmp_path / "file" / "below", tiny_recipe)


def test_what_a_kill_left_is_removed(tmp_path, tiny_recipe):
    run = Run.create(tmp_path / "run", tiny_recipe)
    for name in (".partial-7-best.000001.keras", "plots/.partial-7-a.png", "plots/a.png"):
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text("half")
    run.tidy()
    assert sorted(path.name for path in run.path.rglob("*.*")) == ["a.png", "recipe.json"]


def test_names_count_up(tmp_path, tiny_recipe):
    assert Run.free_path(tmp_path, "a").name == "a"
    for expected in ("a-2", "a-3"):
        Run.create(Run.free_path(tmp_path, "a"), tiny_recipe)
        assert Run.free_path(tmp_path, "a").name == expected


def test_the_recipe_comes_back(tmp_path, tiny_recipe):
    assert Run.create(tmp_path / "run", tiny_recipe).recipe() == tiny_recipe


def test_what_is_no_run_is_refused(tmp_path, tiny_recipe):
    with pytest.raises(InputError, match="is not a run folder"):
        Run.open(tmp_path)
    run = Run.create(tmp_path / "run", tiny_recipe)
    with pytest.raises(InputError, match=r"metrics\.json is missing because the run is unfinished"):
        run.read_json("metrics.json")
    (run / "recipe.json").write_text('{"name": 3}')
    with pytest.raises(InputError, match=r"recipe\.json"):
        run.recipe()


def test_writing_is_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file.txt"
    with atomic_write(path) as temporary:
        temporary.write_text("old")
    with (
        pytest.raises(WriteError, match=r"the disk is full; its previous content is unchanged"),
        atomic_write(path) as temporary,
    ):
        temporary.write_text("half of the n")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert path.read_text() == "old"
    with pytest.raises(KeyboardInterrupt), atomic_write(path) as temporary:
        temporary.write_text("half of the n")
        raise KeyboardInterrupt
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"] and path.read_text() == "old"
