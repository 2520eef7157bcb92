"""One writer of a folder: every other process is refused, and a lock ends with its process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kerascv_course.core.errors import InputError
from kerascv_course.core.io import LOCK
from kerascv_course.core.lock import LockedError, new_folder, partial_folder, remove_partial, sole_writer

HOLD = (
    "import sys; from pathlib import Path; from kerascv_course.core.lock import *\n"
    "with {call} as folder:\n    print(folder, flush=True)\n    sys.stdin.read()\n    {then}"
)


def hold(call: str, then: str = "pass") -> subprocess.Popen:
    """A process that holds a folder until its input ends; its first line of output says which."""
    return subprocess.Popen(
        [sys.executable, "-c", HOLD.format(call=call, then=then)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_a_second_process_is_refused_and_told_who_writes(tmp_path):
    with hold(f"sole_writer(Path({str(tmp_path)!r}))") as other:
        other.stdout.readline()
        refusal = rf"{tmp_path}; now it is process {other.pid} on .+ since .+: wait"
        with pytest.raises(LockedError, match=refusal) as refused, sole_writer(tmp_path):
            pytest.fail("two writers")
        assert refused.value.exit_code == 2
        other.stdin.close()
    assert other.returncode == 0 and not (tmp_path / LOCK).exists()
    with sole_writer(tmp_path):
        assert (tmp_path / LOCK).is_file()
    assert not list(tmp_path.iterdir())


def test_the_lock_of_a_killed_process_is_free_at_once(tmp_path):
    with hold(f"sole_writer(Path({str(tmp_path)!r}))") as other:
        other.stdout.readline()
        other.kill()
    assert (tmp_path / LOCK).is_file()
    with sole_writer(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_the_holder_and_its_children_may_take_it_again(tmp_path):
    with sole_writer(tmp_path):
        with sole_writer(tmp_path / "." / ""):
            pass
        assert (tmp_path / LOCK).is_file()  # the inner one has not ended the outer one
        with hold(f"sole_writer(Path({str(tmp_path)!r}))") as child:
            assert child.stdout.readline()
            child.stdin.close()
        assert child.returncode == 0 and (tmp_path / LOCK).is_file()


def test_many_processes_get_folders_of_their_own(tmp_path):
    path = tmp_path / "deep" / "run"
    others = [hold(f"new_folder(Path({str(path)!r}), '', numbered=True)", "(folder / 'a').touch()") for _ in range(6)]
    found = sorted(other.stdout.readline().strip() for other in others)
    assert found == sorted(str(path) + end for end in ("", "-2", "-3", "-4", "-5", "-6"))
    with pytest.raises(LockedError, match=r"run; now it is process"), new_folder(path, "choose another"):
        pytest.fail("two writers")
    for other in others:
        other.communicate()
    with (
        pytest.raises(InputError, match="already exists and is never overwritten: choose another"),
        new_folder(path, "choose another"),
    ):
        pytest.fail("overwritten")


def test_a_name_that_a_killed_process_has_taken_is_free_again(tmp_path):
    path = tmp_path / "run"
    with hold(f"new_folder(Path({str(path)!r}), '', numbered=True)") as other:
        other.stdout.readline()
        with new_folder(path, "", numbered=True) as second:
            assert second.name == "run-2", "it is held"
        other.kill()
    assert [item.name for item in path.iterdir()] == [LOCK]
    (tmp_path / "run-3").mkdir()  # not ours
    (tmp_path / "run-4").mkdir()
    (tmp_path / "run-4" / LOCK).touch()  # of a process that is about to lock it
    with new_folder(path, "", numbered=True) as again:
        assert again == path
        (again / "recipe.json").touch()
    assert sorted(item.name for item in tmp_path.iterdir()) == ["run", "run-3", "run-4"]


def test_a_new_folder_that_stays_empty_is_removed(tmp_path):
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "runs" / "one", "choose another"):
        assert (tmp_path / "runs" / "one" / LOCK).is_file()
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())
    with new_folder(tmp_path / "runs" / "one", "choose another") as folder:
        (folder / "recipe.json").touch()
    assert [path.name for path in (tmp_path / "runs" / "one").iterdir()] == ["recipe.json"]
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / LOCK).touch()  # of a killed process
    with new_folder(tmp_path / "empty", "choose another"):
        pass
    assert not list((tmp_path / "empty").iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file, not a folder"), sole_writer(tmp_path / "file"):
        pytest.fail("a file")


def test_remove_partial_takes_only_what_is_ours_and_unlocked(tmp_path):
    ours = [".partial-7-best.keras", "plots/.partial-7-a.png", ".partial-model.onnx-abc_1234/weights-1.data"]
    others = [".partial-notes", "plots/a.png", "inner/recipe.json", "inner/.partial-7-best.keras", ".partial-x/a", "best.keras"]
    for name in (*ours, *others):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with hold(f"partial_folder(Path({str(tmp_path / 'model.onnx')!r}))") as other:
        written = other.stdout.readline().strip()
        remove_partial(tmp_path)
        assert Path(written).is_dir()
        other.stdin.close()
    found = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    assert found == sorted(others)
    with partial_folder(tmp_path / "new" / "model.onnx") as folder:
        (folder / "model.onnx").touch()
    assert not list((tmp_path / "new").iterdir())


def test_a_lock_that_is_a_link_is_not_followed(tmp_path):
    (victim := tmp_path / "victim.txt").write_text("precious")
    (folder := tmp_path / "run").mkdir()
    (folder / LOCK).symlink_to(victim)
    with pytest.raises(InputError, match=r"\.lock is a link, which a lock never is: remove it"), sole_writer(folder):
        pass
    assert victim.read_text() == "precious"
