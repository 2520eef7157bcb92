"""The diagnosis of a file: findings with their evidence, JSON-serializable and printable."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Agreement", "Defect", "Diagnosis", "LayerDifference", "WeightDifference"]


@dataclass(frozen=True)
class Agreement:
    """How far a file agrees with its reference.

    Attributes:
        agreement: share of equal answers, 0 to 1 (of outputs without scores: of images within the tolerance); None without a model.
        max_absolute: largest difference of any output; infinity where outputs cannot be compared.
        accuracy: of the file; None without targets.
    """

    agreement: float | None
    max_absolute: float
    accuracy: float | None = None

    def __str__(self) -> str:
        parts = [
            f"{name} {_percent(v)}" for name, v in (("agreement", self.agreement), ("accuracy", self.accuracy)) if v is not None
        ]
        if self.agreement is not None:
            finite = math.isfinite(self.max_absolute)
            parts.append(f"largest difference {self.max_absolute:.2g}" if finite else "no comparison possible")
        return ", ".join(parts)


def _percent(share: float) -> str:
    return "100 %" if share == 1 else f"{100 * share:.1f} %"


@dataclass(frozen=True)
class Defect:
    """One finding.

    Attributes:
        kind: ``broken file``, ``contract``, ``labels``, ``input``, ``outputs``, ``channels``, ``range``, ``normalization``,
            ``layout``, ``resize``, ``softmax``, ``classes``, ``precision``, ``batch norm``, ``batch``, ``layer`` or ``unexplained``.
        name: what is wrong, in a clause.
        evidence: what was measured.
        remedy: what to do.
        values: the numbers of the evidence, by name.
    """

    kind: str
    name: str
    evidence: str
    remedy: str
    values: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class WeightDifference:
    """Stored weights that differ from the layer's.

    Attributes:
        initializer: name in the file.
        variable: variable of the Keras layer, with what is folded into it.
        differing: number of differing values.
        values: number of values.
        index: position of the largest difference, in the file's order of axes.
        file: the file's value there.
        keras: the layer's value there.
    """

    initializer: str
    variable: str
    differing: int
    values: int
    index: tuple[int, ...]
    file: float
    keras: float

    def __str__(self) -> str:
        return (
            f"{self.differing:,} of {self.values:,} values of {self.initializer!r} differ from {self.variable}; at "
            f"{list(self.index)} the file has {self.file:.6g}, Keras {self.keras:.6g}"
        )


@dataclass(frozen=True)
class LayerDifference:
    """The first layer whose tensor differs.

    Attributes:
        layer: its name.
        kind: its class.
        tensor: name in the file.
        operator: operator that computes it.
        shape: of the tensor, without the batch axis.
        max_absolute: largest difference.
        largest: largest absolute value in Keras.
        after: the last equal layer before it; None where it is the first of all.
        after_absolute: largest difference there.
        between: layers between the two that have no known tensor in the file, nearest last.
        compared: number of layers that were found in the file.
        weights: stored weights that differ.
    """

    layer: str
    kind: str
    tensor: str
    operator: str
    shape: tuple[int, ...]
    max_absolute: float
    largest: float
    after: str | None
    after_absolute: float
    between: tuple[str, ...]
    compared: int
    weights: tuple[WeightDifference, ...]

    def __str__(self) -> str:
        lines = [
            f"the first tensor that differs is that of layer {self.layer!r} ({self.kind}): {self.operator} {self.tensor!r} "
            f"{list(self.shape)}, by {self.max_absolute:.3g} (its largest value is {self.largest:.3g})"
        ]
        if self.after:
            lines.append(f"its input, from layer {self.after!r}, is equal (largest difference {self.after_absolute:.1e})")
        lines += map(str, self.weights)
        if not self.weights:
            lines.append("its stored weights equal Keras's, or it has none: the computation differs")
        return "\n".join(lines)


@dataclass(frozen=True)
class Diagnosis:
    """All findings about a file.

    Attributes:
        path: the file.
        images: number of images compared.
        findings: what is wrong; empty for a healthy file.
        tolerance: largest difference that counts as equal.
        before: agreement of the file as it is; None where it cannot run.
        after: agreement with the findings corrected; None where none could be.
        layer: the first layer that differs, where layers were compared.
        note: further remarks.
    """

    path: str
    images: int
    findings: tuple[Defect, ...]
    tolerance: float
    before: Agreement | None = None
    after: Agreement | None = None
    layer: LayerDifference | None = None
    note: str = ""

    @property
    def healthy(self) -> bool:
        """Whether there are no findings."""
        return not self.findings

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of the findings."""
        return tuple(finding.kind for finding in self.findings)

    def to_plain(self) -> dict[str, Any]:
        """JSON-serializable form; numbers that are not finite are null."""
        return {"healthy": self.healthy, **_finite(dataclasses.asdict(self))}

    def __str__(self) -> str:
        agreement = f": {self.before}" if self.before is not None else ""
        lines = [f"{self.path}, {self.images:,} images{agreement}"]
        for number, finding in enumerate(self.findings, start=1):
            evidence = finding.evidence.replace("\n", "\n   ")
            lines += [f"{number}. {finding.name}", f"   {evidence}", f"   remedy: {finding.remedy}"]
        if self.note:
            lines.append(self.note)
        lines.append("healthy: nothing found" if self.healthy else f"not healthy: {', '.join(dict.fromkeys(self.kinds))}")
        return "\n".join(lines)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
