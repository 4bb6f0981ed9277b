"""Where things are kept between runs that a later run would only compute again."""

import os

from etils import epath


def cache_root() -> epath.Path:
  """LIGHTLM_CACHE_DIR, by default `~/.cache/lightlm_jax`; nothing is created here."""
  folder = os.environ.get("LIGHTLM_CACHE_DIR") or "~/.cache/lightlm_jax"
  return epath.Path(folder).expanduser()
