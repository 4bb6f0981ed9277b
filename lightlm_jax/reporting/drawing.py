"""Figures by matplotlib, which is imported only when one is drawn."""

import contextlib
import io
from typing import Any

from etils import epath

from lightlm_jax.runtime.errors import UserError
from lightlm_jax.storage import atomic


def new(width: float, height: float):
  """Returns an empty `matplotlib.figure.Figure`, its size in inches, without pyplot.

  Raises:
    UserError: matplotlib is not installed.
  """
  return _matplotlib().figure.Figure(figsize=(width, height), layout="constrained")


def style(settings: dict[str, Any]) -> contextlib.AbstractContextManager[None]:
  """Applies matplotlib's settings to what is drawn and written inside.

  Raises:
    UserError: matplotlib is not installed.
  """
  return _matplotlib().rc_context(settings)  # pyright: ignore[reportArgumentType]


def write(figure, path: epath.Path) -> None:
  """Writes a figure as PNG or SVG, by the path's suffix; whole or not at all."""
  atomic.write(path, content(figure, path.suffix.removeprefix(".")))


def content(figure, kind: str) -> bytes:
  """Returns the bytes of a figure as "png" or "svg"; they are reproducible."""
  found = io.BytesIO()
  # Text stays text: it can be searched.
  settings = {"svg.hashsalt": "lightlm_jax", "svg.fonttype": "none"}
  with style(settings):
    metadata = {"Date": None} if kind == "svg" else None
    figure.savefig(found, dpi=120, format=kind, metadata=metadata)
  return found.getvalue()


def _matplotlib():
  try:
    import matplotlib.figure  # noqa: PLC0415
  except ImportError:
    raise UserError("figures need matplotlib: pip install matplotlib")
  return matplotlib
