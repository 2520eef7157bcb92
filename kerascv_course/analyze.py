"""A network in numbers: ``python -m kerascv_course.analyze resnet18_cifar``, a run folder, an ``.onnx`` or a ``.keras`` file.

Thin: it finds the network, calls `kerascv_course.analysis.summarize` and prints the result in the format asked for.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kerascv_course.core.errors import InputError, run_cli
from kerascv_course.networks import find_summary

if TYPE_CHECKING:
    from kerascv_course.analysis import Summary

__all__ = ["main"]

FORMATS = ("table", "torch", "tree", "blocks", "diagram", "svg", "markdown", "csv", "json")


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the arguments, analyse, print; 0, or 1 where ``--limit-mb`` is given and exceeded."""
    args = _parser().parse_args(argv)
    summary = find_summary(args.network, args.input_shape, args.num_classes)
    text = _render(summary, args)
    if args.output:
        try:
            args.output.write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            raise InputError(f"cannot write {args.output}: {error.strerror}") from error
    else:
        print(text)
    if args.limit_mb is None:
        return 0

    from kerascv_course.analysis.printing import check_size

    check = check_size(summary, args.limit_mb)
    if args.format not in ("csv", "json", "svg") or args.output:
        print(check)
    return 0 if check.fits else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m kerascv_course.analyze",
        description="Parameters, neurons, connections, MACs, memory and receptive field of every layer of a network.",
        epilog="MACs and connections count products with weights (padding positions included unless --exact-borders), "
        "neurons the outputs of convolutions, dense layers, poolings and up-sampling; all for one image.",
    )
    parser.add_argument(
        "network",
        metavar="MODEL|RUN|FILE",
        help="a registered name (options may follow: 'resnet18?stem=cifar&include_top=false'), keras.applications/NAME, a run "
        "folder, an .onnx or a .keras file",
    )
    parser.add_argument(
        "--input-shape", type=int, nargs="+", metavar="N", help="height, width, channels; an .onnx file's own order of axes"
    )
    parser.add_argument("--num-classes", type=int, metavar="N", help="width of a registered network's last layer")
    parser.add_argument("--format", choices=FORMATS, default="table")
    parser.add_argument("--limit-mb", type=float, metavar="MB", help="size limit, such as 80; exit code 1 above it")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write there instead of printing")
    parser.add_argument(
        "--convention",
        choices=("default", "report004"),
        help="also print weights, neurons and connections under a convention; with the switches below",
    )
    parser.add_argument("--biases", action="store_true", help="biases are weights and connections too")
    parser.add_argument("--norms", action="store_true", help="outputs of normalisations are neurons")
    parser.add_argument("--activations", action="store_true", help="outputs of activation functions are neurons")
    parser.add_argument("--exact-borders", action="store_true", help="products with padding are no connections")
    return parser


def _render(summary: Summary, args: argparse.Namespace) -> str:
    from kerascv_course.analysis import printing

    render = {
        "table": printing.to_table,
        "torch": printing.torch_summary,
        "tree": printing.module_tree,
        "blocks": printing.blocks_text,
        "diagram": printing.diagram_text,
        "svg": printing.diagram_svg,
        "markdown": printing.to_markdown,
        "csv": printing.to_csv,
        "json": printing.to_json,
    }[args.format]
    text = render(summary).rstrip("\n")
    if args.convention or args.biases or args.norms or args.activations or args.exact_borders:
        counted = _counts(summary, args)
        if args.format in ("csv", "json", "svg"):
            raise InputError(f"counting switches print text and do not go with --format {args.format}: use table or markdown")
        text += f"\n\n{counted}"
    return text


def _counts(summary: Summary, args: argparse.Namespace) -> str:
    from kerascv_course.analysis import Convention

    report = args.convention == "report004"
    convention = Convention(args.biases, args.norms or report, args.activations or report, args.exact_borders)
    found = summary.count(convention)
    words = [name for name, on in vars(convention).items() if on] or ["no switches"]
    numbers = (("weights", found.weights), ("neurons", found.neurons), ("connections", found.connections))
    shown = ", ".join(f"{name} {'—' if n is None else format(n, ',')}" for name, n in numbers)
    return f"counted with {', '.join(w.replace('_', ' ') for w in words)}: {shown}"


if __name__ == "__main__":
    run_cli(main)
