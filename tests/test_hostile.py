"""Files of any origin are read as data: whatever they hold, nothing of it is run."""

import ast
import contextlib
import functools
import hashlib
import json
import pathlib
import pickle
import re
import shutil

from etils import epath
from hostile_files import bomb, kinds
import numpy as np
import pyarrow
import pytest
import served as small

from lightlm_jax.data import formats, parquet_logs
from lightlm_jax.evaluation import users as users_lib
from lightlm_jax.ids import codes
from lightlm_jax.inference import output as output_lib
from lightlm_jax.inference import queries as queries_lib
from lightlm_jax.inference import state_index as latent_decoding
from lightlm_jax.preprocess import tables
from lightlm_jax.runs import recommend as recommend_lib
from lightlm_jax.runs.recommender import Recommender
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.storage import json_text, parquet

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture
def mark(tmp_path):
  """What a bomb leaves; it is not there in the end, and the bomb does work."""
  path = tmp_path / "somebody-was-here"
  pickle.loads(bomb(path)).close()
  assert path.exists()
  path.unlink()
  yield path
  assert not path.exists()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
  """A saved recommender that has every kind of file: checkpoints, ids, a log."""
  path = tmp_path_factory.mktemp("saved") / "run"
  log = small.log()
  fields = {
    "train.steps": 2,
    "train.eval_every": 2,
    "train.history_buckets": (),
    "split.kind": "none",
    "baselines": (),
    "model.num_layers": 1,
    "model.num_decoder_layers": 1,
  }
  table = {"user": log.user_ids[log.user_E], "item": log.item_ids[log.item_E]}
  Recommender.from_config("demo:tiny", **fields).fit(table).save(path)
  return path


def refused_or_data(call):
  """A hostile file is refused, or is data like any other: no other exception."""
  with contextlib.suppress(UserError):
    call()


@pytest.mark.slow
def test_no_file_of_a_saved_run_is_a_pickle(saved):
  for path in saved.rglob("*"):
    if path.is_file():
      assert not re.match(rb"\x80[\x02-\x05]", path.read_bytes()), path


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kind", ["pickle", "npz of objects", "parquet"])
def test_a_run_with_a_hostile_file_is_refused_or_runs_without_it(
  saved, tmp_path, mark, kind
):
  hostile = kinds(mark)[kind]
  files = sorted(p.relative_to(saved) for p in saved.rglob("*") if p.is_file())
  # Of the arrays of a checkpoint one stands for all.
  chosen = [p for p in files if "/d/" not in str(p)]
  chosen += [p for p in files if "/d/" in str(p)][:1]
  assert len(chosen) > 8
  for n, name in enumerate(chosen):
    run = shutil.copytree(saved, tmp_path / str(n))
    (run / name).write_bytes(hostile)
    # Without the digests, as one would who put it there.
    for digests in run.glob("checkpoints/*/sha256.json"):
      digests.unlink()
    asked = functools.partial(recommend_lib.recommend, run, users=["u1"], k=1)
    refused_or_data(asked)
    assert not mark.exists(), name
    shutil.rmtree(run)


@pytest.mark.parametrize("kind", ["pickle", "npz of objects", "npy of objects", "zip"])
def test_hostile_ids_are_no_ids(tmp_path, mark, kind):
  folder = tmp_path / "codes"
  book = small.book(small.log())
  codes.save(book, folder)
  (folder / "codes.npz").write_bytes(kinds(mark)[kind])
  assert codes.load(folder) is None


def test_a_hostile_memory_is_built_anew(tmp_path, mark):
  folder = epath.Path(tmp_path / "latent")
  about = {"ids_sha256": "0"}
  arrays = np.zeros((2, 3), np.float16), np.arange(2, dtype=np.int32)
  latent_decoding.cached(folder, about, lambda: arrays)
  for kind in ("pickle", "npy of objects", "npz of objects"):
    (folder / "states.npy").write_bytes(kinds(mark)[kind])
    found = latent_decoding.cached(folder, about, lambda: arrays)
    np.testing.assert_array_equal(found[0], arrays[0])


@pytest.mark.parametrize(
  "states",
  [np.zeros((3, 3), np.float16), np.zeros((2, 3)), np.zeros(2, np.float16)],
)
def test_a_memory_of_another_shape_with_its_digest_is_built_anew(tmp_path, states):
  folder = epath.Path(tmp_path / "latent")
  about = {"ids_sha256": "0"}
  whole = np.zeros((2, 3), np.float16), np.arange(2, dtype=np.int32)
  latent_decoding.cached(folder, about, lambda: (states, whole[1]))
  found = latent_decoding.cached(folder, about, lambda: whole)
  np.testing.assert_array_equal(found[0], whole[0])


SUFFIXES = ("parquet", "csv", "tsv", "jsonl", "inter")


@pytest.mark.parametrize("kind", list(kinds("x")))
def test_hostile_logs_tables_and_lists_are_one_line(tmp_path, mark, kind):
  hostile = kinds(mark)[kind]

  def put(name):
    path = tmp_path / name
    path.write_bytes(hostile)
    return path

  readers = [
    lambda: formats.read_sequences(put("sequences.txt")),
    lambda: formats.read_ratings(put("u.data")),
    lambda: formats.read_item_attributes(put("a.json"), np.array(["x"])),
    lambda: list(queries_lib.read_histories(put("h.jsonl"))),
    lambda: users_lib.read(epath.Path(put("users.parquet"))),
    lambda: json_text.read(epath.Path(put("m.json")), "write it anew"),
    *(lambda s=s: tables.dataset(put(f"log.{s}")) for s in SUFFIXES),
  ]
  for read in readers:
    refused_or_data(read)
    assert not mark.exists()


def test_a_hostile_snapshot_with_its_own_digests_is_data(tmp_path, mark):
  """Who can write a file can write its SHA-256."""
  folder = epath.Path(tmp_path / "log")
  parquet_logs.write_snapshot(tables.dataset({"user": ["a"], "item": ["x"]}), folder)
  for kind, hostile in kinds(mark).items():
    (folder / "interactions.parquet").write_bytes(hostile)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["sha256"]["interactions.parquet"] = hashlib.sha256(hostile).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    refused_or_data(lambda: parquet_logs.read_snapshot(folder))
    assert not mark.exists(), kind


def test_a_hostile_manifest_reads_no_file_outside(tmp_path, mark):
  """Names in manifests are looked up, never opened."""
  outside = tmp_path / "outside.parquet"
  rows = pyarrow.table({"user": ["spy"], "item": ["x"]})
  outside.write_bytes(parquet.to_bytes(rows))
  folder = epath.Path(tmp_path / "log")
  parquet_logs.write_snapshot(tables.dataset({"user": ["a"], "item": ["x"]}), folder)
  manifest = {"sha256": {"../outside.parquet": "0", "interactions.parquet": "0"}}
  (folder / "manifest.json").write_text(json.dumps(manifest))
  with pytest.raises(UserError, match="not the log that was written"):
    parquet_logs.read_snapshot(folder)
  path = epath.Path(tmp_path / "recs.csv")
  manifest = {"question": {}, "files": ["../outside.parquet"]}
  path.with_name("recs.csv.json").write_text(json.dumps(manifest))
  with pytest.raises(UserError, match="names no files of its own"):
    output_lib._claim(path, {}, 1)
  assert outside.exists()


@pytest.mark.slow
@pytest.mark.parametrize(
  "text",
  [
    "{\"system\": \"__import__('os').system('touch MARK')\"}",
    '{"model": {"dtype": "!!python/object/apply:os.system"}}',
    '{"data": {"dir": "$(touch MARK)"}}',
    "1e999999",
    '"\\ud800"',
  ],
)
def test_a_hostile_config_is_data(saved, tmp_path, mark, text):
  """A run's config.json is JSON: only --config names files that are programs."""
  run = shutil.copytree(saved, tmp_path / "run")
  given = text.replace("MARK", str(mark))
  config = json.loads((run / "config.json").read_text())
  if given.startswith("{"):
    for group, value in json.loads(given).items():
      config[group] = {**config[group], **value} if isinstance(value, dict) else value
    given = json.dumps(config)
  (run / "config.json").write_text(given)
  refused_or_data(lambda: recommend_lib.recommend(run, users=["u1"], k=1))
  assert not mark.exists()


def test_nothing_here_reads_pickles_or_runs_text():
  """By the source: no such module, no such call, and numpy is always told so."""
  forbidden = {
    "pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal",
    "shelve", "jsonpickle", "torch",
  }  # fmt: skip
  # The peers that are measured beside ours, and tests that compare with them.
  peers = {"benchmarks/t5.py", "benchmarks/t5_training.py", "benchmarks/peers.py"}
  for path in sorted((ROOT / "lightlm_jax").rglob("*.py")):
    where = str(path.relative_to(ROOT / "lightlm_jax"))
    for node in ast.walk(ast.parse(path.read_text())):
      names = []
      if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
      elif isinstance(node, ast.ImportFrom):
        names = [node.module or ""]
      for name in names:
        if where not in peers:
          assert name.partition(".")[0] not in forbidden, where
      if isinstance(node, ast.Call):
        call = ast.unparse(node.func)
        assert call not in ("eval", "exec", "compile", "os.system"), where
        assert not re.search(r"pickle|torch\.load|yaml\.(unsafe_)?load$", call), where
        if call in ("np.load", "numpy.load"):
          told = {k.arg: ast.unparse(k.value) for k in node.keywords}
          assert told.get("allow_pickle") == "False", where
        for keyword in node.keywords:
          assert (keyword.arg, ast.unparse(keyword.value)) != ("shell", "True"), where
