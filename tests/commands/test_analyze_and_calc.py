"""The two command lines: every calculator, every format, exit codes, and one line instead of a traceback."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import pytest

import kerascv_course as kcc
from kerascv_course import analyze, calc
from kerascv_course.core.errors import InputError, UnknownNameError


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("size 32 5 --padding 2", "⌊(32 + 2 + 2 − 5) / 1⌋ + 1 = 32"),
        ("size 32 3 --padding 0 1 --stride 2", "= 16"),
        ("input 16 3 --stride 2 --padding 1", "inputs 31 to 32 give output 16"),
        ("transposed 16 3 --stride 2 --padding 1 --output-padding 1", "= 32"),
        ("transposed-input 32 4 --stride 2 --padding 1", "16"),
        ("kernel 512 504", "9×9"),
        ("padding 32 16 5 --stride 2", "padding 2"),
        ("padding 16 32 3 --stride 2 --transposed", "padding 1, output padding 1"),
        ("same 5", "2 on both sides"),
        ("same 3 --stride 2 --size 32", "0 before and 1 after"),
        ("trends", "no symmetric padding; 1 before and 2 after"),
        ("field 3 3", "5 (jump 1)"),
        ("field 3:2 3:1:2", "11 (jump 2)"),
        ("pool 8", "NOT equal"),
        ("triplets 230 10", "47,403,000"),
        ("params conv5-32 pool2 conv5-64 pool2 conv5-128 pool2 fc64 fc10", "390,410"),
        ("params conv3-32 pool2 conv3-64 pool2 conv3-3 --no-bias --fully-connected same-size", "10,063,872"),
        ("params conv3-8 --input 4 4 3 --fully-connected same-outputs", "6,144"),
        ("forms pool_upsample_net --size 64", "53,084,160"),
        ("report 001", "148,810"),
    ],
)
def test_calculators(capsys, words, answer):
    assert calc.main(words.split()) == 0
    assert answer in capsys.readouterr().out


def test_images_may_begin_with_a_minus(capsys):
    assert calc.main(["convolve", "-1,0; 0,2", "-1,0,1; -2,0,2; -1,0,1", "--border", "edge"]) == 0
    assert calc.main(["correlate", "1,0,2,3,1; 3,2,0,7,0; 0,6,1,1,4", "sobel-x"]) == 0
    assert "10   -4    8    2  -18" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        ("size 3 5", InputError, "window of 5"),
        ("size 8 3 --padding 1 2 3", InputError, "takes one number, or two"),
        ("size 8 3 --padding -1", InputError, "padding must be an integer of 0 or more"),
        ("field 3:x", InputError, "kernel\\[:stride"),
        ("report 007", UnknownNameError, "unknown report '007'; known: 000, 001, 002, 003, 004"),
        ("forms unet", UnknownNameError, "unet_colorizer"),
        ("params conv", InputError, "received 'conv'"),
    ],
)
def test_calculator_errors(words, error, message):
    with pytest.raises(error, match=message):
        calc.main(words.split())


def test_without_arguments_all_calculators_are_listed(capsys):
    assert calc.main([]) == 2
    told = capsys.readouterr().out
    assert all(f"\n    {name}" in told for name, *_ in calc._COMMANDS)


def test_help_of_a_calculator_gives_units(capsys):
    with pytest.raises(SystemExit):
        calc.main(["size", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    for text in (
        "size height or width of the input, in pixels",
        "kernel height or width of the kernel (the window), in pixels",
    ):
        assert text in told


@pytest.mark.parametrize("words", ["size", "size a b", "nonsense"])
def test_bad_usage_is_exit_code_2(words):
    with pytest.raises(SystemExit) as stop:
        calc.main(words.split())
    assert stop.value.code == 2


@pytest.mark.parametrize("name", analyze.FORMATS)
def test_formats(capsys, name, tmp_path):
    assert analyze.main(["lenet5", "--format", name]) == 0
    printed = capsys.readouterr().out
    assert "61,706" in printed or "61706" in printed or "5×5" in printed or "Conv2D" in printed
    assert analyze.main(["lenet5", "--format", name, "--output", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out").read_text(encoding="utf-8") == printed
    if name == "json":
        assert json.loads(printed)["macs"] == 416_520


def test_conventions(capsys):
    words = ["pool_upsample_net", "--convention", "report004"]
    assert analyze.main(words) == 0
    assert "weights 49,248, neurons 217,088, connections 13,271,040" in capsys.readouterr().out
    assert analyze.main(["pool_upsample_net", "--exact-borders", "--biases"]) == 0
    assert "counted with biases, exact borders: weights 49,424" in capsys.readouterr().out
    with pytest.raises(InputError, match="cannot be combined with --format json"):
        analyze.main([*words, "--format", "json"])


def test_options_shape_classes_and_limit(capsys):
    words = ["resnet18_reid?include_top=false", "--format", "torch", "--limit-mb", "80"]
    assert analyze.main(words) == 0
    out = capsys.readouterr().out
    assert "Total params: 11,176,512" in out and "within the limit of 80 MB" in out
    assert analyze.main(["lenet5", "--num-classes", "3", "--input-shape", "28", "28", "1", "--limit-mb", "0.1"]) == 1
    assert "ABOVE the limit" in capsys.readouterr().out


def test_a_network_of_keras_applications(capsys):
    assert analyze.main(["keras.applications/MobileNet", "--input-shape", "64", "64", "3", "--format", "diagram"]) == 0
    assert "Depthwise conv 3×3+BN+ReLU" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        ("lenet", UnknownNameError, "did you mean 'lenet5'"),
        ("missing.onnx", InputError, "no such file: missing.onnx"),
        ("runs/missing", InputError, "no such file"),
        ("lenet5 --input-shape 8", InputError, "height, width and channels"),
        ("lenet5?pooling", InputError, "option=value"),
        ("lenet5?poling=max", UnknownNameError, "did you mean 'pooling'"),
        ("missing.onnx --num-classes 3", InputError, "for networks by name"),
        ("lenet5 --limit-mb 0", InputError, "above 0 MB"),
        ("lenet5 --output /no/such/folder/x", InputError, "cannot write"),
    ],
)
def test_analyze_errors(words, error, message):
    with pytest.raises(error, match=message):
        analyze.main(words.split())


def test_input_errors_are_one_line_and_exit_code_2(tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"\x08\x07garbage")
    done = subprocess.run(
        [sys.executable, "-m", "kerascv_course.analyze", str(tmp_path / "bad.onnx")], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert "is not an ONNX file" in done.stderr


@pytest.mark.parametrize("module", ["kerascv_course.calc", "kerascv_course.analyze"])
def test_help_imports_no_framework(module):
    code = f"""
        import runpy, sys
        sys.argv = ["command", "--help"]
        try:
            runpy.run_module({module!r}, run_name="__main__")
        except SystemExit as end:
            assert not end.code
        assert not {{"tensorflow", "keras", "onnxruntime", "onnx", "matplotlib"}} & set(sys.modules), "imported"
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout


def test_a_run_folder(tmp_path, capsys):
    kcc.create_model("lenet5").save(tmp_path / "best.keras")
    assert analyze.main([str(tmp_path)]) == 0
    assert "61,706" in capsys.readouterr().out
