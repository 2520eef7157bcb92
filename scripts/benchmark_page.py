"""Pages of benchmarks that are measured part by part: a part that is not measured anew stays as it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kerascv_course.core.environment import describe_machine, package_versions
from kerascv_course.core.io import atomic_write

__all__ = ["machine", "read_parts", "write_page"]


def machine(*packages: str) -> str:
    """Processor, cores, GPUs and versions, in a line."""
    found, versions = describe_machine(), package_versions()
    names = ", ".join(f"{name} {versions[name]}" for name in ("tensorflow", "keras"))
    return (
        f"{found['processor']}, {found['cores']} cores, {', '.join(found['gpus']) or 'no GPU'}; {', '.join([names, *packages])}"
    )


def read_parts(path: Path) -> dict[str, str]:
    """Parts of an earlier page, by name."""
    if not path.is_file():
        return {}
    pieces = path.read_text(encoding="utf-8").split("<!-- ")[1:]
    return {name: text.strip() for name, text in (piece.split(" -->\n", 1) for piece in pieces)}


def write_page(path: Path, head: str, parts: dict[str, str], order: Sequence[str]) -> None:
    """Write the head and the parts: those that `order` names in its order, then the others (which somebody wrote by hand)."""
    names = [*(name for name in order if name in parts), *(name for name in parts if name not in order)]
    text = "\n\n".join([head, *(f"<!-- {name} -->\n{parts[name]}" for name in names)])
    with atomic_write(path) as staged:
        staged.write_text(text + "\n", encoding="utf-8")
