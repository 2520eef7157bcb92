"""Exported float32 files to int8 or float16, kept only where they are as accurate and faster on this machine."""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypedDict, Unpack

import numpy as np
import onnx

from export.benchmark.engines import TIMING, take_turns, time_calls
from export.contract import Contract, Metric, Precision
from export.files import describe, save_model
from export.predictor import PROVIDERS, OnnxModel, Provider
from export.quantization.graphs import (
    CALIBRATION,
    Float16Converter,
    GraphConverter,
    Int8Converter,
    PrecisionError,
    WeightedNode,
    is_reduced,
)
from export.quantization.report import (
    AIM,
    Kind,
    LayerSensitivity,
    PrecisionReport,
    PrecisionTrial,
    RefusedError,
    SpeedPair,
    find_failures,
)
from kerascv_course.core.environment import core_count, package_versions, processor_name
from kerascv_course.core.errors import InputError
from kerascv_course.core.images import Images
from kerascv_course.core.progress import Wait, part_of

__all__ = ["LabeledImages", "QuantizeOptions", "accuracy", "measure_speeds", "quantize_model"]

#: What is shown of the search.
QUANTIZING = "quantizing"

#: Batch sizes to measure speed at.
BATCH_SIZES = (1, 64)

#: Fewest calibration images.
MIN_CALIBRATION = 32

#: Fewest labeled images a split.
MIN_LABELED = 20

#: Images to measure a layer's sensitivity on.
SENSITIVITY_IMAGES = 256

#: Seconds of timing for each file and batch size.
SECONDS = 3.0


class LabeledImages(NamedTuple):
    """Images with their targets.

    Attributes:
        name: of the split, for reports.
        images: uint8 (N, height, width, channels).
        targets: int, classes: (N,), or the shape of the model's answers.
    """

    name: str
    images: Images
    targets: np.ndarray


class QuantizeOptions(TypedDict, total=False):
    """Options of `quantize_model`.

    Attributes:
        answer: output whose argmax over the last axis is the answer (default: ``logits``, else ``probabilities``).
        provider: where speed and accuracy are measured (default: ``"cpu"``).
        batch_sizes: images a call at which the file has to be faster (default: 1 and 64).
        force: write the file whatever the verdict, which its contract states (default: False).
    """

    answer: str | None
    provider: Provider
    batch_sizes: Sequence[int]
    force: bool


def quantize_model(
    source: str | Path,
    target: str | Path,
    *,
    kind: Kind = "int8",
    calibration: np.ndarray,
    validation: LabeledImages,
    test: LabeledImages,
    **options: Unpack[QuantizeOptions],
) -> PrecisionReport:
    """Write a reduced-precision file in place of a float32 one, with the same input, outputs, labels and contract.

    int8: the calibration method that is best on the validation images is taken. Where that loses more than `AIM`, layers are
    converted one by one to find those that disturb the scores most; the worst of them, more and more, stay in float32 until accuracy
    is back. Accuracy and speed of that one file are then compared with the float32 file, on the test images.

    Args:
        source: exported float32 file.
        target: file to write; an existing one is replaced once the new one is complete and worth keeping.
        kind: ``"int8"``: static quantization, weights per channel; ``"float16"``: for GPUs.
        calibration: training images, uint8 (N, height, width, channels), whose activations give the ranges; unused for float16.
        validation: images that choose method and layers.
        test: images that the verdict is measured on, once.
        **options: see `QuantizeOptions`.

    Raises:
        InputError: a file that is reduced already or has no scores of classes, or images that are too few or do not fit.
        ProviderError: the provider is not available.
        PrecisionError: onnxruntime's tools cannot convert the graph.
        RefusedError: accuracy falls by more than `LIMIT`, or speed does not rise by `MIN_SPEEDUP` at every batch size.
    """
    source, target = Path(source), Path(target)
    provider, batch_sizes = options.get("provider", "cpu"), options.get("batch_sizes", BATCH_SIZES)
    _check_options(kind, provider, batch_sizes)
    original = OnnxModel(source, provider=provider)
    answer = _answer(original, options.get("answer"))
    _check_images(kind, calibration, (validation, test))
    if source.resolve() == target.resolve():
        raise InputError(f"the new file must not replace the float32 file; received {target} for both")
    passes = len(validation.images) * (1 + (len(CALIBRATION) if kind == "int8" else 1)) + 2 * len(test.images)
    with tempfile.TemporaryDirectory() as folder:
        with Wait(QUANTIZING, passes) as wait:
            search = _Search(original, Path(folder), provider, answer, validation)
            method, converter = search.choose_method(kind, calibration)
            kept_nodes = search.choose_layers(method, converter, wait) if search.best.accuracy < search.float32 - AIM else ()
            reduced = search.open(converter, kept_nodes)
            accuracies = [accuracy(model, test, answer) for model in (original, reduced)]
        speeds = measure_speeds(original, reduced, test.images, batch_sizes)
        report = PrecisionReport(
            source=str(source),
            path=str(target),
            kind=kind,
            method=_method_in_words(kind, method, len(calibration)),
            machine=f"{processor_name()}, {core_count()} cores",
            provider=PROVIDERS[provider],
            calibration_images=len(calibration) if kind == "int8" else 0,
            **search.results(),
            float_layers=tuple(node.layer for node in kept_nodes),
            split=test.name,
            images=len(test.images),
            accuracy_float32=accuracies[0],
            accuracy=accuracies[1],
            speeds=speeds,
            bytes_float32=source.stat().st_size,
            bytes=reduced.path.stat().st_size,
            failures=tuple(find_failures(accuracies, f"{len(test.images):,} {test.name} images", speeds)),
            kept=False,
            measured=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        if not report.ok and not options.get("force"):
            raise RefusedError(report)
        proto = onnx.load(reduced.path)
        describe(proto, _contract(original.contract, report, [node.node for node in kept_nodes]))
        save_model(proto, target, partial(_check_same_interface, original))
    return dataclasses.replace(report, kept=True)


def accuracy(model: OnnxModel, labeled: LabeledImages, answer: str) -> float:
    """Accuracy of a file: the argmax of an output over its last axis against the targets."""
    correct = 0
    with part_of(QUANTIZING, len(labeled.images)) as wait:
        for start in range(0, len(labeled.images), 64):
            images = labeled.images[start : start + 64]
            answers = model.run_batch(images)[answer].argmax(axis=-1)
            correct += int((answers == labeled.targets[start : start + 64]).sum())
            wait.advance(len(images))
    return correct / labeled.targets.size


def measure_speeds(
    original: OnnxModel, reduced: OnnxModel, images: Images, batch_sizes: Sequence[int]
) -> tuple[SpeedPair, ...]:
    """Time two files in turns on the same images."""
    speeds, files = [], {"float32": original, "reduced": reduced}
    with Wait(TIMING, math.ceil(SECONDS * len(files) * len(batch_sizes)), "seconds"):
        for size in batch_sizes:
            pixels = images[np.arange(size) % len(images)]
            turns = {
                name: partial(time_calls, partial(model.session.run, None, {model.contract.input.name: model.feed(pixels)}))
                for name, model in files.items()
            }
            medians = {name: 1e3 * float(np.median(times)) for name, times in take_turns(turns, seconds=SECONDS).items()}
            speeds.append(SpeedPair(size, medians["float32"], medians["reduced"]))
    return tuple(speeds)


class _Search:
    """Chooses calibration method and float32 layers, on the validation images alone.

    Args:
        original: the float32 file.
        folder: for temporary files.
        provider: where files run.
        answer: output with the scores.
        validation: the images.
    """

    def __init__(self, original: OnnxModel, folder: Path, provider: Provider, answer: str, validation: LabeledImages) -> None:
        self.original, self.folder, self.provider = original, folder, provider
        self.answer, self.validation = answer, validation
        self.float32 = accuracy(original, validation, answer)
        self.trials: list[PrecisionTrial] = []
        self.sensitivities: tuple[LayerSensitivity, ...] = ()

    @property
    def best(self) -> PrecisionTrial:
        """The most accurate trial; of equal ones the first."""
        return max(self.trials, key=lambda trial: trial.accuracy)

    def results(self) -> dict[str, Any]:
        """The fields of `PrecisionReport` that say what was tried on the validation images."""
        return {
            "validation": self.validation.name,
            "validation_images": len(self.validation.images),
            "validation_float32": self.float32,
            "trials": tuple(self.trials),
            "sensitivities": self.sensitivities,
        }

    def choose_method(self, kind: Kind, calibration: np.ndarray) -> tuple[str, GraphConverter]:
        """The calibration method that loses least accuracy, with its converter."""
        converters: dict[str, GraphConverter] = {}
        if kind == "float16":
            converters[""] = Float16Converter(self.original.path)
        else:
            feed = self.original.feed(calibration)
            converters = {method: Int8Converter(self.original.path, feed, method=method) for method in CALIBRATION}
        for method, converter in converters.items():
            self.measure(method, converter, ())
        return self.best.method, converters[self.best.method]

    def choose_layers(self, method: str, converter: GraphConverter, wait: Wait) -> tuple[WeightedNode, ...]:
        """The layers to leave in float32: the most sensitive ones, more and more of them, up to half of all.

        `wait` is told how much there is to measure, if no layer is enough before.
        """
        counts, images = list(_growing(len(converter.nodes) // 2)), len(self.validation.images)
        wait.total = (wait.total or 0) + len(counts) * images + len(converter.nodes) * min(images, SENSITIVITY_IMAGES)
        by_node = {node.node: node for node in converter.nodes}
        self.sensitivities = tuple(sorted(self._measure_sensitivities(converter), key=lambda row: -row.noise))
        best, chosen = self.best, tuple[WeightedNode, ...]()
        for count in counts:
            nodes = tuple(by_node[row.node] for row in self.sensitivities[:count])
            trial = self.measure(method, converter, nodes)
            if trial.accuracy > best.accuracy:
                best, chosen = trial, nodes
            if trial.accuracy >= self.float32 - AIM:
                break
        return chosen

    def measure(self, method: str, converter: GraphConverter, nodes: Sequence[WeightedNode]) -> PrecisionTrial:
        """Measure the accuracy with these nodes in float32."""
        trial = PrecisionTrial(method, len(nodes), accuracy(self.open(converter, nodes), self.validation, self.answer))
        self.trials.append(trial)
        return trial

    def open(self, converter: GraphConverter, nodes: Sequence[WeightedNode] = (), only: str | None = None) -> OnnxModel:
        """A file with these nodes in float32, or with `only` one converted."""
        proto = converter.convert(keep=[node.node for node in nodes], only=only)
        describe(proto, self.original.contract)
        path = self.folder / "trial.onnx"
        onnx.save(proto, path)
        return OnnxModel(path, provider=self.provider)

    def _measure_sensitivities(self, converter: GraphConverter) -> Iterator[LayerSensitivity]:
        pixels = self.validation.images[:SENSITIVITY_IMAGES]
        before = self._centered_scores(self.original, pixels)
        for node in converter.nodes:
            after = self._centered_scores(self.open(converter, only=node.node), pixels)
            noise = np.sqrt(np.mean((after - before) ** 2) / np.mean(before**2))
            with part_of(QUANTIZING, len(converter.nodes) * len(pixels)) as wait:
                wait.advance(len(pixels))
            yield LayerSensitivity(node.layer, node.node, float(noise))

    def _centered_scores(self, model: OnnxModel, pixels: np.ndarray) -> np.ndarray:
        """The scores less their mean over the classes, which changes no answer."""
        scores: np.ndarray = model.run(pixels)[self.answer].astype(np.float64)
        return np.asarray(scores - scores.mean(axis=-1, keepdims=True))


def _growing(most: int) -> Iterator[int]:
    """1, 2, 3, 4, 6, 9, … up to `most`, which is the last."""
    count = 1
    while count < most:
        yield count
        count = max(count + 1, count * 3 // 2)
    if most:
        yield most


def _check_options(kind: Kind, provider: Provider, batch_sizes: Sequence[int]) -> None:
    """Refuse options that do not exist.

    Raises:
        InputError: another kind or provider, or batch sizes below 1.
    """
    if kind not in ("int8", "float16"):
        raise InputError(f"kind must be int8 or float16; received {kind!r}")
    if provider not in PROVIDERS:
        raise InputError(f"provider must be {' or '.join(PROVIDERS)}; received {provider!r}")
    if not batch_sizes or min(batch_sizes) < 1:
        raise InputError(f"batch sizes must be 1 or more; received {list(batch_sizes)}")


def _answer(original: OnnxModel, answer: str | None) -> str:
    """Name of the output with the scores.

    Raises:
        InputError: the file is reduced already, or has no scores of classes.
    """
    contract = original.contract
    if contract.precision is not None or is_reduced(onnx.load(original.path, load_external_data=False)):
        raise InputError(f"{original.path} is quantized or float16 already: give the float32 file")
    names = [output.name for output in contract.outputs if output.meaning in ("logits", "probabilities")]
    if not names or (answer is not None and answer not in names):
        raise InputError(
            f"{original.path} has the task {contract.task!r} and no scores of classes to measure a loss of accuracy by: only files "
            "with logits or probabilities can be quantized"
        )
    return answer or names[0]


def _check_images(kind: Kind, calibration: np.ndarray, labeled: Sequence[LabeledImages]) -> None:
    """Refuse too few images.

    Raises:
        InputError: too few images, or images without targets.
    """
    if kind == "int8" and len(calibration) < MIN_CALIBRATION:
        raise InputError(f"calibration needs {MIN_CALIBRATION} images or more; received {len(calibration)}")
    for name, images, targets in labeled:
        if len(images) < MIN_LABELED or len(targets) != len(images):
            raise InputError(
                f"accuracy needs {MIN_LABELED} labeled images or more; received {len(images)} {name} images, {len(targets)} targets"
            )


def _method_in_words(kind: Kind, method: str, images: int) -> str:
    if kind == "float16":
        return "float16 weights and activations, inputs and outputs as before"
    return (
        f"static QDQ: int8 weights per channel, uint8 activations with {method} ranges over {images} training images; "
        "preprocessing and scores in float32"
    )


def _contract(contract: Contract, report: PrecisionReport, nodes: Sequence[str]) -> Contract:
    """The contract of the new file, without what was measured of the float32 file."""
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


def _check_same_interface(original: OnnxModel, path: Path) -> None:
    """Check that the new file opens, follows its contract, and has the inputs and outputs of the old one.

    Raises:
        PrecisionError: they differ.
    """
    interfaces = [
        [(value.name, value.type, value.shape) for value in (*session.get_inputs(), *session.get_outputs())]
        for session in (OnnxModel(path).session, original.session)
    ]
    if interfaces[0] != interfaces[1]:
        raise PrecisionError(f"the converted file has {interfaces[0]} where the float32 file has {interfaces[1]}")
