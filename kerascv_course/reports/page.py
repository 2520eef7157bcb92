"""The page of a course report: its parts, and its two forms, a single HTML file and Markdown with images beside it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from kerascv_course.core.html import render_html
from kerascv_course.core.io import atomic_write, write_text
from kerascv_course.core.tables import markdown_table
from kerascv_course.reports.checks.evidence import Evidence
from kerascv_course.reports.targets import Target, difference

__all__ = [
    "CodePart",
    "ComparedNumber",
    "ErrataPart",
    "FigurePart",
    "MissingPart",
    "NumbersPart",
    "Page",
    "Part",
    "Section",
    "Source",
    "TablePart",
    "TextPart",
    "relative_link",
    "write_page",
]

SMALL_NOTE = (
    "This page is made from small runs on embedded data, as a preview within minutes: numbers marked “small run” do not reproduce the "
    "report's. Without --quick the page uses the best full runs that it finds."
)


@dataclass(frozen=True)
class Source:
    """Where a number comes from: a run, or functions of this package.

    Attributes:
        kind: which of the two.
        name: folder of the run; or dotted names.
        command: that made the run; empty for functions.
        small: a small run on embedded data, not comparable with the report.
    """

    kind: Literal["run", "function"]
    name: str
    command: str = ""
    small: bool = False


@dataclass(frozen=True)
class TextPart:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class CodePart:
    """Preformatted lines, such as a printed table or a log."""

    text: str
    caption: str
    source: Source


@dataclass(frozen=True)
class TablePart:
    """A table with a caption; a folded one shows only its caption until it is opened."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    source: Source
    folded: bool = False


@dataclass(frozen=True)
class FigurePart:
    """A figure.

    Attributes:
        name: of the file beside the Markdown page, without suffix.
        png: its bytes.
        caption: what it shows, with units.
        source: what made it.
    """

    name: str
    png: bytes
    caption: str
    source: Source


@dataclass(frozen=True)
class ComparedNumber:
    """A printed number and ours.

    Attributes:
        target: the printed number.
        ours: our value, number or text.
        source: what made ours.
        note: remark.
        holds: for a statement, whether it holds; None: the two values are compared.
        given: the printed number is a rule of the course and ours its outcome: they are not compared.
    """

    target: Target
    ours: Any
    source: Source
    note: str = ""
    holds: bool | None = None
    given: bool = False

    @property
    def shown(self) -> str:
        """Our value as text; floats with as many decimals as the printed number, at least four."""
        if isinstance(self.ours, float):
            return f"{self.ours:.{max(4, len(self.target.value.partition('.')[2]))}f}"
        return f"{self.ours:,}" if isinstance(self.ours, int) else str(self.ours)

    @property
    def difference(self) -> str:
        """Ours minus the printed number; or whether a statement holds; – for small runs and rules."""
        if self.source.small or self.given:
            return "–"
        if self.holds is not None:
            return "holds" if self.holds else "does not hold"
        return difference(self.target.value, self.ours)


@dataclass(frozen=True)
class NumbersPart:
    """Printed numbers compared with ours."""

    numbers: tuple[ComparedNumber, ...]


@dataclass(frozen=True)
class ErrataPart:
    """Errors of the report with their evidence."""

    evidence: tuple[Evidence, ...]


@dataclass(frozen=True)
class MissingPart:
    """A part for which there is no run or function.

    Attributes:
        what: the figure or number.
        why: the reason.
        command: that would make it; may be empty.
        targets: printed numbers without ours.
    """

    what: str
    why: str
    command: str = ""
    targets: tuple[Target, ...] = ()


Part = TextPart | CodePart | TablePart | FigurePart | NumbersPart | ErrataPart | MissingPart


@dataclass(frozen=True)
class Section:
    """A question of the course, in our words, and the parts that answer it."""

    title: str
    question: str
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Page:
    """A report's page.

    Attributes:
        name: of the report on the command line.
        title: of the report.
        about: course and assignment, in a sentence.
        sections: in the report's order.
        small: made from small runs on embedded data.
    """

    name: str
    title: str
    about: str
    sections: tuple[Section, ...]
    small: bool

    def parts(self) -> Iterator[Part]:
        """All parts of all sections."""
        for section in self.sections:
            yield from section.parts

    def numbers(self) -> list[ComparedNumber]:
        """All compared numbers."""
        return [number for part in self.parts() if isinstance(part, NumbersPart) for number in part.numbers]

    def evidence(self) -> list[Evidence]:
        """All errata with their evidence."""
        return [one for part in self.parts() if isinstance(part, ErrataPart) for one in part.evidence]

    def missing(self) -> list[MissingPart]:
        """All missing parts."""
        return [part for part in self.parts() if isinstance(part, MissingPart)]


def write_page(page: Page, folder: Path) -> tuple[Path, Path]:
    """Write ``NAME.html``, and ``NAME/README.md`` with its figures; existing pages of that name are replaced.

    Args:
        page: to write.
        folder: an existing folder; links to runs are relative to it.

    Returns:
        The two files.
    """
    html, markdown = folder / f"{page.name}.html", folder / page.name / "README.md"
    markdown.parent.mkdir(exist_ok=True)
    for part in page.parts():
        if isinstance(part, FigurePart):
            with atomic_write(markdown.parent / f"{part.name}.png") as path:
                path.write_bytes(part.png)
    values = {"page": page, "small_note": SMALL_NOTE, "kind": lambda part: type(part).__name__}
    write_text(html, render_html("kerascv_course.reports", "report.html.jinja", link=lambda one: _link(one, folder), **values))
    write_text(markdown, _render_markdown(page, markdown.parent))
    return html, markdown


def relative_link(path: Path, folder: Path) -> str:
    """URL of a file relative to a folder."""
    return quote(Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix())


def _link(source: Source, folder: Path) -> str:
    """URL of a run's page relative to a folder; empty if there is none."""
    report = Path(source.name) / "report.html"
    return relative_link(report, folder) if source.kind == "run" and report.is_file() else ""


def _render_markdown(page: Page, folder: Path) -> str:
    lines = [f"# {page.title}", "", page.about, ""]
    if page.small:
        lines += [f"> {SMALL_NOTE}", ""]
    for section in page.sections:
        lines += [f"## {section.title}", "", f"*{section.question}*", ""]
        for part in section.parts:
            lines += [*_markdown(part, folder), ""]
    return "\n".join(lines)


def _markdown(part: Part, folder: Path) -> list[str]:
    match part:
        case TextPart():
            return [part.text]
        case CodePart():
            return [f"{part.caption} ({_name(part.source, folder)}):", "", "```text", part.text, "```"]
        case TablePart():
            return [markdown_table(part.head, part.rows), "", f"{part.caption} ({_name(part.source, folder)})"]
        case FigurePart():
            return [f"![{part.caption}]({part.name}.png)", "", f"{part.caption} ({_name(part.source, folder)})"]
        case NumbersPart():
            rows = []
            for one in part.numbers:
                source = "; ".join(filter(None, [_name(one.source, folder), one.note]))
                rows.append((one.target.text, one.target.value, one.shown, one.difference, source))
            return [markdown_table(("number", "printed", "ours", "difference", "source"), rows)]
        case ErrataPart():
            lines = []
            for evidence in part.evidence:
                erratum = evidence.erratum
                lines += [f"- **{erratum.id}** ({erratum.where}): printed “{erratum.printed}”; correct: {erratum.correct}"]
                lines += [f"  - {line}" for line in evidence.lines]
                lines += [f"  - computed by `{evidence.source.replace('kerascv_course.', '')}`"]
            return lines
        case MissingPart():
            command = f" Run `{part.command}`." if part.command else ""
            printed = "".join(f"\n- {target.text}: printed {target.value}, ours missing" for target in part.targets)
            return [f"**Missing: {part.what}.** {part.why}{command}{printed}"]


def _name(source: Source, folder: Path) -> str:
    if source.kind == "function":
        return f"`{source.name.replace('kerascv_course.', '')}`"
    link = _link(source, folder)
    run = f"[run {Path(source.name).name}]({link})" if link else f"run {Path(source.name).name}"
    return f"small {run}" if source.small else run
