"""A statement of a proof beside the number that was computed for it."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Container, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from kerascv_course.core.errors import InputError

Relation = Literal["=", "<", ">"]

__all__ = ["Claim", "Relation", "aligned", "claims_markdown", "claims_text", "number"]


@dataclass(frozen=True)
class Claim:
    """A computed number and what it has to be.

    Attributes:
        where: question of the report, such as ``"1.2.1"``.
        text: what the number is.
        value: as computed.
        relation: ``"="`` (within the tolerance), ``"<"`` or ``">"``.
        reference: what the value is compared with.
        tolerance: largest difference that counts as equal.
        erratum: identifier of the report's erratum that this number puts right; empty: none.
    """

    where: str
    text: str
    value: float
    relation: Relation
    reference: float
    tolerance: float = 0.0
    erratum: str = ""

    def __post_init__(self) -> None:
        if self.relation not in ("=", "<", ">"):
            raise InputError(f"a claim's relation is =, < or >; received {self.relation!r}")
        # NumPy's scalars are no JSON
        for name in ("value", "reference", "tolerance"):
            object.__setattr__(self, name, float(getattr(self, name)))

    @property
    def holds(self) -> bool:
        """Whether the number is what it has to be; NaN never is."""
        if self.relation == "=":
            return abs(self.value - self.reference) <= self.tolerance
        return self.value < self.reference if self.relation == "<" else self.value > self.reference

    @property
    def expected(self) -> str:
        """The right-hand side in words, such as ``"= 0.8791208791 ± 1e-12"``."""
        spread = f" ± {self.tolerance:.2g}" if self.relation == "=" and self.tolerance else ""
        return f"{self.relation} {number(self.reference)}{spread}"

    def plain(self) -> dict[str, Any]:
        """The fields and the verdict, for JSON; a value that is not finite becomes None."""
        value = self.value if math.isfinite(self.value) else None
        return {**asdict(self), "value": value, "holds": self.holds}


def number(value: float) -> str:
    """A number with as many digits as a reader can compare: ten, whole numbers without a point."""
    if math.isfinite(value) and value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:.2e}" if abs(value) < 1e-4 or abs(value) >= 1e7 else f"{value:.10g}"


def claims_text(claims: Sequence[Claim]) -> str:
    """A table for a terminal: verdict, question, text, number, what it has to be."""
    rows = [(_verdict(c), c.where, _note(c), number(c.value), c.expected) for c in claims]
    return aligned(rows, right=(3,))


def aligned(rows: Sequence[Sequence[str]], *, right: Container[int]) -> str:
    """Lines whose cells stand below each other.

    Args:
        rows: cells, as many in each.
        right: which columns are set flush right.
    """
    # a tilde that is set above its letter takes no place
    places = [[sum(not unicodedata.combining(c) for c in cell) for cell in row] for row in rows]
    widths = [max(column) for column in zip(*places, strict=True)]
    lines = []
    for row, taken in zip(rows, places, strict=True):
        gaps = [" " * (width - length) for width, length in zip(widths, taken, strict=True)]
        cells = [gap + cell if i in right else cell + gap for i, (cell, gap) in enumerate(zip(row, gaps, strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def claims_markdown(claims: Sequence[Claim]) -> str:
    """The same as a Markdown table."""
    lines = ["| question | | computed | has to be | |", "| --- | --- | --- | --- | --- |"]
    lines += [
        f"| {c.where} | {_note(c).replace('|', '∣')} | {number(c.value)} | {c.expected} | {_verdict(c)} |" for c in claims
    ]
    return "\n".join(lines)


def _verdict(claim: Claim) -> str:
    return "ok" if claim.holds else "NO"


def _note(claim: Claim) -> str:
    return f"{claim.text} [{claim.erratum}]" if claim.erratum else claim.text
