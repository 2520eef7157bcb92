"""The parity gate: compares an ONNX file with the Keras model it was made from, on images, and raises an error if they differ."""

from __future__ import annotations

import dataclasses
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias, TypedDict, Unpack

import keras
import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from export.contract import Contract, Input, Parity, contract_differences
from export.converter.convert import ExportOptions, check_valid, write_converted
from export.converter.heads import SUM, sums_to_one
from export.converter.serving_graph import serving_graph
from export.files import replace_model, rewrite_contract, staged
from export.gallery.rank_lists import MIN_EQUAL, equal_lists, first_rate
from export.predictor import OnnxModel, Provider, open_session
from export.serving import preprocess
from export.untouched import BLIND, Tolerances, UntouchedModel, check_targets
from export.untrusted.screen import read_contract
from kerascv_course.core.errors import CourseError, InputError
from kerascv_course.core.images import Images
from kerascv_course.core.progress import Wait, track

__all__ = ["ParityError", "ParityReport", "ParityRow", "certify", "check_parity", "export_validated"]

#: Smallest share of predictions that must agree.
MIN_AGREEMENT = 0.9999

#: Largest difference in accuracy.
MAX_ACCURACY_DIFFERENCE = 1e-4

#: Largest difference of Keras's accuracy from the one measured before, on the same images with the same weights: other hardware rounds
#: otherwise and so changes an answer here and there. A single answer may change whatever its share.
MAX_CHANGE = 1e-3

#: Batch size of Keras.
KERAS_BATCH = 256

#: Images compared at once: a whole number of batches of each usual size, and a bound on the memory.
CHUNK = 7 * 64

#: Seconds after which onnx.reference, which is slow plain NumPy, gets no further image.
REFERENCE_SECONDS = 5.0

#: Batch sizes that the first `FEW` images are run at besides, unusual for a graph that was optimized for another.
MORE_BATCHES = (3, 8, 128)
FEW = 256

#: Largest image area that onnx.reference is given, pixels.
REFERENCE_PIXELS = 64 * 64

#: Upper bounds of the bins of the histogram of differences, after a bin for exactly 0 and before one for everything else.
DECADES = tuple(10.0**power for power in range(-9, 1))

#: Rows and columns that are cut off images for a file of any input size: the sizes left are no multiples of a power of two.
CUTS = ((1, 0), (2, 3), (5, 6))

#: Images of each such size.
CUT_IMAGES = 4

#: Largest size that an image is repeated to, so that it is larger than every size that stands in the graph, pixels.
LARGEST = 1024

Evaluator = Literal["optimized", "as written", "onnx.reference"]

#: Batch size and evaluator.
Variant = tuple[int, Evaluator]

#: What of an output must agree, besides its values.
Answers = Literal["argmax", "classes", "picture"] | None


@dataclass(frozen=True)
class ParityRow:
    """The comparison of one output at one batch size with one evaluator.

    Attributes:
        output: name.
        batch_size: images a call of the file (Keras was called once, in batches of its own).
        evaluator: ``optimized``: onnxruntime, which rewrites the graph; ``as written``: onnxruntime without; or
            ``onnx.reference``: ONNX's own definition of each operator, on a few images.
        max_absolute: largest absolute difference of any value; of classes and images it is only reported.
        max_relative: the same divided by the largest absolute value that Keras gives.
        agreement: share of answers (argmax over the last axis), classes or pixels that are the same (pixels: within one level), or of
            images with equal rank lists (vectors); None for outputs that give no answer.
        margin: of an output of classes whose scores are an output too: how far apart Keras's two best scores are, at most, where the
            classes differ. 0 where none does, and for all other outputs.
        exact: the values themselves are held to the tolerance (classes and images are held to their agreement: a class that
            changes at a tie changes by any amount).
        histogram: how many values differ by exactly 0, by less than each of `DECADES`, and by 1 or more, NaN or infinity; empty
            where shapes differ.
        scale: largest absolute value that Keras gives.
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
    scale: float = 0.0


@dataclass(frozen=True)
class ParityReport:
    """The result of a comparison.

    Attributes:
        path: the file.
        images: how many were compared.
        tolerance: largest absolute difference allowed, to which `relative` times the largest value of an output is added.
        rows: one an output, batch size and evaluator.
        accuracy_keras: share of answers equal to the targets, or for vectors R1 with each image looked for among all others; None
            without targets.
        accuracy_onnx: the lowest such share of the file, over the batch sizes.
        failures: what differs, a sentence each; empty where the file passes.
        notes: what else there is to know, such as that ``onnx.reference`` cannot run the file, a sentence each.
    """

    path: str
    images: int
    tolerance: float
    rows: tuple[ParityRow, ...]
    accuracy_keras: float | None
    accuracy_onnx: float | None
    failures: tuple[str, ...]
    notes: tuple[str, ...] = ()
    relative: float = 0.0

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
        """The rows as aligned text, with a heading."""
        head = f"{'output':<16}{'batch':>6}  {'graph':<15}{'max |Δ|':>10}{'relative':>10}{'same answer':>13}"
        lines = [
            f"{row.output:<16}{row.batch_size:>6}  {row.evaluator:<15}{row.max_absolute:>10.1e}"
            f"{row.max_relative:>10.1e}" + ("" if row.agreement is None else f"{row.agreement:>13.4%}")
            for row in self.rows
        ]
        return "\n".join([head, *lines, *self.notes])

    def histograms(self) -> dict[str, tuple[int, ...]]:
        """How many values of each output differ by how much, over the whole of `images` (see `ParityRow.histogram`)."""
        return {row.output: row.histogram for row in self.rows if row.evaluator == "as written" and row.histogram}

    def for_contract(self) -> Parity:
        """The part of the report that is written into the file's contract."""
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


class GateOptions(TypedDict, total=False):
    """Options of `check_parity`, which explains them; the defaults are `GATE_DEFAULTS`."""

    targets: np.ndarray | None
    accuracy: float | None
    answer: str | None
    labels: Sequence[str] | None
    tolerance: float
    relative: float
    batch_sizes: Sequence[int]
    reference_images: int
    predictions: Mapping[str, np.ndarray] | None
    contract: Contract | None
    provider: Provider


#: Options of the gate that are not given.
GATE_DEFAULTS: GateOptions = {
    "targets": None,
    "accuracy": None,
    "answer": None,
    "labels": None,
    "tolerance": 1e-4,
    "relative": 1e-5,
    "batch_sizes": (1, 7, 64),
    "reference_images": 4,
    "predictions": None,
    "contract": None,
    "provider": "cpu",
}


def check_parity(model: keras.Model, path: str | Path, images: Images, **options: Unpack[GateOptions]) -> ParityReport:
    """Compare a file with the Keras model it was made from: every output, on every image, at several batch sizes.

    What the file must answer is computed from the outputs of the untouched model by NumPy; that the serving graph, which was
    converted, answers so as well is checked on a few images. onnxruntime runs the graph as optimized by it at each batch size, and
    once as written, at the largest; the first images at more batch sizes, and black, white, inverted and random ones; small images
    are also run through ``onnx.reference``, which shares no code with it. A file for images of any size gets some of other sizes,
    also above every size in the graph. Where the outputs hardly vary over the images they prove little: then the file is compared
    with a fresh conversion, weight by weight, and the conversion of the model with disturbed weights with that model.

    Args:
        model: what was given to `export_model`.
        path: the file, with its contract.
        images: uint8 (N, height, width, channels), best the whole test split; for a file of float32 input also float32, as the
            model takes them.
        **options: with their defaults:

            ================ ========== ============================================================================================
            option           default    meaning
            ================ ========== ============================================================================================
            targets          None       the true classes, for the accuracy of both: int (N,) or the shape of the answers, with or
                                        without a last axis of 1, or one-hot; of labels that do not exclude each other 0 and 1 for
                                        each; of vectors: identities
            accuracy         None       share of right answers (of vectors: R1, every image looked for among all others) that Keras
                                        gave on these images with these weights before, such as that in a run's metrics.json
            answer           None       output whose argmax over the last axis is the answer; None: ``logits``, else
                                        ``probabilities``, else none
            labels           None       names of the model's classes, which the file must have in the same order; None: not compared
            tolerance        1e-4       largest absolute difference allowed in any value of any output …
            relative         1e-05      added to it: this times the largest absolute value that Keras gives for the output
            batch_sizes      (1, 7, 64) images a call
            reference_images 4          images that ``onnx.reference`` is given; fewer where it takes long, none beyond 64×64 pixels
            predictions      None       what Keras gives for `images`, (N, …) by output, where that is known: it is then not run
                                        again for all of them. ``probabilities`` may be left out beside ``logits``
            contract         None       what the file's contract must state of the model, its data and metrics; None: not compared
            provider         cpu        where the file runs: ``"cpu"`` or ``"cuda"``, whose TensorFloat-32 keeps about three digits
            ================ ========== ============================================================================================

    Raises:
        InputError: images of another type or shape than the file takes, targets that do not fit the answers, or a file that is not
            one of ours.
        ParityError: a value differs by more than the tolerances or is NaN, an output or a statement of the contract is missing or
            another, probabilities are not between 0 and 1 or, of a softmax, do not sum to 1, a label differs, fewer than
            99.99 % of the answers (of vectors: 99.9 % of the rank lists) agree, a value of an output of classes differs where the
            two best scores are more than twice `tolerance` apart, the accuracies differ by more than 0.01 points (of vectors: R1
            at all), or Keras's accuracy is not the `accuracy` given: it differs by more than one answer and by more than 0.1 points,
            which no arithmetic of other hardware explains, so images, targets or weights are others.
        ProviderError: the provider is not available.
        TypeError: an option of another name.
    """
    file = OnnxModel(path, provider=options.get("provider", "cpu"))
    report = _Gate(model, file, images, options).compare(path)
    if not report.ok:
        raise ParityError(report)
    return report


def export_validated(
    model: keras.Model,
    path: str | Path,
    images: Images,
    *,
    gate: GateOptions | None = None,
    rejected: str | Path | None = None,
    **options: Unpack[ExportOptions],
) -> ParityReport:
    """`export_model`, `check_parity` and `certify` in one: only a file that passes gets to `path`.

    The model is converted once and the file opened once. Nothing is looked up: `versions` and `commit` of the contract are empty
    where they are not given.

    Args:
        model: as `export_model` takes it.
        path: the file; one that is there is replaced once the new one has passed.
        images: as `check_parity` takes them.
        gate: options of `check_parity`.
        rejected: where a file that fails is kept; None: it is not.
        options: those of `export_model`.

    Raises:
        ParityError: the file does not give the answers of the Keras model; whatever is at `path` stays.
        InputError, ExportError, WriteError: as `export_model` and `check_parity`.
    """
    path = Path(path)
    with staged(path) as candidate:
        with Wait("converting to ONNX"):
            contract = write_converted(model, candidate, **options)
        check_valid(candidate)
        provider = (gate or {}).get("provider", "cpu")
        file = OnnxModel(candidate, opened=(open_session(candidate, provider=provider, arena=False), contract))
        report = _Gate(model, file, images, gate or {}).compare(path if rejected is None else rejected)
        if not report.ok:
            if rejected is not None:
                replace_model(candidate, Path(rejected))
            raise ParityError(report)
        del file
        report = dataclasses.replace(report, path=str(path))
        rewrite_contract(candidate, dataclasses.replace(contract, parity=report.for_contract()))
        replace_model(candidate, path)
    return report


def certify(path: str | Path, report: ParityReport) -> None:
    """Write into a file's contract what was validated.

    Raises:
        ParityError: the report has failures.
        WriteError: the file cannot be written.
    """
    if not report.ok:
        raise ParityError(report)
    path = Path(path)
    rewrite_contract(path, dataclasses.replace(read_contract(path), parity=report.for_contract()))


class _Gate:
    """One comparison of a file with Keras.

    Args:
        model: the Keras model.
        file: the open file, which stays as it is.
        images: as in `check_parity`.
        options: options of `check_parity`, by name.

    Raises:
        InputError: images of another type or shape than the file takes.
        TypeError: an option of another name.
    """

    def __init__(self, model: keras.Model, file: OnnxModel, images: Images, options: GateOptions) -> None:
        if unknown := options.keys() - GATE_DEFAULTS.keys():
            raise TypeError(f"check_parity has no options {', '.join(sorted(unknown))}; it has {', '.join(GATE_DEFAULTS)}")
        given: GateOptions = {**GATE_DEFAULTS, **options}
        contract = file.contract
        self.file, self.contract, self.images = file, contract, images
        self.labels, self.reference_images, self.expected = given["labels"], given["reference_images"], given["contract"]
        self.tolerances = Tolerances(given["tolerance"], given["relative"])
        self.predictions, self.accuracy, self.provider = given["predictions"], given["accuracy"], given["provider"]
        _check_images(images, contract.input)
        self.model = UntouchedModel(model, contract)
        self.serving = serving_graph(model, task=contract.task, input_dtype=model.inputs[0].dtype, steps=contract.preprocessing)
        self.answer = given["answer"]
        self.ranked = contract.task == "embed"  # a vector's largest value is no answer
        if self.ranked:
            self.answer = None
        elif self.answer is None:
            scores = contract.output("logits") or contract.output("probabilities")
            self.answer = scores.name if scores else None
        found = next((one for one in contract.outputs if one.name == self.answer), None)
        self.many_labels = found is not None and found.activation == "sigmoid"
        self.targets = None
        if given["targets"] is not None:
            self.targets = check_targets(given["targets"], len(images), found, many_labels=self.many_labels)
        sizes = given["batch_sizes"]
        self.variants: list[Variant] = [(size, "optimized") for size in sizes]
        self.variants.append((max(sizes), "as written"))
        self.failures: list[str] = []
        self.notes: list[str] = []
        #: smallest and largest value of each output at each place, over the images
        self.bounds: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        #: number of right answers of Keras (None) and of each variant
        self.right: Counter[Variant | None] = Counter()
        #: vectors of all images, of Keras (None) and of each variant
        self.vectors: dict[Variant | None, list[np.ndarray]] = {}

    def compare(self, path: str | Path) -> ParityReport:
        """Run Keras and the file on all images, and judge the differences; `path`: name of the file in the report."""
        plain = open_session(self.file.path, provider=self.provider, optimize=False, screened=True, arena=False)
        as_written = OnnxModel(self.file.path, opened=(plain, self.contract))
        tallies: Tallies = {}
        self._compare_labels()
        self._compare_contract()
        files = {"optimized": self.file, "as written": as_written}
        self._compare_images(tallies, files)
        self._compare_few(tallies, files["optimized"])
        self._compare_with_reference_evaluator(tallies)
        rows = []
        for (name, variant), tally in tallies.items():
            row, count = tally.row(name, *variant), tally.count
            if name == "embedding" and variant in self.vectors:
                row = dataclasses.replace(row, agreement=equal_lists(self._vectors(None), self._vectors(variant)))
                count = len(self.images)
            rows.append(row)
            self.failures += _judge(row, self.tolerances, MIN_EQUAL if self.ranked else MIN_AGREEMENT, count)
        self._compare_other_sizes(as_written)
        self._compare_conversion(tuple(rows))
        accuracies = self._compare_accuracy()
        failures = tuple(dict.fromkeys(self.failures))
        absolute, relative = dataclasses.astuple(self.tolerances)
        return ParityReport(
            str(path), len(self.images), absolute, tuple(rows), *accuracies, failures, tuple(self.notes), relative
        )

    def _compare_labels(self) -> None:
        theirs, ours = self.contract.labels, self.labels
        if ours is not None and len(theirs) != len(ours):
            self.failures.append(f"the file has {len(theirs)} labels, the model {len(ours)} classes")
        elif ours is not None:
            for number, (their, our) in enumerate(zip(theirs, ours, strict=True)):
                if their != our:
                    self.failures.append(f"class {number} is called {their!r} in the file and is {our!r}")
                    break

    def _compare_images(self, tallies: Tallies, files: Mapping[str, OnnxModel]) -> None:
        """Run every image through every variant, a chunk at a time; `files`: the open file by evaluator."""
        total = len(self.images)
        with Wait("validating the file", total * len(self.variants)) as wait:
            for start in range(0, total, CHUNK):
                part = slice(start, start + CHUNK)
                images = self.images[part]
                reference = self._keras_outputs(images, part)
                self._check_meanings(reference)
                self._widen_bounds(reference)
                self._count(None, reference, part)
                for batch_size, evaluator in self.variants:
                    outputs = files[evaluator].run(images, batch_size=batch_size)
                    self._tally(tallies, reference, outputs, (batch_size, evaluator))
                    self._count((batch_size, evaluator), outputs, part)
                    wait.advance(len(images))
                    wait.note = f"{min(start + CHUNK, total):,} of {total:,} images"

    def _keras_outputs(self, images: np.ndarray, part: slice | None = None) -> dict[str, np.ndarray]:
        """Keras's outputs; `part`: which of all images these are, for those that are known."""
        if part is not None and self.predictions is not None:
            outputs = {name: values[part] for name, values in self.predictions.items()}
            if "logits" in outputs and "probabilities" not in outputs and "probabilities" in self.serving.output:
                outputs["probabilities"] = keras.ops.convert_to_numpy(keras.ops.softmax(outputs["logits"]))
            if set(outputs) == set(self.serving.output):
                return outputs
        return self.model.outputs(images)

    def _tally(
        self, tallies: Tallies, reference: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray], variant: Variant
    ) -> None:
        """Add the differences of a chunk to `tallies`."""
        for name in reference.keys() - outputs.keys():
            self.failures.append(f"output {name!r} of the Keras model is missing in the file")
        for output in self.contract.outputs:
            if output.name not in reference:
                self.failures.append(f"output {output.name!r} of the file is none of the Keras model's: {sorted(reference)}")
                continue
            kind: Answers = "argmax" if output.name == self.answer else None
            if output.meaning in ("classes", "picture"):
                kind = output.meaning
            tally = tallies.setdefault((output.name, variant), _Tally(kind))
            tally.add(reference[output.name], outputs[output.name], reference.get(str(self.answer)))

    def _count(self, variant: Variant | None, outputs: Mapping[str, np.ndarray], part: slice) -> None:
        """Count right answers, or keep the vectors."""
        if self.ranked and "embedding" in outputs:
            self.vectors.setdefault(variant, []).append(outputs["embedding"])
        elif self.targets is not None and self.answer is not None and self.answer in outputs:
            scores = outputs[self.answer]
            answers = scores >= 0.5 if self.many_labels else scores.argmax(axis=-1)
            self.right[variant] += int((answers == self.targets[part]).sum())

    def _vectors(self, variant: Variant | None) -> np.ndarray:
        return np.concatenate(self.vectors[variant])

    def _compare_accuracy(self) -> tuple[float | None, float | None]:
        """Accuracy, or R1, of Keras and the lowest of the variants."""
        if self.targets is None:
            return None, None
        if self.ranked:
            rates = {variant: first_rate(self._vectors(variant), self.targets) for variant in self.vectors}
            word, most = "R1", 0.0
        else:
            rates = {variant: self.right[variant] / self.targets.size for variant in self.right}
            word, most = "the accuracy", MAX_ACCURACY_DIFFERENCE
        ours = rates.get(None)
        theirs = {variant: rate or 0.0 for variant, rate in rates.items() if variant is not None}
        if ours is None or not theirs:
            return None, None
        if self.accuracy is not None and abs(ours - self.accuracy) > max(MAX_CHANGE, 1 / self.targets.size) + 1e-9:
            self.failures.append(
                f"{word} of Keras is {ours:.6g} and was {self.accuracy:.6g} when it was measured: the images, their targets or the "
                "weights are not those of that time"
            )
        worst, rate = max(theirs.items(), key=lambda item: abs(item[1] - ours))
        if abs(rate - ours) > most:
            self.failures.append(f"{word} is {ours:.6g} with Keras and {rate:.6g} with the file ({_in_words(*worst)})")
        return ours, min(theirs.values())

    def _compare_with_reference_evaluator(self, tallies: Tallies) -> None:
        """Run a few images through ONNX's own evaluator, one by one, for `REFERENCE_SECONDS` at most."""
        images = self.images[: self.reference_images]
        if not len(images) or np.prod(images.shape[1:3]) > REFERENCE_PIXELS:
            return
        names = [output.name for output in self.contract.outputs]
        started = time.monotonic()
        for i in track(range(len(images)), "validating in onnx.reference"):
            part = slice(i, i + 1)
            try:
                evaluator = ReferenceEvaluator(onnx.load(self.file.path))
                values = evaluator.run(None, {self.contract.input.name: self.file.feed(images[part])})
            except Exception as error:  # it implements less than the standard, and fails in any way
                reason = (str(error).splitlines() or [""])[0][:200]
                self.notes.append(f"onnx.reference cannot run the file: {type(error).__name__}: {reason}")
                return
            outputs = dict(zip(names, values, strict=True))
            self._tally(tallies, self._keras_outputs(images[part], part), outputs, (1, "onnx.reference"))
            if time.monotonic() - started > REFERENCE_SECONDS:
                break

    def _compare_few(self, tallies: Tallies, file: OnnxModel) -> None:
        """Run the first images at more batch sizes, the serving graph on some, and images that no camera takes."""
        few, part = self.images[:FEW], slice(0, FEW)
        reference = self._keras_outputs(few, part)
        for size in MORE_BATCHES:
            if (size, "optimized") not in self.variants and (size < len(few) or size == min(MORE_BATCHES)):
                self._tally(tallies, reference, file.run(few, batch_size=size), (size, "optimized"))
        first = {name: values[:CUT_IMAGES] for name, values in reference.items()}
        self._judge_apart("the serving graph", self._serving_outputs(few[:CUT_IMAGES]), first)
        if few.dtype == np.uint8:
            noise = np.random.default_rng(0).integers(0, 256, few[:1].shape, np.uint8)
            made = np.concatenate([np.zeros_like(noise), np.full_like(noise, 255), 255 - few[:1], noise])
            self._judge_apart("black, white, inverted and random images", file.run(made), self.model.outputs(made))

    def _compare_other_sizes(self, file: OnnxModel) -> None:
        """Compare a file of any input size on images cut by `CUTS`, and repeated to more than any size in the graph.

        `file`: open without optimizations.
        """
        if self.contract.input.height is not None:
            return
        height, width = self.images.shape[1:3]
        sizes = [(max(height - rows, 1), max(width - columns, 1)) for rows, columns in CUTS]
        if above := _size_in_graph(onnx.load(self.file.path, load_external_data=False), max(height, width)):
            sizes.append((above + 3, above + 5))
        for rows, columns in sizes:
            more = ((0, 0), (0, max(rows - height, 0)), (0, max(columns - width, 0)), (0, 0))
            count = CUT_IMAGES if (rows, columns) <= (height, width) else 1
            images = np.pad(self.images[:count, :rows, :columns], more, mode="wrap")
            reference = self.model.outputs(images, eagerly=True)  # each size would be a tracing of its own
            self._judge_apart(f"images of {rows}×{columns}", file.run(images), reference)

    def _judge_apart(self, what: str, outputs: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray]) -> None:
        """Compare outputs that have no row of their own in the report."""
        tallies: Tallies = {}
        self._tally(tallies, reference, outputs, (len(next(iter(reference.values()))), "as written"))
        for (name, variant), tally in tallies.items():
            failures = _judge(tally.row(name, *variant), self.tolerances, 0.0, tally.count)
            self.failures += [f"{what}, {failure}" for failure in failures]

    def _serving_outputs(self, images: np.ndarray) -> dict[str, np.ndarray]:
        values = images if images.dtype == self.serving.inputs[0].dtype else preprocess(images, self.contract.preprocessing)
        outputs = self.serving(values, training=False)
        return {name: keras.ops.convert_to_numpy(value) for name, value in outputs.items()}

    def _check_meanings(self, reference: Mapping[str, np.ndarray]) -> None:
        """Whether probabilities are some, on every image."""
        for output in self.contract.outputs:
            values = reference.get(output.name)
            if output.meaning != "probabilities" or values is None:
                continue
            if not ((values >= -SUM) & (values <= 1 + SUM)).all():
                self.failures.append(f"output {output.name!r} is not between 0 and 1, so its values are no probabilities")
            elif output.activation == "softmax" and not sums_to_one(values):
                self.failures.append(f"output {output.name!r} does not sum to 1, so it is not what a softmax gives")

    def _widen_bounds(self, reference: Mapping[str, np.ndarray]) -> None:
        for name, values in reference.items():
            low, high = values.min(axis=0), values.max(axis=0)
            if name in self.bounds and low.shape == self.bounds[name][0].shape:
                low, high = np.minimum(low, self.bounds[name][0]), np.maximum(high, self.bounds[name][1])
            self.bounds[name] = (low, high)

    def _compare_contract(self) -> None:
        if self.expected is not None:
            self.failures += contract_differences(self.contract, self.expected)

    def _compare_conversion(self, rows: Sequence[ParityRow]) -> None:
        """Where the outputs hardly vary over several images, compare weights and a copy with disturbed ones instead."""
        if len(self.images) < 2 or self.contract.precision is not None:
            return
        for row in rows:
            low, high = self.bounds.get(row.output, (np.zeros(1), np.ones(1)))
            if not row.exact or low.dtype.kind != "f":
                continue
            spread = float((high - low).max())
            if spread < BLIND * self.tolerances.at(row.scale):
                self.notes.append(
                    f"output {row.output!r} varies by {spread:.2g} over the images, which proves little: the weights were compared "
                    "with a fresh conversion's, and a copy with disturbed weights was converted and compared"
                )
                self.failures += self.model.check_conversion(self.file, self.images[:FEW], self.tolerances)
                return


def _check_images(images: Images, spec: Input) -> None:
    wanted = (spec.height, spec.width, spec.channels)
    if not hasattr(images, "ndim"):
        raise InputError(
            f"check_parity takes images as one array (N, height, width, channels); received {type(images).__name__}"
        )
    fits = images.ndim == 4 and all(size in (None, n) for n, size in zip(images.shape[1:], wanted, strict=True))
    if images.dtype not in (np.uint8, spec.dtype) or not fits or not math.prod(images.shape):
        dtypes = " or ".join(dict.fromkeys(("uint8", spec.dtype)))
        shape = ", ".join("any" if size is None else str(size) for size in wanted)
        raise InputError(
            f"check_parity takes {dtypes} images (N, {shape}), one or more; received {images.dtype} {images.shape}"
        )


class _Tally:
    """Differences of one output, summed over chunks.

    Args:
        answers: what must agree, besides the values.

    Attributes:
        largest: largest absolute difference.
        scale: largest absolute value of Keras.
        same: number of answers that agree, of `count`.
        margin: see `ParityRow`; it stays 0 unless `answers` is ``"classes"``.
        histogram: see `ParityRow`.
    """

    def __init__(self, answers: Answers) -> None:
        self.answers = answers
        self.largest, self.scale, self.same, self.count = 0.0, 0.0, 0, 0
        self.margin = 0.0
        self.histogram = np.zeros(len(DECADES) + 2, np.int64)

    def add(self, reference: np.ndarray, outputs: np.ndarray, scores: np.ndarray | None) -> None:
        """Add a chunk; `scores`: what Keras's classes are the argmax of, where that is an output as well."""
        if reference.shape != outputs.shape:
            self.largest, self.count = np.inf, self.count + len(reference)
            return
        # Neither NaN nor infinity may pass as "no difference": a NaN here fails every comparison in _judge.
        difference = np.abs(reference.astype(np.float64) - outputs.astype(np.float64))
        self.largest = float(np.maximum(self.largest, difference.max()))
        self.scale = float(np.maximum(self.scale, np.abs(reference).max()))
        bins = np.where(difference == 0, 0, 1 + np.digitize(difference, DECADES))  # NaN is beyond all bounds: the last bin
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
        """The row of the report: differences, agreement, margin and histogram."""
        relative = self.largest / self.scale if self.scale else (0.0 if np.isfinite(self.largest) else np.inf)
        agreement = self.same / self.count if self.answers else None
        exact = self.answers in (None, "argmax")
        histogram = tuple(self.histogram.tolist()) if self.histogram.any() else ()
        return ParityRow(
            output, batch_size, evaluator, self.largest, relative, agreement, exact, self.margin, histogram, self.scale
        )


#: A tally for each output and variant.
Tallies: TypeAlias = dict[tuple[str, Variant], _Tally]


def _in_words(batch_size: int, evaluator: Evaluator) -> str:
    return f"batch size {batch_size}, " + (evaluator if evaluator == "onnx.reference" else f"graph {evaluator}")


def _size_in_graph(model: onnx.ModelProto, least: int) -> int:
    """The largest number of up to `LARGEST` in the short integer constants of a graph, if it is above `least`; else 0."""
    found = 0
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.INT64 and math.prod(tensor.dims) <= 8:
            numbers = np.abs(onnx.numpy_helper.to_array(tensor).ravel())
            found = max([found, *numbers[numbers <= LARGEST].tolist()])
    return int(found) if found > least else 0


def _judge(row: ParityRow, tolerances: Tolerances, least: float, count: int) -> list[str]:
    """Reasons to reject a file for one of its outputs, a sentence each.

    Args:
        row: the comparison.
        tolerances: of differences.
        least: smallest agreement.
        count: number of predictions that the agreement is the share of.
    """
    where = f"output {row.output!r}, {_in_words(row.batch_size, row.evaluator)}"
    failures = []
    if row.exact and not row.max_absolute <= tolerances.at(row.scale):
        failures.append(f"{where}: differs by {row.max_absolute:.3g}, more than {tolerances.in_words(row.scale)}")
    if not row.margin <= 2 * tolerances.absolute:
        failures.append(f"{where}: another class where the best score of Keras leads by {row.margin:.3g}, which is no tie")
    if row.agreement is not None and row.agreement < least:
        same, what = round(row.agreement * count), "rank lists" if row.output == "embedding" else "predictions"
        failures.append(f"{where}: {same:,} of {count:,} {what} agree ({row.agreement:.4%}); at least {least:.2%} are required")
    return failures
