"""The recipes: a file is a course, an entry of its `RECIPES` an experiment. Names are course-experiment."""

from __future__ import annotations

from kerascv_course.config import Recipe
from kerascv_course.core.errors import UnknownNameError
from kerascv_course.recipes import cose474, csc413, digits, fast, folder, hkust, ntu_networks, ntu_scenes, tdt4265

__all__ = ["DEFAULT", "all_recipes", "get_recipe"]

#: The recipe of ``python -m kerascv_course.train`` without a name.
DEFAULT = "lenet5-digits"


def all_recipes() -> dict[str, Recipe]:
    """Every recipe by its name, the default first.

    Raises:
        ValueError: two recipes have one name.
    """
    recipes: dict[str, Recipe] = {}
    for course in (digits, fast, tdt4265, ntu_scenes, ntu_networks, cose474, csc413, hkust, folder):
        for recipe in course.RECIPES:
            if recipe.name in recipes:
                raise ValueError(f"a recipe's name may be used once; {recipe.name!r} is used twice: rename one")
            recipes[recipe.name] = recipe
    return recipes


def get_recipe(name: str) -> Recipe:
    """The recipe of a name.

    Raises:
        UnknownNameError: there is none; the nearest names are shown.
    """
    recipes = all_recipes()
    if name not in recipes:
        raise UnknownNameError("recipe", name, recipes)
    return recipes[name]
