"""Recipes, named COURSE-EXPERIMENT: one module for each course, whose `RECIPES` are its experiments."""

from __future__ import annotations

import importlib

from kerascv_course.config import Recipe
from kerascv_course.core.errors import UnknownNameError

__all__ = ["DEFAULT", "all_recipes", "get_recipe"]

#: The recipe of ``python -m kerascv_course.train`` without a name.
DEFAULT = "lenet5-digits"

#: First part of a recipe's name to its module in this package.
COURSES = {
    "lenet5": "basics",
    "fastnet": "basics",
    "folder": "basics",
    "tdt4265": "tdt4265",
    "ntu": "ntu",
    "cose474": "cose474",
    "csc413": "csc413",
    "hkust": "hkust",
}


def all_recipes() -> dict[str, Recipe]:
    """Every recipe by its name, the default first.

    Raises:
        ValueError: two recipes have the same name, or a name does not begin with its course.
    """
    recipes: dict[str, Recipe] = {}
    for module in dict.fromkeys(COURSES.values()):
        for recipe in _recipes(module):
            if recipe.name in recipes:
                raise ValueError(f"names of recipes must be unique; {recipe.name!r} is used twice: rename one")
            if COURSES.get(recipe.name.split("-")[0]) != module:
                raise ValueError(f"the name of a recipe must begin with a course of its module; received {recipe.name!r}")
            recipes[recipe.name] = recipe
    return recipes


def get_recipe(name: str) -> Recipe:
    """The recipe of a name; only its course's module is imported.

    Raises:
        UnknownNameError: no such recipe; the nearest names are suggested.
    """
    for recipe in _recipes(COURSES.get(name.split("-")[0], "")):
        if recipe.name == name:
            return recipe
    raise UnknownNameError("recipe", name, all_recipes())


def _recipes(module: str) -> list[Recipe]:
    return importlib.import_module(f"kerascv_course.recipes.{module}").RECIPES if module else []
