"""Trains one system on one log and evaluates it."""

from collections.abc import Collection
import functools
import time
from typing import Any

from etils import epath
import jax
import ml_collections
import numpy as np
import rich.console

from lightlm_jax import STARTED, limits
from lightlm_jax.data import datasets, split_summary, splits
from lightlm_jax.data import texts as texts_lib
from lightlm_jax.decoding import trie
from lightlm_jax.evaluation import baseline_metrics as yardsticks
from lightlm_jax.evaluation import evaluator, judge, likelihood, samples
from lightlm_jax.evaluation import users as users_lib
from lightlm_jax.ids import build as ids_build
from lightlm_jax.ids import codes as codes_lib
from lightlm_jax.ids.codes import CodeBook
from lightlm_jax.inference import batched_inference
from lightlm_jax.runs import results as results_lib
from lightlm_jax.runtime import cache, devices, log, processes
from lightlm_jax.runtime import mesh as mesh_lib
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.storage import json_text
from lightlm_jax.storage import workdir as workdir_lib
from lightlm_jax.systems import best_possible, registry
from lightlm_jax.systems.base import Built, Fitted, HasLikelihood, WritesFreely
from lightlm_jax.training import dry_run, loop, run_io
from lightlm_jax.training import topology as topology_lib


def describe(
  config: ml_collections.FrozenConfigDict,
  topology: str | None = None,
  chosen: Collection[str] = (),
) -> dict:
  """What `train` would take (training/dry_run.py): builds ids, trains nothing.

  Args:
    config: as for `train`.
    topology: a slice of TPUs to compile the programs for; see training/topology.py.
    chosen: of a topology, fields that were set by hand.
  """
  limits.check(config)
  chips = None if topology is None else topology_lib.devices(topology)
  mesh = mesh_lib.make(config.mesh.data, config.mesh.model, chips)
  if topology is not None:
    config = topology_lib.with_batches(config, mesh.shape["data"], chosen)
  limits.check_batches(config, mesh.shape["data"])
  dataset = datasets.load(config)
  split = splits.of_run(config, dataset.log)
  book = None
  if config.system in registry.WRITE_IDS:
    root = cache.cache_root() / "codes"
    book = ids_build.book_of_run(
      config.ids, split.train, dataset.attributes, config.seed, root
    )
  tokens = None
  if config.system in registry.READ_TEXTS:
    _, tokens = texts_lib.of_run(config, dataset.texts, dataset.attributes)
  built = registry.build(config.system, config, split.train, book, tokens)
  report = dry_run.describe(built, split, config, mesh)
  if topology is not None:
    report["topology"] = topology_lib.describe(built, split, config, mesh, topology)
  return report


def train(
  config: ml_collections.FrozenConfigDict,
  workdir: epath.PathLike,
  dataset: datasets.Dataset | None = None,
) -> dict:
  """Runs the whole road and returns what `results.json` holds.

  Args:
    config: from a file in configs/.
    workdir: a new folder, or one that a run of the same configuration left.
    dataset: to learn from; None = the one that `config.data` names.

  Raises:
    UserError: in one line, what a person can mend.
  """
  limits.check(config)
  log.set_up()
  console = rich.console.Console(quiet=not processes.is_first())
  say = functools.partial(console.print, highlight=False, soft_wrap=True, markup=False)
  say(devices.describe())
  mesh = mesh_lib.make(config.mesh.data, config.mesh.model)
  limits.check_batches(config, mesh.shape["data"])
  if dataset is None:
    dataset = datasets.load(config)
  split = splits.of_run(config, dataset.log)
  _check_asked(split, config)
  if config.system in registry.READ_TEXTS:
    texts_lib.check(config, dataset.texts, dataset.attributes)
  with workdir_lib.claimed(workdir, config) as workdir:
    return _run(config, dataset, split, workdir, mesh, console, say)


def _run(config, dataset, split: splits.Split, workdir, mesh, console, say) -> dict:
  """Trains and judges in a workdir that is this run's alone."""
  say(f"workdir {workdir}; {config.data.name}: {datasets.describe(dataset.log)}")
  unasked = 0 if split.test is None else dataset.log.num_users - len(split.test)
  if unasked:
    known = (
      "are not seen in time" if split.cut_times else "have fewer than 3 interactions"
    )
    say(f"{unasked:,} users {known}: trained on, asked nothing at test")
  processes.check_agreement({"the split": split.sha256})
  _claim_split(workdir, split, dataset.log)
  if (earlier := _finished(workdir, config)) is not None:
    say(f"finished before; {workdir / 'results.json'}:")
    results_lib.show(earlier, say)
    return earlier

  built, book, params, progress = learn(
    config, split, dataset.attributes, workdir, mesh, console, dataset.texts
  )
  results = results_lib.describe(config, split, built.system, book, params, progress)
  if split.test is not None:
    say("validation and test, all users, both rules …")
    found, ranks = _judge(built, params, config, split, mesh, book)
    results |= found
    name = results_lib.file_name("users", results) + ".parquet"
    table = users_lib.table(split.test, ranks, split.train, results_lib.about(results))
    users_lib.write(workdir / name, table)
    results |= _stand_beside(config, split, dataset, mesh, say)
  workdir_lib.write_json(workdir / "results.json", results)
  results_lib.show(results, say)
  if split.test is not None:
    for line in samples.recommended(
      built, params, split.test, dataset.log, dataset.titles, mesh
    ):
      say(line)
  return results


def learn(
  config: ml_collections.FrozenConfigDict,
  split: splits.Split,
  attributes: list[np.ndarray] | None,
  workdir: epath.Path,
  mesh: jax.sharding.Mesh,
  console: rich.console.Console,
  texts: list[str] | None = None,
) -> tuple[Built, CodeBook | None, Any, loop.Progress | None]:
  """Writes the ids or the texts' tokens, and trains.

  The workdir keeps what `evaluate` and a restart need.

  Returns:
    The system with its tables on the mesh, its ids, the parameters to judge and the
    progress; None where the system has no such thing.
  """
  book = None
  if config.system in registry.WRITE_IDS:
    book = _write_ids(config, split, attributes, workdir, console)
  tokens = None
  if config.system in registry.READ_TEXTS:
    tokens = _write_texts(config, texts, attributes, workdir, console)
  built = registry.build(config.system, config, split.train, book, tokens)
  if book is not None:
    console.print(trie.describe(built.tables.trie), highlight=False, soft_wrap=True)
  tables = mesh_lib.put(built.tables, mesh_lib.replicated(mesh))
  built = built._replace(tables=tables)
  if isinstance(built.system, Fitted):
    return built, book, built.system.fit(split.train), None
  return built, book, *_optimise(built, split, config, workdir, mesh)


def _check_asked(split: splits.Split, config) -> None:
  if split.test is not None and not len(split.test):
    raise UserError(
      f"no user of {config.data.name} has 3 interactions or more, so there is nothing "
      "to validate on; give longer histories, or --config.split.kind=none to train on "
      "everything"
    )


def _claim_split(workdir: epath.Path, split: splits.Split, log) -> None:
  """Leaves split.json, or checks that the workdir was begun on the same split."""
  path = workdir / "split.json"
  if not path.exists():
    workdir_lib.write_json(path, split_summary.summary(split, log))
    return
  try:
    sha256 = json_text.loads(path.read_text())["sha256"]
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise UserError(f"cannot read {path} ({error}); remove it, `train` writes it anew")
  if sha256 != split.sha256:
    raise UserError(workdir_lib.other_log(workdir))


def _finished(workdir: epath.Path, config) -> dict | None:
  """The results of this very run, if it came to its end before."""
  earlier = workdir_lib.read_results(workdir)
  if earlier is None:
    return None
  more = earlier["steps"] is not None and earlier["steps"] < config.train.steps
  return None if more else earlier


def _write_ids(
  config, split: splits.Split, attributes, workdir: epath.Path, console
) -> CodeBook:
  """Builds the ids or reads them from the cache; leaves a copy in the workdir."""
  began = time.monotonic()
  root = cache.cache_root() / "codes"
  book = ids_build.book_of_run(config.ids, split.train, attributes, config.seed, root)
  processes.check_agreement({"the ids": book.sha256})
  earlier = codes_lib.load(workdir / "codes")
  if earlier is not None and earlier.sha256 != book.sha256:
    raise UserError(workdir_lib.other_log(workdir))
  try:
    if processes.is_first():
      codes_lib.save(book, workdir / "codes")
  except OSError as error:
    raise UserError(f"cannot write {workdir / 'codes'}: {error.strerror or error}")
  length_I = (book.items_IL >= 0).sum(axis=1)
  if config.ids.kind in ids_build.WARNINGS:
    console.print(f"warning: {ids_build.WARNINGS[config.ids.kind]}", highlight=False)
  console.print(
    f"ids: {config.ids.kind}, {book.vocab_size:,} tokens, {length_I.mean():.2f} an "
    f"item (at most {length_I.max()}), {time.monotonic() - began:.1f} s",
    highlight=False,
    soft_wrap=True,
  )
  return book


def _write_texts(config, texts, attributes, workdir: epath.Path, console):
  """The catalogue in tokens; the workdir keeps the tokenizer, if it has none."""
  folder = workdir / "texts"
  earlier = texts_lib.load(folder)
  tokenizer, tokens = texts_lib.of_run(
    config, texts, attributes, None if earlier is None else earlier[0]
  )
  processes.check_agreement({"the texts": tokens.sha256})
  if earlier is not None and earlier[1] != tokens.sha256:
    raise UserError(workdir_lib.other_texts(workdir))
  try:
    if earlier is None and processes.is_first():
      texts_lib.save(tokenizer, tokens, folder)
  except OSError as error:
    raise UserError(f"cannot write {folder}: {error.strerror or error}")
  console.print(texts_lib.describe(tokens), highlight=False, soft_wrap=True)
  return tokens


def _optimise(built: Built, split, config, workdir, mesh):
  """Trains by gradient, with everything a restart needs on disk."""
  with run_io.open_run_io(workdir, config, STARTED) as io:
    return loop.train(built, split, config, mesh=mesh, io=io)


def _judge(built: Built, params, config, split: splits.Split, mesh, book):
  """Validation and test by both rules; test is read once, when all is chosen.

  Returns:
    What goes into the results, and where test's targets came.
  """
  batch_size = config.train.eval_batch_size
  # Made once for all that is asked below.
  params, built = batched_inference.prepared(built, params, mesh)
  ask = functools.partial(
    judge.judge,
    built,
    params,
    split,
    batch_size=batch_size,
    mesh=mesh,
    code_IL=None if book is None else book.items_IL,
  )
  validation, _ = ask(split.validation)
  judged, ranks = ask(split.test)
  judged |= {"validation": validation["metrics"]}
  if isinstance(built.system, HasLikelihood):
    judged["validation_loss"] = likelihood.mean_nll(
      built, params, split.validation, batch_size=batch_size, mesh=mesh
    )
  if isinstance(built.system, WritesFreely):
    judged["hallucination_rate"] = evaluator.hallucination_rate(
      built,
      params,
      loop.sample(split.test, config.train.eval_users, config.seed),
      batch_size=batch_size,
      mesh=mesh,
    )
  return judged, ranks


def _stand_beside(config, split: splits.Split, dataset, mesh, say) -> dict:
  """The baselines and, where we own the generator, the best possible."""
  names = [name for name in config.baselines if name != config.system]
  num_items = split.train.num_items
  if names:
    say(f"baselines: {', '.join(names)} …")
  systems = [registry.build(name, config, split.train, None) for name in names]
  beside = {}
  # A follow-up of a withheld item stands behind another one: the generator is misread.
  if dataset.tastes is not None and split.withheld_I is None:
    systems.append(best_possible.best_possible(dataset.tastes, num_items))
    beside["expected_best_ndcg@10"] = best_possible.expected_best_ndcg(
      dataset.tastes, split.test
    )
  beside["baselines"] = yardsticks.measure(
    systems, split, batch_size=config.train.eval_batch_size, mesh=mesh
  )
  return beside
