"""A static page that runs an exported file in the browser: images in, scores or a colorized image out.

The page is plain HTML, CSS and JavaScript (`export/web/`) beside the model and the files of onnxruntime-web (WebAssembly), or all of
it in one HTML file. It makes no requests to other servers. Images are resized with Pillow's own arithmetic, so that the answers are
those of ``python -m export predict``.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import json
import mimetypes
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import onnxruntime
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from export.contract import Contract
from export.predictor import OnnxModel
from kerascv_course.core.errors import InputError
from kerascv_course.core.io import WriteError, atomic_write

__all__ = ["Draw", "PageError", "find_runtime", "page_files", "write_page"]

#: Files of onnxruntime-web's dist folder: the API, the loader of the WebAssembly, and the WebAssembly.
RUNTIME = ("ort.wasm.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")

#: Our scripts, each after those that it imports.
SCRIPTS = ("contract.mjs", "pixels.mjs", "drawing.mjs", "page.mjs")

#: Environment variable with the folder of onnxruntime-web, where it is not in node_modules.
VARIABLE = "ORT_WEB_DIR"

#: Image formats that every browser shows, number of samples, and their largest size, bytes.
SAMPLE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif")
MAX_SAMPLES = 12
MAX_SAMPLE_BYTES = 2_000_000

#: Largest input to draw for, pixels.
MAX_DRAWN_SIDE = 128


class PageError(InputError):
    """The page cannot be written: the runtime is missing, the task has no page, or the output exists."""


@dataclass(frozen=True)
class Draw:
    """How strokes become an image like the training data's, bright ink on black.

    Attributes:
        margin: free share of each side.
        line: thickness of a line, relative to the side.
        detail: side in pixels before the image is enlarged (bilinear) to the input's; 0: the input's own.
        levels: number of gray levels.
        ink: offer dark ink on light paper too.
    """

    margin: float = 1 / 7
    line: float = 0.09
    detail: int = 0
    levels: int = 256
    ink: bool = True


#: The embedded digits (kerascv_course/data/sources.py): 8×8 pixels of 17 gray levels, filled from top to bottom, and enlarged.
DIGITS = Draw(margin=0, line=0.13, detail=8, levels=17, ink=False)


def find_runtime(folder: Path | None = None) -> Path:
    """Folder with the files of onnxruntime-web.

    Args:
        folder: the npm package's folder or its ``dist``; None: the environment variable ``ORT_WEB_DIR``, else
            ``node_modules/onnxruntime-web`` here or in a folder above.

    Raises:
        PageError: no such folder, or a file is missing.
    """
    given = folder or (Path(value) if (value := os.environ.get(VARIABLE)) else None)
    here = Path.cwd()
    places = [given] if given else [place / "node_modules" / "onnxruntime-web" for place in (here, *here.parents)]
    for place in places:
        for candidate in (place / "dist", place):
            if all((candidate / name).is_file() for name in RUNTIME):
                return candidate
    where = str(given) if given else "node_modules here, or in a folder above"
    raise PageError(
        f"the page needs the files of onnxruntime-web, which are not in {where}: run `npm install onnxruntime-web`, or "
        f"`npm pack onnxruntime-web` and unpack it, and name its folder by --runtime-dir or {VARIABLE}"
    )


def write_page(
    model: str | Path,
    folder: str | Path,
    *,
    runtime: Path | None = None,
    samples: Path | None = None,
    single_file: bool = False,
    force: bool = False,
) -> Path:
    """Write the page of an exported file.

    Args:
        model: a classifier or a colorizer with our contract.
        folder: new folder; with `single_file` the HTML file.
        runtime: see `find_runtime`.
        samples: folder of images to try; None: ``samples`` beside the model, if it exists.
        single_file: write one HTML file, which also opens from disk.
        force: replace the page's files in an existing folder; other files in it stay.

    Returns:
        The page.

    Raises:
        PageError: no runtime, a task without a page, or the output exists already.
        ContractError: not a file with our contract.
        WriteError: the disk is full or the folder cannot be written.
    """
    folder = Path(folder)
    if os.path.lexists(folder) and not force:
        raise PageError(f"{folder} exists already: choose another, or replace the page in it with --force")
    if single_file == folder.is_dir() and folder.exists():
        raise PageError(f"{folder} is {'a folder' if single_file else 'a file'}, which this kind of page cannot replace")
    files = page_files(model, runtime=runtime, samples=samples, single_file=single_file)
    if single_file:
        with atomic_write(folder) as temporary:
            temporary.write_bytes(files["index.html"])
        return folder
    if folder.exists():
        for name, data in files.items():
            with atomic_write(folder / name) as temporary:
                temporary.write_bytes(data)
    else:
        _write_folder(folder, files)
    return folder / "index.html"


def _write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write a new folder atomically."""
    temporary = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".partial-{folder.name}-", dir=folder.parent))
        for name, data in files.items():
            path = temporary / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
        temporary.chmod(0o755)  # mkdtemp's folders are private, but a page is served
        temporary.replace(folder)
    except OSError as error:
        raise WriteError(f"cannot write {folder}: {error}") from error
    finally:
        if temporary:
            with contextlib.suppress(OSError):
                shutil.rmtree(temporary)


def page_files(
    model: str | Path, *, runtime: Path | None = None, samples: Path | None = None, single_file: bool = False
) -> dict[str, bytes]:
    """Files of the page by name; arguments and errors as for `write_page`."""
    path = Path(model)
    opened = OnnxModel(path)
    contract = opened.contract
    if not contract.classifies and contract.task != "colorize":
        raise PageError(
            f"only classifiers and colorizers have a page; {path} has the task {contract.task!r}: use OnnxModel.run()"
        )
    source = find_runtime(runtime)
    data = path.read_bytes()
    _check_whole(path, data)
    web = {name: _web(name) for name in ("page.css", *SCRIPTS)}
    engine = {name: (source / name).read_bytes() for name in RUNTIME}
    images = _samples(path.parent / "samples" if samples is None else samples, required=samples is not None)
    draw = _draw(contract)
    context = {
        "contract": contract,
        "description": _text(contract.recipe.get("description")),
        "facts": _facts(contract, data, source),
        "config": {"embedded": single_file, "draw": asdict(draw) if draw else None},
        "draw": draw,
    }
    if single_file:
        return {"index.html": _embed(context, web, engine, data, images)}
    policy = (
        "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; img-src 'self' data: blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'"
    )
    shown = [{"name": name, "source": f"samples/{i:02}{Path(name).suffix.lower()}"} for i, name in enumerate(images)]
    html = _render({**context, "policy": policy, "embedded": None, "samples": shown})
    copies = dict(zip((sample["source"] for sample in shown), images.values(), strict=True))
    return {"index.html": html, "model.onnx": data, **web, **engine, **copies}


def _embed(
    context: Mapping[str, object],
    web: Mapping[str, bytes],
    engine: Mapping[str, bytes],
    model: bytes,
    images: Mapping[str, bytes],
) -> bytes:
    """The single-file page: scripts and style allowed by their hashes, large files as gzip in base64."""
    modules = "\n".join(web[name].decode("utf-8") for name in SCRIPTS)
    script = _inline(
        re.sub(r"^export (?=(async )?function)", "", re.sub(r'^import .* from "\./.*";\n', "", modules, flags=re.M), flags=re.M)
    )
    api, style = _inline(engine[RUNTIME[0]].decode("utf-8")), web["page.css"].decode("utf-8")
    files = {"model.onnx": model, **{name: engine[name] for name in RUNTIME[1:]}}
    policy = (
        f"default-src 'none'; script-src {_hash(script)} {_hash(api)} 'wasm-unsafe-eval' blob:; style-src {_hash(style)}; "
        "img-src data: blob:; connect-src data:; base-uri 'none'; form-action 'none'"
    )
    shown = [
        {"name": name, "source": f"data:{mimetypes.guess_type(name)[0]};base64,{_base64(data)}"}
        for name, data in images.items()
    ]
    embedded = {
        "style": Markup(style),
        "script": Markup(script),
        "runtime": Markup(api),
        "files": {name: _base64(gzip.compress(data, mtime=0)) for name, data in files.items()},
    }
    return _render({**context, "policy": policy, "embedded": embedded, "samples": shown})


def _inline(script: str) -> str:
    """A script that can be embedded in a page: nothing in it ends the element."""
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _hash(text: str) -> str:
    return f"'sha256-{_base64(hashlib.sha256(text.encode('utf-8')).digest())}'"


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _web(name: str) -> bytes:
    return (Path(__file__).parent / name).read_bytes()


def _render(context: Mapping[str, object]) -> bytes:
    """The page as HTML; everything from the file is escaped."""
    environment = Environment(
        loader=PackageLoader("export", "web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("index.html.jinja").render(context).encode("utf-8")


def _check_whole(path: Path, data: bytes) -> None:
    """Check that the model is a single file, as a browser needs it.

    Raises:
        PageError: weights are in other files.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception:  # onnxruntime's exceptions share no base class; the file itself was opened before
        raise PageError(f"{path} has its weights in another file: it is too large for a browser") from None


def _samples(folder: Path, *, required: bool) -> dict[str, bytes]:
    """Images to try, by name."""
    found = sorted(
        path for path in folder.glob("*") if path.suffix.lower() in SAMPLE_SUFFIXES and path.is_file() and not path.is_symlink()
    )
    if required and not found:
        raise PageError(f"no images ({', '.join(SAMPLE_SUFFIXES)}) in {folder}")
    small = [path for path in found if path.stat().st_size <= MAX_SAMPLE_BYTES]
    return {path.name: path.read_bytes() for path in small[:MAX_SAMPLES]}


def _draw(contract: Contract) -> Draw | None:
    """How to draw for small grayscale classifiers; None: images only."""
    image = contract.input
    if not contract.classifies or image.channels != 1 or max(image.height or 0, image.width or 0) > MAX_DRAWN_SIDE:
        return None
    return DIGITS if contract.data.get("source") == "digits" else Draw()


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _facts(contract: Contract, data: bytes, source: Path) -> list[tuple[str, str]]:
    """Facts about the file, as rows of a table."""
    image = contract.input
    size = f"{image.width}×{image.height} pixels" if image.width else "any size"
    color = {"gray": "grayscale", "RGB": "color"}[image.color]
    facts = [("takes", f"{size}, {color}" + (f"; other sizes by Pillow's {image.resize} filter" if image.width else ""))]
    if contract.labels and contract.classifies:
        facts.append(("answers", f"{len(contract.labels):,} classes"))
    measured = [metric for metric in contract.metrics if metric.split == "test"] or contract.metrics
    facts.append(("measured", "; ".join(f"{m.split} {m.name.replace('_', ' ')} {m.value:.4f}" for m in measured)))
    if contract.precision:
        facts.append(("precision", f"{contract.precision.kind}: {contract.precision.method}"))
    facts.append(("trained on", ": ".join(filter(None, (contract.data.get("source"), contract.data.get("citation"))))))
    facts.append(("license", contract.license))
    facts.append(("file", f"model.onnx, {len(data):,} bytes, SHA-256 {hashlib.sha256(data).hexdigest()[:16]}…"))
    facts.append(("runs on", _describe_runtime(source)))
    return [(name, value) for name, value in facts if value]


def _describe_runtime(source: Path) -> str:
    """Name, version and license of the npm package, as far as it states them."""
    try:
        package = json.loads((source.parent / "package.json").read_bytes())
    except (OSError, ValueError):
        package = {}
    version, license_ = (_text(package.get(key)) for key in ("version", "license")) if isinstance(package, dict) else ("", "")
    return " ".join(
        filter(None, ("onnxruntime-web", version, f"({license_} license)" if license_ else "", "in WebAssembly, one thread"))
    )
