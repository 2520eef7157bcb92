"""What a resumed run may change, and whether it has anything left to do."""

from __future__ import annotations

import math

import keras

from kerascv_course.config import Recipe, TrainedRecipe, check_resumed
from kerascv_course.core.errors import InputError
from kerascv_course.core.provenance import is_current
from kerascv_course.training.checkpoint import Progress, read_progress
from kerascv_course.training.precision import choose_for_device
from kerascv_course.training.run_dir import METRICS, Run

__all__ = ["check_backend", "describe_complete", "is_complete", "is_trained", "resumed_recipe"]


def resumed_recipe(run: Run, now: Recipe) -> Recipe:
    """The recipe to resume with.

    Raises:
        InputError: it differs from the run's in more than its `resumable` fields, or has fewer epochs than are trained.
    """
    before = run.recipe()
    if isinstance(before, TrainedRecipe) and isinstance(now, TrainedRecipe):
        before = choose_for_device(before)
        now = choose_for_device(now, before)
    check_resumed(before, now)
    if isinstance(before, TrainedRecipe) and isinstance(now, TrainedRecipe) and now.epochs < before.epochs:
        _check_epochs(run, now)
    return now


def _check_epochs(run: Run, recipe: TrainedRecipe) -> None:
    """Refuse to end a run before what is trained."""
    path = run / "last.npz"
    done = _epochs(recipe, read_progress(path)) if path.is_file() else 0
    if recipe.epochs < done:
        raise InputError(
            f"a resumed run keeps the epochs that are trained; {run.path} has {done:g}, received --epochs {recipe.epochs}: use "
            f"--epochs {math.ceil(done)} or more, or start a new run"
        )


def check_backend(run: Run) -> None:
    """Check that the run continues on its Keras backend; another draws other random numbers.

    Raises:
        InputError: this is another backend.
    """
    if not (run / "environment.json").is_file():
        return
    began, now = run.read_json("environment.json").get("backend", "tensorflow"), keras.backend.backend()
    if began != now:
        raise InputError(
            f"a run must be resumed on its own Keras backend; {run.path} was started on {began}, this is {now}: set "
            f"KERAS_BACKEND={began}"
        )


def is_trained(recipe: TrainedRecipe, progress: Progress) -> bool:
    """Whether the recipe's training has reached its last epoch or stopped early."""
    done = len(progress.history)
    stopped = bool(recipe.patience and done and progress.since_best >= recipe.patience)
    return stopped or done >= recipe.epochs * recipe.validations_per_epoch


def is_complete(run: Run, recipe: Recipe) -> bool:
    """Whether nothing is left to train, evaluate or export with this recipe."""
    made = (METRICS, "model.onnx") if recipe.export.enabled else (METRICS,)
    files = [*made, "report.html", *(["parity.json"] if recipe.export.enabled else [])]
    if not all((run / name).is_file() for name in files) or not all(is_current(run.path, name) for name in made):
        return False
    if recipe.export.enabled and not run.read_json("parity.json")["ok"]:
        return False
    if not isinstance(recipe, TrainedRecipe):
        return True
    if not (run / "last.npz").is_file():
        return False
    progress, metrics = read_progress(run / "last.npz"), run.read_json(METRICS)
    evaluated = (metrics["best"], metrics["last"]) == (progress.history[progress.best], progress.history[-1])
    return evaluated and is_trained(recipe, progress)


def describe_complete(run: Run, recipe: Recipe) -> str:
    """One line for a complete run: that nothing is left to do, and what would train it further."""
    text = f"{run.path} is complete: trained, evaluated{' and exported' if recipe.export.enabled else ''}; nothing is changed"
    if not isinstance(recipe, TrainedRecipe):
        return text
    done = _epochs(recipe, read_progress(run / "last.npz"))
    if done < recipe.epochs:
        return (
            f"{text}. It stopped after {_count(done)} because {recipe.patience} validations brought no improvement; a larger "
            "--patience trains it further"
        )
    return f"{text}. It has {_count(done)}; a larger --epochs trains it further"


def _count(epochs: float) -> str:
    return f"{epochs:g} epoch{'' if epochs == 1 else 's'}"


def _epochs(recipe: TrainedRecipe, progress: Progress) -> float:
    """Epochs that are trained."""
    return len(progress.history) / recipe.validations_per_epoch
