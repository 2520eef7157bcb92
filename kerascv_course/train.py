"""Train a recipe: ``python -m kerascv_course.train [RECIPE] [overrides]``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from kerascv_course.config import Recipe, TrainedRecipe
from kerascv_course.core.errors import InputError, run_cli
from kerascv_course.core.schema import to_json
from kerascv_course.overrides import for_tyro, from_tyro
from kerascv_course.recipes import DEFAULT, all_recipes, get_recipe
from kerascv_course.training.distributed import ProcessGroup, agree, exit_immediately, is_worker, join, supervise

PROG = "python -m kerascv_course.train"

DESCRIPTION = (
    "Train a recipe, measure it, draw it, export it to ONNX and prove that the file gives the same answers. "
    f"Without a name: {DEFAULT}. Options after a recipe's name override it."
)


@dataclass(frozen=True)
class Arguments:
    """What the command line says, next to the recipe."""

    data_dir: Path | None = None
    """Where the data stands: a folder that tensorflow-datasets has prepared (else TFDS_DATA_DIR, else
    ~/tensorflow_datasets), or for the folder source the folder of class folders."""
    run_dir: Path | None = None
    """New folder for the run; by default runs/RECIPE, runs/RECIPE-2 …"""
    resume: Path | None = None
    """Go on with this run from its last finished validation; only --epochs and --patience may change."""
    tensorboard: bool = False
    """Write event files into tensorboard/ of the run, for the package tensorboard (pip install 'kerascv_course[tensorboard]')."""
    profile: bool = False
    """Record some ten training steps with the TensorFlow profiler, into profile/ of the run."""
    train_only: bool = False
    """Stop before the test split is measured and the file exported, to choose settings on the validation split alone; --resume goes
    on there."""
    devices: int | Literal["all"] | None = None
    """Devices of this machine to train on, each with its part of every batch: a number, or all GPUs; on a machine without a GPU
    parts of the processor, to try it. By default one."""
    distributed: bool = False
    """Train in several processes, of one machine or many, on Keras's JAX backend: the same command in each. Under Slurm, Open MPI and
    Kubernetes JAX finds the others by itself; elsewhere say --coordinator, --processes and --process-id."""
    coordinator: str | None = None
    """HOST:PORT where process 0 listens."""
    processes: int | None = None
    """How many processes there are."""
    process_id: int | None = None
    """Number of this process, from 0; process 0 writes the run folder, measures and exports."""
    connect_timeout: int = 30
    """Seconds to wait for the other processes at the start."""
    list: bool = False
    """List the recipes and leave."""


def parse(argv: Sequence[str]) -> tuple[Recipe, Arguments]:
    """Recipe, with the overrides applied, and the other options.

    Raises:
        InputError: an unknown recipe, values that do not go together, or a run that cannot be resumed.
        SystemExit: ``--help`` (0); an unknown option or a value of the wrong type (2), after the message.
    """
    recipes = all_recipes()
    if argv and not argv[0].startswith("-"):
        get_recipe(argv[0])  # the nearest names, where tyro would list all
    resume = _value_of("--resume", argv)
    if resume is None:
        choice: Any = tyro.extras.subcommand_type_from_defaults(
            {name: for_tyro(recipe) for name, recipe in recipes.items()},
            descriptions={name: recipe.description for name, recipe in recipes.items()},
        )
        default: Any = for_tyro(recipes[DEFAULT])
    else:
        from kerascv_course.training.run_dir import Run

        resumed = Run.open(resume).recipe()
        default = for_tyro(resumed)
        if argv[0] in recipes and argv[0] != default.name:
            raise InputError(
                f"--resume goes on with a run's own recipe, {default.name}; received {argv[0]} as well: leave it out"
            )
        argv = [word for i, word in enumerate(argv) if not (i == 0 and word == default.name)]
        choice = type(default)

    recipe_field = ("recipe", Annotated[choice, tyro.conf.arg(name="")], field(default=default))
    command_line: Any = make_dataclass("CommandLine", [recipe_field], bases=(Arguments,), frozen=True)
    options = (tyro.conf.CascadeSubcommandArgs, tyro.conf.FlagCreatePairsOff, tyro.conf.SuppressFixed)
    parsed = tyro.cli(command_line, prog=PROG, description=DESCRIPTION, args=argv, config=options)
    base = recipes[parsed.recipe.name] if resume is None else resumed
    return from_tyro(parsed.recipe, base), parsed


def _value_of(option: str, argv: Sequence[str]) -> Path | None:
    """The value of an option that must be known before the others can be read."""
    for i, word in enumerate(argv):
        if word == option and i + 1 < len(argv):
            return Path(argv[i + 1])
        if word.startswith(f"{option}="):
            return Path(word.split("=", 1)[1])
    return None


def list_recipes() -> str:
    """Name, description and what to expect of every recipe."""
    recipes = all_recipes()
    width = max(map(len, recipes))
    return "\n".join(
        f"{name:<{width}}  {one.description}\n{'':<{width}}  expect: {one.expect}" for name, one in recipes.items()
    )


def _cluster(arguments: Arguments) -> ProcessGroup | None:
    """Where the processes meet; None: there is one."""
    given = ProcessGroup(arguments.coordinator, arguments.processes, arguments.process_id, arguments.connect_timeout)
    if not arguments.distributed:
        if given != ProcessGroup():
            raise InputError("--coordinator, --processes, --process-id and --connect-timeout go with --distributed: add it")
        return None
    return ProcessGroup.of(given, os.environ)


def main() -> int:
    """Parse, run, print the summary."""
    recipe, arguments = parse(sys.argv[1:])
    if arguments.list:
        print(list_recipes())
        return 0
    cluster = _cluster(arguments)
    if cluster and not is_worker():
        run = arguments.resume or arguments.run_dir or "RUN"
        return supervise("kerascv_course.train", sys.argv[1:], str(run))

    from kerascv_course.core.environment import start_tensorflow
    from kerascv_course.data import check_source
    from kerascv_course.models import check_model
    from kerascv_course.training.run_dir import Run

    # What can be told at once is, and not after TensorFlow's start.
    if isinstance(recipe, TrainedRecipe):
        check_model(recipe.model, recipe.model_options)
    check_source(recipe.data, arguments.data_dir)
    run_dir = arguments.resume or arguments.run_dir or Run.free_path(Path("runs"), recipe.name)
    if not arguments.resume and not (cluster and cluster.process_id):
        Run.check_free(run_dir)

    if cluster:
        join(cluster)
        agree({"recipe": to_json(recipe)})
    print("starting TensorFlow …", flush=True)
    start_tensorflow()
    from kerascv_course.experiment import Experiment, Options, configure_logging
    from kerascv_course.training.callbacks import Monitors
    from kerascv_course.training.devices import find_devices

    devices = find_devices(arguments.devices)
    configure_logging()
    options = Options(
        data_dir=arguments.data_dir,
        resume=arguments.resume is not None,
        train_only=arguments.train_only,
        devices=devices,
        monitors=Monitors(arguments.tensorboard, arguments.profile),
    )
    experiment = Experiment(recipe, run_dir, options).run()
    if not devices.writes:
        print(f"process {devices.process} is done; process 0 measures and exports")
        return 0
    run = experiment.folder
    print(f"\ndone in {experiment.seconds:.0f} s")
    for name, value in experiment.headline.items():
        print(f"  {name:<20} {value}")
    if arguments.train_only:
        print(f"\nthe test split has not been used; evaluate and export with:\n  {PROG} --resume {run.path}")
        return 0
    print(f"  {'report':<20} {run / 'report.html'}")
    if recipe.export.enabled:
        print(f"  {'model':<20} {run / 'model.onnx'}")
        print(f"\npredict with it:\n  python -m export predict {run / 'model.onnx'} {experiment.sample}")
    return 0


if __name__ == "__main__":
    with exit_immediately():
        run_cli(main)
