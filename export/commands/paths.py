"""Paths that a command is given: a run folder stands for its model.onnx, and a file in a run folder for that run."""

from __future__ import annotations

from pathlib import Path

from kerascv_course.core.errors import InputError, shell_word
from kerascv_course.core.keras_file import check_format

__all__ = ["MODEL", "check_exists", "containing_run", "model_file", "run_folder"]

#: A run's exported file.
MODEL = "model.onnx"

#: The file that makes a folder a run folder.
RECIPE = "recipe.json"


def check_exists(path: Path) -> None:
    """Check that there is something at a path.

    Raises:
        InputError: there is nothing.
    """
    if not path.exists():
        raise InputError(f"no such file or folder: {path}")


def model_file(path: Path) -> Path:
    """The ONNX file that a path means: a folder means the model.onnx in it, any other path itself.

    Raises:
        InputError: there is nothing at the path, or a folder without a model.onnx.
    """
    check_exists(path)
    if not path.is_dir():
        return path
    file = path / MODEL
    if not file.is_file():
        if (path / RECIPE).is_file():
            raise InputError(f"{file} is missing: export the run first, python -m export {shell_word(path)}")
        raise InputError(f"the folder {path} has no {MODEL}: give an ONNX file, or a run folder")
    return file


def containing_run(path: Path) -> Path | None:
    """The run that a path means: a run folder itself, or the run folder that a file is directly in; None without one."""
    folder = path if path.is_dir() else path.parent
    return folder if (folder / RECIPE).is_file() else None


def run_folder(path: Path, remedy: str) -> Path:
    """As `containing_run`, where a run is needed.

    Args:
        path: a run folder, or a file in one.
        remedy: what to do with a file that is in none.

    Raises:
        InputError: there is nothing at the path, or no run.
    """
    check_exists(path)
    run = containing_run(path)
    if run is None and path.is_dir():
        check_format(path)
        raise InputError(f"{path} is not a run folder (it has no {RECIPE})")
    if run is None:
        raise InputError(f"{path} is not in a run folder: {remedy}")
    return run
