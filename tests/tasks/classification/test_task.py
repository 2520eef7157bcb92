from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from export.converter.serving_graph import serving_classifier
from export.serving import normalized
from kerascv_course.config import Augmentation, Export
from kerascv_course.data.pipeline import evaluation_batches, training_batches
from kerascv_course.tasks.classification.config import Classification
from kerascv_course.tasks.classification.task import ClassificationTask, _worst_mistakes, classification_report
from kerascv_course.training.trainer import prepare

keras = pytest.importorskip("keras")


def test_a_report_worked_by_hand():
    # three images of two classes: sure and right, undecided (the lower class is the answer), sure and wrong
    logits = np.array([[np.log(3), 0], [0, 0], [0, np.log(3)]], np.float32)
    report = classification_report(logits, np.array([0, 1, 0]))
    assert report["accuracy"] == pytest.approx(1 / 3)
    assert report["loss"] == pytest.approx((-np.log(0.75) - np.log(0.5) - np.log(0.25)) / 3)
    assert report["confusion"] == [[1, 1], [1, 0]]
    assert report["class_accuracy"] == [0.5, 0.0]


def test_a_report_of_huge_logits_and_absent_classes():
    report = classification_report(np.array([[1e4, 0, 0]], np.float32), np.array([0]))
    assert report["loss"] == 0.0 and report["class_accuracy"] == [1.0, None, None]


def test_a_report_agrees_with_scikit_learn():
    from sklearn.metrics import accuracy_score, confusion_matrix, log_loss

    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(200, 5)) * 3, rng.integers(0, 5, 200)
    report = classification_report(logits, targets)
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert report["confusion"] == confusion_matrix(targets, logits.argmax(1)).tolist()
    assert report["accuracy"] == pytest.approx(accuracy_score(targets, logits.argmax(1)))
    assert report["loss"] == pytest.approx(log_loss(targets, probabilities))


def test_normalisation_of_each_channel():
    network = keras.Sequential([keras.Input((2, 2, 3)), keras.layers.Identity()])
    model = normalized(network, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    pixels = np.array([0, 51, 255], np.uint8) * np.ones((1, 2, 2, 3), np.uint8)
    expected = (np.array([0, 0.2, 1]) - (0.1, 0.2, 0.3)) / (0.5, 0.6, 0.7)
    np.testing.assert_allclose(model.predict(pixels, verbose=0)[0, 0, 0], expected, atol=1e-6)


def test_smoothed_loss_against_keras(tiny_recipe, digits):
    targets, logits = np.array([0, 2]), np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    ours = ClassificationTask(tiny_recipe).compile_arguments(digits)["loss"](targets, logits)
    theirs = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)(np.eye(3)[targets], logits)
    assert float(ours) == pytest.approx(float(theirs), rel=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_and_accuracy_of_mixed_targets(tiny_recipe, digits, smoothing):
    mixing = dataclasses.replace(
        tiny_recipe, augmentation=Augmentation(mixup=0.2), classification=Classification(label_smoothing=smoothing)
    )
    arguments = ClassificationTask(mixing).compile_arguments(digits)
    targets, logits = np.array([0, 2]), np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    soft = np.array([[0.7, 0.3, 0], [0, 0, 1]], np.float32)
    keras_loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing)
    assert float(arguments["loss"](soft, logits)) == pytest.approx(float(keras_loss(soft, logits)), rel=1e-6)
    assert float(arguments["loss"](targets, logits)) == pytest.approx(float(keras_loss(np.eye(3)[targets], logits)), rel=1e-6)
    (accuracy,) = arguments["metrics"]
    for answers, expected in ((soft, 1), (soft[::-1], 0), (np.eye(3, dtype=np.float32)[[0, 1]], 0.5)):
        for truth in (soft, targets, targets[:, None]):
            accuracy.reset_state()
            accuracy.update_state(truth, answers)
            assert float(accuracy.result()) == expected


def test_a_mixed_recipe_is_trained_and_validated(tiny_recipe, digits):
    recipe = dataclasses.replace(
        tiny_recipe,
        augmentation=Augmentation(translate=2, mixup=0.2, cutmix=1.0),
        classification=Classification(label_smoothing=0.1),
        export=Export(enabled=False),
    )
    training = prepare(ClassificationTask(recipe), digits)
    batches = training_batches(digits.train, recipe, classes=len(digits.info.labels))
    kept = training.model.fit(
        batches, steps_per_epoch=20, validation_data=evaluation_batches(digits.validation, 100), shuffle=False, verbose=0
    ).history
    logits = training.model.predict(digits.validation.images, verbose=0)
    assert kept["val_accuracy"][0] == pytest.approx(np.mean(logits.argmax(1) == digits.validation.targets))
    assert 0.1 < kept["accuracy"][0] < kept["val_accuracy"][0] + 0.3


def test_the_serving_graph_names_its_outputs():
    network = keras.Sequential([keras.Input((2, 2, 1)), keras.layers.Flatten(), keras.layers.Dense(3)])
    outputs = serving_classifier(normalized(network, (0.5,), (0.5,))).predict(np.zeros((2, 2, 2, 1), np.uint8), verbose=0)
    assert set(outputs) == {"logits", "probabilities"}
    np.testing.assert_allclose(outputs["probabilities"], keras.ops.softmax(outputs["logits"]), rtol=1e-6)


def test_the_worst_mistakes_come_first(digits):
    split = digits.test.take(np.arange(3))
    logits = np.full((3, 10), 0.0)
    wrong = (split.targets + 1) % 10
    logits[np.arange(3), wrong] = (1.0, 3.0, 2.0)
    images, captions = _worst_mistakes(logits, split, "0123456789", count=2)
    assert (images == split.images[[1, 2]]).all()
    assert captions[0] == f"true {split.targets[1]},\npredicted {wrong[1]} (69 %)"
    assert _worst_mistakes(np.eye(10)[split.targets], split, "0123456789", count=2) is None
