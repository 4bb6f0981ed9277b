"""Locates the folder for files that later runs can reuse."""

import os

from etils import epath


def cache_root() -> epath.Path:
  """Returns the path $LIGHTLM_CACHE_DIR, or ~/.cache/lightlm_jax; creates no folder."""
  folder = os.environ.get("LIGHTLM_CACHE_DIR") or "~/.cache/lightlm_jax"
  return epath.Path(folder).expanduser()
