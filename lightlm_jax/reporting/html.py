"""A page: a template, its data, and the colours that all charts share."""

import functools
import pathlib
import re
from typing import Any

import jinja2
from markupsafe import Markup, escape

from lightlm_jax.reporting import charts

_FOLDER = pathlib.Path(__file__).parent


def render(template: str, content: dict[str, Any]) -> str:
  """The HTML of a template of this folder; whatever is data is escaped."""
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(_FOLDER),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  environment.globals |= {"swatch": charts.swatch, "short": _short}
  environment.filters["in_code"] = _in_code
  return environment.get_template(template).render(content)


@functools.cache
def colours() -> dict[str, str]:
  """The style sheet's colours on light paper, by the names of its variables."""
  light = (_FOLDER / "report.css").read_text().split("}")[0]
  return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", light))


def _short(share: float) -> str:
  """Three decimals and no leading zero: two of them fit beneath a figure."""
  return f"{share:.3f}".removeprefix("0")


def _in_code(text: str) -> Markup:
  """What stands between `ticks` as code, and all of it escaped."""
  parts = text.split("`")
  shown = (
    Markup("<code>{}</code>").format(part) if n % 2 else escape(part)
    for n, part in enumerate(parts)
  )
  return Markup("").join(shown)
