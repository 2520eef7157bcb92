"""What became of each entry of a checkpoint and of each variable of a model; standard library only."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LoadedEntry", "LoadingReport", "MismatchedEntry"]


@dataclass(frozen=True)
class LoadedEntry:
    """A variable that was loaded.

    Attributes:
        variable: ``layer/variable`` of the model.
        entry: its name in the source.
        shape: in Keras's layout.
    """

    variable: str
    entry: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class MismatchedEntry:
    """A variable whose entry has another shape.

    Attributes:
        variable: ``layer/variable`` of the model.
        entry: its name in the source.
        expected: the variable's shape.
        found: the entry's shape, in Keras's layout where it could be brought into it.
    """

    variable: str
    entry: str
    expected: tuple[int, ...]
    found: tuple[int, ...]


@dataclass(frozen=True)
class LoadingReport:
    """What `load_weights` did; ``str(report)`` is a table.

    Attributes:
        source: file or hub name.
        loaded: variables that were loaded.
        missing: variables of the model that the source has no entry for.
        unexpected: entries of the source that the model has no variable for; they were discarded.
        mismatched: variables whose entry has another shape; they keep their values.
        ignored: entries that carry no weights, such as PyTorch's counters of batches.
    """

    source: str
    loaded: tuple[LoadedEntry, ...] = ()
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[MismatchedEntry, ...] = ()
    ignored: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Model and source fit entry by entry."""
        return not (self.missing or self.unexpected or self.mismatched)

    @property
    def summary(self) -> str:
        """One line of counts."""
        return (
            f"{self.source}: {len(self.loaded)} loaded, {len(self.missing)} missing, {len(self.unexpected)} unexpected, "
            f"{len(self.mismatched)} of another shape"
        )

    @property
    def problems(self) -> tuple[str, ...]:
        """A line for each entry or variable that did not fit."""
        return (
            *(f"missing      {name}" for name in self.missing),
            *(f"unexpected   {name}" for name in self.unexpected),
            *(
                f"other shape  {one.variable} is {_shape(one.expected)}, {one.entry} is {_shape(one.found)}"
                for one in self.mismatched
            ),
        )

    def __str__(self) -> str:
        rows = [("state", "variable", "entry", "shape")]
        rows += [("loaded", one.variable, one.entry, _shape(one.shape)) for one in self.loaded]
        rows += [
            ("other shape", one.variable, one.entry, f"{_shape(one.expected)}, found {_shape(one.found)}")
            for one in self.mismatched
        ]
        rows += [("missing", name, "", "") for name in self.missing]
        rows += [("unexpected", "", name, "") for name in self.unexpected]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        rows.insert(1, tuple("-" * width for width in widths))  # type: ignore[arg-type]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([*lines, self.summary])


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "a number"
