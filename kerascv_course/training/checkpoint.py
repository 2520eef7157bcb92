"""The checkpoint to resume from: one .npz with everything that the next step depends on.

Keras's own files leave out the state of dropout's random seeds (measured with Keras 3.15: a model restored from .keras or
.weights.h5 draws its first masks again), so a run resumed from them is not the run that was interrupted. Here every variable is
kept: weights, batch-norm statistics, seeds, optimiser slots and its step count; and with them the history, so that one rename
commits a validation whole: the figures of every validation and of every training step.
"""

from __future__ import annotations

import json
import tokenize
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kerascv_course.core.errors import InputError
from kerascv_course.core.schema import convert, parse_json
from kerascv_course.training.precision import seed_states

__all__ = ["STEP_COLUMNS", "Progress", "load_checkpoint", "read_progress", "save_checkpoint"]

FORMAT = 1

#: What is kept of a training step: its number in the run (1 is the first), epochs done after it, its loss, its learning rate.
STEP_COLUMNS = ("step", "epoch", "loss", "learning_rate")

OWN_RECIPE = "resume with the run's own recipe"


@dataclass
class Progress:
    """How far a training has come.

    Attributes:
        fingerprint: of the data (`kerascv_course.data.DataInfo`).
        history: a row a validation: ``epoch``, ``step``, ``loss`` …, ``val_loss`` …, ``learning_rate``, ``seconds``.
        best: index in `history` of the checkpoint that was kept; −1 before the first.
        format: version of the file.
        recipe: name of the recipe; empty: not known.
        steps: float64 (steps, 4), the `STEP_COLUMNS` of every step. A run that a version without them began has the later ones.
    """

    fingerprint: str
    history: list[dict[str, float]] = field(default_factory=list)
    best: int = -1
    format: int = FORMAT
    recipe: str = ""
    steps: np.ndarray = field(default_factory=lambda: np.empty((0, len(STEP_COLUMNS))))

    @property
    def since_best(self) -> int:
        """Validations in a row without a better one."""
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
    """Restore a compiled model, its optimiser built, in place.

    Args:
        path: the file.
        model: takes the state; it is changed only where everything fits.
        fingerprint: of the data that will be learnt from.
        recipe: name of the recipe that goes on; empty: any.

    Raises:
        InputError: damaged, of a newer version, of another recipe or model, or of other data.
    """
    progress, arrays = _read(path)
    if recipe and progress.recipe not in ("", recipe):
        raise InputError(
            f"the checkpoint {path} belongs to the recipe {progress.recipe}; received it for {recipe}: {OWN_RECIPE}"
        )
    if progress.fingerprint != fingerprint:
        raise InputError(
            f"the checkpoint {path} was made with other data ({progress.fingerprint}; now {fingerprint}): name the run's own by "
            "--data-dir"
        )
    state = _state(model)
    if [tuple(v.shape) for v in state] != [arrays[name].shape for name in sorted(arrays)]:
        raise InputError(f"the checkpoint {path} belongs to another network or optimiser: {OWN_RECIPE}")
    for variable, name in zip(state, sorted(arrays), strict=True):
        variable.assign(arrays[name])
    return progress


def read_progress(path: Path) -> Progress:
    """The progress alone of a checkpoint.

    Raises:
        InputError: damaged, or of a newer version.
    """
    return _read(path)[0]


def _read(path: Path) -> tuple[Progress, dict[str, np.ndarray]]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        plain = parse_json(str(arrays.pop("progress")), what=f"{path}: progress", allow_nan=True)
        found = plain["format"]
        if not isinstance(found, int) or found <= FORMAT:
            steps = arrays.pop("steps", np.empty((0, len(STEP_COLUMNS))))
            progress = convert(Progress, {**plain, "steps": steps}, what=f"{path}: progress")
            if steps.ndim != 2 or steps.shape[1] != len(STEP_COLUMNS):
                raise ValueError(f"steps of shape {steps.shape}")
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        EOFError,
        NotImplementedError,
        tokenize.TokenError,
        zipfile.BadZipFile,
    ) as error:
        raise InputError(
            f"the checkpoint {path} is damaged or not ours: {error}; start a new run, best.keras beside it may still be whole"
        ) from None
    if found > FORMAT:
        raise InputError(
            f"the checkpoint {path} has format {found}, of a newer version than this one, which reads up to format {FORMAT}: "
            "go on with the version that began the run, or a newer one"
        )
    return progress, arrays
