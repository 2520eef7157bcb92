"""Convolution calculators on the command line: ``python -m kerascv_course.calc size 32 5 --padding 2``.

Thin: every command parses, calls one function of `kerascv_course.analysis` and prints what it returns.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from typing import Any

from kerascv_course.errors import InputError, run_cli

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the arguments, print the answer; 0. Raises InputError for what cannot be computed."""
    words = sys.argv[1:] if argv is None else list(argv)
    # argparse takes "-1,0,1; -2,0,2" for an option unless it begins with a blank
    args = _parser().parse_args([f" {w}" if re.match(r"-\d", w) else w for w in words])
    print(args.run(args))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m kerascv_course.calc", description="Convolution arithmetic: sizes, padding, parameters, small images."
    )
    commands = parser.add_subparsers(title="calculators", required=True, metavar="CALCULATOR")

    def add(name: str, run: Any, text: str, *numbers: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        for number in numbers:
            command.add_argument(number, type=int)
        command.set_defaults(run=run)
        return command

    for name, run, text, numbers in (
        ("size", _size, "Output size of a convolution or pooling", ("size", "kernel")),
        ("input", _input, "Input sizes that give an output size", ("output", "kernel")),
        ("transposed", _transposed, "Output size of a transposed convolution", ("size", "kernel")),
        ("transposed-input", _transposed_input, "Input size of a transposed convolution", ("output", "kernel")),
        ("kernel", _kernel, "Kernels that bring one size to another", ("size", "output")),
    ):
        command = add(name, run, text, *numbers)
        _window(command)
        command.add_argument(
            "--padding", type=int, nargs="+", default=[0], metavar="P", help="on both sides, or before and after"
        )
        if name.startswith("transposed"):
            command.add_argument("--output-padding", type=int, default=0, metavar="P")

    command = add(
        "padding", _padding, "Padding (and output padding) that brings one size to another", "size", "output", "kernel"
    )
    _window(command)
    command.add_argument("--transposed", action="store_true", help="of a transposed convolution")
    command = add("same", _same, 'Padding that keeps the size ("same")', "kernel")
    _window(command)
    command.add_argument("--size", type=int, help="input size; needed with a stride")
    command = add("trends", _trends, "Padding of halving, doubling and keeping layers for several kernels (report 004, 5.4)")
    command.add_argument("--kernels", type=int, nargs="+", default=[3, 4, 5], metavar="K")
    command.add_argument("--size", type=int, default=32)
    command = add("field", _field, "Receptive field of layers one after the other")
    command.add_argument("layers", nargs="+", metavar="K[:S[:D]]", help="kernel, stride, dilation, such as 3 3:2 3:1:2")

    for name, text in (("convolve", "Convolution of a small image"), ("correlate", "Correlation of a small image")):
        command = add(name, _image, text)
        command.add_argument("image", help='rows parted by ";": "1,0,2; 3,2,0"')
        command.add_argument("kernel", help='likewise, or "sobel-x"')
        command.add_argument("--border", choices=("zero", "reflect", "edge"), default="zero")
        command.add_argument("--padding", type=int, help="rows and columns added on each side; default: half the kernel")
        command.add_argument("--stride", type=int, default=1)
        command.set_defaults(flip=name == "convolve")

    command = add("pool", _pool, "Average pooling beside the convolutions that do and do not equal it", "kernel")
    command.add_argument("--stride", type=int, help="default: the kernel")
    command.add_argument("--channels", type=int, default=3)
    command.add_argument("--size", type=int, help="default: the kernel")
    add("triplets", _triplets, "Triplets of a set of identities", "identities", "images")

    command = add("params", _params, "Parameters, neurons and connections of a network, such as conv5-32 pool2 fc10")
    command.add_argument("layers", nargs="+", metavar="LAYER", help="conv5-32, conv4-32s2p2, pool2, pool3s2, up2, fc64, fc=")
    command.add_argument("--input", type=int, nargs=3, default=[32, 32, 3], metavar=("H", "W", "C"))
    command.add_argument("--no-bias", action="store_true")
    command.add_argument(
        "--fully-connected",
        choices=("same-size", "same-outputs"),
        help="a dense layer for every convolution: with as many outputs as inputs, or as the convolution has",
    )
    command = add("forms", _forms, "Closed forms of a colourisation network (report 004, 4.3)")
    command.add_argument("network", metavar="NETWORK", help="pool_upsample_net, conv_transpose_net or unet_colorizer")
    command.add_argument("--size", type=int, default=32)
    command.add_argument("--no-norms", action="store_true", help="do not count the outputs of batch norms")
    for name, value in (("k", 3), ("nic", 1), ("nf", 32), ("nc", 24)):
        command.add_argument(f"--{name}", type=int, default=value)
    command = add("report", _report, "A report's calculator questions, right, with notes on what was printed")
    command.add_argument("report", metavar="REPORT", help="000 to 004")
    return parser


def _window(command: argparse.ArgumentParser) -> None:
    command.add_argument("--stride", type=int, default=1, metavar="S")
    command.add_argument("--dilation", type=int, default=1, metavar="D")


def _pads(args: argparse.Namespace) -> int | tuple[int, int]:
    if len(args.padding) > 2:
        raise InputError(f"--padding takes one number, or two (before and after); received {len(args.padding)}")
    return args.padding[0] if len(args.padding) == 1 else (args.padding[0], args.padding[1])


def _size(args: argparse.Namespace) -> Any:
    from kerascv_course.analysis.arithmetic import conv_output

    return conv_output(args.size, args.kernel, args.stride, _pads(args), args.dilation)


def _input(args: argparse.Namespace) -> Any:
    from kerascv_course.analysis.arithmetic import conv_input_range

    return conv_input_range(args.output, args.kernel, args.stride, _pads(args), args.dilation)


def _transposed(args: argparse.Namespace) -> Any:
    from kerascv_course.analysis.arithmetic import transposed_output

    return transposed_output(args.size, args.kernel, args.stride, _pads(args), args.output_padding, args.dilation)


def _transposed_input(args: argparse.Namespace) -> Any:
    from kerascv_course.analysis.arithmetic import transposed_input

    return transposed_input(args.output, args.kernel, args.stride, _pads(args), args.output_padding, args.dilation)


def _kernel(args: argparse.Namespace) -> Any:
    from kerascv_course.analysis.arithmetic import kernel_from_sizes

    found = kernel_from_sizes(args.size, args.output, args.stride, _pads(args), args.dilation)
    return "\n".join(f"{k}×{k}" for k in found)


def _padding(args: argparse.Namespace) -> Any:
    from kerascv_course.analysis.arithmetic import solve_padding, solve_transposed_padding

    solve = solve_transposed_padding if args.transposed else solve_padding
    return solve(args.size, args.output, args.kernel, args.stride, args.dilation)


def _same(args: argparse.Namespace) -> Any:
    from kerascv_course.analysis.arithmetic import same_padding

    before, after = same_padding(args.kernel, args.stride, args.dilation, args.size)
    return f"{before} on both sides" if before == after else f"{before} before and {after} after"


def _trends(args: argparse.Namespace) -> Any:
    from kerascv_course.analysis.arithmetic import padding_trends

    lines = ["halving convolution; doubling transposed convolution; keeping convolution"]
    return "\n".join(lines + ["; ".join(map(str, row)) for row in padding_trends(args.kernels, args.size)])


def _field(args: argparse.Namespace) -> Any:
    from kerascv_course.analysis.arithmetic import field_of_chain

    try:
        layers = [[int(n) for n in layer.split(":")] for layer in args.layers]
    except ValueError:
        raise InputError(f"layers are written kernel[:stride[:dilation]], such as 3:2; received {args.layers}") from None
    return field_of_chain(layers)


def _image(args: argparse.Namespace) -> Any:
    from kerascv_course.analysis.images import SOBEL_X, convolve, correlate, parse_matrix, render_matrix

    kernel = SOBEL_X if args.kernel.lower() == "sobel-x" else parse_matrix(args.kernel)
    work = convolve if args.flip else correlate
    return render_matrix(work(parse_matrix(args.image), kernel, args.padding, args.border, args.stride))


def _pool(args: argparse.Namespace) -> Any:
    from kerascv_course.analysis.pooling import check_average_pooling

    return check_average_pooling(args.kernel, args.stride, args.channels, args.size or args.kernel)


def _triplets(args: argparse.Namespace) -> Any:
    from kerascv_course.analysis.paper import count_triplets

    return count_triplets(args.identities, args.images)


def _params(args: argparse.Namespace) -> Any:
    from kerascv_course.analysis.paper import count_layers, fully_connected_equivalent

    text, biases = " ".join(args.layers), not args.no_bias
    if args.fully_connected:
        same = args.fully_connected == "same-outputs"
        return fully_connected_equivalent(text, args.input, same_outputs=same, biases=biases)
    return count_layers(text, args.input, biases=biases)


def _forms(args: argparse.Namespace) -> Any:
    from kerascv_course.analysis.closed_forms import closed_form

    form = closed_form(args.network, args.size, norms=not args.no_norms)
    weights, outputs, connections = form.evaluate(k=args.k, nic=args.nic, nf=args.nf, nc=args.nc)
    numbers = f"weights {weights:,}, outputs {outputs:,}, connections {connections:,}"
    return f"{form}\n\nk={args.k}, NIC={args.nic}, NF={args.nf}, NC={args.nc}: {numbers}"


def _report(args: argparse.Namespace) -> Any:
    from kerascv_course.analysis.answers import report_text

    return report_text(args.report)


if __name__ == "__main__":
    run_cli(main)
