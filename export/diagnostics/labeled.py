"""A file without its Keras model: which change raises its accuracy on labeled images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.special import softmax
from scipy.stats import binom
from sklearn.metrics import confusion_matrix

from export.diagnostics.comparison import FILTERS, SCORES
from export.diagnostics.hypotheses import COMMON, Affine, Hypothesis, pixel_hypotheses, undo_softmax
from export.diagnostics.report import Agreement, Defect, Diagnosis
from export.diagnostics.runners import BrokenFileError, RawGraph, fit_images
from kerascv_course.core.errors import InputError
from kerascv_course.core.images import Filter
from kerascv_course.core.progress import track

__all__ = ["LabeledSet", "diagnose_by_accuracy"]

#: Fewest labeled images.
MIN_IMAGES = 40

#: A hypothesis holds if it raises the accuracy by this much, with at most this probability by chance (all tests together).
MIN_LIFT, MAX_CHANCE = 0.05, 1e-3

#: Largest shortfall of the accuracy behind the contract's that is no finding by itself.
MAX_SHORTFALL = 0.1


class LabeledSet(NamedTuple):
    """Labeled images to diagnose by.

    Attributes:
        images: uint8 (N, height, width, channels), or a list of images of any sizes.
        targets: int (N,), positions in `labels`.
        labels: class names; empty: the file's classes in order.
        filter: resampling filter for images of other sizes.
    """

    images: np.ndarray | Sequence[np.ndarray]
    targets: np.ndarray
    labels: Sequence[str]
    filter: Filter


class _Change(NamedTuple):
    """A tested hypothesis: correctness of each answer with and without the change, bool (N,)."""

    hypothesis: Hypothesis
    after: np.ndarray
    before: np.ndarray

    @property
    def chance(self) -> float:
        """Probability of so many improvements if changes either way were equally likely (McNemar's exact test)."""
        better, worse = int((self.after & ~self.before).sum()), int((self.before & ~self.after).sum())
        return float(binom.sf(better - 1, better + worse, 0.5)) if better + worse else 1.0


def diagnose_by_accuracy(graph: RawGraph, given: LabeledSet, findings: Sequence[Defect], tolerance: float) -> Diagnosis:
    """Diagnose a classifier by labeled images.

    Args:
        graph: the file.
        given: the images.
        findings: those made before.
        tolerance: largest difference that counts as equal.

    Raises:
        InputError: too few images, another task, or labels that the file does not have.
    """
    if len(given.images) < MIN_IMAGES:
        raise InputError(f"a diagnosis needs {MIN_IMAGES} labeled images or more; received {len(given.images)}")
    outputs = graph.run(fit_images(given.images, graph.shape, graph.shape, given.filter))
    scores = _scores(outputs)
    if scores.ndim != 2 or scores.dtype.kind != "f":
        raise InputError(f"labeled images can diagnose classifiers only; the scores of this file have the shape {scores.shape}")
    targets, label_findings = _targets_in_file_order(graph, given, scores.shape[1])
    findings = [*(one for one in findings if one.kind != "labels"), *label_findings]
    before = scores.argmax(axis=1) == targets
    changes = list(_test_changes(graph, given, scores, targets))
    limit = MAX_CHANCE / max(len(changes), 1)
    lifting = [one for one in changes if one.after.mean() - one.before.mean() >= MIN_LIFT and one.chance <= limit]
    after = None
    if lifting:
        best = max(lifting, key=lambda one: one.after.mean())
        base, accuracy, chance = float(best.before.mean()), float(best.after.mean()), best.chance
        after = Agreement(None, math.inf, accuracy)
        evidence = (
            f"as it is: accuracy {base:.1%}; with {best.hypothesis.change}: {accuracy:.1%} (of {len(best.after):,} images; by chance "
            f"with probability {chance:.0e})"
        )
        values = {"accuracy_before": base, "accuracy_after": accuracy, "chance": chance}
        findings.append(Defect(best.hypothesis.kind, best.hypothesis.name, evidence, best.hypothesis.remedy, values))
    findings += _softmax_defects(outputs, tolerance)
    if not findings:
        findings += _shortfall(graph, before)
    return Diagnosis(
        str(graph.path),
        len(given.images),
        tuple(findings),
        tolerance,
        Agreement(None, math.inf, float(before.mean())),
        after,
        note=f"{len(changes)} hypotheses tested; comparing layers needs the Keras model (--against RUN or model.keras)",
    )


def _scores(outputs: dict[str, np.ndarray]) -> np.ndarray:
    return outputs[next((name for name in SCORES if name in outputs), next(iter(outputs)))]


def _targets_in_file_order(graph: RawGraph, given: LabeledSet, classes: int) -> tuple[np.ndarray, list[Defect]]:
    """Targets in the order of the file's classes, matched by name."""
    names = graph.contract.labels if graph.contract and graph.contract.labels else tuple(given.labels)
    unknown = sorted(set(given.labels) - set(names))
    if not unknown:
        order = [names.index(label) for label in given.labels] or range(classes)
        return np.array(order)[given.targets], []
    if len(given.labels) != classes:
        raise InputError(
            f"the images have the class {unknown[0]!r}, which the file does not have; its labels: {', '.join(names)}"
        )
    evidence = f"{len(unknown)} classes of the images are not among the file's, first {unknown[0]!r}; matched in order"
    remedy = "export with labels= in the order of the training"
    return given.targets, [Defect("labels", "the labels are not those of the images", evidence, remedy)]


def _test_changes(graph: RawGraph, given: LabeledSet, scores: np.ndarray, targets: np.ndarray) -> Iterator[_Change]:
    before = scores.argmax(axis=1) == targets
    pixels = fit_images(given.images, graph.shape, graph.shape, given.filter)
    channels = pixels.shape[-1]
    stated = graph.contract.preprocessing if graph.contract else None
    wanted = {name: steps for name, steps in COMMON.items() if len(steps.mean or ()) in (1, channels)}
    if stated is not None and stated.mean is not None:
        wanted = {"the contract's normalization": stated, **wanted}
    hypotheses = pixel_hypotheses(pixels.shape[1:], {name: Affine.of(steps, channels) for name, steps in wanted.items()})
    for one in track(hypotheses, "testing explanations", "explanations"):
        assert one.pixels is not None  # pixel hypotheses change pixels
        try:
            answers = _scores(graph.run(one.pixels(pixels))).argmax(axis=1)
        except BrokenFileError:
            continue
        yield _Change(one, answers == targets, before)
    if any(image.shape[:2] != pixels.shape[1:3] for image in given.images):
        for other in FILTERS:
            if other != given.filter:
                name = f"images are resized by {given.filter}, the network expects {other}"
                one = Hypothesis("resize", name, f"images resized by {other}", f"export with resize={other!r}")
                resized = fit_images(given.images, graph.shape, graph.shape, other)
                yield _Change(one, _scores(graph.run(resized)).argmax(axis=1) == targets, before)
    # an order of classes that is found on one half must hold on the other
    order = _best_order(scores[::2], targets[::2])
    shown = order.tolist() if len(order) <= 20 else "found on the other images"
    remedy = "export with labels= in the order of the training"
    one = Hypothesis("classes", "the classes are in another order", f"the classes put in the order {shown}", remedy)
    yield _Change(one, scores[1::2][:, order].argmax(axis=1) == targets[1::2], before[1::2])


def _best_order(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """For each class, the output that answers for it, by the confusion matrix; at a tie a class keeps its place."""
    classes = scores.shape[1]
    confusion = confusion_matrix(targets, scores.argmax(axis=1), labels=np.arange(classes))
    return np.asarray(linear_sum_assignment(confusion + 0.5 * np.eye(classes), maximize=True)[1])


def _softmax_defects(outputs: dict[str, np.ndarray], tolerance: float) -> Iterator[Defect]:
    """Probabilities that are none, or that went through two softmaxes."""
    values = outputs.get("probabilities")
    if values is None or values.ndim != 2:
        return
    sums = values.sum(axis=1)
    if values.min() < -tolerance or abs(sums - 1).max() > 1e-3:
        evidence = f"they are between {values.min():.3g} and {values.max():.3g} and sum to {sums.min():.3g} … {sums.max():.3g}"
        logits = outputs.get("logits")
        if logits is not None and np.allclose(softmax(logits, axis=1), softmax(values, axis=1), atol=1e-4):
            evidence += "; their softmax equals that of the logits"
        yield Defect("softmax", "the probabilities are none: the softmax is missing", evidence, "export with the softmax")
        return
    undone = undo_softmax(values)
    classes = values.shape[1]
    most = math.e / (math.e + classes - 1)
    if values.max() <= most + 1e-4 and undone.min() >= -1e-3 and undone.max() >= 0.9:
        evidence = (
            f"no probability is above {values.max():.4f}, and a softmax of probabilities of {classes} classes gives at most "
            f"{most:.4f}; with one softmax undone they reach {undone.max():.4f}"
        )
        yield Defect("softmax", "the softmax is applied twice", evidence, "remove one of the two")


def _shortfall(graph: RawGraph, correct: np.ndarray) -> Iterator[Defect]:
    """A much lower accuracy than the contract states, without an explanation."""
    promised = graph.contract.metric("accuracy") if graph.contract else None
    if promised is None or promised - correct.mean() <= MAX_SHORTFALL:
        return
    if binom.cdf(int(correct.sum()), len(correct), promised) < MAX_CHANCE:
        evidence = f"accuracy {correct.mean():.1%} on these images; the contract states {promised:.1%} on its test split"
        remedy = "compare with the Keras model (--against RUN), or with images of the kind that it was trained on"
        yield Defect("unexplained", "the accuracy is far below the contract's", evidence, remedy)
