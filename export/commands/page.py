"""``page``: a web page that runs the file in the browser."""

from __future__ import annotations

import argparse
from pathlib import Path

from export.commands import Commands


def add_parsers(commands: Commands) -> None:
    """The command ``page``."""
    page = commands.add_parser("page", help="write a web page that runs a file in the browser", allow_abbrev=False)
    page.add_argument("model", type=Path, help="exported ONNX file: a classifier or a colouriser")
    page.add_argument(
        "-o", "--output", type=Path, required=True, help="new folder of the page (with --single-file: the HTML file)"
    )
    page.add_argument(
        "--runtime-dir",
        type=Path,
        metavar="DIR",
        help="folder of the npm package onnxruntime-web (default: ORT_WEB_DIR, else node_modules here or above)",
    )
    page.add_argument("--samples", type=Path, metavar="DIR", help="pictures to try (default: samples beside the model)")
    page.add_argument("--single-file", action="store_true", help="everything in one HTML file, which opens by a double click")
    page.add_argument("--force", action="store_true", help="replace a page that is there")
    page.set_defaults(call=page_command)


def page_command(arguments: argparse.Namespace) -> int:
    """Write the page and say how to see it."""
    from export.web.page import write_page

    page = write_page(
        arguments.model,
        arguments.output,
        runtime=arguments.runtime_dir,
        samples=arguments.samples,
        single_file=arguments.single_file,
        force=arguments.force,
    )
    print(page)
    if not arguments.single_file:
        print(f"see it: python -m http.server --directory {page.parent} 8000, then http://localhost:8000")
    return 0
