"""Builds published logs as TensorFlow Datasets; no other file imports that library.

It writes ArrayRecord files, which need no TensorFlow. Each log has two configs, such
as `toys-ratings` (one example per user) and `toys-items` (one example per item).
"""

import contextlib
import sys
from typing import Any, cast

from etils import epath
import numpy as np
import polars
import requests
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import download_manager

from lightlm_jax.data.published import raw_files, reading
from lightlm_jax.data.published.raw_files import RawFile
from lightlm_jax.data.published.raw_rows import Item
from lightlm_jax.data.published.sources import SOURCES, Source
from lightlm_jax.runtime.errors import UserError, first_line
from lightlm_jax.storage import folder as folder_lib

FORMAT = "array_record"  # the default needs TensorFlow, parquet loses rows


class PublishedLog(tfds.core.GeneratorBasedBuilder):
  """A published log's interactions (config LOG-ratings) or its items (LOG-items).

  The inherited `download_and_prepare` sets `made` to the interactions or the items.
  """

  made: polars.DataFrame | list[Item]
  VERSION = tfds.core.Version("1.0.0")
  BUILDER_CONFIGS = [  # noqa: RUF012, the library's convention
    tfds.core.BuilderConfig(name=f"{name}-{part}", description=source.about)
    for name, source in SOURCES.items()
    for part in ("ratings", "items")
  ]
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    "A raw file that lies in manual_dir is taken from there. Yelp's always has to: "
    f"{SOURCES['yelp'].by_hand}."
  )

  def _info(self) -> tfds.core.DatasetInfo:
    text = tfds.features.Text()
    features: dict[str, Any] = {
      "user": text,
      "items": tfds.features.Sequence(text),
      "ratings": tfds.features.Sequence(np.float32),
      "seconds": tfds.features.Sequence(np.int64),
    }
    config: Any = self.builder_config
    if config.name.endswith("-items"):
      features = dict.fromkeys(("item", "title", "brand", "description"), text)
      features["categories"] = tfds.features.Sequence(text)
    return tfds.core.DatasetInfo(
      builder=self,
      description=config.description,
      features=tfds.features.FeaturesDict(features),
      metadata=tfds.core.MetadataDict(),
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager: tfds.download.DownloadManager):
    config: Any = self.builder_config
    name, _, part = config.name.rpartition("-")
    source = SOURCES[name]
    about: Any = self.info.metadata
    path, why = _fetch(source.ratings, dl_manager)
    if path is None:
      raise UserError(f"{source.ratings.describe()} cannot be fetched: {why}")
    raw_files.check(source.ratings, path)
    log, tally, tied = reading.read_log(source, path)
    if part == "ratings":
      self.made = log
      about |= {"lines": vars(tally), "tied_rows": tied}
      about["files"] = {path.name: folder_lib.sha256(path)}
      users = log.group_by("user", maintain_order=True).agg(
        items="item", ratings="rating", seconds="seconds"
      )
      return {"train": enumerate(users.iter_rows(named=True))}

    path, why = _fetch(source.items, dl_manager)
    about |= {"lines": None, "files": {}, "without": why}
    item_ids = log["item"].unique(maintain_order=True).to_list()
    found = {}
    if path is not None:
      found, tally = reading.read_items(source, path, item_ids)
      about["lines"] = vars(tally)
      about["files"] = {path.name: folder_lib.sha256(path)}
    self.made = [found.get(item, Item(item)) for item in item_ids]
    return {"train": enumerate(item._asdict() for item in self.made)}

  def _generate_examples(self):
    raise NotImplementedError  # the split generators yield the examples


def build(
  source: Source, folder: epath.Path, data_dir: epath.Path
) -> tuple[polars.DataFrame, list[Item], dict[str, Any], dict[str, Any]]:
  """Downloads a log and builds both of its TensorFlow Datasets in `data_dir`.

  Files that the user has put into `folder` are not downloaded.

  Returns:
    The log (see `reading.read_log`), its items, and a dict of metadata about each. If
    the file of items is unavailable, items have ids only, and the metadata say why.

  Raises:
    UserError: the log cannot be fetched, or a file is not the published one.
  """
  made, about = [], []
  for part in ("ratings", "items"):
    config = f"{source.name}-{part}"
    options = tfds.download.DownloadConfig(manual_dir=folder, try_download_gcs=False)
    try:
      # Rebuild, in case files were replaced by hand; downloads are kept.
      before = PublishedLog(data_dir=data_dir, config=config).data_path
      if before.exists():
        before.rmtree()
      builder = PublishedLog(data_dir=data_dir, config=config)
      with contextlib.redirect_stdout(sys.stderr):  # a command's stdout may be JSON
        builder.download_and_prepare(file_format=FORMAT, download_config=options)
    except (requests.RequestException, tfds.download.DownloadError) as error:
      raise UserError(f"{source.name} cannot be downloaded: {error}; start again")
    except download_manager.NonMatchingChecksumError as error:
      raise UserError(f"{source.name} came otherwise than published: {error}")
    except OSError as error:
      raise UserError(f"cannot write {data_dir}: {first_line(error)}")
    made.append(builder.made)
    about.append(dict(cast(Any, builder.info.metadata)))
  return *made, *about


def _fetch(raw: RawFile, dl_manager) -> tuple[epath.Path | None, str | None]:
  """Finds or downloads a file; returns (path, None), or (None, reason) if it fails."""
  with contextlib.suppress(AssertionError):  # manual_dir is missing or empty
    if path := raw.by_hand(dl_manager.manual_dir):
      return path, None
  if raw.url is None:
    return None, f"{raw.name} is not there"
  # Check first: the library would retry for minutes.
  if why := raw_files.unreachable(raw.url):
    return None, f"{raw.url}: {why}"
  return epath.Path(dl_manager.download(raw.url)), None
