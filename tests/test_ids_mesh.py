"""GCI's vectors and clusters are the same on any number of devices, which share them.

Eight devices are made of one CPU, in one process for all the tests.
"""

import jax
import numpy as np
import pytest

from lightlm_jax.ids import build
from lightlm_jax.runtime.errors import UserError

SCRIPT = """
import json
import pathlib
import sys

import jax
from jax.sharding import AxisType
import numpy as np

from lightlm_jax.config import schema
from lightlm_jax.data import interactions
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.ids import build, gcn, gcn_training, lloyd, quantise

# So small that a few hundred arcs and points make several stacks a device.
gcn.STACK, lloyd.STACK = 64, 16
found = {}


def make_mesh(*shape):
  names = ("share", "too")[: len(shape)]
  types = (AxisType.Auto,) * len(shape)
  devices = jax.local_devices()[: int(np.prod(shape))]
  return jax.make_mesh(shape, names, axis_types=types, devices=devices)


def difference(tree, wanted):
  \"\"\"The largest, relative to the largest entry; of the worst array.\"\"\"
  pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(wanted), strict=True)
  pairs = [(np.asarray(a), np.asarray(b)) for a, b in pairs]
  return float(max(np.abs(a - b).max() / np.abs(b).max() for a, b in pairs))


def held(array):
  \"\"\"An array's shape, and that of what each device has.\"\"\"
  return [array.shape, [shard.data.shape for shard in array.addressable_shards]]


# build._mesh.

mesh = build._mesh(-1)
found["sizes"] = [build._mesh(number).size for number in (-1, 2, 8)]
try:
  build._mesh(9)
except UserError as error:
  found["refusal"] = str(error)

# The vectors, by batches that divide over 8 devices and by some that do not.

rng = np.random.default_rng(0)
log = interactions.from_sequences(
  (f"user {u}", [f"item {i}" for i in rng.integers(40, size=9)]) for u in range(60)
)
put, divided = gcn_training._put, []


def watched(array, mesh, **options):
  placed = put(array, mesh, **options)
  if options.get("divided"):
    divided.append(held(placed))
  return placed


for weighted, batch in ((False, 64), (True, 63)):
  options = dict(dim=8, layers=2, epochs=3, batch_size=batch, weighted=weighted)
  wanted = gcn_training.embeddings(log, schema.Gcn(**options), seed=0)
  gcn_training._put = watched
  tables = gcn_training.embeddings(log, schema.Gcn(**options), seed=0, mesh=mesh)
  gcn_training._put = put
  found[f"vectors, weighted={weighted}"] = difference(tables, wanted)
found["arcs"] = divided

# One propagation and its gradient.

user_E, item_E = gcn.distinct_edges(log)
graph = gcn.bipartite(user_E, item_E, log.num_users, log.num_items)
N = log.num_users + log.num_items
params = {
  "start": rng.normal(size=(N, 8)).astype(np.float32),
  "matrix": rng.normal(size=(2, 8, 8)).astype(np.float32) / 3,
}
weight_ND = rng.normal(size=(N, 8)).astype(np.float32)


@jax.jit(static_argnames="mesh")
def propagate(params, graph, mesh):
  def loss(params):
    node_ND = gcn.propagate(params, graph, 2, mesh)
    return (weight_ND * node_ND).sum(), node_ND

  (_, node_ND), grads = jax.value_and_grad(loss, has_aux=True)(params)
  return node_ND, grads


def on(mesh):
  stacked = gcn.stacked(graph, 1 if mesh is None else mesh.size)
  arcs = jax.tree.map(lambda a: gcn_training._put(a, mesh, divided=a.ndim > 1), stacked)
  everywhere = jax.tree.map(lambda a: gcn_training._put(a, mesh), params)
  return propagate(everywhere, arcs, mesh)


wanted = on(None)
for name, other in (("8", mesh), ("4 times 2", make_mesh(4, 2)), ("1", make_mesh(1))):
  found[f"propagation on {name}"] = difference(on(other), wanted)

# The clusters.

value_ND = (rng.normal(size=(301, 6)) @ rng.normal(size=(6, 6))).astype(np.float32)
iterate, points = lloyd._iterate, []


def watched_iterate(value_SRD, *rest, **options):
  points.append(held(value_SRD))
  return iterate(value_SRD, *rest, **options)


for kind, quantiser in quantise.QUANTISERS.items():
  alone = quantiser(value_ND, 2, 7, seed=0, mesh=make_mesh(1))
  lloyd._iterate = watched_iterate
  shared = quantiser(value_ND, 2, 7, seed=0, mesh=mesh)
  lloyd._iterate = iterate
  found[kind] = [alone.tolist(), shared.tolist()]
found["points"] = points

# The whole way, by configuration.

del options["weighted"]
config = schema.Ids(
  kind="gci",
  quantiser="residual",
  gci_levels=2,
  centres=7,
  gcn=schema.Gcn(**options),
  devices=-1,
)
folder = pathlib.Path(sys.argv[1])
book = build.code_book(config, log, 0, folder)
items, users = quantise.gci_ids(log, config, seed=0, mesh=mesh)
found["book"] = [book.items_IL.tolist(), book.users_UL.tolist()]
found["ids"] = [items.tolist(), users.tolist()]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(eight_devices, tmp_path_factory):
  return eight_devices(SCRIPT, str(tmp_path_factory.mktemp("books")))


@pytest.mark.parametrize("weighted", [False, True])
def test_vectors_are_those_of_one_device(found, weighted):
  """Within what Adam makes of rounding: it divides a gradient by its own size.

  Twenty-four steps left a few millionths of the largest entry. Batches of another
  size are another training: they move entries by more than the largest.
  """
  assert found[f"vectors, weighted={weighted}"] < 1e-4


@pytest.mark.parametrize("mesh", ["1", "8", "4 times 2"])
def test_propagation_and_its_gradient_are_those_of_one_device(found, mesh):
  assert found[f"propagation on {mesh}"] < 1e-5


def test_every_device_has_its_share_of_the_arcs(found):
  # Weights, senders and receivers; of the graph to train on, then of the whole one;
  # with matrices and without.
  assert len(found["arcs"]) == 12
  for whole, shares in found["arcs"]:
    # Several stacks for each, and no stack of more arcs than memory is meant for.
    assert whole[0] >= 16
    assert whole[1] <= 64
    assert shares == [[whole[0] // 8, *whole[1:]]] * 8


@pytest.mark.parametrize("kind", ["product", "residual"])
def test_clusters_are_those_of_one_device(found, kind):
  alone, shared = found[kind]
  np.testing.assert_array_equal(alone, shared)
  assert (np.shape(shared), set(np.ravel(shared))) == ((301, 2), set(range(7)))


def test_every_device_has_its_share_of_the_points(found):
  # 301 points are 19 stacks of 16; filled up, three for each device.
  widths = [3, 3, 6, 6]
  assert found["points"] == [[[24, 16, D], [[3, 16, D]] * 8] for D in widths]


def test_a_book_by_configuration_is_made_on_all_devices(found):
  assert found["book"] == found["ids"]


def test_a_mesh_of_as_many_devices_as_are_asked_for(found):
  assert found["sizes"] == [8, 2, 8]
  told = "config.ids.devices is {}; this process has {}, -1 takes all of them"
  assert found["refusal"] == told.format(9, 8)
  assert build._mesh(1) is None
  available = len(jax.local_devices())
  assert build._mesh(-1).size == available
  with pytest.raises(UserError, match=told.format(1000, available)):
    build._mesh(1000)
