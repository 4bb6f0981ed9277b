"""Logs of every form become the same log; what a person may ask for, and get wrong."""

import datetime
import errno
import gzip
import io
import json
import os
import tempfile

from array_record.python import array_record_module
import commands
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from raw_logs import random_rows, random_timed_rows, same, timed_log

from lightlm_jax import config as config_lib
from lightlm_jax.data import datasets, interactions, parquet_logs
from lightlm_jax.preprocess import pipeline, shards_out, stages
from lightlm_jax.runs import train
from lightlm_jax.runtime import log
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.storage import folder as folder_lib

# No two times of a user are equal.
TIMED = random_timed_rows(num_users=30, longest=8, seed=3)
# The file's order is not that of time.
TRIPLES = sorted(
  (hash_, user, item, 1_500_000_000 + time)
  for user, row in TIMED.items()
  for hash_, (time, item) in enumerate(row)
)
TRIPLES = [row[1:] for row in TRIPLES]
LOG = timed_log(
  {user: [(1_500_000_000 + t, i) for t, i in row] for user, row in TIMED.items()}
)


def prepare(path, folder, **options):
  """What `prepare` leaves of a file, read as training reads it; and its manifest."""
  manifest = pipeline.prepare(
    pipeline.Options(str(path), str(folder / "out"), **options)
  )
  assert [p.name for p in folder.iterdir() if p.name.startswith(".")] == []
  return parquet_logs.read_prepared(folder / "out"), manifest


def test_temporary_files_are_in_work_alone(tmp_path, monkeypatch):
  monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
  (tmp_path / "log.csv").write_text(as_csv(TRIPLES))
  (tmp_path / "work").mkdir()
  options = {"work": str(tmp_path / "work")}
  found, _ = prepare(tmp_path / "log.csv", tmp_path, **options)
  assert found.log.num_users == len(TIMED)
  assert not list((tmp_path / "work").iterdir())


def test_no_room_for_the_records_is_one_line(tmp_path, monkeypatch):
  class Full:
    def __init__(self, *arguments):
      pass

    def write(self, row):
      raise RuntimeError("write() failed: No space left on device; writing records")

  (tmp_path / "log.csv").write_text(as_csv(TRIPLES))
  monkeypatch.setattr(shards_out.array_record_module, "ArrayRecordWriter", Full)
  with pytest.raises(UserError, match=r"cannot write .*array_record: .*No space left"):
    prepare(tmp_path / "log.csv", tmp_path)
  assert [path.name for path in tmp_path.iterdir()] == ["log.csv"]


def test_what_a_killed_preparation_left_is_removed_by_the_next(tmp_path):
  (tmp_path / "log.csv").write_text(as_csv(TRIPLES))
  names = [".out.work-killed", ".out.work-runs", ".other.work-killed"]
  for name in names:
    (tmp_path / name).mkdir()
    (tmp_path / name / ".lock").touch()
  lock = folder_lib.try_lock(tmp_path / ".out.work-runs" / ".lock")
  assert lock is not None
  with lock.file:
    pipeline.prepare(pipeline.Options(str(tmp_path / "log.csv"), str(tmp_path / "out")))
  assert {path.name for path in tmp_path.iterdir()} == {"log.csv", "out", *names[1:]}


def test_a_preparation_that_runs_has_locked_its_folder(tmp_path, monkeypatch):
  def look(*arguments):
    (lock,) = tmp_path.glob(".out.work-*/.lock")
    assert folder_lib.try_lock(lock) is None
    raise ZeroDivisionError

  (tmp_path / "log.csv").write_text(as_csv(TRIPLES))
  monkeypatch.setattr(stages, "catalogue", look)
  with pytest.raises(ZeroDivisionError):
    prepare(tmp_path / "log.csv", tmp_path)


def iso(seconds, zone=datetime.UTC):
  return datetime.datetime.fromtimestamp(seconds, zone).isoformat()


def as_csv(rows, header="user_id,item_id,timestamp", delimiter=","):
  return "\n".join([header, *(delimiter.join(map(str, row)) for row in rows)]) + "\n"


def as_json_lines(rows):
  return "".join(
    json.dumps(dict(zip(("reviewerID", "asin", "unixReviewTime"), row))) + "\n"
    for row in rows
  )


def as_parquet(rows, time=lambda seconds: seconds, kind=None):
  users, items, seconds = zip(*rows)
  times = pyarrow.array(map(time, seconds), kind)
  table = pyarrow.table({"customer_id": users, "sku": items, "date": times})
  sink = io.BytesIO()
  pyarrow.parquet.write_table(table, sink, row_group_size=7)
  return sink.getvalue()


HOUR = datetime.timezone(datetime.timedelta(hours=-9, minutes=-30))
FORMS = {
  "log.csv": as_csv(TRIPLES),
  "semicolon.csv": as_csv(TRIPLES, "User ID;Item ID;date", ";"),
  "milliseconds.csv": as_csv((u, i, t * 1_000) for u, i, t in TRIPLES),
  "float.csv": as_csv((u, i, f"{t}.0") for u, i, t in TRIPLES),
  "iso.csv": as_csv((u, i, iso(t)) for u, i, t in TRIPLES),
  "zone.csv": as_csv((u, i, iso(t, HOUR)) for u, i, t in TRIPLES),
  "quoted.csv": as_csv((f'"{u}"', f'"{i}"', t) for u, i, t in TRIPLES),
  "headless.csv": as_csv(TRIPLES).partition("\n")[2],
  "more.csv": as_csv(
    ((t, '"a, ""b""\nc"', i, u) for u, i, t in TRIPLES), "time,text,asin,user"
  ),
  "dos.csv": as_csv(TRIPLES).replace("\n", "\r\n"),
  "log.tsv": as_csv(TRIPLES, "user\titem\tts", "\t"),
  "shop.inter": as_csv(TRIPLES, "user_id:token\titem_id:token\ttimestamp:float", "\t"),
  "log.jsonl": as_json_lines(TRIPLES),
  "log.parquet": as_parquet(TRIPLES),
  "text.parquet": as_parquet(TRIPLES, iso),
  "nano.parquet": as_parquet(
    TRIPLES, lambda t: t * 10**9 + 7, pyarrow.timestamp("ns", "Asia/Tokyo")
  ),
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_one_log_of_every_form(tmp_path, name, packed):
  content = FORMS[name] if isinstance(FORMS[name], bytes) else FORMS[name].encode()
  path = tmp_path / (f"{name}.gz" if packed else name)
  path.write_bytes(gzip.compress(content) if packed else content)
  found, manifest = prepare(path, tmp_path, yes="headless" in name)
  assert same(found.log, LOG)
  assert manifest["rows_in"] == manifest["rows"] == len(TRIPLES)
  assert manifest["rejected"] == manifest["filtered"] == {}


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_sequences(tmp_path, packed):
  rows = random_rows(seed=3)
  text = "\n".join(" ".join([user, *items]) for user, items in rows.items())
  path = tmp_path / ("sequences.txt.gz" if packed else "sequences.txt")
  path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
  found, manifest = prepare(path, tmp_path, block_bytes=64, part_bytes=100)
  assert same(found.log, interactions.from_sequences(rows.items()))
  assert manifest["rows"] == sum(map(len, rows.values()))


def test_two_colons_stand_between_columns_as_movielens_writes_them(tmp_path, capsys):
  rows = [(user, item, 5, time) for user, item, time in TRIPLES]
  lines = "".join("::".join(map(str, row)) + "\n" for row in rows)
  (tmp_path / "ratings.dat").write_text(lines + "1::2::3\n\n1::2::x\x1fy::3::9\n")
  log.set_up()
  found, manifest = prepare(tmp_path / "ratings.dat", tmp_path)
  assert same(found.log, LOG)
  assert (manifest["rows_in"], manifest["rejected"]) == (len(rows) + 2, {"columns": 2})
  shown = [line[1:] for line in manifest["rejected_examples"]["columns"]]
  assert shown[0] == (len(rows) + 1, "1::2::3")
  assert "they are taken for user, item, rating, time" in capsys.readouterr().out


def test_texts_of_films_stand_between_two_colons_too(tmp_path):
  (tmp_path / "log.csv").write_text("user,item\nu,1\nu,2\nv,1\n")
  films = '1::"Great" Cats: Part 2 (1998)::Drama|War\n2::Heat::Action\n'
  (tmp_path / "movies.dat").write_text(films)
  found, _ = prepare(tmp_path / "log.csv", tmp_path, items=str(tmp_path / "movies.dat"))
  titles = dict(zip(found.log.item_ids.tolist(), found.titles))
  assert titles == {"1": '"Great" Cats: Part 2 (1998)', "2": "Heat"}
  assert sorted(len(numbers) for numbers in found.attributes) == [1, 2]


def test_a_file_of_a_head_alone_does_not_decide_what_times_are(tmp_path):
  head, *rows = as_csv(TRIPLES).splitlines(keepends=True)
  (tmp_path / "log-0.csv").write_text(head)
  (tmp_path / "log-1.csv").write_text(head + "".join(rows))
  found, manifest = prepare(tmp_path / "log-?.csv", tmp_path)
  assert same(found.log, LOG)
  assert manifest["time_unit"] == "epoch"


def test_lines_of_sequences_that_are_none(tmp_path):
  (tmp_path / "sequences.txt").write_bytes(b"u a b\n\nv\n\xff x\nu c\n")
  found, manifest = prepare(tmp_path / "sequences.txt", tmp_path)
  assert manifest["rejected"] == {"no_item": 1, "not_utf8": 1}
  assert (manifest["rows_in"], manifest["rows"]) == (5, 3)
  assert same(found.log, interactions.from_sequences([("u", list("abc"))]))


def test_a_folder_and_a_glob_are_read_in_the_order_of_their_names(tmp_path):
  """With --ties=file, rows of equal times stand by file and line, however divided."""
  rng = np.random.default_rng(0)
  rows = [(f"u{rng.integers(5)}", f"i{n}", int(rng.integers(3))) for n in range(90)]
  for name, part in (("b", rows[60:]), ("a", rows[:30]), ("a1", rows[30:60])):
    (tmp_path / "log" / name).parent.mkdir(exist_ok=True)
    (tmp_path / "log" / f"{name}.csv").write_text(as_csv(part))
  (tmp_path / "log" / "_SUCCESS").write_text("")
  (tmp_path / "log" / "notes.txt").write_text("no log")
  by_user = {}
  for user, item, time in sorted(rows, key=lambda row: row[2]):
    by_user.setdefault(user, []).append((time, item))
  for n, pattern in enumerate(("log", "log/*.csv", "l*g/[ab]*.csv")):
    (tmp_path / f"{n}").mkdir()
    found, manifest = prepare(
      tmp_path / pattern,
      tmp_path / f"{n}",
      ties="file",
      part_bytes=100 * 3**n,
      shard_rows=9,
    )
    assert same(found.log, timed_log(by_user))
    assert [s["path"].rpartition("/")[2] for s in manifest["sources"]] == [
      "a.csv",
      "a1.csv",
      "b.csv",
    ]
  counts = [(u, t) for u, _, t in rows]
  tied = [pair for pair in counts if counts.count(pair) > 1]
  assert manifest["tied_rows"] == len(tied)
  assert manifest["tied_users"] == len({user for user, _ in tied})


def test_array_records_are_the_rows_of_the_log(tmp_path):
  (tmp_path / "log.csv").write_text(as_csv(TRIPLES))
  found, manifest = prepare(tmp_path / "log.csv", tmp_path, shard_rows=40)
  log, user = found.log, 0
  assert len(manifest["shards"]) > 2
  for shard in manifest["shards"]:
    path = tmp_path / "out" / shard["array_record"]["name"]
    assert path.stat().st_size == shard["array_record"]["bytes"]
    reader = array_record_module.ArrayRecordReader(os.fspath(path))
    assert reader.num_records() == shard["users"]
    for record in reader.read_all() if shard["users"] else []:
      n = len(record) // 12
      assert np.array_equal(np.frombuffer(record[8 * n :], np.int32), log.row(user))
      times = log.time_E[log.offset_U1[user] : log.offset_U1[user + 1]]
      assert np.array_equal(np.frombuffer(record[: 8 * n], np.int64), times)
      user += 1
    reader.close()
  assert user == log.num_users


def test_what_is_said_of_items_comes_along(tmp_path):
  (tmp_path / "shop.inter").write_text(FORMS["shop.inter"])
  lines = ["item_id:token\ttitle:token_seq\tclass:token_seq"]
  lines += [f"{item}\tA  {item}\tx y" for item in LOG.item_ids[:9]]
  (tmp_path / "shop.item").write_text("\n".join([*lines, lines[1], "\t\t", "z\t"]))
  found, manifest = prepare(tmp_path / "shop.inter", tmp_path)
  assert found.titles == [f"A {item}" for item in LOG.item_ids[:9]] + [""] * (
    LOG.num_items - 9
  )
  assert found.texts[0] == f"A {LOG.item_ids[0]} x y"
  assert [a.tolist() for a in found.attributes] == [[0, 1]] * 9 + [[]] * (
    LOG.num_items - 9
  )
  assert manifest["items_file"] == {
    "rows": 12,
    "matched": 9,
    "repeated": 1,
    "rejected": 2,
  }


def test_items_of_json_lines_with_lists(tmp_path):
  (tmp_path / "log.csv").write_text(as_csv(TRIPLES))
  rows = [
    {
      "parent_asin": str(i),
      "title": "T",
      "store": "B",
      "categories": [["x"], ["y", "x"]],
    }
    for i in LOG.item_ids
  ]
  rows[0] = {"parent_asin": str(LOG.item_ids[0]), "title": None}
  text = "".join(json.dumps(row) + "\n" for row in [*rows, {"parent_asin": 5}, [1]])
  (tmp_path / "meta.jsonl").write_text(text + "{")
  found, manifest = prepare(
    tmp_path / "log.csv", tmp_path, items=str(tmp_path / "meta.jsonl")
  )
  assert found.texts[:2] == ["", "T B x y x"]
  table = pyarrow.parquet.ParquetFile(tmp_path / "out" / "items.parquet").read()
  assert table["attributes"].to_pylist()[:2] == [
    [],
    ["brand: B", "categories: x", "categories: y"],
  ]
  assert table["rows"].to_pylist() == np.bincount(LOG.item_E).tolist()
  assert manifest["items_file"]["rejected"] == 2


def test_items_of_parquet_with_lists(tmp_path):
  (tmp_path / "log.csv").write_text(as_csv(TRIPLES))
  said = {"n": 1.5, "name": "A", "categories": ["x", "y"]}
  table = pyarrow.table(
    {"sku": LOG.item_ids[1:].tolist()}
    | {name: [value] * (LOG.num_items - 1) for name, value in said.items()}
  )
  pyarrow.parquet.write_table(table, tmp_path / "items.parquet")
  items = str(tmp_path / "items.parquet")
  found, _ = prepare(tmp_path / "log.csv", tmp_path, items=items)
  assert found.titles == ["", *["A"] * (LOG.num_items - 1)]
  assert found.texts[1] == "A x y"
  assert [len(a) for a in found.attributes] == [0, *[2] * (LOG.num_items - 1)]


@pytest.mark.parametrize(
  ("head", "title"),
  [
    ("ISBN,Book-Title,Book-Author,Year,Image-URL-S", "b"),
    ("id,name,url,pictureURL", "b"),  # artists.dat of LastFM
    ("movieId,Movie Title,x,picture", "b"),
    ("track_id,artist_name,Track Name,picture", "c"),
    ("gameid,developer,APP_NAME,picture", "c"),
    ("id,x,headline,picture", "c"),
    ("id,x,caption,title", "c"),  # a title that is a picture is none
    ("id,x,y,picture", "c"),  # no name is known: the last column of words
    ("y,x,item_id,picture", "b"),  # and never that of the ids
  ],
)
def test_titles_are_found_by_name_and_are_no_urls(tmp_path, head, title):
  (tmp_path / "log.csv").write_text("user,item\nu,1\nu,2\n")
  names = head.split(",")
  values = dict(zip(names, "abcde"))
  rows = []
  for n in (1, 2):
    row = {name: f"{value} {n}" for name, value in values.items()}
    row |= {names[-1]: f"https://x/{n}.jpg", "url": f"HTTP://x/{n}"}
    item = "item_id" if "item_id" in names else names[0]
    rows.append([(row | {item: n})[name] for name in names])
  (tmp_path / "items.csv").write_text(as_csv(rows, head))
  items = str(tmp_path / "items.csv")
  found, _ = prepare(tmp_path / "log.csv", tmp_path, items=items)
  wanted = {"1": f"{title} 1", "2": f"{title} 2"}
  assert dict(zip(found.log.item_ids.tolist(), found.titles)) == wanted
  assert not any("//" in text for text in found.texts)


def test_items_that_have_only_pictures_have_no_title(tmp_path):
  (tmp_path / "log.csv").write_text("user,item\nu,1\nu,2\n")
  (tmp_path / "items.csv").write_text("item,picture\n1,http://x/1\n2,//x/2\n")
  items = str(tmp_path / "items.csv")
  found, manifest = prepare(tmp_path / "log.csv", tmp_path, items=items)
  assert found.titles is None
  assert manifest["items_file"]["matched"] == 2


@pytest.mark.parametrize(
  ("column", "value", "wanted"),
  [
    ("categories", "Doctors, Health & Medical", ["Doctors", "Health & Medical"]),
    ("categories", "Toys, Games|Puzzles", ["Puzzles", "Toys, Games"]),
    ("categories", ["Toys, Games", "a|b"], ["Toys, Games", "a", "b"]),
    ("categories", [["Toys, Games"]], ["Toys, Games"]),
    ("categories", ", ,", []),
    ("category", "Toys, Games", ["Toys, Games"]),
    ("genres", "Sci-Fi, Drama", ["Sci-Fi, Drama"]),
  ],
)
def test_yelps_categories_are_split_at_commas_and_no_other_column(
  tmp_path, column, value, wanted
):
  (tmp_path / "log.csv").write_text("user,item\nu,1\nu,2\n")
  rows = [{"business_id": "1", "name": "x", column: value}]
  rows.append({"business_id": "2", "name": "y", column: "z"})
  (tmp_path / "b.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
  prepare(tmp_path / "log.csv", tmp_path, items=str(tmp_path / "b.json"))
  table = pyarrow.parquet.ParquetFile(tmp_path / "out" / "items.parquet").read()
  of_item = dict(zip(table["item"].to_pylist(), table["attributes"].to_pylist()))
  assert of_item["1"] == [f"{column}: {name}" for name in wanted]
  assert of_item["2"] == [f"{column}: z"]


def test_columns_are_told_and_can_be_given(tmp_path, capsys):
  (tmp_path / "log.csv").write_text(as_csv(TRIPLES, "who,what,when"))
  log.set_up()
  names = {"user": "who", "item": "what", "time": "when"}
  assert same(prepare(tmp_path / "log.csv", tmp_path, names=names)[0].log, LOG)
  users, items, seconds = zip(*TRIPLES)
  first, last = (iso(t).replace("T", " ")[:19] for t in (min(seconds), max(seconds)))
  assert capsys.readouterr().out.splitlines()[:4] == [
    f"columns of {tmp_path / 'log.csv'}:",
    f"  user    'who'   {', '.join(list(dict.fromkeys(users))[:3])}  [given]",
    f"  item    'what'  {', '.join(list(dict.fromkeys(items))[:3])}  [given]",
    f"  time    'when'  {first} to {last} in the first rows (seconds since 1970)  "
    "[given]",
  ]


def test_without_times_rows_stand_in_the_order_of_the_file(tmp_path):
  rows = random_rows(seed=5)
  pairs = [(user, item) for user, items in rows.items() for item in items]
  (tmp_path / "log.csv").write_text(as_csv(pairs, "user,item"))
  found, manifest = prepare(tmp_path / "log.csv", tmp_path)
  assert same(found.log, interactions.from_sequences(rows.items()))
  assert manifest["time_unit"] is None
  assert manifest["tied_rows"] == 0


def test_rejected_rows_are_shown_with_their_lines(tmp_path, capsys):
  text = as_csv(TRIPLES[:3]) + "u,a\n\nu,a,b,c\n,a,1\nu,a,?\nu,b,1e9\nu\n"
  (tmp_path / "log.csv").write_text(text)
  log.set_up()
  _, manifest = prepare(tmp_path / "log.csv", tmp_path)
  assert manifest["rejected"] == {"columns": 3, "no_user": 1, "bad_time": 1}
  lines = {
    reason: [line for _, line, _ in examples]
    for reason, examples in manifest["rejected_examples"].items()
  }
  assert lines == {"columns": [5, 7, 11], "no_user": [8], "bad_time": [9]}
  assert f"    {tmp_path / 'log.csv'}, line 5: 'u,a'" in capsys.readouterr().out
  with pytest.raises(UserError, match="line 5: another number of columns") as error:
    pipeline.prepare(
      pipeline.Options(str(tmp_path / "log.csv"), str(tmp_path / "b"), strict=True)
    )
  assert "--strict" in str(error.value)
  assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
  ("name", "content", "options", "complaint"),
  [
    ("log.csv", "", {}, "is empty"),
    ("log.csv", "user,item,time\n", {}, "begins with no row that has a time"),
    ("log.csv", "user,item\n", {}, "no row is left of 0"),
    ("log.csv", "user,item,time\nu,a,?\n", {}, "cannot tell the unit of 'time'"),
    ("log.csv", "user,item,time\nu,a,?\n", {"time_unit": "s"}, "line 2: .*'\\?'"),
    (
      "log.csv",
      "a,b,c\nx,y,z\n",
      {},
      "the user and the item: .* has a, b, c; .*--user='a' --item='b' or --yes",
    ),
    (
      "log.csv",
      "user,b\nx,y\n",
      {},
      "cannot tell the item: .* has user, b; .* --item='b' or --yes",
    ),
    ("log.csv", "user,item\nx,y\n", {"names": {"item": "z"}}, "no column 'z' .--item"),
    ("log.csv", "user,item\nx,y\n", {"columns": ("user",)}, "names 1 columns.*has 2"),
    ("log.csv", "user,item\nx,y\n", {"min_rating": 3.0}, "no column of ratings"),
    ("log.csv", "user,item\nx,y\n", {"duplicates": "exact"}, "compares times"),
    ("log.csv", "user,item\nx,y\n", {"k_core": 2}, "no row is left: 1 core; lower"),
    ("log.csv", "user,item\n".encode("utf-16-le"), {}, "NUL bytes; give --encoding"),
    (
      "log.csv.gz",
      gzip.compress(b"user,item\nu,a\n" * 99, mtime=0)[:-9],
      {},
      "to its end",
    ),
    ("log.csv.gz", b"\x1f\x8b" + b"x" * 50, {}, "to its end"),
    ("log.parquet", b"PAR1 no", {}, "is no Parquet file"),
    ("log.parquet", as_parquet(TRIPLES)[:-20], {}, "is no Parquet file"),
    ("log.csv", "user,item,user\nu,a,v\n", {}, "has 2 columns 'user'"),
    ("log.xyz", "user,item\nu,a\n", {}, "does not tell its format; give --format"),
    ("log.jsonl", "[1]\n", {}, "begins with no JSON object"),
    ("sequences.txt", "\n", {}, "no row is left of 0"),
    ("log.csv", "user,item\nu,a\n", {"items": "/none.csv"}, "none.csv does not exist"),
  ],
)
def test_mistakes_are_answered_in_a_line(tmp_path, name, content, options, complaint):
  path = tmp_path / name
  path.write_bytes(content if isinstance(content, bytes) else content.encode())
  with pytest.raises(UserError, match=complaint):
    prepare(path, tmp_path, **options)
  assert list(tmp_path.iterdir()) == [path]


def test_inputs_that_are_none(tmp_path):
  with pytest.raises(UserError, match="does not exist"):
    prepare(tmp_path / "none.csv", tmp_path)
  with pytest.raises(UserError, match="names no file of a log"):
    prepare(tmp_path / "*.csv", tmp_path)
  for name in ("a.csv", "b.jsonl"):
    (tmp_path / name).write_text("user,item\nu,a\n")
  with pytest.raises(UserError, match=r"several formats \(csv, jsonl\)"):
    prepare(tmp_path, tmp_path)
  (tmp_path / "b.csv").write_text("user,item,time\nu,a,5\n")
  with pytest.raises(UserError, match="give files of one kind"):
    prepare(tmp_path / "?.csv", tmp_path)
  prepare(tmp_path / "a.csv", tmp_path)
  with pytest.raises(UserError, match="is there already"):
    prepare(tmp_path / "a.csv", tmp_path)


@pytest.mark.parametrize(
  "damage",
  [
    lambda out: (out / "manifest.json").write_text("{"),
    lambda out: (out / "items.parquet").unlink(),
    lambda out: next(out.glob("inter*.parquet")).write_bytes(b"PAR1"),
    lambda out: (out / "manifest.json").write_text(
      (out / "manifest.json").read_text().replace('"version": 1', '"version": 2')
    ),
  ],
)
def test_a_damaged_folder_is_refused(tmp_path, damage):
  (tmp_path / "log.csv").write_text(as_csv(TRIPLES))
  prepare(tmp_path / "log.csv", tmp_path)
  damage(tmp_path / "out")
  with pytest.raises(UserError, match=r"prepare (it|the log) anew"):
    parquet_logs.read_prepared(tmp_path / "out")


@pytest.mark.parametrize(
  ("raised", "seen"),
  [
    (KeyboardInterrupt(), KeyboardInterrupt),
    (OSError(errno.ENOSPC, "No space left on device"), UserError),
  ],
  ids=["stopped", "disk full"],
)
@pytest.mark.parametrize("step", ["settle", "catalogue", "number", "count", "shard"])
def test_nothing_half_made_is_left(tmp_path, monkeypatch, step, raised, seen):
  def fail(*_, **__):
    raise raised

  (tmp_path / "log.csv").write_text(as_csv(TRIPLES))
  monkeypatch.setattr(stages, step, fail)
  with pytest.raises(seen):
    prepare(tmp_path / "log.csv", tmp_path)
  assert [path.name for path in tmp_path.iterdir()] == ["log.csv"]


def data_config(name, folder, cold="apart"):
  fields = {"data.name": name, "data.dir": str(folder), "ids.cold": cold}
  return config_lib.load("toys", overrides=fields)


@pytest.mark.parametrize("name", ["toys", "ml-100k"])
def test_published_logs_are_read_as_they_were(data_dir, tmp_path, name):
  file = "u.data" if name == "ml-100k" else "sequences.txt"
  cold = (
    "attributes" if (data_dir / name / "item_attributes.json").exists() else "apart"
  )
  options = pipeline.Options(
    str(data_dir / name / file), str(tmp_path / name), ties="file"
  )
  pipeline.prepare(options)
  before = datasets.load(data_config(name, data_dir, cold))
  after = datasets.load(data_config(name, tmp_path, cold))
  assert same(after.log, before.log)
  if file == "sequences.txt":
    assert after.titles == before.titles
    assert after.texts == before.texts
  if cold == "attributes":
    for a, b in zip(after.attributes, before.attributes, strict=True):
      assert np.array_equal(a, b)


def test_a_prepared_log_is_trained_on(tmp_path):
  """The two commands of README, on a log of four users."""
  rows = [(f"u{u}", f"i{(u + n) % 6}", n) for u in range(9) for n in range(6)]
  (tmp_path / "log.csv").write_text(as_csv(rows))
  flags = ["--input=log.csv", "--output=data/shop", "--report=report.json"]
  done = commands.run("lightlm_jax.prepare", *flags, cwd=tmp_path)
  assert done.returncode == 0, done.stderr
  assert "--config.data.dir=data --config.data.name=shop" in done.stdout
  assert json.loads((tmp_path / "report.json").read_text())["rows"] == 54
  fields = {"data.dir": str(tmp_path / "data"), "data.name": "shop", "baselines": ()}
  config = config_lib.load("toys:tiny", overrides=fields | {"system": "ease"})
  results = train.train(config, tmp_path / "run")
  assert results["dataset"] == "shop"
  assert results["num_users"] == 9
