"""Packed, recoded and partitioned files become the log that they are as plain UTF-8."""

import bz2
import gzip
import io
import json
import lzma
import zipfile

import commands
from etils import epath
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from raw_logs import same

from lightlm_jax.data import interactions, parquet_logs
from lightlm_jax.preprocess import files, pipeline
from lightlm_jax.runtime.errors import UserError

HEADER = "user,item,time\n"
ROWS = [(f"u{n % 7}", f"i{n * n % 11}", 1_500_000_000 + n) for n in range(300)]


def as_csv(rows, header=HEADER):
  return header + "".join(f"{','.join(map(str, row))}\n" for row in rows)


def log_of(rows):
  """The log of (user, item, seconds), rows in the order of their times."""
  by_user = {}
  for user, item, time in rows:
    by_user.setdefault(user, []).append((item, time))
  return interactions.from_sequences(
    [(user, [item for item, _ in row]) for user, row in by_user.items()],
    times=[[time for _, time in row] for row in by_user.values()],
  )


def prepare(path, out, **options):
  manifest = pipeline.prepare(pipeline.Options(str(path), str(out), **options))
  return parquet_logs.read_prepared(out), manifest


def zstd(content):
  return pyarrow.Codec("zstd").compress(content, asbytes=True)


def zipped(*members, packing=zipfile.ZIP_DEFLATED):
  sink = io.BytesIO()
  with zipfile.ZipFile(sink, "w", packing) as archive:
    for name, content in members:
      archive.writestr(name, content)
  return sink.getvalue()


# Each in two streams, one after the other, as parallel packers leave them; zstd's begin
# with a frame that readers have to skip.
SKIPPED = b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd"
PACKED = {
  "gz": lambda a, b: gzip.compress(a) + gzip.compress(b),
  "bz2": lambda a, b: bz2.compress(a) + bz2.compress(b),
  "zst": lambda a, b: SKIPPED + zstd(a) + zstd(b),
  "zip": lambda a, b: zipped(
    ("log/", b""), ("log/log.csv", a + b), ("__MACOSX/log/._log.csv", b"x")
  ),
}


def packed(ending, content):
  return PACKED[ending](content[:999], content[999:])


@pytest.mark.parametrize("ending", PACKED)
@pytest.mark.parametrize("name", ["log.csv.{}", "LOG.CSV.{}", "log.csv"])
def test_a_packed_file_is_read(tmp_path, ending, name):
  path = tmp_path / name.format(ending.upper() if "LOG" in name else ending)
  path.write_bytes(packed(ending, as_csv(ROWS).encode()))
  found, manifest = prepare(path, tmp_path / "out", block_bytes=500)
  assert same(found.log, log_of(ROWS))
  assert manifest["rows_in"] == manifest["rows"] == len(ROWS)


@pytest.mark.parametrize("ending", PACKED)
def test_of_a_packed_file_its_own_bytes_are_read(tmp_path, ending):
  rng = np.random.default_rng(0)
  content = b"".join(b"%d\n" % n for n in rng.integers(1e15, size=100_000))
  path = epath.Path(tmp_path / f"log.csv.{ending}")
  path.write_bytes(packed(ending, content))
  blocks = list(files.blocks(path, 2**16))
  assert b"".join(block.content for block in blocks) == content
  read, size = [block.read for block in blocks], path.stat().length
  assert read == sorted(read)
  assert read[0] < 0.7 * size < 0.9 * size < read[-1] <= size


@pytest.mark.parametrize("ending", PACKED)
def test_a_damaged_packed_file_is_a_line(tmp_path, ending):
  path = tmp_path / f"log.csv.{ending}"
  path.write_bytes(packed(ending, as_csv(ROWS).encode())[:-9])
  with pytest.raises(UserError, match=rf"cannot read .*{ending} to its end"):
    prepare(path, tmp_path / "out")
  assert list(tmp_path.iterdir()) == [path]


def test_a_packed_file_counts_as_larger_than_it_is(tmp_path):
  sizes = {}
  for ending in ("csv", "csv.gz", "CSV.GZ", "csv.bz2", "csv.zst", "csv.zip"):
    path = epath.Path(tmp_path / f"log.{ending}")
    path.write_bytes(b"x" * 100)
    sizes[ending] = pipeline._parts([(path, "csv")], 10)
  assert sizes.pop("csv") == 10
  assert set(sizes.values()) == {60}


def secret(content):
  """The zip file with the bit of each header that says: encrypted."""
  content = bytearray(content)
  content[6] |= 1
  content[content.rindex(b"PK\x01\x02") + 8] |= 1
  return bytes(content)


PLAIN = as_csv(ROWS).encode()


@pytest.mark.parametrize(
  ("name", "content", "complaint"),
  [
    ("log.csv.xz", lzma.compress(PLAIN), "packed as xz, which is not read; unpack it"),
    ("log.csv", lzma.compress(PLAIN), "packed as xz"),
    ("log.7z", b"7z\xbc\xaf\x27\x1c\x00\x04", "packed as 7z"),
    ("log.csv.rar", b"Rar!\x1a\x07\x01\x00", "packed as rar"),
    ("a.zip", zipped(("a.csv", PLAIN), ("b.csv", PLAIN)), "a zip of 2 files.*unpack"),
    ("log.csv.zip", zipped(), "a zip of 0 files"),
    ("log.csv.zip", secret(zipped(("a.csv", PLAIN))), "cannot unpack .*password"),
    ("log.zip", zipped(("a.csv", PLAIN)), "does not tell its format; give --format"),
    ("log.parquet.zst", zstd(b"PAR1"), "Parquet packed as zstd, which is not read"),
  ],
)
def test_what_cannot_be_unpacked_is_named(tmp_path, name, content, complaint):
  path = tmp_path / name
  path.write_bytes(content)
  with pytest.raises(UserError, match=complaint):
    prepare(path, tmp_path / "out")
  assert list(tmp_path.iterdir()) == [path]


def test_a_block_has_a_bounded_number_of_lines(tmp_path):
  """Each line is a row or a rejected one, of far more memory than one byte."""
  content = b"x" * 2**21 + b"\n" * 2**21 + b"y\n" * 2**20 + b"z"
  path = epath.Path(tmp_path / "log.csv.gz")
  path.write_bytes(gzip.compress(content, 1))
  blocks = list(files.blocks(path))
  assert max(files.count_lines(block.content) for block in blocks) <= 2**20 + 1
  assert b"".join(block.content for block in blocks) == content
  assert [block.last for block in blocks] == [False] * (len(blocks) - 1) + [True]


NAMES = {  # what the encoding can write
  "utf-16": ["Ünal", "日本", "𝄞", "Ċ਍"],  # with bytes of \n and \r within characters
  "utf-16-le": ["Ünal", "日本", "Ċ਍"],
  "utf-16-be": ["Ünal", "日本", "Ċ਍"],
  "utf-8-sig": ["Ünal", "日本"],
  "cp1251": ["Привет", "мир"],
  "shift_jis": ["日本", "ソ表"],  # the second byte of each is a backslash
  "gb18030": ["中文", "𝄞"],
  "iso-2022-jp": ["日本"],  # the decoder has a state
}


@pytest.mark.parametrize("encoding", NAMES)
@pytest.mark.parametrize("size", [61, 2**20])
def test_an_encoding_may_be_given(tmp_path, encoding, size):
  names = NAMES[encoding]
  rows = [(u, names[n % len(names)] + i, t) for n, (u, i, t) in enumerate(ROWS[:50])]
  path = tmp_path / "log.csv"
  path.write_bytes(as_csv(rows).replace("\n", "\r\n").encode(encoding))
  found, manifest = prepare(path, tmp_path / "a", encoding=encoding, block_bytes=size)
  assert same(found.log, log_of(rows))
  assert manifest["rejected"] == {}
  if encoding in ("utf-16", "utf-8-sig"):  # they begin with a mark, which is stronger
    for number, given in enumerate((None, "cp1251")):
      found, _ = prepare(path, tmp_path / f"{number}", encoding=given)
      assert same(found.log, log_of(rows))


def test_a_big_endian_mark_is_found_in_a_packed_file(tmp_path):
  text = "\ufeff" + as_csv(ROWS)
  (tmp_path / "log.csv.gz").write_bytes(gzip.compress(text.encode("utf-16-be")))
  assert same(prepare(tmp_path / "log.csv.gz", tmp_path / "out")[0].log, log_of(ROWS))


@pytest.mark.parametrize("name", ["klingon", "hex", "rot13", "undefined", "a\0"])
def test_an_encoding_that_is_none_is_refused(tmp_path, name):
  (tmp_path / "log.csv").write_text(as_csv(ROWS))
  with pytest.raises(UserError, match=r"^--encoding=.* is no encoding that Python"):
    prepare(tmp_path / "log.csv", tmp_path / "out", encoding=name)


def test_the_flag_of_the_encoding(tmp_path):
  rows = [(u, "я" + i, t) for u, i, t in ROWS]
  (tmp_path / "log.csv").write_bytes(as_csv(rows).encode("cp1251"))
  items = "item,title\n" + "".join(f"{i},мир {i}\n" for _, i, _ in rows[:9])
  (tmp_path / "items.csv").write_bytes(items.encode("cp1251"))
  flags = ["--input=log.csv", "--output=out", "--items=items.csv", "--encoding=cp1251"]
  done = commands.run("lightlm_jax.prepare", *flags, cwd=tmp_path)
  assert done.returncode == 0, done.stderr
  found = parquet_logs.read_prepared(tmp_path / "out")
  assert same(found.log, log_of(rows))
  titles = dict(zip(found.log.item_ids.tolist(), found.titles))
  assert titles[rows[0][1]] == f"мир {rows[0][1]}"


def lines_of(form, names):
  """A log of one user, in bytes of Windows-1252; names are the items."""
  if form == "sequences.txt":
    text = f"u {' '.join(names)}\n"
  elif form == "log.jsonl":
    rows = [{"user": "u", "item": name} for name in names]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
  else:
    text = "user,item\n" + "".join(f"u,{name}\n" for name in names)
  return text.encode("cp1252")


@pytest.mark.parametrize("form", ["log.csv", "log.jsonl", "sequences.txt"])
@pytest.mark.parametrize(
  "names",
  [
    ["Café", "b", "à", "5€"],
    ["Müß", "Straße", "×", "Œuvre"],
    ["“Heat”", "Don’t"],
  ],
)
def test_windows_1252_is_found_and_said_once(tmp_path, logged, form, names):
  path = tmp_path / form
  path.write_bytes(lines_of(form, names))
  found, manifest = prepare(path, tmp_path / "out")
  assert same(found.log, interactions.from_sequences([("u", names)]))
  assert manifest["rejected"] == {}
  said = f"{path} is not UTF-8; it is read as Windows-1252 (another: --encoding)"
  assert [line for line in logged if "is read as" in line] == [said]


@pytest.mark.parametrize(
  "raws",
  [
    [b"a\xff"],  # a letter of one town in France
    [b"\xff"],
    [b"\xe9"],  # a letter that stands at no word
    [b"a\x80"],
    [b"\x83A"],  # half a character of Shift-JIS
    [b"Caf\xe9\x81"],  # no byte of Windows-1252
    [b"Caf\xe9\x01"],
    ["Привет мир".encode("cp1251")],
    ["TVпульт пульт".encode("cp1251")],
    ["καλημέρα".encode("cp1253")],
    ["中文中文".encode("gb18030")],
  ],
)
def test_other_bytes_are_rejected(tmp_path, logged, raws):
  content = b"user,item\nu,a\n" + b"".join(b"u,%b\n" % raw for raw in raws)
  (tmp_path / "log.csv").write_bytes(content)
  _, manifest = prepare(tmp_path / "log.csv", tmp_path / "out")
  assert manifest["rejected"] == {"not_utf8": len(raws)}
  assert manifest["rows"] == 1
  assert not [line for line in logged if "is read as" in line]


def test_one_line_of_latin_1_does_not_make_a_utf_8_file_another(tmp_path):
  content = "user,item\nu,Tür\n".encode() + b"u,Caf\xe9\n"
  (tmp_path / "log.csv").write_bytes(content)
  found, manifest = prepare(tmp_path / "log.csv", tmp_path / "out")
  assert found.log.item_ids.tolist() == ["Tür"]
  assert manifest["rejected_examples"] == {"not_utf8": [(0, 3, r"u,Caf\xe9")]}


def test_bytes_that_the_encoding_does_not_have_reject_their_lines(tmp_path):
  good = "user,item\nu,a\n"
  damaged = {
    "utf-16": f"\ufeff{good}".encode("utf-16-le") + b"u\0,\0\x00\xd8\n\0u\0,\0b\0\n\0u",
    "ascii": good.encode() + "u,é\nu,b\nu,ä".encode(),
    "cp1252": good.encode() + b"u,\x81\nu,b\n\x81",
    "shift_jis": good.encode() + b"u,\xfd\nu,b\nu,\x83",
  }
  for encoding, content in damaged.items():
    (tmp_path / "log.csv").write_bytes(content)
    found, manifest = prepare(
      tmp_path / "log.csv", tmp_path / encoding, encoding=encoding
    )
    assert found.log.item_ids[found.log.row(0)].tolist() == ["a", "b"], encoding
    lines = [line for _, line, _ in manifest["rejected_examples"]["not_utf8"]]
    assert lines == [3, 5], encoding


def test_a_table_that_mysql_wrote_in_latin_1(tmp_path):
  (tmp_path / "log.csv").write_text('"User-ID";"ISBN"\n"1";"05"\n"1";"06"\n"2";"07"\n')
  lines = [
    '"ISBN";"Book-Title";"Year"',
    r'"05";"Les Misérables \"1\"; vol";"1999"',
    r'"06";"a\";"1999"',  # a backslash at the end of a field, as everywhere else
    r'"07";"a \"b\"";"1;9"',
  ]
  (tmp_path / "books.csv").write_bytes("\r\n".join(lines).encode("latin-1"))
  found, manifest = prepare(
    tmp_path / "log.csv", tmp_path / "out", items=str(tmp_path / "books.csv")
  )
  assert dict(zip(found.log.item_ids.tolist(), found.titles)) == {
    "05": 'Les Misérables "1"; vol',
    "06": "a\\",
    "07": 'a "b"',
  }
  assert manifest["items_file"]["rejected"] == 0


def test_a_folder_of_partitions(tmp_path):
  """Rows of equal times stand in the order of the folders' and files' names."""
  folder = tmp_path / "log"
  parts = {
    "dt=2024-01-01/hour=00/part-0.csv": 1,
    "dt=2024-01-01/hour=01/part-0.csv": 2,
    "dt=2024-01-01/part-1.csv": 3,
    "dt=2024-01-02/part-0.csv": 4,
    "part-9.csv": 5,
    # What is left out.
    "dt=2024-01-02/_temporary/part-0.csv": None,
    "dt=2024-01-02/.part-0.csv": None,
    "_dt=3/part-0.csv": None,
    "old/part-0.csv": None,
    "dt=2024-01-02/_SUCCESS": None,
  }
  for name, item in reversed(parts.items()):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(as_csv([("u", item or "none", 7)]))
  (folder / "items.tsv").write_text("item\ttitle\n1\tOne\n")
  found, manifest = prepare(folder, tmp_path / "out", ties="file")
  assert found.log.item_ids[found.log.row(0)].tolist() == list("12345")
  read = [source["path"] for source in manifest["sources"]]
  assert read == [f"{folder}/{name}" for name, item in parts.items() if item]
  assert manifest["sources"][0]["columns"].keys() == {"user", "item", "time"}
  assert sorted(found.titles) == ["", "", "", "", "One"]


def test_a_folder_of_parquet_partitions(tmp_path):
  for day in ("01", "02"):
    path = tmp_path / "log" / f"dt=2024-01-{day}" / "part-0.parquet"
    path.parent.mkdir(parents=True)
    table = pyarrow.table({"user": ["u"], "item": [day], "time": [int(day)]})
    pyarrow.parquet.write_table(table, path)
  found, _ = prepare(tmp_path / "log", tmp_path / "out")
  assert found.log.item_ids[found.log.row(0)].tolist() == ["01", "02"]


@pytest.mark.parametrize(
  ("content", "reason"),
  [
    (
      HEADER + "u,a,1500000000,\nu,b,1500000001,\n",
      "2 columns (the first: {}, line 2: another number of columns than the first "
      "line: 'u,a,1500000000,')",
    ),
    (
      '"user","item","time"\n"1","u1","a",1500000000\n',
      "1 columns (the first: {}, line 2: another number of columns than the first "
      'line: \'"1","u1","a",1500000000\')',
    ),
    (
      HEADER + 'u,"a"b,1500000000\n',
      "1 quotes (the first: {}, line 2: quotes that do not match: "
      "'u,\"a\"b,1500000000')",
    ),
    (
      HEADER.encode() + b"u,\xff,1500000000\n",
      "1 not_utf8 (the first: {}, line 2: bytes that are not UTF-8, or not of "
      "--encoding: 'u,\\\\xff,1500000000')",
    ),
  ],
  ids=["trailing comma", "row names", "quotes", "bytes"],
)
def test_if_no_row_can_be_read_the_reason_is_named(tmp_path, content, reason):
  path = tmp_path / "log.csv"
  path.write_bytes(content if isinstance(content, bytes) else content.encode())
  with pytest.raises(UserError) as error:
    prepare(path, tmp_path / "out")
  rows = reason.partition(" ")[0]
  assert str(error.value) == f"no row is left of {rows}: {reason.format(path)}"


def test_rows_behind_many_rejected_ones_tell_the_unit(tmp_path):
  bad, good = "u,a,1500000000,\n" * 20_000, as_csv(ROWS, header="")
  assert len(bad) > 2**18  # more than is looked at once
  (tmp_path / "log.csv").write_text(HEADER + bad + good)
  found, manifest = prepare(tmp_path / "log.csv", tmp_path / "out")
  assert same(found.log, log_of(ROWS))
  assert manifest["rejected"] == {"columns": 20_000}
  assert manifest["time_unit"] == "epoch"
