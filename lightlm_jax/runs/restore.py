"""Restores a run from the folder that `train` wrote."""

from collections.abc import Mapping
import contextlib
import dataclasses
import functools
import hashlib
import json
import logging
from typing import Any

from etils import epath
import jax
import numpy as np

from lightlm_jax import config as config_lib
from lightlm_jax.config import (
  EnsembleConfig,
  LearnedConfig,
  LightLMConfig,
  ReadsTexts,
  RunConfig,
  WritesIds,
)
from lightlm_jax.config.model_groups import WITHOUT_BEAMS
from lightlm_jax.data import datasets, parquet_logs, splits
from lightlm_jax.data import texts as texts_lib
from lightlm_jax.decoding import latent
from lightlm_jax.ids import build as ids_build
from lightlm_jax.ids import codes as codes_lib
from lightlm_jax.ids.codes import CodeBook
from lightlm_jax.inference import batched_inference, state_index
from lightlm_jax.runs import parts
from lightlm_jax.runs import results as results_lib
from lightlm_jax.runs.context import Run, RunContext
from lightlm_jax.runtime import mesh as mesh_lib
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.storage import folder as folder_lib
from lightlm_jax.storage import workdir as workdir_lib
from lightlm_jax.systems import ensemble, registry
from lightlm_jax.systems.base import Fitted, Trainable
from lightlm_jax.training import calibration, checkpoint, loop

logger = logging.getLogger(__name__)

LOG = "log"  # folder of the log's copy in a workdir; see data/parquet_logs.py


def load(
  workdir: epath.PathLike,
  overrides: Mapping[str, Any] | None = None,
  *,
  strict: bool = False,
) -> Run:
  """Restores a run with its best parameters, finished or not.

  Args:
    workdir: the folder that `train` or `Recommender.save` wrote.
    overrides: values by dotted field that replace the run's own, such as
      {"decoding.beam_size": 50}; None = none.
    strict: see `restore`.

  Returns:
    The run, on all devices; see runs/context.py.
  """
  workdir, config, _ = read_configs(workdir, overrides or {})
  context = find_context(workdir, config)
  warn_if_changed(workdir, config, "users, items and histories are those of its copy")
  return restore(context, strict=strict)


def _check_decoding(own: RunConfig, overrides: Mapping[str, Any]) -> None:
  """Raises a UserError for decoding options that do not apply to the run's system."""
  flags_of = {"decoding.kind": "--decoding", "decoding.beam_size": "--beam_size"}
  given = [flag for field, flag in flags_of.items() if field in overrides]
  if given and isinstance(own, EnsembleConfig):
    raise UserError(
      f"the members of an ensemble are decoded as they were trained; leave out "
      f"{' and '.join(given)}"
    )
  if not isinstance(own, WritesIds):
    if given:
      raise UserError(
        f"{own.system} scores every item, so there is nothing to decode; leave out "
        f"{' and '.join(given)}"
      )
    return
  kind = overrides.get("decoding.kind", own.decoding.kind)
  if kind in state_index.DECODINGS and own.system != "lightlm":
    raise UserError(f"{own.system} has no states to remember; give --decoding=beam")
  given = [f"--{n}" for n in state_index.OPTIONS if f"decoding.{n}" in overrides]
  if given and kind not in state_index.DECODINGS:
    raise UserError(
      f"{' and '.join(given)} means nothing to decoding {kind}; give --decoding="
      f"{' or '.join(state_index.DECODINGS)} with it"
    )
  if kind in WITHOUT_BEAMS and "decoding.beam_size" in overrides:
    raise UserError(
      f"decoding {kind} scores every item and has no beams; leave out --beam_size, or "
      "give --decoding=beam"
    )


def read_configs(
  workdir: epath.PathLike, overrides: Mapping[str, Any]
) -> tuple[epath.Path, RunConfig, RunConfig]:
  """Returns a run's folder, and its configuration with and without `overrides`.

  Raises:
    UserError: there is no run, or `overrides` do not apply to it.
  """
  workdir, own = workdir_lib.read(workdir)
  _check_decoding(own, overrides)
  config = config_lib.replace(own, overrides)
  config_lib.check(config, trained=True)
  return workdir, config, own


def keep_log(context: RunContext, source: str | None) -> None:
  """Copies the log to the workdir unless it has one or the config makes it anew.

  `source` is the SHA-256 of the log, see `datasets.source`; None = unknown.
  """
  folder, dataset = context.workdir / LOG, context.dataset
  if dataset.tastes is None and not (folder / folder_lib.MANIFEST).exists():
    parquet_logs.write_snapshot(dataset, folder, source)


def dataset_of(
  workdir: epath.Path, config: RunConfig, *, fetch: bool = True
) -> datasets.Dataset:
  """Loads a run's dataset from the copy in its workdir, or else as `config.data` says.

  `fetch`: whether a missing log may be downloaded.
  """
  kept = parquet_logs.read_snapshot(workdir / LOG)
  return datasets.load(config, fetch=fetch) if kept is None else kept


def warn_if_changed(workdir: epath.Path, config: RunConfig, what: str) -> None:
  """Warns if the log in `config.data` is another than the one that a run was begun on.

  `what` says what that means for the command. Silent if either log is not known.
  """
  begun = parquet_logs.snapshot_source(workdir / LOG)
  today = datasets.source(config.data)
  if begun and today and begun != today[1]:
    logger.warning(f"{today[0]} has changed since {workdir} was begun: {what}")


def find_context(
  workdir: epath.Path, config: RunConfig, mesh: jax.sharding.Mesh | None = None
) -> RunContext:
  """Builds the context of a trained run.

  Args:
    workdir: the run's folder.
    config: from `read_configs`.
    mesh: the devices to use, which may differ from those of the training; None = all
      devices, which share each batch.

  Raises:
    UserError: the log is missing, or its split differs from that of the training.
  """
  if mesh is None:
    mesh = mesh_lib.make(-1, 1)
    config_lib.check_batches(config, mesh.shape["data"], ["train.eval_batch_size"])
  dataset = dataset_of(workdir, config)
  split = splits.of_run(config, dataset.log)
  check_split(workdir, config, split)
  return RunContext(config, dataset, split, mesh, workdir)


def check_split(workdir: epath.Path, config: RunConfig, split: splits.Split) -> None:
  """Raises a UserError if a finished run was trained on another split."""
  earlier = results_lib.read_finished(workdir)
  if earlier and earlier["split_sha256"] != split.sha256:
    raise UserError(
      f"{workdir} was begun on another log than {config.data.name} is here (or another "
      "version splits it), and has no copy of its own; put that log back, or train anew"
    )


def restore(context: RunContext, *, strict: bool = False) -> Run:
  """Restores a run: the best parameters or a new fit and, for L2D, the state index.

  If the newest checkpoint is damaged, the one before it is used, with a warning.

  Raises:
    UserError: a checkpoint is damaged, and it is the only one or `strict` is true.
  """
  config, split, mesh = context.config, context.split, context.mesh
  if isinstance(config, EnsembleConfig):
    return _restore_members(context, config, strict)
  book = _read_ids(context) if isinstance(config, WritesIds) else None
  tokens = _read_texts(context) if isinstance(config, ReadsTexts) else None
  built = registry.build(config.system, config, split.train, book, tokens)
  built = built._replace(tables=mesh_lib.put(built.tables, mesh_lib.replicated(mesh)))
  progress = step = sha256 = parameters_sha256 = None
  if isinstance(built.system, Fitted):
    params = built.system.fit(split.train)
  else:
    assert isinstance(built.system, Trainable)
    assert isinstance(config, LearnedConfig)
    own = workdir_lib.read(context.workdir)[1]  # without a command's overrides
    made_of = parts.of_run(own, split, book, tokens)
    with contextlib.closing(_checkpoints(context, made_of, strict)) as saved:
      params, progress = loop.restore_best(built.system, config, mesh, saved)
      step = progress.best_step or saved.latest_step
      assert step is not None
      parameters_sha256 = saved.sha256(step)
      if not saved.damaged:
        parts.check_results(context.workdir, own, parameters_sha256)
    if getattr(config.model, "calibrated", False):
      of = calibration.Of(step, parameters_sha256)
      params, sha256 = calibration.apply(context.workdir, of, mesh, built, params)
  about = {"progress": progress, "step": step, "calibration_sha256": sha256}
  about |= {"parameters_sha256": parameters_sha256}
  run = Run(**vars(context), book=book, built=built, params=params, **about)
  if (
    isinstance(config, LightLMConfig) and config.decoding.kind in state_index.DECODINGS
  ):
    return _with_state_index(run, config)
  return run


def member_folders(config: EnsembleConfig, workdir: epath.Path) -> list[epath.Path]:
  """Returns the folders of the members' copies in an ensemble's workdir."""
  return [workdir / "members" / f"{n:03}" for n in range(len(config.runs))]


def _restore_members(context: RunContext, config: EnsembleConfig, strict: bool) -> Run:
  """Restores an ensemble from the copies of its members."""
  members, mesh = [], context.mesh
  for folder in member_folders(config, context.workdir):
    own = find_context(*read_configs(folder, {})[:2], mesh)
    member = restore(own, strict=strict)
    if member.split.sha256 != context.split.sha256:
      raise UserError(workdir_lib.other_log(context.workdir))
    params, built = batched_inference.prepared(member.built, member.params, mesh)
    members.append(dataclasses.replace(member, built=built, params=params))
  built = ensemble.build([member.built for member in members])
  built = built._replace(tables=mesh_lib.put(built.tables, mesh_lib.replicated(mesh)))
  params = tuple(member.params for member in members)
  about = {"progress": None, "step": None, "members": tuple(members)}
  return Run(**vars(context), book=None, built=built, params=params, **about)


def _with_state_index(run: Run, config: LightLMConfig) -> Run:
  """Returns a run with L2D's index of states, read from its folder or built anew."""
  assert run.book is not None
  split, options = run.split, config.decoding
  # A stored index is used if these fields agree.
  about = {
    "ids_sha256": run.book.sha256,
    "interactions_sha256": ids_build.digest(split.train),
    "parameters": run.step,
    "state": options.state,
    "memory_share": options.memory_share,
    "seed": config.seed,
  }
  make = functools.partial(
    state_index.index_states,
    run.built,
    run.params,
    split.train,
    share=options.memory_share,
    seed=config.seed,
    batch_size=config.train.eval_batch_size,
    mesh=run.mesh,
  )
  found = state_index.cached(run.workdir / "latent", about, make)
  state_ND, item_N = mesh_lib.put(found, mesh_lib.replicated(run.mesh))
  index = latent.build(state_ND, item_N, split.train.num_items, options.prior)
  return dataclasses.replace(run, built=state_index.build(config, run.built, index))


def titles(dataset: datasets.Dataset, config: RunConfig) -> np.ndarray:
  """Returns the items' titles, [I] str; raises UserError if there are none."""
  if dataset.titles is None:
    raise UserError(
      f"nothing is known of the items of {config.data.name} that could be shown; bring "
      "their texts (prepare --items=FILE, items.tsv beside sequences.txt, or the items "
      "of Recommender.fit), or ask without"
    )
  return np.array(dataset.titles, object)


def identity(run: Run) -> dict[str, Any]:
  """Returns all that determines a run's recommendations, as a dict fit for JSON."""
  config = config_lib.to_tree(run.config)
  # The data's folder and the batch size do not influence the recommendations.
  del config["data"]["dir"], config["train"]["eval_batch_size"]
  if run.members:  # not their paths, but what they are
    config["members"] = [identity(member) for member in run.members]
  text = json.dumps(config, sort_keys=True)
  return {
    "system": run.config.system,
    "dataset": run.config.data.name,
    "decoding": run.config.decoding.kind if isinstance(run.config, WritesIds) else None,
    "step": run.step,
    "calibration_sha256": run.calibration_sha256,
    "split_sha256": run.split.sha256,
    "ids_sha256": run.book.sha256 if run.book else None,
    "config_sha256": hashlib.sha256(text.encode()).hexdigest(),
  }


def _checkpoints(
  context: RunContext, made_of: Mapping[str, Any], strict: bool
) -> checkpoint.Checkpoints:
  """Opens a run's checkpoints, and says at which step it stands if it has not ended."""
  workdir = context.workdir
  assert isinstance(context.config, LearnedConfig)
  none_yet = UserError(f"{workdir} holds no checkpoint yet; let `train` come to one")
  if not (workdir / "checkpoints").exists():
    raise none_yet
  with contextlib.ExitStack() as stack:
    saved = checkpoint.Checkpoints(workdir, made_of, read_only=True)
    stack.callback(saved.close)
    step = saved.latest_step
    if step is None:
      raise none_yet
    if saved.damaged and strict:
      raise UserError(
        f"{'; '.join(saved.damaged)} (in {saved.directory}); give a copy of it, let "
        f"`train` go on from step {step:,}, or leave out --strict to use that one"
      )
    for line in saved.damaged:
      logger.warning(f"{line}; passed over for that of step {step:,}")
    parts.check_checkpoints(saved)
    steps = context.config.train.steps
    if step < steps and not saved.damaged:
      logger.info(f"this run stands at step {step:,} of {steps:,}")
    stack.pop_all()
    return saved


def _read_ids(context: RunContext) -> CodeBook:
  folder = context.workdir / "codes"
  book = codes_lib.load(folder)
  if book is None:
    raise UserError(f"{folder} holds no whole ids; `train` writes them")
  if book.manifest.get("interactions_sha256") != ids_build.digest(context.split.train):
    raise UserError(workdir_lib.other_log(context.workdir))
  return book


def _read_texts(context: RunContext) -> texts_lib.Tokens:
  folder, dataset = context.workdir / "texts", context.dataset
  kept = texts_lib.load(folder)
  if kept is None:
    raise UserError(f"{folder} holds no whole tokenizer; `train` writes it")
  tokenizer, sha256 = kept
  assert isinstance(context.config, ReadsTexts)
  _, tokens = texts_lib.of_run(
    context.config, dataset.texts, dataset.attributes, tokenizer
  )
  if tokens.sha256 != sha256:
    raise UserError(workdir_lib.other_texts(context.workdir))
  return tokens
