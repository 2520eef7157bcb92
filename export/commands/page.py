"""``page``: a web page that runs a file in the browser."""

from __future__ import annotations

import argparse
from pathlib import Path

from export.commands.paths import model_file
from export.untrusted.guard import guarded, limit_memory
from export.web.page import write_page
from kerascv_course.core.errors import shell_word

__all__ = ["add_page"]


def add_page(parser: argparse.ArgumentParser) -> None:
    """Options of ``page``."""
    parser.add_argument("model", type=Path, help="exported ONNX file, or run folder with one: a classifier or a colorizer")
    parser.add_argument("-o", "--output", type=Path, required=True, help="new folder (with --single-file: HTML file)")
    parser.add_argument(
        "--runtime-dir",
        type=Path,
        metavar="DIR",
        help="folder of the npm package onnxruntime-web (default: ORT_WEB_DIR, else node_modules here or above)",
    )
    parser.add_argument("--samples", type=Path, metavar="DIR", help="images to try (default: samples beside the model)")
    parser.add_argument("--single-file", action="store_true", help="write one HTML file, which opens by a double click")
    parser.add_argument("--force", action="store_true", help="replace an existing page")
    parser.set_defaults(call=_page)


@guarded()
def _page(arguments: argparse.Namespace) -> None:
    model = model_file(arguments.model)
    limit_memory(model)
    page = write_page(
        model,
        arguments.output,
        runtime=arguments.runtime_dir,
        samples=arguments.samples,
        single_file=arguments.single_file,
        force=arguments.force,
    )
    print(page)
    if not arguments.single_file:
        print(f"view it: python -m http.server --directory {shell_word(page.parent)} 8000, then http://localhost:8000")
