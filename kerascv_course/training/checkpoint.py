"""The checkpoint to resume from: one .npz with everything that the next step depends on.

Keras's own files leave out the state of dropout's random seeds (measured with Keras 3.15: a model restored from .keras or
.weights.h5 draws its first masks again), so a run resumed from them is not the run that was interrupted. Here every variable is
kept: weights, batch-norm statistics, seeds, optimiser slots and its step count; and with them the history, so that one rename
commits a validation whole.
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kerascv_course.errors import InputError
from kerascv_course.jsondata import from_json

__all__ = ["Progress", "load_checkpoint", "save_checkpoint"]

FORMAT = 1


@dataclass
class Progress:
    """How far a training has come.

    Attributes:
        fingerprint: of the data (`kerascv_course.data.DataInfo`).
        history: a row a validation: ``epoch``, ``step``, ``loss`` …, ``val_loss`` …, ``learning_rate``, ``seconds``.
        best: index in `history` of the checkpoint that was kept; −1 before the first.
        format: version of the file.
    """

    fingerprint: str
    history: list[dict[str, float]] = field(default_factory=list)
    best: int = -1
    format: int = FORMAT

    @property
    def since_best(self) -> int:
        """Validations in a row without a better one."""
        return len(self.history) - 1 - self.best


def _state(model: keras.Model) -> list[Any]:
    seeds = [v for v in model.non_trainable_variables if v.path.endswith("seed_generator_state")]
    return [*model.weights, *seeds, *model.optimizer.variables]


def save_checkpoint(path: Path, model: keras.Model, progress: Progress) -> None:
    """Write a compiled and built model's whole state and its progress to `path` (.npz)."""
    arrays = {f"variable_{i:05d}": keras.ops.convert_to_numpy(v) for i, v in enumerate(_state(model))}
    with path.open("wb") as file:
        np.savez(file, progress=np.array(json.dumps(asdict(progress))), **arrays)


def load_checkpoint(path: Path, model: keras.Model, fingerprint: str) -> Progress:
    """Restore a compiled model, its optimiser built, in place.

    Raises:
        InputError: damaged, of another version, of another model, or of other data.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        progress = from_json(Progress, str(arrays.pop("progress")), what=f"{path}: progress", allow_nan=True)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"the checkpoint {path} is damaged or not ours: {error}") from None
    if progress.format != FORMAT:
        raise InputError(f"the checkpoint {path} has format {progress.format}; this version reads format {FORMAT}")
    if progress.fingerprint != fingerprint:
        raise InputError(f"the checkpoint {path} was made with other data ({progress.fingerprint}; now {fingerprint})")
    state = _state(model)
    if [tuple(v.shape) for v in state] != [arrays[name].shape for name in sorted(arrays)]:
        raise InputError(f"the checkpoint {path} belongs to another network or optimiser: resume with the run's own recipe")
    for variable, name in zip(state, sorted(arrays), strict=True):
        variable.assign(arrays[name])
    return progress
