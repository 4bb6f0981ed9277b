"""Renders the templates, and reads the colours that all charts share."""

import functools
import pathlib
import re
from typing import Any

import jinja2
from markupsafe import Markup, escape

_FOLDER = pathlib.Path(__file__).parent


def render(template: str, content: dict[str, Any]) -> str:
  """Renders a template of this folder to HTML; the values in `content` are escaped."""
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(_FOLDER),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  environment.filters["in_code"] = _in_code
  return environment.get_template(template).render(content)


@functools.cache
def colours() -> dict[str, str]:
  """Returns {name of a CSS variable: its colour in light mode, "#rrggbb"}."""
  light = (_FOLDER / "report.css").read_text().split("}")[0]
  return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", light))


def _in_code(text: str) -> Markup:
  """Escapes a text, and marks up the parts in backticks as code."""
  return Markup(re.sub("`([^`]*)`", r"<code>\1</code>", str(escape(text))))
