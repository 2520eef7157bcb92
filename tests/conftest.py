"""Shared fixtures. Real data is used where the environment says it stands, and skipped with a reason elsewhere."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# A busy machine is not a failure: nothing is timed.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def own_log():
    """Commands that print the package's log change it for the test alone."""
    log = logging.getLogger("kerascv_course")
    handlers, level, propagate = log.handlers[:], log.level, log.propagate
    yield
    log.handlers[:], log.propagate = handlers, propagate
    log.setLevel(level)


@pytest.fixture(scope="session")
def cifar10_dir() -> Path:
    """Folder with a prepared CIFAR-10."""
    folder = Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()
    if not any(folder.glob("cifar10/*/dataset_info.json")):
        pytest.skip("no prepared CIFAR-10: set TFDS_DATA_DIR")
    return folder


@pytest.fixture(scope="session")
def scene15_dir() -> Path:
    """Folder with the fifteen scenes."""
    folder = os.environ.get("SCENE15_DIR")
    if not folder or not (Path(folder) / "train").is_dir():
        pytest.skip("no scene15 images: set SCENE15_DIR")
    return Path(folder)


@pytest.fixture(scope="session")
def lfw279_dir() -> Path:
    """Folder with train/ and val/ of one folder of face images per identity."""
    folder = os.environ.get("LFW279_DIR")
    if not folder or not (Path(folder) / "val").is_dir():
        pytest.skip("no lfw279 images: set LFW279_DIR")
    return Path(folder)


@pytest.fixture(scope="session")
def tiny_recipe():
    """LeNet-5 on the digits, with dropout and augmentation, done in two seconds."""
    from kerascv_course.recipes import get_recipe

    return dataclasses.replace(get_recipe("lenet5-digits"), epochs=3, batch_size=128, validations_per_epoch=2)


@pytest.fixture(scope="session")
def digits(tiny_recipe):
    """The embedded digits."""
    from kerascv_course.data import load

    return load(tiny_recipe.data)


@pytest.fixture(scope="session")
def tiny_run(tiny_recipe, tmp_path_factory):
    """A finished run of the tiny recipe; tests must not change it."""
    from kerascv_course.experiment import Experiment

    return Experiment(tiny_recipe, tmp_path_factory.mktemp("runs") / "tiny").run().folder


@pytest.fixture
def image_folder(tmp_path, digits) -> Path:
    """A folder of class folders: two classes, 20 PNG digits each."""
    from PIL import Image

    for target, name in ((0, "null"), (1, "eins")):
        folder = tmp_path / "images" / name
        folder.mkdir(parents=True)
        for i in np.flatnonzero(digits.train.targets == target)[:20]:
            Image.fromarray(digits.train.images[i, :, :, 0]).save(folder / f"{i}.png")
    return tmp_path / "images"


@pytest.fixture(scope="session")
def color_images(tmp_path_factory) -> Path:
    """A folder with one class of 60 color images of 16×20 pixels: shapes whose color follows their brightness."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("colors") / "shape"
    folder.mkdir()
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:16, :20]
    for number in range(60):
        light = 128 + 100 * np.sin(rows / rng.uniform(2, 6) + columns / rng.uniform(2, 6) + rng.uniform(0, 6))
        pixels = np.stack([light, light * 0.6, 255 - light], -1) + rng.normal(0, 4, (16, 20, 3))
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / f"{number}.png")
    return folder.parent


@pytest.fixture(scope="session")
def color_recipe():
    """The skip connections on `color_images`, six colors, mirrored images, done in two seconds."""
    from kerascv_course.config import Augmentation, Data
    from kerascv_course.recipes import get_recipe
    from kerascv_course.tasks.colorization.config import Colorization

    return dataclasses.replace(
        get_recipe("csc413-unet"),
        data=Data("folder", image_size=(16, 20), only=("shape",), normalize_mean=(0.0,), normalize_std=(256 / 255,)),
        model_options={"filters": 8},
        colorization=Colorization(colors=6),
        augmentation=Augmentation(flip=True),
        epochs=4,
        batch_size=8,
        snapshots=2,
    )


@pytest.fixture(scope="session")
def color_run(color_recipe, color_images, tmp_path_factory):
    """A finished run of the recipe; tests must not change it."""
    from kerascv_course.experiment import Experiment, Options

    return Experiment(color_recipe, tmp_path_factory.mktemp("runs") / "color", Options(data_dir=color_images)).run().folder


@pytest.fixture(scope="session")
def people(tmp_path_factory):
    """Identities that are colors, 6 to train and 4 to test, six images each: a disc anywhere, and noise."""
    from PIL import Image

    rng = np.random.default_rng(0)
    root = tmp_path_factory.mktemp("people")
    rows, columns = np.mgrid[:16, :16]
    for number, color in enumerate(rng.integers(0, 256, (10, 3))):
        folder = root / ("train" if number < 6 else "val") / f"id{number}"
        folder.mkdir(parents=True)
        for picture in range(6):
            top, left = rng.integers(4, 12, 2)
            disc = ((rows - top) ** 2 + (columns - left) ** 2 < 30)[..., None]
            pixels = np.where(disc, color, 128) + rng.normal(0, 20, (16, 16, 3))
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / f"{picture}.png")
    return root


@pytest.fixture(scope="session")
def identity_recipe():
    """All losses at once, on `people`, done in seconds."""
    from kerascv_course.config import Augmentation, Data, Optimizer, Schedule
    from kerascv_course.recipes import get_recipe
    from kerascv_course.tasks.retrieval.config import Retrieval

    return dataclasses.replace(
        get_recipe("hkust-triplet-best"),
        model="lenet5",
        data=Data("identities", image_size=(16, 16)),
        augmentation=Augmentation(flip=True, erase=0.2),
        optimizer=Optimizer("adam", learning_rate=2e-3),
        schedule=Schedule(),
        epochs=3,
        batch_size=9,
        retrieval=Retrieval(
            embedding=8,
            neck=True,
            label_smoothing=0.1,
            triplet="batch-hard",
            images_per_identity=3,
            center_weight=0.01,
            rerank=True,
            tta="flip",
        ),
    )


@pytest.fixture(scope="session")
def identity_run(identity_recipe, people, tmp_path_factory):
    """A finished run of the identities; tests must not change it."""
    from kerascv_course.experiment import Experiment, Options

    return Experiment(identity_recipe, tmp_path_factory.mktemp("runs") / "identities", Options(data_dir=people)).run().folder


@pytest.fixture
def hold():
    """Hold a folder by another process until the test ends: ``hold(folder)`` is that process's id."""
    code = (
        "import sys; from pathlib import Path; from kerascv_course.core.lock import sole_writer\n"
        "with sole_writer(Path(sys.argv[1])): print(flush=True); sys.stdin.read()"
    )
    with contextlib.ExitStack() as stack:

        def start(folder: Path) -> int:
            words = [sys.executable, "-c", code, str(folder)]
            other = stack.enter_context(subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
            assert other.stdout.readline()
            stack.callback(other.stdin.close)
            return other.pid

        yield start


@pytest.fixture
def command(tmp_path):
    """Run ``python -m ...`` in an empty folder: ``command("kerascv_course.train", "--list").returncode``."""

    def run(module: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess:
        words = [sys.executable, "-m", module, *map(str, arguments)]
        return subprocess.run(
            words, cwd=tmp_path, capture_output=True, text=True, timeout=300, env={**os.environ, **environment}
        )

    return run


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of this suite."""
    parser.addoption(
        "--all-networks", action="store_true", help="go over every network of keras.applications, not one a family"
    )
