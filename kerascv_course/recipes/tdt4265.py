"""NTNU TDT4265, assignment 3 (report 001): 5×5 CNNs on CIFAR-10.

Settings that the report leaves out are the assignment's starter code's: SGD with rate 0.05, batch 64, at most 10 epochs, two
validations an epoch, stop when the best of the last four validations is the oldest (three in a row without a better one), pixels
normalised by mean 0.5 and standard deviation 0.25, 10 % of the training images for validation, the last incomplete batch dropped.
"""

from __future__ import annotations

from kerascv_course.recipe import Data, Optimizer, Recipe

RECIPES = [
    Recipe(
        name="tdt4265-base",
        description="report 001, task 2: the base 5×5 CNN on CIFAR-10 (reported: 0.8677 / 0.7413 / 0.7422 train / val / test)",
        expect="0.824 / 0.714 / 0.714 train / val / test with seed 0, stopped after 6.5 epochs; "
        "167 s of training on two CPU cores, no GPU",
        model="tdt4265_base",
        data=Data("cifar10", validation_share=0.1),
        optimizer=Optimizer("sgd", learning_rate=0.05),
        epochs=10,
        batch_size=64,
        validations_per_epoch=2,
        patience=3,
    ),
]
