"""Configs by path, name and preset; every slip is one line and exit code 2."""

import json
import os
import pathlib
import subprocess
import sys

from ml_collections import ConfigDict
import pytest

from lightlm_jax import config
from lightlm_jax.runtime.errors import UserError

CARD = '''
"""A card."""
from ml_collections import ConfigDict, config_dict

PRESETS = ("small", "tiny")

def get_config(preset=None):
  return ConfigDict({
    "system": "lightlm",
    "seed": 0,
    "data": {"dir": config_dict.placeholder(str), "min_len": 5},
    "model": {"d_model": 64 if preset == "tiny" else 512, "dropout_rate": 0.1},
    "train": {"steps": 100, "betas": (0.9, 0.95), "donate": True, "nothing": None},
  })
'''

ENTRY = '''
"""Prints the config that it was given."""
import sys
from absl import flags
from lightlm_jax import command_line, config

_CONFIG = command_line.define_config()
_WORKDIR = flags.DEFINE_string("workdir", None, "where the run writes")

def main(argv):
  assert len(argv) == 1
  assert _CONFIG.value.is_locked
  print(config.to_json(_CONFIG.value), _WORKDIR.value)

if __name__ == "__main__":
  sys.exit(command_line.main(main))
'''


@pytest.fixture
def card(tmp_path):
  path = tmp_path / "card.py"
  path.write_text(CARD)
  return str(path)


@pytest.fixture
def run(tmp_path, card):
  entry = tmp_path / "entry.py"
  entry.write_text(ENTRY)
  root = str(pathlib.Path(config.__file__).parent.parent.parent)

  def run(*arguments):
    return subprocess.run(
      [sys.executable, str(entry), *arguments],
      env=os.environ | {"PYTHONPATH": root},
      cwd=tmp_path,
      capture_output=True,
      text=True,
      timeout=60,
    )

  return run


def test_load_gives_the_preset_locked(card):
  assert config.load(card).model.d_model == 512
  assert config.load(card, "tiny").model.d_model == 64
  loaded = config.load(f"{card}:tiny")
  assert loaded.model.d_model == 64
  with pytest.raises(AttributeError):
    loaded.model.d_modle = 3


def test_load_takes_overrides(card):
  overrides = {"train.steps": 3, "model.dropout_rate": 0, "data.dir": "/logs"}
  loaded = config.load(card, overrides=overrides | {"train.betas": [1, 0.5]})
  assert loaded.train.steps == 3
  assert loaded.model.dropout_rate == 0.0
  assert loaded.data.dir == "/logs"
  assert loaded.train.betas == (1, 0.5)
  assert config.load(card).train.steps == 100


@pytest.mark.parametrize(
  ("field", "value", "message"),
  [
    ("train.step", 3, r"no field 'train.step' \(did you mean train.steps"),
    ("steps", 3, r"no field 'steps' \(did you mean train.steps\?"),
    ("trian.steps", 3, r"did you mean train.steps"),
    ("seed.x", 3, r"no field 'seed.x'"),
    ("", 3, r"no field ''"),
    ("zzz", 3, r"no field 'zzz'; its groups and fields are data, model, seed"),
    ("train", {"steps": 3}, r"train is a group; set one field, such as train\.\w+"),
    ("train.nothing", 3, r"placeholder"),
    ("seed", "x", r"seed is of type int, such as 0; got 'x'"),
    ("seed", True, r"seed is of type int"),
    ("seed", 1.0, r"seed is of type int"),
    ("train.donate", 1, r"donate is of type bool"),
    ("data.dir", 3, r"data.dir is of type str; got 3"),
    ("train.betas", ("a",), r"betas is of type tuple"),
  ],
)
def test_wrong_override_is_one_line(card, field, value, message):
  with pytest.raises(UserError, match=message):
    config.load(card, overrides={field: value})


def test_unknown_preset_names_the_presets(card):
  with pytest.raises(
    UserError, match=r"'tinny' \(did you mean tiny\?\); .*small, tiny"
  ):
    config.load(card, "tinny")


def test_missing_file_names_the_available(tmp_path, monkeypatch):
  (tmp_path / "toys.py").write_text(CARD)
  (tmp_path / "__init__.py").touch()
  monkeypatch.setattr(config, "folder", lambda: tmp_path)
  assert config.available() == ["toys"]
  assert config.load("toys:tiny").model.d_model == 64
  for name in ("toy", "configs/toy.py", "toy.py", "configs/"):
    with pytest.raises(UserError, match="by bare name there are toys"):
      config.load(name)


def test_config_file_that_is_none(tmp_path):
  broken = tmp_path / "broken.py"
  broken.write_text("def get_config(:\n")
  with pytest.raises(UserError, match=r"broken\.py, line 1"):
    config.load(str(broken))
  broken.write_text("x = 1\n")
  with pytest.raises(UserError, match="has no get_config"):
    config.load(str(broken))


def test_differences_names_what_changed(card):
  old = json.loads(config.to_json(config.load(card)))
  assert config.differences(old, config.load(card)) == []
  new = config.load(
    card, "tiny", {"train.steps": 7, "train.betas": (0.9, 0.9), "data.dir": "a"}
  )
  assert config.differences(old, new) == [
    'data.dir: null → "a"',
    "model.d_model: 512 → 64",
    "train.betas: [0.9, 0.95] → [0.9, 0.9]",
    "train.steps: 100 → 7",
  ]
  ignore = ("train.steps", "data", "model.d", "train.betas")
  assert config.differences(old, new, ignore) == ["model.d_model: 512 → 64"]


def test_differences_sees_fields_that_come_and_go():
  nan = float("nan")
  old = {"a": 1, "group": {"b": 2}, "nan": nan, "empty": {}}
  new = ConfigDict({"c": True, "group": {}, "nan": nan, "empty": {}})
  assert config.differences(old, new) == [
    "a: 1 → absent",
    "c: absent → true",
    "group: absent → {}",
    "group.b: 2 → absent",
  ]


def test_command_line(run):
  done = run(
    "--config=card.py:tiny",
    "--config.train.steps=20",
    "--config.train.betas=0.5,1",
    "--noconfig.train.donate",
    "--config.data.dir",
    "here",
    "--workdir=runs/x",
  )
  assert done.stderr == ""
  text, _, workdir = done.stdout.rpartition("}")
  given = json.loads(text + "}")
  assert workdir.strip() == "runs/x"
  assert given["train"] == {
    "steps": 20,
    "betas": [0.5, 1],
    "donate": False,
    "nothing": None,
  }
  assert given["data"]["dir"] == "here"
  assert given["model"]["d_model"] == 64


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ([], "no config; give --config="),
    (["--config.seed=1"], "no config; give --config="),
    (["--config=nowhere.py"], "no config file 'nowhere.py'"),
    (["--config=card.py:paper"], "no preset 'paper'"),
    (["--config=card.py", "--config.train.step=1"], "did you mean train.steps"),
    (["--config=card.py", "--config.seed=x"], "--config.seed=x: invalid literal"),
    (["--config=card.py", "--config.train.betas=x"], "betas is of type tuple"),
    (["--config=card.py", "--config.train={'steps':1}"], "train is a group"),
    (["--config=card.py", "--config=card.py"], "second config"),
    (["--config=card.py", "--wrokdir=x"], "Did you mean: workdir"),
    (["--config=card.py", "extra"], "'extra' is not a flag"),
  ],
)
def test_slip_on_the_command_line_is_one_line(run, arguments, message):
  done = run(*arguments)
  assert done.returncode == 2
  assert done.stdout == ""
  assert done.stderr.count("\n") == 1
  assert done.stderr.startswith("lightlm_jax: error: ")
  assert message in done.stderr


def test_bug_in_a_config_file_keeps_its_traceback(run, tmp_path):
  (tmp_path / "bug.py").write_text("def get_config():\n  return int('five')\n")
  done = run("--config=bug.py")
  assert done.returncode == 1
  assert "Traceback" in done.stderr
  assert "int('five')" in done.stderr


def test_help_shows_our_flags(run):
  done = run("--help")
  assert done.returncode == 0
  assert "--config:" in done.stdout
  assert "--workdir:" in done.stdout
