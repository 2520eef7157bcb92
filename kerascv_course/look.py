"""Look inside a network: ``python -m kerascv_course.look RUN|MODEL --image FILE [--layer NAME] [--filters 14 26 32] --out FILE``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from kerascv_course.core.errors import InputError, run_cli

if TYPE_CHECKING:
    import keras
    import numpy as np

    from kerascv_course.core.images import Filter


def look(
    network: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|MODEL")],
    image: Path,
    out: Path = Path("look.png"),
    layer: str = "",
    filters: tuple[int, ...] = (),
    weights: str = "",
    mean: tuple[float, ...] = (0.5,),
    std: tuple[float, ...] = (0.25,),
) -> None:
    """Draw what the filters of a layer answer to a picture: a map each, and above it the filter itself, where the layer convolves the
    picture.

    Args:
        network: a run folder, a .keras file, or the name of a network (options may follow: 'keras.applications/MobileNet?alpha=0.75').
        image: the picture; it is brought to the network's size.
        out: the drawing, PNG.
        layer: its name (python -m kerascv_course.analyze lists them); none: the first convolution.
        filters: numbers of its filters, from 0; none: the first ten.
        weights: of a network that is named: a file or hub name (see kerascv_course.create_model).
        mean: subtracted from each channel, of pixels scaled to 0–1, where the network takes floating-point pixels; one value or three.
        std: divides each channel then.
    """
    from kerascv_course.core.environment import start_tensorflow

    if not image.is_file():
        raise InputError(f"no such image: {image}")
    resize, path = _find(network)
    start_tensorflow()
    import numpy as np

    from kerascv_course.analysis.activations import convolutions
    from kerascv_course.analysis.inside import look as draw
    from kerascv_course.core.images import read_image
    from kerascv_course.core.io import atomic_write

    model = _open(network, path, weights)
    height, width, channels = model.inputs[0].shape[1:]
    pixels = read_image(image, height, width, channels, resize)
    if not layer and not (convolutions(model)):
        raise InputError(f"{network} has no convolution: name a layer by --layer")
    figure = draw(model, _taken(model, pixels, mean, std), layer or convolutions(model)[0], filters, shown=np.asarray(pixels))
    with atomic_write(out) as temporary:
        figure.savefig(temporary, dpi=120)
    print(out)


def _find(network: str) -> tuple[Filter, Path | None]:
    """How a run resizes pictures, and the file to open; None: a network that is named."""
    from kerascv_course.models.registry import check_model
    from kerascv_course.training.run_dir import Run

    place = Path(network)
    if place.is_dir():
        run = Run.open(place)
        return run.recipe().data.resize, run / "best.keras"
    if place.suffix == ".keras" or place.is_file():
        return "bilinear", place
    check_model(network)
    return "bilinear", None


def _open(network: str, path: Path | None, weights: str) -> keras.Model:
    from kerascv_course.core.keras_file import load_keras
    from kerascv_course.models.registry import create_model

    if path is None:
        return create_model(network, weights=weights or None)
    if weights:
        raise InputError(f"--weights is for networks that are named; {network} has its own")
    return load_keras(path)


def _taken(model: keras.Model, pixels: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """The picture as the model takes it: uint8 pixels, or normalised ones."""
    import numpy as np

    if model.inputs[0].dtype == "uint8":
        return pixels
    for name, values in (("mean", mean), ("std", std)):
        if len(values) not in (1, pixels.shape[-1]):
            raise InputError(f"--{name} is one value or one for each of {pixels.shape[-1]} channels; received {len(values)}")
    if min(std) <= 0:
        raise InputError(f"--std must be above 0; received {' '.join(map(str, std))}")
    return ((pixels / 255 - np.asarray(mean)) / np.asarray(std)).astype(np.float32)


def main() -> None:
    """Parse and run."""
    tyro.cli(look, prog="python -m kerascv_course.look")


if __name__ == "__main__":
    run_cli(main)
