"""A run folder as one page: report.html, self-contained (pictures inside), made from the run's files alone."""

from __future__ import annotations

import base64
import csv
import json
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from kerascv_course.analysis.activations import CAPTIONS
from kerascv_course.tasks.base import get_task
from kerascv_course.training.run_dir import Run

__all__ = ["write_run_page"]

LEARNING_CURVES = (
    "Learning curves. Training figures are means over the period while the weights move; validation is measured at its end."
)

STEP_CURVES = (
    "The same against the step: training loss as the mean of every ten steps with a band of one standard deviation each way, "
    "validation loss, and beside them the validation's own metric."
)

PARITY = "How much the values of each output differ, over all images, graph as written."


def write_run_page(run: Run) -> None:
    """Write report.html from whatever the run has by now; parts that are missing are left out.

    Everything from files is escaped: a label may hold any character.
    """
    environment = Environment(
        loader=PackageLoader("kerascv_course", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    recipe = run.recipe()
    captions = {
        "learning_curves": LEARNING_CURVES,
        "step_curves": STEP_CURVES,
        "parity": PARITY,
        **get_task(recipe).captions,
        **CAPTIONS,
    }
    plots = _pictures(run, "plots", captions)
    page = environment.get_template("run_page.html.jinja").render(
        run=run.path,
        recipe=_json(run, "recipe.json"),
        environment=_json(run, "environment.json"),
        metrics=_json(run, "metrics.json"),
        parity=_json(run, "parity.json"),
        precisions=_json(run, "quantize.json") or {},
        history=_history(run),
        plots=[plot for plot in plots if plot["name"] != "parity"],
        parity_plot=next((plot for plot in plots if plot["name"] == "parity"), None),
        snapshots=_pictures(run, "snapshots", {}),
        samples=[path.relative_to(run.path).as_posix() for path in sorted((run / "samples").glob("*.png"))],
    )
    run.write_text("report.html", page)


def _json(run: Run, name: str) -> dict[str, Any] | None:
    path = run / name
    return json.loads(path.read_bytes()) if path.is_file() else None


def _history(run: Run) -> list[dict[str, str]]:
    path = run / "history.csv"
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _pictures(run: Run, folder: str, captions: Mapping[str, str]) -> list[dict[str, str]]:
    """The pictures of a folder: those with a caption in the captions' order, then any others by name."""
    paths = {path.stem: path for path in (run / folder).glob("*.png")}
    names = [name for name in captions if name in paths] + sorted(set(paths) - set(captions))
    return [
        {
            "name": name,
            "caption": captions.get(name, name.replace("_", " ")),
            "data": base64.b64encode(paths[name].read_bytes()).decode("ascii"),
        }
        for name in names
    ]
