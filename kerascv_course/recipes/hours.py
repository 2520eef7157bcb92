"""What a recipe can say of itself that has not been run."""

from __future__ import annotations

__all__ = ["not_run"]


def not_run(*, images_a_second: float | None, epochs: int, images: int = 45_000) -> str:
    """A recipe's `expect`: not run, and how long it would take by arithmetic.

    Args:
        images_a_second: training rate of its network on two CPU cores in float32 (docs/models.md); None: not measured.
        epochs: of the recipe.
        images: of an epoch.
    """
    if images_a_second is None:
        return "not run yet, nor its speed measured; wants a GPU"
    hours = images * epochs / images_a_second / 3600
    return f"not run yet; about {hours:.{0 if hours > 10 else 1}f} hours on two CPU cores, by the rate in docs/models.md; wants a GPU"
