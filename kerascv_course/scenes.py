"""Sweeps and repeats of scene recipes: ``python -m kerascv_course.scenes {sweep,repeat} RECIPE …``."""

from __future__ import annotations

import argparse
import dataclasses
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kerascv_course.core.cli import Parser
from kerascv_course.core.environment import start_tensorflow
from kerascv_course.core.errors import InputError, UnknownNameError, run_cli
from kerascv_course.core.schema import parse_words
from kerascv_course.data import Dataset, check_source, load
from kerascv_course.recipes import get_recipe
from kerascv_course.tasks.scenes.config import SceneRecipe, Scenes
from kerascv_course.training.run_dir import Run


def build_parser() -> Parser:
    """The command's parser."""
    parser = Parser(prog="python -m kerascv_course.scenes", description="Sweeps and repeats of scene recipes.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    sweep = commands.add_parser(
        "sweep",
        help="try settings of a recipe",
        description="Try settings of a scene recipe and print the validation accuracies. Earlier results are taken from the cache.",
    )
    sweep.set_defaults(call=_sweep)
    repeat = commands.add_parser(
        "repeat",
        help="repeat a recipe on random splits",
        description="Run a scene recipe on random splits of all its images and print mean and standard deviation of the test accuracy.",
    )
    repeat.set_defaults(call=_repeat)
    for one in (sweep, repeat):
        one.add_argument("recipe", help="name of the recipe")
        one.add_argument("--data-dir", type=Path, required=True, help="folder of class folders")
        one.add_argument("--set", nargs="*", default=(), metavar="NAME=VALUE", help="other settings for all, such as step=3")
        one.add_argument(
            "--output", type=Path, help="new folder for table.md, table.csv and sweep.json (and plot.png of a sweep)"
        )
    sweep.add_argument(
        "--over",
        nargs="+",
        required=True,
        metavar="NAME",
        help="settings to vary, such as k, step, words, distance, norm; several make all combinations",
    )
    sweep.add_argument(
        "--values",
        nargs="*",
        default=(),
        metavar="VALUE",
        help="values of a single setting (default: k 1 to 10, step 1 3 5, words 50 100 200 400 800 …)",
    )
    sweep.add_argument(
        "--test", action="store_true", help="also print the test accuracy, for comparison with a report; never choose by it"
    )
    repeat.add_argument("--repeats", type=int, default=10, help="number of splits, with seeds 0, 1, 2 … (default: 10)")
    return parser


def _sweep(arguments: argparse.Namespace) -> None:
    over = arguments.over
    if arguments.values and len(over) != 1:
        raise InputError(f"--values requires a single setting; received {len(over)}: {', '.join(over)}")
    tried = {name: [_parse(name, value) for value in arguments.values] for name in over}
    recipe, data = _load(arguments)
    from kerascv_course.tasks.scenes import sweeps

    rows = sweeps.sweep(sweeps.variants(recipe, tried), data, test=arguments.test)
    table = sweeps.format_rows(rows)
    print(f"\n{table}")
    if arguments.output:
        sweeps.write_table(arguments.output, recipe, rows, table, f"{recipe.name}: {', '.join(over)}")


def _repeat(arguments: argparse.Namespace) -> None:
    if arguments.repeats < 1:
        raise InputError(f"--repeats must be 1 or more; received {arguments.repeats}")
    recipe, data = _load(arguments)
    from kerascv_course.tasks.scenes import sweeps

    rows = sweeps.repeat(recipe, data, range(arguments.repeats))
    mean, deviation = sweeps.summarize(rows)
    line = f"test accuracy over {len(rows)} random splits: {mean:.4f} ± {deviation:.4f} (standard deviation)"
    table = f"{sweeps.format_rows(rows)}\n\n{line}"
    print(f"\n{table}")
    if arguments.output:
        sweeps.write_table(arguments.output, recipe, rows, table, None)


def _parse(name: str, text: str) -> Any:
    """A setting's value from its text, by the field's type; values of a tuple have commas between them."""
    hints = typing.get_type_hints(Scenes, include_extras=True)
    if name not in hints:
        raise UnknownNameError("setting", name, hints)
    kind = typing.get_type_hints(Scenes)[name]
    return parse_words(hints[name], text.split(",") if typing.get_origin(kind) is tuple else [text], what=name)


def _load(arguments: argparse.Namespace) -> tuple[SceneRecipe, Dataset]:
    """The recipe and its data; invalid input is refused before TensorFlow starts."""
    recipe = get_recipe(arguments.recipe)
    if not isinstance(recipe, SceneRecipe):
        raise InputError(f"this command takes recipes of the task scenes; {recipe.name} has the task {recipe.task}")
    settings = {}
    for change in arguments.set:
        key, equals, text = change.partition("=")
        if not equals:
            raise InputError(f"--set takes NAME=VALUE; received {change!r}")
        settings[key] = _parse(key, text)
    recipe = dataclasses.replace(recipe, scenes=dataclasses.replace(recipe.scenes, **settings))
    check_source(recipe.data, arguments.data_dir)
    if arguments.output:
        Run.check_free(arguments.output)
    start_tensorflow()
    from kerascv_course.experiment import configure_logging
    from kerascv_course.tasks.scenes.task import SceneTask

    configure_logging()
    return recipe, SceneTask(recipe).label(load(recipe.data, arguments.data_dir), None)


def main(argv: Sequence[str] | None = None) -> None:
    """Parse and run."""
    arguments = build_parser().parse_args(argv)
    arguments.call(arguments)


if __name__ == "__main__":
    run_cli(main)
