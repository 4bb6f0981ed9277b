"""Converts configurations of older runs to this version's fields.

Runs before typed configurations wrote the fields of all systems into config.json; those
of other systems are dropped. Fields added after a run get the value that describes its
behaviour then, which need not be today's default.
"""

from collections.abc import Mapping
import functools
from typing import Any

from lightlm_jax.config import schema
from lightlm_jax.config.data_groups import Shop
from lightlm_jax.config.fields import leaves, value_of

# Field added later → the behaviour of runs from before.
EARLIER: dict[str, Any] = {
  "data.dir": "",
  "data.share": 1.0,
  **{f"data.shop.{name}": value_of(Shop(), name) for name in leaves(Shop)},
  "split.validation_share": 0.1,
  "split.test_share": 0.1,
  "split.gap": 0,
  "split.withheld": 0.0,
  "input.order": "time",
  "ids.cold": "apart",
  "model.remat": False,
  "train.steps_per_dispatch": 1,
  "train.pack": 1,
  "train.feed": "device",
  "train.whole_histories": False,
  "train.negatives": 8_192,
  "decoding.length_offset": 0.0,
  "decoding.state": "decoder",
  "decoding.memory_share": 1.0,
  "decoding.nearest": 100,
  "decoding.prior": 0.0,
  "mesh.shard_optimiser": False,
  "profile": False,
}


@functools.cache
def all_fields() -> frozenset[str]:
  """Returns the dotted names of all systems' fields."""
  return frozenset().union(*(leaves(cls) for cls in schema.CONFIGS.values()))


def current(flat: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the values of the fields that a configuration's system has today.

  Args:
    flat: values by dotted name, perhaps of an older run. If its system is missing or
      unknown, the fields are those of LightLM.
  """
  filled = EARLIER | dict(flat)
  return {name: filled[name] for name in _own(flat) if name in filled}


def lacking(flat: Mapping[str, Any]) -> list[str]:
  """Returns the required fields that a configuration lacks, sorted."""
  return sorted(_own(flat).keys() - EARLIER.keys() - flat.keys())


def _own(flat: Mapping[str, Any]) -> Mapping[str, Any]:
  system = flat.get("system")
  cls = schema.CONFIGS.get(system) if isinstance(system, str) else None
  return leaves(cls or schema.LightLMConfig)
