"""Downloads a published log into the data folder, in the format of users' own logs."""

import json
import logging

from etils import epath

from lightlm_jax.data.published import raw_files
from lightlm_jax.data.published.sources import Source
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.storage import atomic
from lightlm_jax.storage import folder as folder_lib

logger = logging.getLogger(__name__)

LOG = "u.data"


def prepare(source: Source, root: epath.Path) -> None:
  """Writes the folder `root / source.name`; downloads raw files that are missing.

  The file of the log is written last: if it exists, the folder is complete. If another
  process is writing the folder, this one waits for it.

  Raises:
    UserError: `root` is not on a disk, the log cannot be fetched, or a file differs
      from the published one; the message says what to do.
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
  with folder_lib.locked(folder, before_waiting=lambda: logger.info(wait)):
    if not (folder / LOG).exists():
      _prepare(source, folder, root / "tfds")


def _prepare(source: Source, folder: epath.Path, data_dir: epath.Path) -> None:
  from lightlm_jax.data.published import builder, reading  # noqa: PLC0415, slow

  logger.info(
    f"{source.name}: {source.about}; fetching and preparing it, once, in {folder}"
  )
  log, items, about_log, about_items = builder.build(source, folder, data_dir)
  counts = reading.counts(log)
  manifest = {
    "name": source.name,
    "about": source.about,
    "from": [raw.url for raw in (source.ratings, source.items)],
    "counts": counts._asdict(),
    "published": source.published and source.published._asdict(),
    "log": about_log,
    "items": about_items,
    "tfds": {"data_dir": data_dir.name, "name": f"published_log/{source.name}-ratings"},
  }
  if about_items["lines"] is not None:
    lines = ["item_id\ttitle\tbrand\tcategories\tdescription"]
    for *texts, categories, description in items:
      lines.append("\t".join((*texts, ", ".join(categories), description)))
    _write_new(folder / "items.tsv", "\n".join(lines) + "\n")
    # Brand and categories, as in S3-Rec and P5.
    of_item = {i.item: list(filter(None, (i.brand, *i.categories))) for i in items}
    content = json.dumps(of_item, ensure_ascii=False)
    _write_new(folder / "item_attributes.json", content)
  atomic.write_own(folder / "published.json", json.dumps(manifest, indent=2) + "\n")
  lines = ["user\titem\trating\tseconds"]
  for user, item, rating, seconds in log.iter_rows():
    lines.append(f"{user}\t{item}\t{rating:g}\t{seconds}")
  atomic.write_own(folder / LOG, "\n".join(lines) + "\n")

  unknown = "no figures in print to check them by"
  parts = [f"{counts} interactions", "as published" if source.published else unknown]
  if tied := about_log["tied_rows"]:
    parts.append(f"{tied:,} of them in the file's order where times are equal")
  for about in (about_log, about_items):
    if about["lines"] and about["lines"]["rejected"]:
      parts.append(str(reading.Tally(**about["lines"])))
  if about_items["lines"] is None:
    parts.append(
      f"no texts of the items ({about_items['without']}); for them put "
      f"{source.items.describe()} there, remove {LOG} and start again"
    )
  logger.info(f"{source.name}: {'; '.join(parts)}")


def _write_new(path: epath.Path, content: str) -> None:
  if path.exists():
    logger.info(f"{path} is there already and is left as it is")
  else:
    atomic.write_own(path, content)
