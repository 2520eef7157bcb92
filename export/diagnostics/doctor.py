"""What is wrong with an exported file: the usual suspects tried one by one against its Keras model or labelled pictures.

The file's own contract is not believed: its raw outputs are compared. A suspect is the culprit when undoing it makes the file agree
with the Keras model within the tolerance or, with labelled pictures alone, when it lifts the accuracy clearly and significantly. Where
no suspect explains the difference, `export.diagnostics.layerwise` goes through the layers to the first tensor that differs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from export.contract import ContractError, Preprocessing
from export.diagnostics.diagnosis import Diagnosis, Figures, Finding
from export.diagnostics.hypotheses import Outputs
from export.diagnostics.raw_graph import BrokenFileError, RawGraph
from export.diagnostics.resizing import fit, resize_all, ways_to_resize
from export.predictor import OnnxModel
from kerascv_course.core.errors import InputError
from kerascv_course.core.images import Filter

if TYPE_CHECKING:
    import keras

    from export.diagnostics.examination import Examination
    from export.diagnostics.reference import Reference

__all__ = ["Diagnosis", "Figures", "Finding", "diagnose"]

#: Pictures of other sizes that ways to resize are tried on.
RESIZED = 64


def diagnose(
    path: str | Path,
    model: keras.Model | None,
    images: np.ndarray | Sequence[np.ndarray],
    targets: np.ndarray | None = None,
    *,
    labels: Sequence[str] = (),
    task: str | None = None,
    preprocessing: Any = None,
    resize: Filter | None = None,
    tolerance: float = 1e-4,
) -> Diagnosis:
    """Compare a file with what it should answer, and name what is wrong with it.

    Args:
        path: the ONNX file; it need not have a contract.
        model: what it was made from (as given to `export_model`); None: only labelled pictures are at hand.
        images: uint8 pictures (N, height, width, channels), or a list of pictures (height, width, channels) of any sizes.
        targets: int, the right class of each, (N,) (for a colouriser of each pixel); without a model, numbers of `labels`.
        labels: class names as they should be, in order; empty: not known.
        task: of the file, as for `export_model`; None: its contract's.
        preprocessing: as for `export_model`, where the model takes floating point; None: what the contract says.
        resize: filter that pictures of other sizes are brought to the model's size with; None: what the contract says.
        tolerance: largest absolute difference of an output that is no difference.

    Returns:
        The findings, none where the file is healthy.

    Raises:
        InputError: no such file, or pictures that do not fit; without a model also too few of them, or no targets.
    """
    if model is None and targets is None:
        raise InputError("a file is compared with a Keras model or with labelled pictures: give a model, or targets")
    if len(images) == 0:
        raise InputError("diagnose takes one picture or more")
    try:
        graph = RawGraph(path)
    except BrokenFileError as error:
        finding = Finding("broken file", "the file cannot be opened", str(error), "export or copy it again")
        return Diagnosis(str(path), len(images), (finding,), tolerance)
    findings = [*_contract_findings(graph, labels)]
    filter = resize or (graph.contract.input.resize if graph.contract else "bilinear")
    if model is None:
        from export.diagnostics.accuracy import by_accuracy

        assert targets is not None  # checked above
        return by_accuracy(graph, images, targets, labels, filter, findings, tolerance)
    from export.diagnostics.examination import Examination

    reference = _reference(model, graph, task, preprocessing)
    if mismatch := _shape_finding(graph, reference):
        return Diagnosis(str(path), len(images), (*findings, mismatch), tolerance)
    pixels = fit(images, graph.shape, reference.shape, filter)
    examination = Examination(graph, reference, pixels, targets, tolerance)
    diagnosis = examination.diagnose(findings)
    if diagnosis.after is None and diagnosis.layer is None:
        diagnosis = dataclasses.replace(
            diagnosis,
            findings=(*diagnosis.findings, *_resize_findings(graph, reference, images, filter, resize, examination)),
        )
    return diagnosis


def _contract_findings(graph: RawGraph, labels: Sequence[str]) -> list[Finding]:
    """What the contract says, against the graph and against the names as they should be."""
    found = []
    if graph.contract is None:
        if labels:
            found.append(Finding("contract", "the file has no valid contract", graph.complaint, "export it with export_model"))
        return found
    try:
        OnnxModel(graph.path)
    except ContractError as error:
        found.append(
            Finding("contract", "the contract does not fit the graph", str(error), "export the file again; do not edit it")
        )
    ours = graph.contract.labels
    if labels and tuple(labels) != ours:
        places = [i for i, (a, b) in enumerate(zip(ours, labels, strict=False)) if a != b]
        if len(ours) != len(labels):
            evidence = f"the contract has {len(ours)} labels, the reference {len(labels)}"
        else:
            first = places[0]
            order = " (the same names in another order)" if sorted(ours) == sorted(labels) else ""
            evidence = (
                f"{len(places)} of {len(labels)} labels differ{order}, first class {first}: {ours[first]!r} in the contract, "
                f"{labels[first]!r} in the reference"
            )
        remedy = "export with labels= in the order that the model was trained with"
        figures = {"differing": float(len(places)), "labels": float(len(labels))}
        found.append(Finding("labels", "the labels in the contract are not the reference's", evidence, remedy, figures))
    return found


def _reference(model: keras.Model, graph: RawGraph, task: str | None, preprocessing: Any) -> Reference:
    from export.converter.convert import preprocessing_steps
    from export.diagnostics.reference import Reference
    from export.serving import serving_graph

    contract = graph.contract
    inside = model.inputs[0].dtype == "uint8"
    if preprocessing is None and contract is not None and not inside and contract.preprocessing.mean is not None:
        steps = dataclasses.replace(contract.preprocessing, where="graph")
    else:
        steps = preprocessing_steps(preprocessing, inside=inside, where="graph")
    task = task or (contract.task if contract else None)
    serving = serving_graph(model, task=task, input_dtype=model.inputs[0].dtype, steps=steps)
    return Reference(serving, steps if steps.mean is not None else Preprocessing("graph"))


def _shape_finding(graph: RawGraph, reference: Reference) -> Finding | None:
    ours, theirs = graph.shape, reference.shape
    if all(a == b or (i < 2 and None in (a, b)) for i, (a, b) in enumerate(zip(ours, theirs, strict=True))):
        return None
    hint = "height and channels have changed places: the graph was exported for another layout" if ours != theirs else ""
    hint = hint if sorted(map(str, ours)) == sorted(map(str, theirs)) else "it was made from another model"
    evidence = f"the file takes (height, width, channels) {ours}, the Keras model {theirs}"
    return Finding("input", "the file takes pictures of another shape", evidence, f"export it again from this model; {hint}")


def _resize_findings(
    graph: RawGraph,
    reference: Reference,
    images: np.ndarray | Sequence[np.ndarray],
    filter: Filter,
    wanted: Filter | None,
    examination: Examination,
) -> list[Finding]:
    """How pictures of other sizes come to the network's size: by the contract's filter, or in the graph."""
    height, width, channels = reference.shape
    others = [image for image in images if image.shape[:2] != (height, width)][:RESIZED]
    if not others or height is None or width is None:
        return []
    right = resize_all(others, height, width, channels, filter)
    answers = reference.run(right)

    def figures(outputs: Outputs) -> Figures:
        read = {theirs: outputs[ours] for theirs, ours in examination.renamed.items()}
        return examination.compare((), read, answers, None).figures

    remedy = f"export with resize={filter!r}, the filter that the model was trained with"
    if graph.shape[0] is not None:
        stated = graph.contract.input.resize if graph.contract else None
        if wanted is None or stated in (None, wanted):
            return []
        before, after = (figures(graph.run(resize_all(others, height, width, channels, way))) for way in (stated, filter))
        evidence = f"pictures resized by the contract's filter {stated}: {before}; by {filter}: {after}"
        return [Finding("resize", f"the contract resizes by {stated}, the model was trained with {filter}", evidence, remedy)]
    runs = [graph.run(image[None]) for image in others]
    inside = {name: np.concatenate([run[name] for run in runs]) for name in graph.outputs}
    distances = {}
    for way, resized in ways_to_resize(others, height, width).items():
        outputs = graph.run(resized)
        distances[way] = max(
            float(np.abs(outputs[name].astype(np.float64) - inside[name]).max())
            for name in graph.outputs
            if inside[name].dtype.kind == "f" and inside[name].shape == outputs[name].shape
        )
    best = min(distances, key=lambda way: distances[way])
    before = figures(inside)
    if best.startswith(f"{filter},") or before.max_absolute <= examination.tolerance:
        return []
    how = f"it resizes like {best!r} (largest difference to that {distances[best]:.1e})"
    evidence = f"as it is: {before}; {how}; the model was trained with {filter!r}, to which it is {figures(graph.run(right))}"
    return [Finding("resize", "the file resizes in another way than the model was trained with", evidence, remedy, distances)]
