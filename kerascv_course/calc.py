"""Calculators: ``python -m kerascv_course.calc size 32 5 --padding 2``, ``python -m kerascv_course.calc scaling resnet18_cifar``."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kerascv_course.analysis import arithmetic, convolution, summarize
from kerascv_course.analysis.scaling import (
    DEVICES,
    LINKS,
    OPTIMIZERS,
    DeviceCluster,
    Kind,
    ScalingCurve,
    curve_table,
    network_table,
    scaling,
    step_text,
    workload,
)
from kerascv_course.core.cli import Parser
from kerascv_course.core.errors import InputError, UnknownNameError, run_cli
from kerascv_course.core.io import atomic_write
from kerascv_course.models import find_network, list_models
from kerascv_course.reports.answers import report_text
from kerascv_course.reports.paper import closed_form, count_layers, count_triplets, fully_connected_equivalent
from kerascv_course.reports.targets import REPORTS

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the arguments, print the answer; 0, or 2 without arguments. Raises InputError for what cannot be computed."""
    words = sys.argv[1:] if argv is None else list(argv)
    if not words:
        build_parser().print_help()
        return 2
    # argparse takes "-1,0,1; -2,0,2" for an option unless it begins with a space
    args = build_parser().parse_args([f" {word}" if re.match(r"-\d", word) else word for word in words])
    print(args.run(args))
    return 0


def build_parser() -> Parser:
    """The parser of the command line."""
    parser = Parser(
        prog="python -m kerascv_course.calc",
        description="Convolution arithmetic, convolutions of small images, and training on many devices.",
    )
    commands = parser.add_subparsers(title="calculators", required=True, metavar="CALCULATOR")
    for name, run, text, arguments in _COMMANDS:
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(run=run)
        for flag, settings in arguments:
            command.add_argument(flag, **settings)
    return parser


# --- calculators ------------------------------------------------------------------------------------------------------


def _padding(args: argparse.Namespace) -> int | tuple[int, int]:
    if len(args.padding) > 2:
        raise InputError(f"--padding takes one number, or two (before and after); received {len(args.padding)}")
    return args.padding[0] if len(args.padding) == 1 else (args.padding[0], args.padding[1])


def _kernel(args: argparse.Namespace) -> str:
    found = arithmetic.kernel_from_sizes(args.size, args.output, args.stride, _padding(args), args.dilation)
    return "\n".join(f"{k}×{k}" for k in found)


def _same(args: argparse.Namespace) -> str:
    before, after = arithmetic.same_padding(args.kernel, args.stride, args.dilation, args.size)
    return f"{before} on both sides" if before == after else f"{before} before and {after} after"


def _trends(args: argparse.Namespace) -> str:
    rows = arithmetic.padding_trends(args.kernels, args.size)
    head = "halving convolution; doubling transposed convolution; size-keeping convolution"
    return "\n".join([head, *("; ".join(map(str, row)) for row in rows)])


def _field(args: argparse.Namespace) -> Any:
    try:
        layers = [[int(n) for n in layer.split(":")] for layer in args.layers]
    except ValueError:
        raise InputError(f"layers are written kernel[:stride[:dilation]], such as 3:2; received {args.layers}") from None
    return arithmetic.field_of_chain(layers)


def _filter(args: argparse.Namespace, work: Callable[..., Any]) -> str:
    sobel = args.kernel.lower() == "sobel-x"
    kernel = convolution.SOBEL_X if sobel else convolution.parse_matrix(args.kernel)
    return convolution.render_matrix(work(convolution.parse_matrix(args.image), kernel, args.padding, args.border, args.stride))


def _params(args: argparse.Namespace) -> Any:
    text, biases = " ".join(args.layers), not args.no_bias
    if args.fully_connected:
        same = args.fully_connected == "same-outputs"
        return fully_connected_equivalent(text, args.input, same_outputs=same, biases=biases)
    return count_layers(text, args.input, biases=biases)


def _forms(args: argparse.Namespace) -> str:
    form = closed_form(args.network, args.size, norms=not args.no_norms)
    weights, outputs, connections = form.evaluate(k=args.k, nic=args.nic, nf=args.nf, nc=args.nc)
    numbers = f"weights {weights:,}, outputs {outputs:,}, connections {connections:,}"
    return f"{form}\n\nk={args.k}, NIC={args.nic}, NF={args.nf}, NC={args.nc}: {numbers}"


def _scaling(args: argparse.Namespace) -> str:
    cluster = _cluster(args)  # checked before Keras is imported
    work = workload(summarize(find_network(args.network, args.input_shape), args.input_shape))
    kinds: list[Kind] = [args.kind] if args.kind else ["strong", "weak"]
    curves = [scaling(work, cluster, args.devices, args.batch, kind) for kind in kinds]
    if args.plot:
        _plot(curves, args)
    return "\n\n".join([step_text(work, args.optimizer, args.batch), *map(curve_table, curves)])


def _plot(curves: Sequence[ScalingCurve], args: argparse.Namespace) -> None:
    from kerascv_course.plots import scaling_curves

    lines = {
        f"{curve.kind} scaling, {args.batch} images{' per device' if curve.kind == 'weak' else ''}": [
            (p.devices, curve.speed_up(p), curve.speed_up(p, overlap=True)) for p in curve.points
        ]
        for curve in curves
    }
    with atomic_write(args.plot) as temporary:
        scaling_curves(lines, curves[0].work.name).savefig(temporary, dpi=80)


def _networks(args: argparse.Namespace) -> str:
    cluster = _cluster(args)
    if not (names := list_models(args.pattern)):
        raise InputError(f"no network matches {args.pattern!r}: see kerascv_course.list_models()")
    works = [workload(summarize(find_network(name))) for name in names]
    return network_table(works, cluster, args.devices, args.optimizer)


def _cluster(args: argparse.Namespace) -> DeviceCluster:
    for kind, name, known in (
        ("device", args.device, DEVICES),
        ("link", args.link, LINKS),
        ("link", args.within or args.link, LINKS),
        ("optimizer", args.optimizer, OPTIMIZERS),
    ):
        if name not in known:
            raise UnknownNameError(kind, name, known)
    return DeviceCluster(
        peak=DEVICES[args.device].peak if args.tflops is None else 1e12 * args.tflops,
        link=LINKS[args.link],
        utilization=args.utilization,
        within=LINKS[args.within] if args.within else None,
        per_host=args.per_host,
        adapters=args.adapters,
        link_share=args.link_share,
        pipeline=args.pipeline,
        overhead=args.overhead / 1e3,
    )


# --- the command line -------------------------------------------------------------------------------------------------

Argument = tuple[str, dict[str, Any]]


#: Help texts of the numbers that calculators take in order.
_NUMBERS = {
    "size": "height or width of the input, in pixels",
    "kernel": "height or width of the kernel (the window), in pixels",
    "output": "height or width of the output, in pixels",
    "identities": "number of identities",
    "images": "number of images of each identity",
}


def _numbers(names: str) -> list[Argument]:
    return [(name, {"type": int, "help": _NUMBERS[name]}) for name in names.split()]


def _number(kind: type, default: float | None, text: str, metavar: str = "N") -> dict[str, Any]:
    shown = "" if default is None else f" (default: {default})"
    return {"type": kind, "default": default, "metavar": metavar, "help": text + shown}


_WINDOW: list[Argument] = [
    ("--stride", _number(int, 1, "pixels from one window to the next", "S")),
    ("--dilation", _number(int, 1, "pixels from one tap of the kernel to the next", "D")),
]


def _padding_of(text: str) -> Argument:
    settings = {"type": int, "nargs": "+", "default": [0], "metavar": "P"}
    return "--padding", {**settings, "help": f"{text}, or two numbers: before and after (default: 0)"}


_PADDED: list[Argument] = [*_WINDOW, _padding_of("pixels added on both sides")]
_TRANSPOSED: list[Argument] = [
    *_WINDOW,
    _padding_of("pixels of the output removed on both sides"),
    ("--output-padding", _number(int, 0, "pixels added to the output, after it", "P")),
]
_IMAGE: list[Argument] = [
    ("image", {"help": 'rows separated by ";": "1,0,2; 3,2,0"'}),
    ("kernel", {"help": 'rows separated by ";", or "sobel-x"'}),
    ("--border", {"choices": ("zero", "reflect", "edge"), "default": "zero", "help": "values added (default: zero)"}),
    ("--padding", {"type": int, "help": "rows and columns added on each side (default: half the kernel)"}),
    ("--stride", {"type": int, "default": 1, "help": "pixels from one window to the next (default: 1)"}),
]
_POOL: list[Argument] = [
    ("--stride", {"type": int, "help": "pixels from one window to the next (default: the kernel)"}),
    ("--channels", {"type": int, "default": 3, "help": "channels of the input (default: 3)"}),
    ("--size", {"type": int, "help": "height and width of the input, in pixels (default: the kernel)"}),
]
_PARAMS: list[Argument] = [
    ("layers", {"nargs": "+", "metavar": "LAYER", "help": "conv5-32, conv4-32s2p2, pool2, pool3s2, up2, fc64, fc="}),
    (
        "--input",
        {
            "type": int,
            "nargs": 3,
            "default": [32, 32, 3],
            "metavar": ("H", "W", "C"),
            "help": "height, width and channels of the input (default: 32 32 3)",
        },
    ),
    ("--no-bias", {"action": "store_true", "help": "layers without biases"}),
    (
        "--fully-connected",
        {
            "choices": ("same-size", "same-outputs"),
            "help": "replace every convolution by a dense layer, with as many outputs as inputs or as the convolution",
        },
    ),
]
_FORMS: list[Argument] = [
    ("network", {"metavar": "NETWORK", "help": "pool_upsample_net, conv_transpose_net or unet_colorizer"}),
    ("--size", {"type": int, "default": 32, "help": "height and width of the input, in pixels (default: 32)"}),
    ("--no-norms", {"action": "store_true", "help": "do not count outputs of batch norms"}),
    ("--k", {"type": int, "default": 3, "help": "height and width of the kernels (default: 3)"}),
    ("--nic", {"type": int, "default": 1, "help": "channels of the input (default: 1)"}),
    ("--nf", {"type": int, "default": 32, "help": "filters of the first layer (default: 32)"}),
    ("--nc", {"type": int, "default": 24, "help": "colors, the channels of the output (default: 24)"}),
]


def _named(default: str | None, text: str, names: Sequence[str]) -> dict[str, Any]:
    return {"default": default, "metavar": "NAME", "help": f"{text}: {', '.join(names)} (default: {default or 'as --link'})"}


_CLUSTER: list[Argument] = [
    ("--device", _named("a100", "peak FLOP/s of a device", tuple(DEVICES))),
    ("--tflops", _number(float, None, "peak TFLOP/s of a device, instead of --device", "T")),
    ("--utilization", _number(float, 0.2, "assumed fraction of the peak that training reaches", "X")),
    ("--link", _named("infiniband-200", "link between hosts", [name for name in LINKS if name[0] in "ie"])),
    ("--within", _named(None, "link within a host", [name for name in LINKS if name[0] in "np"])),
    ("--per-host", _number(int, 1, "devices per host")),
    ("--adapters", _number(int, 1, "network adapters per host")),
    ("--link-share", _number(float, 0.8, "assumed fraction of a link's bandwidth that is reached", "X")),
    ("--optimizer", _named("adam", "for the size of a checkpoint", tuple(OPTIMIZERS))),
]
_SCALING: list[Argument] = [
    ("network", {"metavar": "MODEL|RUN|FILE", "help": "as for python -m kerascv_course.analyze"}),
    (
        "--devices",
        {
            "type": int,
            "nargs": "+",
            "default": [1, 2, 4, 8, 16, 32, 64],
            "metavar": "N",
            "help": "numbers of devices (default: 1 to 64, doubling)",
        },
    ),
    ("--batch", _number(int, 128, "images per step: on all devices (strong), on each (weak)")),
    ("--kind", {"choices": ("strong", "weak"), "help": "a fixed batch on all devices, or on each (default: both)"}),
    ("--input-shape", {"type": int, "nargs": 3, "metavar": ("H", "W", "C"), "help": "height, width, channels of an image"}),
    ("--pipeline", _number(float, None, "throughput of a host's input pipeline", "IMAGES/S")),
    ("--overhead", _number(float, 0.0, "constant part of a step", "MS")),
    ("--plot", {"type": Path, "metavar": "PNG", "help": "also plot the speedup"}),
    *_CLUSTER,
]
_NETWORKS: list[Argument] = [
    ("pattern", {"nargs": "?", "default": "*", "help": "of names, such as 'resnet*'"}),
    ("--devices", _number(int, 64, "number of devices")),
    ("--pipeline", {"type": float, "help": argparse.SUPPRESS}),
    ("--overhead", {"type": float, "default": 0.0, "help": argparse.SUPPRESS}),
    *_CLUSTER,
]

#: Name, function, help text and arguments of every calculator.
_COMMANDS: list[tuple[str, Callable[[argparse.Namespace], Any], str, list[Argument]]] = [
    (
        "size",
        lambda a: arithmetic.conv_output(a.size, a.kernel, a.stride, _padding(a), a.dilation),
        "Output size of a convolution or pooling layer",
        [*_numbers("size kernel"), *_PADDED],
    ),
    (
        "input",
        lambda a: arithmetic.conv_input_range(a.output, a.kernel, a.stride, _padding(a), a.dilation),
        "Input sizes for an output size",
        [*_numbers("output kernel"), *_PADDED],
    ),
    (
        "transposed",
        lambda a: arithmetic.transposed_output(a.size, a.kernel, a.stride, _padding(a), a.output_padding, a.dilation),
        "Output size of a transposed convolution",
        [*_numbers("size kernel"), *_TRANSPOSED],
    ),
    (
        "transposed-input",
        lambda a: arithmetic.transposed_input(a.output, a.kernel, a.stride, _padding(a), a.output_padding, a.dilation),
        "Input size of a transposed convolution",
        [*_numbers("output kernel"), *_TRANSPOSED],
    ),
    ("kernel", _kernel, "Kernel sizes for an input and output size", [*_numbers("size output"), *_PADDED]),
    (
        "padding",
        lambda a: (arithmetic.solve_transposed_padding if a.transposed else arithmetic.solve_padding)(
            a.size, a.output, a.kernel, a.stride, a.dilation
        ),
        "Padding (and output padding) for an input and output size",
        [
            *_numbers("size output kernel"),
            *_WINDOW,
            ("--transposed", {"action": "store_true", "help": "of a transposed convolution"}),
        ],
    ),
    (
        "same",
        _same,
        'Padding that keeps the size ("same")',
        [
            *_numbers("kernel"),
            *_WINDOW,
            ("--size", {"type": int, "help": "height or width of the input, in pixels; required with a stride"}),
        ],
    ),
    (
        "trends",
        _trends,
        "Padding of halving, doubling and size-keeping layers for several kernels (report 004, 5.4)",
        [
            (
                "--kernels",
                {"type": int, "nargs": "+", "default": [3, 4, 5], "metavar": "K", "help": "kernel sizes (default: 3 4 5)"},
            ),
            ("--size", {"type": int, "default": 32, "help": "height or width of the input, in pixels (default: 32)"}),
        ],
    ),
    (
        "field",
        _field,
        "Receptive field of a chain of layers",
        [("layers", {"nargs": "+", "metavar": "K[:S[:D]]", "help": "kernel, stride, dilation, such as 3 3:2 3:1:2"})],
    ),
    ("convolve", lambda a: _filter(a, convolution.convolve), "Convolution of a small image", _IMAGE),
    ("correlate", lambda a: _filter(a, convolution.correlate), "Correlation of a small image", _IMAGE),
    (
        "pool",
        lambda a: convolution.check_average_pooling(a.kernel, a.stride, a.channels, a.size or a.kernel),
        "Average pooling compared with convolutions that do and do not equal it",
        [*_numbers("kernel"), *_POOL],
    ),
    (
        "triplets",
        lambda a: count_triplets(a.identities, a.images),
        "Number of triplets of a set of identities",
        _numbers("identities images"),
    ),
    ("params", _params, "Parameters, neurons and connections of a network such as conv5-32 pool2 fc10", _PARAMS),
    ("forms", _forms, "Closed forms of a colorization network (report 004, 4.3)", _FORMS),
    ("scaling", _scaling, "Training a network on many devices: FLOPs, bytes, step time, speedup (docs/scale.md)", _SCALING),
    ("networks", _networks, "Cost of an all-reduce for every network (docs/scale.md)", _NETWORKS),
    (
        "report",
        lambda a: report_text(a.report),
        "A report's calculator questions, answered correctly, with notes on what was printed",
        [("report", {"metavar": "REPORT", "help": ", ".join(f"{number} ({name})" for name, number in REPORTS.items())})],
    ),
]


if __name__ == "__main__":
    run_cli(main)
