"""Figures of the commands, by matplotlib: loaded only where one is drawn."""

import io

from etils import epath

from lightlm_jax import workdir
from lightlm_jax.errors import UserError


def new(width: float, height: float):
  """An empty `matplotlib.figure.Figure`, its size in inches.

  Raises:
    UserError: there is no matplotlib.
  """
  try:
    import matplotlib.figure  # noqa: PLC0415
  except ImportError:
    raise UserError("--figure wants matplotlib: pip install -e '.[figures]'")
  return matplotlib.figure.Figure(figsize=(width, height), layout="constrained")


def write(figure, path: epath.Path) -> None:
  """As PNG, whole or not at all."""
  content = io.BytesIO()
  figure.savefig(content, dpi=120, format="png")
  workdir.write_whole(path, content.getvalue())
