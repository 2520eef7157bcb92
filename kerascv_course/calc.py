"""Calculators on the command line: ``python -m kerascv_course.calc size 32 5 --padding 2``, or ``scaling resnet18_cifar``.

Thin: every command parses, calls one function of `kerascv_course.analysis` and prints what it returns.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kerascv_course.core.errors import InputError, UnknownNameError, run_cli
from kerascv_course.core.io import atomic_write
from kerascv_course.networks import find_summary

if TYPE_CHECKING:
    from kerascv_course.analysis.scaling import Cluster

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
        prog="python -m kerascv_course.calc", description="Convolution arithmetic, small images, and training on many devices."
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
    command = add("scaling", _scaling, "Training a network on many devices: FLOPs, bytes, step time, speed-up (docs/scale.md)")
    command.add_argument("network", metavar="MODEL|RUN|FILE", help="as for python -m kerascv_course.analyze")
    command.add_argument("--devices", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64], metavar="N")
    command.add_argument("--batch", type=int, default=128, help="images of a step: of all devices (strong), of each (weak)")
    command.add_argument("--kind", choices=("strong", "weak"), help="only this one (default: both)")
    command.add_argument("--input-shape", type=int, nargs=3, metavar=("H", "W", "C"))
    command.add_argument("--pipeline", type=float, metavar="IMAGES/S", help="what a host's input pipeline delivers")
    command.add_argument("--overhead", type=float, default=0.0, metavar="MS", help="of a step, that nothing makes shorter")
    command.add_argument("--plot", type=Path, metavar="PNG", help="also draw speed-up against devices")
    _cluster_options(command)
    command = add("networks", _networks, "What an all-reduce costs every registered network (docs/scale.md)")
    command.add_argument("pattern", nargs="?", default="*", help="of names, such as 'resnet*'")
    command.add_argument("--devices", type=int, default=64, metavar="N")
    command.set_defaults(pipeline=None, overhead=0.0)
    _cluster_options(command)
    command = add("report", _report, "A report's calculator questions, right, with notes on what was printed")
    command.add_argument("report", metavar="REPORT", help="000 to 004")
    return parser


def _window(command: argparse.ArgumentParser) -> None:
    command.add_argument("--stride", type=int, default=1, metavar="S")
    command.add_argument("--dilation", type=int, default=1, metavar="D")


def _cluster_options(command: argparse.ArgumentParser) -> None:
    add = command.add_argument  # names are checked when they are used: --help imports no analysis
    add("--device", default="a100", metavar="NAME", help="a100, a100-tf32, h100 or h100-tf32: peak FLOP/s (default: a100)")
    add("--tflops", type=float, help="peak TFLOP/s of a device, instead of --device")
    add("--utilisation", type=float, default=0.2, help="assumed share of the peak that is reached (default: 0.2)")
    text = "between hosts: infiniband-200, infiniband-400, ethernet-100, ethernet-10, ethernet-1 (default: infiniband-200)"
    add("--link", default="infiniband-200", metavar="NAME", help=text)
    add("--within", metavar="NAME", help="within a host: nvlink3, nvlink4 or pcie4 (default: as between hosts)")
    add("--per-host", type=int, default=1, metavar="N", help="devices of a host (default: 1)")
    add("--adapters", type=int, default=1, metavar="N", help="network adapters of a host (default: 1)")
    add("--link-share", type=float, default=0.8, help="assumed share of a link's bandwidth that is reached (default: 0.8)")
    add(
        "--optimizer",
        default="adam",
        metavar="NAME",
        help="for the size of a checkpoint: adam, sgd-momentum, … (default: adam)",
    )


def _cluster(args: argparse.Namespace) -> Cluster:
    from kerascv_course.analysis.scaling import DEVICES, LINKS, OPTIMIZERS, Cluster

    for kind, name, known in (
        ("device", args.device, DEVICES),
        ("link", args.link, LINKS),
        ("link", args.within or args.link, LINKS),
        ("optimizer", args.optimizer, OPTIMIZERS),
    ):
        if name not in known:
            raise UnknownNameError(kind, name, known)
    return Cluster(
        peak=DEVICES[args.device].peak if args.tflops is None else 1e12 * args.tflops,
        link=LINKS[args.link],
        utilisation=args.utilisation,
        within=LINKS[args.within] if args.within else None,
        per_host=args.per_host,
        adapters=args.adapters,
        link_share=args.link_share,
        pipeline=args.pipeline,
        overhead=args.overhead / 1e3,
    )


def _scaling(args: argparse.Namespace) -> Any:
    from kerascv_course.analysis.printing.scaling import curve_table, step_text
    from kerascv_course.analysis.scaling import scaling, workload

    cluster = _cluster(args)  # what is wrong with it is told before Keras is imported
    work = workload(find_summary(args.network, args.input_shape))
    curves = [
        scaling(work, cluster, args.devices, args.batch, kind) for kind in ([args.kind] if args.kind else ("strong", "weak"))
    ]
    if args.plot:
        from kerascv_course.plots import scaling_curves

        lines = {
            f"{curve.kind} scaling, {args.batch} images{' a device' if curve.kind == 'weak' else ''}": [
                (p.devices, curve.speed_up(p), curve.speed_up(p, overlap=True)) for p in curve.points
            ]
            for curve in curves
        }
        with atomic_write(args.plot) as temporary:
            scaling_curves(lines, work.name).savefig(temporary, dpi=80)
    return "\n\n".join([step_text(work, args.optimizer, args.batch), *map(curve_table, curves)])


def _networks(args: argparse.Namespace) -> Any:
    from kerascv_course.analysis.printing.scaling import network_table
    from kerascv_course.analysis.scaling import workload
    from kerascv_course.models.registry import list_models

    cluster = _cluster(args)
    if not (names := list_models(args.pattern)):
        raise InputError(f"no registered network matches {args.pattern!r}: see kerascv_course.list_models()")
    return network_table([workload(find_summary(name)) for name in names], cluster, args.devices, args.optimizer)


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
    from kerascv_course.reports.paper import count_triplets

    return count_triplets(args.identities, args.images)


def _params(args: argparse.Namespace) -> Any:
    from kerascv_course.reports.paper import count_layers, fully_connected_equivalent

    text, biases = " ".join(args.layers), not args.no_bias
    if args.fully_connected:
        same = args.fully_connected == "same-outputs"
        return fully_connected_equivalent(text, args.input, same_outputs=same, biases=biases)
    return count_layers(text, args.input, biases=biases)


def _forms(args: argparse.Namespace) -> Any:
    from kerascv_course.reports.paper import closed_form

    form = closed_form(args.network, args.size, norms=not args.no_norms)
    weights, outputs, connections = form.evaluate(k=args.k, nic=args.nic, nf=args.nf, nc=args.nc)
    numbers = f"weights {weights:,}, outputs {outputs:,}, connections {connections:,}"
    return f"{form}\n\nk={args.k}, NIC={args.nic}, NF={args.nf}, NC={args.nc}: {numbers}"


def _report(args: argparse.Namespace) -> Any:
    from kerascv_course.reports.answers import report_text

    return report_text(args.report)


if __name__ == "__main__":
    run_cli(main)
