"""The web page of a file: what is written, the JavaScript against Pillow (in Node), and the page itself in headless Chromium."""

from __future__ import annotations

import dataclasses
import functools
import http.server
import json
import re
import shutil
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from export import OnnxModel, export_model, read_contract
from export.contract import ContractError
from export.files import rewrite_contract
from export.web.page import RUNTIME, PageError, find_runtime, write_page

ROOT = Path(__file__).resolve().parents[3]

HOSTILE = "<img src=x onerror=\"document.title='owned'\"> & 猫 </script>"


@pytest.fixture
def empty_runtime(tmp_path):
    """A package folder as npm makes it, with nothing in its files."""
    dist = tmp_path / "onnxruntime-web" / "dist"
    dist.mkdir(parents=True)
    for name in RUNTIME:
        (dist / name).write_bytes(b"// </script> " + name.encode())
    (dist.parent / "package.json").write_text('{"version": "9.9.9"}')
    return dist.parent


@pytest.fixture(scope="module")
def real_runtime():
    try:
        return find_runtime()
    except PageError:
        pytest.skip("no onnxruntime-web: npm install it, and set ORT_WEB_DIR to its folder")


@pytest.fixture(scope="module")
def hostile_run(tiny_run, tmp_path_factory):
    """The tiny run's file with a label, a name and a description that are HTML."""
    path = tmp_path_factory.mktemp("hostile") / "model.onnx"
    shutil.copy(tiny_run / "model.onnx", path)
    contract = read_contract(path)
    labels = tuple(HOSTILE if label == "7" else label for label in contract.labels)
    rewrite_contract(
        path, dataclasses.replace(contract, labels=labels, name=HOSTILE, recipe={"description": HOSTILE}, license=HOSTILE)
    )
    return path


# --- what is written ---


def test_page_folder_has_model_runtime_and_no_foreign_urls(tiny_run, empty_runtime, tmp_path):
    page = write_page(tiny_run / "model.onnx", tmp_path / "demo", runtime=empty_runtime)
    names = {path.relative_to(page.parent).as_posix() for path in page.parent.rglob("*") if path.is_file()}
    assert {"index.html", "page.css", "page.mjs", "model.onnx", *RUNTIME} <= names
    assert len([name for name in names if name.startswith("samples/")]) == len(list((tiny_run / "samples").glob("*.png")))
    assert (page.parent / "model.onnx").read_bytes() == (tiny_run / "model.onnx").read_bytes()
    html = page.read_text(encoding="utf-8")
    assert "onnxruntime-web 9.9.9" in html and "default-src 'none'".replace("'", "&#39;") in html
    for name in ("index.html", "page.css", "page.mjs", "pixels.mjs", "contract.mjs", "drawing.mjs"):
        text = (page.parent / name).read_text(encoding="utf-8").replace("http://localhost:8000", "")
        assert not re.search(r"(https?:)?//[\w.]+\.\w+/", text), name
    assert not list(tmp_path.glob(".partial*"))


def test_page_escapes_labels_and_names(hostile_run, empty_runtime, tmp_path):
    html = write_page(hostile_run, tmp_path / "demo", runtime=empty_runtime).read_text(encoding="utf-8")
    assert "<img src=x" not in html and "&lt;img src=x" in html


def test_page_overwrites_only_with_force(tiny_run, empty_runtime, tmp_path):
    folder = tmp_path / "demo"
    page = write_page(tiny_run / "model.onnx", folder, runtime=empty_runtime)
    (folder / "mine.txt").write_text("mine")
    page.write_text("old")
    with pytest.raises(PageError, match="exists already: choose another, or replace the page in it with --force"):
        write_page(tiny_run / "model.onnx", folder, runtime=empty_runtime)
    assert page.read_text() == "old"
    write_page(tiny_run / "model.onnx", folder, runtime=empty_runtime, force=True)
    assert "<!doctype html>" in page.read_text() and (folder / "mine.txt").read_text() == "mine"
    with pytest.raises(PageError, match="is a folder"):
        write_page(tiny_run / "model.onnx", folder, runtime=empty_runtime, force=True, single_file=True)


def test_page_names_a_missing_runtime(tiny_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ORT_WEB_DIR", raising=False)
    with pytest.raises(PageError, match="npm install onnxruntime-web"):
        write_page(tiny_run / "model.onnx", tmp_path / "demo")
    monkeypatch.setenv("ORT_WEB_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(PageError, match="nowhere"):
        write_page(tiny_run / "model.onnx", tmp_path / "demo")
    assert not (tmp_path / "demo").exists()


def test_page_refuses_other_tasks_and_files(tiny_run, empty_runtime, tmp_path):
    keras = pytest.importorskip("keras")
    inputs = keras.Input((8, 8, 3))
    network = keras.Model(inputs, keras.layers.Conv2D(2, 3)(inputs))
    export_model(network, tmp_path / "x.onnx", preprocessing=((0.0,), (1.0,)))
    with pytest.raises(PageError, match="has the task 'tensor'"):
        write_page(tmp_path / "x.onnx", tmp_path / "demo", runtime=empty_runtime)
    with pytest.raises(ContractError, match="no such file"):
        write_page(tmp_path / "y.onnx", tmp_path / "demo", runtime=empty_runtime)
    with pytest.raises(PageError, match="no images"):
        write_page(tiny_run / "model.onnx", tmp_path / "demo", runtime=empty_runtime, samples=tmp_path)


# --- the JavaScript against Pillow, in Node ---


@pytest.fixture(scope="module")
def node():
    """Run a module with names of `export/web`: ``node("contract.mjs", "readContract", code)`` gives what it prints."""
    program = shutil.which("node")
    if program is None:
        pytest.skip("no Node here")

    def run(module, names, code):
        source = f"import {{ {names} }} from {json.dumps((ROOT / 'export' / 'web' / module).as_uri())};\n{code}"
        done = subprocess.run([program, "--input-type=module", "-"], input=source, capture_output=True, text=True, timeout=120)
        assert not done.returncode, done.stderr
        return json.loads(done.stdout)

    return run


def test_javascript_resizing_equals_pillow(node):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, shape, np.uint8) for shape in ((77, 123, 3), (8, 8, 1), (40, 40, 3))]
    images.append(np.where(images[0] > 128, 255, 0).astype(np.uint8))  # overshoots that have to be clipped
    cases = [
        (image, *size, name)
        for image in images
        for size in ((32, 32), (1, 1), (64, 50), (123, 20))
        for name in ("nearest", "bilinear", "bicubic", "lanczos")
    ]
    given = [[image.shape[1], image.shape[0], image.shape[2], image.ravel().tolist(), *rest] for image, *rest in cases]
    answers = node(
        "pixels.mjs",
        "resizePixels",
        f"""const cases = {json.dumps(given)};
        console.log(JSON.stringify(cases.map(([width, height, channels, data, w, h, filter]) =>
          Array.from(resizePixels({{ width, height, channels, data: Uint8Array.from(data) }}, w, h, filter).data))));""",
    )
    for (image, width, height, name), answer in zip(cases, answers, strict=True):
        expected = Image.fromarray(image.squeeze()).resize((width, height), Image.Resampling[name.upper()])
        np.testing.assert_array_equal(
            np.array(answer, np.uint8), np.asarray(expected).ravel(), err_msg=f"{name} {width}×{height}"
        )


def test_javascript_gray_and_transparent_pixels_equal_pillow(node):
    pixels = np.random.default_rng(1).integers(0, 256, (16, 16, 4), np.uint8)
    picture = Image.fromarray(pixels)
    white = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    gray, rgb = node(
        "pixels.mjs",
        "toChannels",
        f"""const data = Uint8ClampedArray.from({json.dumps(pixels.ravel().tolist())});
        console.log(JSON.stringify([1, 3].map((c) => Array.from(toChannels({{ width: 16, height: 16, data }}, c).data))));""",
    )
    assert np.abs(np.array(rgb) - np.asarray(white.convert("RGB"), int).ravel()).max() <= 1
    assert np.abs(np.array(gray) - np.asarray(white.convert("L"), int).ravel()).max() <= 1


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("channels", ["as fed", "BGR"])
def test_javascript_preprocessing_equals_the_predictor(node, layout, channels):
    from export.serving import preprocess

    contract = {
        "input": {"height": 4, "width": 5, "channels": 3, "dtype": "float32", "layout": layout, "resize": "bilinear"},
        "preprocessing": {"scale": 1 / 255, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4], "channels": channels},
    }
    pixels = np.random.default_rng(2).integers(0, 256, (4, 5, 4), np.uint8)
    pixels[..., 3] = 255
    answer = node(
        "pixels.mjs",
        "toInput",
        f"""const image = {{ width: 5, height: 4, data: Uint8ClampedArray.from({json.dumps(pixels.ravel().tolist())}) }};
        const {{ data, dims }} = toInput({json.dumps(contract)}, image);
        console.log(JSON.stringify({{ data: Array.from(data), dims }}));""",
    )
    expected = preprocess(pixels[None, :, :, :3], read_contract_like(contract).preprocessing)
    if layout == "NCHW":
        expected = expected.transpose(0, 3, 1, 2)
    assert answer["dims"] == list(expected.shape)
    np.testing.assert_allclose(np.reshape(answer["data"], expected.shape), expected, atol=1e-6)


def read_contract_like(parts):
    """A whole contract with these parts."""
    from export.contract import Contract, Input, Output, Preprocessing

    steps = {key: tuple(value) if isinstance(value, list) else value for key, value in parts["preprocessing"].items()}
    return Contract(
        "tensor",
        "x",
        Input(name="image", color="RGB", **parts["input"]),
        Preprocessing("caller", **steps),
        (Output("values", "values", (3,)),),
    )


def test_javascript_reads_the_contract(node, hostile_run):
    read = f"readContract(readFileSync({json.dumps(str(hostile_run))}))"
    answer = node(
        "contract.mjs", "readContract", f"import {{ readFileSync }} from 'node:fs'; console.log(JSON.stringify({read}));"
    )
    assert answer["labels"][7] == HOSTILE and answer["input"]["resize"] == "bilinear"


def test_javascript_refuses_damaged_files(node, hostile_run):
    whole = hostile_run.read_bytes()
    cut = whole.index(b"kerascv_course.contract") + 40
    answer = node(
        "contract.mjs",
        "readContract",
        f"""import {{ readFileSync }} from 'node:fs';
        const whole = readFileSync({json.dumps(str(hostile_run))});
        const random = Uint8Array.from({{ length: 500 }}, (_, i) => (i * 7919) % 256);
        console.log(JSON.stringify([whole.subarray(0, {cut}), random, new Uint8Array(0)].map((file) => {{
          try {{ readContract(file); return "read"; }} catch (error) {{ return error.message; }} }})));""",
    )
    assert "cut short" in answer[0] and "read" not in answer[1:]
    assert "no contract" in answer[2]


# --- the page in a browser ---


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium."""
    playwright = pytest.importorskip("playwright.sync_api", reason="the page is tested through playwright, which is not here")
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium here")
    flags = (
        "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update"
    )
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=program, args=[*flags.split(" "), "--disable-sync"])
        yield running
        running.close()


@pytest.fixture
def visit(browser):
    """Open a page, wait until its model is loaded; what went wrong in it, and what it asked for elsewhere, fails the test."""
    servers, contexts, wrong = [], [], []

    def open_page(path, width=1100):
        url = path.as_uri()
        if path.name == "index.html":
            handler = functools.partial(QuietHandler, directory=str(path.parent))
            server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
            threading.Thread(target=server.serve_forever, daemon=True).start()
            servers.append(server)
            url = f"http://127.0.0.1:{server.server_port}/"
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}))
        page = contexts[-1].new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text))
        page.on("request", lambda r: None if r.url.startswith((url, "data:", "blob:")) else wrong.append(r.url))
        page.goto(url)
        page.locator("#status").filter(has_text=re.compile("^Ready|cannot be opened")).wait_for()
        assert page.inner_text("#status") == "Ready."
        return page

    yield open_page
    for context in contexts:
        context.close()
    for server in servers:
        server.shutdown()
        server.server_close()
    assert not wrong


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def shown_scores(page):
    """Label to score of the newest answer."""
    page.locator("article").first.wait_for()
    rows = page.locator("article").first.locator("li")
    return {
        rows.nth(i).locator(".label").inner_text(): float(rows.nth(i).get_attribute("data-score")) for i in range(rows.count())
    }


def expected_scores(path, picture):
    model = OnnxModel(path)
    return dict(zip(model.contract.labels, map(float, model.predict(picture).scores[0]), strict=True))


@pytest.mark.parametrize("single_file", [False, True])
def test_page_gives_the_predictors_scores(tiny_run, real_runtime, visit, tmp_path, single_file):
    output = tmp_path / ("demo.html" if single_file else "demo")
    page = visit(write_page(tiny_run / "model.onnx", output, runtime=real_runtime, single_file=single_file))
    sample = min((tiny_run / "samples").glob("*.png"))
    page.locator(".sample").first.click()
    scores = shown_scores(page)
    assert scores == pytest.approx(expected_scores(tiny_run / "model.onnx", sample), abs=1e-5)
    assert list(scores.values()) == sorted(scores.values(), reverse=True)

    # a colour photograph of another size, with an alpha channel: grey, laid on white, and resized as Pillow does it
    pixels = np.random.default_rng(3).integers(0, 256, (50, 90, 4), np.uint8)
    Image.fromarray(np.kron(pixels, np.ones((4, 4, 1), np.uint8))).save(tmp_path / "large.png")
    (tmp_path / "none.png").write_text("no picture")
    page.set_input_files("#files", [tmp_path / "none.png", tmp_path / "large.png"])
    page.locator("article").nth(2).wait_for()
    assert shown_scores(page) == pytest.approx(expected_scores(tiny_run / "model.onnx", tmp_path / "large.png"), abs=2e-2)
    assert "not an image" in page.locator("article").nth(1).inner_text()


def test_page_takes_dropped_images_and_keyboard(tiny_run, real_runtime, visit, tmp_path):
    page = visit(write_page(tiny_run / "model.onnx", tmp_path / "demo", runtime=real_runtime))
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "files"
    while page.evaluate("document.activeElement.className") != "sample":
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.locator("article").wait_for()
    dropped = page.evaluate_handle(
        """async () => {
          const transfer = new DataTransfer();
          const image = await (await fetch(document.querySelector(".sample img").src)).blob();
          transfer.items.add(new File([image], "dropped.png", { type: "image/png" }));
          return transfer;
        }"""
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": dropped})
    page.locator("article").nth(1).wait_for()
    first, second = (page.locator("article h3").nth(i).inner_text() for i in (0, 1))
    assert first == second and "dropped.png" in page.locator("article").first.inner_text()


def test_page_shows_hostile_labels_as_text(hostile_run, real_runtime, visit, tmp_path):
    page = visit(write_page(hostile_run, tmp_path / "demo", runtime=real_runtime))
    Image.new("L", (32, 32)).save(tmp_path / "black.png")
    page.set_input_files("#files", tmp_path / "black.png")
    assert HOSTILE in shown_scores(page)
    assert page.inner_text("h1") == HOSTILE and page.title() == f"{HOSTILE}: try it"
    assert page.locator("main img").count() == 0


def test_page_takes_a_drawing_at_phone_width(tiny_run, real_runtime, visit, tmp_path):
    page = visit(write_page(tiny_run / "model.onnx", tmp_path / "demo", runtime=real_runtime), width=375)
    pad = page.locator("#pad")
    pad.scroll_into_view_if_needed()
    box = pad.bounding_box()
    points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in ((0.3, 0.2), (0.7, 0.2), (0.45, 0.85))]
    page.mouse.move(*points[0])
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*point, steps=8)
    page.mouse.up()
    assert len(shown_scores(page)) == 10
    assert "your drawing" in page.locator("article").inner_text()
    page.click("#clear")
    page.locator("article").wait_for(state="detached")
    width = page.locator("main").bounding_box()["width"]
    assert width <= 375


def test_page_shows_colorized_images(color_run, color_images, real_runtime, visit, tmp_path):
    page = visit(write_page(color_run / "model.onnx", tmp_path / "demo", runtime=real_runtime))
    picture = min((color_images / "shape").glob("*.png"))
    page.set_input_files("#files", picture)
    page.locator("article.pair canvas").nth(1).wait_for()
    with page.expect_download() as download:
        page.click("text=Save")
    colored = np.asarray(Image.open(download.value.path()).convert("RGB"))
    np.testing.assert_array_equal(colored, OnnxModel(color_run / "model.onnx").colorize(picture))
