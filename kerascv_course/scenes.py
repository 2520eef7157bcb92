"""Sweeps and repeats of scene recipes: ``python -m kerascv_course.scenes {sweep,repeat} RECIPE …``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from kerascv_course.core.errors import InputError, run_cli

if TYPE_CHECKING:
    from kerascv_course.config import Recipe
    from kerascv_course.data import DataInfo, Splits
    from kerascv_course.tasks.base import FittedTask


def sweep(
    recipe: Annotated[str, tyro.conf.Positional],
    over: tuple[str, ...],
    data_dir: Path,
    values: tuple[str, ...] = (),
    set: tuple[str, ...] = (),
    test: bool = False,
    output: Path | None = None,
) -> None:
    """Try settings of a scene recipe and print the accuracies on validation. What was computed before comes from the cache.

    Args:
        recipe: name of the recipe.
        over: settings to try, such as k, step, words, distance, norm; of several every combination.
        data_dir: folder of class folders.
        values: what to try of the setting (of one only); by default k 1 to 10, step 1 3 5, words 50 100 200 400 800 and so on.
        set: other settings for all, as NAME=VALUE, such as step=3.
        test: print the accuracy on test as well, for tables beside a report's; not to choose by.
        output: new folder for table.md, table.csv, sweep.json and plot.png.
    """
    from kerascv_course.config import Scenes

    if values and len(over) != 1:
        raise InputError(f"--values are for one setting; received {len(over)}: {', '.join(over)}")
    tried = {name: [_parse(Scenes, name, value) for value in values] for name in over}
    chosen, task, splits, info = _load(recipe, data_dir, output, set)
    from kerascv_course.tasks.scenes.sweeps import format_rows, variants, write_table
    from kerascv_course.tasks.scenes.sweeps import sweep as run_sweep

    rows = run_sweep(task, variants(chosen, tried), splits, info, test=test)
    table = format_rows(rows)
    print(f"\n{table}")
    if output:
        write_table(output, chosen, rows, table, f"{recipe}: {', '.join(over)}")


def repeat(
    recipe: Annotated[str, tyro.conf.Positional],
    data_dir: Path,
    repeats: int = 10,
    set: tuple[str, ...] = (),
    output: Path | None = None,
) -> None:
    """Run a scene recipe on random splits of all its pictures and print mean and standard deviation of the test accuracy.

    Args:
        recipe: name of the recipe.
        data_dir: folder of class folders.
        repeats: how many splits; their seeds are 0, 1, 2 …
        set: other settings, as NAME=VALUE.
        output: new folder for table.md, table.csv and sweep.json.
    """
    if repeats < 1:
        raise InputError(f"--repeats is 1 or more; received {repeats}")
    chosen, task, splits, info = _load(recipe, data_dir, output, set)
    from kerascv_course.tasks.scenes.sweeps import format_rows, summarize_repeats, write_table
    from kerascv_course.tasks.scenes.sweeps import repeat as run_repeats

    rows = run_repeats(task, chosen, splits, info, range(repeats))
    summary = summarize_repeats(rows)
    line = (
        f"test accuracy over {summary.count} random splits: {summary.mean:.4f} ± {summary.deviation:.4f} (standard deviation)"
    )
    table = f"{format_rows(rows)}\n\n{line}"
    print(f"\n{table}")
    if output:
        write_table(output, chosen, rows, table, None)


def _parse(kind: Any, name: str, text: str) -> Any:
    """A setting's value from its text, by the field's type."""
    import typing

    hints = typing.get_type_hints(kind)
    if name not in hints:
        raise InputError(f"no setting {name!r} of scenes; there are {', '.join(hints)}")
    try:
        if hints[name] is bool:
            return {"true": True, "false": False}[text.lower()]
        if hints[name] in (int, float):
            return hints[name](text)
        if typing.get_origin(hints[name]) is tuple:
            return tuple(typing.get_args(hints[name])[0](part) for part in text.split(","))
    except (KeyError, ValueError):
        raise InputError(f"{text!r} is no value of {name}") from None
    if text not in typing.get_args(hints[name]):
        raise InputError(f"{name} is one of {', '.join(typing.get_args(hints[name]))}; received {text!r}")
    return text


def _load(
    name: str, data_dir: Path, output: Path | None, changes: tuple[str, ...]
) -> tuple[Recipe, FittedTask, Splits, DataInfo]:
    """What both commands begin with; everything that can be refused is, before TensorFlow starts."""
    from kerascv_course.config import Scenes
    from kerascv_course.core.environment import start_tensorflow
    from kerascv_course.data import check_source, load
    from kerascv_course.recipes import get_recipe
    from kerascv_course.training.run_dir import Run

    recipe = get_recipe(name)
    if recipe.task != "scenes":
        raise InputError(f"this command takes recipes of the task scenes; {name} has the task {recipe.task}")
    settings = {}
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals:
            raise InputError(f"--set takes NAME=VALUE; received {change!r}")
        settings[key] = _parse(Scenes, key, text)
    recipe = dataclasses.replace(recipe, scenes=dataclasses.replace(recipe.scenes, **settings))
    check_source(recipe.data, data_dir)
    if output:
        Run.check_free(output)
    start_tensorflow()
    from kerascv_course.experiment import configure_logging
    from kerascv_course.tasks.base import FittedTask, get_task

    configure_logging()
    splits, info = load(recipe.data, data_dir)
    task = get_task(recipe.task)
    if not isinstance(task, FittedTask):
        raise TypeError(f"{type(task).__name__} does not fit")
    splits, info = task.label(recipe, splits, info, None)  # type: ignore[attr-defined]
    return recipe, task, splits, info


def main() -> None:
    """Parse and run."""
    tyro.extras.subcommand_cli_from_dict({"sweep": sweep, "repeat": repeat}, prog="python -m kerascv_course.scenes")


if __name__ == "__main__":
    run_cli(main)
