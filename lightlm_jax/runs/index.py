"""Builds the ids of a configuration and reports on them."""

import logging
import time
from typing import Any

from etils import epath
import pyarrow

from lightlm_jax.config import RunConfig
from lightlm_jax.data import datasets, splits
from lightlm_jax.data.interactions import Interactions
from lightlm_jax.evaluation import leaks
from lightlm_jax.ids import quality
from lightlm_jax.ids.codes import CodeBook
from lightlm_jax.runs import context
from lightlm_jax.storage import atomic, parquet

logger = logging.getLogger(__name__)


def index(config: RunConfig) -> tuple[dict[str, Any], CodeBook, Interactions]:
  """Builds the ids or reads them from the cache, and logs a report on them.

  Returns:
    The report (a dict fit for JSON), the ids, and the interaction log.
  """
  config = context.check_writes_ids(config)
  dataset = datasets.load(config)
  log = dataset.log
  split = splits.of_run(config, log)
  logger.info(f"{config.data.name}: {datasets.describe(log)}")
  began = time.monotonic()
  book = context.build_ids(config, dataset, split)
  seconds = time.monotonic() - began
  report = {
    "dataset": config.data.name,
    "kind": config.ids.kind,
    "options": book.manifest["options"],
    "cold_placed": book.manifest.get("cold_placed"),  # and of how many
    "seed": config.seed,
    "sha256": book.sha256,
    "seconds": seconds,
    "interactions": book.manifest["interactions"],
    "split_sha256": split.sha256,
    "held_out_edges": None,
  } | quality.report(book, split, seed=config.seed)
  if split.test is not None and split.withheld_I is None:
    train = split.train
    ids = leaks.Ids(book.items_IL, book.users_UL, train.user_E, train.item_E)
    report["held_out_edges"] = leaks.held_out_edges(ids, log, lambda _: split)
  _show(report)
  return report, book, log


def _show(report: dict[str, Any]) -> None:
  options = ", ".join(f"{name} {value}" for name, value in report["options"].items())
  beside = ""
  if report["cold_placed"]:
    placed, cold = report["cold_placed"]
    beside = f", {placed:,} of {cold:,} cold items by attributes"
  logger.info(f"ids: {report['kind']} ({options}{beside}), seed {report['seed']}")
  logger.info(
    f"  made or found in {report['seconds']:.1f} s, SHA-256 {report['sha256'][:16]}…"
  )
  lengths = ", ".join(f"{n} of {length}" for length, n in report["length"].items())
  logger.info(f"  {report['vocab_size']:,} tokens; items by length: {lengths}")
  logger.info(
    f"  collisions {report['collisions']}, largest leaf {report['largest_leaf']}"
  )
  if report["held_out_edges"] is not None:
    logger.info(f"  held-out interactions read: {report['held_out_edges']}")
  levels = range(1, 1 + len(report["tokens_per_level"]))
  logger.info(f"  {'level':26}" + "".join(f"{level:>8}" for level in levels))
  rows = {
    "tokens": [f"{n:,}" for n in report["tokens_per_level"]],
    "entropy, bits": [f"{h:.2f}" for h in report["entropy_per_level"]],
  }
  for place, name in enumerate(("10 %", "median", "90 %", "largest")):
    sizes = [f"{quantiles[place]:.0f}" for quantiles in report["cluster_sizes"]]
    rows[f"items a cluster, {name}"] = sizes
  pairs = {"user": report["agreement"], "item": report["neighbours"]}
  for side, found in pairs.items():
    for name, shares in found.items():
      if shares:
        cells = [f"{100 * share:.1f} %" for share in shares]
        rows[f"{side} with item, {name.replace('_', ' ')}"] = cells
  for name, cells in rows.items():
    logger.info(f"  {name:26}" + "".join(f"{cell:>8}" for cell in cells))


def export(book: CodeBook, log: Interactions, path: epath.PathLike) -> None:
  """Writes ids to Parquet files with the columns `id`, the raw id, and `tokens`.

  Items go to `path`, users to a file beside it: x.users.parquet for x.parquet.
  """
  path = epath.Path(path)
  of_users = path.with_name(path.stem + ".users" + path.suffix)
  for target, raw_N, code_NL in (
    (path, log.item_ids, book.items_IL),
    (of_users, log.user_ids, book.users_UL),
  ):
    tokens = [code_L[code_L >= 0].tolist() for code_L in code_NL]
    token_N = pyarrow.array(tokens, pyarrow.list_(pyarrow.int32()))
    table = pyarrow.table({"id": raw_N.tolist(), "tokens": token_N})
    atomic.write(target, parquet.to_bytes(table))
