"""Prepare's two engines leave the same files, byte for byte."""

import gzip
import importlib.util

import numpy as np
import pytest

from lightlm_jax.preprocess import pipeline
from lightlm_jax.runtime.errors import UserError

MISSING = importlib.util.find_spec("apache_beam") is None
needs_beam = pytest.mark.skipif(
  MISSING, reason="no apache_beam (extra `beam`): its engine was not compared"
)
IN_MEMORY = "--runner=DirectRunner --direct_running_mode=in_memory"
PROCESSES = (
  "--runner=DirectRunner --direct_running_mode=multi_processing --direct_num_workers=2"
)


@pytest.fixture
def log(tmp_path):
  """Three files of few users and times, so that many are equal; some rows are none."""
  rng = np.random.default_rng(0)
  (tmp_path / "log").mkdir()
  for file in range(3):
    rows = [
      f"u{rng.integers(40)},i{rng.integers(150)},{rng.integers(1, 6)},{rng.integers(9)}"
      for _ in range(400)
    ]
    rows[5 * file] = "u1,i1"
    rows[77] = '"u2\n",i1,5,4'
    rows[99] = f",i{file},5,?"
    text = "\n".join(["user,item,rating,time", *rows]).encode()
    (tmp_path / "log" / f"{file}.csv.gz").write_bytes(gzip.compress(text))
  return tmp_path / "log"


def prepare(log, out, engine, **options):
  beam_options = options.pop("beam_options", "")
  return pipeline.prepare(
    pipeline.Options(
      str(log), str(out), engine=engine, beam_options=beam_options, **options
    )
  )


def files(folder):
  return {path.name: path.read_bytes() for path in folder.iterdir()}


@needs_beam
@pytest.mark.slow
@pytest.mark.parametrize("how", [IN_MEMORY, PROCESSES], ids=["threads", "processes"])
@pytest.mark.parametrize(
  ("duplicates", "ties"), [("keep", "hash"), ("last", "hash"), ("last", "file")]
)
def test_engines_leave_the_same_files(log, tmp_path, how, duplicates, ties):
  options = dict(
    duplicates=duplicates,
    ties=ties,
    k_core=4,
    max_len=20,
    min_rating=2.0,
    part_bytes=20_000,
    shard_rows=300,
    block_bytes=500,
  )
  here = prepare(log, tmp_path / "here", "one_machine", **options)
  there = prepare(log, tmp_path / "there", "beam", beam_options=how, **options)
  assert len(here["shards"]) > 1
  assert here["rejected"] == {"columns": 3, "no_user": 3}
  assert here["filtered"].keys() >= {"core", "max_len", "low_rating"}, here["filtered"]
  assert here["tied_rows"] > 50
  found = files(tmp_path / "here")
  assert found == files(tmp_path / "there")
  assert {s["parquet"]["name"] for s in there["shards"]} < found.keys()
  assert len(list(tmp_path.iterdir())) == 3


@needs_beam
@pytest.mark.slow
def test_a_mistake_is_a_line_here_too(log, tmp_path):
  out = tmp_path / "out"
  with pytest.raises(UserError, match=r"0\.csv\.gz, line 2: .*without --strict"):
    prepare(log, out, "beam", beam_options=IN_MEMORY, strict=True)
  damaged = log / "1.csv.gz"
  damaged.write_bytes(damaged.read_bytes()[:-20])
  with pytest.raises(UserError, match=r"cannot read .*1\.csv\.gz to its end"):
    prepare(log, out, "beam", beam_options=IN_MEMORY)
  assert list(tmp_path.iterdir()) == [log]


@pytest.mark.skipif(not MISSING, reason="apache_beam is installed")
def test_without_beam_the_extra_is_named(log, tmp_path):
  with pytest.raises(UserError, match=r"pip install .*beam"):
    prepare(log, tmp_path / "out", "beam")
  assert list(tmp_path.iterdir()) == [log]
