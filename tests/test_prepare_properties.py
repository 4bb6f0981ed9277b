"""Prepare against plain Python on generated files, most of them malformed."""

from collections import Counter
import contextlib
import datetime
import io
import json
import pathlib
import shutil
import tempfile

from etils import epath
from hypothesis import HealthCheck, example, given, seed, settings
from hypothesis import strategies as st
import plain_prepare as plain
import polars as pl
import pyarrow
import pyarrow.parquet
import pytest
from raw_logs import same

from lightlm_jax.data import parquet_logs
from lightlm_jax.preprocess import files, pipeline, times
from lightlm_jax.runtime.errors import UserError

HEADER = "user_id,item_id,rating,timestamp"
# Of a field: good ones, and what stands in files that went through many hands.
IDS = st.sampled_from(
  [
    "u1",
    "u2",
    "a",
    "b",
    "c",
    " a",
    "ä",
    "𝄞",
    "",
    " ",
    "a\0",
    "07",
    "7",
    "7.0",
    "NA",
    "\x1c",
    "\u2003",
    "x" * 512,
    "x" * 513,
  ]
)
TIMES = st.sampled_from(
  "1 2 3 3 3 2.5 1e3 1E+3 -1 +4 007 nan inf 1400000000 1400000000000 2020-01-01 "
  "99999999999999999999 253402300799 253402300800 1_0 0x1 1. .5 ٣  \t5".split(" ")
)
RATINGS = st.sampled_from("1 5 4.5 x nan -1 1e1  \t3".split(" "))
QUOTED = st.sampled_from(
  [
    '"a"',
    '"a,b"',
    '"a""b"',
    '"a',
    'a"',
    'a"b',
    '"a"b',
    '"a\nb"',
    '""',
    '"',
    '"a\n',
    'b"',
  ]
)
ROW = st.tuples(IDS | QUOTED, IDS | QUOTED, RATINGS, TIMES | QUOTED).map(",".join)
GOOD = st.tuples(
  st.sampled_from("uvw"),
  st.sampled_from("abcd"),
  st.just("4"),
  st.integers(0, 9).map(str),
).map(",".join)
LINE = (
  GOOD.map(str.encode)
  | ROW.map(str.encode)
  | st.lists(IDS | TIMES, max_size=6).map(",".join).map(str.encode)
  | st.sampled_from(
    [b"", b" ", b"u,a\xff,1,1", b"\xff", b",,,", HEADER.encode(), b"\x00"]
  )
  | st.binary(max_size=12)
  | st.text('u1,"\n\r a', max_size=20).map(str.encode)
)
END = st.sampled_from([b"\n", b"\n", b"\n", b"\r\n", b"\r"])
FILES = st.lists(st.tuples(LINE, END), max_size=12).map(
  lambda lines: b"".join(line + end for line, end in lines)
)
OPTIONS = st.fixed_dictionaries(
  {
    "duplicates": st.sampled_from(["keep", "exact", "first", "last"]),
    "k_core": st.integers(0, 2),
    "min_len": st.integers(1, 2),
    "max_len": st.sampled_from([0, 0, 1, 2]),
    "min_rating": st.sampled_from([None, 4.0]),
    "ties": st.sampled_from(["hash", "file"]),
    # None of these may be seen in what comes out.
    "part_bytes": st.sampled_from([16, 64, 2**20]),
    "shard_rows": st.sampled_from([1, 2, 2**20]),
    "block_bytes": st.sampled_from([8, 64, 600, 2**20]),
  }
)


def check(content, options, ending, delimiter, quotes):
  """Prepares a file as a person would; compares what comes out, or the complaint.

  Returns:
    Whether anything came out.
  """
  folder = pathlib.Path(tempfile.mkdtemp())
  try:
    path = folder / f"log{ending}"
    path.write_bytes(content)
    asked = pipeline.Options(
      str(path),
      str(folder / "out"),
      time_unit="s",
      delimiter=delimiter,
      encoding="utf-8",  # random bytes may look like Windows-1252
      **options,
    )
    quotes = quotes or plain.is_quoted(content, delimiter)
    _, kept, bad = plain.read(content, delimiter, quotes)
    roles = {"user": 0, "item": 1, "rating": 2, "time": 3}
    good, rejected, filtered = plain.valid(kept, roles, "s", options["min_rating"])
    rejected += bad
    rows_in = len(kept) + bad.total()
    names = ("duplicates", "k_core", "min_len", "max_len", "ties")
    by_user, left_out = plain.settled(good, **{name: options[name] for name in names})
    rows = sum(map(len, by_user.values()))
    filtered += left_out
    filtered["core"] = len(good) - left_out.total() - rows
    try:
      manifest = pipeline.prepare(asked)
    except UserError as error:
      if rows:
        raise AssertionError(f"{rows} rows were lost") from error
      # Nothing is left behind, neither half a log nor what was made on the way.
      assert [p.name for p in folder.iterdir()] == [path.name]
      return False
    assert manifest["rows_in"] == rows_in
    assert Counter(manifest["rejected"]) == +rejected
    assert Counter(manifest["filtered"]) == +filtered
    total = sum(manifest["rejected"].values()) + sum(manifest["filtered"].values())
    assert manifest["rows_in"] == manifest["rows"] + total
    assert manifest["rows"] == rows > 0
    log = parquet_logs.read_prepared(asked_folder := folder / "out").log
    assert same(log, plain.log_of(by_user))
    assert sorted(p.name for p in folder.iterdir()) == [path.name, asked_folder.name]
    return True
  finally:
    shutil.rmtree(folder)


# Two users with two items: what is left of most files, whatever else they hold.
SURE = b"y,p,4,1\ny,q,4,2\nz,p,4,1\nz,q,4,2\n"
ALL = {
  "duplicates": "keep",
  "k_core": 0,
  "min_len": 1,
  "max_len": 0,
  "min_rating": None,
  "ties": "hash",
  "part_bytes": 16,
  "shard_rows": 1,
  "block_bytes": 8,
}


def run(examples, **options):
  """How many files were tried, and of how many a log was made.

  `options` are more settings of hypothesis; with `seed` the files are those of a seed.
  """
  tried, own = [0, 0], options.pop("seed", None)

  @settings(max_examples=examples, suppress_health_check=list(HealthCheck), **options)
  # What was wrong once, or nearly: a mark in the middle, bytes behind an open quote, a
  # row over two lines of too many columns, a byte order mark alone, a first blank line.
  @example(b"\xef\xbb\xbf\nu,a,4,0\n", ALL, True, "")
  @example(b'"\x80\nu,a,4,0\n', ALL, True, "")
  @example(b'u,a,4,1,"x\ny"\nu,b,4,0\n"x\n",a,4,1', ALL, True, "")
  @example(b"\n\xef\xbb\xbf\nu,a,4,0", ALL, False, "\n \n")
  @example(b"u,a,4,0\n,,,\n\0\n", ALL, False, "\ufeff")
  @given(FILES, OPTIONS, st.booleans(), st.sampled_from(["", "\ufeff", "\n \n"]))
  def test(content, options, quotes, before):
    ending, delimiter = (".csv", ",") if quotes else (".tsv", ",")
    # Blocks are as long as the longest line at least, or that line is rejected.
    sure = SURE if options["part_bytes"] < 2**20 else b""
    content = f"{before}{HEADER}\n".encode() + sure + content
    longest = max(map(len, content.replace(b"\r", b"\n").split(b"\n")))
    options = options | {"block_bytes": max(options["block_bytes"], longest + 2)}
    tried[0] += 1
    tried[1] += check(content, options, ending, delimiter, quotes)

  (test if own is None else seed(own)(test))()
  return tried


def test_any_file_is_prepared_or_refused_and_no_row_is_lost():
  tried, made = run(50)
  assert tried >= 50
  assert made > 25


@pytest.mark.slow
def test_ten_thousand_malformed_files():
  tried, made = run(10_000)
  print(f"{tried} files, {made} logs")
  assert tried >= 10_000
  assert made > 5_000


JSON_IDS = st.sampled_from(
  '"u1"|"a"|" b "|7|07|7.0|7.5|1e3|null|true|""|[]|{}|"\\ud800"|"\\u0000"|NaN|-0'.split(
    "|"
  )
)
JSON_LINE = (
  st.tuples(JSON_IDS, JSON_IDS, JSON_IDS).map(
    lambda v: f'{{"user": {v[0]}, "item": {v[1]}, "time": {v[2]}}}'.encode()
  )
  | st.sampled_from([b"", b" ", b"[1]", b"{", b'"x"', b"\xff", b"{}", b"[" * 10_000])
  | st.just(b'{"user": "u", "item": "a", "time": 5}')
)


def plain_json(line):
  """(user, item, time) of a line, or why it is none, for times in seconds."""
  try:
    value = json.loads(line)
  except UnicodeDecodeError:
    return "not_utf8"
  except (ValueError, RecursionError):
    return "not_json"
  if not isinstance(value, dict):
    return "not_json"
  found = {}
  for role in ("user", "item", "time"):
    raw = value.get(role)
    if isinstance(raw, float) and raw.is_integer():
      raw = int(raw)
    is_text = isinstance(raw, str) and "\ud800" not in raw
    is_number = isinstance(raw, int | float) and not isinstance(raw, bool)
    text = str(raw) if is_text or is_number else ""
    found[role] = text.strip() if role == "time" else plain.an_id(text)
  for role in ("user", "item"):
    if not found[role]:
      return f"no_{role}"
  if "\0" in found["user"] + found["item"]:
    return "nul"
  if max(len(found["user"]), len(found["item"])) > 512:
    return "too_long"
  time = plain.micros(found["time"], "s")
  return "bad_time" if time is None else (found["user"], found["item"], time, 0)


@settings(max_examples=50, suppress_health_check=list(HealthCheck))
@given(st.lists(JSON_LINE, max_size=12), END, st.sampled_from([2, 40, 20_000]))
def test_any_json_lines(lines, end, size):
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / "log.jsonl"
    good_line = b'{"user": "u", "item": "a", "time": 5}'
    lines = [good_line, *lines]
    path.write_bytes(end.join(lines))
    longest = max(map(len, lines))
    options = pipeline.Options(
      str(path), f"{folder}/out", time_unit="s", block_bytes=max(size, longest + 2)
    )
    manifest = pipeline.prepare(options)
    found = [plain_json(line) for line in lines if line.strip()]
    assert manifest["rows_in"] == len(found)
    assert manifest["rejected"] == Counter(f for f in found if isinstance(f, str))
    by_user, _ = plain.settled([f for f in found if not isinstance(f, str)])
    log = parquet_logs.read_prepared(pathlib.Path(folder) / "out").log
    assert same(log, plain.log_of(by_user))


@settings(max_examples=300)
@given(
  st.lists(
    st.binary(max_size=9) | st.sampled_from([b"a", b"bc\rd", b"x" * 30]), max_size=9
  ),
  END,
  st.integers(1, 40),
)
def test_blocks_are_the_lines_of_a_file(lines, end, size):
  """Whatever the size of a block, lines that fit are there once and in order."""
  content = end.join([b"x", *lines])  # 1f 8b would be gzip
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / "log"
    path.write_bytes(content)
    blocks = list(files.blocks(epath.Path(path), size))
  found = []
  for block in blocks:
    if block.too_long:
      found.append(None)
    else:
      cut = block.content.split(b"\n")
      found += cut[:-1] if not cut[-1] else cut
  wanted = [raw for _, raw in plain.physical_lines(content)]
  assert len(found) == len(wanted)
  for line, raw in zip(found, wanted):
    if line is None:
      assert len(raw) > size
    else:
      assert line == raw
  assert blocks[-1].last
  assert not any(block.last for block in blocks[:-1])


TIME_TEXT = (
  st.datetimes(datetime.datetime(1902, 12, 30), datetime.datetime(2040, 1, 1)).flatmap(
    lambda moment: st.sampled_from(
      [
        moment.isoformat(),
        moment.isoformat(" "),
        moment.isoformat() + "Z",
        moment.strftime("%Y-%m-%dT%H:%M"),
        moment.strftime("%Y-%m-%d"),
        moment.isoformat() + "+05:30",
        moment.strftime("%Y-%m-%d %H:%M:%S -0800"),
        moment.strftime("%Y-%m-%d %H:%M:%S UTC"),
        moment.strftime("%Y-%m-%dT%H:%M:%S,123456789+01"),
      ]
    )
  )
  | st.sampled_from(
    "2020-02-30 2020-13-01 2020-1-1 2020-01-01T24:00 2020-01-01T1:00".split()
  )
  | st.sampled_from(
    ["2016-12-31T23:59:60Z", "2020-01-01T00:00:61", "9999-12-31T23:59:59Z"]
  )
  | st.integers(-(2**64), 2**64).map(str)
  | st.integers(0, 2**61).map(str)
  | st.floats(0, 1e12).map(repr)
  | st.text("0123456789-:T .+eZ", max_size=12)
)


@settings(max_examples=200)
@given(st.lists(TIME_TEXT, max_size=20), st.sampled_from([*times.UNITS]))
def test_times_of_any_form(texts, unit):
  found = times.micros(pl.Series(texts, dtype=pl.String), unit).to_list()
  wanted = [plain.micros(text, unit) for text in texts]
  for text, got, want in zip(texts, found, wanted, strict=True):
    # Fractions of a second are floats: neighbours of the same microsecond.
    assert got == want or (None not in (got, want) and "." in text and unit != "iso"), (
      text
    )
    if got != want:
      assert abs(got - want) <= 1 + want * 2**-52


@settings(max_examples=40)
@given(
  st.lists(st.tuples(st.integers(0), st.integers(0, 255)), min_size=1, max_size=6),
  st.none() | st.integers(0),
  st.sampled_from(["none", "snappy", "zstd"]),
)
def test_a_damaged_parquet_file_is_refused_or_all_of_it_is_counted(flips, cut, packing):
  table = pyarrow.table(
    {
      "user": [f"u{n % 7}" for n in range(60)],
      "item": pyarrow.array([f"i{n % 11}" for n in range(60)]).dictionary_encode(),
      "time": pyarrow.array(range(60), pyarrow.timestamp("ms")),
    }
  )
  sink = io.BytesIO()
  pyarrow.parquet.write_table(table, sink, row_group_size=25, compression=packing)
  content = bytearray(sink.getvalue())
  for place, value in flips:
    content[place % len(content)] = value
  if cut is not None:
    del content[cut % len(content) :]
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / "log.parquet"
    path.write_bytes(content)
    options = pipeline.Options(str(path), f"{folder}/out", time_unit="ms")
    with contextlib.suppress(UserError):
      manifest = pipeline.prepare(options)
      assert manifest["rows_in"] == 60
