"""Our trainer beside a bare `model.fit` and PyTorch: ``python scripts/benchmark.py train`` writes to docs/training_speed.md.

Each engine lives in a process of its own, so that its memory can be told, and all take turns, so that a slow spell of the machine
meets all alike. What is measured is the time from step to step within an epoch; validation and checkpoints are not in it.
"""

from __future__ import annotations

import dataclasses
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from benchmark_page import machine, read_parts, write_page
from benchmark_pipeline import PAGE_HEAD, PARTS

from kerascv_course.config import Augmentation, Optimizer
from kerascv_course.core.environment import core_count, start_tensorflow

ROOT = Path(__file__).resolve().parent.parent

OURS, AUGMENTED, BARE = "our trainer", "our trainer, with flip and shift", "bare `model.fit`"
TORCH, TORCH_LAST = "PyTorch loop", "PyTorch loop, channels last"
OURS_FAST, TORCH_FAST = "our trainer, as in `fastnet-cifar10`", "PyTorch loop, channels last, bfloat16"

ENGINES = (BARE, OURS, AUGMENTED, TORCH, TORCH_LAST)


@dataclass(frozen=True)
class Plan:
    """How a network is measured: batch, steps a round (about two seconds on two cores) and by which engines."""

    batch: int
    steps: int
    engines: tuple[str, ...] = ENGINES


PLANS = {
    "lenet5": Plan(128, 160),
    "tdt4265_base": Plan(64, 40),
    "fastnet": Plan(500, 2, (*ENGINES, OURS_FAST, TORCH_FAST)),
    "resnet18_cifar": Plan(64, 3),
}

#: Steps of each round that are not measured: the stream fills its buffers.
WARM_UP = 2

#: Ours may take so much longer a step than a bare `model.fit`.
ALLOWED = 0.03


def train(
    networks: tuple[str, ...] = tuple(PLANS),
    rounds: int = 7,
    output: Path = ROOT / "docs" / "training_speed.md",
) -> None:
    """Training steps of our trainer, of a bare `model.fit` and of a PyTorch loop: speed, as a ratio, and memory.

    Args:
        networks: names of the registry, of those in `PLANS`.
        rounds: times that each engine is measured, in turns, after one that is not.
        output: Markdown file; its other parts stay.
    """
    parts = read_parts(output)
    for name in networks:
        figures = _measure(name, PLANS[name], rounds)
        parts["train"] = _head()
        parts[f"train {name}"] = _section(name, PLANS[name], rounds, figures)
        print(parts[f"train {name}"], flush=True)
    write_page(output, PAGE_HEAD, parts, [*PARTS, *(f"train {name}" for name in PLANS)])


def _measure(name: str, plan: Plan, rounds: int) -> dict[str, tuple[list[float], float]]:
    """Seconds a step of each round and peak memory in MiB, by engine."""
    context = get_context("spawn")
    workers = {}
    for engine in plan.engines:
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, engine, name, plan.batch, plan.steps), daemon=True)
        process.start()
        workers[engine] = (process, ours)
    seconds: dict[str, list[float]] = {engine: [] for engine in workers}
    order = np.random.default_rng(0)
    for turn in range(rounds + 1):
        for engine in order.permutation(list(workers)).tolist():
            pipe = workers[engine][1]
            pipe.send("round")
            measured = pipe.recv()
            if turn:  # the first traces and allocates
                seconds[engine].append(measured)
    memory = {}
    for engine, (process, pipe) in workers.items():
        pipe.send("stop")
        memory[engine] = pipe.recv()
        process.join()
    return {engine: (seconds[engine], memory[engine]) for engine in workers}


def _work(pipe: Connection, engine: str, name: str, batch: int, steps: int) -> None:
    """A process: makes its engine, then does rounds when told to, and says its peak memory at the end."""
    rng = np.random.default_rng(0)
    count = batch * (WARM_UP + steps + 1)  # the last step only ends the one before
    images, targets = rng.integers(0, 256, (count, 32, 32, 3), np.uint8), rng.integers(0, 10, count)
    make = _torch_engine if engine in (TORCH, TORCH_LAST, TORCH_FAST) else _keras_engine
    step = make(engine, name, batch, images, targets)
    while pipe.recv() == "round":
        pipe.send(step())
    pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def _keras_engine(engine: str, name: str, batch: int, images: np.ndarray, targets: np.ndarray) -> Callable[[], float]:
    start_tensorflow()
    import tensorflow as tf

    from kerascv_course.data.splits import Split, make_dataset
    from kerascv_course.recipes import get_recipe
    from kerascv_course.tasks.classification.task import ClassificationTask
    from kerascv_course.training.precision import choose_for_device
    from kerascv_course.training.run_dir import Run
    from kerascv_course.training.trainer import prepare
    from kerascv_course.training.trainer import train as train_recipe

    if engine == OURS_FAST:
        recipe = choose_for_device(dataclasses.replace(get_recipe("fastnet-cifar10"), batch_size=batch, epochs=1))
    else:
        recipe = dataclasses.replace(
            get_recipe("tdt4265-base"),
            model=name,
            model_options={},
            batch_size=batch,
            epochs=1,
            validations_per_epoch=1,
            patience=0,
            optimizer=Optimizer("sgd", learning_rate=1e-3, momentum=0.9),
            deterministic=engine != BARE,
            augmentation=Augmentation(flip=True, translate=4) if engine == AUGMENTED else Augmentation(),
        )
    train, held = Split(images, targets), Split(images[:batch], targets[:batch])
    data = make_dataset("random", tuple(map(str, range(10))), "random pixels", train, held, held)
    training = prepare(ClassificationTask(recipe), data)
    clock = _clock()
    if engine == BARE:
        shape = (-1, batch, *images.shape[1:])
        batches = tf.data.Dataset.from_tensor_slices((images.reshape(shape), targets.reshape(-1, batch)))

        def bare() -> float:
            training.model.fit(batches, callbacks=[clock], shuffle=False, verbose=0)
            return clock.seconds_per_step

        return bare

    fit = training.model.fit
    training.model.fit = lambda *args, callbacks, **options: fit(*args, callbacks=[*callbacks, clock], **options)

    def ours() -> float:
        with tempfile.TemporaryDirectory() as folder:
            train_recipe(training, Run.create(Path(folder) / "run", recipe))
        return clock.seconds_per_step

    return ours


def _clock() -> Any:
    import keras

    class Clock(keras.callbacks.Callback):
        """Mean seconds from step to step, less the first steps of an epoch.

        Of the beginnings: whoever watches the end of a step without being ``async_safe`` makes Keras wait for the step's figures.
        """

        def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
            self.starts: list[float] = []

        def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
            self.starts.append(time.perf_counter())

        @property
        def seconds_per_step(self) -> float:
            return _per_step(self.starts)

    return Clock()


def _per_step(starts: list[float]) -> float:
    return (starts[-1] - starts[WARM_UP]) / (len(starts) - 1 - WARM_UP)


def _torch_engine(engine: str, name: str, batch: int, images: np.ndarray, targets: np.ndarray) -> Callable[[], float]:
    """The loop of PyTorch's tutorials on the same batches; the network's normalisation is a part of the step, as it is ours."""
    import torch
    from torch_networks import NETWORKS

    from kerascv_course.models import model_spec

    torch.set_num_threads(core_count())
    model = NETWORKS[name]().train()
    parameters, expected = sum(p.numel() for p in model.parameters() if p.requires_grad), model_spec(name).parameters
    if parameters != expected and name != "lenet5":  # the registry's is for grey images
        raise RuntimeError(f"{name} in PyTorch has {parameters:,} parameters, ours {expected:,}")
    layout = torch.contiguous_format if engine == TORCH else torch.channels_last
    model = model.to(memory_format=layout)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3, momentum=0.9)
    loss_of = torch.nn.CrossEntropyLoss()
    pixels = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).split(batch)
    labels = torch.from_numpy(targets).split(batch)

    def steps() -> float:
        starts = []
        for image, label in zip(pixels, labels, strict=True):
            starts.append(time.perf_counter())
            optimizer.zero_grad()
            inputs = ((image.float() / 255 - 0.5) / 0.25).contiguous(memory_format=layout)
            with torch.autocast("cpu", torch.bfloat16, enabled=engine == TORCH_FAST):
                loss = loss_of(model(inputs).float(), label)
            loss.backward()
            optimizer.step()
        return _per_step(starts)

    return steps


def _head() -> str:
    return "\n".join(
        [
            "## Training steps",
            "",
            "Our trainer (`kerascv_course/training/trainer.py`, with all its callbacks, its batches drawn, shuffled, from memory,",
            "deterministic) beside `model.fit` without callbacks on batches that are cut beforehand, and beside the loop of PyTorch's",
            "tutorials on the same network, layer for layer. float32, SGD with momentum, normalisation in the step. Each engine has a",
            "process of its own; they take turns; times are medians of rounds, from step to step within an epoch (no validation, no",
            "checkpoint); ratios are medians over rounds of times of the same round; memory is the process's peak, framework included.",
            f"At most {ALLOWED:.0%} more a step than a bare `model.fit` is what our trainer may take.",
            "",
            f"`python scripts/benchmark.py train`: {machine('torch ' + metadata.version('torch'))}.",
        ]
    )


def _section(name: str, plan: Plan, rounds: int, figures: dict[str, tuple[list[float], float]]) -> str:
    bare = figures[BARE][0]
    lines = [
        f"### `{name}`, batch {plan.batch}",
        "",
        f"{rounds} rounds of {plan.steps} steps an engine, {datetime.now(UTC):%Y-%m-%d}.",
        "",
        "| engine | ms a step | images/s | time a step, bare `model.fit` = 1 | peak MiB |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for engine, (seconds, memory) in figures.items():
        # Ratios of the same round, which the machine's slow spells leave alone.
        ratio = median(ours / theirs for ours, theirs in zip(seconds, bare, strict=True))
        step = median(seconds)
        lines.append(f"| {engine} | {1000 * step:.2f} | {plan.batch / step:,.0f} | {ratio:.3f} | {memory:,.0f} |")
    return "\n".join(lines)
