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
def test_recipe_names_its_model_data_and_expected_result(recipe):
    from kerascv_course.data import SOURCES

    assert recipe.description and recipe.expect, recipe.name
    assert recipe.data.source in SOURCES
    if isinstance(recipe, TrainedRecipe):
        check_model(recipe.model, recipe.model_options)


def test_all_recipes_begins_with_the_default():
    assert next(iter(all_recipes())) == DEFAULT


def test_get_recipe_suggests_the_nearest_name():
    with pytest.raises(UnknownNameError, match="unknown recipe 'tdt4265-bas'; did you mean 'tdt4265-base'"):
        get_recipe("tdt4265-bas")


def test_recipes_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        get_recipe(DEFAULT).epochs = 3


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Data("digits", image_size=(0, 3)), r"image_size\[0\] must be an integer \(1 or more\); received 0"),
        (
            lambda: Data("digits", validation_share=1.0),
            r"validation_share must be a number \(above 0 to below 1\); received 1.0",
        ),
        (
            lambda: Data("digits", normalize_mean=(0.1, 0.2)),
            "normalize_mean must have one value, or one for each of 3 channels",
        ),
        (lambda: Data("digits", normalize_std=(0.0,)), r"normalize_std\[0\] must be a number \(above 0\)"),
        (lambda: Augmentation(translate=-1), r"translate must be an integer \(0 or more\)"),
        (lambda: Optimizer(learning_rate=0), r"learning_rate must be a number \(above 0\); received 0"),
        (lambda: Optimizer(momentum=1.0), r"momentum must be a number \(0 to below 1\)"),
        (lambda: Optimizer("adam", momentum=0.9), "momentum requires sgd or rmsprop or muon; received it for adam"),
        (lambda: Optimizer("adam", nesterov=True), "nesterov requires sgd"),
        (lambda: Schedule("step", milestones=(5, 3)), "milestones must be ascending"),
        (lambda: Schedule("step"), "the step schedule requires schedule.milestones"),
        (lambda: Schedule("cosine", milestones=(1,)), "no other schedule takes them"),
        (lambda: Schedule(warmup_epochs=1), "warmup_epochs requires the schedule cosine or linear"),
        (lambda: dataclasses.replace(get_recipe(DEFAULT), epochs=0), r"epochs must be an integer \(1 or more\); received 0"),
        (lambda: dataclasses.replace(get_recipe(DEFAULT), monitor="val_R1"), "the task classify has the monitors val_loss"),
        (lambda: dataclasses.replace(get_recipe(DEFAULT), patience=3, monitor="last"), "patience requires a validation metric"),
        (
            lambda: dataclasses.replace(get_recipe("csc413-unet"), augmentation=Augmentation(mixup=0.2)),
            "mixup and augmentation.cutmix require the task classify",
        ),
        (lambda: Classification(label_smoothing=1), r"label_smoothing must be a number \(0 to below 1\)"),
    ],
)
def test_recipe_rejects_invalid_values(build, message):
    with pytest.raises(InputError, match=message):
        build()


def test_all_recipes_rejects_duplicate_names(monkeypatch):
    from kerascv_course.recipes import basics

    monkeypatch.setattr(basics, "RECIPES", [*basics.RECIPES, *basics.RECIPES])
    with pytest.raises(ValueError, match="'lenet5-digits' is used twice"):
        all_recipes()


def test_recipe_requires_data():
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
def test_read_recipe_rejects_invalid_json(text, message):
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
def test_model_options_are_merged_with_the_recipes(words, options):
    for parse in (train.COMMAND.parse, ablate.COMMAND.parse):
        found = parse(["tdt4265-base", *words])[0].model_options
        assert found == options and list(map(type, found.values())) == list(map(type, options.values()))


def test_model_options_must_be_pairs():
    with pytest.raises(InputError, match="must be pairs of NAME and VALUE; received init"):
        train.COMMAND.parse(["tdt4265-base", "--model-options", "init"])
