"""Ablation of a recipe's switches: ``python -m kerascv_course.ablate [RECIPE] [--switches …] [--seeds …] [options]``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kerascv_course.config import Recipe, TrainedRecipe
from kerascv_course.core.cli import Parser
from kerascv_course.core.environment import start_tensorflow
from kerascv_course.core.errors import CourseError, InputError, run_cli
from kerascv_course.data import check_batch, check_source
from kerascv_course.overrides import RecipeCommand
from kerascv_course.recipes import DEFAULT, get_recipe
from kerascv_course.recipes.ablations import ABLATIONS, get_ablation

PROG = "python -m kerascv_course.ablate"


@dataclass(frozen=True)
class AblationArguments:
    """Options beside the recipe's."""

    list: bool = False
    """List the recipes that have an ablation, with their switches, and exit."""
    switches: tuple[str, ...] = ()
    """Switches to try, by name; by default all of the recipe's."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the baseline and of every switch."""
    root: Path | None = None
    """Folder for the runs, ablation.md and ablation.png; by default runs/ablation/RECIPE. Finished runs in it are kept, interrupted
    ones resumed."""
    data_dir: Path | None = None
    """Folder of the dataset (see python -m kerascv_course.train --help)."""


def _base(name: str | None, _: AblationArguments) -> Recipe:
    recipe = get_recipe(name or DEFAULT)
    get_ablation(recipe.name)
    # An ablation needs metrics only; the chosen setting is exported when it is trained as a recipe.
    return replace(recipe, export=replace(recipe.export, enabled=False))


COMMAND = RecipeCommand(
    PROG,
    "Train a recipe with its switches changed one by one, with several seeds: one table, one figure. Options of the recipe apply to "
    f"the baseline and all switches. Recipes with an ablation: {', '.join(ABLATIONS)}.",
    AblationArguments(),
    _base,
)


def build_parser() -> Parser:
    """The parser with the options of the default recipe."""
    return COMMAND.parser()


def parse(argv: Sequence[str]) -> tuple[Recipe, AblationArguments]:
    """The baseline with the overrides applied, and the other options.

    Raises:
        InputError: an unknown recipe, one without an ablation, or values that contradict each other.
        SystemExit: ``--help`` (0); an unknown option (2), after the message.
    """
    recipe, arguments = COMMAND.parse(argv)
    if recipe.seed != get_recipe(recipe.name).seed:
        raise InputError(f"an ablation takes --seeds; received --seed {recipe.seed}: write --seeds {recipe.seed}")
    return recipe, arguments


def list_ablations() -> str:
    """Every recipe with an ablation: its switches and the fields that each changes."""
    lines = []
    for name, ablation in ABLATIONS.items():
        lines.append(f"{name} ({ablation.source})")
        width = max(map(len, ablation.switches))
        for switch, changes in ablation.switches.items():
            lines.append(f"  {switch:<{width}}  {', '.join(f'{path} {value}' for path, value in changes.items())}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Parse, run, print the table."""
    recipe, arguments = parse(sys.argv[1:] if argv is None else argv)
    if arguments.list:
        print(list_ablations())
        return
    images = check_source(recipe.data, arguments.data_dir)
    if isinstance(recipe, TrainedRecipe):
        check_batch(recipe, images)
    print("starting TensorFlow …", flush=True)
    start_tensorflow()
    from kerascv_course.experiment import configure_logging
    from kerascv_course.reports.ablation import plan, run_all, write_summary

    ablation = get_ablation(recipe.name)
    root = arguments.root or Path("runs") / "ablation" / recipe.name
    runs = plan(recipe, ablation, arguments.switches, arguments.seeds, root)
    configure_logging()
    failed = run_all(runs, data_dir=arguments.data_dir)
    print(f"\n{write_summary(runs, ablation, root)}\n\n{root / 'ablation.md'}\n{root / 'ablation.png'}")
    if failed:
        raise CourseError(f"{len(failed)} of {len(runs)} runs failed and are not in the table: {', '.join(map(str, failed))}")


if __name__ == "__main__":
    run_cli(main)
