"""Atomic writing and new folders."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from kerascv_course.core.errors import InputError
from kerascv_course.core.io import WriteError, atomic_write, check_links, check_new_folder, make_free_folder, write_text


def test_atomic_write_is_all_or_nothing(tmp_path):
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


def test_make_free_folder_counts_up(tmp_path):
    assert [make_free_folder(tmp_path / "b" / "a").name for _ in range(3)] == ["a", "a-2", "a-3"]
    (tmp_path / "b" / "a-4").touch()
    assert make_free_folder(tmp_path / "b" / "a").name == "a-5"


def test_check_new_folder(tmp_path):
    check_new_folder(tmp_path / "none", "choose another")
    check_new_folder(tmp_path, "choose another")
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="already exists and is never overwritten: choose another"):
        check_new_folder(tmp_path, "choose another")
    with pytest.raises(InputError, match="is a file, not a folder: choose another"):
        check_new_folder(tmp_path / "file", "choose another")


def test_links_within_a_folder_are_followed_and_links_out_of_it_are_not(tmp_path):
    folder = tmp_path / "run"
    (folder / "plots").mkdir(parents=True)
    (folder / "a").write_text("x")
    (folder / "plots" / "b").symlink_to("../a")
    (tmp_path / "link").symlink_to("run")
    check_links(folder)
    check_links(tmp_path / "link")
    for name, target in (("plots/x.png", "/etc/passwd"), ("samples", ".."), ("log.txt", "../nothing")):
        (folder / name).symlink_to(target)
        with pytest.raises(InputError, match=f"{name} is a link out of .*: remove it"):
            check_links(folder)
        (folder / name).unlink()


@pytest.mark.skipif(os.name != "posix", reason="asks the system which processes run")
def test_what_a_killed_process_left_of_a_file_goes_with_the_next_one(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    names = [
        f".partial-{ended.pid}-a.txt",
        f".partial-{ended.pid}-b.txt",
        f".partial-{os.getpid()}-x-a.txt",
        ".partial-1-a.txt",
    ]
    for name in names:
        (tmp_path / name).write_text("half")
    (tmp_path / f".partial-{ended.pid}-folder").mkdir()
    write_text(tmp_path / "a.txt", "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*names[1:], f".partial-{ended.pid}-folder", "a.txt"])
