"""A network by whatever a command line names it: a registered name, a run folder or a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kerascv_course.core.errors import InputError

if TYPE_CHECKING:
    from kerascv_course.analysis import Summary

__all__ = ["find_summary"]


def find_summary(network: str, input_shape: Sequence[int] | None = None, num_classes: int | None = None) -> Summary:
    """Analyse a network.

    Args:
        network: a registered name (options may follow), ``keras.applications/NAME``, a run folder, an .onnx or a .keras file.
        input_shape: height, width, channels; an .onnx file's own order of axes.
        num_classes: width of a registered network's last layer.

    Raises:
        InputError: nothing of that name, or arguments that do not go with it.
    """
    from kerascv_course.analysis import summarize
    from kerascv_course.core.environment import start_tensorflow
    from kerascv_course.models.registry import APPLICATIONS, check_model, create_model

    path = Path(network)
    application = network.startswith(APPLICATIONS)
    if not application and (path.exists() or ("?" not in network and (path.suffix or len(path.parts) > 1))):
        if num_classes is not None:
            raise InputError(f"--num-classes is for registered networks; {network} is a file")
        if path.suffix != ".onnx":
            start_tensorflow()
        return summarize(path, input_shape)
    check_model(network)  # what is wrong with a name or an option is told before Keras is imported
    if input_shape is not None and len(input_shape) != 3:
        raise InputError(
            f"--input-shape is height, width and channels for a registered network; received {len(input_shape)} numbers"
        )
    shape = None if input_shape is None else (input_shape[0], input_shape[1], input_shape[2])
    start_tensorflow()
    return summarize(create_model(network, num_classes, shape))
