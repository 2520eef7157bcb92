"""Exported files of float32 to int8 or float16, with a verdict: kept only where accuracy stands and the file is faster here."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx

from export.benchmark.timing import take_turns, time_calls
from export.contract import Contract, Metric, Precision
from export.files import describe, save_model
from export.predictor import PROVIDERS, OnnxModel, Provider
from export.quantization.precision import CALIBRATION, Float16Maker, Int8Maker, Layer, Maker, PrecisionError, is_reduced
from export.quantization.verdict import AIM, Kind, PrecisionReport, RefusedError, Sensitivity, Speed, Trial, failures
from kerascv_course.core.environment import core_count, package_versions, processor_name
from kerascv_course.core.errors import InputError

__all__ = ["Labelled", "accuracy", "measure_speeds", "quantize_model"]

#: Images a call that speed is measured at.
BATCH_SIZES = (1, 64)

#: Fewer calibration images say too little about ranges.
MIN_CALIBRATION = 32

#: Fewer labelled images say too little about accuracy.
MIN_LABELLED = 20

#: Images that a layer's sensitivity is measured on.
SENSITIVITY_IMAGES = 256

#: Seconds that each file is timed at a batch size.
SECONDS = 3.0


class Labelled(NamedTuple):
    """Images with their answers.

    Attributes:
        name: of the split, for reports.
        images: uint8 (N, height, width, channels).
        targets: int, the right answers: (N,), or the shape of the answers.
    """

    name: str
    images: np.ndarray
    targets: np.ndarray


def quantize_model(
    source: str | Path,
    target: str | Path,
    *,
    kind: Kind = "int8",
    calibration: np.ndarray,
    validation: Labelled,
    test: Labelled,
    answer: str | None = None,
    provider: Provider = "cpu",
    batch_sizes: Sequence[int] = BATCH_SIZES,
    force: bool = False,
) -> PrecisionReport:
    """Write a file of lower precision that takes the place of a float32 one: same input, outputs, labels and contract.

    int8: the way to find the ranges that is best on the validation images is taken. Where that loses more than `AIM`, layers are
    converted one by one to see which disturb the scores most, and the worst stay in float32, more and more of them, until it
    does not. Then accuracy and speed of that one file are measured against the float32 file, on the test images.

    Args:
        source: exported float32 file.
        target: the new file; one that is there is replaced once the new one is whole and worth keeping.
        kind: ``"int8"``: static quantisation, weights per channel; ``"float16"``: for GPUs.
        calibration: training images, uint8 (N, height, width, channels), whose activations give the ranges; unused for float16.
        validation: what chooses.
        test: what the verdict is measured on, once.
        answer: output whose argmax over the last axis is the answer; None: ``logits``, else ``probabilities``.
        provider: where speed and accuracy are measured.
        batch_sizes: images a call that it has to be faster at.
        force: write the file whatever the verdict; its contract says it.

    Raises:
        InputError: a file that is quantised already or answers no question of classes, or images that are too few or do not fit.
        ProviderError: the provider cannot be had.
        PrecisionError: onnxruntime's tools cannot convert the graph.
        RefusedError: accuracy falls by more than `LIMIT`, or it is not faster by `MIN_SPEEDUP` at every batch size.
    """
    source, target = Path(source), Path(target)
    if kind not in ("int8", "float16"):
        raise InputError(f"kind is int8 or float16; received {kind!r}")
    if provider not in PROVIDERS:
        raise InputError(f"provider is {' or '.join(PROVIDERS)}; received {provider!r}")
    if not batch_sizes or min(batch_sizes) < 1:
        raise InputError(f"batch sizes are 1 or more; received {list(batch_sizes)}")
    original = OnnxModel(source, provider=provider)
    answer = _check(original, answer, kind, calibration, (validation, test))
    if source.resolve() == target.resolve():
        raise InputError(f"the new file is another than the float32 file; received {target} for both")
    with tempfile.TemporaryDirectory() as folder:
        search = _Search(original, Path(folder), provider, answer, validation)
        method, maker = search.choose(kind, calibration)
        layers = search.rescue(method, maker) if search.best.accuracy < search.float32 - AIM else ()
        reduced = search.open(maker, layers)
        speeds = measure_speeds(original, reduced, test.images, batch_sizes)
        accuracies = [accuracy(model, test, answer) for model in (original, reduced)]
        report = PrecisionReport(
            source=str(source),
            path=str(target),
            kind=kind,
            method=_in_words(kind, method, len(calibration)),
            machine=f"{processor_name()}, {core_count()} cores",
            provider=PROVIDERS[provider],
            calibration_images=len(calibration) if kind == "int8" else 0,
            validation=validation.name,
            validation_images=len(validation.images),
            validation_float32=search.float32,
            trials=tuple(search.trials),
            sensitivities=search.sensitivities,
            float_layers=tuple(layer.name for layer in layers),
            split=test.name,
            images=len(test.images),
            accuracy_float32=accuracies[0],
            accuracy=accuracies[1],
            speeds=speeds,
            bytes_float32=source.stat().st_size,
            bytes=reduced.path.stat().st_size,
            failures=tuple(failures(accuracies, f"{len(test.images):,} {test.name} images", speeds)),
            kept=False,
            measured=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        if not report.ok and not force:
            raise RefusedError(report)
        contract = _contract(original.contract, report, [layer.node for layer in layers])
        proto = onnx.load(reduced.path)
        describe(proto, contract)
        save_model(proto, target, partial(_check_drop_in, original))
    return dataclasses.replace(report, kept=True)


def accuracy(model: OnnxModel, labelled: Labelled, answer: str) -> float:
    """Share of answers that are right."""
    right = 0
    for start in range(0, len(labelled.images), 64):
        answers = model.run_batch(labelled.images[start : start + 64])[answer].argmax(axis=-1)
        right += int((answers == labelled.targets[start : start + 64]).sum())
    return right / labelled.targets.size


def measure_speeds(
    original: OnnxModel, reduced: OnnxModel, images: np.ndarray, batch_sizes: Sequence[int]
) -> tuple[Speed, ...]:
    """Time two files in turns on the same images."""
    speeds = []
    for size in batch_sizes:
        pixels = images[np.arange(size) % len(images)]
        turns = {
            name: partial(time_calls, partial(model.session.run, None, {model.contract.input.name: model.feed(pixels)}))
            for name, model in (("float32", original), ("reduced", reduced))
        }
        medians = {name: 1e3 * float(np.median(times)) for name, times in take_turns(turns, seconds=SECONDS).items()}
        speeds.append(Speed(size, medians["float32"], medians["reduced"]))
    return tuple(speeds)


class _Search:
    """Finds the way and the layers, on the validation images alone.

    Args:
        original: the float32 file.
        folder: for files that are tried.
        provider: where they are run.
        answer: output that answers.
        validation: what chooses.
    """

    def __init__(self, original: OnnxModel, folder: Path, provider: Provider, answer: str, validation: Labelled) -> None:
        self.original, self.folder, self.provider = original, folder, provider
        self.answer, self.validation = answer, validation
        self.float32 = accuracy(original, validation, answer)
        self.trials: list[Trial] = []
        self.sensitivities: tuple[Sensitivity, ...] = ()

    @property
    def best(self) -> Trial:
        """The trial with the most right answers; of equal ones the first."""
        return max(self.trials, key=lambda trial: trial.accuracy)

    def choose(self, kind: Kind, calibration: np.ndarray) -> tuple[str, Maker]:
        """The way that loses least."""
        makers: dict[str, Maker] = {}
        for method, maker in _makers(kind, self.original, calibration):
            makers[method] = maker
            self.try_out(method, maker, ())
        return self.best.method, makers[self.best.method]

    def rescue(self, method: str, maker: Maker) -> tuple[Layer, ...]:
        """Layers to leave in float32: the most sensitive ones, more and more of them, up to half of all."""
        by_node = {layer.node: layer for layer in maker.layers}
        self.sensitivities = tuple(sorted(self._listen(maker), key=lambda row: -row.noise))
        best, chosen = self.best, tuple[Layer, ...]()
        for count in _growing(len(maker.layers) // 2):
            layers = tuple(by_node[row.node] for row in self.sensitivities[:count])
            trial = self.try_out(method, maker, layers)
            if trial.accuracy > best.accuracy:
                best, chosen = trial, layers
            if trial.accuracy >= self.float32 - AIM:
                break
        return chosen

    def try_out(self, method: str, maker: Maker, layers: Sequence[Layer]) -> Trial:
        """Measure one file."""
        trial = Trial(method, len(layers), accuracy(self.open(maker, layers), self.validation, self.answer))
        self.trials.append(trial)
        return trial

    def open(self, maker: Maker, layers: Sequence[Layer] = (), only: str | None = None) -> OnnxModel:
        """A file with these layers in float32, or with `only` one converted."""
        proto = maker.make(keep=[layer.node for layer in layers], only=only)
        describe(proto, self.original.contract)
        path = self.folder / "tried.onnx"
        onnx.save(proto, path)
        return OnnxModel(path, provider=self.provider)

    def _listen(self, maker: Maker) -> Iterator[Sensitivity]:
        pixels = self.validation.images[:SENSITIVITY_IMAGES]
        before = self._scores(self.original, pixels)
        for layer in maker.layers:
            after = self._scores(self.open(maker, only=layer.node), pixels)
            noise = np.sqrt(np.mean((after - before) ** 2) / np.mean(before**2))
            yield Sensitivity(layer.name, layer.node, float(noise))

    def _scores(self, model: OnnxModel, pixels: np.ndarray) -> np.ndarray:
        """What answers are the argmax of, less their mean: adding the same to all of them changes no answer."""
        scores = model.run(pixels)[self.answer].astype(np.float64)
        return scores - scores.mean(axis=-1, keepdims=True)


def _makers(kind: Kind, original: OnnxModel, calibration: np.ndarray) -> Iterator[tuple[str, Maker]]:
    if kind == "float16":
        yield "", Float16Maker(original.path)
        return
    feed = original.feed(calibration)
    for method in CALIBRATION:
        yield method, Int8Maker(original.path, feed, method=method)


def _growing(most: int) -> Iterator[int]:
    """1, 2, 3, 4, 6, 9, … up to `most`, which is the last."""
    count = 1
    while count < most:
        yield count
        count = max(count + 1, count * 3 // 2)
    if most:
        yield most


def _check(original: OnnxModel, answer: str | None, kind: Kind, calibration: np.ndarray, labelled: Sequence[Labelled]) -> str:
    """The output that answers.

    Raises:
        InputError: as `quantize_model`.
    """
    contract = original.contract
    if contract.precision is not None or is_reduced(onnx.load(original.path, load_external_data=False)):
        raise InputError(f"{original.path} is quantised or of float16 already: give the float32 file")
    names = [output.name for output in contract.outputs if output.meaning in ("logits", "probabilities")]
    if not names or (answer is not None and answer not in names):
        raise InputError(
            f"{original.path} has the task {contract.task!r} and no scores of classes, so that a loss of accuracy could not be "
            "seen: only files with logits or probabilities are quantised"
        )
    if kind == "int8" and len(calibration) < MIN_CALIBRATION:
        raise InputError(f"calibration takes {MIN_CALIBRATION} images or more; received {len(calibration)}")
    for name, images, targets in labelled:
        if len(images) < MIN_LABELLED or len(targets) != len(images):
            raise InputError(
                f"accuracy takes {MIN_LABELLED} labelled images or more; received {len(images)} {name} images, {len(targets)} targets"
            )
    return answer or names[0]


def _in_words(kind: Kind, method: str, images: int) -> str:
    if kind == "float16":
        return "weights and activations of float16, inputs and outputs as they were"
    return (
        f"static QDQ: int8 weights per channel, uint8 activations with ranges by {method} over {images} training images; "
        "preprocessing and scores in float32"
    )


def _contract(contract: Contract, report: PrecisionReport, nodes: Sequence[str]) -> Contract:
    """The contract of the new file: what was measured of the float32 file is not true of it."""
    return dataclasses.replace(
        contract,
        metrics=(
            Metric("accuracy", report.validation, max(trial.accuracy for trial in report.trials)),
            Metric("accuracy", report.split, report.accuracy),
        ),
        versions={**contract.versions, **{k: v for k, v in package_versions().items() if k.startswith("onnx")}},
        parity=None,
        precision=Precision(
            kind=report.kind,
            method=report.method,
            calibration_images=report.calibration_images,
            float_nodes=tuple(nodes),
            split=report.split,
            images=report.images,
            accuracy_float32=report.accuracy_float32,
            accuracy=report.accuracy,
            batch_sizes=tuple(speed.batch_size for speed in report.speeds),
            speedups=tuple(speed.speedup for speed in report.speeds),
            machine=f"{report.machine}, {report.provider}",
            refused=report.failures,
        ),
    )


def _check_drop_in(original: OnnxModel, path: Path) -> None:
    """The new file opens, holds to its contract, and has the old one's input and outputs.

    Raises:
        PrecisionError: it has not.
    """
    new = OnnxModel(path)
    for before, after in (
        (original.session.get_inputs(), new.session.get_inputs()),
        (original.session.get_outputs(), new.session.get_outputs()),
    ):
        ours, theirs = ([(value.name, value.type, value.shape) for value in values] for values in (after, before))
        if ours != theirs:
            raise PrecisionError(f"the converted file has {ours} where the float32 file has {theirs}")
