"""What no run can do anything with: refused before anything is read or written."""

from collections.abc import Sequence
import importlib.util
import math

import ml_collections

from lightlm_jax.data import splits, texts
from lightlm_jax.ids import build as ids_build
from lightlm_jax.ids import quantise, spectral
from lightlm_jax.inference import state_index as latent_decoding
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.systems import (
  item_decoder,
  lightlm,
  lite_llm4rec,
  lite_llm4rec_beam,
  next_item,
  registry,
  sasrec,
)

CHOICES = {
  "system": registry.NAMES,
  "split.kind": tuple(splits.SPLITS),
  "input.order": ("time", "none"),
  "ids.kind": ids_build.KINDS,
  "ids.cold": ids_build.COLD,
  "ids.graph": spectral.GRAPHS,
  "ids.quantiser": tuple(quantise.QUANTISERS),
  "ids.tokens": spectral.TOKENS,
  "model.source": lite_llm4rec.SOURCES,
  "model.dtype": ("float32", "bfloat16"),
  "train.feed": ("device", "stream"),
  "train.schedule": ("cosine", "linear"),
  "train.loss": next_item.LOSSES,
  "decoding.kind": (*lightlm.DECODINGS, *latent_decoding.DECODINGS),
  "decoding.state": ("decoder", "encoder"),
}

# (what a value must be, whether it is, fields)
RULES = (
  (
    "at least 1",
    lambda value: value >= 1,
    (
      "data.shop.num_users data.shop.num_communities "
      "model.d_model model.num_layers model.num_decoder_layers model.num_heads "
      "model.num_kv_heads model.num_item_layers model.d_kv model.d_ff "
      "input.text_tokens train.steps train.batch_size "
      "train.accumulate train.negatives train.eval_every train.eval_batch_size "
      "train.log_every train.steps_per_dispatch train.pack decoding.beam_size "
      "decoding.nearest "
      "mesh.model ids.leaf_size ids.levels ids.gci_levels "
      "ids.gcn.dim ids.gcn.layers ids.gcn.epochs ids.gcn.batch_size "
      "ids.gcn.negatives ids.gcn.patience"
    ).split(),
  ),
  (
    "from 2 to a million",
    lambda value: 2 <= value <= 10**6,
    ("ids.branching", "ids.base"),
  ),
  ("from 1 to a million", lambda value: 1 <= value <= 10**6, ("ids.centres",)),
  (
    f"from {texts.FEWEST} (a token a byte) to a million",
    lambda value: texts.FEWEST <= value <= 10**6,
    ("input.text_vocab",),
  ),
  (
    "0 or more",
    lambda value: 0 <= value < math.inf,
    (
      "data.min_len input.history model.id_range train.warmup_steps "
      "train.weight_decay train.eval_users train.patience decoding.length_penalty "
      "decoding.length_offset decoding.trie_bytes model.low_frequencies split.gap "
      "decoding.prior"
    ).split(),
  ),
  (
    "above 0 and below 1",
    lambda value: 0 < value < 1,
    ("split.validation_share", "split.test_share"),
  ),
  (
    "above 0 and finite",
    lambda value: 0 < value < math.inf,
    (
      "train.learning_rate train.embedding_rate train.clip_norm ids.gcn.learning_rate"
    ).split(),
  ),
  (
    "0 or more and below 1",
    lambda value: 0 <= value < 1,
    (
      "model.dropout_rate model.item_dropout_rate train.label_smoothing "
      "ids.gcn.held_back split.withheld"
    ).split(),
  ),
  (
    "above 0 and at most 1",
    lambda value: 0 < value <= 1,
    ("decoding.memory_share", "data.share"),
  ),
  ("-1 (all) or at least 1", lambda value: value == -1 or value >= 1, ("ids.devices",)),
  (
    "from 0 to 1",
    lambda value: 0 <= value <= 1,
    ("input.user_dropout", "model.mix"),
  ),
  (
    "from 0 to 2**31 - 1",
    lambda value: 0 <= value < 2**31,
    ("seed", "data.shop.seed"),
  ),
  (
    "ascending numbers from 1",
    lambda value: all(a < b for a, b in zip((0, *value), value)),
    ("train.history_buckets",),
  ),
)


def check(config: ml_collections.ConfigDict, *, trained: bool = False) -> None:
  """Refuses names that nothing has and numbers that mean nothing.

  A field that the configuration does not have is not missed.

  Args:
    config: of a run.
    trained: whether it is one already, so that it can be asked by what it remembers.

  Raises:
    UserError: names the field, its value and what it may be.
  """
  for field, names in CHOICES.items():
    value = _value(config, field)
    if value is not None and value not in names:
      raise UserError(f"config.{field} is {value!r}; choose one of {', '.join(names)}")
  kind = _value(config, "decoding.kind")
  if kind in latent_decoding.DECODINGS and not trained:
    raise UserError(
      f"config.decoding.kind {kind} asks what a trained run remembers; train with "
      f"beam, then evaluate with --decoding={kind}"
    )
  for name in config.get("baselines", ()):
    if name not in registry.BASELINES:
      raise UserError(
        f"config.baselines names {name!r}; choose from {', '.join(registry.BASELINES)}"
      )
  if config.get("system") == "lightlm":
    lightlm.check(config)
  elif _value(config, "input.order") == "none":
    raise UserError(
      f"config.input.order is 'none', and {config.system} reads a history as it came; "
      "lightlm alone can read it as a set"
    )
  if config.get("system") in sasrec.NAMES:
    next_item.check(config)
  if config.get("system") == item_decoder.NAME:
    item_decoder.check(config)
  if config.get("system") == lite_llm4rec.NAME:
    lite_llm4rec.check(config)
  if config.get("system") == lite_llm4rec_beam.NAME:
    lite_llm4rec_beam.check(config)
  if config.get("system") in registry.READ_TEXTS:
    _check_installed("config.system", config.system, ("tokenizers",), "text")
  if _value(config, "train.feed") == "stream":
    _check_stream(config)
  for wanted, holds, fields in RULES:
    for field in fields:
      value = _value(config, field)
      try:
        fits = value is None or holds(value)
      except TypeError:  # of a config.json that somebody else wrote
        fits = False
      if not fits:
        raise UserError(f"config.{field} is {value!r}; it must be {wanted}")


def _check_stream(config: ml_collections.ConfigDict) -> None:
  """Rows on disk are of one width, and hold their targets."""
  t, history = config.train, config.input.history
  one_width = config.system in registry.LEARN_SEQUENCES
  one_width |= lightlm.examples_a_row(config) > 1
  one_width |= all(width >= history for width in t.history_buckets)
  if not history or not one_width:
    raise UserError(
      "config.train.feed is 'stream', which wants a history and rows of one width; set "
      "config.train.pack=4 (lightlm), or config.train.history_buckets=()"
    )
  _check_installed("config.train.feed", "stream", ("grain", "array_record"), "stream")


def _check_installed(field: str, value: str, modules: Sequence[str], extra: str):
  for module in modules:
    if importlib.util.find_spec(module) is None:
      raise UserError(
        f"{field} is {value!r}, and there is no {module}; install with "
        f"pip install -c constraints.txt -e '.[{extra}]'"
      )


def check_batches(
  config: ml_collections.ConfigDict,
  devices: int,
  fields: Sequence[str] = ("train.batch_size", "train.eval_batch_size"),
) -> None:
  """Refuses batches that the mesh's axis `data` of so many devices cannot share."""
  for field in fields:
    pack = lightlm.examples_a_row(config) if field == "train.batch_size" else 1
    if _value(config, field) % (devices * pack):
      rows = f" in rows of config.train.pack {pack} examples" if pack > 1 else ""
      raise UserError(
        f"config.{field} {_value(config, field)}{rows} does not divide over the "
        f"{devices} devices of mesh.data; choose a multiple of {devices * pack}"
      )


def _value(config: ml_collections.ConfigDict, field: str):
  for name in field.split("."):
    config = None if config is None else config.get(name)
  return config
