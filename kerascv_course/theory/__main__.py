"""The theory of report 004 on the command line: ``python -m kerascv_course.theory rmsprop``."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from kerascv_course.core.cli import Parser
from kerascv_course.core.errors import run_cli
from kerascv_course.core.lock import new_folder
from kerascv_course.core.progress import say, track

__all__ = ["main"]

#: Topic to its help text, in the order of the report.
TOPICS = {
    "least-squares": "mini-batch descent and the minimum-norm solution; which optimizers leave the row space (1.1)",
    "rmsprop": "RMSProp's counter-example with the report's and with correct settings; Keras's optimizers (1.2)",
    "graph": "the computation graph of a few steps (2.1.1)",
    "hypergradient": "derivatives of the trained loss by learning rate and decay; the best rate; convexity (2.2)",
    "memory": "measured memory of reverse mode, checkpoints and forward mode (2.1.2)",
    "chaos": "what large learning rates do to that derivative (2.1.3)",
    "decay": "L2 penalty against weight decay, and Keras's convention (2.3)",
    "all": "all topics",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the arguments, compute, print and write; 0, 1 if a claim does not hold, 2 without arguments."""
    words = sys.argv[1:] if argv is None else list(argv)
    if not words:
        build_parser().print_help()
        return 2
    args = vars(build_parser().parse_args(words))
    name, output = args.pop("topic"), args.pop("output")
    usual = Path("runs") / "theory" / name
    with new_folder(output or usual, "choose another --output", numbered=output is None) as folder:
        failed = _write(name, args, folder, "python -m kerascv_course.theory " + shlex.join(words))
    if failed:
        print(f"\n{failed} claims do not hold (NO): try more --steps or another --learning-rate")
    return 1 if failed else 0


def _write(name: str, args: dict[str, Any], folder: Path, command: str) -> int:
    """Compute a topic, or all, and write the pages; the number of claims that do not hold."""
    from kerascv_course.theory import pages, topics

    failed, written = 0, {}
    for number, one in enumerate(track(list(topics.TOPICS) if name == "all" else [name], "computing", "topics")):
        topic = topics.TOPICS[one](**args)
        say(("\n\n" if number else "") + pages.topic_text(topic))
        page = pages.write_topic(topic, folder / one if name == "all" else folder, command=command)
        written[page.relative_to(folder).as_posix()] = topic
        say(f"\npage: {page}")
        failed += len(topic.claims) - topic.holding
    if name == "all":
        print(f"\nindex: {pages.write_index(written, folder)}")
    return failed


def build_parser() -> Parser:
    """The parser of the command line."""
    parser = Parser(
        prog="python -m kerascv_course.theory",
        description="Compute the theory of report 004: every statement as a number with its expected value, with figures.",
        epilog="Exit code 1: a claim does not hold.",
    )
    commands = parser.add_subparsers(title="topics", required=True, metavar="TOPIC", dest="topic")
    made = {name: commands.add_parser(name, help=text, description=text[0].upper() + text[1:]) for name, text in TOPICS.items()}
    for command in made.values():
        command.add_argument("--output", type=Path, metavar="DIR", help="new folder for the page; default: runs/theory/TOPIC")

    def add(defaults: dict[str, Any], flag: str, text: str, **options: Any) -> None:
        for topic, default in defaults.items():
            shown = "" if default in (None, ()) else " (default: %(default)s)"
            made[topic].add_argument(flag, default=default, help=text + shown, **options)

    number: dict[str, Any] = {"type": _number}
    add({"least-squares": 10, "hypergradient": 12}, "--rows", "rows of the data", type=int, metavar="N")
    add({"least-squares": 30, "hypergradient": 8}, "--columns", "inputs per row", type=int, metavar="D")
    add({"memory": 4000}, "--columns", "weights", type=int, metavar="D")
    add({"least-squares": None}, "--rank", "rank of the data, to see rank-deficient data", type=int, metavar="R")
    text = "your own rows: numbers separated by commas, the target last"
    add({"least-squares": None}, "--data", text, type=Path, metavar="FILE.csv")
    text = "such as sgd momentum adam, or a class of keras.optimizers with --learning-rate; default: all"
    add({"least-squares": ()}, "--optimizer", text, dest="optimizers", nargs="+", metavar="NAME")
    steps = {"least-squares": 4000, "rmsprop": 200, "graph": 2, "hypergradient": 100, "decay": 200}
    add(steps, "--steps", "optimizer steps", type=int, metavar="T")
    rates = {"least-squares": None, "rmsprop": None, "hypergradient": None, "decay": 0.05}
    text = "such as 0.02 or 2/7; rmsprop: the report's 2/7 by default, others a suitable one"
    add(rates, "--learning-rate", text, dest="rate", metavar="RATE", **number)
    add({"least-squares": 4, "decay": None}, "--batch-size", "rows per step; decay: all by default", type=int, metavar="B")
    add({"rmsprop": None}, "--beta", "decay rate of the mean square; default: 0.91", metavar="BETA", **number)
    add({"rmsprop": None}, "--epsilon", "added to the root; default: 0.2", metavar="EPS", **number)
    text = "λ̃ of the L2 penalty (hypergradient), or λ of the weight decay (decay)"
    add({"hypergradient": 0.01, "decay": 0.01}, "--decay", text, metavar="DECAY", **number)
    times = {"memory": (16, 64, 144, 256, 400, 625, 900), "chaos": (5, 20, 80)}
    add(times, "--times", "numbers of steps", type=int, nargs="+", metavar="T")
    add({"chaos": 1000}, "--points", "learning rates between 0 and 2", type=int, metavar="N")
    add({"chaos": 0.5}, "--start", "start value of u", metavar="U", **number)
    add({"least-squares": 0, "hypergradient": 0, "decay": 0}, "--seed", "of the data", type=int, metavar="SEED")
    text = "skip Keras and TensorFlow: takes a second or two"
    for topic in ("rmsprop", "hypergradient", "chaos", "decay"):
        made[topic].add_argument("--no-keras", dest="keras", action="store_false", help=text)
    return parser


def _number(text: str) -> float:
    """A decimal number or a fraction."""
    try:
        return float(Fraction(text))
    except (ValueError, ZeroDivisionError, OverflowError):
        raise argparse.ArgumentTypeError(f"not a number such as 0.02 or 2/7: {text!r}") from None


if __name__ == "__main__":
    run_cli(main)
