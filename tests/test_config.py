from __future__ import annotations

import dataclasses
import json

import pytest

from kerascv_course import ablate, train
from kerascv_course.config import Augmentation, Data, Optimizer, Schedule, TrainedRecipe, read_recipe
from kerascv_course.core.errors import InputError, UnknownNameError
from kerascv_course.core.schema import to_json
from kerascv_course.models import check_model
from kerascv_course.recipes import DEFAULT, all_recipes, get_recipe
from kerascv_course.tasks.classification.config import Classification, ClassificationRecipe


@pytest.mark.parametrize("recipe", all_recipes().values(), ids=lambda recipe: recipe.name)
def test_every_recipe_is_whole(recipe):
    from kerascv_course.data import SOURCES

    assert recipe.description and recipe.expect, "a recipe says what it is, and machine, time and result to expect"
    assert recipe.data.source in SOURCES
    if isinstance(recipe, TrainedRecipe):
        check_model(recipe.model, recipe.model_options)


def test_the_default_comes_first():
    assert next(iter(all_recipes())) == DEFAULT


def test_an_unknown_recipe_shows_the_nearest():
    with pytest.raises(UnknownNameError, match="unknown recipe 'tdt4265-bas'; did you mean 'tdt4265-base'"):
        get_recipe("tdt4265-bas")


def test_recipes_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        get_recipe(DEFAULT).epochs = 3


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Data("digits", image_size=(0, 3)), "image_size must be a height and a width above 0"),
        (lambda: Data("digits", validation_share=1.0), "validation_share must be above 0 and below 1; received 1.0"),
        (
            lambda: Data("digits", channels=3, normalize_mean=(0.1, 0.2)),
            "normalize_mean must have as many values as channels, or 1: 1 or 3",
        ),
        (lambda: Data("digits", normalize_std=(0.0,)), "normalize_std must be above 0"),
        (lambda: Augmentation(translate=-1), "translate must be 0 pixels or more"),
        (lambda: Optimizer(learning_rate=0), "learning_rate must be above 0"),
        (lambda: Optimizer(momentum=1.0), "momentum must be 0 or more and below 1"),
        (lambda: Optimizer("adam", momentum=0.9), "momentum requires sgd or rmsprop or muon; received it for adam"),
        (lambda: Optimizer("adam", nesterov=True), "nesterov requires sgd"),
        (lambda: Schedule("step", milestones=(5, 3)), "milestones must be ascending"),
        (lambda: Schedule("step"), "the step schedule requires schedule.milestones"),
        (lambda: Schedule("cosine", milestones=(1,)), "no other schedule takes them"),
        (lambda: Schedule(warmup_epochs=1), "warmup_epochs requires the schedule cosine or linear"),
        (lambda: dataclasses.replace(get_recipe(DEFAULT), epochs=0), "epochs must be a whole number of 1 or more; received 0"),
        (lambda: dataclasses.replace(get_recipe(DEFAULT), monitor="val_R1"), "the task classify has the monitors val_loss"),
        (lambda: dataclasses.replace(get_recipe(DEFAULT), patience=3, monitor="last"), "patience requires a validation metric"),
        (
            lambda: dataclasses.replace(get_recipe("csc413-unet"), augmentation=Augmentation(mixup=0.2)),
            "mixup and augmentation.cutmix require the task classify",
        ),
        (lambda: Classification(label_smoothing=1), "label_smoothing must be 0 or more and below 1"),
    ],
)
def test_values_that_make_no_sense_are_refused(build, message):
    with pytest.raises(InputError, match=message):
        build()


def test_recipes_may_not_share_a_name(monkeypatch):
    from kerascv_course.recipes import basics

    monkeypatch.setattr(basics, "RECIPES", [*basics.RECIPES, *basics.RECIPES])
    with pytest.raises(ValueError, match="'lenet5-digits' is used twice"):
        all_recipes()


def test_a_recipe_needs_a_model_and_data():
    with pytest.raises(TypeError, match="data"):
        ClassificationRecipe(name="x", description="", expect="", model="lenet5")


@pytest.mark.parametrize("recipe", all_recipes().values(), ids=lambda recipe: recipe.name)
def test_recipe_json_has_one_task_section(recipe):
    text = to_json(recipe)
    assert read_recipe(text, what="recipe.json") == recipe
    sections = {"classification", "retrieval", "colorization", "scenes"}
    assert len(sections & json.loads(text).keys()) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "it must be an object with a task"),
        ('{"task": "clasify"}', "unknown task 'clasify'; did you mean 'classify'"),
        ('{"task": "classify", "views": "flip"}', "unknown field 'views'"),
    ],
)
def test_invalid_recipe_json_is_refused(text, message):
    with pytest.raises(InputError, match=message):
        read_recipe(text, what="recipe.json")


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ([], {"init": "lecun"}),
        (
            ["--model-options", "l2", "1e-3", "norm", "False", "hidden", "32"],
            {"init": "lecun", "l2": 1e-3, "norm": False, "hidden": 32},
        ),
        (["--model-options", "init", "glorot"], {"init": "glorot"}),
        (["--model", "lenet5"], {}),
        (["--model", "lenet5", "--model-options", "dropout", "0.1"], {"dropout": 0.1}),
    ],
)
def test_options_of_the_network_are_laid_over_the_recipes(words, options):
    for parse in (train.parse, ablate.parse):
        found = parse(["tdt4265-base", *words])[0].model_options
        assert found == options and list(map(type, found.values())) == list(map(type, options.values()))


def test_options_of_the_network_come_in_pairs(capsys):
    with pytest.raises(SystemExit, match="2"):
        train.parse(["tdt4265-base", "--model-options", "init"])
    assert "pairs of NAME and" in capsys.readouterr().err
