"""NTNU TDT4265, assignment 3 (report 001): 5×5 CNNs on CIFAR-10.

Settings that the report leaves out are the assignment's starter code's: SGD with rate 0.05, batch 64, at most 10 epochs, two
validations an epoch, stop when the best of the last four validations is the oldest (three in a row without a better one), pixels
normalised by mean 0.5 and standard deviation 0.25, 10 % of the training images for validation, the last incomplete batch dropped,
PyTorch's initial weights. The *best* flavours keep the networks and train them better.
"""

from __future__ import annotations

from dataclasses import replace

from kerascv_course.recipe import Data, Optimizer, Recipe

_BASE = Recipe(
    name="tdt4265-base",
    description="report 001, task 2: the base 5×5 CNN on CIFAR-10 (reported: 0.8677 / 0.7413 / 0.7422 train / val / test)",
    expect="",
    model="tdt4265_base",
    model_options={"init": "lecun"},
    data=Data("cifar10", validation_share=0.1),
    optimizer=Optimizer("sgd", learning_rate=0.05),
    epochs=10,
    batch_size=64,
    validations_per_epoch=2,
    patience=3,
)
_MODEL1 = replace(
    _BASE,
    name="tdt4265-model1",
    description="report 001, task 3, model 1: wider, batch norm, L2, dropout, Adamax (reported: 0.9433 / 0.7698 / 0.7742)",
    model="tdt4265_model1",
    optimizer=Optimizer("adamax", learning_rate=1e-3),
    precision="auto",
)
_MODEL2 = replace(
    _MODEL1,
    name="tdt4265-model2",
    description="report 001, task 3, model 2: twice as wide, batch norm, dropout 0.6, Adamax (reported: 0.9782 / 0.820 / 0.8097)",
    model="tdt4265_model2",
)

RECIPES = [_BASE, _MODEL1, _MODEL2]
