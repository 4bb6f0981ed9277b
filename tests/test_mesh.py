"""How a run is divided over devices changes nothing but its speed."""

import json

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
import numpy as np
import pytest

from lightlm_jax.runtime import mesh as mesh_lib
from lightlm_jax.runtime.errors import UserError

# data, model, whether devices along `data` share what the optimiser keeps.
FAST = ((1, 1, False), (2, 4, True))
SLOW = ((1, 1, False), (8, 1, False), (8, 1, True), (4, 2, False), (2, 4, False))

# Trains a tiny model with dropout for three steps on every mesh; prints the losses,
# the shapes that the devices hold, and what too large a mesh is told.
TRAIN = """
import json
import sys

import jax
import numpy as np

from lightlm_jax import config as config_lib
from lightlm_jax.data import interactions, texts
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.ids import codes
from lightlm_jax.systems import registry
from lightlm_jax.runtime import mesh
from lightlm_jax.training import loop, state, step

name = sys.argv[2]
file = {"lightlm": "demo", "lite_llm4rec_beam": "lite_llm4rec"}.get(name, name)
of_text = {"model.num_kv_heads": 4, "model.item_dropout_rate": 0.3}
config = config_lib.load(file, "tiny", {
  "system": name,
  # Two packed histories share a row.
  "input.history": 5 if name == "lightlm" else 13,
  **(of_text if file == "lite_llm4rec" else {}),
  "model.d_model": 16,
  "model.num_heads": 4,
  **({"model.d_kv": 2} if name == "lightlm" else {}),
  "model.dropout_rate": 0.3,
  "train.batch_size": 8,
  "train.warmup_steps": 1,
  "train.learning_rate": 0.05,
})
rng = np.random.default_rng(0)
log = interactions.from_sequences(
  (f"user {u}", [f"item {i}" for i in rng.integers(20, size=7)]) for u in range(12)
)
item, user = np.arange(log.num_items), np.arange(log.num_users)
book = codes.code_book(
  np.stack([item // 5, 5 + item % 5], axis=1), 10 + user[:, None], {}
)
words = np.stack([item % 7, 7 + item // 7], axis=1).astype(np.int32)
built = registry.build(name, config, log, book, texts.Tokens(words, 12, 0, 0))
tx = state.optimiser(config)
system = built.system
feed, plan = loop.make_feed(built, log, config)
losses, held_by_one = [], []
for data, model, shard_optimiser in json.loads(sys.argv[1]):
  devices = mesh.make(data, model)
  abstract = state.abstract(system.init, tx, devices, shard_optimiser=shard_optimiser)
  current = state.create(system.init, tx, 3, abstract)
  steps = step.make_steps(system, tx, plan, devices, 3, abstract)
  held = jax.device_put(feed, mesh.replicated(devices))
  three = step.dispatch(plan, 0, 3, 3)
  stop_requested_D = step.stop_flags(False, devices)
  current, report = steps(current, built.tables, held, three, stop_requested_D)
  losses.append(report.metrics.loss.tolist())
  held_by_one.append({})
  for part, tree in (("params", current.params), ("moments", current.opt_state)):
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
      path = part + jax.tree_util.keystr(path, simple=True, separator="/")
      held_by_one[-1][path] = list(leaf.addressable_shards[0].data.shape)
try:
  refusal = mesh.make(3, 3)
except UserError as error:
  refusal = str(error)
all_data = dict(mesh.make(-1, 2).shape)
print(json.dumps([losses, held_by_one, refusal, all_data]))
"""


@pytest.mark.parametrize("meshes", [FAST, pytest.param(SLOW, marks=pytest.mark.slow)])
def test_every_mesh_trains_the_same_model(eight_devices, meshes):
  """Three steps with dropout, so that its bits are the same too."""
  losses, held_by_one, _, _ = eight_devices(TRAIN, json.dumps(meshes), "lightlm")
  for mesh, on_mesh in zip(meshes[1:], losses[1:], strict=True):
    np.testing.assert_allclose(on_mesh, losses[0], rtol=1e-5, err_msg=str(mesh))
  # The steps moved the weights, or the later losses would prove little.
  assert len(set(losses[0])) == 3
  for (data, model, shard_optimiser), held in zip(meshes, held_by_one, strict=True):
    query = "encoder/query/kernel/kernel"
    # Heads are divided over `model`, copied over `data`; moments over both if wanted.
    assert held[f"params{query}"] == [1, 16, 8 // model]
    (mu,) = (path for path in held if path.endswith(f"mu/{query}"))
    assert held[mu] == [1, 16 // (data if shard_optimiser else 1), 8 // model]
    tokens, width = held_by_one[0]["paramsembedding"]
    assert tokens % 4 == 0, "or nobody shares the table's rows"
    assert held["paramsembedding"] == [tokens // model, width]


@pytest.mark.parametrize(
  "name",
  [
    "sasrec",
    pytest.param("lite_llm4rec", marks=pytest.mark.slow),
    pytest.param("lite_llm4rec_beam", marks=pytest.mark.slow),
  ],
)
def test_packed_histories_train_the_same_model_on_a_mesh(eight_devices, name):
  meshes = ((1, 1, False), (8, 1, True))
  losses, *_ = eight_devices(TRAIN, json.dumps(meshes), name)
  np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
  assert len(set(losses[0])) == 3


def test_a_mesh_that_does_not_fit_names_the_three_numbers(eight_devices):
  _, _, refusal, all_data = eight_devices(TRAIN, json.dumps(FAST), "lightlm")
  for part in ("mesh.data 3", "mesh.model 3", "8 devices"):
    assert part in refusal
  assert all_data == {"data": 4, "model": 2}


# Asks a tiny model on one device and on eight, by both forms of the trie's levels, with
# and without a shared mask; prints the items, and what the devices told each other.
ASK = """
import json
import re

import jax
import numpy as np

from lightlm_jax import config as config_lib
from lightlm_jax.data.batch import Batch
from lightlm_jax.decoding import allowed as allowed_lib
from lightlm_jax.decoding import candidates
from lightlm_jax.ids import codes
from lightlm_jax.systems import lightlm
from lightlm_jax.runtime import mesh as mesh_lib

candidates.FEW = 1.0  # the logits of lists are computed alone
# So many children that lists go through the blocks of top_k, and masks through words.
B, I, H, C = 16, 2000, 5, 200
rng = np.random.default_rng(0)
item = np.arange(I)
# Either numbers anew below each parent, or a last token that names its item.
books = [
  codes.code_book(
    np.stack([item // C, 10 + last], axis=1), users + np.arange(B)[:, None], {}
  )
  for last, users in ((item % C, 10 + C), (item, 10 + I))
]
open_I = rng.random(I) < 0.7
excluded_BE = np.full((B, 8), I, np.int32)
for row in excluded_BE:
  row[:3] = np.sort(rng.choice(np.flatnonzero(open_I), 3, replace=False))
prefix_MI1 = allowed_lib.shared_masks(open_I[None], item)
batch = Batch(
  user_B=np.arange(B, dtype=np.int32),
  history_BH=rng.integers(I, size=(B, H), dtype=np.int32),
  segment_BH=np.ones((B, H), np.int32),
  target_B=np.zeros(B, np.int32),
  weight_B=np.ones(B, np.float32),
)
found = []
for trie_bytes, prefix, repeats in (
  (2**20, allowed_lib.no_shared_mask(), False), (0, prefix_MI1, True)
):
  config = config_lib.load("demo", "tiny", {
    "input.history": H,
    "model.d_model": 16,
    "model.d_kv": 4,
    "decoding.beam_size": 6,
    "decoding.trie_bytes": trie_bytes,
    "model.repeats": repeats,
    "train.loss": "children" if repeats else "vocabulary",
  })
  system, tables, *_ = lightlm.build(config, books[repeats])
  forms = [level.mask_NW is not None for level in tables.trie.levels]
  assert forms == [False, trie_bytes > 0]
  params = jax.jit(system.init)(jax.random.key(0, impl="rbg"))
  for devices in (1, 8):
    mesh = mesh_lib.make(devices, 1)
    rows = jax.NamedSharding(mesh, jax.P("data"))
    everywhere = mesh_lib.replicated(mesh)
    allowed = allowed_lib.Allowed(
      jax.device_put(prefix, everywhere),
      *jax.device_put((np.zeros(B, np.int32), excluded_BE), rows),
    )
    held = jax.device_put((params, tables), everywhere)
    ask = jax.jit(system.recommend, static_argnames="k")
    arguments = (*held, jax.device_put(batch, rows), allowed)
    program = ask.lower(*arguments, k=6).compile()
    told = re.findall("all-gather|all-reduce|all-to-all|permute", program.as_text())
    best = program(*arguments)
    found.append([best.items_BK.tolist(), sorted(set(told))])
print(json.dumps(found))
"""


def test_users_are_searched_on_their_own_device(eight_devices):
  """The same lists on eight devices as on one, and nothing sent between them."""
  found = eight_devices(ASK)
  for (on_one, _), (on_eight, told) in zip(found[::2], found[1::2], strict=True):
    assert on_eight == on_one
    assert told == []
  assert found[0][0] != found[2][0], "the mask did not matter"


@pytest.mark.parametrize(("data", "model"), [(0, 1), (1, 0), (-2, 1)])
def test_a_mesh_of_nothing_is_refused(data, model):
  with pytest.raises(UserError, match=rf"mesh.data {data} × mesh.model {model}"):
    mesh_lib.make(data, model)


def test_the_optimiser_follows_its_parameters():
  mesh = mesh_lib.make(1, 1)
  params = {
    "decoder": {
      "cross_query": {"kernel": {"kernel": jnp.zeros((2, 4, 8))}},
      "self_output": {"kernel": jnp.zeros((2, 8, 4))},
      "feed_forward": {"inner": {"kernel": jnp.zeros((2, 4, 3))}},
    },
    "embedding": jnp.zeros((5, 4)),
  }
  tree = {"params": params, "opt_state": {"mu": params, "count": jnp.zeros(())}}
  placed = mesh_lib.shardings(tree, mesh)
  spec = jax.tree.map(lambda sharding: sharding.spec, placed)
  expected = {
    "decoder": {
      "cross_query": {"kernel": {"kernel": PartitionSpec(None, None, "model")}},
      "self_output": {"kernel": PartitionSpec(None, "model")},
      "feed_forward": {"inner": {"kernel": PartitionSpec()}},
    },
    "embedding": PartitionSpec("model"),
  }
  assert spec["params"] == spec["opt_state"]["mu"] == expected
  assert spec["opt_state"]["count"] == PartitionSpec()
