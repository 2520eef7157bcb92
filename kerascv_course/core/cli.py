"""Command lines: one argparse style for all commands, and options made from frozen dataclasses.

A field of a dataclass is an option, its annotation is the option's type, the string under it is its help text; a nested dataclass is
a group whose options are called ``--section.name``. Standard library only.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import inspect
import re
import shutil
import sys
import textwrap
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from kerascv_course._version import __version__
from kerascv_course.core.errors import nearest_names
from kerascv_course.core.schema import describe, parse_words, to_words

__all__ = ["Parser", "add_options", "apply_options", "field_docs"]

T = TypeVar("T")

#: Columns of a help text that is not written to a terminal, and where the descriptions begin.
WIDTH, COLUMN = 120, 42


class Parser(argparse.ArgumentParser):
    """argparse without abbreviations, with ``--version``, and with the nearest spelling of a mistyped option or command."""

    def __init__(self, **options: Any) -> None:
        width = max(shutil.get_terminal_size((WIDTH, 24)).columns - 2, 80)
        options.setdefault("allow_abbrev", False)
        options.setdefault("formatter_class", lambda prog: argparse.HelpFormatter(prog, max_help_position=COLUMN, width=width))
        if Path(sys.argv[0]).stem == "kerascv":
            options |= {key: _as_kerascv(options[key]) for key in ("prog", "usage") if options.get(key)}
        super().__init__(**options)
        self.add_argument("--version", action="version", version=f"kerascv_course {__version__}")

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Parse; an option that does not exist ends with exit code 2 and the nearest that do."""
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self._refuse(unknown)
        return parsed

    def _refuse(self, unknown: Sequence[str]) -> NoReturn:
        word = next((word for word in unknown if word.startswith("-")), unknown[0])
        name = word.split("=")[0]
        near = nearest_names(name, sorted(_option_strings(self)))
        self.error(f"unrecognized arguments: {' '.join(unknown)}" + (f"; did you mean {' or '.join(near)}?" if near else ""))

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            near = nearest_names(str(value), map(str, action.choices))
            hint = f"did you mean {' or '.join(near)}?" if near else f"choose from {', '.join(map(str, action.choices))}"
            raise argparse.ArgumentError(action, f"invalid choice: {value!r}; {hint}")


def _as_kerascv(text: str) -> str:
    """The same command by the console script: ``python -m kerascv_course.train`` is ``kerascv train``."""
    text = re.sub(r"^python -m kerascv_course\.", "kerascv ", text)
    return re.sub(r"^python -m export\b ?", "kerascv ", text) if text != "python -m export" else "kerascv export"


def _option_strings(parser: argparse.ArgumentParser) -> set[str]:
    """Every option of a parser and its subcommands."""
    found: set[str] = set()
    for action in parser._actions:
        if action.help is not argparse.SUPPRESS:
            found |= set(action.option_strings)
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                found |= _option_strings(child)
    return found


@dataclass(frozen=True)
class _Option:
    """One option: where its value belongs, and what it is.

    Attributes:
        path: field names from the outermost dataclass, with dots.
        annotation: type of the field.
        default: value of the field.
        text: help text.
    """

    path: str
    annotation: Any
    default: Any
    text: str

    @property
    def flag(self) -> str:
        """Spelling on the command line."""
        return "--" + self.path.replace("_", "-")

    @property
    def negative(self) -> str:
        """Spelling that turns a boolean off: ``--no-shuffle``, ``--export.no-enabled``."""
        section, dot, name = self.flag.removeprefix("--").rpartition(".")
        return f"--{section}{dot}no-{name}"


def add_options(parser: argparse.ArgumentParser, default: Any, *, skip: Sequence[str] = (), brief: bool = False) -> None:
    """Add an option for each field of a dataclass; `apply_options` reads them back.

    Args:
        parser: receives the options.
        default: an instance; its values are the defaults.
        skip: fields of `default` that do not become options.
        brief: help texts of one line each.
    """
    for title, options in _sections(default, skip):
        group = parser.add_argument_group(title) if title else parser
        for option in options:
            text = _help(option, brief)
            if option.annotation is bool:
                # Both spellings are accepted; help shows the one that changes the default.
                for flag, value in ((option.flag, True), (option.negative, False)):
                    shown = value is not option.default
                    group.add_argument(
                        flag,
                        dest=option.path,
                        action="store_const",
                        const=value,
                        default=argparse.SUPPRESS,
                        help=text if shown else argparse.SUPPRESS,
                    )
                continue
            form = describe(option.annotation)
            metavar = form.metavar.removesuffix("|None")
            group.add_argument(
                option.flag, dest=option.path, nargs=form.nargs, metavar=metavar, default=argparse.SUPPRESS, help=text
            )


def apply_options(default: T, arguments: argparse.Namespace, *, skip: Sequence[str] = ()) -> T:
    """A copy of a dataclass with the values that a command line gives.

    Raises:
        InputError: a value of the wrong type, or values that contradict each other.
    """
    given = {}
    for _, options in _sections(default, skip):
        for option in options:
            if hasattr(arguments, option.path):
                words = getattr(arguments, option.path)
                if option.annotation is not bool:
                    words = parse_words(option.annotation, [words] if isinstance(words, str) else words, what=option.flag)
                given[option.path] = words
    replaced: T = _replace(default, given)
    return replaced


def _replace(default: Any, given: dict[str, Any]) -> Any:
    changes: dict[str, Any] = {}
    nested: dict[str, dict[str, Any]] = {}
    for path, value in given.items():
        name, dot, rest = path.partition(".")
        if dot:
            nested.setdefault(name, {})[rest] = value
        else:
            changes[name] = value
    for name, values in nested.items():
        changes[name] = _replace(getattr(default, name), values)
    return dataclasses.replace(default, **changes) if changes else default


def _sections(default: Any, skip: Sequence[str] = (), prefix: str = "") -> Iterator[tuple[str, list[_Option]]]:
    """Titles and options of a dataclass and of those within it."""
    hints = typing.get_type_hints(type(default), include_extras=True)
    docs = field_docs(type(default))
    options, inner = [], []
    for field in dataclasses.fields(default):
        if field.name in skip or not field.init:
            continue
        value = getattr(default, field.name)
        if dataclasses.is_dataclass(value):
            inner.append((f"{prefix}{field.name}.", value))
        else:
            options.append(_Option(prefix + field.name, hints[field.name], value, docs.get(field.name, "")))
    summary = (inspect.getdoc(type(default)) or "").split("\n")[0].removesuffix(".")
    title = f"{prefix.removesuffix('.')} ({summary})" if prefix else ""
    if options:
        yield title, options
    for name, value in inner:
        yield from _sections(value, (), name)


def field_docs(kind: type) -> dict[str, str]:
    """The strings under the fields of a dataclass and its bases, by field name, each on one line."""
    docs: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if base is object or not dataclasses.is_dataclass(base):
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assigned = None
        for node in typing.cast(ast.ClassDef, tree).body:
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and assigned:
                docs[assigned] = " ".join(str(node.value.value).split())
            assigned = node.target.id if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) else None
    return docs


def _help(option: _Option, brief: bool) -> str:
    default, shown = option.default, ""
    if default not in (None, "", (), {}) and not isinstance(default, bool):
        shown = f" (default: {' '.join(to_words(default))})"
    text = option.text.removesuffix(".")
    if default is True and option.annotation is bool:
        text = _negated(text)
    room = WIDTH - COLUMN - 4 - len(shown)
    if brief and len(text) > room:
        sentence = re.split(r"(?:\.|;|:) ", text)[0]
        text = sentence if len(sentence) <= room else textwrap.shorten(text, room, placeholder=" …")
    return (text + shown).replace("%", "%%")


def _negated(text: str) -> str:
    """``Shuffle the images.`` as the help of ``--no-shuffle``; a scope such as ``tiny:`` stays in front."""
    scope, colon, rest = text.partition(": ")
    if not colon or " " in scope:
        scope, rest = "", text
    negated = f"do not {rest[:1].lower()}{rest[1:]}"
    return f"{scope}: {negated}" if scope else f"{negated[:1].upper()}{negated[1:]}"
