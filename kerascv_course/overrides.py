"""Command lines of the form ``[RECIPE] [options]``: a recipe by name, its fields as options, and a command's own options."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from kerascv_course.config import Recipe, TrainedRecipe, with_base_options
from kerascv_course.core.cli import Parser, add_options, apply_options
from kerascv_course.recipes import DEFAULT, all_recipes, get_recipe

__all__ = ["RecipeCommand"]

T = TypeVar("T")


@dataclass(frozen=True)
class RecipeCommand(Generic[T]):
    """A command whose options are those of a recipe and a few of its own.

    Attributes:
        prog: how the command is called.
        description: for the help text.
        defaults: the command's own options, an instance of a frozen dataclass.
        base: the recipe that is overridden, from the name given (None: none) and the command's own options.
    """

    prog: str
    description: str
    defaults: T
    base: Callable[[str | None, T], Recipe]

    def parse(self, argv: Sequence[str]) -> tuple[Recipe, T]:
        """The recipe with the overrides applied, and the command's own options.

        Raises:
            InputError: an unknown recipe, a value of the wrong type, or values that contradict each other.
            SystemExit: ``--help`` (0); an unknown option (2), after the message.
        """
        name, words = self._split_name(list(argv))
        base = self.base(name, self._own(words))
        parsed = self.parser(base, brief="--help-all" not in words).parse_args(words)
        recipe = apply_options(base, parsed, skip=base.fixed)
        if isinstance(recipe, TrainedRecipe) and isinstance(base, TrainedRecipe):
            given = recipe.model_options if hasattr(parsed, "model_options") else {}
            recipe = with_base_options(recipe, base, given)
        return recipe, apply_options(self.defaults, parsed)

    def parser(self, base: Recipe | None = None, *, brief: bool = True) -> Parser:
        """The parser of all options; `base`: the recipe whose options they are, by default the default recipe."""
        base = base or get_recipe(DEFAULT)
        usage = f"{self.prog} [RECIPE] [options]"
        parser = Parser(prog=self.prog, usage=usage, description=f"{self.description} Recipe: {base.name}.", add_help=False)
        parser.epilog = "--help-all shows each option in full." if brief else None
        parser.add_argument("-h", "--help", action="help", help="show each option in a line")
        parser.add_argument("--help-all", action="help", help="show each option in full")
        add_options(parser, self.defaults, brief=brief)
        add_options(parser, base, skip=base.fixed, brief=brief)
        return parser

    def _own_parser(self) -> Parser:
        parser = Parser(prog=self.prog, usage=f"{self.prog} [RECIPE] [options]", add_help=False)
        add_options(parser, self.defaults)
        return parser

    def _own(self, words: Sequence[str]) -> T:
        return apply_options(self.defaults, self._own_parser().parse_known_args(words)[0])

    def _split_name(self, words: list[str]) -> tuple[str | None, list[str]]:
        """The recipe's name, if any, and the other words. The name comes first, or after options of the command's own."""
        if words and not words[0].startswith("-"):
            return get_recipe(words[0]).name, words[1:]
        rest = self._own_parser().parse_known_args(words)[1]
        if rest and rest[0] in all_recipes():
            words.remove(rest[0])
            return rest[0], words
        return None, words
