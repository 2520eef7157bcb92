"""Running out of memory, told in a line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from kerascv_course.config import Recipe
from kerascv_course.core.errors import CourseError

__all__ = ["OutOfMemoryError", "is_out_of_memory", "telling_out_of_memory"]


class OutOfMemoryError(CourseError):
    """The machine or its GPU has not the memory that a step takes; the checkpoints are those of before."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python, TensorFlow, JAX or PyTorch says that there was not enough memory.

    TensorFlow has a class of its own, ``ResourceExhaustedError``; JAX says RESOURCE_EXHAUSTED in a general error.
    """
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"MemoryError", "ResourceExhaustedError", "OutOfMemoryError"}) or "RESOURCE_EXHAUSTED" in str(error)


@contextlib.contextmanager
def telling_out_of_memory(recipe: Recipe, run: Path) -> Iterator[None]:
    """Turn an error within the block that says so into an `OutOfMemoryError` with the batch size and what to try.

    Args:
        recipe: what is done.
        run: the folder, to go on with.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, CourseError) or not is_out_of_memory(error):
            raise
        lines = str(error).strip().splitlines() or [type(error).__name__]
        kept = f" Every finished validation is kept in {run}." if (run / "last.npz").exists() else ""
        lower = ", or with --precision bfloat16" if recipe.precision in ("auto", "float32") else ""
        raise OutOfMemoryError(
            f"out of memory with {recipe.model or recipe.name} in batches of {recipe.batch_size} images of "
            f"{'×'.join(map(str, recipe.data.image_size))}: {lines[0][:200]}. Try a new run with a smaller --batch-size, such as "
            f"{max(1, recipe.batch_size // 2)}, with smaller images (--data.image-size){lower}.{kept}"
        ) from error
