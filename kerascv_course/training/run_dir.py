"""The run folder: the only place that writes, always beside the final name and then renamed.

A reader, also one that comes after a ``kill -9`` or a full disk, finds each file whole or not at all.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kerascv_course.config import Recipe
from kerascv_course.core.errors import InputError
from kerascv_course.core.io import atomic_write, check_new_folder, free_path, write_text
from kerascv_course.core.schema import from_json, to_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Run"]


class Run:
    """A run folder.

    It holds ``recipe.json``, ``environment.json``, ``history.csv``, ``steps.csv``, ``best.keras``, ``last.npz`` (the checkpoint to
    resume from), ``metrics.json``, ``plots/*.png``, ``samples/*.png``, ``model.onnx``, ``parity.json``, ``report.html`` and
    ``log.txt``; where the task has such, also ``snapshots/*.png`` (pictures of each validation) and ``palette.csv``, and where
    asked for ``tensorboard/`` and ``profile/``.
    Nothing in it is a pickle.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path, recipe: Recipe) -> Run:
        """Make a new folder with its recipe.

        Raises:
            InputError: there is something at `path` already; it is not touched.
            WriteError: the folder cannot be made.
        """
        cls.check_free(path)
        run = cls(path)
        run.write_text("recipe.json", to_json(recipe))
        return run

    @staticmethod
    def check_free(path: Path) -> None:
        """Refuse a place that is taken; an empty folder is free.

        Raises:
            InputError: there is something at `path` already.
        """
        check_new_folder(path, f"choose another --run-dir, or resume the run with --resume {path}")

    @classmethod
    def open(cls, path: Path) -> Run:
        """Open an existing run.

        Raises:
            InputError: not a run folder.
        """
        if not (path / "recipe.json").is_file():
            raise InputError(f"{path} is not a run folder (it has no recipe.json)")
        return cls(path)

    @staticmethod
    def free_path(root: Path, name: str) -> Path:
        """``root/name``, or with the first number that is not taken: ``root/name-2`` …"""
        return free_path(root / name)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def tidy(self) -> None:
        """Remove the half-written files that a ``kill -9`` has left behind, which nobody reads."""
        for path in self.path.rglob(".partial-*"):
            path.unlink(missing_ok=True)

    def recipe(self) -> Recipe:
        """The recipe that made the run.

        Raises:
            InputError: recipe.json is damaged or from another version.
        """
        return from_json(Recipe, (self / "recipe.json").read_bytes(), what=str(self / "recipe.json"))

    def read_json(self, name: str) -> dict[str, Any]:
        """A JSON file of the run.

        Raises:
            InputError: missing or damaged.
        """
        path = self / name
        if not path.is_file():
            raise InputError(f"{path} is missing: the run has not come so far; go on with it by --resume {self.path}")
        try:
            return json.loads(path.read_bytes())
        except ValueError as error:
            raise InputError(f"{path} is damaged: {error}") from None

    def write_text(self, name: str, text: str) -> None:
        """Write a UTF-8 text file."""
        write_text(self / name, text)

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file."""
        self.write_text(name, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")

    def write_figure(self, name: str, figure: Figure, *, dpi: int = 110) -> None:
        """Write a figure as PNG of so many pixels an inch."""
        with atomic_write(self / name) as path:
            figure.savefig(path, dpi=dpi)
