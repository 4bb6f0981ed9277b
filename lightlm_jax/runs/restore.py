"""A run that `train` left, put together again from its folder.

Whoever asks a run (evaluate.py, recommend.py, export.py) gets it here.
"""

from collections.abc import Callable, Mapping
import contextlib
import dataclasses
import functools
import hashlib
import json
from typing import Any

from etils import epath
import jax
import ml_collections
import numpy as np

from lightlm_jax import limits
from lightlm_jax.data import datasets, snapshot, splits
from lightlm_jax.data import texts as texts_lib
from lightlm_jax.decoding import latent
from lightlm_jax.ids import build as ids_build
from lightlm_jax.ids import codes as codes_lib
from lightlm_jax.ids.codes import CodeBook
from lightlm_jax.inference import state_index as latent_decoding
from lightlm_jax.runtime import mesh as mesh_lib
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.storage import workdir as workdir_lib
from lightlm_jax.systems import registry
from lightlm_jax.systems.base import Built, Fitted, Trainable
from lightlm_jax.training import checkpoint, loop

LOG = "log"  # in a workdir: see data/snapshot.py


@dataclasses.dataclass(frozen=True)
class Run:
  """What can be asked, and what is known of it."""

  config: ml_collections.FrozenConfigDict
  dataset: datasets.Dataset
  split: splits.Split
  book: CodeBook | None  # of the systems that write ids
  built: Built  # the system, its tables on the mesh
  params: Any  # those to judge, on the mesh
  progress: loop.Progress | None  # None: it was fitted
  step: int | None  # the parameters are of; likewise
  mesh: jax.sharding.Mesh


def check_decoding(
  own: ml_collections.FrozenConfigDict, overrides: Mapping[str, Any]
) -> None:
  """Refuses to decode where nothing is, and a width where it means nothing."""
  flags_of = {"decoding.kind": "--decoding", "decoding.beam_size": "--beam_size"}
  given = [flag for field, flag in flags_of.items() if field in overrides]
  if given and own.system not in registry.WRITE_IDS:
    raise UserError(
      f"{own.system} scores every item, so there is nothing to decode; leave out "
      f"{' and '.join(given)}"
    )
  kind = overrides.get("decoding.kind", own.decoding.kind)
  if kind in latent_decoding.DECODINGS and own.system != "lightlm":
    raise UserError(f"{own.system} has no states to remember; give --decoding=beam")
  options = latent_decoding.OPTIONS
  given = [f"--{name}" for name in options if f"decoding.{name}" in overrides]
  if given and kind not in latent_decoding.DECODINGS:
    raise UserError(
      f"{' and '.join(given)} means nothing to decoding {kind}; give --decoding="
      f"{' or '.join(latent_decoding.DECODINGS)} with it"
    )
  if kind in registry.WITHOUT_BEAMS and "decoding.beam_size" in overrides:
    raise UserError(
      f"decoding {kind} scores every item and has no beams; leave out --beam_size, or "
      "give --decoding=beam"
    )


def asked(
  workdir: epath.PathLike, overrides: Mapping[str, Any]
) -> tuple[
  epath.Path, ml_collections.FrozenConfigDict, ml_collections.FrozenConfigDict
]:
  """A run's folder, the configuration that it is asked by, and its own.

  Raises:
    UserError: there is no run, or it cannot be asked so.
  """
  workdir, own = workdir_lib.read(workdir, {})
  check_decoding(own, overrides)
  _, config = workdir_lib.read(workdir, overrides)
  limits.check(config, trained=True)
  return workdir, config, own


def dataset_of(
  workdir: epath.Path, config: ml_collections.ConfigDict, *, fetch: bool = True
) -> datasets.Dataset:
  """The log that a run learned from: its own copy, where it has one.

  Args:
    workdir: of the run.
    config: the run's, which says where the log is otherwise.
    fetch: see `datasets.load`.

  Raises:
    UserError: it is not there, or is damaged.
  """
  kept = snapshot.read(workdir / LOG)
  return datasets.load(config, fetch=fetch) if kept is None else kept


def log_of(
  workdir: epath.Path, config: ml_collections.FrozenConfigDict
) -> tuple[datasets.Dataset, splits.Split]:
  """The log that a run learned from, and its split.

  Raises:
    UserError: it is not there, or is another one.
  """
  dataset = dataset_of(workdir, config)
  split = splits.of_run(config, dataset.log)
  earlier = workdir_lib.read_results(workdir)
  if earlier and earlier["split_sha256"] != split.sha256:
    raise UserError(workdir_lib.other_log(workdir))
  return dataset, split


def restore(
  workdir: epath.Path,
  config: ml_collections.FrozenConfigDict,
  dataset: datasets.Dataset,
  split: splits.Split,
  mesh: jax.sharding.Mesh,
  say: Callable[[str], None],
) -> Run:
  """The system of a run, with its best parameters, and its memory if it is asked by it.

  Args:
    workdir: of the run, finished or not.
    config: the run's, perhaps with another decoding.
    dataset: from `log_of`.
    split: likewise.
    mesh: of devices today; those of the run do not matter.
    say: prints a line.

  Raises:
    UserError: in one line, what a person can mend.
  """
  book = None
  if config.system in registry.WRITE_IDS:
    book = _read_ids(workdir, split)
  tokens = None
  if config.system in registry.READ_TEXTS:
    tokens = _read_texts(config, dataset, workdir)
  built = registry.build(config.system, config, split.train, book, tokens)
  tables = mesh_lib.put(built.tables, mesh_lib.replicated(mesh))
  built = built._replace(tables=tables)
  progress = judged = None
  if isinstance(built.system, Fitted):
    params = built.system.fit(split.train)
  else:
    assert isinstance(built.system, Trainable)
    params, progress, step = _restore(built.system, config, mesh, workdir)
    judged = progress.best_step or step
    if step < config.train.steps:
      say(f"this run stands at step {step:,} of {config.train.steps:,}")

  if config.decoding.kind in latent_decoding.DECODINGS:
    make = functools.partial(
      latent_decoding.index_states,
      built,
      params,
      split.train,
      share=config.decoding.memory_share,
      seed=config.seed,
      batch_size=config.train.eval_batch_size,
      mesh=mesh,
    )
    about = _about_memory(config, split, book, judged)
    state_ND, item_N = latent_decoding.cached(workdir / "latent", about, make, say)
    states = mesh_lib.put((state_ND, item_N), mesh_lib.replicated(mesh))
    num_items, prior = split.train.num_items, config.decoding.prior
    index = latent.build(*states, num_items, prior)
    built = latent_decoding.build(config, built, index)
  return Run(config, dataset, split, book, built, params, progress, judged, mesh)


def titles(
  dataset: datasets.Dataset, config: ml_collections.FrozenConfigDict
) -> np.ndarray:
  """[I] the items' titles.

  Raises:
    UserError: there are none.
  """
  if dataset.titles is None:
    raise UserError(
      f"nothing is known of the items of {config.data.name} that could be shown; bring "
      "their texts (prepare --items=FILE, items.tsv beside sequences.txt, or the items "
      "of Recommender.fit), or ask without"
    )
  return np.array(dataset.titles, object)


def identity(run: Run) -> dict[str, Any]:
  """What tells what a run answers today from what another one does, as JSON."""
  config = run.config.to_dict()
  # Where the data lies and how many are asked at once changes no answer.
  config["data"].pop("dir", None)
  config["train"].pop("eval_batch_size", None)
  text = json.dumps(config, sort_keys=True)
  return {
    "system": run.config.system,
    "dataset": run.config.data.name,
    "decoding": run.config.decoding.kind if run.book else None,
    "step": run.step,
    "split_sha256": run.split.sha256,
    "ids_sha256": run.book.sha256 if run.book else None,
    "config_sha256": hashlib.sha256(text.encode()).hexdigest(),
  }


def _restore(system: Trainable, config, mesh, workdir: epath.Path):
  """The parameters to judge, the progress, and the step that the run came to."""
  if not (workdir / "checkpoints").exists():
    raise UserError(f"{workdir} holds no checkpoint yet; let `train` come to one")
  with contextlib.closing(
    checkpoint.Checkpoints(workdir, read_only=True)
  ) as checkpoints:
    step = checkpoints.latest_step
    if step is None:
      raise UserError(f"{workdir} holds no checkpoint yet; let `train` come to one")
    return *loop.restore_best(system, config, mesh, checkpoints), step


def _about_memory(config, split: splits.Split, book: CodeBook, step: int) -> dict:
  """What a memory must be of, to be this run's."""
  return {
    "ids_sha256": book.sha256,
    "interactions_sha256": ids_build.digest(split.train),
    "parameters": step,
    "state": config.decoding.state,
    "memory_share": config.decoding.memory_share,
    "seed": config.seed,
  }


def _read_ids(workdir: epath.Path, split: splits.Split) -> CodeBook:
  book = codes_lib.load(workdir / "codes")
  if book is None:
    raise UserError(f"{workdir / 'codes'} holds no whole ids; `train` writes them")
  if book.manifest["interactions_sha256"] != ids_build.digest(split.train):
    raise UserError(workdir_lib.other_log(workdir))
  return book


def _read_texts(config, dataset, workdir: epath.Path) -> texts_lib.Tokens:
  kept = texts_lib.load(workdir / "texts")
  if kept is None:
    raise UserError(f"{workdir / 'texts'} holds no whole tokenizer; `train` writes it")
  tokenizer, sha256 = kept
  _, tokens = texts_lib.of_run(config, dataset.texts, dataset.attributes, tokenizer)
  if tokens.sha256 != sha256:
    raise UserError(workdir_lib.other_texts(workdir))
  return tokens
