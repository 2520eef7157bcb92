"""Feed mutated files to the contract reader, the predictor and the inspector, and count what happens.

    python scripts/fuzz.py --cases 12000 --seed 0 --json fuzz.json

Every case is made from its number alone, so that one can be run again: ``--only KIND:NUMBER``. Cases run in a worker process, which is
killed when it takes too long; a worker that dies of a native crash is counted and replaced. What crashes, hangs or fills the memory
there is run once more by the command line, which has to end in one of our own errors (`export.untrusted.guard`). Exit code 1 if any
case ended other than in an answer or in one of our own errors, took more than `SECONDS`, or more than `MAX_MEMORY`.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import functools
import io
import json
import os
import platform
import random
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: Longest that a case may take, and largest resident set that a worker may reach.
SECONDS = 10.0
MAX_MEMORY = 2**30

#: Virtual memory of a worker: well over what is allowed, so that it shows, and well under what the machine has.
ADDRESS_SPACE = 6 * 2**30

#: Numbers that break readers.
NUMBERS = [0, 1, -1, 2, 7, 127, 128, 255, 65535, 2**20, 2**31 - 1, 2**31, -(2**31), 2**32, 2**40, 2**62, 2**63 - 1, -(2**63)]


# --- seeds ------------------------------------------------------------------------------------------------------------


def _contract(task: str, inputs: dict[str, Any], outputs: list[dict[str, Any]], labels: list[str]) -> str:
    from export.contract import Contract, Input, Metric, Output, Preprocessing, dump_contract

    contract = Contract(
        task=task,  # type: ignore[arg-type]
        name="fuzzed",
        input=Input("image", "uint8", "NHWC", **inputs),
        preprocessing=Preprocessing("graph", mean=(0.5,), std=(0.25,)),
        outputs=tuple(Output(**output) for output in outputs),
        labels=tuple(labels),
        recipe={"name": "fuzzed", "epochs": 3},
        metrics=(Metric("accuracy", "test", 0.5),),
    )
    return dump_contract(contract)


@functools.cache
def models() -> dict[str, bytes]:
    """Small files that are whole: a classifier of a fixed size, and a colouriser of any size."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    made = {}

    def constant(name: str, value: Any) -> Any:
        return numpy_helper.from_array(np.asarray(value), name)

    def weights(name: str, *shape: int) -> Any:
        return constant(name, rng.normal(size=shape).astype(np.float32))

    def save(name: str, nodes: list[Any], image: list[Any], outputs: list[Any], stored: list[Any], contract: str) -> None:
        source = helper.make_tensor_value_info("image", TensorProto.UINT8, image)
        graph = helper.make_graph(nodes, name, [source], outputs, stored)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        helper.set_model_props(model, {"kerascv_course.contract": contract})
        onnx.checker.check_model(model, full_check=True)
        made[name] = model.SerializeToString()

    save(
        "classifier",
        [
            helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["pixels", "scale"], ["scaled"]),
            helper.make_node("Transpose", ["scaled"], ["planes"], perm=[0, 3, 1, 2]),
            helper.make_node("Conv", ["planes", "kernel", "bias"], ["maps"], pads=[1, 1, 1, 1], strides=[2, 2]),
            helper.make_node("Relu", ["maps"], ["active"]),
            helper.make_node("MaxPool", ["active"], ["pooled"], kernel_shape=[2, 2], strides=[2, 2]),
            helper.make_node("Reshape", ["pooled", "shape"], ["flat"]),
            helper.make_node("Gemm", ["flat", "dense", "offset"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1),
        ],
        ["batch", 8, 8, 3],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in ("logits", "probabilities")],
        [
            constant("scale", np.float32(1 / 255)),
            weights("kernel", 5, 3, 3, 3),
            weights("bias", 5),
            constant("shape", np.array([-1, 20], np.int64)),
            weights("dense", 20, 4),
            weights("offset", 4),
        ],
        _contract(
            "classify",
            {"height": 8, "width": 8, "channels": 3, "color": "RGB"},
            [{"name": name, "meaning": name, "shape": (4,)} for name in ("logits", "probabilities")],
            ["Katze", "犬", "cat", "🐈"],
        ),
    )
    sized = ["batch", "height", "width"]
    save(
        "colorizer",
        [
            helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
            helper.make_node("Transpose", ["pixels"], ["planes"], perm=[0, 3, 1, 2]),
            helper.make_node("Pad", ["planes", "pads"], ["padded"]),
            helper.make_node("Conv", ["padded", "kernel"], ["maps"]),
            helper.make_node("Resize", ["maps", "", "scales"], ["large"], mode="nearest"),
            helper.make_node("AveragePool", ["large"], ["scores"], kernel_shape=[2, 2], strides=[2, 2]),
            helper.make_node("Transpose", ["scores"], ["logits"], perm=[0, 2, 3, 1]),
            helper.make_node("ArgMax", ["logits"], ["classes"], axis=3, keepdims=0),
            helper.make_node("Gather", ["palette", "classes"], ["colorized"], axis=0),
        ],
        [*sized, 1],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, [*sized, 3]),
            helper.make_tensor_value_info("classes", TensorProto.INT64, sized),
            helper.make_tensor_value_info("colorized", TensorProto.UINT8, [*sized, 3]),
        ],
        [
            constant("pads", np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64)),
            weights("kernel", 3, 1, 3, 3),
            constant("scales", np.array([1, 1, 2, 2], np.float32)),
            constant("palette", rng.integers(0, 256, (3, 3)).astype(np.uint8)),
        ],
        _contract(
            "colorize",
            {"height": None, "width": None, "channels": 1, "color": "gray"},
            [
                {"name": "logits", "meaning": "logits", "shape": (None, None, 3)},
                {"name": "classes", "meaning": "classes", "shape": (None, None)},
                {"name": "colorized", "meaning": "picture", "shape": (None, None, 3)},
            ],
            ["#ff0000", "#00ff00", "#0000ff"],
        ),
    )
    return made


@functools.cache
def pictures() -> dict[str, bytes]:
    """One small picture in each usual format and mode."""
    import numpy as np
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (12, 10, 4), np.uint8)
    color = Image.fromarray(pixels[..., :3])
    made = {}

    def save(image: Any, name: str, format: str, **options: Any) -> None:
        stream = io.BytesIO()
        image.save(stream, format, **options)
        made[name] = stream.getvalue()

    for format in ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "TGA", "ICO", "PCX", "JPEG2000", "AVIF"):
        with contextlib.suppress(KeyError, OSError):  # this Pillow cannot write it
            save(color, format.lower(), format)
    save(Image.fromarray(pixels), "rgba", "PNG")
    save(Image.fromarray(pixels[..., 0].astype(np.uint16) * 257), "sixteen", "PNG")
    save(color.convert("P"), "palette", "PNG", transparency=3)
    save(color.convert("CMYK"), "cmyk", "JPEG")
    save(color, "lzw", "TIFF", compression="tiff_lzw")
    frames = [color, color.rotate(90), color.rotate(180)]
    save(color, "animated", "GIF", save_all=True, append_images=frames)
    exif = Image.Exif()
    exif[0x0112] = 6
    save(color, "turned", "JPEG", exif=exif)
    return made


# --- mutations --------------------------------------------------------------------------------------------------------


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """Flip, overwrite, insert, delete, repeat or cut, once or a few times."""
    value = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        at = rng.randrange(len(value) + 1)
        kind = rng.randrange(7)
        if kind == 0 and value:
            value[at % len(value)] ^= 1 << rng.randrange(8)
        elif kind == 1 and value:
            value[at % len(value)] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        elif kind == 2:
            value[at:at] = rng.randbytes(rng.choice((1, 2, 8, 64)))
        elif kind == 3:
            del value[at : at + rng.choice((1, 2, 8, 64))]
        elif kind == 4:
            value[at:at] = value[at : at + rng.choice((4, 32, 256))] * rng.choice((1, 2, 50))
        elif kind == 5 and rng.random() < 0.3:
            del value[at:]
        else:
            size = rng.choice((1, 2, 4, 8))
            value[at : at + size] = (rng.choice(NUMBERS) % 2 ** (8 * size)).to_bytes(size, rng.choice(("little", "big")))
    return bytes(value)


def mutate_json(text: str, rng: random.Random) -> str:
    """Put something else in the place of a value or a key, anywhere in the document."""
    plain = json.loads(text)
    for _ in range(rng.choice((1, 1, 2, 5))):
        holders: list[tuple[Any, Any]] = []
        todo = [plain]
        while todo:
            item = todo.pop()
            for key, value in list(item.items() if isinstance(item, dict) else enumerate(item)):
                holders.append((item, key))
                if isinstance(value, dict | list):
                    todo.append(value)
        if not holders:
            break
        holder, key = rng.choice(holders)
        odd: list[Any] = [
            *NUMBERS, None, True, False, 0.5, 1e308, -1e308, 5e-324, "", "x", "../../etc/passwd", "\ud83d", "\x00", "9" * 5000,
            [], {}, [[]], [1] * 5000, {"a": {}}, "x" * 100_000, float("nan"), float("inf"), 10**400, holder,
        ]  # fmt: skip
        value = rng.choice(odd)
        if rng.random() < 0.5 and isinstance(holder[key], int | float):
            value = rng.choice(NUMBERS)  # keeps the type, so that later checks see it
        if value is holder:
            value = json.loads(json.dumps(holder))
        action = rng.randrange(4)
        if action == 0 and isinstance(holder, dict):
            del holder[key]
        elif action == 1 and isinstance(holder, dict):
            holder[rng.choice(("x", "", "__class__", "version", "labels"))] = value
        else:
            holder[key] = value
    text = json.dumps(plain, ensure_ascii=rng.random() < 0.5)
    wild = rng.random()
    if wild < 0.03:
        depth = rng.choice((100, 990, 5000, 200_000))
        text = text.replace('"recipe": {', '"recipe": {"deep": ' + rng.choice(("[", '{"a":')) * depth, 1)
    elif wild < 0.06:
        depth = rng.choice((10, 400, 900))
        text = text.replace('"recipe": {', '"recipe": {"deep": ' + "[" * depth + "]" * depth + ", ", 1)
    elif wild < 0.08:
        text = text.replace('"version"', '"version": 2, "version"', 1)
    elif wild < 0.10:
        text = text.replace('"epochs": 3', '"epochs": ' + "9" * rng.choice((400, 5000, 1_000_000)), 1)
    elif wild < 0.2:
        text = mutate_bytes(text.encode("utf-8", "replace"), rng).decode("utf-8", "replace")
    return text


def mutate_graph(data: bytes, rng: random.Random) -> bytes:
    """Change the structure: sizes, names, operators, attributes, references to files, the order and number of nodes."""
    import onnx

    model = onnx.load_from_string(data)
    graph = model.graph
    names = [name for node in graph.node for name in (*node.input, *node.output)]
    operators = ["Identity", "Tile", "Expand", "ConstantOfShape", "Range", "Pad", "Loop", "If", "Scan", "Einsum", "OneHot"]
    operators += ["Resize", "NonZero", "Concat", "Split", "Upsample", "Compress", "EyeLike", "RandomNormal", "StringNormalizer"]
    paths = ["../../../../etc/passwd", "/etc/passwd", "/dev/zero", "x\x00y", "", ".", "..", "model.onnx", "a" * 5000, "C:\\x"]
    paths += ["\\\\host\\share", "file:///etc/passwd", "*/_ORT_MEM_ADDR_/*", "/proc/self/mem", "http://localhost/x"]
    for _ in range(rng.choice((1, 1, 2, 4))):
        if not graph.node:
            break
        node = rng.choice(graph.node)
        tensor = rng.choice(graph.initializer)
        kind = rng.randrange(13)
        if kind == 0 and tensor.dims:
            tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(NUMBERS)
        elif kind == 1:
            tensor.data_type = rng.choice((*range(24), 2**31 - 1))
        elif kind == 2:
            tensor.raw_data = mutate_bytes(tensor.raw_data, rng)
        elif kind == 3:
            reference = [
                ("location", rng.choice(paths)),
                ("offset", str(rng.choice(NUMBERS))),
                ("length", str(rng.choice(NUMBERS))),
            ]
            tensor.data_location = onnx.TensorProto.EXTERNAL
            if rng.random() < 0.8:
                tensor.ClearField("raw_data")
            for key, value in reference[: rng.randrange(1, 4)]:
                entry = tensor.external_data.add()
                entry.key, entry.value = key, value
        elif kind == 4:
            node.op_type = rng.choice(operators)
        elif kind == 5:
            node.domain = rng.choice(("ai.onnx", "com.microsoft", "ai.onnx.ml", "evil", "x" * 5000))
        elif kind == 6 and node.input:
            node.input[rng.randrange(len(node.input))] = rng.choice([*names, "", "nothing"])
        elif kind == 7 and node.output:
            node.output[rng.randrange(len(node.output))] = rng.choice([*names, ""])
        elif kind == 8 and node.attribute:
            attribute = rng.choice(node.attribute)
            if attribute.ints:
                attribute.ints[rng.randrange(len(attribute.ints))] = rng.choice(NUMBERS)
            else:
                attribute.i = rng.choice(NUMBERS)
        elif kind == 9:
            value = rng.choice([*graph.input, *graph.output])
            dims = value.type.tensor_type.shape.dim
            if dims:
                dims[rng.randrange(len(dims))].dim_value = rng.choice(NUMBERS)
        elif kind == 10:
            del graph.node[rng.randrange(len(graph.node))]
        elif kind == 11:
            graph.node.add().CopyFrom(node)
        elif tensor.data_type == onnx.TensorProto.INT64 or rng.random() < 0.3:
            import numpy as np

            # a type or a shape that was changed before may not hold values
            with contextlib.suppress(TypeError, ValueError, OverflowError, KeyError, onnx.checker.ValidationError):
                values = onnx.numpy_helper.to_array(tensor).copy()
                values.flat[rng.randrange(values.size)] = rng.choice(NUMBERS)
                tensor.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(values), tensor.name))
        else:
            model.opset_import[0].version = rng.choice(NUMBERS)
    if rng.random() < 0.1:
        model.metadata_props[0].value = _encodable(mutate_json(model.metadata_props[0].value, rng))
    return model.SerializeToString()


def _encodable(text: str) -> str:
    """Without halves of characters, which protobuf does not write (JSON escapes them)."""
    return text.encode("utf-8", "replace").decode()


def make_case(kind: str, number: int) -> bytes:
    """The file of a case."""
    rng = random.Random(f"{kind}:{number}")
    if kind == "picture":
        return mutate_bytes(rng.choice(list(pictures().values())), rng)
    data = rng.choice(list(models().values()))
    if kind == "graph":
        return mutate_graph(data, rng)
    import onnx

    if kind == "bytes":
        # structure rather than weights: a reader never looks at those
        model = onnx.load_from_string(data)
        return mutate_bytes(model.SerializeToString(), rng)
    model = onnx.load_from_string(data)
    model.metadata_props[0].value = _encodable(mutate_json(model.metadata_props[0].value, rng))
    return model.SerializeToString()


KINDS = ("contract", "graph", "bytes", "picture")


# --- the worker -------------------------------------------------------------------------------------------------------


def run_case(kind: str, data: bytes, folder: Path) -> str:
    """Inspect and predict; the outcome in a word: ``answered``, the name of one of our errors, or another exception with its text."""
    from export.commands.inspect import add_inspect
    from export.predictor import OnnxModel
    from kerascv_course.core.errors import CourseError

    outcomes = []

    def attempt(call: Callable[[], Any]) -> None:
        try:
            call()
            outcomes.append("answered")
        except CourseError as error:
            if len(str(error)) > 20_000:
                outcomes.append(f"ERROR a message of {len(str(error)):,} characters")
            outcomes.append(type(error).__name__)
        except BaseException as error:  # whatever it is, it is a finding
            outcomes.append(f"ERROR {type(error).__name__}: {str(error)[:300]}")

    def inspect(path: Path) -> None:
        parser = argparse.ArgumentParser()
        add_inspect(parser)
        arguments = parser.parse_args([str(path)])
        with contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO(), encoding="utf-8")):
            arguments.call(arguments)

    def predict(path: Path, picture: Path) -> None:
        model = OnnxModel(path)
        if model.contract.task == "colorize":
            model.colorize(picture)
        elif model.contract.task == "classify":
            model.predict([picture]).top(3)
        else:
            model.run([picture])

    if kind == "picture":
        model, picture = folder / "whole.onnx", folder / "case.img"
        picture.write_bytes(data)
        if not model.exists():
            model.write_bytes(models()["classifier"])
    else:
        model, picture = folder / "case.onnx", folder / "whole.png"
        model.write_bytes(data)
        if not picture.exists():
            picture.write_bytes(pictures()["png"])
        attempt(lambda: inspect(model))
    attempt(lambda: predict(model, picture))
    return next((outcome for outcome in outcomes if outcome.startswith("ERROR")), outcomes[-1])


def worker() -> None:
    """Read ``KIND:NUMBER`` lines, run each, write ``outcome<TAB>peak bytes``."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers = os.fdopen(os.dup(1), "w")
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    with tempfile.TemporaryDirectory() as folder:
        run_case("contract", models()["classifier"], Path(folder))
        print("ready", file=answers, flush=True)
        for line in sys.stdin:
            kind, number = line.strip().split(":")
            data = make_case(kind, int(number))
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")  # start the peak anew
            outcome = run_case(kind, data, Path(folder))
            print(json.dumps([outcome, _peak()]), file=answers, flush=True)


def _peak() -> int:
    """Largest resident set since it was last reset, bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    return 0


# --- the supervisor ---------------------------------------------------------------------------------------------------


class Worker:
    """A worker process and the case it is at."""

    def __init__(self) -> None:
        command = [sys.executable, __file__, "--worker"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.process.stdout.readline()  # it is ready: what importing takes is no case's

    def run(self, case: str) -> tuple[str, int]:
        """Outcome and peak memory of a case; a worker that has died or had to be killed is to be replaced."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{case}\n")
        self.process.stdin.flush()
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            if not selector.select(SECONDS):
                self.stop()
                return f"HANG over {SECONDS:g} s", 0
        line = self.process.stdout.readline()
        if not line:
            return f"CRASH exit status {self.process.wait()}", 0
        outcome, peak = json.loads(line)
        return outcome, peak

    @property
    def alive(self) -> bool:
        """Whether it can take another case."""
        return self.process.poll() is None

    def stop(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()


def command_survives(case: str) -> str | None:
    """Run a case by the guarded command line: None if it ends in an answer or an error of ours, else what it does."""
    kind, number = case.split(":")
    with tempfile.TemporaryDirectory() as folder:
        model, picture = Path(folder) / "case.onnx", Path(folder) / "case.img"
        model.write_bytes(models()["classifier"] if kind == "picture" else make_case(kind, int(number)))
        picture.write_bytes(make_case(kind, int(number)) if kind == "picture" else pictures()["png"])
        for words in (["inspect", str(model)], ["predict", str(model), str(picture)]):
            code = (
                f"import sys; sys.argv[1:] = {words!r}; from export import __main__ as m; "
                "from export.untrusted.guard import run_guarded; "
                f"m.run_cli(lambda: run_guarded(m.main, seconds={SECONDS}))"
            )
            before = _children_peak()
            ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=6 * SECONDS)
            told = ended.returncode == 0 or (ended.returncode in (1, 2) and "error: " in ended.stderr)
            told = told and "Traceback" not in ended.stderr
            if not told:
                return f"{words[0]} ended with {ended.returncode}: {ended.stderr[-300:]}"
            if _children_peak() > max(before, MAX_MEMORY):
                return f"{words[0]} took {_children_peak() / 2**30:.1f} GiB"
    return None


def _children_peak() -> int:
    """Largest resident set of any process that was started and has ended, bytes."""
    import resource

    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024


def fuzz(cases: list[str]) -> dict[str, Any]:
    """Run cases one after the other: the figures."""
    outcomes: dict[str, collections.Counter[str]] = {kind: collections.Counter() for kind in KINDS}
    findings: list[dict[str, Any]] = []
    caught: list[dict[str, Any]] = []
    largest = 0
    started = time.perf_counter()
    current = Worker()
    for case in cases:
        if not current.alive:
            current = Worker()
        before = time.perf_counter()
        outcome, peak = current.run(case)
        largest = max(largest, peak)
        kind = case.split(":")[0]
        bad = outcome.split(" ")[0] in ("ERROR", "HANG", "CRASH")
        if peak > MAX_MEMORY:
            bad, outcome = True, f"MEMORY {peak / 2**30:.1f} GiB, then {outcome}"
        outcomes[kind][outcome.split(" ")[0]] += 1
        if bad:
            finding = {"case": case, "outcome": outcome, "seconds": round(time.perf_counter() - before, 2)}
            failure = outcome if outcome.startswith("ERROR") else command_survives(case)
            print(f"{case}: {outcome}; {failure or 'an error of ours by the command line'}", file=sys.stderr, flush=True)
            (findings if failure else caught).append({**finding, "failure": failure} if failure else finding)
    current.stop()
    return {
        "cases": len(cases),
        "outcomes": {kind: dict(count.most_common()) for kind, count in outcomes.items() if count},
        "findings": findings,
        "caught_by_the_guard": caught,
        "peak_mib": round(largest / 2**20),
        "seconds": round(time.perf_counter() - started, 1),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--cases", type=int, default=12_000, help="files in all, shared evenly by the kinds (default: 12000)")
    parser.add_argument("--seed", type=int, default=0, help="first number of the cases (default: 0)")
    parser.add_argument("--only", nargs="+", metavar="KIND:NUMBER", help="these cases alone")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        worker()
        return 0
    share = arguments.cases // len(KINDS)
    cases = arguments.only or [f"{kind}:{arguments.seed + i}" for i in range(share) for kind in KINDS]
    figures = fuzz(cases)
    text = json.dumps(figures, indent=2, ensure_ascii=False)
    if arguments.json:
        arguments.json.write_text(text + "\n", encoding="utf-8")
    print(text)
    return 1 if figures["findings"] else 0


if __name__ == "__main__":
    sys.exit(main())
