"""What the doctor says: findings with their evidence, JSON-able and printable."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from export.diagnostics.layerwise import LayerDifference

__all__ = ["Diagnosis", "Figures", "Finding"]


@dataclass(frozen=True)
class Figures:
    """How far a file agrees.

    Attributes:
        agreement: share of answers that are the reference's (for outputs that are no scores: of pictures within the tolerance);
            None where there is no reference but labels.
        max_absolute: largest difference of any output; infinity where they cannot be compared.
        accuracy: share of answers that are the targets; None without targets.
    """

    agreement: float | None
    max_absolute: float
    accuracy: float | None = None

    def __str__(self) -> str:
        parts = [] if self.agreement is None else [f"agreement {_percent(self.agreement)}"]
        if self.accuracy is not None:
            parts.append(f"accuracy {_percent(self.accuracy)}")
        if self.agreement is not None:
            parts.append(
                f"largest difference {self.max_absolute:.2g}" if math.isfinite(self.max_absolute) else "no comparison possible"
            )
        return ", ".join(parts)


def _percent(share: float) -> str:
    return "100 %" if share == 1 else f"{100 * share:.1f} %"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        kind: ``broken file``, ``contract``, ``labels``, ``input``, ``outputs``, ``channels``, ``range``, ``normalisation``,
            ``layout``, ``resize``, ``softmax``, ``classes``, ``batch norm``, ``batch``, ``layer`` or ``unexplained``.
        name: what is wrong, a clause.
        evidence: what was measured.
        remedy: what to do.
        figures: the numbers of the evidence.
    """

    kind: str
    name: str
    evidence: str
    remedy: str
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Diagnosis:
    """All that was found.

    Attributes:
        path: the file.
        images: pictures that were looked at.
        findings: what is wrong; empty where the file is healthy.
        tolerance: largest difference that is none.
        before: the file as it is; None where it cannot be run.
        after: with what was found undone; None where nothing was.
        layer: the first layer that differs, where it came to that.
        note: what else there is to say.
    """

    path: str
    images: int
    findings: tuple[Finding, ...]
    tolerance: float
    before: Figures | None = None
    after: Figures | None = None
    layer: LayerDifference | None = None
    note: str = ""

    @property
    def healthy(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of the findings."""
        return tuple(finding.kind for finding in self.findings)

    def to_plain(self) -> dict[str, Any]:
        """For JSON; a number that is not finite stands as null."""
        return {"healthy": self.healthy, **_finite(dataclasses.asdict(self))}

    def __str__(self) -> str:
        figures = f": {self.before}" if self.before is not None else ""
        lines = [f"{self.path}, {self.images:,} pictures{figures}"]
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
