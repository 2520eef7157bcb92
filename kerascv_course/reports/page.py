"""A report as a page: what it holds, and its two forms, HTML that stands alone and Markdown with pictures beside it."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined

from kerascv_course.core.io import atomic_write
from kerascv_course.reports.targets import Target, difference

__all__ = [
    "Answer",
    "Code",
    "Comparison",
    "Finding",
    "Findings",
    "Missing",
    "Page",
    "Part",
    "Picture",
    "Section",
    "Source",
    "Table",
    "Text",
    "environment",
    "relative_link",
    "render_html",
    "write_page",
]


@dataclass(frozen=True)
class Source:
    """What made a number: a run, or functions of this package.

    Attributes:
        kind: which of the two.
        name: the run's folder; or the dotted names.
        command: what made the run; empty for functions.
        small: a small run on embedded data, which says nothing about the report's figure.
    """

    kind: Literal["run", "function"]
    name: str
    command: str = ""
    small: bool = False


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Code:
    """Lines as they are, such as a printed table or a log."""

    text: str
    caption: str
    source: Source


@dataclass(frozen=True)
class Table:
    """Rows under a head, with a caption; a long one may be folded, so that the page shows its caption until it is opened."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    source: Source
    folded: bool = False


@dataclass(frozen=True)
class Picture:
    """A figure.

    Attributes:
        name: of the file beside the Markdown page, without its ending.
        png: its bytes.
        caption: what is to be seen, with units.
        source: what made it.
    """

    name: str
    png: bytes
    caption: str
    source: Source


@dataclass(frozen=True)
class Answer:
    """A printed number with ours.

    Attributes:
        target: what is printed.
        ours: our value, number or text.
        source: what made ours.
        note: what else is to be said.
        holds: of a statement, whether it does; None: the two values are compared.
        given: the printed number is the course's rule, and ours is what came of it: they are not compared.
    """

    target: Target
    ours: Any
    source: Source
    note: str = ""
    holds: bool | None = None
    given: bool = False

    @property
    def shown(self) -> str:
        """Our value as text; a fraction has as many digits as the printed one, four at least."""
        if isinstance(self.ours, float):
            return f"{self.ours:.{max(4, len(self.target.value.partition('.')[2]))}f}"
        return f"{self.ours:,}" if isinstance(self.ours, int) else str(self.ours)

    @property
    def difference(self) -> str:
        """Ours less the printed one; or whether a statement holds. A small run on other data has none."""
        if self.source.small or self.given:
            return "–"
        if self.holds is not None:
            return "holds" if self.holds else "does not hold"
        return difference(self.target.value, self.ours)


@dataclass(frozen=True)
class Comparison:
    """The report's numbers beside ours."""

    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class Finding:
    """What a report prints wrongly, and the computation that shows it.

    Attributes:
        id: of the erratum.
        where: question, table or section.
        printed: what the report says.
        correct: what is right.
        lines: the computed evidence.
        source: what computed it.
    """

    id: str
    where: str
    printed: str
    correct: str
    lines: tuple[str, ...]
    source: Source


@dataclass(frozen=True)
class Findings:
    """Errors of the report where they belong."""

    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Missing:
    """What the page has no run or function for.

    Attributes:
        what: the figure or number.
        why: what is lacking.
        command: what would make it; may be empty.
        targets: printed numbers that stay unanswered.
    """

    what: str
    why: str
    command: str = ""
    targets: tuple[Target, ...] = ()


Part = Text | Code | Table | Picture | Comparison | Findings | Missing


@dataclass(frozen=True)
class Section:
    """A question of the course, in our words, and what answers it."""

    title: str
    question: str
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Page:
    """One report.

    Attributes:
        name: as on the command line.
        title: likewise, in words.
        about: the course, the report, and what the page is made from.
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

    def answers(self) -> list[Answer]:
        """All printed numbers that are answered."""
        return [answer for part in self.parts() if isinstance(part, Comparison) for answer in part.answers]

    def findings(self) -> list[Finding]:
        """All errors of the report that are shown."""
        return [finding for part in self.parts() if isinstance(part, Findings) for finding in part.findings]

    def missing(self) -> list[Missing]:
        """All that is lacking."""
        return [part for part in self.parts() if isinstance(part, Missing)]


def write_page(page: Page, folder: Path) -> tuple[Path, Path]:
    """Write ``NAME.html``, and ``NAME/README.md`` with its pictures; pages of that name are replaced.

    Args:
        page: what.
        folder: an existing folder; links to runs are relative to it where they can be.

    Returns:
        The two files.
    """
    html, markdown = folder / f"{page.name}.html", folder / page.name / "README.md"
    markdown.parent.mkdir(exist_ok=True)
    for part in page.parts():
        if isinstance(part, Picture):
            with atomic_write(markdown.parent / f"{part.name}.png") as path:
                path.write_bytes(part.png)
    for target, text in ((html, render_html(page, folder)), (markdown, render_markdown(page, markdown.parent))):
        with atomic_write(target) as path:
            path.write_text(text, encoding="utf-8")
    return html, markdown


def environment() -> Environment:
    """Templates of this package; all that is put into them is escaped."""
    return Environment(
        loader=PackageLoader("kerascv_course", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render_html(page: Page, folder: Path) -> str:
    """A page that needs nothing else: pictures and style are inside.

    Args:
        page: what.
        folder: where it will stand, for the links to the runs.
    """
    template = environment().get_template("reports/report.html.jinja")
    return template.render(
        page=page,
        small=SMALL,
        kind=lambda part: type(part).__name__,
        data=lambda png: base64.b64encode(png).decode("ascii"),
        link=lambda source: _link(source, folder),
    )


def _link(source: Source, folder: Path) -> str:
    """Address of a run's page from a folder; empty where there is none."""
    report = Path(source.name) / "report.html"
    if source.kind != "run" or not report.is_file():
        return ""
    return relative_link(report, folder)


def relative_link(path: Path, folder: Path) -> str:
    """Address of a file from a folder."""
    return quote(Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix())


def render_markdown(page: Page, folder: Path) -> str:
    """The same page as Markdown."""
    lines = [f"# {page.title}", "", page.about, ""]
    if page.small:
        lines += [f"> {SMALL}", ""]
    for section in page.sections:
        lines += [f"## {section.title}", "", f"*{section.question}*", ""]
        for part in section.parts:
            lines += [*_markdown(part, folder), ""]
    return "\n".join(lines)


SMALL = (
    "Made from small runs on embedded data, so that everything is to be seen in minutes: figures marked “small run” are no "
    "reproduction of the report's. Without --quick the page takes the best full runs that it finds."
)


def _markdown(part: Part, folder: Path) -> list[str]:
    match part:
        case Text():
            return [part.text]
        case Code():
            return [f"{part.caption} ({_named(part.source, folder)}):", "", "```text", part.text, "```"]
        case Table():
            return [*_rows(part.head, part.rows), "", f"{part.caption} ({_named(part.source, folder)})"]
        case Picture():
            return [f"![{part.caption}]({part.name}.png)", "", f"{part.caption} ({_named(part.source, folder)})"]
        case Comparison():
            rows = [
                (
                    answer.target.text,
                    answer.target.value,
                    answer.shown,
                    answer.difference,
                    "; ".join(filter(None, [_named(answer.source, folder), answer.note])),
                )
                for answer in part.answers
            ]
            return _rows(("what", "printed", "ours", "difference", "made by"), rows)
        case Findings():
            lines = []
            for one in part.findings:
                lines += [f"- **{one.id}** ({one.where}): printed “{one.printed}”; right: {one.correct}"]
                lines += [f"  - {line}" for line in one.lines]
                lines += [f"  - computed by {_named(one.source, folder)}"]
            return lines
        case Missing():
            made = f" It is made by `{part.command}`." if part.command else ""
            printed = "".join(f"\n- {target.text}: printed {target.value}, ours missing" for target in part.targets)
            return [f"**Missing: {part.what}.** {part.why}{made}{printed}"]


def _named(source: Source, folder: Path) -> str:
    if source.kind == "function":
        return f"`{source.name.replace('kerascv_course.', '')}`"
    link = _link(source, folder)
    run = f"[run {Path(source.name).name}]({link})" if link else f"run {Path(source.name).name}"
    return f"small {run}" if source.small else run


def _rows(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    table = [list(head), ["---"] * len(head), *rows]
    return ["| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", "<br>") for cell in row) + " |" for row in table]
