"""The parity gate: an ONNX file against the Keras model it was made from, on real images, and it fails."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import keras
import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from export.contract import Contract, Output, Parity
from export.files import rewrite_contract
from export.gallery.rank_lists import MIN_EQUAL, RankLists
from export.predictor import OnnxModel, open_session
from export.serving import preprocess, serving_graph
from kerascv_course.core.errors import CourseError, InputError

__all__ = ["ParityError", "ParityReport", "ParityRow", "certify", "check_parity"]

#: Share of the images whose answer must be the same; the difference in accuracy that is allowed.
MIN_AGREEMENT = 0.9999
MAX_ACCURACY_DIFFERENCE = 1e-4

KERAS_BATCH = 256

#: Images compared at once: a whole number of batches of each usual size, and a bound on the memory.
CHUNK = 7 * 128

#: Seconds after which onnx.reference, plain NumPy and thus slow, is given no further image; pictures that it is not tried on.
REFERENCE_SECONDS, REFERENCE_PIXELS = 5.0, 64 * 64

#: Bounds of the histogram of differences: the first bin is exactly 0, the last everything from 1 on.
DECADES = tuple(10.0**power for power in range(-9, 1))

#: A file that takes any size is also shown this many images cut by these rows and columns: sizes that fit nothing evenly.
CUT_IMAGES, CUTS = 4, ((1, 0), (2, 3), (5, 6))


Evaluator = Literal["optimised", "as written", "onnx.reference"]


@dataclass(frozen=True)
class ParityRow:
    """One output at one batch size.

    Attributes:
        output: name.
        batch_size: images a call of the file (Keras was called once, in batches of its own).
        evaluator: ``optimised``: onnxruntime, which rewrites the graph; ``as written``: onnxruntime without; or
            ``onnx.reference``: ONNX's own definition of each operator, on a few images.
        max_absolute: largest absolute difference of any value; of classes and pictures it is only told.
        max_relative: the same divided by the largest absolute value that Keras gives.
        agreement: share of answers (argmax over the last axis), classes or pixels that are the same (pixels: within one level), or of
            images with equal rank lists (vectors); None for outputs that give no answer.
        margin: how far apart Keras's two best scores are, at most, where another class was answered; 0 where none was.
        exact: the values themselves are held to the tolerance (classes and pictures are held to their agreement: a class that
            changes at a tie changes by any amount).
        histogram: how many values differ by exactly 0, by less than each of `DECADES`, and by 1 or more; empty where shapes differ.
    """

    output: str
    batch_size: int
    evaluator: Evaluator
    max_absolute: float
    max_relative: float
    agreement: float | None
    exact: bool = True
    margin: float = 0.0
    histogram: tuple[int, ...] = ()


@dataclass(frozen=True)
class ParityReport:
    """What was compared and what differs.

    Attributes:
        path: the file.
        images: how many were compared.
        tolerance: largest absolute difference allowed.
        rows: a row an output, batch size and graph.
        accuracy_keras: share of answers equal to the targets, or for vectors R1 with each image looked for among all others; None
            without targets.
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

    #: Bounds of the bins of `ParityRow.histogram`.
    decades: ClassVar[tuple[float, ...]] = DECADES

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
        worst = max((row.max_absolute for row in self.rows if row.exact), default=0.0)
        word = "R1 among each other" if any(row.output == "embedding" for row in self.rows) else "accuracy"
        accuracy = "" if self.accuracy_keras is None else f", {word} {self.accuracy_keras:.4f} and {self.accuracy_onnx:.4f}"
        verdict = "parity passed" if self.ok else "parity FAILED"
        return f"{verdict}: {self.images:,} images, largest difference {worst:.1e}{accuracy} (Keras and ONNX)"

    def __str__(self) -> str:
        return "\n".join([self.table(), *self.failures, self.summary()])

    def table(self) -> str:
        """The rows as text."""
        head = f"{'output':<16}{'batch':>6}  {'graph':<15}{'max |Δ|':>10}{'relative':>10}{'same answer':>13}"
        lines = [
            f"{row.output:<16}{row.batch_size:>6}  {row.evaluator:<15}{row.max_absolute:>10.1e}"
            f"{row.max_relative:>10.1e}" + ("" if row.agreement is None else f"{row.agreement:>13.4%}")
            for row in self.rows
        ]
        return "\n".join([head, *lines])

    def histograms(self) -> dict[str, tuple[int, ...]]:
        """How many values of each output differ by how much, over the whole of `images` (see `ParityRow.histogram`)."""
        return {row.output: row.histogram for row in self.rows if row.evaluator == "as written" and row.histogram}

    def for_contract(self) -> Parity:
        """What the contract keeps of it."""
        exact = [row for row in self.rows if row.exact]
        agreements = [row.agreement for row in self.rows if row.agreement is not None]
        return Parity(
            images=self.images,
            tolerance=self.tolerance,
            largest_difference=max((row.max_absolute for row in exact), default=0.0),
            agreement=min(agreements, default=None),
            accuracy_keras=self.accuracy_keras,
            accuracy_onnx=self.accuracy_onnx,
        )


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
    labels: Sequence[str] | None = None,
    tolerance: float = 1e-4,
    batch_sizes: Sequence[int] = (1, 7, 64),
    reference_images: int = 4,
) -> ParityReport:
    """Compare a file with the Keras model it was made from: every output, on every image, at several batch sizes.

    onnxruntime runs the graph as optimised by it at each batch size, and once as written, at the largest; small pictures are also
    run through ``onnx.reference``, which shares no code with it.

    Args:
        model: what was given to `export_model`.
        path: the file, with its contract.
        images: uint8 (N, height, width, channels), best the whole test split; for a file of float32 input also float32, as the
            model takes them.
        targets: int, the right answers, (N,) or the shape of the answers; for the accuracy of both. Of vectors: identities.
        answer: output whose argmax over the last axis is the answer; None: ``logits``, else ``probabilities``, else none.
        labels: names of the model's classes, which the file must have in the same order; None: not compared.
        tolerance: largest absolute difference allowed in any value of any output.
        batch_sizes: images a call.
        reference_images: how many images ``onnx.reference`` is given, fewer where it takes long, none beyond 64×64 pixels.

    Raises:
        InputError: images of another type or shape than the file takes, or a file that is none of ours.
        ParityError: a value differs by more than `tolerance` or is NaN, an output is missing, a label is another, fewer than
            99.99 % of the answers (of vectors: 99.9 % of the rank lists) are the same, a class differs where the two best scores are
            more than twice `tolerance` apart, or the accuracies differ by more than 0.01 points (of vectors: R1 at all).
    """
    sessions = {"optimised": open_session(path), "as written": open_session(path, optimize=False)}
    onnx_model = OnnxModel(path)
    contract = onnx_model.contract
    spec = contract.input
    wanted = (spec.height, spec.width, spec.channels)
    fits = images.ndim == 4 and all(size in (None, n) for n, size in zip(images.shape[1:], wanted, strict=True))
    if images.dtype not in (np.uint8, spec.dtype) or not fits or not images.size:
        dtypes = " or ".join(dict.fromkeys(("uint8", spec.dtype)))
        raise InputError(
            f"check_parity takes {dtypes} images (N, {wanted}), one or more; received {images.dtype} {images.shape}"
        )
    ranks = RankLists(targets) if contract.task == "embed" else None
    if ranks:
        answer = targets = None  # a vector's largest value is no answer
    elif answer is None:
        answer = next((output.name for output in contract.outputs if output.meaning in ("logits", "probabilities")), None)
    serving = _serving(model, contract)
    variants: list[tuple[int, Evaluator]] = [
        *((size, "optimised") for size in batch_sizes),
        (max(batch_sizes), "as written"),
    ]
    tallies: dict[tuple[str, int, Evaluator], _Tally] = {}
    failures = _other_labels(contract, labels)
    right_keras, right_onnx = 0, dict.fromkeys(variants, 0)
    missing = False
    for start in range(0, len(images), CHUNK):
        part = images[start : start + CHUNK]
        reference = _keras_outputs(serving, contract, part)
        failures += [
            f"output {name!r} of the Keras model is missing in the file" for name in reference if name not in _names(contract)
        ]
        truth = None if targets is None else targets[start : start + CHUNK]
        missing = answer not in reference or answer not in _names(contract)
        if ranks and "embedding" in reference:
            ranks.add("Keras", reference["embedding"])
        if truth is not None and not missing:
            right_keras += int((reference[str(answer)].argmax(axis=-1) == truth).sum())
        for batch_size, evaluator in variants:
            onnx_model.session = sessions[evaluator]
            outputs = onnx_model.run(part, batch_size=batch_size)
            if ranks:
                ranks.add((batch_size, evaluator), outputs["embedding"])
            for output in contract.outputs:
                if output.name not in reference:
                    failures.append(f"output {output.name!r} of the file is none of the Keras model's: {sorted(reference)}")
                    continue
                tally = tallies.setdefault((output.name, batch_size, evaluator), _Tally(_answers_of(output, answer)))
                tally.add(reference[output.name], outputs[output.name], reference.get(str(answer)))
            if truth is not None and not missing:
                right_onnx[batch_size, evaluator] += int((outputs[str(answer)].argmax(axis=-1) == truth).sum())
    run = list(variants)
    if reference_images:
        tallies |= _by_reference(serving, onnx_model, images[:reference_images], answer)
        variants += [key[1:] for key in tallies if key[1:] not in variants]
    rows = tuple(
        tally.row(*key) for key, tally in sorted(tallies.items(), key=lambda item: _order(item[0], variants, contract))
    )
    if ranks:
        rows = tuple(
            dataclasses.replace(row, agreement=ranks.agreement("Keras", way))
            if (way := (row.batch_size, row.evaluator)) in run and row.output == "embedding"
            else row
            for row in rows
        )
    for row in rows:
        failures += _judge(row, tolerance, MIN_EQUAL if ranks else MIN_AGREEMENT)
    if spec.height is None:
        failures += _cut_sizes(serving, onnx_model, images, answer, tolerance)

    accuracy_keras = accuracy_onnx = None
    if targets is not None and not missing:
        accuracy_keras = right_keras / targets.size
        accuracy_onnx = min(right_onnx.values()) / targets.size
        if abs(accuracy_keras - accuracy_onnx) > MAX_ACCURACY_DIFFERENCE:
            failures.append(f"the accuracy is {accuracy_keras:.4f} with Keras and {accuracy_onnx:.4f} with the file")
    if ranks and (accuracy_keras := ranks.first_rate("Keras")) is not None:
        found = [ranks.first_rate(way) or 0.0 for way in run]
        accuracy_onnx = min(found)
        if set(found) != {accuracy_keras}:
            failures.append(f"R1 is {accuracy_keras:.4f} with Keras and {accuracy_onnx:.4f} with the file")
    report = ParityReport(
        str(path), len(images), tolerance, rows, accuracy_keras, accuracy_onnx, tuple(dict.fromkeys(failures))
    )
    if not report.ok:
        raise ParityError(report)
    return report


def certify(path: str | Path, report: ParityReport) -> None:
    """Write into a file's contract what was proved of it.

    Raises:
        ParityError: nothing was: the report has failures.
        WriteError: the file cannot be written.
    """
    if not report.ok:
        raise ParityError(report)
    path = Path(path)
    rewrite_contract(path, dataclasses.replace(OnnxModel(path).contract, parity=report.for_contract()))


def _names(contract: Contract) -> list[str]:
    return [output.name for output in contract.outputs]


def _order(key: tuple[str, int, Evaluator], variants: list[tuple[int, Evaluator]], contract: Contract) -> tuple[int, int]:
    return variants.index(key[1:]), _names(contract).index(key[0])


def _serving(model: keras.Model, contract: Contract) -> keras.Model:
    return serving_graph(model, task=contract.task, input_dtype=model.inputs[0].dtype, steps=contract.preprocessing)


def _keras_outputs(serving: keras.Model, contract: Contract, images: np.ndarray) -> dict[str, np.ndarray]:
    """What Keras says. A model of floating-point input is fed what the contract's preprocessing makes of the pixels."""
    values = images if images.dtype == serving.inputs[0].dtype else preprocess(images, contract.preprocessing)
    batches = [serving.predict_on_batch(values[i : i + KERAS_BATCH]) for i in range(0, len(values), KERAS_BATCH)]
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def _answers_of(output: Output, answer: str | None) -> Literal["argmax", "classes", "picture"] | None:
    """What of an output must be the same, besides its values."""
    if output.meaning == "classes" or output.meaning == "picture":
        return output.meaning
    return "argmax" if output.name == answer else None


class _Tally:
    """Differences of one output, over chunks.

    Args:
        answers: what must be the same, besides the values.
    """

    def __init__(self, answers: Literal["argmax", "classes", "picture"] | None) -> None:
        self.answers = answers
        self.largest, self.scale, self.same, self.count = 0.0, 0.0, 0, 0
        self.margin = 0.0
        self.histogram = np.zeros(len(DECADES) + 2, np.int64)

    def add(self, reference: np.ndarray, outputs: np.ndarray, scores: np.ndarray | None) -> None:
        """Take a chunk in; `scores`: what Keras's classes are the argmax of, where that is an output as well."""
        if reference.shape != outputs.shape:
            self.largest, self.count = np.inf, self.count + 1
            return
        # Neither NaN nor infinity may pass as "no difference": a NaN here fails every comparison in _judge.
        difference = np.abs(reference.astype(np.float64) - outputs.astype(np.float64))
        self.largest = float(np.maximum(self.largest, difference.max()))
        self.scale = float(np.maximum(self.scale, np.abs(reference).max()))
        bins = np.where(difference > 0, 1 + np.digitize(difference, DECADES), 0)
        self.histogram += np.bincount(bins.ravel(), minlength=len(self.histogram))
        if self.answers == "argmax":
            self._count(reference.argmax(axis=-1) == outputs.argmax(axis=-1))
        elif self.answers:
            self._count(difference <= (1 if self.answers == "picture" else 0))
        if self.answers == "classes" and scores is not None and (changed := difference > 0).any():
            best = np.sort(scores[changed], axis=-1)
            self.margin = max(self.margin, float((best[:, -1] - best[:, -2]).max()))

    def _count(self, same: np.ndarray) -> None:
        self.same, self.count = self.same + int(same.sum()), self.count + same.size

    def row(self, output: str, batch_size: int, evaluator: Evaluator) -> ParityRow:
        """The figures."""
        relative = self.largest / self.scale if self.scale else (0.0 if np.isfinite(self.largest) else np.inf)
        agreement = self.same / self.count if self.answers else None
        exact = self.answers in (None, "argmax")
        histogram = tuple(self.histogram.tolist()) if self.histogram.any() else ()
        return ParityRow(output, batch_size, evaluator, self.largest, relative, agreement, exact, self.margin, histogram)


def _other_labels(contract: Contract, labels: Sequence[str] | None) -> list[str]:
    """What differs between the file's labels and those of the model's classes."""
    if labels is None or list(contract.labels) == list(labels):
        return []
    if len(contract.labels) != len(labels):
        return [f"the file has {len(contract.labels)} labels, the model {len(labels)} classes"]
    pairs = enumerate(zip(contract.labels, labels, strict=True))
    number, (theirs, ours) = next((number, pair) for number, pair in pairs if pair[0] != pair[1])
    return [f"class {number} is called {theirs!r} in the file and is {ours!r}"]


def _by_reference(
    serving: keras.Model, onnx_model: OnnxModel, images: np.ndarray, answer: str | None
) -> dict[tuple[str, int, Evaluator], _Tally]:
    """The outputs of ONNX's own evaluator, image by image, as long as it takes no more than `REFERENCE_SECONDS`."""
    if np.prod(images.shape[1:3]) > REFERENCE_PIXELS:
        return {}
    contract = onnx_model.contract
    evaluator = ReferenceEvaluator(onnx.load(onnx_model.path))
    tallies: dict[tuple[str, int, Evaluator], _Tally] = {}
    started = time.monotonic()
    for start in range(len(images)):
        part = images[start : start + 1]
        reference = _keras_outputs(serving, contract, part)
        values = evaluator.run(None, {contract.input.name: onnx_model.feed(part)})
        for output, value in zip(contract.outputs, values, strict=True):
            if output.name in reference:
                tally = tallies.setdefault((output.name, 1, "onnx.reference"), _Tally(_answers_of(output, answer)))
                tally.add(reference[output.name], value, reference.get(str(answer)))
        if time.monotonic() - started > REFERENCE_SECONDS:
            break
    return tallies


def _cut_sizes(
    serving: keras.Model, onnx_model: OnnxModel, images: np.ndarray, answer: str | None, tolerance: float
) -> list[str]:
    """What differs for pictures of sizes that are no multiples of anything."""
    failures = []
    height, width = images.shape[1:3]
    for rows, columns in CUTS:
        cut = images[:CUT_IMAGES, : max(height - rows, 1), : max(width - columns, 1)]
        values = cut if cut.dtype == serving.inputs[0].dtype else preprocess(cut, onnx_model.contract.preprocessing)
        # called eagerly: each size would be a tracing of its own
        reference = {name: np.asarray(value) for name, value in serving(values, training=False).items()}
        outputs = onnx_model.run(cut)
        for output in onnx_model.contract.outputs:
            if output.name in reference:
                tally = _Tally(_answers_of(output, answer))
                tally.add(reference[output.name], outputs[output.name], reference.get(str(answer)))
                failures += [
                    f"pictures of {cut.shape[1]}×{cut.shape[2]}, {failure}"
                    for failure in _judge(tally.row(output.name, len(cut), "as written"), tolerance)
                ]
    return failures


def _judge(row: ParityRow, tolerance: float, least: float = MIN_AGREEMENT) -> list[str]:
    graph = row.evaluator if row.evaluator == "onnx.reference" else f"graph {row.evaluator}"
    where = f"output {row.output!r}, batch size {row.batch_size}, {graph}"
    failures = []
    if row.exact and not row.max_absolute <= tolerance:
        failures.append(
            f"{where}: differs by {row.max_absolute:.3g} ({row.max_relative:.1g} of the largest value), more than {tolerance:g}"
        )
    if not row.margin <= 2 * tolerance:
        failures.append(f"{where}: another class where the best score of Keras leads by {row.margin:.3g}, which is no tie")
    if row.agreement is not None and row.agreement < least:
        failures.append(f"{where}: only {row.agreement:.2%} of the answers are the same")
    return failures
