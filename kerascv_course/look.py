"""Look inside a network: ``python -m kerascv_course.look RUN|MODEL [--image FILE] [--layer NAME] [--filters 14 26 32]``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kerascv_course.core.cli import Parser
from kerascv_course.core.errors import InputError, run_cli
from kerascv_course.core.images import read_image
from kerascv_course.core.io import atomic_write
from kerascv_course.core.keras_file import load_model
from kerascv_course.models import find_network
from kerascv_course.training.run_dir import Run

if TYPE_CHECKING:
    import keras

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the arguments, draw, print the name of the figure; 0."""
    args = build_parser().parse_args(argv)
    image = args.image or _sample(args.network)
    if not image.is_file():
        raise InputError(f"no such image: {image}")
    found = find_network(args.network, weights=args.weights or None)
    model = load_model(found) if isinstance(found, Path) else found
    resize = Run.open(found).recipe().data.resize if isinstance(found, Path) and found.is_dir() else "bilinear"
    height, width, channels = model.inputs[0].shape[1:]
    pixels = read_image(image, height, width, channels, resize)
    figure = _draw(model, pixels, args)
    with atomic_write(args.out) as temporary:
        figure.savefig(temporary, dpi=120)
    if not args.image:
        print(f"image: {image} (--image takes another)")
    print(args.out)
    return 0


def _sample(network: str) -> Path:
    """The first image of a run's samples.

    Raises:
        InputError: not a run, or a run without samples.
    """
    samples = sorted((Path(network) / "samples").glob("*.png"))
    if not samples:
        raise InputError(f"--image is required: {network} is not a run folder with samples/ to take one from")
    return samples[0]


def _draw(model: keras.Model, pixels: np.ndarray, args: argparse.Namespace) -> Any:
    from kerascv_course.analysis.activations import convolutions, look

    names = convolutions(model)
    if not args.layer and not names:
        raise InputError(f"{args.network} has no convolution: choose a layer by --layer")
    return look(model, _as_input(model, pixels, args.mean, args.std), args.layer or names[0], args.filters, shown=pixels)


def _as_input(model: keras.Model, pixels: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """The image as the model's input: uint8 pixels, or float32 (pixels / 255 − mean) / std."""
    if model.inputs[0].dtype == "uint8":
        return pixels
    for name, values in (("mean", mean), ("std", std)):
        if len(values) not in (1, pixels.shape[-1]):
            raise InputError(f"--{name} takes one value or {pixels.shape[-1]}, one for each channel; received {len(values)}")
    if min(std) <= 0:
        raise InputError(f"--std must be above 0; received {' '.join(map(str, std))}")
    return np.asarray((pixels / 255 - np.asarray(mean)) / np.asarray(std), np.float32)


def build_parser() -> Parser:
    """The parser of the command line."""
    parser = Parser(
        prog="python -m kerascv_course.look",
        description="Draw the output of a layer for an image: a map per channel, below the filters if the layer convolves the image.",
    )
    add = parser.add_argument
    add(
        "network",
        metavar="RUN|MODEL",
        help="a run folder, a .keras file, or the name of a network (options may follow the name)",
    )
    text = "the image, resized to the network's input size (default: the first image in samples/ of a run)"
    add("--image", type=Path, metavar="FILE", help=text)
    add("--out", type=Path, default=Path("look.png"), metavar="FILE", help="the figure (default: look.png)")
    add("--layer", default="", metavar="NAME", help="the layer (default: the first convolution); see kerascv_course.analyze")
    add("--filters", type=int, nargs="*", default=(), metavar="N", help="channels to draw, from 0 (default: the first ten)")
    add("--weights", default="", metavar="FILE|NAME", help="weights of a network by name: a file or hub name")
    text = "of each channel of pixels in 0–1, if the network takes normalized pixels: one value or one per channel"
    add("--mean", type=float, nargs="+", default=(0.5,), metavar="X", help=f"mean {text} (default: 0.5)")
    add("--std", type=float, nargs="+", default=(0.25,), metavar="X", help=f"standard deviation {text} (default: 0.25)")
    return parser


if __name__ == "__main__":
    run_cli(main)
