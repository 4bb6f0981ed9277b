"""Calibrates a trained system: fits a few of its parameters to held-out requests.

A network that has seen its examples many times is too sure of what it predicts, and of
seen items it knows only how often they were bought again in training. So temperatures
divide its logits (Guo et al. 2017, "On Calibration of Modern Neural Networks"), one for
each level of an id, and the bias of repeats (models/repeats.py) goes on learning. The
network itself stays as it is.
"""

from collections.abc import Iterator
from typing import Any

from etils import epath
import jax
from jax.sharding import Mesh
import numpy as np
import optax

from lightlm_jax.data import batch as batch_lib
from lightlm_jax.data.batch import Batch
from lightlm_jax.data.splits import Requests
from lightlm_jax.inference import batched_inference
from lightlm_jax.runtime import mesh as mesh_lib
from lightlm_jax.storage import atomic, json_text
from lightlm_jax.systems.base import Built, Calibrates

FILE = "calibration.json"
STEPS, RATE = 400, 0.05


def calibrate(
  built: Built,
  params: Any,
  requests: Requests,
  *,
  batch_size: int,
  mesh: Mesh,
  seed: int,
) -> dict[str, np.ndarray]:
  """Fits what `Calibrates.calibration` names to minimise the targets' mean -log p.

  A normal prior of standard deviation 1 around the values before keeps those in place
  that few requests tell about. Adam, `STEPS` steps, with a rate that falls to 0.

  Args:
    built, params: the trained system; the parameters are on the mesh.
    requests: N > 0 requests that were not trained on.
    batch_size: requests a step, a multiple of the mesh's "data" axis.
    mesh: the devices, which share each batch.
    seed: of the order of the requests.

  Returns:
    The fitted parameters by name, float32 on the host.
  """
  system: Any = built.system
  assert isinstance(system, Calibrates)
  copied, rows = mesh_lib.replicated(mesh), mesh_lib.by_rows(mesh)
  params, built = batched_inference.prepared(built, params, mesh)
  start = mesh_lib.put(jax.device_get(system.calibration(params)), copied)
  tx = optax.adam(optax.cosine_decay_schedule(RATE, STEPS))
  fitted, opt_state = start, tx.init(start)
  step = _step(system, tx, 1 / len(requests))
  for batch in _batches(built, requests, batch_size, seed):
    batch = mesh_lib.put(batch, rows)
    fitted, opt_state = step(fitted, opt_state, start, params, built.tables, batch)
  return jax.device_get(fitted)


def write(workdir: epath.Path, step: int, fitted: dict[str, np.ndarray]) -> None:
  """Writes calibration.json: the result of `calibrate` for the parameters of a step."""
  found = {name: np.asarray(value).tolist() for name, value in fitted.items()}
  atomic.write_json(workdir / FILE, {"step": step, "fitted": found})


def read(workdir: epath.Path, step: int) -> dict[str, np.ndarray]:
  """Returns what `write` wrote for the parameters of this step; {} if it did not."""
  path = workdir / FILE
  if not path.exists():
    return {}
  advice = "restore it, or remove it and results.json and train on"
  content = json_text.read(path, advice, fields=("step", "fitted"))
  if content["step"] != step:
    return {}
  return {n: np.asarray(value, np.float32) for n, value in content["fitted"].items()}


def _step(system: Calibrates, tx: optax.GradientTransformation, prior: float):
  def loss(fitted, start, params, tables, batch):
    nll_B = system.nll(params | fitted, tables, batch)
    likelihood = (nll_B * batch.weight_B).sum() / batch.weight_B.sum()
    moved = jax.tree.map(lambda x, y: ((x - y) ** 2).sum() / 2, fitted, start)
    return likelihood + prior * sum(jax.tree.leaves(moved))

  @jax.jit
  def step(fitted, opt_state, start, params, tables, batch):
    gradient = jax.grad(loss)(fitted, start, params, tables, batch)
    updates, opt_state = tx.update(gradient, opt_state)
    return optax.apply_updates(fitted, updates), opt_state

  return step


def _batches(
  built: Built, requests: Requests, batch_size: int, seed: int
) -> Iterator[Batch]:
  """Yields `STEPS` batches: all requests in random order, again and again."""
  rng = np.random.default_rng(seed)
  longest = int(requests.length_N.max())
  width = batch_lib.history_width(longest, built.system.max_history)
  order = np.zeros(0, np.int64)
  for _ in range(STEPS):
    if not len(order):
      order = rng.permutation(len(requests))
    index, order = order[:batch_size], order[batch_size:]
    yield batch_lib.request_batch(requests, index, batch_size=batch_size, width=width)
