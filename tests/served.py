"""Every system on a small log, untrained, for the tests of serving and of artefacts."""

import functools
import re

import jax
import numpy as np

from lightlm_jax import config as config_lib
from lightlm_jax.data import interactions, texts
from lightlm_jax.ids import codes
from lightlm_jax.runtime import mesh as mesh_lib
from lightlm_jax.systems import base, ensemble, registry

USERS, ITEMS = 30, 40
# Its own config and preset, or else the demo's.
CONFIGS = ("item_decoder", "lite_llm4rec", "bpr_mf", "sasrec", "bsarec")
NAMES = config_lib.SYSTEMS
MEMBERS = ("lightlm", "sasrec")  # of the ensemble
FAST = ("lightlm", "sasrec", "item_knn", "bpr_mf")


@functools.cache
def log():
  """Users of 1 to 12 items, some of them twice."""
  rng = np.random.default_rng(7)
  return interactions.from_sequences(
    (f"u{u}", [f"i{i}" for i in rng.integers(ITEMS, size=1 + u % 12)])
    for u in range(USERS)
  )


def book(train):
  """Ids of one to three tokens, none the beginning of another."""
  code_I = [(i % 5, 5 + i // 5) for i in range(train.num_items)]
  code_I[3], code_I[4] = (20,), (2, 4, 21)
  users_UL = np.arange(train.num_users)[:, None] + 22
  return codes.code_book(codes.stack_codes(code_I), users_UL, {})


@functools.cache
def built_only(name, **overrides):
  """The config and the system, without parameters."""
  if name == "ensemble":
    members = [built_only(member)[1] for member in MEMBERS]
    built = ensemble.build(members)
    return config_lib.load(name), built._replace(tables=jax.device_put(built.tables))
  own = name.removesuffix("_beam")
  preset = "tiny" if own in (*CONFIGS, "lightlm") else None
  file = own if own in CONFIGS else "demo"
  fields = {"system": name} | {
    field.replace("__", "."): value for field, value in overrides.items()
  }
  base = config_lib.load(file, preset or "tiny", {"system": name})
  if "input.history" in config_lib.to_flat(base):
    fields = {"input.history": 8} | fields
  if own == "lightlm":
    fields |= {"model.num_layers": 1, "model.num_decoder_layers": 1}
  if own == "lite_llm4rec":
    fields["input.text_tokens"] = 6
  config = config_lib.load(file, preset or "tiny", fields)
  train = log()
  tokens = None
  if isinstance(config, config_lib.ReadsTexts):
    rng = np.random.default_rng(3)
    tokens = texts.Tokens(rng.integers(50, size=(train.num_items, 4)), 50, 0, 0)
  wanted = book(train) if isinstance(config, config_lib.WritesIds) else None
  built = registry.build(name, config, train, wanted, tokens)
  return config, built._replace(tables=jax.device_put(built.tables))


@functools.cache
def build(name, **overrides):
  """The config, the system and its parameters; logits that are well apart."""
  config, built = built_only(name, **overrides)
  if name == "ensemble":
    return config, built, tuple(build(member)[2] for member in MEMBERS)
  if isinstance(built.system, base.Fitted):
    return config, built, built.system.fit(log())
  params = jax.jit(built.system.init)(jax.random.key(0))
  return config, built, jax.tree.map(lambda x: x * (2 if x.ndim > 1 else 1), params)


def one_device():
  return mesh_lib.make(1, 1)


def loader(folder):
  """The code of the loader that the README of an artefact shows."""
  (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.S)
  return code
