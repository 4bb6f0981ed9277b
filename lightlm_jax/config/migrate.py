"""Converts configurations of older runs to this version's fields.

Before configurations were typed, config.json held the fields of all systems. Fields
that the run's own system lacks are dropped. A field that was added after the run gets
the value that describes how the run behaved (`EARLIER`); today's default may differ.
"""

from collections.abc import Mapping
import functools
from typing import Any

from lightlm_jax.config import schema
from lightlm_jax.config.data_groups import Shop
from lightlm_jax.config.fields import Leaf, leaves, value_of

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
  "input.every_position": False,
  "input.item_dropout": 0.0,
  "model.residual": False,
  "model.repeats": False,
  "model.calibrated": False,
  "ids.cold": "apart",
  "ids.balanced": False,
  "ids.books": 1,
  "model.remat": False,
  "train.steps_per_dispatch": 1,
  "train.pack": 1,
  "train.average": 0.0,
  "train.checkpoints": 2,
  "train.failed_save": "stop",
  "train.feed": "device",
  "train.whole_histories": False,
  "train.negatives": 8_192,
  "decoding.length_offset": 0.0,
  "decoding.state": "decoder",
  "decoding.memory_share": 1.0,
  "decoding.nearest": 100,
  "decoding.prior": 0.0,
  "decoding.index_weight": 0.07,
  "mesh.shard_optimiser": False,
  "profile": False,
}


@functools.cache
def all_fields() -> frozenset[str]:
  """Returns the dotted names of all systems' fields."""
  return frozenset().union(*(leaves(cls) for cls in schema.CONFIGS.values()))


def current(flat: Mapping[str, Any]) -> dict[str, Any]:
  """Returns a configuration's values of the fields that its system has today.

  Missing values are taken from `EARLIER`; fields without a value there stay missing.

  Args:
    flat: values by dotted name, perhaps of an older run. If its system is missing or
      unknown, the fields are those of LightLM.
  """
  own = _own(flat)
  filled = _earlier(own) | dict(flat)
  if "ids.kind" in own and filled.get("train.loss") in ("full", "sampled", "binary"):
    filled["train.loss"] = "vocabulary"  # older files held the loss of other systems
  return {name: filled[name] for name in own if name in filled}


def lacking(flat: Mapping[str, Any]) -> list[str]:
  """Returns the fields that a configuration lacks and `EARLIER` cannot fill, sorted."""
  own = _own(flat)
  return sorted(own.keys() - _earlier(own).keys() - flat.keys())


def _earlier(own: Mapping[str, Leaf]) -> dict[str, Any]:
  """Returns the `EARLIER` values for a system's fields, and LightLM's earlier loss."""
  values = EARLIER | {"train.loss": "vocabulary"}
  return {n: v for n, v in values.items() if n in own and own[n].accepts(v)}


def _own(flat: Mapping[str, Any]) -> Mapping[str, Leaf]:
  system = flat.get("system")
  cls = schema.CONFIGS.get(system) if isinstance(system, str) else None
  return leaves(cls or schema.LightLMConfig)
