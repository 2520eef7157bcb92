"""The parity gate: an ONNX file against the Keras model it was made from, on real images, and it fails."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from export.contract import Contract
from export.convert import serving_graph
from export.runtime import OnnxModel, open_session, preprocess
from kerascv_course.errors import CourseError, InputError

__all__ = ["ParityError", "ParityReport", "ParityRow", "check_parity"]

#: Share of the images whose answer must be the same; the difference in accuracy that is allowed.
MIN_AGREEMENT = 0.9999
MAX_ACCURACY_DIFFERENCE = 1e-4

KERAS_BATCH = 256


@dataclass(frozen=True)
class ParityRow:
    """One output at one batch size.

    Attributes:
        output: name.
        batch_size: images a call of the file (Keras was called once, in batches of its own).
        optimized: whether onnxruntime was allowed to rewrite the graph.
        max_absolute: largest absolute difference of any value.
        max_relative: the same divided by the largest absolute value that Keras gives.
        agreement: share of answers (argmax over the last axis) that are the same; None for outputs that give no answer.
    """

    output: str
    batch_size: int
    optimized: bool
    max_absolute: float
    max_relative: float
    agreement: float | None


@dataclass(frozen=True)
class ParityReport:
    """What was compared and what differs.

    Attributes:
        path: the file.
        images: how many were compared.
        tolerance: largest absolute difference allowed.
        rows: a row an output, batch size and graph.
        accuracy_keras: share of answers equal to the targets; None without targets.
        accuracy_onnx: the lowest such share of the file, over the batch sizes.
        failures: what differs, a sentence each; empty where the file holds.
    """

    path: str
    images: int
    tolerance: float
    rows: tuple[ParityRow, ...]
    accuracy_keras: float | None
    accuracy_onnx: float | None
    failures: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether the file gives the same answers."""
        return not self.failures

    def to_plain(self) -> dict[str, Any]:
        """For parity.json. A difference that is not finite (NaN in either) stands as null."""
        plain = {"ok": self.ok, **dataclasses.asdict(self)}
        for row in plain["rows"]:
            for key in ("max_absolute", "max_relative"):
                row[key] = row[key] if np.isfinite(row[key]) else None
        return plain

    def summary(self) -> str:
        """One line."""
        worst = max(row.max_absolute for row in self.rows)
        accuracy = "" if self.accuracy_keras is None else f", accuracy {self.accuracy_keras:.4f} and {self.accuracy_onnx:.4f}"
        verdict = "parity passed" if self.ok else "parity FAILED"
        return f"{verdict}: {self.images:,} images, largest difference {worst:.1e}{accuracy} (Keras and ONNX)"

    def __str__(self) -> str:
        head = f"{'output':<16}{'batch':>6}  {'graph':<11}{'max |Δ|':>10}{'relative':>10}{'same answer':>13}"
        lines = [
            f"{row.output:<16}{row.batch_size:>6}  {'optimised' if row.optimized else 'as written':<11}{row.max_absolute:>10.1e}"
            f"{row.max_relative:>10.1e}" + ("" if row.agreement is None else f"{row.agreement:>13.4%}")
            for row in self.rows
        ]
        return "\n".join([head, *lines, *self.failures, self.summary()])


class ParityError(CourseError):
    """The file does not give the answers of the Keras model; `report` has all that was measured."""

    def __init__(self, report: ParityReport) -> None:
        self.report = report
        super().__init__(f"{report.path} does not give the same answers as Keras:\n  " + "\n  ".join(report.failures))


def check_parity(
    model: keras.Model,
    path: str | Path,
    images: np.ndarray,
    *,
    targets: np.ndarray | None = None,
    answer: str | None = None,
    tolerance: float = 1e-4,
    batch_sizes: Sequence[int] = (1, 7, 64),
) -> ParityReport:
    """Compare a file with the Keras model it was made from: every output, on every image, at several batch sizes.

    onnxruntime runs the graph as optimised by it at each batch size, and once as written, at the largest.

    Args:
        model: what was given to `export_model`.
        path: the file, with its contract.
        images: uint8 (N, height, width, channels), best the whole test split; for a file of float32 input also float32, as the
            model takes them.
        targets: int, the right answers, (N,) or the shape of the answers; for the accuracy of both.
        answer: output whose argmax over the last axis is the answer; None: ``logits``, else ``probabilities``, else none.
        tolerance: largest absolute difference allowed in any value of any output.
        batch_sizes: images a call.

    Raises:
        InputError: images of another type or shape than the file takes, or a file that is none of ours.
        ParityError: a value differs by more than `tolerance` or is NaN, an output is missing, fewer than 99.99 % of the answers
            are the same, or the accuracies differ by more than 0.01 points.
    """
    onnx_model = OnnxModel(path)
    contract = onnx_model.contract
    spec = contract.input
    wanted = (spec.height, spec.width, spec.channels)
    if images.dtype not in (np.uint8, spec.dtype) or images.shape[1:] != wanted or not len(images):
        dtypes = " or ".join(dict.fromkeys(("uint8", spec.dtype)))
        raise InputError(
            f"check_parity takes {dtypes} images (N, {wanted}), one or more; received {images.dtype} {images.shape}"
        )
    reference = _keras_outputs(model, contract, images)
    if answer is None:
        answer = next((output.name for output in contract.outputs if output.meaning != "values"), None)
    failures = [
        f"output {name!r} of the Keras model is missing in the file" for name in reference if name not in _names(contract)
    ]

    rows: list[ParityRow] = []
    accuracies = []
    for batch_size, optimized in [*((size, True) for size in batch_sizes), (max(batch_sizes), False)]:
        onnx_model.session = open_session(path, optimize=optimized)
        outputs = onnx_model.run(images, batch_size=batch_size)
        for name in _names(contract):
            if name not in reference:
                failures.append(f"output {name!r} of the file is none of the Keras model's: {sorted(reference)}")
                continue
            row = _compare(name, reference[name], outputs[name], batch_size, optimized, is_answer=name == answer)
            rows.append(row)
            failures += _judge(row, tolerance)
        if targets is not None and answer in reference and answer in outputs:
            accuracies.append(float(np.mean(outputs[answer].argmax(axis=-1) == targets)))

    accuracy_keras = float(np.mean(reference[answer].argmax(axis=-1) == targets)) if accuracies and answer else None
    accuracy_onnx = min(accuracies, default=None)
    if (
        accuracy_keras is not None
        and accuracy_onnx is not None
        and abs(accuracy_keras - accuracy_onnx) > MAX_ACCURACY_DIFFERENCE
    ):
        failures.append(f"the accuracy is {accuracy_keras:.4f} with Keras and {accuracy_onnx:.4f} with the file")
    report = ParityReport(
        str(path), len(images), tolerance, tuple(rows), accuracy_keras, accuracy_onnx, tuple(dict.fromkeys(failures))
    )
    if not report.ok:
        raise ParityError(report)
    return report


def _names(contract: Contract) -> list[str]:
    return [output.name for output in contract.outputs]


def _keras_outputs(model: keras.Model, contract: Contract, images: np.ndarray) -> dict[str, np.ndarray]:
    """What Keras says. A model of floating-point input is fed what the contract's preprocessing makes of the pixels."""
    steps = contract.preprocessing
    dtype = model.inputs[0].dtype
    serving = serving_graph(model, task=contract.task, input_dtype=dtype, mean_std=(steps.mean, steps.std))
    values = images if images.dtype == dtype else preprocess(images, contract)
    batches = [serving.predict_on_batch(values[i : i + KERAS_BATCH]) for i in range(0, len(values), KERAS_BATCH)]
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def _compare(
    name: str, reference: np.ndarray, outputs: np.ndarray, batch_size: int, optimized: bool, *, is_answer: bool
) -> ParityRow:
    if reference.shape != outputs.shape:
        return ParityRow(name, batch_size, optimized, np.inf, np.inf, 0.0 if is_answer else None)
    # Neither NaN nor infinity may pass as "no difference": a NaN here fails every comparison in _judge.
    difference = np.abs(reference.astype(np.float64) - outputs.astype(np.float64)).max()
    scale = np.abs(reference).max()
    agreement = float(np.mean(reference.argmax(axis=-1) == outputs.argmax(axis=-1))) if is_answer else None
    return ParityRow(name, batch_size, optimized, float(difference), float(difference / scale) if scale else 0.0, agreement)


def _judge(row: ParityRow, tolerance: float) -> list[str]:
    where = f"output {row.output!r}, batch size {row.batch_size}, graph {'optimised' if row.optimized else 'as written'}"
    failures = []
    if not row.max_absolute <= tolerance:
        failures.append(f"{where}: differs by {row.max_absolute:.3g}, more than {tolerance:g}")
    if row.agreement is not None and row.agreement < MIN_AGREEMENT:
        failures.append(f"{where}: only {row.agreement:.2%} of the answers are the same")
    return failures
