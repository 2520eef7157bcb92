"""What we save opens by Keras alone, and our own layers after ``import kerascv_course``; each in a fresh process."""

from __future__ import annotations

import ast
import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import kerascv_course
from kerascv_course.core.own_layers import OWN

PACKAGE = Path(kerascv_course.__file__).parent

#: Opens files by Keras, in a Python with or without our package, and writes each one's answers for the images beside it.
OPEN = """
import sys
{first}
import importlib.util
importlib.util.find_spec("keras")  # looking is not importing
import keras
import numpy as np
for path in sys.argv[1:]:
    model = keras.saving.load_model(path + "/best.keras")
    assert not model.compiled
    np.save(path + "/answers.npy", model.predict(np.load(path + "/images.npy"), verbose=0))
    print("opened")
"""
WITHOUT = "sys.modules['kerascv_course'] = sys.modules['export'] = None"
WITH = "import kerascv_course; assert not {'keras', 'tensorflow', 'numpy'} & set(sys.modules)"


def test_every_registered_class_is_listed():
    found: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and "register_keras_serializable" in map(_name, node.decorator_list):
                found.setdefault(".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts), set()).add(node.name)
    assert found == {module: set(names) for module, names in OWN.items()}


def _name(decorator):
    call = decorator.func if isinstance(decorator, ast.Call) else decorator
    return getattr(call, "attr", getattr(call, "id", ""))


@pytest.fixture(scope="module")
def runs(tiny_run, tiny_recipe, color_run, color_images, identity_run, identity_recipe, people, tmp_path_factory):
    """A trained run of each family, and its validation images."""
    from kerascv_course.experiment import Experiment, Options
    from kerascv_course.recipes import get_recipe

    root = tmp_path_factory.mktemp("families")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERASCV_COURSE_CACHE", str(root / "cache"))
        replace = dataclasses.replace
        smoothed = replace(tiny_recipe, classification=replace(tiny_recipe.classification, label_smoothing=0.1), epochs=1)
        softmax = replace(identity_recipe.retrieval, center_weight=0.0)
        arcface = replace(softmax, identity_loss="arcface")
        scenes = get_recipe("ntu-bag-of-sift")
        small = replace(scenes.scenes, step=6, words=6, samples=600, k=3)
        made = {
            "smoothed": (smoothed, None),
            "softmax": (replace(identity_recipe, retrieval=softmax, epochs=1), people),
            "arcface": (replace(identity_recipe, retrieval=arcface, epochs=1), people),
            "scenes": (replace(scenes, data=tiny_recipe.data, scenes=small), None),
        }
        found = {"tiny": tiny_run.path, "color": color_run.path, "center": identity_run.path}
        for name, (recipe, data_dir) in made.items():
            found[name] = Experiment(recipe, root / name, Options(data_dir, train_only=True)).run().folder.path
    opened = {}
    for name, path in found.items():
        opened[name] = root / "opened" / name
        opened[name].mkdir(parents=True)
        (opened[name] / "best.keras").symlink_to(path / "best.keras")
        rng = np.random.default_rng(0)
        shape = kerascv_course.load_model(path).input_shape[1:]
        np.save(opened[name] / "images.npy", rng.integers(0, 256, (4, *shape), np.uint8))
    return opened


@pytest.mark.parametrize(
    ("first", "names"),
    [
        (WITHOUT, ("tiny", "smoothed", "softmax", "color")),
        (WITH, ("tiny", "smoothed", "softmax", "color", "center", "arcface", "scenes")),
    ],
    ids=["without the package", "with the package"],
)
def test_keras_opens_a_run_of_every_family(runs, first, names):
    words = [sys.executable, "-c", OPEN.format(first=first), *(str(runs[name]) for name in names)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    for name in names:
        ours = kerascv_course.load_model(runs[name]).predict(np.load(runs[name] / "images.npy"), verbose=0)
        np.testing.assert_array_equal(np.load(runs[name] / "answers.npy"), ours, err_msg=name)


def test_without_the_package_own_layers_are_named(runs):
    words = [sys.executable, "-c", OPEN.format(first=WITHOUT), str(runs["center"])]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and "CenterDistances" in done.stderr


def test_the_package_may_be_imported_after_keras(runs):
    first = (
        "import keras; known = keras.saving.get_custom_objects(); import kerascv_course; assert 'kerascv_course>VLAD' in known"
    )
    words = [sys.executable, "-c", OPEN.format(first=first), str(runs["center"])]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
