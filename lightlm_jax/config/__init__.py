"""Loads, converts and checks the configurations of runs.

A config file returns a card, whose fields can be changed. The library works only with
typed configurations, which `load`, `typed` and `from_tree` return: frozen, hashable
dataclasses that have the fields of their own system and no others; see schema.py.
"""

from lightlm_jax.config.cards import (
  Card,
  available,
  base,
  card,
  check_elements,
  is_study,
  load,
  of_system,
  presets,
  settable,
  typed,
)
from lightlm_jax.config.fields import flatten, leaves, value_of
from lightlm_jax.config.schema import (
  SYSTEMS,
  EnsembleConfig,
  LearnedConfig,
  LightLMConfig,
  ReadsTexts,
  RunConfig,
  WritesIds,
  check,
  check_batches,
)
from lightlm_jax.config.tree import (
  describe,
  differences,
  find,
  from_tree,
  lacking,
  own_fields,
  replace,
  to_flat,
  to_json,
  to_tree,
)
