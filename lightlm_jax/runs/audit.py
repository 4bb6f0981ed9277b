"""Audits the ids of a run or configuration for leaks."""

import functools
import logging
import tempfile
from typing import Any

from etils import epath

from lightlm_jax.config import RunConfig, WritesIds
from lightlm_jax.data import datasets, sequential, splits
from lightlm_jax.data.interactions import Interactions
from lightlm_jax.data.splits import Split
from lightlm_jax.evaluation import leaks
from lightlm_jax.evaluation import ties as ties_lib
from lightlm_jax.ids import build as ids_build
from lightlm_jax.ids import codes as codes_lib
from lightlm_jax.ids.codes import CodeBook
from lightlm_jax.runs import context, restore
from lightlm_jax.runs import results as results_lib
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.storage import atomic, json_text
from lightlm_jax.storage import workdir as workdir_lib

logger = logging.getLogger(__name__)


def audit_run(workdir: epath.PathLike) -> dict[str, Any]:
  """Audits the ids of a run; writes audit.json to its folder and returns the findings.

  Raises:
    UserError: the run cannot be audited, for instance because its ids or log are not
      those that its configuration gives today.
  """
  workdir, config = workdir_lib.read(workdir)
  if not isinstance(config, WritesIds):
    raise UserError(
      f"{workdir} is a run of {config.system}, which writes no ids; there is nothing "
      "to audit"
    )
  atomic.check_folder(workdir)
  found = json_text.sealed(audit(config, workdir))
  atomic.write_json(workdir / "audit.json", found)
  logger.info(f"written to {workdir / 'audit.json'}")
  return found


def audit(config: RunConfig, workdir: epath.Path | None = None) -> dict[str, Any]:
  """Audits the ids of a configuration; logs and returns the findings.

  Args:
    config: the configuration of a system that generates ids.
    workdir: the folder of a run that must have the same ids; None = no run.

  Returns:
    The findings of `leaks.audit` and the fields `order` {rules, shuffled, lost} (see
    data/sequential.py), `ties` {share, ndcg_as_is, ndcg_rebroken} (None = no times,
    see evaluation/ties.py), `ids` {kind, manifest_sha256} and `split_sha256`.
  """
  config = context.check_writes_ids(config)
  _check_split(config)
  in_run = workdir is not None
  dataset = restore.dataset_of(workdir, config) if in_run else datasets.load(config)
  interactions = dataset.log
  if config.ids.kind in ids_build.WARNINGS:
    logger.warning(ids_build.WARNINGS[config.ids.kind])
  order = sequential.shuffle_test(interactions, config.seed)
  logger.info(f"{config.data.name}: {datasets.describe(interactions)}")
  logger.info(f"  {order}")
  split_of = functools.partial(splits.of_run, config)
  ties = ties_lib.tie_test(interactions, split_of, config.seed)
  if ties is not None:
    logger.info(f"  {ties}")
  logger.info(f"ids {config.ids.kind} …")
  as_is = split, book = _construct(config, dataset, interactions, config.seed)
  if in_run:
    restore.check_split(workdir, config, split)
    restore.warn_if_changed(workdir, config, "the run's own copy is audited")
    _check_same_ids(workdir, book)

  def build(other: Interactions, seed: int) -> leaks.Ids:
    same = other is interactions and seed == config.seed
    split, book = as_is if same else _construct(config, dataset, other, seed)
    return leaks.Ids(
      book.items_IL, book.users_UL, split.train.user_E, split.train.item_E
    )

  found = leaks.audit(build, interactions, split_of, seed=config.seed)
  if ties is not None and ties.failure is not None:
    found["failures"].append(ties.failure)
    found["passed"] = False
  found |= {
    "ties": None if ties is None else ties._asdict(),
    "order": {"rules": order.rules, "shuffled": order.shuffled, "lost": order.lost},
    "ids": {"kind": config.ids.kind, "manifest_sha256": book.sha256},
    "split_sha256": split.sha256,
  }
  _show(found)
  return found


def _construct(
  config: WritesIds, dataset: datasets.Dataset, log: Interactions, seed: int
) -> tuple[Split, CodeBook]:
  """Builds the split and the ids of a log, without reading cached ids."""
  split, attributes = splits.of_run(config, log), dataset.attributes
  if attributes is not None:  # in the order of `log`, whose items are numbered anew
    of_item = dict(zip(dataset.log.item_ids.tolist(), attributes))
    attributes = [of_item[item] for item in log.item_ids.tolist()]
  with tempfile.TemporaryDirectory() as empty:
    cache = epath.Path(empty)
    book = ids_build.book_of_run(config.ids, split.train, attributes, seed, cache)
  return split, book


def _show(found: dict[str, Any]) -> None:
  for name, changed in found["exchange"].items():
    logger.info(f"  held-out items exchanged, {name.replace('_', ' ')}: {changed}")
  for name, figures in found["renumber"].items():
    others = ", ".join(f"{value:.4f}" for value in figures["other_seeds"])
    logger.info(
      f"  {name}: {figures['as_is']:.4f}; numbered anew {figures['renumbered']:.4f}; "
      f"other seeds {others}"
    )
  logger.info(
    f"  last token and raw number in leaves: {found['spearman_last_token']:.3f}"
  )
  logger.info(f"  held-out interactions read: {found['held_out_edges']}")
  for line in found["failures"]:
    logger.info(f"FOUND: {line}")
  if found["passed"]:
    logger.info("nothing found")


def _check_split(config: RunConfig) -> None:
  """Raises a UserError if the audit does not support how the log is split."""
  if config.split.kind == "none":
    raise UserError(
      "config.split.kind is 'none': nothing is held out that could reach the ids; "
      "audit them with a split that holds something out, such as leave_one_out"
    )
  if withheld := config.split.withheld:
    raise UserError(
      f"config.split.withheld is {withheld}; the audit knows what stands behind the "
      "training rows, not items that are taken out of them: audit with "
      "config.split.withheld 0"
    )
  if (share := config.data.share) != 1:
    raise UserError(
      f"config.data.share is {share}: which users are learned from follows from their "
      "raw ids, which the audit changes; audit with config.data.share 1.0"
    )


def _check_same_ids(workdir: epath.Path, book: CodeBook) -> None:
  """Raises a UserError if a run's ids differ from `book`."""
  results = results_lib.read_finished(workdir) or {}
  kept = codes_lib.load(workdir / "codes")
  of_run = [] if kept is None else [kept.sha256]
  of_run += [ids["manifest_sha256"]] if (ids := results.get("ids")) else []
  if not of_run:
    raise UserError(
      f"{workdir / 'codes'} holds no whole ids; let `train` write them, then audit them"
    )
  for sha256 in of_run:
    if sha256 != book.sha256:
      raise UserError(
        f"the ids of {workdir} (SHA-256 {sha256[:16]}…) are not those that its "
        f"configuration builds today ({book.sha256[:16]}…): they were made by another "
        "version or on another kind of machine, and an audit of today's would be no "
        "verdict on the run; audit it where it was made, or train anew"
      )
