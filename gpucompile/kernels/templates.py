"""The jinja2 environment of the WGSL templates in `shaders/`."""

from __future__ import annotations

import functools
from importlib import resources
from typing import Any

import jinja2


@functools.cache
def environment() -> jinja2.Environment:
    """Templates by file name; an unknown variable is an error, `{%` lines leave no trace."""

    def read(name: str) -> str | None:
        file = resources.files("gpucompile.shaders") / name
        return file.read_text(encoding="utf-8") if file.is_file() else None

    return jinja2.Environment(
        loader=jinja2.FunctionLoader(read),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # the output is WGSL, not HTML
    )


def render(template: str, **context: Any) -> str:
    """WGSL text from template `template` (file name without `.wgsl.j2`)."""
    return environment().get_template(f"{template}.wgsl.j2").render(**context)
