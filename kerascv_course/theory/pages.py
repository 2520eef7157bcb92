"""What a topic of the theory consists of, and its output: a Markdown page with figures, and the same as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kerascv_course.core.environment import package_versions
from kerascv_course.core.errors import InputError
from kerascv_course.core.io import atomic_write, check_new_folder, write_text
from kerascv_course.core.tables import markdown_table, text_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Relation = Literal["=", "<", ">"]

__all__ = [
    "Claim",
    "NumberTable",
    "Relation",
    "Topic",
    "TopicFigure",
    "claims_table",
    "number",
    "topic_text",
    "write_index",
    "write_topic",
]


@dataclass(frozen=True)
class Claim:
    """A computed number and its expected value or bound.

    Attributes:
        where: question of the report, such as ``"1.2.1"``.
        text: what the number is.
        value: as computed.
        relation: ``"="`` (within the tolerance), ``"<"`` or ``">"``.
        reference: the expected value, or the bound.
        tolerance: largest difference that counts as equal.
        erratum: id of the report's erratum that this number corrects; empty: none.
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
        # NumPy scalars cannot be written as JSON
        for name in ("value", "reference", "tolerance"):
            object.__setattr__(self, name, float(getattr(self, name)))

    @property
    def holds(self) -> bool:
        """Whether the relation holds; never for NaN."""
        if self.relation == "=":
            return abs(self.value - self.reference) <= self.tolerance
        return self.value < self.reference if self.relation == "<" else self.value > self.reference

    @property
    def expected(self) -> str:
        """Relation and reference, such as ``"= 0.8791208791 ± 1e-12"``."""
        spread = f" ± {self.tolerance:.2g}" if self.relation == "=" and self.tolerance else ""
        return f"{self.relation} {number(self.reference)}{spread}"

    def plain(self) -> dict[str, Any]:
        """The fields and the verdict, for JSON; a value that is not finite becomes None."""
        value = self.value if math.isfinite(self.value) else None
        return {**asdict(self), "value": value, "holds": self.holds}


@dataclass(frozen=True)
class NumberTable:
    """Numbers of a topic, formatted.

    Attributes:
        title: caption.
        head: names of the columns.
        rows: as many cells as columns.
    """

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, eq=False)
class TopicFigure:
    """A figure, drawn on demand.

    Attributes:
        name: of its file, without suffix.
        caption: what it shows.
        draw: draws it.
    """

    name: str
    caption: str
    draw: Callable[[], Figure]


@dataclass(frozen=True, eq=False)
class Topic:
    """Results of a topic.

    Attributes:
        name: on the command line.
        title: in a line.
        about: a paragraph.
        settings: of the computation.
        study: the result object.
        claims: numbers with their expected values.
        tables: further numbers.
        figures: drawn on demand.
        texts: further files: name to content.
    """

    name: str
    title: str
    about: str
    settings: Mapping[str, Any]
    study: Any
    claims: tuple[Claim, ...]
    tables: tuple[NumberTable, ...]
    figures: tuple[TopicFigure, ...]
    texts: Mapping[str, str] = field(default_factory=dict)

    @property
    def holding(self) -> int:
        """Number of claims that hold."""
        return sum(claim.holds for claim in self.claims)


def number(value: float) -> str:
    """A number with ten significant digits, integers with grouped digits: enough to compare."""
    if math.isfinite(value) and value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:.2e}" if abs(value) < 1e-4 or abs(value) >= 1e7 else f"{value:.10g}"


def claims_table(claims: Sequence[Claim], render: Callable[..., str] = text_table) -> str:
    """Verdict, question, text, number and expected value of claims, by a function of `kerascv_course.core.tables`."""
    rows = [
        (
            "ok" if claim.holds else "NO",
            claim.where,
            f"{claim.text} [{claim.erratum}]" if claim.erratum else claim.text,
            number(claim.value),
            claim.expected,
        )
        for claim in claims
    ]
    return render(("", "question", "number", "computed", "expected"), rows, align="lllrl")


def topic_text(topic: Topic) -> str:
    """A topic for a terminal."""
    settings = ", ".join(f"{name} {value}" for name, value in topic.settings.items())
    parts = [topic.title + (f" ({settings})" if settings else ""), topic.about]
    parts += [f"{table.title}\n{text_table(table.head, table.rows)}" for table in topic.tables]
    return "\n\n".join([*parts, claims_table(topic.claims)])


def write_topic(topic: Topic, folder: Path, *, command: str = "") -> Path:
    """Write ``TOPIC.md``, ``TOPIC.json`` and the figures into a new or empty folder.

    Args:
        topic: its results.
        folder: where.
        command: that computed it, for the page.

    Returns:
        The Markdown page.

    Raises:
        InputError: the folder is not empty.
        WriteError: the disk is full, or the folder cannot be written.
    """
    check_new_folder(folder, "choose another --output")
    for figure in topic.figures:
        with atomic_write(folder / f"{figure.name}.png") as path:
            figure.draw().savefig(path, dpi=90)
    for name, text in topic.texts.items():
        write_text(folder / name, text)
    plain = {
        "topic": topic.name,
        "title": topic.title,
        "about": topic.about,
        "command": command,
        "settings": dict(topic.settings),
        "hold": topic.holding == len(topic.claims),
        "claims": [claim.plain() for claim in topic.claims],
        "tables": [asdict(table) for table in topic.tables],
        "figures": [{"file": f"{figure.name}.png", "caption": figure.caption} for figure in topic.figures],
        "versions": package_versions(),
    }
    write_text(folder / f"{topic.name}.json", json.dumps(plain, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    write_text(folder / f"{topic.name}.md", _markdown(topic, command))
    return folder / f"{topic.name}.md"


def write_index(pages: Mapping[str, Topic], folder: Path) -> Path:
    """Write ``index.md``: topics, links to their pages, and how many of their claims hold.

    Args:
        pages: path of a page within the folder to its topic.
        folder: where.

    Raises:
        WriteError: the disk is full, or the folder cannot be written.
    """
    rows = [(f"[{topic.title}]({page})", f"{topic.holding} of {len(topic.claims)}") for page, topic in pages.items()]
    write_text(folder / "index.md", f"# The theory of report 004\n\n{markdown_table(('topic', 'claims that hold'), rows)}\n")
    return folder / "index.md"


def _markdown(topic: Topic, command: str) -> str:
    parts = [f"# {topic.title}", topic.about]
    if command:
        parts.append(f"```bash\n{command}\n```")
    if topic.settings:
        parts.append(", ".join(f"{name} {value}" for name, value in topic.settings.items()) + ".")
    parts.append(claims_table(topic.claims, markdown_table))
    parts += [f"{table.title}:\n\n{markdown_table(table.head, table.rows)}" for table in topic.tables]
    parts += [f"![{figure.caption}]({figure.name}.png)\n\n*{figure.caption}*" for figure in topic.figures]
    return "\n\n".join(parts) + "\n"
