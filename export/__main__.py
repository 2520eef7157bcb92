"""Command line of the export layer: ``python -m export RUN``, ``check``, ``predict``, ``inspect``.

argparse, for `predict` and `inspect` run where only NumPy, onnxruntime and Pillow are installed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from kerascv_course.errors import InputError, run_cli

PROG = "python -m export"


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(prog=PROG, description=f"{__doc__}".split("\n")[0], allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    run = commands.add_parser(
        "run", help="export a run anew (the word may be left out: python -m export RUN)", allow_abbrev=False
    )
    run.add_argument("run", type=Path, help="run folder; its model.onnx is replaced once the new file has passed the gate")
    run.add_argument("--data-dir", type=Path, help="where the data stands, if it has moved since the training")
    run.set_defaults(call=export_command)

    check = commands.add_parser(
        "check", help="check a run's model.onnx against its Keras model on the whole test split", allow_abbrev=False
    )
    check.add_argument("run", type=Path, help="run folder")
    check.add_argument("--file", type=Path, help="another ONNX file than the run's model.onnx")
    check.add_argument("--data-dir", type=Path, help="where the data stands, if it has moved since the training")
    check.set_defaults(call=check_command)

    predict = commands.add_parser("predict", help="classify pictures with an exported file", allow_abbrev=False)
    predict.add_argument("model", type=Path, help="exported ONNX file")
    predict.add_argument("images", nargs="+", help="pictures, or folders of them")
    predict.add_argument("--top", type=int, default=3, help="how many classes to show (default: 3)")
    predict.add_argument("--json", action="store_true", help="one JSON object a line")
    predict.add_argument("--provider", choices=("cpu", "cuda"), default="cpu", help="where it runs (default: cpu)")
    predict.set_defaults(call=predict_command)

    inspect = commands.add_parser("inspect", help="print the contract of an exported file", allow_abbrev=False)
    inspect.add_argument("model", type=Path, help="exported ONNX file")
    inspect.set_defaults(call=inspect_command)
    return parser


def export_command(arguments: argparse.Namespace) -> int:
    """Export a run anew and prove the file."""
    from kerascv_course.environment import start_tensorflow

    start_tensorflow()
    from kerascv_course.experiment import configure_logging, export_again
    from kerascv_course.training.run import Run

    configure_logging()
    print(export_again(Run.open(arguments.run), data_dir=arguments.data_dir))
    return 0


def check_command(arguments: argparse.Namespace) -> int:
    """Check a file against a run and print the table."""
    from kerascv_course.environment import start_tensorflow

    start_tensorflow()
    from export.parity import ParityError
    from kerascv_course.experiment import check_run
    from kerascv_course.training.run import Run

    try:
        print(check_run(Run.open(arguments.run), arguments.file, data_dir=arguments.data_dir))
    except ParityError as error:
        print(error.report)
        raise
    return 0


def predict_command(arguments: argparse.Namespace) -> int:
    """Print the best classes of each picture."""
    from export.runtime import OnnxModel, expand_paths

    if arguments.top < 1:
        raise InputError(f"--top is 1 or more; received {arguments.top}")
    model = OnnxModel(arguments.model, provider=arguments.provider)
    paths = expand_paths(arguments.images)
    predictions = model.predict(paths)
    labels = model.contract.labels or [str(number) for number in range(predictions.scores.shape[1])]
    width = max(len(str(path)) for path in paths)
    for path, best in zip(paths, predictions.top(arguments.top), strict=True):
        if arguments.json:
            scores = [{"label": labels[number], "score": round(score, 6)} for number, score in best]
            print(json.dumps({"file": str(path), "label": scores[0]["label"], "scores": scores}, ensure_ascii=False))
        else:
            print(f"{path!s:<{width}}  " + "   ".join(f"{labels[number]} {score:.1%}" for number, score in best))
    return 0


def inspect_command(arguments: argparse.Namespace) -> int:
    """Print the contract as JSON."""
    from export.contract import read_contract
    from kerascv_course.jsondata import to_json

    print(to_json(read_contract(arguments.model)), end="")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Parse and run; a first word that is no command is a run folder."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = build_parser()
    if words and not words[0].startswith("-") and words[0] not in ("run", "check", "predict", "inspect"):
        words = ["run", *words]
    arguments = parser.parse_args(words)
    return arguments.call(arguments)


if __name__ == "__main__":
    run_cli(main)
