"""What a topic of the theory hands out, and how it becomes a folder with a Markdown page, its figures, and the same in JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kerascv_course.core.environment import package_versions
from kerascv_course.core.io import atomic_write, check_new_folder
from kerascv_course.theory.claims import Claim, aligned, claims_markdown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Drawing", "Findings", "Table", "write_findings", "write_index"]


@dataclass(frozen=True)
class Table:
    """Numbers in words.

    Attributes:
        title: above it.
        head: names of the columns.
        rows: cells, as many as names.
    """

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def text(self) -> str:
        """For a terminal."""
        lines = aligned([self.head, *self.rows], right=range(1, len(self.head)))
        return "\n".join([self.title, *(f"  {line}" for line in lines.splitlines())])

    def markdown(self) -> str:
        """For a page."""
        lines = ["| " + " | ".join(cell.replace("|", "∣") for cell in line) + " |" for line in (self.head, *self.rows)]
        return "\n".join([f"{self.title}:", "", lines[0], "|" + " --- |" * len(self.head), *lines[1:]])


@dataclass(frozen=True, eq=False)
class Drawing:
    """A figure that is drawn when it is wanted.

    Attributes:
        name: of its file, without the suffix.
        caption: what it shows.
        draw: makes it.
    """

    name: str
    caption: str
    draw: Callable[[], Figure]


@dataclass(frozen=True, eq=False)
class Findings:
    """What came of a topic.

    Attributes:
        topic: its name on the command line.
        title: in a line.
        about: what is shown, in a paragraph.
        settings: what it was computed with.
        claims: numbers and what they have to be.
        tables: further numbers.
        drawings: figures.
        texts: further files: name to content.
        study: the result object itself.
    """

    topic: str
    title: str
    about: str
    settings: Mapping[str, Any]
    claims: tuple[Claim, ...]
    tables: tuple[Table, ...]
    drawings: tuple[Drawing, ...]
    texts: Mapping[str, str]
    study: Any

    @property
    def hold(self) -> bool:
        """Whether every claim does."""
        return all(claim.holds for claim in self.claims)


def write_findings(findings: Findings, folder: Path, *, command: str = "") -> Path:
    """Write ``TOPIC.md``, ``TOPIC.json`` and the figures into a folder that is empty or not there.

    Args:
        findings: of a topic.
        folder: where.
        command: what made it, for the page.

    Returns:
        The Markdown page.

    Raises:
        InputError: the folder holds something.
        WriteError: the disk is full, or the folder cannot be written.
    """
    check_new_folder(folder, "choose another --output")
    for drawing in findings.drawings:
        with atomic_write(folder / f"{drawing.name}.png") as path:
            drawing.draw().savefig(path, dpi=90)
    for name, text in findings.texts.items():
        _write(folder / name, text)
    plain = {
        "topic": findings.topic,
        "title": findings.title,
        "about": findings.about,
        "command": command,
        "settings": dict(findings.settings),
        "hold": findings.hold,
        "claims": [claim.plain() for claim in findings.claims],
        "tables": [{"title": t.title, "head": list(t.head), "rows": [list(row) for row in t.rows]} for t in findings.tables],
        "figures": [{"file": f"{d.name}.png", "caption": d.caption} for d in findings.drawings],
        "versions": package_versions(),
    }
    _write(folder / f"{findings.topic}.json", json.dumps(plain, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    _write(folder / f"{findings.topic}.md", _markdown(findings, command))
    return folder / f"{findings.topic}.md"


def write_index(pages: Mapping[str, Findings], folder: Path) -> Path:
    """Write ``index.md``: topics with their pages, and how many of their numbers are what they have to be.

    Args:
        pages: a page's path within the folder to its findings.
        folder: where.

    Raises:
        WriteError: the disk is full, or the folder cannot be written.
    """
    lines = ["# The theory of report 004", "", "| topic | numbers that are what they have to be |", "| --- | --- |"]
    for page, findings in pages.items():
        held = sum(claim.holds for claim in findings.claims)
        lines.append(f"| [{findings.title}]({page}) | {held} of {len(findings.claims)} |")
    _write(folder / "index.md", "\n".join(lines) + "\n")
    return folder / "index.md"


def _markdown(findings: Findings, command: str) -> str:
    parts = [f"# {findings.title}", findings.about]
    if command:
        parts.append(f"```bash\n{command}\n```")
    if findings.settings:
        parts.append(", ".join(f"{name} {value}" for name, value in findings.settings.items()) + ".")
    parts.append(claims_markdown(findings.claims))
    parts += [table.markdown() for table in findings.tables]
    parts += [f"![{d.caption}]({d.name}.png)\n\n*{d.caption}*" for d in findings.drawings]
    return "\n\n".join(parts) + "\n"


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
