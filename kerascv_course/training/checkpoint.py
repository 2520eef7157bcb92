"""The checkpoint to resume from: one .npz file with everything that the next step depends on.

Keras's own files lack the state of dropout's random seeds (with Keras 3.15 a model restored from .keras or .weights.h5 draws its
first masks again), so a run resumed from them would differ from an uninterrupted one. Here every variable is saved: weights,
batch-norm statistics, seeds, optimizer slots and step count; and the history of all validations and steps, so that one rename
commits them together.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kerascv_course.core.errors import InputError
from kerascv_course.core.keras_file import read_arrays
from kerascv_course.core.schema import convert, parse_json
from kerascv_course.core.tables import csv_table
from kerascv_course.training.precision import seed_states
from kerascv_course.training.run_dir import Run

__all__ = [
    "STEP_COLUMNS",
    "Progress",
    "finish_commit",
    "load_checkpoint",
    "read_progress",
    "save_checkpoint",
    "write_history",
]

FORMAT = 1

#: Record of a training step: its number in the run, from 1, epochs finished after it, loss and learning rate.
STEP_COLUMNS = ("step", "epoch", "loss", "learning_rate")


@dataclass
class Progress:
    """Progress of a training.

    Attributes:
        fingerprint: of the data (`kerascv_course.data.DataInfo`).
        history: one row per validation: ``epoch``, ``step``, ``loss`` …, ``val_loss`` …, ``learning_rate``, ``seconds``.
        best: index in `history` of the best validation; −1 before the first.
        format: version of the file.
        recipe: name of the recipe; empty: unknown.
        steps: float64 (steps, 4), the `STEP_COLUMNS` of every step.
    """

    fingerprint: str
    history: list[dict[str, float]] = field(default_factory=list)
    best: int = -1
    format: int = FORMAT
    recipe: str = ""
    steps: np.ndarray = field(default_factory=lambda: np.empty((0, len(STEP_COLUMNS))))

    @property
    def since_best(self) -> int:
        """Number of validations after the best one."""
        return len(self.history) - 1 - self.best


def _state(model: keras.Model) -> list[Any]:
    return [*model.weights, *seed_states(model), *model.optimizer.variables]


def save_checkpoint(path: Path, model: keras.Model, progress: Progress) -> None:
    """Write a compiled and built model's whole state and its progress to `path` (.npz)."""
    arrays = {f"variable_{i:05d}": keras.ops.convert_to_numpy(v) for i, v in enumerate(_state(model))}
    plain = {name: value for name, value in vars(progress).items() if name != "steps"}
    with path.open("wb") as file:
        np.savez(file, progress=np.array(json.dumps(plain)), steps=progress.steps, **arrays)


def load_checkpoint(path: Path, model: keras.Model, fingerprint: str, recipe: str = "") -> Progress:
    """Restore a compiled model with a built optimizer, in place.

    Args:
        path: the file.
        model: receives the state; unchanged in case of an error.
        fingerprint: of the training data.
        recipe: name of the resumed recipe; empty: any.

    Raises:
        InputError: damaged, of a newer version, of another recipe or model, or of other data.
    """
    progress, arrays = _read(path)
    if recipe and progress.recipe not in ("", recipe):
        raise InputError(
            f"the checkpoint {path} belongs to the recipe {progress.recipe}; received it for {recipe}: resume with the run's own recipe"
        )
    if progress.fingerprint != fingerprint:
        raise InputError(
            f"the checkpoint {path} was made with other data ({progress.fingerprint}; now {fingerprint}): give the run's own data with "
            "--data-dir"
        )
    state = _state(model)
    if [tuple(v.shape) for v in state] != [arrays[name].shape for name in sorted(arrays)]:
        raise InputError(f"the checkpoint {path} belongs to another network or optimizer: resume with the run's own recipe")
    for variable, name in zip(state, sorted(arrays), strict=True):
        variable.assign(arrays[name])
    return progress


def read_progress(path: Path) -> Progress:
    """The progress in a checkpoint.

    Raises:
        InputError: damaged, or of a newer version.
    """
    return _read(path, variables=False)[0]


def _read(path: Path, *, variables: bool = True) -> tuple[Progress, dict[str, np.ndarray]]:
    try:
        arrays = read_arrays(path, lambda name: variables or not name.startswith("variable_"))
        plain = parse_json(str(arrays.pop("progress")), what=f"{path}: progress", allow_nan=True)
        found = plain["format"]
        if not isinstance(found, int) or found <= FORMAT:
            steps = arrays.pop("steps", np.empty((0, len(STEP_COLUMNS))))
            progress = convert(Progress, {**plain, "steps": steps}, what=f"{path}: progress")
            if steps.ndim != 2 or steps.shape[1] != len(STEP_COLUMNS):
                raise ValueError(f"steps of shape {steps.shape}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"the checkpoint {path} is damaged or not ours: {error}; start a new run (best.keras beside it may still be intact)"
        ) from None
    if found > FORMAT:
        raise InputError(
            f"the checkpoint {path} has format {found}, of a newer version than this one, which reads up to format {FORMAT}: "
            "resume with the version that started the run, or a newer one"
        )
    return progress, arrays


def finish_commit(run: Run, progress: Progress, steps_text: list[str] | None = None) -> None:
    """Bring ``best.keras``, ``history.csv`` and ``steps.csv`` in line with the committed progress (see `CheckpointCallback`).

    Args:
        run: the run folder.
        progress: as in ``last.npz``.
        steps_text: lines of ``steps.csv`` so far, extended in place, so that a long run does not format them again and again.
    """
    for staged in sorted(run.path.glob("best.*.keras")):
        if staged.name == f"best.{progress.best:06d}.keras":
            staged.replace(run / "best.keras")
        else:
            staged.unlink()
    write_history(run, progress.history)
    lines = steps_text if steps_text is not None else []
    lines += [] if lines else [",".join(STEP_COLUMNS)]
    rows = progress.steps[len(lines) - 1 :].tolist()
    lines += [f"{step:.0f},{epoch:.6g},{loss:.6g},{rate:.6g}" for step, epoch, loss, rate in rows]
    run.write_text("steps.csv", "\n".join(lines) + "\n")


def write_history(run: Run, history: list[dict[str, float]]) -> None:
    """Write ``history.csv``, one row per validation."""
    head = list(history[0]) if history else ["epoch"]
    run.write_text("history.csv", csv_table(head, ([row[name] for name in head] for row in history)))
