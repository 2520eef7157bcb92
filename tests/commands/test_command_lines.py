"""The command lines from outside: what they print, how they end, and what they do not import."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from kerascv_course.recipes import all_recipes


def assert_user_error(done, *words):
    """Exit code 2, a message, no traceback."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    message = " ".join(done.stderr.replace("│", " ").split())
    for word in words:
        assert word in message


def test_list_names_every_recipe(command):
    done = command("kerascv_course.train", "--list")
    assert done.returncode == 0
    assert [line.split()[0] for line in done.stdout.splitlines() if not line.startswith(" ")] == list(all_recipes())
    assert all(recipe.expect in done.stdout for recipe in all_recipes().values())


@pytest.mark.parametrize("arguments", [["--help"], ["tdt4265-base", "--help"]])
def test_train_help_lists_the_options(command, arguments):
    done = command("kerascv_course.train", *arguments)
    assert done.returncode == 0
    for option in ("--optimizer.learning-rate", "--epochs", "--batch-size", "--data-dir", "--resume", "--run-dir"):
        assert option in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["-m", "kerascv_course.train", "--help"],
        ["-m", "kerascv_course.train", "--list"],
        ["-m", "kerascv_course.evaluate", "--help"],
        ["-m", "export", "--help"],
        ["-c", "import kerascv_course; kerascv_course.list_models(); import export"],
    ],
)
def test_help_and_lists_import_no_tensorflow(arguments):
    done = subprocess.run([sys.executable, "-X", "importtime", *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    imported = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in done.stderr.splitlines() if "import time" in line}
    assert not imported & {"tensorflow", "keras", "onnx", "tf2onnx", "sklearn", "matplotlib"}


def test_predict_imports_numpy_onnxruntime_and_pillow_only(tiny_run):
    """In a Python where every other package of ours cannot be imported."""
    blocked = (
        "tensorflow",
        "keras",
        "onnx",
        "tf2onnx",
        "sklearn",
        "matplotlib",
        "jinja2",
        "tqdm",
        "tensorflow_datasets",
    )
    code = (
        f"import sys\nfor name in {blocked!r}: sys.modules[name] = None\n"
        "from export.__main__ import main\nsys.exit(main(sys.argv[1:]))"
    )
    words = [sys.executable, "-c", code, "predict", tiny_run / "model.onnx", tiny_run / "samples"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 10 and "7_7.png  7 " in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["lenet5-digit"], ["unknown recipe 'lenet5-digit'", "did you mean 'lenet5-digits'"]),
        (["--epochs", "many"], ["--epochs must be an integer", "received 'many'"]),
        (
            ["--optimizer.learning", "1"],
            ["unrecognized arguments: --optimizer.learning", "did you mean", "--optimizer.learning-rate"],
        ),
        (["--optimizer.momentum", "2"], ["--optimizer.momentum must be a number (0 to below 1)", "received '2'"]),
        (["--schedule.name", "step"], ["the step schedule requires schedule.milestones"]),
        (["--optimizer.name", "sdg"], ["sdg", "rmsprop"]),
        (["--resume", "nowhere"], ["nowhere is not a run folder"]),
        (["--model", "lenet"], ["unknown model 'lenet'", "did you mean 'lenet5'"]),
        (["--data.source", "mnist"], ["unknown data source 'mnist'"]),
        (["folder-classify"], ["give --data-dir FOLDER"]),
        (["folder-classify", "--data-dir", "nowhere"], ["no such data folder: nowhere"]),
        (["tdt4265-base", "--data-dir", "nowhere"], ["no such data folder: nowhere"]),
    ],
)
def test_train_refuses_bad_input_in_one_line(command, tmp_path, arguments, words):
    assert_user_error(command("kerascv_course.train", *arguments), *words)
    assert not (tmp_path / "runs").exists(), "nothing is left behind"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--batch-size", "1500"], ["1150 training images make 0 batches of 1500", "--batch-size (at most 1150)"]),
        (["folder-classify", "--data-dir", "images", "--batch-size", "64"], ["29 training images make 0 batches of 64"]),
        (["hkust-id", "--data-dir", "images"], ["training needs two or more identities", "4 are needed"]),
        (["hkust-id"], ["give --data-dir FOLDER with one folder per identity"]),
        (["tdt4265-base", "--data.image-size", "64", "64"], ["cifar10 has 32×32×3 images"]),
        (["--resume", "RUN", "--optimizer.learning-rate", "1"], ["only epochs and patience may change", "another optimizer"]),
        (["--resume", "RUN", "--run-dir", "other"], ["--resume continues in the run's own folder", "received --run-dir"]),
        (["--resume", "RUN", "--batch-size", "64"], ["a resumed run keeps its recipe", "another batch_size"]),
    ],
)
def test_train_refuses_bad_input_before_tensorflow_starts(command, tiny_run, image_folder, arguments, words):
    arguments = [str(tiny_run.path) if word == "RUN" else word for word in arguments]
    done = command("kerascv_course.train", *arguments)
    assert_user_error(done, *words)
    assert "starting TensorFlow" not in done.stdout


TRAIN = """
import sys
from pathlib import Path
from kerascv_course import train

def start():
    print(*sorted(path.parent for path in Path("runs").glob("*/.lock")), flush=True)
    sys.stdin.read()
    sys.exit(3)

train.start_tensorflow = start
train.main(sys.argv[1:])
"""


def test_trainings_at_once_get_folders_of_their_own(tmp_path):
    """Real processes, held before TensorFlow starts; ended there, they leave nothing behind."""
    words = [sys.executable, "-c", TRAIN]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": tmp_path}
    others = [subprocess.Popen(words, **pipes) for _ in range(3)]
    for other in others:
        assert other.stdout.readline().startswith("starting TensorFlow")
    seen = [other.stdout.readline().split() for other in others]
    expected = ["runs/lenet5-digits", "runs/lenet5-digits-2", "runs/lenet5-digits-3"]
    assert sorted(map(len, seen))[-1] == 3 and max(seen, key=len) == expected
    same = subprocess.run([*words, "--run-dir", expected[1]], **{**pipes, "stdin": None}, timeout=60)
    assert same.returncode == 1 and f"only one process at a time may write into {expected[1]}; now it is process" in same.stderr
    for other in others:
        other.communicate()
        assert other.returncode == 3
    assert not list(tmp_path.glob("runs/*"))


@pytest.mark.parametrize(
    "words",
    [
        ["kerascv_course.train", "--resume", "RUN", "--epochs", "4"],
        ["export", "RUN"],
        ["export", "quantize", "RUN"],
        ["export", "quantize", "RUN/model.onnx", "--calibration", "IMAGES", "--images", "IMAGES"],
        ["export", "RUN", "--gallery", "IMAGES"],
        ["export", "RUN", "--add", "IMAGES"],
    ],
)
def test_commands_that_write_into_a_run_refuse_a_second_writer(tiny_run, image_folder, command, hold, tmp_path, words):
    run = shutil.copytree(tiny_run.path, tmp_path / "run")
    (run / "retriever.onnx").touch()
    before, process = snapshot(run), hold(run)
    done = command(*(word.replace("RUN", str(run)).replace("IMAGES", str(image_folder)) for word in words))
    assert_user_error(done, f"only one process at a time may write into {run}; now it is process {process} on")
    assert "starting TensorFlow" not in done.stdout and snapshot(run) == before


def snapshot(folder):
    """Content of every file but the lock."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def test_no_data_and_no_network_fails_within_seconds(command, tmp_path):
    started = time.monotonic()
    done = command("kerascv_course.train", "tdt4265-base", TFDS_DATA_DIR=str(tmp_path), https_proxy="http://127.0.0.1:9")
    assert_user_error(done, "no prepared CIFAR-10", "set TFDS_DATA_DIR", "--data-dir", "lenet5-digits")
    assert "starting TensorFlow" not in done.stdout and time.monotonic() - started < 60


def measured(command, path):
    """The test accuracy that a file's contract states."""
    metrics = json.loads(command("export", "inspect", path, "--json").stdout)["metrics"]
    return next(metric["value"] for metric in metrics if (metric["name"], metric["split"]) == ("accuracy", "test"))


def test_train_evaluate_check_predict_inspect(command, tmp_path, image_folder):
    done = command("kerascv_course.train", "--epochs", 2, "--batch-size", 128, "--optimizer.learning-rate", "1e-2")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "test accuracy" in done.stdout and "parity passed: 359 images" in done.stdout
    durations = re.findall(r"(?m)^done in (\d+) s$", done.stdout)
    assert len(durations) == 1 and "since the start" not in done.stdout
    assert (tmp_path / "runs" / "lenet5-digits" / "log.txt").read_text().endswith(f" done in {durations[0]} s\n")
    run = tmp_path / "runs" / "lenet5-digits"
    expected = {
        "recipe.json", "data.json", "environment.json", "history.csv", "steps.csv", "best.keras", "last.npz", "metrics.json", "plots",
        "samples", "model.onnx", "parity.json", "provenance.json", "report.html", "log.txt",
    }  # fmt: skip
    assert {path.name for path in run.iterdir()} == expected
    recipe = json.loads((run / "recipe.json").read_text())
    assert (recipe["epochs"], recipe["batch_size"], recipe["optimizer"]["learning_rate"]) == (2, 128, 1e-2)
    assert "epoch    2/2" in (run / "log.txt").read_text() and len((run / "history.csv").read_text().splitlines()) == 3
    page = (run / "report.html").read_text()
    assert page.count("data:image/png;base64,") >= 3 and 'src="http' not in page

    # the command that the summary prints
    printed = done.stdout[done.stdout.index("python -m export predict") :].split()
    predicted = command("export", *printed[3:])
    assert predicted.returncode == 0 and predicted.stdout.startswith("runs/lenet5-digits/samples/0_0.png  ")
    as_json = command("export", "predict", "--json", "--top", 2, run / "model.onnx", run / "samples")
    rows = [json.loads(line) for line in as_json.stdout.splitlines()]
    assert len(rows) == 10 and all(len(row["scores"]) == 2 and row["label"] in "0123456789" for row in rows)

    accuracy = json.loads((run / "metrics.json").read_text())["test"]["accuracy"]
    evaluated = command("kerascv_course.evaluate", run)
    lines = evaluated.stdout.splitlines()
    assert evaluated.returncode == 0 and lines[-1].startswith("test  ") and f"accuracy {accuracy:.4f}" in lines[-1]
    recipe["log_style"] = "ntu"
    (run / "recipe.json").write_text(json.dumps(recipe))
    assert command("kerascv_course.evaluate", run).stdout.splitlines()[-1] == f"Accuracy = {accuracy:.4f}"
    (run / "recipe.json").write_text(json.dumps({**recipe, "log_style": "full"}))
    assert measured(command, run / "model.onnx") == accuracy

    checked = command("export", "check", run)
    assert checked.returncode == 0 and "parity passed" in checked.stdout
    assert command("export", run).returncode == 0, "a run can be exported anew"
    assert measured(command, run / "model.onnx") == accuracy

    again = command("kerascv_course.train", "--epochs", 1, "--run-dir", run)
    assert_user_error(again, "already exists and is never overwritten")
    assert (run / "metrics.json").exists()

    other = command("kerascv_course.train", "--resume", run, "--epochs", 3)
    assert other.returncode == 0 and "resumed after epoch 2" in other.stdout
    resumed = json.loads((run / "environment.json").read_text())["resumes"]
    assert [one["command"] for one in resumed] == [f"python -m kerascv_course.train --resume {run} --epochs 3"]
    assert_user_error(command("kerascv_course.train", "--resume", run, "--epochs", 1), "has 3, received --epochs 1")
    assert json.loads((run / "recipe.json").read_text())["epochs"] == 3
    complete = command("kerascv_course.train", "--resume", run)
    assert complete.returncode == 0 and "is complete: trained, evaluated and exported" in complete.stdout
    assert "test accuracy" in complete.stdout and "done in" not in complete.stdout
    assert_user_error(command("kerascv_course.train", "--resume", run, "--seed", 4), "received another seed")


def test_check_ends_with_1_if_the_file_differs(command, tiny_run, tmp_path):
    import onnx

    model = onnx.load(tiny_run / "model.onnx")
    tensor = next(t for t in model.graph.initializer if len(t.dims) == 4)
    values = onnx.numpy_helper.to_array(tensor) + 0.01
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    onnx.save(model, tmp_path / "altered.onnx")
    done = command("export", "check", tiny_run.path, "--file", tmp_path / "altered.onnx")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "does not give the same answers as Keras" in done.stderr and "differs by" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["predict", "none.onnx", "x.png"], ["no such file or folder: none.onnx"]),
        (["predict", "MODEL", "none.png"], ["no such image: none.png"]),
        (["predict", "MODEL", "notes.txt"], ["notes.txt is not an image"]),
        (["predict", "notes.txt", "notes.txt"], ["is not an ONNX model"]),
        (["predict", "--top", "0", "MODEL", "notes.txt"], ["--top must be 1 or more"]),
        (["predict"], ["required"]),
        (["nowhere"], ["no such file or folder: nowhere"]),
        (["inspect", "notes.txt"], ["is not an ONNX model"]),
        (["predict", "RUN", "notes.txt"], ["notes.txt is not an image"]),
        (["predict", "RUN/samples", "notes.txt"], ["samples has no model.onnx"]),
    ],
)
def test_export_refuses_bad_input(command, tiny_run, tmp_path, arguments, words):
    (tmp_path / "notes.txt").write_text("hello")
    places = {"MODEL": tiny_run / "model.onnx", "RUN": tiny_run.path}
    done = command("export", *[places.get(word, word.replace("RUN", str(tiny_run.path))) for word in arguments])
    assert_user_error(done, *words)


def test_predict_skips_a_bad_image_and_answers_the_others(command, tiny_run, tmp_path):
    (tmp_path / "cut.png").write_bytes((tiny_run / "samples" / "3_3.png").read_bytes()[:60])
    Image.new("F", (4, 4)).save(tmp_path / "float.tiff")
    samples = tiny_run / "samples"
    words = [samples / "1_1.png", tmp_path / "cut.png", tmp_path / "float.tiff", samples / "7_7.png"]
    done = command("export", "predict", tiny_run / "model.onnx", *words)
    assert_user_error(done, "skipped 2 of 4 images", "cut.png", "float.tiff: pixels of mode 'F'")
    assert [line.split()[0] for line in done.stdout.splitlines()] == [str(words[0]), str(words[3])]


def test_ctrl_c_ends_with_130_and_prints_how_to_resume(tmp_path):
    words = [sys.executable, "-u", "-m", "kerascv_course.train", "--epochs", "500"]
    process = subprocess.Popen(
        words,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a shell that starts the tests in the background lets them ignore the signal
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch    2/"):
            process.send_signal(signal.SIGINT)
            break
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130 and "Traceback" not in errors
    assert "interrupted; all completed validations are kept" in errors
    assert "python -m kerascv_course.train --resume runs/lenet5-digits" in errors


def test_train_on_a_folder_of_images(command, image_folder, tmp_path):
    broken = image_folder / "eins" / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n")
    arguments = ["folder-classify", "--data-dir", image_folder, "--epochs", 1, "--batch-size", 8, "--data.image-size", 16, 16]
    assert_user_error(command("kerascv_course.train", *arguments), "1 of 41 images are unusable", "broken.png")
    broken.unlink()
    done = command("kerascv_course.train", *arguments)
    assert done.returncode == 0, done.stderr
    picture = tmp_path / "photo.png"
    Image.new("RGBA", (640, 480), (255, 0, 0, 10)).save(picture)
    predicted = command("export", "predict", "runs/folder-classify/model.onnx", picture)
    assert predicted.returncode == 0 and {"null", "eins"} <= set(predicted.stdout.split())


def test_export_suggests_the_nearest_command(command):
    assert_user_error(
        command("export", "quantise", "x.onnx"), "no such file or folder: quantise", "did you mean the command quantize?"
    )


def test_export_prints_its_version(command):
    done = command("export", "--version")
    assert done.returncode == 0 and done.stdout.startswith("kerascv_course ")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="file names of any bytes, /dev/full")
def test_predict_survives_names_and_streams_of_any_kind(tiny_run, tmp_path):
    sample = (tiny_run / "samples" / "7_7.png").read_bytes()
    names = [b"a\x1b[2J\nerror: forged.png", b"b\xff\xe2\x80\xae.png"]
    for name in names:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes(sample)
    (tmp_path / "bad\n.png").write_text("no image")

    def predict(how, **environment):
        words = ["sh", "-c", f'exec "$0" -m export predict "$1" {how}', sys.executable, tiny_run / "model.onnx"]
        done = subprocess.run(
            words, capture_output=True, cwd=tmp_path, env={**os.environ, **environment}, timeout=60, check=False
        )
        assert b"Traceback" not in done.stderr
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    code, printed, errors = predict(". --json", LC_ALL="C", PYTHONUTF8="0")
    assert code == 2 and errors.count("\n") == 1 and "skipped 1 of 3 images: bad\\n.png is not an image" in errors
    assert [os.fsencode(json.loads(line)["file"]) for line in printed.splitlines()] == names and printed.isascii()
    code, printed, _ = predict(".")
    assert code == 2 and [line.split("  7 ")[0].rstrip() for line in printed.splitlines()] == [
        "a\\u001b[2J\\nerror: forged.png",
        "b\\udcff\\u202e.png",
    ]
    assert predict(". > /dev/full") == (1, "", "error: cannot write to standard output: No space left on device\n")
    assert predict(". >&-") == (2, "", "error: standard output is closed: redirect it to a file, or to /dev/null\n")
    assert predict("- <&-") == (2, "", "error: no images to predict: standard input is closed\n")
    assert predict("x" * 300)[::2] == (2, f"error: {'x' * 200} …: File name too long\n")
