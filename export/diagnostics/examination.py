"""A file beside its Keras model: every suspect undone in turn, alone and in pairs, and what that gives."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from export.diagnostics.diagnosis import Diagnosis, Figures, Finding
from export.diagnostics.hypotheses import Outputs, Suspect, output_suspects, pixel_suspects, reference_suspects
from export.diagnostics.layerwise import PICTURES, first_difference
from export.diagnostics.raw_graph import BATCH, BrokenFileError, RawGraph
from export.diagnostics.reference import Reference

__all__ = ["SEARCH", "Examination", "Trial"]

#: Pictures that suspects are tried on; what is found is confirmed on all.
SEARCH = BATCH

#: Rounding of large outputs, as a share of the largest value.
ROUNDING = 2e-5

#: Outputs with a score a class.
SCORES = ("logits", "probabilities")

#: A change that does not explain all is still told, and undone before the layers are compared, when it takes the mean difference to
#: this share.
CLEARLY_LESS = 0.2


@dataclasses.dataclass(frozen=True)
class Trial:
    """A few suspects undone together, and what that gave."""

    suspects: tuple[Suspect, ...]
    figures: Figures
    mean_difference: float
    same: bool

    @property
    def order(self) -> tuple[bool, int, float]:
        """Best first: those that explain all, by the fewest changes, by the least difference."""
        return not self.same, len(self.suspects) if self.same else 0, self.mean_difference


class Examination:
    """A file beside its Keras model."""

    def __init__(
        self, graph: RawGraph, reference: Reference, pixels: np.ndarray, targets: np.ndarray | None, tolerance: float
    ) -> None:
        self.graph, self.reference, self.pixels, self.targets, self.tolerance = graph, reference, pixels, targets, tolerance
        self._fed: dict[Any, dict[str, np.ndarray] | None] = {}
        self._answers: dict[Any, dict[str, np.ndarray]] = {}
        self.renamed = self._pair()

    def _pair(self) -> dict[str, str]:
        """The file's outputs by the reference's names: by name, else by place."""
        theirs = list(self.reference.outputs)
        if set(theirs) & set(self.graph.outputs) or len(theirs) != len(self.graph.outputs):
            return {name: name for name in theirs if name in self.graph.outputs}
        return dict(zip(theirs, self.graph.outputs, strict=True))

    def diagnose(self, findings: list[Finding]) -> Diagnosis:
        """Try everything, simplest first."""
        findings = list(findings)
        missing = [name for name in self.reference.outputs if name not in self.renamed]
        if missing:
            evidence = f"the Keras model has {list(self.reference.outputs)}, the file {self.graph.outputs}"
            findings.append(
                Finding("outputs", f"the output {missing[0]!r} is missing", evidence, "export it again with all outputs")
            )
        path, count = str(self.graph.path), len(self.pixels)
        before = self.trial((), search=False)
        result = Diagnosis(path, count, tuple(findings), self.tolerance, before.figures)
        if not self.renamed:
            return result
        depends = self._depends_on_batch()
        if before.same and depends is None:
            return result
        best = self._search()
        if best is not None and best.same:
            after = self.trial(best.suspects, search=False)
            found = [self._finding(suspect, before.figures, after.figures, best.suspects) for suspect in best.suspects]
            return dataclasses.replace(result, findings=(*findings, *found), after=after.figures)
        if depends is not None:
            findings.append(depends)
        partial = best.suspects if best is not None and self._helps(best) else ()
        if partial:
            after = self.trial(partial, search=False)
            findings += [self._finding(suspect, before.figures, after.figures, partial) for suspect in partial]
            result = dataclasses.replace(result, after=after.figures)
        layer = self._bisect(partial)
        if layer is not None:
            evidence = str(layer)
            remedy = (
                "export the model again; where a fresh file differs in the same place, the converter has changed this layer"
            )
            findings.append(Finding("layer", f"the layer {layer.layer!r} computes something else", evidence, remedy))
        elif not before.same and not partial:
            evidence = f"as it is: {before.figures}; no layer with a tensor of its own in the file differs"
            findings.append(
                Finding("unexplained", "the answers differ and no suspect explains it", evidence, "export it again")
            )
        return dataclasses.replace(result, findings=tuple(findings), layer=layer)

    # --- trials ---

    def trial(self, suspects: tuple[Suspect, ...], *, search: bool = True) -> Trial:
        """Undo some suspects together and compare."""
        pixels = self.pixels[:SEARCH] if search else self.pixels
        way = next((suspect.reference for suspect in suspects if suspect.reference), None)
        reference = self._reference(pixels, way)
        outputs = self._run(pixels, suspects)
        nothing = Trial(suspects, Figures(0.0, math.inf), math.inf, False)
        if outputs is None:
            return nothing
        for suspect in suspects:
            if suspect.outputs:
                outputs = suspect.outputs(outputs, reference)
        return self.compare(suspects, outputs, reference, None if self.targets is None else self.targets[: len(pixels)])

    def _reference(self, pixels: np.ndarray, way: str | None) -> dict[str, np.ndarray]:
        key = (len(pixels), way)
        if key not in self._answers:
            self._answers[key] = self.reference.run(pixels, way)
        return self._answers[key]

    def _run(self, pixels: np.ndarray, suspects: tuple[Suspect, ...]) -> dict[str, np.ndarray] | None:
        changes = tuple(suspect for suspect in suspects if suspect.pixels)
        key = (len(pixels), changes)
        if key not in self._fed:
            try:
                outputs = self.graph.run(self.feed(pixels, changes))
                self._fed[key] = {theirs: outputs[ours] for theirs, ours in self.renamed.items()}
            except BrokenFileError:
                self._fed[key] = None
        return self._fed[key]

    @staticmethod
    def feed(pixels: np.ndarray, suspects: Sequence[Suspect]) -> np.ndarray:
        """What the file is given."""
        values = pixels
        for suspect in suspects:
            values = values if suspect.pixels is None else suspect.pixels(values)
        return values

    def compare(self, suspects: tuple[Suspect, ...], outputs: Outputs, reference: Outputs, targets: np.ndarray | None) -> Trial:
        """Differences and agreement of outputs by the reference's names."""
        worst = mean = 0.0
        same = True
        for name in self.renamed:
            ours, theirs = outputs[name], reference[name]
            if ours.shape != theirs.shape:
                return Trial(suspects, Figures(0.0, math.inf), math.inf, False)
            if theirs.dtype.kind != "f":
                continue
            difference = np.nan_to_num(np.abs(ours.astype(np.float64) - theirs), nan=np.inf)
            scale = max(float(np.abs(theirs).max(initial=0)), 1e-12)
            worst = max(worst, float(difference.max(initial=0)))
            mean += float(difference.mean()) / scale
            same = same and float(difference.max(initial=0)) <= max(self.tolerance, ROUNDING * scale)
        answer = next((name for name in SCORES if name in self.renamed), None)
        if answer is None:
            name = next(iter(self.renamed))
            near = np.abs(outputs[name].astype(np.float64) - reference[name]) <= self.tolerance
            agreement, accuracy = float(near.reshape(len(near), -1).all(axis=1).mean()), None
        else:
            answers = outputs[answer].argmax(axis=-1)
            agreement = float((answers == reference[answer].argmax(axis=-1)).mean())
            fits = targets is not None and targets.shape == answers.shape
            accuracy = float((answers == targets).mean()) if fits else None
        return Trial(suspects, Figures(agreement, worst, accuracy), mean, same)

    def _suspects(self) -> list[Suspect]:
        shape = self.pixels.shape[1:]
        normalisation = self.reference.normalisation()
        wanted = {"the model's own normalisation": normalisation} if normalisation else {}
        contract = self.graph.contract
        scores = [name for name in SCORES if name in self.renamed]
        found = pixel_suspects(shape, wanted, contract.preprocessing if contract else None)
        if scores:
            found += output_suspects(scores, [name for name in scores if name == "probabilities"])
        return found + (reference_suspects() if self.reference.has_batch_norm else [])

    def _search(self) -> Trial | None:
        """The best single suspect or, where none explains all, the best pair."""
        suspects = self._suspects()
        singles = sorted((self.trial((suspect,)) for suspect in suspects), key=lambda trial: trial.order)
        if not singles or singles[0].same:
            return singles[0] if singles else None
        pairs = [
            (first, second)
            for i, first in enumerate(suspects)
            for j, second in enumerate(suspects)
            # the order matters only where both change the pixels
            if first.kind != second.kind and (i < j or (first.pixels and second.pixels))
        ]
        best = singles[0]
        for pair in pairs:
            trial = self.trial(pair)
            if trial.same:
                return trial
            best = min(best, trial, key=lambda trial: trial.order)
        # one change is the simpler story unless two say much more
        return best if best.mean_difference < CLEARLY_LESS * singles[0].mean_difference else singles[0]

    def _helps(self, trial: Trial) -> bool:
        return trial.mean_difference < CLEARLY_LESS * self.trial(()).mean_difference

    def _depends_on_batch(self) -> Finding | None:
        """Whether the answer for a picture changes with its neighbours: no network in inference mode does that."""
        few = self.pixels[: min(8, len(self.pixels))]
        if len(few) < 2:
            return None
        try:
            together = self.graph.run(few)
            alone = [self.graph.run(few[i : i + 1]) for i in range(len(few))]
        except BrokenFileError as error:
            return Finding("batch", "the file does not take batches of every size", str(error), "export with a dynamic batch")
        largest = 0.0
        for name in self.renamed.values():
            single = np.concatenate([outputs[name] for outputs in alone])
            if single.shape != together[name].shape or single.dtype.kind != "f":
                continue
            difference = np.abs(single.astype(np.float64) - together[name])
            largest = max(largest, float(difference.max(initial=0)) / max(1.0, float(np.abs(single).max(initial=0))))
        if largest <= self.tolerance:
            return None
        evidence = f"the same picture alone and among {len(few)} others: the answers differ by {largest:.3g}"
        remedy = "batch normalisation or dropout runs in training mode: export for inference (training=False)"
        return Finding("batch norm", "answers depend on the other pictures of the batch", evidence, remedy, {"change": largest})

    def _finding(self, suspect: Suspect, before: Figures, after: Figures, all_: tuple[Suspect, ...]) -> Finding:
        changes = " and ".join(one.undone for one in all_)
        evidence = f"as it is: {before}; with {changes}: {after}"
        figures = {"difference_before": before.max_absolute, "difference_after": after.max_absolute}
        figures |= {"agreement_before": before.agreement or 0.0, "agreement_after": after.agreement or 0.0}
        return Finding(suspect.kind, suspect.name, evidence, suspect.remedy, figures)

    def _most_different(self, suspects: tuple[Suspect, ...]) -> np.ndarray:
        """Numbers of the pictures whose outputs differ most: what differs may not show in others."""
        outputs, reference = self._run(self.pixels, suspects), self._reference(self.pixels, None)
        worst = np.zeros(len(self.pixels))
        for name, values in reference.items():
            if outputs is not None and name in outputs and values.dtype.kind == "f" and outputs[name].shape == values.shape:
                difference = np.nan_to_num(np.abs(outputs[name].astype(np.float64) - values), nan=np.inf)
                worst = np.maximum(worst, difference.reshape(len(worst), -1).max(axis=1))
        return np.argsort(-worst, kind="stable")[:PICTURES]

    def _bisect(self, suspects: tuple[Suspect, ...]) -> Any:
        if any(suspect.reference for suspect in suspects):
            return None
        few = self.pixels[self._most_different(suspects)]
        return first_difference(self.graph, self.reference, self.feed(few, suspects), few)
