"""The theory on the command line: ``python -m kerascv_course.theory rmsprop``.

Thin: every command parses, calls one function of `topics`, prints its numbers and writes its page.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kerascv_course.core.errors import run_cli
from kerascv_course.core.io import check_new_folder, free_path

if TYPE_CHECKING:
    from kerascv_course.theory.pages import Findings

__all__ = ["main"]

#: Topic to what it shows, in the order of the report.
SHOWS = {
    "least-squares": "mini-batch descent and the minimum-norm solution; which optimisers leave the row space (1.1)",
    "rmsprop": "RMSProp's counter-example, the report's settings and the right ones; Keras's optimisers (1.2)",
    "graph": "the computation graph of a few steps (2.1.1)",
    "hypergradient": "the trained loss's gradient by learning rate and decay; the best rate; convexity (2.2)",
    "memory": "measured memory of reverse mode, checkpoints and forward mode (2.1.2)",
    "chaos": "what large learning rates do to that gradient (2.1.3)",
    "decay": "L2 penalty against weight decay, and Keras's convention (2.3)",
    "all": "all of them",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the arguments, compute, print and write; 0, or 1 where a number is not what it has to be."""
    words = sys.argv[1:] if argv is None else list(argv)
    args = vars(_parser().parse_args(words))
    topic, output = args.pop("topic"), args.pop("output")
    command = "python -m kerascv_course.theory " + shlex.join(words)

    from kerascv_course.theory.pages import write_findings, write_index
    from kerascv_course.theory.topics import TOPICS

    folder = free_path(Path("runs") / "theory" / topic) if output is None else output
    check_new_folder(folder, "choose another --output")
    topics = list(TOPICS) if topic == "all" else [topic]
    failed, made = 0, {}
    for number, name in enumerate(topics):
        given = {key: value for key, value in args.items() if topic != "all"}
        findings = TOPICS[name](**given)
        print(("\n\n" if number else "") + _text(findings))
        place = folder / name if topic == "all" else folder
        page = write_findings(findings, place, command=command)
        made[page.relative_to(folder).as_posix()] = findings
        print(f"\npage: {page}")
        failed += sum(not claim.holds for claim in findings.claims)
    if topic == "all":
        print(f"\nindex: {write_index(made, folder)}")
    if failed:
        print(
            f"\n{failed} of the numbers are not what they have to be (NO): more --steps or another --learning-rate may be needed"
        )
    return 1 if failed else 0


def _text(findings: Findings) -> str:
    from kerascv_course.theory.claims import claims_text

    settings = ", ".join(f"{name} {value}" for name, value in findings.settings.items())
    parts = [f"{findings.title}" + (f" ({settings})" if settings else ""), findings.about]
    parts += [table.text() for table in findings.tables]
    return "\n\n".join([*parts, claims_text(findings.claims)])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m kerascv_course.theory",
        description="The theory of report 004, run: every statement as a computed number beside what it has to be, with figures.",
        epilog="Exit code 1: a number is not what it has to be.",
    )
    commands = parser.add_subparsers(title="topics", required=True, metavar="TOPIC", dest="topic")
    made = {name: commands.add_parser(name, help=text, description=text[0].upper() + text[1:]) for name, text in SHOWS.items()}
    for command in made.values():
        command.add_argument("--output", type=Path, metavar="DIR", help="new folder for the page; default: runs/theory/TOPIC")

    def add(topic: str, *names: str, **options: Any) -> None:
        made[topic].add_argument(*names, **options)

    for topic, rows, columns in (("least-squares", 10, 30), ("hypergradient", 12, 8)):
        add(topic, "--rows", type=int, default=rows, metavar="N", help="rows of data (%(default)s)")
        add(topic, "--columns", type=int, default=columns, metavar="D", help="inputs of each (%(default)s)")
    add("least-squares", "--rank", type=int, metavar="R", help="of the data, to see what rank-deficient data do")
    add(
        "least-squares",
        "--data",
        type=Path,
        metavar="FILE.csv",
        help="your own rows, numbers parted by commas, the target last",
    )
    add("least-squares", "--optimizer", dest="optimizers", nargs="+", default=(), metavar="NAME",
        help="such as sgd momentum adam, or a class of keras.optimizers with --learning-rate; default: all choices")  # fmt: skip
    for topic, steps, text in (
        ("least-squares", 4000, "of each descent"),
        ("rmsprop", 200, "of the paths"),
        ("graph", 2, "of the graph"),
        ("hypergradient", 100, "of the run that is differentiated"),
        ("decay", 200, "of each run"),
    ):
        add(topic, "--steps", type=int, default=steps, metavar="T", help=f"{text} (%(default)s)")
    for topic, default in (("least-squares", None), ("rmsprop", None), ("hypergradient", None), ("decay", 0.05)):
        shown = "%(default)s" if default else "the report's, 2/7" if topic == "rmsprop" else "one that suits"
        add(
            topic,
            "--learning-rate",
            dest="rate",
            type=_number,
            default=default,
            metavar="RATE",
            help=f"such as 0.02 or 2/7 ({shown})",
        )
    for topic in ("least-squares", "decay"):
        usual = 4 if topic == "least-squares" else None
        add(topic, "--batch-size", type=int, default=usual, metavar="B", help=f"rows a step ({usual or 'all'})")
    add("rmsprop", "--beta", type=_number, metavar="BETA", help="of the mean of squares (0.91)")
    add("rmsprop", "--epsilon", type=_number, metavar="EPS", help="beside the root (0.2)")
    for topic in ("hypergradient", "decay"):
        add(
            topic,
            "--decay",
            type=_number,
            default=0.01,
            metavar="DECAY",
            help="λ̃ of the penalty, or λ of the weight decay (%(default)s)",
        )
    add(
        "memory",
        "--times",
        type=int,
        nargs="+",
        default=(16, 64, 144, 256, 400, 625, 900),
        metavar="T",
        help="numbers of steps",
    )
    add("memory", "--columns", type=int, default=4000, metavar="D", help="weights (%(default)s)")
    add("chaos", "--points", type=int, default=1000, metavar="N", help="rates between 0 and 2 (%(default)s)")
    add("chaos", "--times", type=int, nargs="+", default=(5, 20, 80), metavar="T", help="steps of the curves (5 20 80)")
    add("chaos", "--start", type=_number, default=0.5, metavar="U", help="where u starts (%(default)s)")
    for topic in ("least-squares", "hypergradient", "decay"):
        add(topic, "--seed", type=int, default=0, metavar="SEED", help="of the data (%(default)s)")
    for topic in ("rmsprop", "hypergradient", "chaos", "decay"):
        add(
            topic,
            "--no-keras",
            dest="keras",
            action="store_false",
            help="leave Keras and TensorFlow out: done in a second or two",
        )
    return parser


def _number(text: str) -> float:
    """A decimal number or a fraction."""
    try:
        return float(Fraction(text))
    except (ValueError, ZeroDivisionError, OverflowError):
        raise argparse.ArgumentTypeError(f"not a number such as 0.02 or 2/7: {text!r}") from None


if __name__ == "__main__":
    run_cli(main)
