from __future__ import annotations

import csv
import io

import pytest

from kerascv_course.core.tables import csv_table, format_number, format_percent, markdown_table, text_table

HEAD = ("model", "parameters", "accuracy", "exported")
ROWS = [("lenet5", 61_706, 0.98765, True), ("a|b", None, 1e-7, False)]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "—"),
        (0, "0"),
        (1234567, "1,234,567"),
        (2.0, "2"),
        (0.98765, "0.9877"),
        (123456.7, "123,457"),
        (1e-7, "1e-07"),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
    ],
)
def test_format_number(value: float | None, text: str) -> None:
    assert format_number(value) == text


def test_text_table_aligns_numbers_right() -> None:
    assert text_table(HEAD, ROWS).splitlines() == [
        "model   parameters  accuracy  exported",
        "──────────────────────────────────────",
        "lenet5      61,706    0.9877  yes",
        "a|b              —     1e-07  no",
    ]


def test_text_table_without_head_and_with_alignment() -> None:
    assert text_table((), [("a", "1"), ("bcd", "22")], align="rl").splitlines() == ["  a  1", "bcd  22"]
    assert text_table(("a", "b"), []).splitlines() == ["a  b", "────"]


def test_markdown_table_escapes_and_aligns() -> None:
    lines = markdown_table(HEAD, ROWS).splitlines()
    assert lines[1] == "|:--------|-------------:|-----------:|:-----------|"
    assert lines[3].startswith("| a\\|b")
    assert len(markdown_table(HEAD, []).splitlines()) == 3
    assert all(line.replace("\\|", "").count("|") == 5 for line in lines)


def test_csv_table_keeps_full_precision() -> None:
    rows = list(csv.reader(io.StringIO(csv_table(HEAD, ROWS))))
    assert rows == [list(HEAD), ["lenet5", "61706", "0.98765", "True"], ["a|b", "", "1e-07", "False"]]


def test_percentages_have_a_space():
    assert (format_percent(0.754), format_percent(1), format_percent(0.98765, 2)) == ("75 %", "100 %", "98.77 %")
