"""The doctor: what is wrong with an exported file.

The file's own contract is not trusted: raw outputs are compared. A hypothesis holds when a change makes the file agree with the Keras
model within the tolerance or, with labeled images alone, when it raises the accuracy clearly and significantly. Where no hypothesis
explains the difference, layers are compared up to the first tensor that differs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypedDict, Unpack

import numpy as np

from export.contract import ContractError, Preprocessing
from export.converter.serving_graph import serving_graph
from export.diagnostics.comparison import Comparison, find_resize_defects
from export.diagnostics.labeled import LabeledSet, diagnose_by_accuracy
from export.diagnostics.report import Agreement, Defect, Diagnosis
from export.diagnostics.runners import BrokenFileError, KerasReference, RawGraph, fit_images
from export.predictor import OnnxModel
from kerascv_course.core.errors import InputError
from kerascv_course.core.images import Filter
from kerascv_course.core.lazy import keras

__all__ = ["Agreement", "Defect", "Diagnosis", "DoctorOptions", "diagnose"]


class DoctorOptions(TypedDict, total=False):
    """Options of `diagnose`.

    Attributes:
        labels: correct class names in order (default: unknown).
        task: of the file, as for `export_model` (default: its contract's).
        preprocessing: as for `export_model`, where the model takes floating point (default: the contract's).
        resize: filter that resizes images to the model's size (default: the contract's).
        tolerance: largest absolute difference of an output that counts as equal (default: 1e-4).
    """

    labels: Sequence[str]
    task: str | None
    preprocessing: Any
    resize: Filter | None
    tolerance: float


def diagnose(
    path: str | Path,
    model: keras.Model | None,
    images: np.ndarray | Sequence[np.ndarray],
    targets: np.ndarray | None = None,
    **options: Unpack[DoctorOptions],
) -> Diagnosis:
    """Compare a file with its Keras model or with labeled images, and name what is wrong with it.

    Args:
        path: ONNX file, with or without a contract.
        model: the model it was exported from, as given to `export_model`; None: only labeled images are available.
        images: uint8 (N, height, width, channels), or a list of images (height, width, channels) of any sizes.
        targets: int, class of each image, (N,) (for a colorizer of each pixel); without a model, positions in `labels`.
        **options: see `DoctorOptions`.

    Returns:
        The findings, none for a healthy file.

    Raises:
        InputError: no such file, or images that do not fit; without a model also too few of them, or no targets.
    """
    if model is None and targets is None:
        raise InputError("a file is compared with a Keras model or with labeled images: give a model, or targets")
    if len(images) == 0:
        raise InputError("diagnose needs one image or more")
    labels, resize, tolerance = options.get("labels", ()), options.get("resize"), options.get("tolerance", 1e-4)
    try:
        graph = RawGraph(path)
    except BrokenFileError as error:
        defect = Defect("broken file", "the file cannot be opened", str(error), "export or copy it again")
        return Diagnosis(str(path), len(images), (defect,), tolerance)
    findings = [*_contract_defects(graph, labels), *_precision_defects(graph)]
    filter = resize or (graph.contract.input.resize if graph.contract else "bilinear")
    if model is None:
        assert targets is not None  # checked above
        return diagnose_by_accuracy(graph, LabeledSet(images, targets, labels, filter), findings, tolerance)
    reference = _reference(model, graph, options.get("task"), options.get("preprocessing"))
    if mismatch := _shape_defect(graph, reference):
        return Diagnosis(str(path), len(images), (*findings, mismatch), tolerance)
    pixels = fit_images(images, graph.shape, reference.shape, filter)
    comparison = Comparison(graph, reference, pixels, targets, tolerance)
    diagnosis = comparison.diagnose(findings)
    if diagnosis.after is None and diagnosis.layer is None:
        resizing = find_resize_defects(comparison, images, filter, resize)
        diagnosis = dataclasses.replace(diagnosis, findings=(*diagnosis.findings, *resizing))
    if diagnosis.healthy and graph.precision:
        stated = ", as its contract states" if graph.contract else ""
        note = f"computed in {graph.precision}{stated}: the differences are those of rounding"
        diagnosis = dataclasses.replace(diagnosis, note=note)
    return diagnosis


def _contract_defects(graph: RawGraph, labels: Sequence[str]) -> Iterator[Defect]:
    """The contract against the graph and against the correct labels."""
    if graph.contract is None:
        if labels:
            yield Defect("contract", "the file has no valid contract", graph.complaint, "export it with export_model")
        return
    try:
        OnnxModel(graph.path)
    except ContractError as error:
        yield Defect("contract", "the contract does not fit the graph", str(error), "export the file again; do not edit it")
    ours = graph.contract.labels
    if not labels or tuple(labels) == ours:
        return
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
    remedy = "export with labels= in the order of the training"
    values = {"differing": float(len(places)), "labels": float(len(labels))}
    yield Defect("labels", "the labels in the contract differ from the reference's", evidence, remedy, values)


def _precision_defects(graph: RawGraph) -> Iterator[Defect]:
    """What the contract states of the precision against what the graph computes in."""
    if graph.contract is None:
        return
    stated = graph.contract.precision.kind if graph.contract.precision else None
    if stated != graph.precision:
        name = f"the graph computes in {graph.precision or 'float32'}, the contract states {stated or 'float32'}"
        remedy = "make files of lower precision with python -m export quantize, which measures and states their accuracy"
        yield Defect("precision", name, f"in the graph: {graph.precision or 'no tensors of lower precision'}", remedy)


def _reference(model: keras.Model, graph: RawGraph, task: str | None, preprocessing: Any) -> KerasReference:
    from export.converter.convert import preprocessing_steps

    contract = graph.contract
    inside = model.inputs[0].dtype == "uint8"
    if preprocessing is None and contract is not None and not inside and contract.preprocessing.mean is not None:
        steps = dataclasses.replace(contract.preprocessing, where="graph")
    else:
        steps = preprocessing_steps(preprocessing, inside=inside, where="graph")
    task = task or (contract.task if contract else None)
    serving = serving_graph(model, task=task, input_dtype=model.inputs[0].dtype, steps=steps)
    return KerasReference(serving, steps if steps.mean is not None else Preprocessing("graph"))


def _shape_defect(graph: RawGraph, reference: KerasReference) -> Defect | None:
    ours, theirs = graph.shape, reference.shape
    if all(a == b or (i < 2 and None in (a, b)) for i, (a, b) in enumerate(zip(ours, theirs, strict=True))):
        return None
    swapped = sorted(map(str, ours)) == sorted(map(str, theirs))
    hint = "the graph was exported for another layout" if swapped else "it was made from another model"
    evidence = f"the file takes (height, width, channels) {ours}, the Keras model {theirs}"
    return Defect("input", "the file takes images of another shape", evidence, f"export it again from this model; {hint}")
