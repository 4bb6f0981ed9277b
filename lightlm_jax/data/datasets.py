"""Loads the log of a configuration: the synthetic shop, or a folder of logs.

A published log that is missing is downloaded (data/published).
"""

from collections.abc import Iterator
import dataclasses
import hashlib
import json
import os

from etils import epath
import numpy as np

from lightlm_jax.config import ReadsTexts, RunConfig, WritesIds
from lightlm_jax.config.schema import Data
from lightlm_jax.data import formats, parquet_logs, synthetic
from lightlm_jax.data.interactions import Dataset, Interactions, keep_rows
from lightlm_jax.data.published import placing as published
from lightlm_jax.data.published.sources import SOURCES
from lightlm_jax.runtime import cache
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.storage import folder as folder_lib
from lightlm_jax.storage import json_text
from lightlm_jax.storage import workdir as workdir_lib

# A folder that has one of these files holds a log; the first of them is read.
_MARKS = (folder_lib.MANIFEST, "sequences.txt", "u.data")


def load(config: RunConfig, *, fetch: bool = True) -> Dataset:
  """Loads the log in `config.data`; if `fetch`, downloads a missing published one.

  Raises:
    UserError: files are missing or unreadable; the message says which file goes where.
  """
  if config.data.name == "demo":
    shop = synthetic.Shop(**dataclasses.asdict(config.data.shop))
    log, tastes = synthetic.make_shop(shop)
    titles, attributes = synthetic.item_titles(log), synthetic.item_attributes(log)
    dataset = Dataset(log, titles, tastes, attributes, titles)
  else:
    # Attributes are read only if the run uses them: a bad file stops no other run.
    wanted = isinstance(config, ReadsTexts) and config.input.attributes
    if isinstance(config, WritesIds):
      wanted |= "attributes" in (config.ids.cold, config.ids.graph)
    dataset = _read(_folder(config.data, fetch), wanted)
  return long_enough(dataset, config)


def source(data: Data) -> tuple[epath.Path, str] | None:
  """Returns the folder of the log that `load` reads, and a SHA-256 of the log.

  None = the log is missing, damaged, or the synthetic shop. Of a prepared log only the
  shards and items count, so that preparing the same log anew changes nothing.
  """
  if data.name == "demo":
    return None
  try:
    folder = _folder(data, fetch=False)
    path = next(folder / name for name in _MARKS if (folder / name).exists())
    if path.name != folder_lib.MANIFEST:
      return folder, folder_lib.sha256(path)
    manifest = json_text.read(path, "prepare the log anew")
  except (UserError, OSError):
    return None
  files = [manifest.get("shards"), manifest.get("items_parquet")]
  return folder, hashlib.sha256(json.dumps(files).encode()).hexdigest()


def long_enough(dataset: Dataset, config: RunConfig) -> Dataset:
  """Removes users with fewer than `config.data.min_len` interactions.

  Raises:
    UserError: no user is left.
  """
  kept_U = dataset.log.length_U >= config.data.min_len
  if not kept_U.any():
    raise UserError(
      f"no user of {config.data.name} has {config.data.min_len} interactions; "
      "lower config.data.min_len"
    )
  return dataset._replace(log=keep_rows(dataset.log, kept_U))


def describe(log: Interactions) -> str:
  """Returns one line of text with the size of a log."""
  return (
    f"{log.num_users:,} users, {log.num_items:,} items, {len(log.item_E):,} "
    f"interactions, {np.mean(log.length_U):.2f} a user"
  )


def read_rows(folder: epath.Path) -> Iterator[tuple[str, list[str]]]:
  """Yields (raw user id, raw item ids) of the log in a folder, oldest item first.

  Raises:
    UserError: there is no log, or it is damaged.
  """
  if not any((folder / name).exists() for name in _MARKS):
    raise UserError(
      f"{folder} holds no log; give a folder that python -m lightlm_jax.prepare wrote"
    )
  log = _read(folder, with_attributes=False).log
  for user, name in enumerate(log.user_ids.tolist()):
    yield name, log.item_ids[log.row(user)].tolist()


def _read(folder: epath.Path, with_attributes: bool) -> Dataset:
  if (folder / folder_lib.MANIFEST).exists():
    dataset = parquet_logs.read_prepared(folder)
    if with_attributes and dataset.attributes is None:
      raise UserError(
        f"{folder} was prepared without attributes of the items; prepare it anew with "
        "--items=FILE that has a column brand, category, categories or genres"
      )
    return dataset if with_attributes else dataset._replace(attributes=None)
  if (folder / "sequences.txt").exists():
    log = formats.read_sequences(folder / "sequences.txt")
  else:
    log = formats.read_ratings(folder / "u.data")
  ids, attributes = log.item_ids, None
  titles, texts = formats.read_items(folder / "items.tsv", ids)
  if titles is None:
    titles = texts = formats.read_film_titles(folder / "u.item", ids)
  if with_attributes:
    attributes = formats.read_item_attributes(folder / "item_attributes.json", ids)
  return Dataset(log, titles, None, attributes, texts)


def _folder(data: Data, fetch: bool) -> epath.Path:
  root = data.dir or os.environ.get("LIGHTLM_DATA_DIR", "")
  wanted = (
    f"put {data.name}/sequences.txt (a line `user item item …` for each user), or "
    "MovieLens' u.data in its place, into a folder and name it by LIGHTLM_DATA_DIR or "
    "--config.data.dir, or let python -m lightlm_jax.prepare make it of another log; "
    "configs/demo.py needs no data"
  )
  folder = workdir_lib.reachable(root or cache.cache_root() / "data") / data.name
  if not any((folder / name).exists() for name in _MARKS):
    if fetch and data.name in SOURCES:
      published.prepare(SOURCES[data.name], folder.parent)
    elif root:
      raise UserError(f"{folder / 'sequences.txt'} does not exist: {wanted}")
    else:
      raise UserError(f"no data for {data.name!r}: {wanted}")
  return folder
