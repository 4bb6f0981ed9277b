"""Configurations of older runs, read as this version reads its own.

Runs before typed configurations wrote the fields of all systems into config.json; those
of other systems are dropped. Fields that are younger than a run get the value that the
run used, which need not be today's default.
"""

from collections.abc import Mapping
import functools
from typing import Any

from lightlm_jax.config import schema
from lightlm_jax.config.data_groups import Shop
from lightlm_jax.config.fields import leaves, value_of

# Field → its value in runs that do not have it.
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
  """The dotted names of all systems' fields."""
  return frozenset().union(*(leaves(cls) for cls in schema.CONFIGS.values()))


def current(flat: Mapping[str, Any]) -> dict[str, Any]:
  """The values of the fields that a configuration's system has, by dotted name.

  Args:
    flat: values by dotted name, perhaps of an older run. Without a known system, the
      fields are those of LightLM.
  """
  filled = EARLIER | dict(flat)
  return {name: filled[name] for name in _own(flat) if name in filled}


def lacking(flat: Mapping[str, Any]) -> list[str]:
  """The fields without which a configuration cannot be read, sorted."""
  return sorted(_own(flat).keys() - EARLIER.keys() - flat.keys())


def _own(flat: Mapping[str, Any]) -> Mapping[str, Any]:
  system = flat.get("system")
  cls = schema.CONFIGS.get(system) if isinstance(system, str) else None
  return leaves(cls or schema.LightLMConfig)
