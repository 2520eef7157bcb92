"""The run folder: the only place that is written to, each file atomically.

A reader finds each file complete or not at all, even after a ``kill -9`` or on a full disk.
"""

from __future__ import annotations

import contextlib
import csv
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kerascv_course.config import Recipe, read_recipe
from kerascv_course.core.environment import describe_command
from kerascv_course.core.errors import CourseError, InputError, shell_word
from kerascv_course.core.io import atomic_write, check_links, check_new_folder, write_text
from kerascv_course.core.lock import new_folder, remove_partial, sole_writer
from kerascv_course.core.schema import to_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["METRICS", "Run"]

#: File of a run with the metrics of its best weights.
METRICS = "metrics.json"

#: What readers rely on in files of a run: the type of a value, of the values in an object (``?``: it may be missing), or of the entries
#: of a list.
NUMBER = (int, float)
FORMS: dict[str, dict[str, Any]] = {
    METRICS: {
        "data": {"fingerprint?": str, "labels?": list, "sizes?": dict, "source": str, "citation?": str},
        "headline": dict,
        "test": dict,
        "trainable_parameters?": int,
        "training_seconds": NUMBER,
        "epochs": NUMBER,
        "best_epoch": NUMBER,
    },
    "environment.json": {"resumes?": [{"command": str}], "versions?": dict},
    "parity.json": {"ok": bool, "images": int, "tolerance": NUMBER, "failures": list, "rows": [dict]},
}

log = logging.getLogger("kerascv_course")


class Run:
    """A run folder.

    It holds ``recipe.json``, ``data.json`` (which data is in which split), ``environment.json``, ``history.csv``, ``steps.csv``,
    ``best.keras``, ``last.npz`` (the checkpoint to resume from), ``metrics.json``, ``plots/*.png``, ``samples/*.png``,
    ``model.onnx``, ``parity.json``, ``provenance.json`` (the weights that files were made from), ``report.html`` and ``log.txt``;
    for some tasks ``snapshots/*.png`` (figures of each validation) and ``palette.csv``; on request ``tensorboard/`` and
    ``profile/``. No file is a pickle.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path, recipe: Recipe) -> Run:
        """Create a folder with its recipe.

        Raises:
            InputError: `path` exists already; it is not touched.
            WriteError: the folder cannot be created.
        """
        cls.check_free(path)
        run = cls(path)
        run.write_text("recipe.json", to_json(recipe))
        return run

    @staticmethod
    def check_free(path: Path) -> None:
        """Check that `path` does not exist or is an empty folder.

        Raises:
            InputError: it is a file or has content.
        """
        check_new_folder(path, _remedy(path))

    @staticmethod
    def claim(path: Path, *, numbered: bool = False) -> contextlib.AbstractContextManager[Path]:
        """Create a folder for a new run, which only this process may write into within the block; left empty, it is removed again.

        Args:
            path: the folder.
            numbered: take the first of `path`, ``path-2`` … that does not exist.

        Raises:
            InputError: it is a file or has content, or another process holds it.
            WriteError: it cannot be created.
        """
        return new_folder(path, _remedy(path), numbered=numbered)

    def lock(self) -> contextlib.AbstractContextManager[Path]:
        """Within the block only this process, and its child processes, may write into the run (`sole_writer`).

        Raises:
            LockedError: another process writes into it.
        """
        return sole_writer(self.path)

    @classmethod
    def open(cls, path: Path) -> Run:
        """Open an existing run.

        Raises:
            InputError: not a run folder.
        """
        if not (path / "recipe.json").is_file():
            raise InputError(f"{path} is not a run folder (it has no recipe.json)")
        check_links(path)
        return cls(path)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def tidy(self) -> None:
        """Remove the half-written files and folders that a ``kill -9`` has left, and nothing else (`remove_partial`)."""
        remove_partial(self.path)

    def recipe(self) -> Recipe:
        """The recipe that made the run.

        Raises:
            InputError: recipe.json is damaged or from another version.
        """
        return read_recipe((self / "recipe.json").read_bytes(), what=str(self / "recipe.json"))

    def data_dir(self) -> Path | None:
        """Where the run's dataset was when it started; None: in the usual place."""
        if not (self / "environment.json").is_file():
            return None
        remembered = self.read_json("environment.json").get("data_dir")
        return Path(remembered) if remembered else None

    def fingerprint(self) -> str:
        """Fingerprint of the run's data in metrics.json; empty: it is not evaluated."""
        return str(self.read_json(METRICS)["data"]["fingerprint"]) if (self / METRICS).is_file() else ""

    def labels(self) -> tuple[str, ...]:
        """Class names of the run in metrics.json.

        Raises:
            InputError: it is not evaluated.
        """
        return tuple(self.read_json(METRICS)["data"]["labels"])

    def record_resume(self) -> None:
        """Add this command to ``resumes`` of environment.json."""
        if not (self / "environment.json").is_file():
            return
        environment = self.read_json("environment.json")
        resumes = [*environment.get("resumes", []), describe_command()]
        self.write_json("environment.json", {**environment, "resumes": resumes})

    def commands(self) -> list[str]:
        """The commands that made the run: the one that started it, then those that resumed it."""
        environment = self.read_json("environment.json")
        resumes = [resume["command"] for resume in environment.get("resumes", [])]
        return [command for command in (environment.get("command", ""), *resumes) if command]

    def read_json(self, name: str) -> dict[str, Any]:
        """A JSON file of the run.

        Raises:
            InputError: missing or damaged.
        """
        path = self / name
        if not path.is_file():
            raise InputError(
                f"{path} is missing because the run is unfinished: resume it with --resume {shell_word(self.path)}"
            )
        try:
            content = json.loads(path.read_bytes())
            if not isinstance(content, dict):
                raise TypeError("it holds no object")
            _check_form(content, FORMS.get(name, {}))
            return content
        except (ValueError, TypeError, RecursionError) as error:
            raise InputError(f"{path} is damaged: {error}") from None

    def history(self) -> list[dict[str, float]]:
        """Rows of history.csv, one per validation; empty without the file.

        Raises:
            InputError: it is damaged.
        """
        path = self / "history.csv"
        if not path.is_file():
            return []
        with path.open(encoding="utf-8", newline="") as file:
            lines = csv.reader(file, strict=True)
            try:
                head = next(lines, [])
                rows = [dict(zip(head, map(float, line), strict=True)) for line in lines]
                if rows and "epoch" not in head:
                    raise ValueError("it has no column epoch")
                return rows
            except (ValueError, csv.Error) as error:
                raise InputError(f"{path}, line {max(lines.line_num, 1)}, is damaged: {error}") from None

    def write_text(self, name: str, text: str) -> None:
        """Write a UTF-8 text file."""
        write_text(self / name, text)

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file."""
        self.write_text(name, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")

    def write_figure(self, name: str, figure: Figure, *, dpi: int = 110) -> None:
        """Write a figure as PNG; `dpi`: pixels per inch."""
        with atomic_write(self / name) as path:
            figure.savefig(path, dpi=dpi)

    @contextlib.contextmanager
    def log_file(self) -> Iterator[None]:
        """Within it this package's log is appended to log.txt."""
        handler = logging.FileHandler(self / "log.txt", encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
        log.addHandler(handler)
        try:
            yield
        except CourseError as error:
            log.debug("ended with an error: %s", error)
            raise
        finally:
            log.removeHandler(handler)
            handler.close()


def _check_form(value: Any, form: Any, where: str = "") -> None:
    """Check the types that readers rely on (`FORMS`).

    Raises:
        TypeError: a value is missing or of another type.
    """
    if isinstance(form, dict):
        if not isinstance(value, dict):
            raise TypeError(f"{where} is no object")
        for name, inner in form.items():
            key = name.removesuffix("?")
            if key not in value and name != key:
                continue
            if key not in value:
                raise TypeError(f"{where}{'.' if where else ''}{key} is missing")
            _check_form(value[key], inner, f"{where}{'.' if where else ''}{key}")
    elif isinstance(form, list):
        _check_form(value, list, where)
        for item in value:
            _check_form(item, form[0], f"an entry of {where}")
    elif not isinstance(value, form) or (isinstance(value, bool) and form is not bool):
        raise TypeError(f"{where} is {json.dumps(value)[:60]}")


def _remedy(path: Path) -> str:
    return f"choose another --run-dir, or resume the run with --resume {shell_word(path)}"
