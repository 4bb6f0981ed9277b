"""Figures of the commands, by matplotlib: loaded only where one is drawn."""

import contextlib
import io

from etils import epath

from lightlm_jax.runtime.errors import UserError
from lightlm_jax.storage import workdir


def new(width: float, height: float):
  """An empty `matplotlib.figure.Figure`, its size in inches; drawn without pyplot.

  Raises:
    UserError: there is no matplotlib.
  """
  return _matplotlib().figure.Figure(figsize=(width, height), layout="constrained")


def style(settings: dict[str, object]) -> contextlib.AbstractContextManager[None]:
  """matplotlib's settings for what is drawn and written inside.

  Raises:
    UserError: there is no matplotlib.
  """
  return _matplotlib().rc_context(settings)


def write(figure, path: epath.Path) -> None:
  """As PNG or as SVG, by the path's ending; whole or not at all."""
  workdir.write_whole(path, content(figure, path.suffix.removeprefix(".")))


def content(figure, kind: str) -> bytes:
  """The file of a figure, "png" or "svg"; the same bytes whenever it is drawn."""
  found = io.BytesIO()
  # Text as text: it can be searched, and a page's style reaches it.
  settings = {"svg.hashsalt": "lightlm_jax", "svg.fonttype": "none"}
  with style(settings):
    metadata = {"Date": None} if kind == "svg" else None
    figure.savefig(found, dpi=120, format=kind, metadata=metadata)
  return found.getvalue()


def _matplotlib():
  try:
    import matplotlib.figure  # noqa: PLC0415
  except ImportError:
    raise UserError("a figure wants matplotlib: pip install -e '.[figures]'")
  return matplotlib
