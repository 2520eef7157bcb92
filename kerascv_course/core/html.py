"""HTML pages in a single file: Jinja templates, with one layout and style (page.html.jinja and page.css) and images inside."""

from __future__ import annotations

import base64
import functools
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from kerascv_course.core.errors import shell_word

__all__ = ["render_html"]


def render_html(package: str, template: str, /, **values: Any) -> str:
    """Render a template of a package; all values are escaped.

    Templates extend ``page.html.jinja``; the filter ``data_uri`` turns the bytes of a PNG file into an address, ``shell_word`` quotes a
    path for a command.

    Args:
        package: dotted name of the package that has the template as a data file.
        template: file name.
        values: variables of the template; it is an error to omit one that the template uses.
    """
    return _environment(package).get_template(template).render(values)


@functools.cache
def _environment(package: str) -> Environment:
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package, "."), PackageLoader("kerascv_course.core", ".")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_uri"] = _data_uri
    environment.filters["shell_word"] = shell_word
    return environment


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
