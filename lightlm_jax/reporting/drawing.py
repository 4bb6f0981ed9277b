"""Draws figures with matplotlib, which is imported only when needed."""

import contextlib
import io
from typing import Any

from etils import epath

from lightlm_jax.runtime.errors import UserError
from lightlm_jax.storage import atomic


def new(width: float, height: float):
  """Creates an empty `matplotlib.figure.Figure` of a size in inches, without pyplot.

  Raises:
    UserError: matplotlib is not installed.
  """
  return _matplotlib().figure.Figure(figsize=(width, height), layout="constrained")


def style(settings: dict[str, Any]) -> contextlib.AbstractContextManager[None]:
  """Returns a context in which matplotlib draws and writes figures with `settings`.

  Raises:
    UserError: matplotlib is not installed.
  """
  return _matplotlib().rc_context(settings)  # pyright: ignore[reportArgumentType]


def write(figure, path: epath.Path) -> None:
  """Writes a figure atomically as PNG or SVG, by the path's suffix."""
  atomic.write(path, content(figure, path.suffix.removeprefix(".")))


def content(figure, kind: str) -> bytes:
  """Returns a figure as reproducible bytes; `kind` is "png" or "svg"."""
  found = io.BytesIO()
  # Keeps text as text, so that it can be searched.
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
