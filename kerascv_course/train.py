"""Train a recipe: ``python -m kerascv_course.train [RECIPE] [options]``."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kerascv_course.config import Recipe, TrainedRecipe, check_resumed
from kerascv_course.core.cli import Parser
from kerascv_course.core.environment import seconds_since_start, start_tensorflow
from kerascv_course.core.errors import InputError, run_cli, shell_word
from kerascv_course.core.schema import to_json
from kerascv_course.data import check_batch, check_source
from kerascv_course.data.record import read_record
from kerascv_course.models import check_model
from kerascv_course.overrides import RecipeCommand
from kerascv_course.recipes import DEFAULT, all_recipes, get_recipe
from kerascv_course.training.distributed import ProcessGroup, agree, exit_immediately, is_worker, join, supervise
from kerascv_course.training.run_dir import Run

PROG = "python -m kerascv_course.train"

log = logging.getLogger("kerascv_course")

DESCRIPTION = (
    "Train a recipe, evaluate it, plot it, export it to ONNX and validate that the file gives the same answers. "
    f"RECIPE: see --list; without it {DEFAULT}."
)


@dataclass(frozen=True)
class TrainArguments:
    """Options beside the recipe's."""

    list: bool = False
    """List the recipes and exit."""
    data_dir: Path | None = None
    """Folder of the dataset: prepared by tensorflow-datasets (else TFDS_DATA_DIR, else ~/tensorflow_datasets), or of class folders."""
    run_dir: Path | None = None
    """New folder for the run; by default runs/RECIPE, runs/RECIPE-2 …"""
    resume: Path | None = None
    """Resume this run from its last finished validation; only --epochs and --patience may change."""
    train_only: bool = False
    """Stop before the test split is used, to choose settings on the validation split; --resume continues there."""
    tensorboard: bool = False
    """Write event files into tensorboard/ of the run (pip install 'kerascv_course[tensorboard]')."""
    profile: bool = False
    """Record about ten training steps with the TensorFlow profiler into profile/ of the run."""
    devices: int | Literal["all"] | None = None
    """Devices of this machine to train on: a number, or all GPUs; without a GPU parts of the processor. By default one."""
    distributed: bool = False
    """Train in several processes on Keras's JAX backend: the same command in each. Slurm, Open MPI and Kubernetes are detected;
    elsewhere give --coordinator, --processes and --process-id."""
    coordinator: str | None = None
    """HOST:PORT of process 0."""
    processes: int | None = None
    """Number of processes."""
    process_id: int | None = None
    """Number of this process, from 0; process 0 writes the run folder, evaluates and exports."""
    connect_timeout: int = 30
    """Seconds to wait for the other processes at the start."""


def _base(name: str | None, arguments: TrainArguments) -> Recipe:
    """The recipe that options override: of a run that is resumed its own."""
    if arguments.resume is None:
        return get_recipe(name or DEFAULT)
    if arguments.run_dir is not None:
        raise InputError(
            f"--resume continues in the run's own folder, {arguments.resume}; received --run-dir as well: leave it out"
        )
    base = Run.open(arguments.resume).recipe()
    if name not in (None, base.name):
        raise InputError(f"--resume continues a run with its own recipe, {base.name}; received {name} as well: leave it out")
    return base


COMMAND = RecipeCommand(PROG, DESCRIPTION, TrainArguments(), _base)


def build_parser() -> Parser:
    """The parser with the options of the default recipe."""
    return COMMAND.parser()


def list_recipes() -> str:
    """Name, description and expected result of every recipe."""
    recipes = all_recipes()
    width = max(map(len, recipes))
    return "\n".join(
        f"{name:<{width}}  {one.description}\n{'':<{width}}  expect: {one.expect}" for name, one in recipes.items()
    )


def _process_group(arguments: TrainArguments) -> ProcessGroup | None:
    """Where the processes meet; None for a single process."""
    given = ProcessGroup(arguments.coordinator, arguments.processes, arguments.process_id, arguments.connect_timeout)
    if not arguments.distributed:
        if given != ProcessGroup():
            raise InputError("--coordinator, --processes, --process-id and --connect-timeout require --distributed: add it")
        return None
    return ProcessGroup.of(given, os.environ)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, run, print the summary."""
    words = list(sys.argv[1:] if argv is None else argv)
    recipe, arguments = COMMAND.parse(words)
    if arguments.list:
        print(list_recipes())
        return 0
    group = _process_group(arguments)
    if group and not is_worker():
        return supervise("kerascv_course.train", words, str(arguments.resume or arguments.run_dir or "RUN"))
    return _train(recipe, arguments, group)


def _train(recipe: Recipe, arguments: TrainArguments, group: ProcessGroup | None) -> int:
    # Bad input is refused before TensorFlow starts.
    data_dir, record = arguments.data_dir, None
    if arguments.resume:
        record = read_record(arguments.resume)
        check_resumed(Run.open(arguments.resume).recipe(), recipe)
        data_dir = data_dir or Run.open(arguments.resume).data_dir()
    if isinstance(recipe, TrainedRecipe):
        check_model(recipe.model, recipe.model_options)
    images = check_source(recipe.data, data_dir, record)
    if isinstance(recipe, TrainedRecipe):
        check_batch(recipe, images)
    with _folder(recipe, arguments, group) as run_dir:
        if group:
            join(group)
            agree({"recipe": to_json(recipe)})
        return _run(recipe, arguments, run_dir)


def _folder(recipe: Recipe, arguments: TrainArguments, group: ProcessGroup | None) -> contextlib.AbstractContextManager[Path]:
    """The run folder, which within the block no other command may write into; of several processes the first has it."""
    given = arguments.resume or arguments.run_dir
    usual = Path("runs", recipe.name)
    if group and group.process_id:
        return contextlib.nullcontext(given or usual)
    if arguments.resume:
        return Run.open(arguments.resume).lock()
    return Run.claim(given or usual, numbered=given is None)


def _run(recipe: Recipe, arguments: TrainArguments, run_dir: Path) -> int:
    """Start TensorFlow, run the experiment, and print the summary."""
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
        print(f"process {devices.process} is done; process 0 evaluates and exports")
        return 0
    run = experiment.folder
    print()
    if not experiment.complete:
        with run.log_file():
            log.info("done in %.0f s", seconds_since_start())
    for name, value in experiment.headline.items():
        print(f"  {name:<20} {value}")
    if arguments.train_only and not experiment.complete:
        print(f"\nnot evaluated on the test split yet; evaluate and export with:\n  {PROG} --resume {shell_word(run.path)}")
        return 0
    print(f"  {'report':<20} {run / 'report.html'}")
    if recipe.export.enabled:
        print(f"  {'model':<20} {run / 'model.onnx'}")
        print(
            f"\npredict with it:\n  python -m export predict {shell_word(run / 'model.onnx')} {shell_word(experiment.sample)}"
        )
    return 0


if __name__ == "__main__":
    with exit_immediately():
        run_cli(main)
