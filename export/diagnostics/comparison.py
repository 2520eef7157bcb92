"""A file against its Keras model: every hypothesis tested, alone and in pairs, then the layers, then the resizing."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from export.diagnostics.hypotheses import Hypothesis, Outputs, output_hypotheses, pixel_hypotheses
from export.diagnostics.layerwise import IMAGES, first_difference
from export.diagnostics.report import Agreement, Defect, Diagnosis, LayerDifference
from export.diagnostics.runners import BATCH, BrokenFileError, KerasReference, RawGraph, resize_images, to_pillow
from kerascv_course.core.images import Filter, resize_image
from kerascv_course.core.progress import track

__all__ = ["Comparison", "find_resize_defects"]

#: Images that hypotheses are tested on; the result is confirmed on all.
SEARCH = BATCH

#: Rounding of large outputs, relative to the largest value.
ROUNDING = 2e-5

#: Outputs with a score a class.
SCORES = ("logits", "probabilities")

#: A change that does not explain everything is reported, and made before layers are compared, if it reduces the mean difference to
#: this share.
CLEARLY_LESS = 0.2

#: Images a call at which a file must give the answers that it gives for each image alone.
SIZES = (2, 3, 7, 8, 16, 32, 64)

#: What rounding to 8 or 16 bits may do: share of equal answers, and mean difference relative to the largest value.
ROUNDED_AGREEMENT, ROUNDED_MEAN = 0.95, 0.05

#: Images of other sizes that ways to resize are tested on.
RESIZED = 64

FILTERS: tuple[Filter, ...] = ("nearest", "bilinear", "bicubic", "lanczos")


@dataclasses.dataclass(frozen=True)
class HypothesisTest:
    """Some hypotheses assumed together, and the agreement then."""

    hypotheses: tuple[Hypothesis, ...]
    agreement: Agreement
    mean_difference: float
    equal: bool

    @property
    def rank(self) -> tuple[bool, int, float]:
        """Best first: those that explain everything, by the fewest changes, by the smallest difference."""
        return not self.equal, len(self.hypotheses) if self.equal else 0, self.mean_difference


class Comparison:
    """A file against its Keras model.

    Args:
        graph: the file.
        reference: the model.
        pixels: uint8 (N, height, width, channels), fed to both.
        targets: int, or None.
        tolerance: largest difference that counts as equal.

    Attributes:
        paired: the file's outputs by the reference's names.
    """

    def __init__(
        self, graph: RawGraph, reference: KerasReference, pixels: np.ndarray, targets: np.ndarray | None, tolerance: float
    ) -> None:
        self.graph, self.reference, self.pixels, self.targets, self.tolerance = graph, reference, pixels, targets, tolerance
        self._fed: dict[Any, dict[str, np.ndarray] | None] = {}
        self._answers: dict[Any, dict[str, np.ndarray]] = {}
        theirs, ours = list(reference.outputs), graph.outputs
        if set(theirs) & set(ours) or len(theirs) != len(ours):
            self.paired = {name: name for name in theirs if name in ours}
        else:
            self.paired = dict(zip(theirs, ours, strict=True))

    def diagnose(self, findings: Sequence[Defect]) -> Diagnosis:
        """Test everything, simplest explanation first; `findings` are those made before."""
        findings = [*findings, *self._missing_outputs()]
        before = self.test((), search=False)
        result = Diagnosis(str(self.graph.path), len(self.pixels), tuple(findings), self.tolerance, before.agreement)
        if not self.paired:
            return result
        depends = self._depends_on_batch()
        if depends is not None and depends.kind == "batch":
            # what is compared in batches that the file answers wrongly says nothing: this comes first
            return dataclasses.replace(result, findings=(*findings, depends))
        if before.equal and depends is None:
            return result
        best = self._search()
        explains = best is not None and best.equal
        if depends is not None and not explains:
            findings.append(depends)
        changes: tuple[Hypothesis, ...] = ()
        if best is not None and (explains or self._clearly_helps(best)):
            changes = best.hypotheses
            after = self.test(changes, search=False).agreement
            findings += [self._defect(one, before.agreement, after, changes) for one in changes]
            result = dataclasses.replace(result, after=after)
        if explains:
            return dataclasses.replace(result, findings=tuple(findings))
        layer = None if self.graph.precision else self._first_different_layer(changes)
        if layer is not None:
            remedy = "export the model again; if a new file differs in the same place, the converter has changed this layer"
            findings.append(Defect("layer", f"layer {layer.layer!r} computes something else", str(layer), remedy))
        elif not before.equal and not changes:
            why = (
                f"more than rounding to {self.graph.precision} explains"
                if self.graph.precision
                else "no layer with a tensor of its own in the file differs"
            )
            remedy = "quantize the float32 file again" if self.graph.precision else "export it again"
            evidence = f"as it is: {before.agreement}; {why}"
            findings.append(Defect("unexplained", "the answers differ and no hypothesis explains it", evidence, remedy))
        return dataclasses.replace(result, findings=tuple(findings), layer=layer)

    def _missing_outputs(self) -> Iterator[Defect]:
        missing = [name for name in self.reference.outputs if name not in self.paired]
        if missing:
            evidence = f"the Keras model has {list(self.reference.outputs)}, the file {self.graph.outputs}"
            yield Defect("outputs", f"the output {missing[0]!r} is missing", evidence, "export it again with all outputs")

    # --- tests ---

    def test(self, hypotheses: tuple[Hypothesis, ...], *, search: bool = True) -> HypothesisTest:
        """Assume some hypotheses together and compare, on `SEARCH` images or on all."""
        pixels = self.pixels[:SEARCH] if search else self.pixels
        way = next((one.reference for one in hypotheses if one.reference), None)
        reference = self._reference_outputs(pixels, way)
        outputs = self._file_outputs(pixels, hypotheses)
        if outputs is None:
            return HypothesisTest(hypotheses, Agreement(0.0, math.inf), math.inf, False)
        for one in hypotheses:
            if one.outputs:
                outputs = one.outputs(outputs, reference)
        targets = None if self.targets is None else self.targets[: len(pixels)]
        return dataclasses.replace(self.compare(outputs, reference, targets), hypotheses=hypotheses)

    def _reference_outputs(self, pixels: np.ndarray, way: str | None) -> dict[str, np.ndarray]:
        key = (len(pixels), way)
        if key not in self._answers:
            self._answers[key] = self.reference.run(pixels, way)
        return self._answers[key]

    def _file_outputs(self, pixels: np.ndarray, hypotheses: tuple[Hypothesis, ...]) -> dict[str, np.ndarray] | None:
        """Outputs by the reference's names; None where the file cannot run on the changed pixels."""
        changes = tuple(one for one in hypotheses if one.pixels)
        key = (len(pixels), changes)
        if key not in self._fed:
            try:
                outputs = self.graph.run(_change_pixels(pixels, changes))
                self._fed[key] = self.by_reference(outputs)
            except BrokenFileError:
                self._fed[key] = None
        return self._fed[key]

    def compare(self, outputs: Outputs, reference: Outputs, targets: np.ndarray | None) -> HypothesisTest:
        """Differences and agreement of outputs by the reference's names."""
        worst = mean = 0.0
        equal = True
        for name in self.paired:
            ours, theirs = outputs[name], reference[name]
            if ours.shape != theirs.shape:
                return HypothesisTest((), Agreement(0.0, math.inf), math.inf, False)
            if theirs.dtype.kind != "f":
                continue
            difference = _difference(ours, theirs)
            largest, scale = float(difference.max(initial=0)), max(float(np.abs(theirs).max(initial=0)), 1e-12)
            worst = max(worst, largest)
            mean += float(difference.mean()) / scale
            equal = equal and largest <= max(self.tolerance, ROUNDING * scale)
        answer = next((name for name in SCORES if name in self.paired), None)
        accuracy = None
        if answer is None:
            name = next(iter(self.paired))
            near = _difference(outputs[name], reference[name]) <= self.tolerance
            agreement = float(near.reshape(len(near), -1).all(axis=1).mean())
        else:
            answers = outputs[answer].argmax(axis=-1)
            agreement = float((answers == reference[answer].argmax(axis=-1)).mean())
            if targets is not None and targets.shape == answers.shape:
                accuracy = float((answers == targets).mean())
        if self.graph.precision and mean <= ROUNDED_MEAN * len(self.paired):
            equal = equal or answer is None or agreement >= ROUNDED_AGREEMENT
        return HypothesisTest((), Agreement(agreement, worst, accuracy), mean, equal)

    def _search(self) -> HypothesisTest | None:
        """The best single hypothesis or, where none explains everything, the best pair."""
        normalization = self.reference.normalization()
        wanted = {"the model's own normalization": normalization} if normalization else {}
        stated = self.graph.contract.preprocessing if self.graph.contract else None
        scores = [name for name in SCORES if name in self.paired]
        hypotheses = pixel_hypotheses(self.pixels.shape[1:], wanted, stated)
        hypotheses += output_hypotheses(scores, batch_norm=self.reference.has_batch_norm)
        tested = [self.test((one,)) for one in track(hypotheses, "testing explanations", "explanations")]
        singles = sorted(tested, key=lambda test: test.rank)
        if not singles or singles[0].equal:
            return singles[0] if singles else None
        best = singles[0]
        pairs = [
            (first, second)
            for i, first in enumerate(hypotheses)
            for j, second in enumerate(hypotheses)
            # the order matters only where both change the pixels
            if first.kind != second.kind and (i < j or (first.pixels and second.pixels))
        ]
        for pair in track(pairs, "testing pairs of explanations", "pairs"):
            test = self.test(pair)
            if test.equal:
                return test
            best = min(best, test, key=lambda test: test.rank)
        # one change is the simpler explanation unless two explain much more
        return best if best.mean_difference < CLEARLY_LESS * singles[0].mean_difference else singles[0]

    def _clearly_helps(self, test: HypothesisTest) -> bool:
        return test.mean_difference < CLEARLY_LESS * self.test(()).mean_difference

    def _depends_on_batch(self) -> Defect | None:
        """Whether an answer depends on the size of its batch or on the other images in it, which no network for inference does."""
        if self.graph.batch is not None:
            return None  # a fixed size: there is no other batch
        images = self.pixels[: max(SIZES)]
        wrong: dict[int, float] = {}
        try:
            answers = [self.graph.run(images[i : i + 1]) for i in range(len(images))]
            for size in SIZES:
                places = np.arange(size) % len(images)
                together = self.graph.run(images[places])
                alone = {name: np.concatenate([answers[place][name] for place in places]) for name in self.graph.outputs}
                test = self.compare(self.by_reference(together), self.by_reference(alone), None)
                if not test.equal:
                    wrong[size] = test.agreement.max_absolute
        except BrokenFileError as error:
            return Defect("batch", "the file does not accept every batch size", str(error), "export it with an open batch axis")
        if not wrong:
            return None
        differences = ", ".join(f"{count}: the answers differ by {difference:.3g}" for count, difference in wrong.items())
        evidence, values = f"the same images alone and in batches of {differences}", {"change": max(wrong.values())}
        if len(wrong) < len(SIZES):
            right = ", ".join(str(count) for count in (1, *SIZES) if count not in wrong)
            name = f"the file answers wrongly in batches of {', '.join(map(str, wrong))}"
            remedy = "a size of the batch is built into the graph: export it again with an open batch axis"
            return Defect("batch", name, f"{evidence}; in batches of {right} they do not differ", remedy, values)
        remedy = "batch normalization or dropout runs in training mode: export for inference (training=False)"
        return Defect("batch norm", "answers depend on the other images of the batch", evidence, remedy, values)

    def by_reference(self, outputs: Outputs) -> dict[str, np.ndarray]:
        """Outputs of the file by the reference's names."""
        return {theirs: outputs[ours] for theirs, ours in self.paired.items()}

    def _defect(self, one: Hypothesis, before: Agreement, after: Agreement, changes: Sequence[Hypothesis]) -> Defect:
        evidence = f"as it is: {before}; with {' and '.join(other.change for other in changes)}: {after}"
        values = {"difference_before": before.max_absolute, "difference_after": after.max_absolute}
        values |= {"agreement_before": before.agreement or 0.0, "agreement_after": after.agreement or 0.0}
        return Defect(one.kind, one.name, evidence, one.remedy, values)

    def _first_different_layer(self, changes: tuple[Hypothesis, ...]) -> LayerDifference | None:
        """Compare the layers on the images whose outputs differ most: on others a difference may not show."""
        if any(one.reference for one in changes):
            return None
        outputs, reference = self._file_outputs(self.pixels, changes), self._reference_outputs(self.pixels, None)
        worst = np.zeros(len(self.pixels))
        for name, values in reference.items():
            if outputs is not None and name in outputs and values.dtype.kind == "f" and outputs[name].shape == values.shape:
                worst = np.maximum(worst, _difference(outputs[name], values).reshape(len(worst), -1).max(axis=1))
        few = self.pixels[np.argsort(-worst, kind="stable")[:IMAGES]]
        return first_difference(self.graph, self.reference, _change_pixels(few, changes), few)


def _change_pixels(pixels: np.ndarray, changes: Sequence[Hypothesis]) -> np.ndarray:
    for one in changes:
        pixels = pixels if one.pixels is None else one.pixels(pixels)
    return pixels


def _difference(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Absolute difference, float64; infinite where one of the two is NaN."""
    return np.asarray(np.nan_to_num(np.abs(ours.astype(np.float64) - theirs), nan=np.inf))


# --- resizing ---------------------------------------------------------------------------------------------------------


def find_resize_defects(
    comparison: Comparison, images: np.ndarray | Sequence[np.ndarray], filter: Filter, wanted: Filter | None
) -> list[Defect]:
    """Compare how images of other sizes are resized: by the contract's filter, or inside the graph.

    Args:
        comparison: the file and its model, which agree on images of the model's size.
        images: uint8 (height, width, channels) each.
        filter: filter that the model was trained with, or the contract's.
        wanted: the former, where it is known.
    """
    graph, reference = comparison.graph, comparison.reference
    height, width, channels = reference.shape
    others = [image for image in images if image.shape[:2] != (height, width)][:RESIZED]
    if not others or height is None or width is None:
        return []
    answers = reference.run(resize_images(others, height, width, channels, filter))

    def agreement(outputs: Outputs) -> Agreement:
        return comparison.compare(comparison.by_reference(outputs), answers, None).agreement

    def with_filter(other: Filter) -> Agreement:
        return agreement(graph.run(resize_images(others, height, width, channels, other)))

    remedy = f"export with resize={filter!r}, the filter that the model was trained with"
    if graph.shape[0] is not None:
        stated = graph.contract.input.resize if graph.contract else None
        if wanted is None or stated in (None, wanted):
            return []
        evidence = (
            f"images resized by the contract's filter {stated}: {with_filter(stated)}; by {filter}: {with_filter(filter)}"
        )
        return [Defect("resize", f"the contract resizes by {stated}, the model was trained with {filter}", evidence, remedy)]
    runs = [graph.run(image[None]) for image in others]
    inside = {name: np.concatenate([run[name] for run in runs]) for name in graph.outputs}
    before = agreement(inside)
    distances = {}
    for way, resized in _resize_every_way(others, height, width).items():
        outputs = graph.run(resized)
        distances[way] = max(
            float(np.abs(outputs[name].astype(np.float64) - inside[name]).max())
            for name in graph.outputs
            if inside[name].dtype.kind == "f" and inside[name].shape == outputs[name].shape
        )
    best = min(distances, key=lambda way: distances[way])
    if best.startswith(f"{filter},") or before.max_absolute <= comparison.tolerance:
        return []
    evidence = (
        f"as it is: {before}; it resizes like {best!r} (largest difference to that {distances[best]:.1e}); the model was trained "
        f"with {filter!r}, which gives {with_filter(filter)}"
    )
    return [Defect("resize", "the file resizes in another way than the model was trained with", evidence, remedy, distances)]


#: Position of a result's pixel among those of the source, given their numbers: ONNX's coordinate transformations.
COORDINATES: dict[str, Callable[[np.ndarray, int, int], np.ndarray]] = {
    "half-pixel centers": lambda x, size, wanted: (x + 0.5) * size / wanted - 0.5,
    "asymmetric": lambda x, size, wanted: x * size / wanted,
    "corners aligned": lambda x, size, wanted: x * (size - 1) / max(wanted - 1, 1),
}


def _resize_every_way(images: Sequence[np.ndarray], height: int, width: int) -> dict[str, np.ndarray]:
    """Images resized in every usual way, by its name: float64 (N, height, width, channels) of 0–255."""
    ways: dict[str, list[np.ndarray]] = {}
    for image in images:
        for name, resized in _ways(image, height, width):
            ways.setdefault(name, []).append(resized)
    return {name: np.stack(resized) for name, resized in ways.items()}


def _ways(image: np.ndarray, height: int, width: int) -> Iterator[tuple[str, np.ndarray]]:
    for filter in FILTERS:
        resampling = Image.Resampling[filter.upper()]
        planes = [Image.fromarray(plane.astype(np.float32)) for plane in image.transpose(2, 0, 1)]
        exact = np.stack([np.asarray(plane.resize((width, height), resampling), np.float64) for plane in planes], axis=-1)
        rounded = resize_image(to_pillow(image), height, width, filter)
        yield f"{filter}, antialiased, rounded", np.asarray(rounded, np.float64)
        if filter != "nearest":
            yield f"{filter}, antialiased, not rounded", exact
            yield f"{filter}, antialiased, truncated", np.floor(exact.clip(0, 255))
    for name, coordinate in COORDINATES.items():
        rows, columns = (
            _linear_weights(coordinate(np.arange(wanted), size, wanted), size)
            for size, wanted in zip(image.shape[:2], (height, width), strict=True)
        )
        linear = np.einsum("ij,jkc,lk->ilc", rows, image.astype(np.float64), columns)
        yield f"linear, not antialiased, {name}", linear
        yield f"linear, not antialiased, {name}, rounded", np.rint(linear)
    top, left = (np.arange(wanted) * size // wanted for size, wanted in zip(image.shape[:2], (height, width), strict=True))
    yield "nearest, from the upper left corner", image[top][:, left].astype(np.float64)


def _linear_weights(positions: np.ndarray, size: int) -> np.ndarray:
    """Weights of linear interpolation, (positions, size)."""
    places = np.clip(positions, 0, size - 1)
    low = np.floor(places).astype(int)
    weights = np.zeros((len(places), size))
    rows = np.arange(len(places))
    np.add.at(weights, (rows, low), 1 - (places - low))
    np.add.at(weights, (rows, np.minimum(low + 1, size - 1)), places - low)
    return weights
