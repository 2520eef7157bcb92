"""A network in numbers: ``python -m kerascv_course.analyze resnet18_cifar``, a run folder, an ``.onnx`` or a ``.keras`` file."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from export.untrusted.guard import limit_memory, run_guarded
from kerascv_course.analysis import Convention, Summary, summarize
from kerascv_course.analysis.diagram import blocks_text, diagram_svg, diagram_text
from kerascv_course.analysis.printing import check_size, module_tree, to_csv, to_json, to_markdown, to_table
from kerascv_course.analysis.torchsummary import torch_summary
from kerascv_course.core.cli import Parser
from kerascv_course.core.errors import InputError, run_cli
from kerascv_course.core.tables import format_number
from kerascv_course.models import find_network

__all__ = ["FORMATS", "guarded_main", "main"]

FORMATS = {
    "table": to_table,
    "torch": torch_summary,
    "tree": module_tree,
    "blocks": blocks_text,
    "diagram": diagram_text,
    "svg": diagram_svg,
    "markdown": to_markdown,
    "csv": to_csv,
    "json": to_json,
}
#: Formats read by programs, to which no further text is added.
_DATA_FORMATS = ("csv", "json", "svg")


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the arguments, analyze, print; 0, or 1 if ``--limit-mb`` is exceeded."""
    args = build_parser().parse_args(argv)
    if args.network.endswith(".onnx"):
        limit_memory(Path(args.network), external=False)
    summary = summarize(find_network(args.network, args.input_shape, args.num_classes), args.input_shape)
    text = FORMATS[args.format](summary).rstrip("\n") + _counts(summary, args)
    if args.output:
        try:
            args.output.write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            raise InputError(f"cannot write {args.output}: {error.strerror}") from error
    else:
        print(text)
    if args.limit_mb is None:
        return 0
    check = check_size(summary, args.limit_mb)
    if args.format not in _DATA_FORMATS or args.output:
        print(check)
    return 0 if check.fits else 1


def guarded_main(argv: Sequence[str] | None = None) -> int:
    """`main`, in a child process: the file may be a stranger's."""
    return run_guarded(lambda: main(argv))


def _counts(summary: Summary, args: argparse.Namespace) -> str:
    """The counts under the chosen convention; empty for the default."""
    if not (args.convention or args.biases or args.norms or args.activations or args.exact_borders):
        return ""
    if args.format in _DATA_FORMATS:
        raise InputError(f"counting switches cannot be combined with --format {args.format}: use table or markdown")
    report = args.convention == "report004"
    convention = Convention(args.biases, args.norms or report, args.activations or report, args.exact_borders)
    found = summary.count(convention)
    switches = [name.replace("_", " ") for name, on in vars(convention).items() if on] or ["no switches"]
    shown = ", ".join(f"{name} {format_number(getattr(found, name))}" for name in ("weights", "neurons", "connections"))
    return f"\n\ncounted with {', '.join(switches)}: {shown}"


def build_parser() -> Parser:
    """The parser of the command line."""
    parser = Parser(
        prog="python -m kerascv_course.analyze",
        description="Parameters, neurons, connections, MACs, memory and receptive field of every layer of a network.",
        epilog="All counts are for one image. MACs and connections are products with weights, neurons the outputs of convolutions, "
        "dense layers, pooling and upsampling.",
    )
    add = parser.add_argument
    add(
        "network",
        metavar="MODEL|RUN|FILE",
        help="name of a network ('resnet18?stem=cifar&include_top=false' with options), keras.applications/NAME, a run folder, an "
        ".onnx or a .keras file",
    )
    add(
        "--input-shape",
        type=int,
        nargs="+",
        metavar="N",
        help="height, width, channels; for .onnx files in their own axis order",
    )
    add("--num-classes", type=int, metavar="N", help="width of the last layer of a network by name")
    add("--format", choices=FORMATS, default="table", help="output format (default: table)")
    add("--limit-mb", type=float, metavar="MB", help="size limit; exit code 1 if it is exceeded")
    add("--output", type=Path, metavar="FILE", help="write to a file instead of printing")
    add(
        "--convention",
        choices=("default", "report004"),
        help="also print weights, neurons and connections under this convention, modified by the switches below",
    )
    add("--biases", action="store_true", help="count biases as weights and connections")
    add("--norms", action="store_true", help="count outputs of normalization layers as neurons")
    add("--activations", action="store_true", help="count outputs of activation functions as neurons")
    add("--exact-borders", action="store_true", help="do not count products with padding as connections")
    return parser


if __name__ == "__main__":
    run_cli(guarded_main)
