"""Configurations: config files (cards), typed configurations, files of older runs.

The library works with typed configurations only (`load`, `typed`, `from_tree`): frozen
and hashable, with the fields of their own system; see schema.py.
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
