"""The example programs of scripts/runtimes/ answer as `OnnxModel` does; scripts/runtimes/compare.py does the same at length."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from export import OnnxModel
from export.web.page import PageError, find_runtime

RUNTIMES = Path(__file__).resolve().parents[2] / "scripts" / "runtimes"


@pytest.fixture(scope="module")
def pictures(tiny_run, tmp_path_factory):
    """Samples of the size of the input, and one that has to be resized."""
    large = tmp_path_factory.mktemp("large") / "large.png"
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    Image.fromarray(np.kron(pixels, np.ones((4, 4, 1), np.uint8))).save(large)
    return [*sorted((tiny_run / "samples").glob("*.png")), large]


def answers(command, model, pictures):
    done = subprocess.run(
        [*map(str, command), str(model), *map(str, pictures)], capture_output=True, text=True, timeout=300, env=os.environ
    )
    assert not done.returncode, done.stderr
    first, *lines = map(json.loads, done.stdout.splitlines())
    assert first["runtime"] and [line["file"] for line in lines] == [str(picture) for picture in pictures]
    return lines


def check(command, model, pictures):
    opened = OnnxModel(model)
    expected = opened.run(pictures)
    lines = answers(command, model, pictures)
    assert [line["label"] for line in lines] == opened.predict(pictures).labels
    for name in ("logits", "probabilities"):
        np.testing.assert_allclose([line[name] for line in lines], expected[name], atol=1e-4)


def test_onnx_reference(tiny_run, pictures):
    check([sys.executable, RUNTIMES / "classify_reference.py"], tiny_run / "model.onnx", pictures)


def test_openvino(tiny_run, pictures):
    if importlib.util.find_spec("openvino") is None:
        pytest.skip("OpenVINO is not installed")
    check([sys.executable, RUNTIMES / "classify_openvino.py"], tiny_run / "model.onnx", pictures)


def test_node(tiny_run, pictures):
    node = shutil.which("node")
    packages = Path(os.environ.get("NODE_PATH", "nowhere"))
    if node is None or not all((packages / name).is_dir() for name in ("onnxruntime-node", "pngjs")):
        pytest.skip("no Node, or no onnxruntime-node and pngjs: npm install them, and set NODE_PATH to their node_modules")
    check([node, RUNTIMES / "classify_node.mjs"], tiny_run / "model.onnx", pictures)


def test_browser(tiny_run, pictures):
    try:
        find_runtime()
    except PageError:
        pytest.skip("no onnxruntime-web: npm install it, and set ORT_WEB_DIR to its folder")
    if shutil.which("chromium") is None:
        pytest.skip("no Chromium here")
    check([sys.executable, RUNTIMES / "classify_browser.py"], tiny_run / "model.onnx", pictures)


def test_cpp(tiny_run, pictures, tmp_path):
    folder = Path(os.environ.get("ORT_DIR", "nowhere"))
    compiler, library = shutil.which("g++"), folder / "lib" / "libonnxruntime.so"
    if compiler is None or not library.exists():
        pytest.skip("no g++, or no unpacked onnxruntime release (include/, lib/) named by ORT_DIR")
    flags = [
        "-std=c++17",
        "-O1",
        "-Wall",
        "-Werror",
        "-I",
        folder / "include",
        RUNTIMES / "classify.cpp",
        "-o",
        tmp_path / "classify",
    ]
    done = subprocess.run(
        list(map(str, [compiler, *flags, library, "-lpng", f"-Wl,-rpath,{library.parent}"])), capture_output=True, text=True
    )
    if "png.h: No such file" in done.stderr or "json.hpp: No such file" in done.stderr:
        pytest.skip("no libpng or nlohmann-json")
    assert not done.returncode, done.stderr
    check([tmp_path / "classify"], tiny_run / "model.onnx", pictures)
