"""An artefact says elsewhere, without this package, what the run says here."""

import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys

from etils import epath
from hostile_files import Bomb
import jax
import numpy as np
import pytest
import served as small

from lightlm_jax.inference import artefact, serve
from lightlm_jax.inference import queries as queries_lib
from lightlm_jax.runs import export as export_lib
from lightlm_jax.runs.recommender import Recommender
from lightlm_jax.runtime.errors import UserError

K, E = 5, 16
# The loader of the artefact's README, in a process that cannot import this package.
ELSEWHERE = """
import sys
class Absent:
  def find_spec(self, name, path=None, target=None):
    if name.partition(".")[0] in ("lightlm_jax", "flax", "optax", "orbax"):
      raise ImportError(f"{name} is not here")
sys.meta_path.insert(0, Absent())
import json
{loader}
folder, question = sys.argv[1:]
asked = json.load(open(question))
recommend = open_artefact(folder)
found = [recommend(**arguments) for arguments in asked]
assert not any(name.startswith("lightlm_jax") for name in sys.modules)
print(json.dumps(found))
"""


def elsewhere(folder, tmp_path, *asked):
  """What a process without this package gets from the folder."""
  question = tmp_path / "question.json"
  question.write_text(json.dumps(asked))
  kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
  done = subprocess.run(
    [
      sys.executable,
      "-c",
      ELSEWHERE.replace("{loader}", small.loader(folder)),
      str(folder),
      str(question),
    ],
    cwd=tmp_path,
    env=kept | {"JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
    timeout=600,
    check=False,
  )
  assert done.returncode == 0, done.stderr[-3000:]
  return json.loads(done.stdout.splitlines()[-1])


def make(name, folder):
  """The artefact of an untrained system, and the system."""
  _, built, params = small.build(name)
  served = serve.ready(built, params, small.one_device(), 32)
  history = built.system.max_history
  history = 12 if history is None else history
  exported = artefact.program(
    served, k=K, history=history, exclusions=E, platforms=("cpu", "cuda", "tpu")
  )
  log = small.log()
  manifest = artefact.write(
    epath.Path(folder), exported, log.item_ids, log.user_ids, {"system": name}
  )
  return served, exported, manifest


@pytest.mark.parametrize(
  "name",
  [
    pytest.param(name, marks=() if name == "lightlm" else pytest.mark.slow)
    for name in small.NAMES
  ],
)
def test_elsewhere_the_lists_are_those_of_the_run(name, tmp_path):
  served, exported, manifest = make(name, tmp_path / "artefact")
  log = small.log()
  questions = queries_lib.everyone(log)
  shelf = [item for item in log.item_ids.tolist() if int(item[1:]) % 3]
  histories = [
    log.item_ids[questions.requests.row(n)].tolist() for n in range(small.USERS)
  ]
  known = {"histories": histories, "users": questions.names.tolist()}
  new = {"histories": [*histories[:2], ["what", *histories[2]]], "allow": shelf}
  found = elsewhere(tmp_path / "artefact", tmp_path, known, new)
  allowed_I = np.isin(log.item_ids, shelf)
  nobody = questions.requests.take(np.arange(3))
  nobody.user_N[:] = -1
  for lists, requests, opened in (
    (found[0], questions.requests, None),
    (found[1], nobody, allowed_I),
  ):
    items_NK, scores_NK = serve.recommend(served, requests, k=K, allowed_I=opened)
    assert len(lists) == len(requests)
    for row, items_K, scores_K in zip(lists, items_NK, scores_NK):
      items_K = items_K[items_K >= 0]
      assert [item for item, _ in row] == log.item_ids[items_K].tolist()
      np.testing.assert_allclose(
        [score for _, score in row], scores_K[: len(items_K)], rtol=2e-5
      )
  # Only who is asked by name has to be known there.
  reads = name in ("bpr_mf", "lightlm", "ensemble")
  assert exported.reads_users == reads
  assert manifest["users"] == (log.num_users if reads else 0)
  assert all(np.prod(x.shape) for x in exported.weights.values())


def test_the_folder_is_what_the_manifest_says(tmp_path):
  folder = tmp_path / "artefact"
  _, exported, manifest = make("sasrec", folder)
  assert json.loads((folder / "manifest.json").read_text()) == manifest
  files = {path.name for path in folder.iterdir()}
  assert files == {*manifest["sha256"], "manifest.json"}
  for name, sha256 in manifest["sha256"].items():
    assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == sha256
  assert manifest["platforms"] == ["cpu", "cuda", "tpu"]
  assert manifest["arguments"]["history"] == ["b", 8]
  assert manifest["results"]["items"] == ["b", K]
  # No call that only this process, or only this version of XLA, could answer.
  text = jax.export.deserialize(bytearray(exported.serialized)).mlir_module()
  assert "CustomSPMDPartitioning" not in text
  assert "python" not in text
  # Nor a path of the machine that it was made on.
  for told in (b"site-packages", b"lightlm_jax", b"sasrec.py", b"test_export"):
    assert told not in exported.serialized
  assert not list(tmp_path.glob("*.part"))
  with pytest.raises(UserError, match="exists already"):
    make("sasrec", folder)


def test_the_commands_artefact_is_the_recommenders(tmp_path):
  log = small.log()
  table = {"user": log.user_ids[log.user_E], "item": log.item_ids[log.item_E]}
  model = Recommender.from_config("demo:tiny", system="item_knn", baselines=())
  model.fit(table).save(tmp_path / "run")
  manifest = export_lib.export(tmp_path / "run", tmp_path / "artefact", k=K, longest=12)
  assert (manifest["system"], manifest["decoding"]) == ("item_knn", None)
  scope = {}
  exec(small.loader(tmp_path / "artefact"), scope)
  recommend = scope["open_artefact"](tmp_path / "artefact")
  user = log.user_ids[11]
  (found,) = recommend([log.item_ids[log.row(11)].tolist()])
  wanted = model.recommend([user], k=K)
  assert [item for item, _ in found] == wanted["item"].to_list()


def test_what_cannot_be_exported_is_one_line(tmp_path, monkeypatch):
  with pytest.raises(UserError, match=r"config\.json does not exist"):
    export_lib.export(tmp_path / "none", tmp_path / "artefact")
  with pytest.raises(UserError, match="--platforms has 'gpu'; choose from cpu, cuda"):
    export_lib.export(tmp_path, tmp_path / "artefact", platforms=["gpu"])
  with pytest.raises(UserError, match="exists already"):
    export_lib.export(tmp_path, tmp_path)
  find = artefact.importlib.util.find_spec
  monkeypatch.setattr(
    artefact.importlib.util,
    "find_spec",
    lambda name: None if name == "safetensors" else find(name),
  )
  with pytest.raises(UserError, match=r"safetensors, which is not .*\[export\]"):
    export_lib.export(tmp_path, tmp_path / "artefact")


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
  """The function of README's loader for a small artefact."""
  folder = tmp_path_factory.mktemp("loader") / "artefact"
  make("item_knn", folder)
  scope = {}
  exec(small.loader(folder), scope)
  return scope["open_artefact"](folder)


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({"histories": 5}, "histories: 5 is no list"),
    ({"histories": [None]}, "a history: None is no list"),
    ({"histories": ["i1"]}, "a history: 'i1' is no list"),
    (
      {"histories": np.zeros((2, 1))},
      r"histories: array\(\[\[0\.\], \[0\.\]\]\) is no",
    ),
    ({"histories": [[1]]}, "a history: 1 is no id, a text"),
    ({"histories": [["i1"]], "users": []}, "0 users have 1 histories"),
    ({"histories": [["i1"]], "allow": "i1"}, "allow: 'i1' is no list"),
  ],
)
def test_the_loader_says_what_cannot_be_asked(asked, arguments, message):
  with pytest.raises(ValueError, match=message):
    asked(**arguments)


def test_the_loader_reads_lists_of_any_kind(asked):
  wanted = asked([["i1", "i2"]], users=["u1"], allow=["i3", "i4"])
  for form in (iter, dict.fromkeys, np.array):
    given = {"users": form(["u1"]), "allow": form(["i3", "i4"])}
    assert asked([form(["i1", "i2"])], **given) == wanted


def test_the_loader_refuses_a_changed_file_and_a_history_too_long(tmp_path):
  folder = tmp_path / "artefact"
  make("item_knn", folder)
  scope = {}
  exec(small.loader(folder), scope)
  recommend = scope["open_artefact"](folder)
  too_many = small.log().item_ids[: E + 1].tolist()
  with pytest.raises(ValueError, match=f"export with --exclusions={E + 1}"):
    recommend([too_many])
  for name in ("program.stablehlo", "weights.safetensors", "items.json", "users.json"):
    changed = shutil.copytree(folder, tmp_path / name)
    content = bytearray((changed / name).read_bytes())
    content[-1] ^= 1
    (changed / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} is not what was written"):
      scope["open_artefact"](changed)


def test_a_pickle_in_place_of_a_file_is_not_run(tmp_path):
  """With the SHA-256 of the pickle in the manifest: who writes one writes the other."""
  folder = tmp_path / "artefact"
  make("item_knn", folder)
  scope, mark = {}, tmp_path / "somebody-was-here"
  exec(small.loader(folder), scope)
  hostile = pickle.dumps(Bomb(mark))
  pickle.loads(hostile).close()
  mark.unlink()
  for name in ("program.stablehlo", "weights.safetensors", "items.json", "users.json"):
    changed = shutil.copytree(folder, tmp_path / name)
    (changed / name).write_bytes(hostile)
    manifest = json.loads((changed / "manifest.json").read_text())
    manifest["sha256"][name] = hashlib.sha256(hostile).hexdigest()
    manifest["sha256"]["../../etc/passwd"] = "0"
    (changed / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(Exception):  # noqa: B017, PT011, each library has its own
      scope["open_artefact"](changed)
    assert not mark.exists()
