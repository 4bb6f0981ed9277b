"""Builds training workloads: presets of configs/toys.py on synthetic logs or on Toys.

The items of a synthetic log follow Zipf's law and its ids are random; neither changes
the cost of a step. Its codes are as long as the paper's, 4 tokens per item and 5 per
user, so that a source with the paper's prompt has 20 tokens and the target 6.
"""

import functools
from typing import Any, NamedTuple

import numpy as np

from lightlm_jax import config as config_lib
from lightlm_jax.benchmarks import catalogue
from lightlm_jax.config import LightLMConfig
from lightlm_jax.data import datasets, splits
from lightlm_jax.data.interactions import Interactions
from lightlm_jax.ids import build as ids_build
from lightlm_jax.ids import codes as codes_lib
from lightlm_jax.ids.codes import CodeBook
from lightlm_jax.runtime import cache
from lightlm_jax.systems import token_sequences as text

PRESETS = ("paper", "small", "default", "tiny")  # presets of configs/toys.py
VOCAB_SIZE = 500  # of the model, including prompt and special tokens
ITEM_TOKENS, USER_TOKENS = 4, 5
NUM_ITEMS = 12_000  # as Toys
MEAN_LENGTH, MIN_LENGTH = 9, 5  # interactions per user, as in Toys


class Source(NamedTuple):
  """A log of training interactions with the ids of its users and items."""

  name: str
  log: Interactions
  book: CodeBook


def config(preset: str, **fields: Any) -> LightLMConfig:
  """Loads a preset of configs/toys.py with `fields` such as `model__d_model=64`.

  Packing is turned off if the batch size does not divide into packed rows.
  """
  name = "toys" if preset == "default" else f"toys:{preset}"
  overrides = {field.replace("__", "."): value for field, value in fields.items()}
  loaded = config_lib.load(name, overrides=overrides)
  if config_lib.value_of(loaded, "train.batch_size") % loaded.examples_a_row:
    loaded = config_lib.replace(loaded, {"train.pack": 1})
  assert isinstance(loaded, LightLMConfig)
  return loaded


@functools.lru_cache(maxsize=2)
def made(interactions: int, *, prompt: bool, seed: int = 0) -> Source:
  """Builds a synthetic log with random codes.

  Args:
    interactions: approximate number of interactions; there is at least one user.
    prompt: True if the vocabulary has the words of the paper's prompt.
    seed: seed of the log and the codes.
  """
  rng = np.random.default_rng(seed)
  users = max(1, round(interactions / MEAN_LENGTH))
  beyond = MEAN_LENGTH - MIN_LENGTH
  length_U = MIN_LENGTH - 1 + rng.geometric(1 / (1 + beyond), users)
  offset_U1 = np.concatenate([[0], np.cumsum(length_U)])
  log = Interactions(
    offset_U1=offset_U1,
    item_E=zipf(rng, NUM_ITEMS, offset_U1[-1]),
    user_ids=np.arange(users).astype(np.str_),
    item_ids=np.arange(NUM_ITEMS).astype(np.str_),
  )
  tokens = VOCAB_SIZE - text.first_code_token(prompt)
  book = codes_lib.code_book(
    catalogue.random_codes(NUM_ITEMS, tokens, ITEM_TOKENS),
    rng.integers(tokens, size=(users, USER_TOKENS), dtype=np.int32),
    {},
  )
  return Source(f"made, {interactions:,}", log, book)


def toys(config: LightLMConfig) -> tuple[splits.Split, CodeBook]:
  """Returns the split of Toys, and ids as the configuration defines them.

  Raises:
    UserError: the log of Toys is missing.
  """
  split = splits.of_run(config, datasets.load(config, fetch=False).log)
  folder = cache.cache_root() / "codes"
  return split, ids_build.code_book(config.ids, split.train, config.seed, folder)


def toys_source(config: LightLMConfig) -> Source:
  """Returns the training interactions of Toys, with ids as `config` defines them.

  Raises:
    UserError: the log of Toys is missing.
  """
  split, book = toys(config)
  return Source("Toys", split.train, book)


def zipf(rng: np.random.Generator, values: int, size: int) -> np.ndarray:
  """Draws [size] int32 from 0 … values - 1 by Zipf's law, ranked in random order."""
  share_V = 1 / np.arange(1, values + 1)
  drawn = rng.choice(values, size, p=share_V / share_V.sum())
  return rng.permutation(values).astype(np.int32)[drawn]
