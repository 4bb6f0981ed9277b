"""Downloads a published log into the data folder, in the form of other logs."""

import json
import sys

from etils import epath

from lightlm_jax.data.published import raw_files, reading
from lightlm_jax.data.published.raw_rows import Item
from lightlm_jax.data.published.sources import Source
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.storage import atomic
from lightlm_jax.storage import folder as folder_lib

LOG = "u.data"
MANIFEST = "published.json"  # its source, and the counts of all lines
_ITEMS = "items.tsv"
_ATTRIBUTES = "item_attributes.json"


def prepare(source: Source, root: epath.Path) -> None:
  """Downloads a log, or uses files that are in place already, and writes `root/NAME`.

  The log is written last, so that its presence means that all is complete. A second
  process waits for the first one.

  Args:
    source: of the log.
    root: the data folder.

  Raises:
    UserError: there is no network, or a file differs from the published one; the
      message says which file to put where.
  """
  folder = root / source.name
  start = f"no data for {source.name!r}: {folder} has neither sequences.txt nor {LOG}"
  hand = (
    f"put {source.ratings.describe()} and, for the items' texts, "
    f"{source.items.describe()} into {folder} by hand and start again, or name a "
    f"folder that has {source.name}/sequences.txt (a line `user item item …` for each "
    "user) by LIGHTLM_DATA_DIR or --config.data.dir; configs/demo.py needs no data"
  )
  if source.by_hand:
    hand = f"{source.by_hand}; {hand}"
  if "://" in str(root):
    raise UserError(f"{start}, and only a disk can be prepared; copy it there")
  if source.ratings.by_hand(folder) is None:
    if source.ratings.url is None:
      raise UserError(f"{start}, and it cannot be downloaded: {hand}")
    if why := raw_files.unreachable(source.ratings.url):
      raise UserError(f"{start}, and it cannot be downloaded ({why}): {hand}")
  atomic.make_folder(folder)
  wait = f"another process prepares {folder}: waiting for it"
  with folder_lib.locked(folder, before_waiting=lambda: _say(wait)):
    if not (folder / LOG).exists():
      _prepare(source, folder, root / "tfds")


def _prepare(source: Source, folder: epath.Path, data_dir: epath.Path) -> None:
  from lightlm_jax.data.published import builder  # noqa: PLC0415, it is slow

  _say(f"{source.name}: {source.about}; fetching and preparing it, once, in {folder}")
  log, items, about_log, about_items = builder.build(source, folder, data_dir)
  manifest = {
    "name": source.name,
    "about": source.about,
    "from": [raw.url for raw in (source.ratings, source.items)],
    "counts": log.counts._asdict(),
    "published": source.published and source.published._asdict(),
    "log": about_log,
    "items": about_items,
    "tfds": {"data_dir": data_dir.name, "name": f"published_log/{source.name}-ratings"},
  }
  if about_items["lines"] is not None:
    _write_new(folder / _ITEMS, _table(items))
    attributes = {item.item: _attributes(item) for item in items}
    _write_new(folder / _ATTRIBUTES, json.dumps(attributes, ensure_ascii=False))
  atomic.write_own(folder / MANIFEST, json.dumps(manifest, indent=2) + "\n")
  atomic.write_own(folder / LOG, _rows(log))
  _say(_describe(source, log, about_log, about_items))


def _describe(source: Source, log: reading.Log, about_log, about_items) -> str:
  parts = [f"{log.counts} interactions"]
  if source.published is None:
    parts.append("no figures in print to check them by")
  else:
    parts.append("as published")
  if tied := about_log["tied_rows"]:
    parts.append(f"{tied:,} of them in the file's order where times are equal")
  for about in (about_log, about_items):
    if about["lines"] and about["lines"]["rejected"]:
      parts.append(str(reading.Tally.of_json(about["lines"])))
  if about_items["lines"] is None:
    parts.append(
      f"no texts of the items ({about_items['without']}); for them put "
      f"{source.items.describe()} there, remove {LOG} and start again"
    )
  return f"{source.name}: {'; '.join(parts)}"


def _rows(log: reading.Log) -> str:
  lines = ["user\titem\trating\tseconds"]
  for user, name in enumerate(log.user_ids):
    for e in range(log.offset_U1[user], log.offset_U1[user + 1]):
      item, rating = log.item_ids[log.item_E[e]], log.rating_E[e]
      lines.append(f"{name}\t{item}\t{rating:g}\t{log.time_E[e]}")
  return "\n".join(lines) + "\n"


def _table(items: list[Item]) -> str:
  lines = ["item_id\ttitle\tbrand\tcategories\tdescription"]
  for item in items:
    categories = ", ".join(item.categories)
    fields = (item.item, item.title, item.brand, categories, item.description)
    lines.append("\t".join(fields))
  return "\n".join(lines) + "\n"


def _attributes(item: Item) -> list[str]:
  """Returns brand and categories, as in S3-Rec and P5."""
  return [name for name in (item.brand, *item.categories) if name]


def _write_new(path: epath.Path, content: str) -> None:
  """Writes a file unless there is one already."""
  if path.exists():
    _say(f"{path} is there already and is left as it is")
  else:
    atomic.write_own(path, content)


def _say(line: str) -> None:
  print(line, file=sys.stderr, flush=True)
