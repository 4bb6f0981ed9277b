"""Calibrates a trained system: fits a few of its parameters to held-out requests.

A network that has seen its examples many times is too sure of its predictions. So
temperatures divide its logits (Guo et al. 2017, "On Calibration of Modern Neural
Networks"), one for each level of an id. The bias of repeats (models/repeats.py) is
fitted with them, because training saw it beside a network that knew the targets. The
network itself stays as it is.
"""

from collections.abc import Iterator
import hashlib
import json
import logging
from typing import Any, NamedTuple

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
from lightlm_jax.runtime import processes
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.storage import atomic, json_text
from lightlm_jax.systems.base import Built, Calibrates

logger = logging.getLogger(__name__)

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
  """Fits the parameters of `Calibrates.calibration` to minimise the mean -log p.

  A normal prior of standard deviation 1 around the values before the fit holds those
  that few requests inform. Adam, `STEPS` steps, with a rate that falls to 0.

  Args:
    built, params: the trained system; the parameters are on the mesh.
    requests: N > 0 requests that were not trained on.
    batch_size: requests a step, a multiple of the mesh's "data" axis.
    mesh: the devices, which share each batch.
    seed: of the order of the requests.

  Returns:
    The fitted parameters by name, float32 on the host.

  Raises:
    UserError: a fitted parameter is not finite.
  """
  system: Any = built.system
  assert isinstance(system, Calibrates)
  copied, rows = mesh_lib.replicated(mesh), mesh_lib.by_rows(mesh)
  params, built = batched_inference.prepared(built, params, mesh)
  tx = optax.adam(optax.cosine_decay_schedule(RATE, STEPS))
  start = jax.jit(system.calibration, out_shardings=copied)(params)
  fitted, opt_state = start, jax.jit(tx.init, out_shardings=copied)(start)

  def loss(fitted, start, params, tables, batch):
    nll_B = system.nll(params | fitted, tables, batch)
    likelihood = (nll_B * batch.weight_B).sum() / batch.weight_B.sum()
    moved = jax.tree.map(lambda x, y: ((x - y) ** 2).sum() / 2, fitted, start)
    return likelihood + sum(jax.tree.leaves(moved)) / len(requests)

  def step(fitted, opt_state, *arguments):
    updates, opt_state = tx.update(jax.grad(loss)(fitted, *arguments), opt_state)
    return optax.apply_updates(fitted, updates), opt_state

  step = jax.jit(step, out_shardings=copied)
  for batch in _batches(built, requests, batch_size, seed):
    batch = mesh_lib.put(batch, rows)
    fitted, opt_state = step(fitted, opt_state, start, params, built.tables, batch)
    # More dispatches with collectives in flight deadlock CPU devices.
    jax.block_until_ready(fitted)
  found = jax.device_get(fitted)
  if not all(np.isfinite(value).all() for value in found.values()):
    raise UserError(
      "the calibration is not finite: the parameters have diverged; lower "
      "config.train.learning_rate, or set config.model.calibrated=False"
    )
  return found


class Of(NamedTuple):
  """The parameters that a calibration is of."""

  step: int
  sha256: str | None = None  # of their checkpoint; None = unknown


def write(
  workdir: epath.Path, of: Of, gain: float, fitted: dict[str, np.ndarray]
) -> None:
  """Writes calibration.json, the result of `calibrate`.

  `gain` is what it adds to the validation's NDCG@10; empty `fitted`: it is not used.
  """
  found = {name: np.asarray(value).tolist() for name, value in fitted.items()}
  with processes.fail_together(f"write {FILE}"):
    about = {"step": of.step, "parameters_sha256": of.sha256, "gain": gain}
    about |= {"sha256": _digest(found), "fitted": found}
    atomic.write_json(workdir / FILE, about)


def apply(
  workdir: epath.Path, of: Of, mesh: Mesh, built: Built, params: Any
) -> tuple[Any, str | None]:
  """Returns parameters with what `write` wrote for them, and its SHA-256 if used.

  Raises:
    UserError: the file is damaged or of another run.
  """
  path = workdir / FILE
  advice = "give a copy of it, or remove it and results.json and `train` writes it anew"
  content: dict[str, Any] = {"step": None}
  if path.exists():
    content = json_text.read(path, advice, fields=("step", "fitted"))
  if content["step"] != of.step:
    logger.warning(
      f"{workdir} has no calibration of step {of.step:,}, so that probabilities are as "
      "trained; let `train` come to its end"
    )
    return params, None
  if len({content.get("parameters_sha256"), of.sha256} - {None}) > 1:
    raise UserError(f"{path} is of other parameters than the checkpoint; {advice}")
  if content["fitted"] == {}:
    return params, None
  try:
    found = {n: np.asarray(x, np.float32) for n, x in content["fitted"].items()}
  except (AttributeError, TypeError, ValueError):
    found = {}
  assert isinstance(built.system, Calibrates)
  before = jax.eval_shape(built.system.calibration, params)
  if {n: x.shape for n, x in found.items()} != {n: x.shape for n, x in before.items()}:
    raise UserError(f"{path} holds other parameters than this run has; {advice}")
  sha256 = _digest(content["fitted"])
  if content.get("sha256", sha256) != sha256:
    raise UserError(f"{path} is not what was written: its SHA-256 differs; {advice}")
  return params | mesh_lib.put(found, mesh_lib.replicated(mesh)), sha256


def _digest(fitted: dict[str, Any]) -> str:
  return hashlib.sha256(json.dumps(fitted, sort_keys=True).encode()).hexdigest()


def _batches(
  built: Built, requests: Requests, batch_size: int, seed: int
) -> Iterator[Batch]:
  """Yields `STEPS` batches: all requests in random order, again and again.

  All batches are full, unless there are fewer requests.
  """
  rng = np.random.default_rng(seed)
  longest = int(requests.length_N.max())
  width = batch_lib.history_width(longest, built.system.max_history)
  number = min(batch_size, len(requests))
  order = np.zeros(0, np.int64)
  for _ in range(STEPS):
    if len(order) < number:
      order = np.append(order, rng.permutation(len(requests)))
    index, order = order[:number], order[number:]
    yield batch_lib.request_batch(requests, index, batch_size=batch_size, width=width)
