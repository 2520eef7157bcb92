"""Sweeps and repeats of scene recipes: ``python -m kerascv_course.scenes {sweep,repeat} RECIPE …``."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from kerascv_course.core.environment import start_tensorflow
from kerascv_course.core.errors import InputError, run_cli
from kerascv_course.data import Dataset, check_source, load
from kerascv_course.recipes import get_recipe
from kerascv_course.tasks.scenes.config import SceneRecipe, Scenes
from kerascv_course.training.run_dir import Run


def sweep(
    recipe: Annotated[str, tyro.conf.Positional],
    over: tuple[str, ...],
    data_dir: Path,
    values: tuple[str, ...] = (),
    set: tuple[str, ...] = (),
    test: bool = False,
    output: Path | None = None,
) -> None:
    """Try settings of a scene recipe and print the validation accuracies. Earlier results are taken from the cache.

    Args:
        recipe: name of the recipe.
        over: settings to vary, such as k, step, words, distance, norm; several make all combinations.
        data_dir: folder of class folders.
        values: values of a single setting; by default k 1 to 10, step 1 3 5, words 50 100 200 400 800 and so on.
        set: other settings for all, as NAME=VALUE, such as step=3.
        test: also print the test accuracy, for comparison with a report; never choose by it.
        output: new folder for table.md, table.csv, sweep.json and plot.png.
    """
    if values and len(over) != 1:
        raise InputError(f"--values requires a single setting; received {len(over)}: {', '.join(over)}")
    tried = {name: [_parse(name, value) for value in values] for name in over}
    chosen, data = _load(recipe, data_dir, output, set)
    from kerascv_course.tasks.scenes import sweeps

    rows = sweeps.sweep(sweeps.variants(chosen, tried), data, test=test)
    table = sweeps.format_rows(rows)
    print(f"\n{table}")
    if output:
        sweeps.write_table(output, chosen, rows, table, f"{recipe}: {', '.join(over)}")


def repeat(
    recipe: Annotated[str, tyro.conf.Positional],
    data_dir: Path,
    repeats: int = 10,
    set: tuple[str, ...] = (),
    output: Path | None = None,
) -> None:
    """Run a scene recipe on random splits of all its images and print mean and standard deviation of the test accuracy.

    Args:
        recipe: name of the recipe.
        data_dir: folder of class folders.
        repeats: number of splits, with seeds 0, 1, 2 …
        set: other settings, as NAME=VALUE.
        output: new folder for table.md, table.csv and sweep.json.
    """
    if repeats < 1:
        raise InputError(f"--repeats must be 1 or more; received {repeats}")
    chosen, data = _load(recipe, data_dir, output, set)
    from kerascv_course.tasks.scenes import sweeps

    rows = sweeps.repeat(chosen, data, range(repeats))
    summary = sweeps.summarize_repeats(rows)
    table = (
        f"{sweeps.format_rows(rows)}\n\ntest accuracy over {summary.count} random splits: {summary.mean:.4f} ± "
        f"{summary.deviation:.4f} (standard deviation)"
    )
    print(f"\n{table}")
    if output:
        sweeps.write_table(output, chosen, rows, table, None)


def _parse(name: str, text: str) -> Any:
    """A setting's value from its text, by the field's type."""
    hints = typing.get_type_hints(Scenes)
    if name not in hints:
        raise InputError(f"scenes has no setting {name!r}; it has {', '.join(hints)}")
    kind, choices = hints[name], typing.get_args(hints[name])
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        if kind in (int, float):
            return kind(text)
        if typing.get_origin(kind) is tuple:
            return tuple(choices[0](part) for part in text.split(","))
    except (KeyError, ValueError):
        raise InputError(f"{name} must be of the type {getattr(kind, '__name__', kind)}; received {text!r}") from None
    if text not in choices:
        raise InputError(f"{name} must be one of {', '.join(choices)}; received {text!r}")
    return text


def _load(name: str, data_dir: Path, output: Path | None, changes: Sequence[str]) -> tuple[SceneRecipe, Dataset]:
    """The recipe and its data; invalid input is refused before TensorFlow starts."""
    recipe = get_recipe(name)
    if not isinstance(recipe, SceneRecipe):
        raise InputError(f"this command takes recipes of the task scenes; {name} has the task {recipe.task}")
    settings = {}
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals:
            raise InputError(f"--set takes NAME=VALUE; received {change!r}")
        settings[key] = _parse(key, text)
    recipe = dataclasses.replace(recipe, scenes=dataclasses.replace(recipe.scenes, **settings))
    check_source(recipe.data, data_dir)
    if output:
        Run.check_free(output)
    start_tensorflow()
    from kerascv_course.experiment import configure_logging
    from kerascv_course.tasks.scenes.task import SceneTask

    configure_logging()
    return recipe, SceneTask(recipe).label(load(recipe.data, data_dir), None)


def main() -> None:
    """Parse and run."""
    tyro.extras.subcommand_cli_from_dict({"sweep": sweep, "repeat": repeat}, prog="python -m kerascv_course.scenes")


if __name__ == "__main__":
    run_cli(main)
