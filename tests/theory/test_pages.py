"""Claims, pages and the command line of the theory."""

from __future__ import annotations

import json

import pytest

from kerascv_course.core.errors import InputError
from kerascv_course.core.io import check_new_folder
from kerascv_course.core.tables import markdown_table
from kerascv_course.theory import __main__ as command
from kerascv_course.theory.__main__ import main
from kerascv_course.theory.pages import Claim, claims_table, number
from kerascv_course.theory.topics import TOPICS


def test_claim_verdicts():
    assert Claim("1", "", 0.5, "=", 0.5004, 1e-3).holds and not Claim("1", "", 0.5, "=", 0.502, 1e-3).holds
    assert Claim("1", "", 1, "<", 2).holds and not Claim("1", "", 2, "<", 2).holds and Claim("1", "", 3, ">", 2).holds
    broken = Claim("1", "a|b", float("nan"), "<", 1, erratum="E004-01")
    assert not broken.holds and broken.plain()["value"] is None
    assert "NO" in claims_table([broken]) and "a\\|b [E004-01]" in claims_table([broken], markdown_table)
    with pytest.raises(InputError, match=r"relation is =, < or >; received '≤'"):
        Claim("1", "", 1, "≤", 2)


@pytest.mark.parametrize(
    ("value", "text"), [(49728, "49,728"), (0.33012871, "0.33012871"), (2e-15, "2.00e-15"), (1e30, "1.00e+30")]
)
def test_number_format(value, text):
    assert number(value) == text


def test_without_arguments_all_topics_are_listed(capsys):
    assert main([]) == 2
    told = capsys.readouterr().out
    assert all(f"\n    {name}" in told for name in command.TOPICS)


def test_every_topic_has_a_command():
    assert [*TOPICS, "all"] == list(command.TOPICS)


@pytest.mark.parametrize("topic", ["graph", "memory", "chaos", "rmsprop", "hypergradient", "decay"])
def test_command_writes_page_figures_and_json(topic, tmp_path, capsys):
    more = {"memory": ["--times", "9", "100"], "chaos": ["--points", "200"]}.get(topic, [])
    keras = ["--no-keras"] if topic in ("rmsprop", "hypergradient", "chaos", "decay") else []
    assert main([topic, *more, *keras, "--output", str(tmp_path / "new")]) == 0
    output = capsys.readouterr().out
    assert "ok  " in output and "NO  " not in output and f"page: {tmp_path / 'new' / topic}.md" in output
    plain = json.loads((tmp_path / "new" / f"{topic}.json").read_text(encoding="utf-8"))
    page = (tmp_path / "new" / f"{topic}.md").read_text(encoding="utf-8")
    assert plain["hold"] and plain["claims"] and plain["command"].startswith(f"python -m kerascv_course.theory {topic}")
    for figure in plain["figures"]:
        picture = (tmp_path / "new" / figure["file"]).read_bytes()
        assert picture.startswith(b"\x89PNG") and figure["caption"] and f"]({figure['file']})" in page


def test_nothing_is_overwritten(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["graph"]) == main(["graph", "--steps", "3"]) == 0
    assert (tmp_path / "runs/theory/graph/graph.md").is_file() and (tmp_path / "runs/theory/graph-2/graph.dot").is_file()
    with pytest.raises(InputError, match=r"runs/theory/graph already exists and is never overwritten: choose another --output"):
        main(["graph", "--output", "runs/theory/graph"])
    with pytest.raises(InputError, match="is a file, not a folder: choose another"):
        check_new_folder(tmp_path / "runs/theory/graph/graph.md", "choose another")
    capsys.readouterr()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["least-squares", "--batch-size", "11"], r"takes 1 to 10 rows.*received 11"),
        (["least-squares", "--rank", "4"], r"have rank 4"),
        (["least-squares", "--rows", "40"], r"more columns than rows"),
        (["least-squares", "--learning-rate", "-0.1"], r"above 0 and finite; received -0.1"),
        (["least-squares", "--data", "nowhere.csv"], r"cannot read nowhere.csv"),
        (["rmsprop", "--learning-rate", "-2", "--no-keras"], r"above 0 and finite; received -2"),
        (["rmsprop", "--beta", "1", "--no-keras"], r"β must be 0 or more and below 1"),
        (["hypergradient", "--learning-rate", "3", "--no-keras"], r"diverged.*at step \d+ of 100.*needs a rate below"),
        (["decay", "--learning-rate", "9", "--no-keras"], r"diverged.*at step \d+"),
        (["graph", "--steps", "20"], r"1 to 9 steps"),
    ],
)
def test_command_refuses_invalid_options(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        main(words)
    assert not list(tmp_path.iterdir()), "no files may remain"


@pytest.mark.parametrize("word", ["nan", "1/0", "fast", "inf"])
def test_command_refuses_malformed_rates(word, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["rmsprop", "--learning-rate", word])
    assert stopped.value.code == 2 and "not a number such as 0.02 or 2/7" in capsys.readouterr().err


def test_too_few_steps_end_with_exit_code_1(tmp_path, capsys):
    assert main(["decay", "--steps", "1", "--no-keras", "--output", str(tmp_path)]) == 1
    assert "NO  2.3.3" in capsys.readouterr().out
