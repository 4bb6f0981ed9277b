"""Trains one system on one log and evaluates it."""

import dataclasses
import logging
import time
from typing import Any, cast

from etils import epath
import numpy as np

from lightlm_jax import config as config_lib
from lightlm_jax.config import (
  Card,
  EnsembleConfig,
  LearnedConfig,
  ReadsTexts,
  RunConfig,
  WritesIds,
)
from lightlm_jax.data import datasets, split_summary, splits
from lightlm_jax.data import texts as texts_lib
from lightlm_jax.decoding import trie
from lightlm_jax.evaluation import all_metrics, evaluator
from lightlm_jax.ids import codes as codes_lib
from lightlm_jax.ids.codes import CodeBook
from lightlm_jax.inference import batched_inference
from lightlm_jax.runs import evaluate, members, parts, restore
from lightlm_jax.runs import results as results_lib
from lightlm_jax.runs.context import Run, RunContext, build_ids
from lightlm_jax.runs.results import Results
from lightlm_jax.runtime import devices, log, processes
from lightlm_jax.runtime import mesh as mesh_lib
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.storage import atomic, json_text
from lightlm_jax.storage import workdir as workdir_lib
from lightlm_jax.systems import best_possible, registry
from lightlm_jax.systems.base import Built, Fitted, HasLikelihood, WritesFreely
from lightlm_jax.training import calibration, loop, manifests, run_io

logger = logging.getLogger(__name__)


def default_workdir(config: RunConfig) -> str:
  """Returns the folder that a run is written to if no --workdir is given."""
  system = "" if config.system == "lightlm" else f"-{config.system}"
  return f"runs/{config.data.name}{system}-{config.preset}"


def train(
  config: str | Card | RunConfig,
  workdir: epath.PathLike | None = None,
  dataset: datasets.Dataset | None = None,
) -> Results:
  """Trains a system, evaluates it, and writes everything to the workdir.

  Args:
    config: a configuration, or the name of one: "toys:small".
    workdir: a new folder, or that of a run with the same configuration, which is
      resumed; None = `default_workdir`.
    dataset: the data to learn from; None = those named by `config.data`.

  Returns:
    The contents of `results.json`.
  """
  return train_run(config, workdir, dataset)[0]


def train_run(
  config: str | Card | RunConfig,
  workdir: epath.PathLike | None = None,
  dataset: datasets.Dataset | None = None,
) -> tuple[Results, Run | None]:
  """Trains and evaluates as `train` does; returns the results and the run.

  The run is None if it had finished before: then nothing is trained or restored.
  """
  config = config_lib.typed(config)
  config_lib.check(config)
  log.set_up()
  logger.info(devices.describe())
  mesh = mesh_lib.make(config.mesh.data, config.mesh.model)
  config_lib.check_batches(config, mesh.shape["data"])
  source = None
  if dataset is None and isinstance(config, EnsembleConfig):
    config, dataset, source = members.find_log(config)
  elif dataset is None:
    dataset, found = datasets.load(config), datasets.source(config.data)
    source = found and found[1]
  split = splits.of_run(config, dataset.log)
  if split.test is not None and not len(split.test):
    raise UserError(
      f"no user of {config.data.name} has 3 interactions or more, so there is nothing "
      "to validate on; give longer histories, or --config.split.kind=none to train on "
      "everything"
    )
  if isinstance(config, ReadsTexts):
    texts_lib.check(config, dataset.texts, dataset.attributes)
  with workdir_lib.claimed(workdir or default_workdir(config), config) as workdir:
    context = RunContext(config, dataset, split, mesh, workdir)
    return _run(context, source)


def _run(context: RunContext, source: str | None) -> tuple[Results, Run | None]:
  """Trains and evaluates a run in its workdir, which the caller has locked.

  `source` is the SHA-256 of the log, see `datasets.source`.
  """
  config, dataset, split = context.config, context.dataset, context.split
  path = context.workdir / results_lib.FILE
  about = datasets.describe(dataset.log)
  logger.info(f"workdir {context.workdir}; {config.data.name}: {about}")
  untested = 0 if split.test is None else dataset.log.num_users - len(split.test)
  if untested:
    known = (
      "are not seen in time" if split.cut_times else "have fewer than 3 interactions"
    )
    logger.info(f"{untested:,} users {known}: trained on, not evaluated")
  processes.check_agreement({"the split": split.sha256})
  _claim_split(context)
  restore.keep_log(context, source)
  if (earlier := _finished(context)) is not None:
    logger.info(f"finished before; {path}:")
    results_lib.show(earlier)
    return earlier, None

  run = learn(context)
  results, ranks = results_lib.describe(run), {}
  if split.test is not None:
    logger.info("validation and test, all users, both rules …")
    # Work that all requests share is done once.
    params, built = batched_inference.prepared(run.built, run.params, run.mesh)
    shared = dataclasses.replace(run, built=built, params=params)
    found, ranks = _evaluate_splits(shared)
    results = results_lib.with_fields(results, found)
    evaluate.write_users(shared, results, split.test, ranks)
    results = results_lib.with_fields(results, _evaluate_baselines(context))
  results = results_lib.sealed(results)
  atomic.write_json(path, results)
  results_lib.show(results)
  if split.test is not None:
    lists = ranks["seen_excluded"]
    for line in all_metrics.samples(split.test, lists, dataset.log, dataset.titles):
      logger.info(line)
  return results, run


def learn(context: RunContext) -> Run:
  """Builds a system and the ids or text tokens that it needs; trains or fits it.

  All that `evaluate` and a resumed run need is written to the workdir.
  """
  config, split, mesh = context.config, context.split, context.mesh
  if isinstance(config, EnsembleConfig):
    members.copy(config, context.workdir, split.sha256)
    return restore.restore(context)
  book = _write_ids(context) if isinstance(config, WritesIds) else None
  tokens = _write_texts(context) if isinstance(config, ReadsTexts) else None
  built = registry.build(config.system, config, split.train, book, tokens)
  if book is not None and hasattr(built.tables, "trie"):
    logger.info(trie.describe(built.tables.trie))
  built = built._replace(tables=mesh_lib.put(built.tables, mesh_lib.replicated(mesh)))
  progress = step = fit_sha256 = parameters_sha256 = None
  if isinstance(built.system, Fitted):
    params = built.system.fit(split.train)
  else:
    assert isinstance(config, LearnedConfig)
    if config.train.warmup_steps > config.train.steps:
      logger.warning(
        f"config.train.warmup_steps is {config.train.warmup_steps:,}, above "
        f"config.train.steps {config.train.steps:,}: the learning rate never reaches "
        "its peak"
      )
    made_of = parts.of_run(config, split, book, tokens)
    with run_io.open_run_io(context.workdir, config, made_of) as io:
      parts.check_checkpoints(io.checkpoints)
      params, progress = loop.train(built, split, config, mesh=mesh, io=io)
      step = progress.best_step or config.train.steps
      parameters_sha256 = io.checkpoints.sha256(step)
    if getattr(config.model, "calibrated", False):
      of = calibration.Of(step, parameters_sha256)
      params, fit_sha256 = _calibrated(context, built, params, of)
  about = {"progress": progress, "step": step, "calibration_sha256": fit_sha256}
  about |= {"parameters_sha256": parameters_sha256}
  return Run(**vars(context), book=book, built=built, params=params, **about)


def _calibrated(context: RunContext, built: Built, params: Any, of: calibration.Of):
  """Fits parameters to validation; returns what `calibration.apply` does.

  The fit is used if the mean of both rules' NDCG@10 on `train.eval_users` rises.
  """
  config, mesh, split = context.config, context.mesh, context.split
  assert isinstance(config, LearnedConfig)
  if not split.validation:
    logger.info("nothing is held out, so probabilities stay as trained")
    return params, None
  logger.info(f"calibrating on {len(split.validation):,} validation users …")
  options = {"batch_size": config.train.eval_batch_size, "mesh": mesh}
  arguments = built, params, split.validation
  fitted = calibration.calibrate(*arguments, seed=config.seed, **options)
  some: Any = loop.sample(split.validation, config.train.eval_users, config.seed)
  options |= {"num_items": split.train.num_items, "lists": False}
  before, after = (
    evaluator.summarise_rules(evaluator.evaluate(built, each, some, **options))
    for each in (params, params | mesh_lib.put(fitted, mesh_lib.replicated(mesh)))
  )
  gain = sum(after[r]["ndcg@10"] - before[r]["ndcg@10"] for r in after) / 2
  logger.info(
    f"temperatures {np.exp(fitted['log_temperature']).round(2)}: validation NDCG@10 "
    f"{gain:+.4f}, so they are {'used' if gain > 0 else 'not used'}"
  )
  calibration.write(context.workdir, of, gain, fitted if gain > 0 else {})
  return calibration.apply(context.workdir, of, mesh, built, params)


def _evaluate_splits(run: Run) -> tuple[dict[str, Any], dict[str, evaluator.Ranks]]:
  """Evaluates on both splits; returns `evaluate.measure` of test, with fields added."""
  config, split, built, params = run.config, run.split, run.built, run.params
  assert split.validation is not None
  assert split.test is not None
  validation, _ = evaluate.measure(run, split.validation)
  found, ranks = evaluate.measure(run, split.test)
  found["validation"] = validation["metrics"]
  options: Any = {"batch_size": config.train.eval_batch_size, "mesh": run.mesh}
  if isinstance(built.system, HasLikelihood):
    found["validation_loss"] = evaluator.mean(
      built, params, split.validation, "nll", **options
    )
  # Logits that were only compared with siblings' choose nothing among all tokens.
  siblings = getattr(config.train, "loss", None) == "children"
  if isinstance(built.system, WritesFreely) and not siblings:
    assert isinstance(config, LearnedConfig)
    some = loop.sample(split.test, config.train.eval_users, config.seed)
    found["hallucination_rate"] = evaluator.mean(
      built, params, some or split.test, "invalid_beams", **options
    )
  return found, ranks


def _evaluate_baselines(context: RunContext) -> dict[str, Any]:
  """Evaluates baselines on test and, for a synthetic log, the best possible system."""
  config, split, tastes = context.config, context.split, context.dataset.tastes
  names = [name for name in config.baselines if name != config.system]
  if names:
    logger.info(f"baselines: {', '.join(names)} …")
  systems = [registry.build(name, config, split.train, None) for name in names]
  found = {}
  # Withholding items removes them from histories, so that an item no longer follows the
  # one that the generator drew it after, and its probabilities do not hold.
  if tastes is not None and split.test is not None and split.withheld_I is None:
    systems.append(best_possible.best_possible(tastes, split.train.num_items))
    best = best_possible.expected_best_ndcg(tastes, split.test)
    found["expected_best_ndcg@10"] = best
  found["baselines"] = all_metrics.baselines(
    systems, split, batch_size=config.train.eval_batch_size, mesh=context.mesh
  )
  return found


def _claim_split(context: RunContext) -> None:
  """Writes split.json, or raises a UserError if it exists and is of another split."""
  path = context.workdir / "split.json"
  if not path.exists():
    summary = split_summary.summary(context.split, context.dataset.log)
    atomic.write_json(path, json_text.sealed(summary))
    return
  earlier = json_text.read(path, workdir_lib.WRITTEN_ANEW, fields=("sha256",))
  if earlier["sha256"] != context.split.sha256:
    raise UserError(workdir_lib.other_log(context.workdir))


def _finished(context: RunContext) -> Results | None:
  """Returns a run's results; None if they are missing or `train.steps` has grown."""
  earlier, config = results_lib.read_finished(context.workdir), context.config
  if earlier is not None and isinstance(config, LearnedConfig):
    if (earlier["steps"] or 0) < config.train.steps:
      return None
    folder = context.workdir / "checkpoints"
    if folder.exists():  # people remove those of finished runs
      found = manifests.sha256(folder / str(earlier["best_step"]))
      parts.check_results(context.workdir, config, found or "none")
  return cast(Results | None, earlier)


def _write_ids(context: RunContext) -> CodeBook:
  """Returns the ids, built or read from the cache; writes them to the workdir."""
  began = time.monotonic()
  config, folder = context.config, context.workdir / "codes"
  assert isinstance(config, WritesIds)
  book = build_ids(config, context.dataset, context.split)
  processes.check_agreement({"the ids": book.sha256})
  earlier = codes_lib.load(folder)
  if earlier is not None and earlier.sha256 != book.sha256:
    raise UserError(workdir_lib.other_log(context.workdir))
  if processes.is_first():
    codes_lib.save(book, folder)
  length_I = (book.items_IL >= 0).sum(axis=1)
  logger.info(
    f"ids: {config.ids.kind}, {book.vocab_size:,} tokens, {length_I.mean():.2f} an "
    f"item (at most {length_I.max()}), {time.monotonic() - began:.1f} s"
  )
  return book


def _write_texts(context: RunContext) -> texts_lib.Tokens:
  """Returns the items' texts as tokens; writes the tokenizer if there is none yet."""
  dataset, folder = context.dataset, context.workdir / "texts"
  earlier, sha256 = texts_lib.load(folder) or (None, None)
  assert isinstance(context.config, ReadsTexts)
  tokenizer, tokens = texts_lib.of_run(
    context.config, dataset.texts, dataset.attributes, earlier
  )
  processes.check_agreement({"the texts": tokens.sha256})
  if sha256 not in (None, tokens.sha256):
    raise UserError(workdir_lib.other_texts(context.workdir))
  if earlier is None and processes.is_first():
    texts_lib.save(tokenizer, tokens, folder)
  logger.info(texts_lib.describe(tokens))
  return tokens
