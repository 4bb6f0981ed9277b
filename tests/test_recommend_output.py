"""Lists in files: after any kill nobody is lost or doubled; formats say the same."""

import csv
import itertools
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import time

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from lightlm_jax import config as config_lib
from lightlm_jax.data import datasets
from lightlm_jax.inference import output as output_lib
from lightlm_jax.runtime import processes
from lightlm_jax.runtime.errors import UserError

ROOT = pathlib.Path(__file__).parent.parent
USERS, PART = 23, 5
QUESTION = {"k": 3, "who": "everyone"}


class KilledError(Exception):
  """The process ends here."""


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
  monkeypatch.setattr(output_lib, "USERS_A_PART", PART)


def rows(index_N):
  """User n gets n % 4 items: of some there is nothing to say."""
  told = [
    (f"u,{n}", rank, f'i"{n + rank}', n / rank)
    for n in index_N.tolist()
    for rank in range(1, 1 + n % 4)
  ]
  user, rank, item, score = zip(*told) if told else ((),) * 4
  types = pyarrow.string(), pyarrow.int32(), pyarrow.string(), pyarrow.float32()
  columns = [pyarrow.array(c, t) for c, t in zip((user, rank, item, score), types)]
  return pyarrow.table(columns, ("user", "rank", "item", "score"))


def write(path, make=rows, question=QUESTION, process=(0, 1), tell=lambda n: None):
  path = output_lib.check(path)
  return output_lib.write(path, question, USERS, make, process=process, tell=tell)


def read(path):
  if path.suffix == ".parquet":
    return pyarrow.parquet.ParquetFile(path).read().to_pylist()
  text = path.read_text()
  if path.suffix == ".jsonl":
    return [json.loads(line) for line in text.splitlines()]
  found = csv.DictReader(text.splitlines())
  kinds = {"rank": int, "score": float}
  return [{name: kinds.get(name, str)(row[name]) for name in row} for row in found]


def same(found, wanted):
  assert [tuple(row) for row in found] == [tuple(row) for row in wanted]
  for one, other in zip(found, wanted, strict=True):
    assert np.float32(one.pop("score")) == np.float32(other.pop("score"))
    assert one == other


@pytest.mark.parametrize("suffix", output_lib.SUFFIXES)
def test_every_format_holds_every_row_in_order(tmp_path, suffix):
  path = tmp_path / f"recs{suffix}"
  told = []
  found = write(path, tell=told.append)
  wanted = rows(np.arange(USERS)).to_pylist()
  same(read(path), wanted)
  assert sum(told) == found["users"] == USERS
  assert found["rows"] == len(wanted)
  assert found["answered"] == sum(n % 4 > 0 for n in range(USERS))
  assert {p.name for p in tmp_path.iterdir()} == {path.name, f"{path.name}.json"}


@pytest.mark.parametrize("calls", range(6))
def test_after_a_kill_the_rest_alone_is_made(tmp_path, calls):
  """Whichever part it dies in; the file is that of a process that never died."""
  path = tmp_path / "recs.parquet"
  asked = []

  def make(index_N):
    if len(index_N) and len(asked) == calls:
      raise KilledError
    asked.append(index_N.tolist())
    return rows(index_N)

  if calls < 5:
    with pytest.raises(KilledError):
      write(path, make)
    assert not path.exists()
    calls = 10**6
  assert not write(path, make)["finished_before"]
  assert sorted(itertools.chain.from_iterable(asked)) == list(range(USERS))
  write(tmp_path / "whole.parquet")
  assert path.read_bytes() == (tmp_path / "whole.parquet").read_bytes()


@pytest.mark.parametrize("when", ["join", "manifest", "sweep"])
def test_a_kill_at_the_end_loses_nothing(tmp_path, monkeypatch, when):
  path = tmp_path / "recs.csv"

  def die(*args, **kwargs):
    raise KilledError

  names = {"join": "_join", "manifest": "_finish"}
  with monkeypatch.context() as patch:
    if when == "sweep":
      patch.setattr(type(output_lib.check(path)), "rmtree", die)
    else:
      patch.setattr(output_lib, names[when], die)
    with pytest.raises(KilledError):
      write(path)

  def never(index_N):
    assert not len(index_N)
    return rows(index_N)

  write(path, never)
  same(read(path), rows(np.arange(USERS)).to_pylist())
  assert not path.with_name("recs.csv.parts").exists()


def test_finished_before_is_said_and_not_done_again(tmp_path):
  path = tmp_path / "recs.jsonl"
  first = write(path)
  assert write(path, make=None) == {**first, "finished_before": True}
  path.unlink()
  assert not write(path)["finished_before"]


def test_a_changed_output_is_not_what_was_finished(tmp_path):
  path = tmp_path / "recs.csv"
  write(path)
  path.write_bytes(path.read_bytes()[:-1])
  with pytest.raises(
    UserError, match=r"recs\.csv is not what was written: .*remove it"
  ):
    write(path)
  path.unlink()
  assert not write(path)["finished_before"]


def test_another_question_is_refused_with_what_differs(tmp_path):
  path = tmp_path / "recs.parquet"
  with pytest.raises(KilledError):
    write(path, lambda index_N: (_ for _ in ()).throw(KilledError))
  with pytest.raises(UserError, match=r"another question \(k: 3 → 4\)"):
    write(path, question={**QUESTION, "k": 4})
  write(path)
  with pytest.raises(UserError, match=r"another question \(who: everyone → None\)"):
    write(path, question={"k": 3})
  other = tmp_path / "mine.csv"
  other.write_text("my own\n")
  with pytest.raises(UserError, match="exists already"):
    write(other)
  assert other.read_text() == "my own\n"
  other.rename(tmp_path / "mine-00001-of-00002.csv")
  with pytest.raises(UserError, match=r"mine-00001-of-00002\.csv exists already"):
    write(other, process=(0, 2))
  with pytest.raises(UserError, match=r"ends with none of \.parquet, \.csv, \.jsonl"):
    output_lib.check(tmp_path / "recs.xlsx")


def test_processes_divide_the_users(tmp_path, monkeypatch):
  """Each makes its own parts and its own file; the first vouches for all of them."""
  path = tmp_path / "recs.parquet"
  asked = {}
  for rank in (2, 1, 0):  # the first comes last: in a job it waits for the others
    asked[rank] = []
    monkeypatch.setattr(processes, "is_first", lambda rank=rank: rank == 0)

    def make(index_N, rank=rank):
      asked[rank].extend(index_N.tolist())
      return rows(index_N)

    path.with_name("recs.parquet.parts").mkdir(exist_ok=True)
    found = write(path, make, process=(rank, 3))
  assert sorted(itertools.chain.from_iterable(asked.values())) == list(range(USERS))
  files = [f"recs-{rank:05d}-of-00003.parquet" for rank in range(3)]
  assert found["files"] == files
  assert found["rows"] == len(rows(np.arange(USERS)))
  together = [row for name in files for row in read(tmp_path / name)]
  key = lambda row: (row["user"], row["rank"])  # noqa: E731
  wanted = rows(np.arange(USERS)).to_pylist()
  assert sorted(together, key=key) == sorted(wanted, key=key)
  assert not (tmp_path / "recs.parquet.parts").exists()


def test_a_disk_that_refuses_is_one_line(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match=r"cannot write .*file/recs\.csv"):
    write(tmp_path / "file" / "recs.csv")
  path = tmp_path / "recs.parquet"
  with pytest.raises(KilledError):
    write(path, lambda index_N: rows(index_N) if 0 in index_N else kill())
  (tmp_path / "recs.parquet.parts" / "000000.parquet").write_bytes(b"nonsense")
  with pytest.raises(UserError, match=r"cannot write .*recs\.parquet"):
    write(path)


def kill():
  raise KilledError


def start(count, run, *flags):
  """`count` processes of the command, each with a device of its own."""
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    address = f"127.0.0.1:{free.getsockname()[1]}"
  kept = {n: v for n, v in os.environ.items() if not n.lower().endswith("_proxy")}
  command = [sys.executable, "-m", "lightlm_jax.recommend", "--platform=cpu"]
  return [
    subprocess.Popen(
      [*command, f"--workdir={run}", *flags]
      + ([f"--distributed={address},{count},{rank}"] if count > 1 else []),
      env=kept | {"PYTHONPATH": str(ROOT)},
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    for rank in range(count)
  ]


def ends(running):
  said = [process.communicate(timeout=300)[0] for process in running]
  assert [process.returncode for process in running] == [0] * len(running), said
  return said


@pytest.fixture(scope="module")
def many(demo_run, tmp_path_factory):
  """Histories of 7,000 new users, four parts; and the lists of one whole process."""
  folder = tmp_path_factory.mktemp("many")
  log = datasets.load(config_lib.load("demo:tiny")).log
  rng = np.random.default_rng(0)
  lines = [
    {"user": f"v{n}", "history": rng.choice(log.item_ids, 1 + n % 7).tolist()}
    for n in range(7_000)
  ]
  (folder / "h.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
  flags = f"--histories={folder / 'h.jsonl'}", f"--output={folder / 'whole.parquet'}"
  ends(start(1, demo_run[0], *flags))
  return flags[0], folder / "whole.parquet"


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_a_command_that_is_killed_goes_on(demo_run, many, tmp_path, count):
  """By SIGKILL, as soon as a part is there; then started again to its end."""
  histories, whole = many
  wanted = read(whole)
  assert len({row["user"] for row in wanted}) == 7_000
  assert len(wanted) == 70_000
  flags = histories, f"--output={tmp_path / 'recs.parquet'}"
  running = start(count, demo_run[0], *flags)
  deadline = time.monotonic() + 240
  while not list(tmp_path.glob("recs.parquet.parts/*.parquet")):
    assert all(process.poll() is None for process in running), ends(running)
    assert time.monotonic() < deadline
    time.sleep(0.005)
  for process in running:
    process.kill()
    process.communicate()
  made = list(tmp_path.glob("recs.parquet.parts/*.parquet"))
  assert 0 < len(made) < 4
  said = ends(start(count, demo_run[0], *flags))
  asked = int(re.search(r"([\d,]+) users asked", said[0])[1].replace(",", ""))
  assert asked < 7_000
  files = sorted(tmp_path.glob("recs*.parquet"))
  assert len(files) == count
  found = [row for file in files for row in read(file)]
  assert len(found) == len(wanted)
  key = lambda row: (row["user"], row["rank"])  # noqa: E731
  for one, other in zip(sorted(found, key=key), sorted(wanted, key=key)):
    # Several processes divide the CPU's threads, and sums are rounded apart.
    assert one.pop("score") == pytest.approx(other.pop("score"), rel=1e-4)
    assert one == other


TEXTS = ["=1+2", "+1", "-1", "@sum", "\t=1", "\r=1", "a=b", "", "Grün", '="x"']


@pytest.mark.parametrize("safe", [True, False])
def test_no_text_is_a_formula_in_a_csv_for_spreadsheets(tmp_path, safe):
  def make(index_N):
    names = [TEXTS[n % len(TEXTS)] for n in index_N.tolist()]
    columns = names, np.full(len(names), -1.5, np.float32), ["=2"] * len(names)
    return pyarrow.table(columns, ("item", "score", "text")).append_column(
      "rank", pyarrow.array(np.ones(len(names), np.int32))
    )

  path = tmp_path / "lists.csv"
  write(path, make, QUESTION | ({"csv_safe": True} if safe else {}))
  with path.open(newline="") as file:
    found = list(csv.DictReader(file))
  for row, text in zip(found, [*TEXTS, *TEXTS], strict=False):
    formula = safe and text[:1] in tuple("=+-@\t\r")
    assert row["item"] == ("'" if formula else "") + text
    assert row["score"] == "-1.5"  # a number is one
    assert row["text"] == ("'=2" if safe else "=2")


def test_csv_safe_is_for_csv(tmp_path):
  with pytest.raises(UserError, match="--csv_safe is for tables in CSV"):
    output_lib.check(tmp_path / "lists.parquet", csv_safe=True)
  assert output_lib.check(tmp_path / "lists.csv", csv_safe=True)
