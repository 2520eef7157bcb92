"""The doctor without a Keras model: labelled pictures alone, and which change lifts the accuracy."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from export.contract import Preprocessing
from export.diagnostics.diagnosis import Diagnosis, Figures, Finding
from export.diagnostics.hypotheses import COMMON, Suspect, affine, pixel_suspects, softmax, undo_softmax
from export.diagnostics.raw_graph import BrokenFileError, RawGraph
from export.diagnostics.resizing import FILTERS, fit
from kerascv_course.core.errors import InputError
from kerascv_course.core.images import Filter

__all__ = ["by_accuracy"]

#: Fewer labelled pictures say too little.
MIN_PICTURES = 40

#: A culprit lifts the accuracy by so much, and by chance alone with at most this probability (all trials together).
MIN_LIFT, MAX_CHANCE = 0.05, 1e-3

#: The accuracy is as promised if it is not lower by more than this, or not significantly.
MAX_SHORTFALL = 0.1


def by_accuracy(
    graph: RawGraph,
    images: np.ndarray | Sequence[np.ndarray],
    targets: np.ndarray,
    labels: Sequence[str],
    filter: Filter,
    findings: Sequence[Finding],
    tolerance: float,
) -> Diagnosis:
    """Diagnose a classifier with labelled pictures.

    Args:
        graph: the file.
        images: as for `export.diagnose`.
        targets: int (N,), numbers of `labels`.
        labels: class names; empty: the file's classes in order.
        filter: for pictures of other sizes.
        findings: what was found before.
        tolerance: largest difference that is none.

    Raises:
        InputError: too few pictures, another task, or labels that the file does not know.
    """
    if len(images) < MIN_PICTURES:
        raise InputError(f"{MIN_PICTURES} labelled pictures or more tell something; received {len(images)}")
    name = next((name for name in ("logits", "probabilities", *graph.outputs) if name in graph.outputs), graph.outputs[0])
    pixels = fit(images, graph.shape, graph.shape, filter)
    outputs = graph.run(pixels)
    scores = outputs[name]
    if scores.ndim != 2 or scores.dtype.kind != "f":
        raise InputError(f"labelled pictures diagnose a classifier; the output {name!r} has the shape {scores.shape}")
    names = tuple(labels) if graph.contract is None or not graph.contract.labels else graph.contract.labels
    targets, findings = _in_the_files_order(targets, labels, names, scores.shape[1], list(findings))
    before = scores.argmax(axis=1) == targets
    trials = list(_trials(graph, images, pixels, filter, scores, targets))
    limit = MAX_CHANCE / max(len(trials), 1)
    lifting = [trial for trial in trials if trial[1].mean() - trial[2].mean() >= MIN_LIFT and trial[3] <= limit]
    after = None
    if lifting:
        suspect, right, base, chance = max(lifting, key=lambda trial: trial[1].mean())
        after = Figures(None, math.inf, float(right.mean()))
        evidence = (
            f"as it is: accuracy {base.mean():.1%}; with {suspect.undone}: {right.mean():.1%} (of {len(right):,} pictures; by "
            f"chance with probability {chance:.0e})"
        )
        figures = {"accuracy_before": float(base.mean()), "accuracy_after": float(right.mean()), "chance": chance}
        findings.append(Finding(suspect.kind, suspect.name, evidence, suspect.remedy, figures))
    findings += _probability_findings(outputs, tolerance)
    if not findings:
        findings += _shortfall(graph, before)
    note = f"{len(trials)} suspects tried; layers can be compared only with the Keras model (--against RUN or model.keras)"
    figures_before = Figures(None, math.inf, float(before.mean()))
    return Diagnosis(str(graph.path), len(images), tuple(findings), tolerance, figures_before, after, note=note)


def _in_the_files_order(
    targets: np.ndarray, labels: Sequence[str], names: Sequence[str], classes: int, findings: list[Finding]
) -> tuple[np.ndarray, list[Finding]]:
    """Targets as the file numbers its classes, by their names."""
    findings = [finding for finding in findings if finding.kind != "labels"]
    if not labels:
        return targets, findings
    if unknown := sorted(set(labels) - set(names)):
        if len(labels) != classes:
            raise InputError(
                f"the pictures have the class {unknown[0]!r}, which the file does not know; its labels: {', '.join(names)}"
            )
        evidence = f"{len(unknown)} classes of the pictures are none of the file's, first {unknown[0]!r}; taken in order"
        findings.append(
            Finding("labels", "the labels are not those of the pictures", evidence, "export with labels= in training order")
        )
        return targets, findings
    return np.array([names.index(label) for label in labels])[targets], findings


def _trials(
    graph: RawGraph,
    images: np.ndarray | Sequence[np.ndarray],
    pixels: np.ndarray,
    filter: Filter,
    scores: np.ndarray,
    targets: np.ndarray,
) -> Iterator[tuple[Suspect, np.ndarray, np.ndarray, float]]:
    """Each suspect, whether each picture is answered right with it undone, the same as it is, and the probability of chance."""
    before = scores.argmax(axis=1) == targets
    channels = pixels.shape[-1]
    wanted = {name: affine(steps, channels) for name, steps in _wanted(graph, channels).items()}
    for suspect in pixel_suspects(pixels.shape[1:], wanted):
        assert suspect.pixels is not None
        try:
            answers = next(iter(_scores(graph.run(suspect.pixels(pixels))))).argmax(axis=1)
        except BrokenFileError:
            continue
        yield suspect, answers == targets, before, _chance(answers == targets, before)
    if any(image.shape[:2] != pixels.shape[1:3] for image in images):
        for other in FILTERS:
            if other != filter:
                resized = fit(images, graph.shape, graph.shape, other)
                answers = next(iter(_scores(graph.run(resized)))).argmax(axis=1)
                yield _resize_suspect(filter, other), answers == targets, before, _chance(answers == targets, before)
    # an order of classes that is found on one half must show on the other
    order = _best_order(scores[::2], targets[::2])
    rest = scores[1::2][:, order].argmax(axis=1) == targets[1::2]
    suspect = Suspect(
        "classes",
        "the classes stand in another order",
        f"the classes put in the order {order.tolist() if len(order) <= 20 else 'found on the other pictures'}",
        "export with labels= in the order that the model was trained with",
    )
    yield suspect, rest, before[1::2], _chance(rest, before[1::2])


def _scores(outputs: dict[str, np.ndarray]) -> Iterator[np.ndarray]:
    for name in ("logits", "probabilities", *outputs):
        if name in outputs:
            yield outputs[name]


def _wanted(graph: RawGraph, channels: int) -> dict[str, Preprocessing]:
    found = {}
    if graph.contract is not None and graph.contract.preprocessing.mean is not None:
        found["the contract's normalisation"] = graph.contract.preprocessing
    return {**found, **{name: steps for name, steps in COMMON.items() if len(steps.mean or ()) in (1, channels)}}


def _resize_suspect(filter: Filter, other: Filter) -> Suspect:
    return Suspect(
        "resize",
        f"pictures are resized by {filter}, the network wants {other}",
        f"pictures resized by {other}",
        f"export with resize={other!r}",
    )


def _chance(after: np.ndarray, before: np.ndarray) -> float:
    """Probability of so many pictures changing to the right answer, if either way were as likely (McNemar's exact test)."""
    from scipy.stats import binom

    better, worse = int((after & ~before).sum()), int((before & ~after).sum())
    return float(binom.sf(better - 1, better + worse, 0.5)) if better + worse else 1.0


def _best_order(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """For each class the output that answers for it, each output once, by the confusion matrix."""
    from scipy.optimize import linear_sum_assignment

    classes = scores.shape[1]
    confusion = np.bincount(targets * classes + scores.argmax(axis=1), minlength=classes**2).reshape(classes, classes)
    # at a tie a class stays where it is
    return linear_sum_assignment(confusion + 0.5 * np.eye(classes), maximize=True)[1]


def _probability_findings(outputs: dict[str, np.ndarray], tolerance: float) -> Iterator[Finding]:
    """Probabilities that are none, or that a softmax was taken of twice."""
    values = outputs.get("probabilities")
    if values is None or values.ndim != 2:
        return
    sums = values.sum(axis=1)
    if values.min() < -tolerance or abs(sums - 1).max() > 1e-3:
        evidence = f"they lie between {values.min():.3g} and {values.max():.3g} and sum to {sums.min():.3g} … {sums.max():.3g}"
        logits = outputs.get("logits")
        if logits is not None and np.allclose(softmax(logits), softmax(values), atol=1e-4):
            evidence += "; their softmax is that of the logits"
        yield Finding("softmax", "the probabilities are none: the softmax is missing", evidence, "export with the softmax")
        return
    undone = undo_softmax(values)
    classes = values.shape[1]
    most = math.e / (math.e + classes - 1)
    if values.max() <= most + 1e-4 and undone.min() >= -1e-3 and undone.max() >= 0.9:
        evidence = (
            f"no probability is above {values.max():.4f}, and {most:.4f} is the most that the softmax of probabilities of {classes} "
            f"classes gives; with one undone they reach {undone.max():.4f}"
        )
        yield Finding("softmax", "the softmax is applied twice", evidence, "take one of the two out")


def _shortfall(graph: RawGraph, right: np.ndarray) -> Iterator[Finding]:
    """Much less than the contract promises, and nothing explains it."""
    from scipy.stats import binom

    promised = graph.contract.metric("accuracy") if graph.contract else None
    if promised is None or promised - right.mean() <= MAX_SHORTFALL:
        return
    if binom.cdf(int(right.sum()), len(right), promised) < MAX_CHANCE:
        evidence = f"accuracy {right.mean():.1%} on these pictures; the contract promises {promised:.1%} on its test split"
        remedy = "compare with the Keras model (--against RUN), or with pictures of the kind that it was trained on"
        yield Finding("unexplained", "the accuracy is far below the promised one", evidence, remedy)
