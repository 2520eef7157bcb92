"""Try the switches of a recipe one by one: ``python -m kerascv_course.ablate [RECIPE] [--switches …] [--seeds …] [overrides]``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, make_dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from kerascv_course.config import Recipe
from kerascv_course.core.errors import CourseError, InputError, run_cli
from kerascv_course.overrides import for_tyro, from_tyro
from kerascv_course.recipes import DEFAULT, get_recipe
from kerascv_course.recipes.ablations import ABLATIONS, get_ablation

PROG = "python -m kerascv_course.ablate"


@dataclass(frozen=True)
class Arguments:
    """What the command line says, next to the recipe."""

    switches: tuple[str, ...] = ()
    """Which switches, by name; none: all of the recipe's (see --list)."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds that the base and every switch are run with."""
    root: Path | None = None
    """Folder for the runs, ablation.md and ablation.png; by default runs/ablation/RECIPE. Runs that are finished there are kept,
    interrupted ones resumed."""
    data_dir: Path | None = None
    """Where the data stands (see python -m kerascv_course.train --help)."""
    list: bool = False
    """List the recipes that have an ablation, with their switches, and leave."""


def parse(argv: Sequence[str]) -> tuple[Recipe, Arguments]:
    """The base, with the overrides applied, and the other options.

    Raises:
        InputError: an unknown recipe, one without an ablation, or values that do not go together.
        SystemExit: ``--help`` (0); an unknown option or a value of the wrong type (2), after the message.
    """
    name = argv[0] if argv and not argv[0].startswith("-") else DEFAULT
    recipe = get_recipe(name)
    get_ablation(name)
    # the runs are for the table; the one that is chosen is exported when it is trained as a recipe
    recipe = replace(recipe, export=replace(recipe.export, enabled=False))
    default = for_tyro(recipe)
    recipe_field = ("recipe", Annotated[type(default), tyro.conf.arg(name="")], field(default=default))
    command_line: Any = make_dataclass("CommandLine", [recipe_field], bases=(Arguments,), frozen=True)
    parsed = tyro.cli(
        command_line,
        prog=f"{PROG} [RECIPE]",
        description=f"Try the switches of a recipe one by one, with several seeds: one table, one figure. Here: {name}; with an "
        f"ablation: {', '.join(ABLATIONS)}. Options of the recipe override it for the base and all switches.",
        args=argv[1:] if argv and argv[0] == name else argv,
        config=(tyro.conf.FlagCreatePairsOff, tyro.conf.SuppressFixed),
    )
    if parsed.recipe.seed != recipe.seed:
        raise InputError(f"an ablation has --seeds; received --seed {parsed.recipe.seed}: write --seeds {parsed.recipe.seed}")
    return from_tyro(parsed.recipe, recipe), parsed


def list_ablations() -> str:
    """Every recipe with an ablation: its switches and what each changes."""
    lines = []
    for name, ablation in ABLATIONS.items():
        lines.append(f"{name} ({ablation.source})")
        width = max(map(len, ablation.switches))
        for switch, changes in ablation.switches.items():
            lines.append(f"  {switch:<{width}}  {', '.join(f'{path} {value}' for path, value in changes.items())}")
    return "\n".join(lines)


def main() -> None:
    """Parse, run, print the table."""
    recipe, arguments = parse(sys.argv[1:])
    if arguments.list:
        print(list_ablations())
        return

    from kerascv_course.core.environment import start_tensorflow
    from kerascv_course.data import check_source

    check_source(recipe.data, arguments.data_dir)
    print("starting TensorFlow …", flush=True)
    start_tensorflow()
    from kerascv_course.experiment import configure_logging
    from kerascv_course.reports.ablation import plan, report, run_trials

    ablation = get_ablation(recipe.name)
    root = arguments.root or Path("runs") / "ablation" / recipe.name
    trials = plan(recipe, ablation, arguments.switches, arguments.seeds, root)
    configure_logging()
    failed = run_trials(trials, data_dir=arguments.data_dir)
    print(f"\n{report(trials, ablation, root)}\n\n{root / 'ablation.md'}\n{root / 'ablation.png'}")
    if failed:
        raise CourseError(
            f"{len(failed)} of {len(trials)} runs came to nothing and are not in the table: {', '.join(map(str, failed))}"
        )


if __name__ == "__main__":
    run_cli(main)
