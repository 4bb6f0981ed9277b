"""Locates the folder for files that later runs can reuse."""

import os

from etils import epath


def cache_root() -> epath.Path:
  """Returns LIGHTLM_CACHE_DIR, by default `~/.cache/lightlm_jax`; creates nothing."""
  folder = os.environ.get("LIGHTLM_CACHE_DIR") or "~/.cache/lightlm_jax"
  return epath.Path(folder).expanduser()
