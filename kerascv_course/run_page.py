"""report.html of a run: one self-contained page, made from the files of the run folder."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from jinja2 import UndefinedError

from kerascv_course.analysis.activations import CAPTIONS
from kerascv_course.core.errors import InputError
from kerascv_course.core.html import render_html
from kerascv_course.core.provenance import is_current, outdated
from kerascv_course.tasks.base import get_task
from kerascv_course.training.run_dir import Run

__all__ = ["write_run_page"]

#: Files whose values the page shows.
SHOWN = ("recipe.json", "environment.json", "metrics.json", "parity.json", "quantize.json")

#: Captions of the figures that every run has.
RUN_CAPTIONS = {
    "learning_curves": "Learning curves. Training metrics are averaged over the epoch while the weights change; validation metrics "
    "are measured at its end. The losses are those that the training minimizes: with label smoothing, class weights and weight "
    "penalties where the recipe has them.",
    "step_curves": "Loss per training step, averaged over ten steps with one standard deviation, validation loss, and the "
    "validation metric.",
    "parity": "Differences between Keras and ONNX for each output, over all test images.",
}


def write_run_page(run: Run) -> None:
    """Write report.html from the files that the run has so far; what was made from earlier weights is named, not shown.

    All text from files is escaped: labels may hold any character.
    """
    current = is_current(run.path, "metrics.json")
    plots = _images(run, "plots", {**RUN_CAPTIONS, **get_task(run.recipe()).captions, **CAPTIONS}) if current else []
    metrics, parity, history = _json(run, "metrics.json"), _json(run, "parity.json"), run.history()
    old_files = outdated(run.path)
    if parity and parity["ok"] and "model.onnx" in old_files:
        parity = None
    recipe = _json(run, "recipe.json") or {}
    environment = _json(run, "environment.json")
    values = {
        "run": run.path,
        "recipe": recipe,
        "environment": environment,
        "commands": run.commands() if environment else [],
        "metrics": metrics if current else None,
        "remeasure": bool(metrics) and not current,
        "parity": parity,
        "precisions": _json(run, "quantize.json") or {},
        "old_precisions": [kind for kind in ("int8", "float16") if not is_current(run.path, f"quantize.json:{kind}")],
        "old_files": old_files,
        "history": history,
        "longer": _longer(recipe, history),
        "plots": [plot for plot in plots if plot["name"] != "parity"],
        "parity_plot": next((plot for plot in plots if plot["name"] == "parity"), None),
        "snapshots": _images(run, "snapshots", {}),
        "samples": [path.relative_to(run.path).as_posix() for path in sorted((run / "samples").glob("*.png"))],
    }
    try:
        page = render_html("kerascv_course", "run_page.html.jinja", **values)
    except (TypeError, ValueError, LookupError, AttributeError, UndefinedError) as error:
        files = ", ".join(name for name in SHOWN if (run / name).is_file())
        raise InputError(f"{run.path}: a value in {files} is damaged, its page cannot be written: {error}") from None
    run.write_text("report.html", page)


def _longer(recipe: Mapping[str, Any], history: list[dict[str, float]]) -> str:
    """Options that train a run longer than it is; empty for a task that has no epochs."""
    if "epochs" not in recipe:
        return ""
    done = math.ceil(history[-1]["epoch"]) if history else 0
    options = f"--epochs {2 * max(recipe['epochs'], done)}"
    stopped = recipe["patience"] and done < recipe["epochs"]
    return f"{options} --patience {2 * recipe['patience']}" if stopped else options


def _json(run: Run, name: str) -> dict[str, Any] | None:
    return run.read_json(name) if (run / name).is_file() else None


def _images(run: Run, folder: str, captions: Mapping[str, str]) -> list[dict[str, Any]]:
    """The images of a folder: those with a caption in the order of the captions, then the others by name."""
    paths = {path.stem: path for path in (run / folder).glob("*.png")}
    names = [name for name in captions if name in paths] + sorted(set(paths) - set(captions))
    return [
        {"name": name, "caption": captions.get(name, name.replace("_", " ")), "png": paths[name].read_bytes()} for name in names
    ]
