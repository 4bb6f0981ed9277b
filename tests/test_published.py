"""Published logs into the data folder: by hand, from a server, and what goes wrong.

The server is this machine's own; the maker's are never asked.
"""

import dataclasses
import http.server
import json
import os
import subprocess
import sys
import threading

from etils import epath
import numpy as np
import pytest
import raw_files as raw
from raw_logs import raw_rows, same, timed_rows

from lightlm_jax import config as config_lib
from lightlm_jax.data import datasets
from lightlm_jax.data.published import placing as folder_lib
from lightlm_jax.data.published import raw_files, sources
from lightlm_jax.runtime import log as log_lib
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.storage import folder

USERS = ["A2VNYWOPJ13AFP", "A30TL5EWN6DFXT", "ASY55RVNIL0UD", "AWG2O9C42XW5G", "ALQ4"]
ITEMS = ["0000013714", "B00004U9JO", "B003EYVXV4", "B00LKJ5UQ2", "1400501466"]
EVENTS = [*raw.block(USERS, ITEMS), ("A0000001", "B003EYVXV4", 5)]


@pytest.fixture
def root(tmp_path, monkeypatch):
  monkeypatch.delenv("LIGHTLM_DATA_DIR", raising=False)
  for name in ("http_proxy", "https_proxy", "all_proxy"):
    monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv(name.upper(), raising=False)
  return tmp_path / "data"


@pytest.fixture
def server(tmp_path):
  """An address where tmp_path/www lies, and the paths that it was asked for."""
  asked = []

  class Handler(http.server.SimpleHTTPRequestHandler):
    def __init__(self, *arguments):
      super().__init__(*arguments, directory=str(tmp_path / "www"))

    def log_message(self, *_):
      asked.append(f"{self.command} {self.path}")

  (tmp_path / "www").mkdir()
  with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as served:
    threading.Thread(target=served.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{served.server_port}/", asked
    served.shutdown()


def use(monkeypatch, name="toys", **fields):
  """Changes what is known of a source for a test."""
  changed = dataclasses.replace(sources.SOURCES[name], **fields)
  monkeypatch.setitem(sources.SOURCES, name, changed)
  return changed


def load(root, name="toys", attributes=False, **options):
  fields = {"data.name": name, "data.dir": str(root), "input.attributes": attributes}
  return datasets.load(config_lib.load("lite_llm4rec", overrides=fields), **options)


def write_toys(folder):
  raw.write(folder / raw.REVIEWS, [raw.review_2014(*event) for event in EVENTS])
  lines = [raw.meta_2014(item, title=f"Toy\t{item}") for item in ITEMS[:3]]
  lines[1] = raw.meta_2014(ITEMS[1], title=None, brand=None)
  raw.write(folder / raw.META, [raw.meta_2014("B00LIKED"), "{not a dict", *lines])


def test_files_that_were_put_by_hand(root, monkeypatch, capsys, logged):
  use(monkeypatch, published=sources.Counts(5, 5, 25))
  write_toys(root / "toys")
  monkeypatch.setattr(log_lib.console(), "stderr", True)  # as --dry_run sets it
  dataset = load(root, attributes=True)
  # Raw ids, order, times and texts are those of the files.
  assert timed_rows(dataset.log) == {
    user: [(time, item) for who, item, time in EVENTS if who == user] for user in USERS
  }
  title = dict(zip(dataset.log.item_ids.tolist(), dataset.titles))
  assert title == {
    "0000013714": "Toy 0000013714",
    "B00004U9JO": "",
    "B003EYVXV4": "Toy B003EYVXV4",
    "B00LKJ5UQ2": "",
    "1400501466": "",
  }
  text = dict(zip(dataset.log.item_ids.tolist(), dataset.texts))
  assert text["0000013714"] == (
    "Toy 0000013714 Dr. Seuss Puzzles, Jigsaw Puzzles Fractions and decimals."
  )
  number = dict(zip(dataset.log.item_ids.tolist(), map(len, dataset.attributes)))
  assert number == dict(zip(ITEMS, [3, 2, 3, 0, 0]))
  assert capsys.readouterr().out == ""  # where --dry_run promises JSON
  assert logged[-1] == (
    "toys: 5 users / 5 items / 25 interactions; as published; 1 of 5 lines cannot be "
    "read (1 not a Python literal; line 2: not a Python literal)"
  )

  manifest = json.loads((root / "toys" / "published.json").read_text())
  assert manifest["counts"] == {"users": 5, "items": 5, "interactions": 25}
  lines = manifest["log"]["lines"]
  assert lines["filtered"] == {"below 5-core": 1}
  assert lines["lines"] == lines["kept"] + 1 == len(EVENTS)
  assert manifest["items"]["lines"]["rejected"] == {"not a Python literal": 1}
  digest = folder.sha256(epath.Path(root / "toys" / raw.REVIEWS))
  assert manifest["log"]["files"] == {raw.REVIEWS: digest}
  assert not list((root / "toys").glob("*.part"))


def test_what_was_prepared_is_read_without_the_library(root, monkeypatch):
  use(monkeypatch, published=None)
  write_toys(root / "toys")
  log = load(root).log
  monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
  monkeypatch.setattr(folder_lib, "prepare", None)
  for name in (raw.REVIEWS, raw.META):
    (root / "toys" / name).unlink()
  assert raw_rows(load(root).log) == raw_rows(log)


def test_no_tensorflow(root, tmp_path):
  """Preparing and reading import none of it; whoever loads a log imports nothing."""
  write_toys(root / "toys")
  script = (
    "import sys, dataclasses\n"
    "from lightlm_jax import config\n"
    "from lightlm_jax.data import datasets\n"
    "from lightlm_jax.data.published import raw_files, sources\n"
    "assert 'tensorflow_datasets' not in sys.modules\n"
    "toys = dataclasses.replace(sources.SOURCES['toys'], published=None)\n"
    "sources.SOURCES['toys'] = toys\n"
    f"toys = config.load('toys', overrides={{'data.dir': {str(root)!r}}})\n"
    "log = datasets.load(toys).log\n"
    "print(datasets.describe(log))\n"
    "assert 'tensorflow_datasets' in sys.modules\n"
    "assert 'tensorflow' not in sys.modules\n"
  )
  done = subprocess.run(
    [sys.executable, "-c", script],
    env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    cwd=tmp_path,
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout == "5 users, 5 items, 25 interactions, 5.00 a user\n"


def test_a_server_that_is_reached(root, server, tmp_path, monkeypatch):
  address, asked = server
  write_toys(tmp_path / "www")
  toys = sources.SOURCES["toys"]
  use(
    monkeypatch,
    published=sources.Counts(5, 5, 25),
    ratings=toys.ratings._replace(url=address + raw.REVIEWS),
    items=toys.items._replace(url=address + raw.META),
  )
  dataset = load(root)
  assert raw_rows(dataset.log) == {user: ITEMS for user in USERS}
  assert "Toy 0000013714" in dataset.titles
  fetched = [what for what in asked if what.startswith("GET")]
  assert sorted(fetched) == [f"GET /{raw.META}", f"GET /{raw.REVIEWS}"]
  load(root)
  assert [what for what in asked if what.startswith("GET")] == fetched
  # What is there by hand goes before the server: other lines, asked for anew.
  (root / "toys" / "u.data").unlink()
  raw.write(
    root / "toys" / raw.REVIEWS,
    [raw.review_2014(u, i, -t % 10**10) for u, i, t in EVENTS],
  )
  assert raw_rows(load(root).log) == {user: ITEMS[::-1] for user in USERS}
  assert [what for what in asked if what.startswith("GET")] == fetched


def test_items_that_the_server_lacks_are_missed_in_words(
  root, server, tmp_path, monkeypatch, logged
):
  address, _ = server
  write_toys(tmp_path / "www")
  toys = sources.SOURCES["toys"]
  use(
    monkeypatch,
    published=None,
    ratings=toys.ratings._replace(url=address + raw.REVIEWS),
    items=toys.items._replace(url=address + "nothing.gz"),
  )
  dataset = load(root)
  assert raw_rows(dataset.log) == {user: ITEMS for user in USERS}
  assert dataset.titles is dataset.texts is None
  last = logged[-1]
  assert "no figures in print to check them by" in last
  assert "no texts of the items (" in last
  assert "it answers 404" in last


def test_another_file_than_the_published_one(root, server, tmp_path, monkeypatch):
  address, _ = server
  lines = [f"{user}::{item}::5::{time}" for user, item, time in EVENTS]
  films = ["0000013714::Toy Story (1995)::Comedy"]
  members = {"ml-1m/ratings.dat": lines, "ml-1m/movies.dat": films}
  path = raw.pack(tmp_path / "www" / "ml-1m.zip", members)
  known = sources.SOURCES["ml-1m"]
  here = address + "ml-1m.zip"
  ratings = known.ratings._replace(url=here)
  items = known.items._replace(url=here)
  use(monkeypatch, "ml-1m", published=None, ratings=ratings, items=items)
  with pytest.raises(UserError, match=r"is not the published ml-1m\.zip: its SHA-256"):
    load(root, "ml-1m")
  assert not (root / "ml-1m" / "u.data").exists()
  digest = folder.sha256(epath.Path(path))
  use(monkeypatch, "ml-1m", ratings=ratings._replace(sha256=digest))
  dataset = load(root, "ml-1m")
  assert dataset.log.num_users == 6
  assert "Toy Story (1995)" in dataset.titles
  # Where all of it is there, unpacked, nothing is asked of anybody.
  for name, content in members.items():
    raw.write(root / name, content)
  (root / "ml-1m" / "u.data").unlink()
  monkeypatch.setattr(raw_files, "unreachable", lambda url: "asked")
  assert raw_rows(load(root, "ml-1m").log) == raw_rows(dataset.log)


def test_the_server_ends_in_the_middle(root, monkeypatch):
  from lightlm_jax.data.published import builder  # noqa: PLC0415

  def download(*_):
    raise builder.requests.ConnectionError("connection reset")

  monkeypatch.setattr(raw_files, "unreachable", lambda url: None)
  monkeypatch.setattr(
    builder.tfds.download.DownloadManager, "download", download, raising=True
  )
  with pytest.raises(UserError, match="toys cannot be downloaded: connection reset"):
    load(root)
  assert [p.name for p in (root / "toys").iterdir()] == [".lock"]


@pytest.mark.parametrize("name", ["toys", "sports", "ml-1m", "amazon2023-Video_Games"])
def test_without_a_network_the_line_says_what_to_put_where(root, name):
  with pytest.raises(UserError) as error:
    load(root, name)
  line = str(error.value)
  source = sources.SOURCES[name]
  for part in (
    f"no data for {name!r}",
    "no network in tests",
    source.ratings.download,
    source.ratings.url,
    source.items.download,
    f"into {root / name}",
    f"{name}/sequences.txt",
    "LIGHTLM_DATA_DIR",
    "--config.data.dir",
    "configs/demo.py needs no data",
  ):
    assert part in line
  assert not root.exists()


def test_yelp_is_fetched_by_a_person(root, monkeypatch):
  monkeypatch.setattr(raw_files, "unreachable", None)  # nobody is asked
  with pytest.raises(UserError) as error:
    load(root, "yelp")
  for part in (
    "accept the terms at https://www.yelp.com/dataset",
    "yelp_academic_dataset_review.json and",
    "yelp_academic_dataset_business.json into",
    "configs/demo.py needs no data",
  ):
    assert part in str(error.value)
  use(monkeypatch, "yelp", published=None)
  dates = [f"2019-0{month}-01 10:00:00" for month in range(1, 6)]
  raw.write(
    root / "yelp" / "yelp_academic_dataset_review.json",
    [
      raw.review_yelp(user, item, date)
      for user in USERS
      for item, date in zip(ITEMS, dates)
    ],
  )
  raw.write(
    root / "yelp" / "yelp_academic_dataset_business.json",
    [raw.business_yelp(item, f"The {item}") for item in ITEMS],
  )
  dataset = load(root, "yelp")
  assert raw_rows(dataset.log) == {user: ITEMS for user in USERS}
  assert set(dataset.titles) == {f"The {item}" for item in ITEMS}
  assert np.diff(dataset.log.time_E[:5]).tolist() == [
    days * 86_400 for days in (31, 28, 31, 30)
  ]


def test_a_bucket_is_not_prepared(monkeypatch):
  monkeypatch.setattr(raw_files, "unreachable", None)  # nobody is asked
  with pytest.raises(UserError, match="only a disk can be prepared"):
    folder_lib.prepare(sources.SOURCES["toys"], epath.Path("gs://bucket/data"))


def test_another_size_leaves_nothing_behind(root, monkeypatch):
  write_toys(root / "toys")
  before = {path.name for path in (root / "toys").iterdir()}
  with pytest.raises(UserError) as error:
    load(root)
  for size in ("5 users / 5 items / 25", "19,412 users / 11,924 items / 167,597"):
    assert size in str(error.value)
  assert {path.name for path in (root / "toys").iterdir()} == before | {".lock"}
  assert not list(root.rglob("*.array_record*"))


def test_what_a_person_wrote_stays(root, monkeypatch, logged):
  use(monkeypatch, published=None)
  write_toys(root / "toys")
  mine = "item_id\ttitle\n0000013714\tmine\n"
  (root / "toys" / "items.tsv").write_text(mine)
  assert "mine" in load(root).titles
  assert (root / "toys" / "items.tsv").read_text() == mine
  assert "items.tsv is there already and is left as it is" in " ".join(logged)
  (root / "beauty").mkdir()
  (root / "beauty" / "sequences.txt").write_text("u a b c\n")
  assert raw_rows(load(root, "beauty").log) == {"u": ["a", "b", "c"]}


def test_no_folder_was_named(root, monkeypatch, tmp_path):
  """Then it is prepared beside the other things that are kept between runs."""
  use(monkeypatch, published=None)
  monkeypatch.setenv("LIGHTLM_CACHE_DIR", str(tmp_path / "kept"))
  with pytest.raises(UserError, match=r"no data for 'toys'.* name it by LIGHTLM"):
    load("", fetch=False)
  write_toys(tmp_path / "kept" / "data" / "toys")
  log = load("").log
  assert log.num_users == 5
  assert raw_rows(load("", fetch=False).log) == raw_rows(log)
  with pytest.raises(UserError, match="does not exist: put beauty/sequences"):
    load(root, "beauty", fetch=False)


def test_who_comes_second_waits_and_finds_it(root, monkeypatch):
  """Two processes of a run on one disk: one prepares, both read the same."""
  write_toys(root / "toys")
  script = (
    "import sys, dataclasses\n"
    "from lightlm_jax import config\n"
    "from lightlm_jax.data import datasets\n"
    "from lightlm_jax.data.published import sources\n"
    "from lightlm_jax.runtime import log as log_lib\n"
    "log_lib.set_up(stderr=True)\n"
    "toys = dataclasses.replace(sources.SOURCES['toys'], published=None)\n"
    "sources.SOURCES['toys'] = toys\n"
    f"toys = config.load('toys', overrides={{'data.dir': {str(root)!r}}})\n"
    "log = datasets.load(toys).log\n"
    "print(datasets.describe(log))\n"
  )
  env = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
  started = [
    subprocess.Popen(
      [sys.executable, "-c", script],
      env=env,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for _ in range(2)
  ]
  found = [process.communicate(timeout=120) for process in started]
  assert [process.returncode for process in started] == [0, 0], found
  assert len({out for out, _ in found}) == 1
  assert sum("fetching and preparing it" in err for _, err in found) == 1


def test_reviews_alone_are_a_log_without_texts(root, monkeypatch, logged):
  use(monkeypatch, published=None)
  write_toys(root / "toys")
  (root / "toys" / raw.META).unlink()
  assert load(root).titles is None
  last = logged[-1]
  assert "no texts of the items (" in last
  assert f"for them put {raw.META} (" in last
  # As that line says.
  write_toys(root / "toys")
  (root / "toys" / "u.data").unlink()
  assert "Toy 0000013714" in load(root).titles


def test_movielens_100k_whole(root, data_dir, monkeypatch):
  """The maker's lines, packed as the maker does, give the log that is read plainly."""
  plain = load(data_dir, "ml-100k")
  members = {
    name: (data_dir / "ml-100k" / name).read_text("latin-1").splitlines()[1:]
    for name in ("u.data", "u.item")
  }
  path = raw.pack(
    root / "ml-100k" / "ml-100k.zip",
    {f"ml-100k/{name}": lines for name, lines in members.items()},
  )
  ratings = sources.SOURCES["ml-100k"].ratings
  digest = folder.sha256(epath.Path(path))
  use(monkeypatch, "ml-100k", ratings=ratings._replace(sha256=digest))
  fetched = load(root, "ml-100k", attributes=True)
  assert same(fetched.log, plain.log)
  assert fetched.titles == [" ".join(title.split()) for title in plain.titles]
  assert max(map(len, fetched.attributes)) >= 5


@pytest.mark.slow
def test_toys_whole_is_its_own_5_core(root, data_dir):
  """The published sequences as reviews: nothing is filtered, nothing changes places."""
  lines = (data_dir / "toys" / "sequences.txt").read_text().splitlines()
  rows = {user: items for user, *items in map(str.split, lines)}
  raw.write(
    root / "toys" / raw.REVIEWS,
    [
      raw.review_2014(user, item, 10**9 + 86_400 * (place // 2))
      for user, items in rows.items()
      for place, item in enumerate(items)
    ],
  )
  log = load(root).log
  assert (log.num_users, log.num_items, len(log.item_E)) == (19_412, 11_924, 167_597)
  assert raw_rows(log) == rows
