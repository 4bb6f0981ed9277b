"""An ensemble: finished runs on one log, ranked by their mean log-probability.

  python -m lightlm_jax.train --config=configs/ensemble.py --workdir=runs/both \
    --config.members=runs/toys-best,runs/toys-sasrec-default

The members are copied below the workdir, so that it can be moved and served alone. The
log and the split are the first member's, and all members must have them in common.
"""

from lightlm_jax import config as config_lib

PRESETS = ()


def get_config(preset: str | None = None) -> config_lib.Card:
  """Returns the configuration; --config.field=value sets any field."""
  del preset  # there are none
  return config_lib.base("ensemble")
