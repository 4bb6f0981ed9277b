"""Configs by path, name and preset; every slip is one line and exit code 2."""

import dataclasses
import json
import pathlib
import subprocess
import sys

import commands
import pytest

from lightlm_jax import config
from lightlm_jax.config import cards as cards_lib
from lightlm_jax.config import migrate
from lightlm_jax.data import splits, synthetic
from lightlm_jax.ids import build, quantise, spectral
from lightlm_jax.runtime.errors import UserError

CARD = '''
"""A card."""
from lightlm_jax import config as config_lib

PRESETS = ("small", "tiny")

def get_config(preset=None):
  config = config_lib.base("lightlm", preset)
  config.train.steps = 100
  config.train.history_buckets = (5, 10)
  config.model.d_model = 64 if preset == "tiny" else 512
  return config
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
  print(config.to_json(command_line.config()), _WORKDIR.value)

if __name__ == "__main__":
  sys.exit(command_line.main(main))
'''


ROOT = str(pathlib.Path(config.__file__).parent.parent.parent)


@pytest.fixture
def card(tmp_path):
  path = tmp_path / "card.py"
  path.write_text(CARD)
  return str(path)


@pytest.fixture
def run(tmp_path, card):
  entry = tmp_path / "entry.py"
  entry.write_text(ENTRY)

  def run(*arguments):
    return commands.run("entry.py", *arguments, cwd=tmp_path, timeout=60)

  return run


def test_load_gives_the_preset_frozen(card):
  assert config.load(card).model.d_model == 512
  assert config.load(card, "tiny").model.d_model == 64
  loaded = config.load(f"{card}:tiny")
  assert loaded.model.d_model == 64
  assert loaded.preset == "tiny"
  with pytest.raises(dataclasses.FrozenInstanceError):
    loaded.model.d_model = 3
  assert hash(loaded) == hash(config.load(card, "tiny"))
  assert loaded != config.load(card)


def test_load_takes_overrides(card):
  overrides = {"train.steps": 3, "model.dropout_rate": 0, "data.dir": "/logs"}
  loaded = config.load(card, overrides=overrides | {"train.history_buckets": [1, 5]})
  assert loaded.train.steps == 3
  assert type(loaded.model.dropout_rate) is float
  assert loaded.data.dir == "/logs"
  assert loaded.train.history_buckets == (1, 5)
  assert config.load(card).train.steps == 100
  assert config.replace(loaded, {"train.steps": 4}).train.steps == 4
  assert loaded.train.steps == 3


@pytest.mark.parametrize(
  ("field", "value", "message"),
  [
    ("train.step", 3, r"no field 'train.step' \(did you mean train.steps"),
    ("steps", 3, r"no field 'steps' \(did you mean train.steps\?"),
    ("trian.steps", 3, r"did you mean train.steps"),
    ("seed.x", 3, r"no field 'seed.x'"),
    ("", 3, r"no field ''"),
    ("zzz", 3, r"no field 'zzz'; its groups and fields are baselines, data, decoding"),
    ("train", {"steps": 3}, r"train is a group; set one field, such as train\.\w+"),
    ("model.tied", True, r"'model.tied' \(it is a field of item_decoder, lite_llm4rec"),
    ("seed", "x", r"seed is of type int, such as 0; got 'x'"),
    ("seed", True, r"seed is of type int"),
    ("seed", 1.0, r"seed is of type int"),
    ("input.prompt", 1, r"prompt is of type bool"),
    ("data.dir", 3, r"data.dir is of type str, such as ''; got 3"),
    ("data.dir", None, r"data.dir is of type str"),
    ("train.history_buckets", ("a",), r"history_buckets is of type tuple"),
    ("baselines", (1,), r"baselines is of type tuple"),
    ("system", "lightml", r"system is 'lightml'; choose one of lightlm, item_decoder"),
    ("system", "sasrec", r"needs fields .* start from --config=sasrec"),
    ("system", "lite_llm4rec_beam", r"start from --config=lite_llm4rec,"),
  ],
)
def test_wrong_override_says_what_there_is(card, field, value, message):
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
  monkeypatch.setattr(cards_lib, "folder", lambda: tmp_path)
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
    card, "tiny", {"train.steps": 7, "train.history_buckets": (5,), "data.dir": "a"}
  )
  assert config.differences(old, new) == [
    'data.dir: "" → "a"',
    "model.d_model: 512 → 64",
    'preset: "default" → "tiny"',
    "train.history_buckets: [5, 10] → [5]",
    "train.steps: 100 → 7",
  ]
  ignore = ("train.steps", "data", "model.d", "train.history_buckets", "preset")
  assert config.differences(old, new, ignore) == ["model.d_model: 512 → 64"]


def test_differences_of_another_system_are_its_name_and_what_both_have(card):
  old = config.to_tree(config.load(card))
  new = config.load(card, overrides={"system": "ease", "seed": 3})
  assert config.differences(old, new) == ["seed: 0 → 3", 'system: "lightlm" → "ease"']


def test_differences_sees_fields_that_come_and_go(card):
  new = config.load(card, overrides={"train.clip_norm": float("nan")})
  old = config.to_tree(new)
  assert config.differences(old, new) == []
  del old["data"]["name"]
  old["more"] = 1
  assert config.differences(old, new) == [
    'data.name: absent → "toys"',
    "more: 1 → absent",
  ]


def test_command_line(run):
  done = run(
    "--config=card.py:tiny",
    "--config.train.steps=20",
    "--config.train.history_buckets=2,7",
    "--noconfig.model.whole_word",
    "--config.data.dir",
    "here",
    "--workdir=runs/x",
  )
  assert done.stderr == ""
  text, _, workdir = done.stdout.rpartition("}")
  given = json.loads(text + "}")
  assert workdir.strip() == "runs/x"
  assert given["train"]["steps"] == 20
  assert given["train"]["history_buckets"] == [2, 7]
  assert given["model"]["whole_word"] is False
  assert given["data"]["dir"] == "here"
  assert given["model"]["d_model"] == 64


def test_command_line_turns_a_card_into_another_system(run):
  done = run("--config=card.py", "--config.seed=3", "--config.system", "ease")
  assert done.stderr == ""
  given = json.loads(done.stdout.rpartition("}")[0] + "}")
  assert given == config.to_tree(
    config.load("toys", overrides={"system": "ease", "seed": 3})
  ) | {"baselines": ["pop", "item_knn", "ease"]}
  done = run("--config=card.py", "--config.system=ease", "--config.model.d_model=8")
  assert done.returncode == 2
  assert "no field 'model.d_model' (it is a field of lightlm" in done.stderr


SLIPS = [
  ([], "no config; give --config="),
  (["--config.seed=1"], "no config; give --config="),
  (["--config=nowhere.py"], "no config file 'nowhere.py'"),
  (["--config=card.py:paper"], "no preset 'paper'"),
  (["--config=card.py", "--config.train.step=1"], "did you mean train.steps"),
  (["--config=card.py", "--config.seed=x"], "--config.seed=x: invalid literal"),
  (
    ["--config=card.py", "--config.train.history_buckets=x"],
    "history_buckets is of type tuple",
  ),
  (["--config=card.py", "--config.train={'steps':1}"], "train is a group"),
  (["--config=card.py", "--config=card.py"], "second config"),
  (["--config=card.py", "--wrokdir=x"], "Did you mean: workdir"),
  (["--config=card.py", "extra"], "'extra' is not a flag"),
]


@pytest.mark.parametrize(("arguments", "message"), SLIPS)
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


# Typed configurations.

GOLDEN = pathlib.Path(__file__).parent / "golden" / "configs.json"


@pytest.fixture(scope="module")
def earlier():
  """Every card and preset as it was when a configuration had all systems' fields."""
  return json.loads(GOLDEN.read_text())


def cards():
  for name in config.available():
    if name != "scaling":
      yield name
      yield from (f"{name}:{preset}" for preset in config.presets(name))


def test_every_card_says_what_it_said_before(earlier):
  assert set(cards()) >= set(earlier)
  for name, tree in earlier.items():
    before = config.flatten(tree)
    now = config.flatten(json.loads(config.to_json(config.load(name))))
    assert {f: v for f, v in now.items() if f in before} == {
      f: v for f, v in before.items() if f in now
    }
    # A younger field has the value that describes what runs did before it.
    older = config.to_flat(config.from_tree(tree))
    new = {field for field in now if field not in before}
    new = {field for field in new if not field.startswith(("data.dir", "data.shop."))}
    assert {f: now[f] for f in new} == {f: older[f] for f in new}


def test_a_system_has_its_own_fields_only():
  own = {name: set(config.to_flat(config.load(name))) for name in cards()}
  assert "ids.kind" not in own["sasrec"]
  assert not {f for f in own["item_decoder"] if f.startswith(("ids.", "decoding."))}
  ease = config.load("toys", overrides={"system": "ease"})
  groups = {field.split(".")[0] for field in config.to_flat(ease)}
  assert groups == {
    "system",
    "preset",
    "seed",
    "baselines",
    "data",
    "split",
    "train",
    "mesh",
  }
  assert isinstance(config.load("toys"), config.WritesIds)
  assert isinstance(config.load("lite_llm4rec"), config.ReadsTexts)
  assert not isinstance(ease, config.LearnedConfig)


def test_every_configuration_survives_its_file():
  for name in cards():
    typed = config.load(name)
    config.check(typed)
    read = config.from_tree(json.loads(config.to_json(typed)))
    assert read == typed
    assert hash(read) == hash(typed)
    assert config.from_tree(config.to_tree(typed)) == typed


def test_older_runs_are_read(earlier):
  """With the fields of all systems, and without those that are younger."""
  for name, tree in earlier.items():
    typed = config.from_tree(tree)
    assert config.differences(tree, config.load(name)) == []
    assert config.lacking(tree) == []
    for field in migrate.EARLIER:
      group, _, leaf = field.rpartition(".")
      inner = tree
      for part in filter(None, group.split(".")):
        inner = inner.get(part, {})
      inner.pop(leaf, None)
    older = config.to_flat(config.from_tree(tree))
    for field, value in config.to_flat(typed).items():
      assert older[field] == migrate.EARLIER.get(field, value), (name, field)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"train": None}, "no train.accumulate, train.batch_size, train.clip_norm"),
    ({"seed": None}, "has no seed"),
    ({"unheard": 3}, "no field 'unheard'"),
    ({"system": "nothing"}, "choose one of lightlm"),
    ({"system": ["lightlm"]}, "choose one of lightlm"),
    ({"seed": "one"}, "config.seed is 'one'; it must be from 0 to"),
    ({"profile": 1}, "config.profile is 1; it must be of type bool"),
  ],
)
def test_what_cannot_be_read_says_why(card, change, message):
  tree = config.to_tree(config.load(card)) | change
  tree = {name: value for name, value in tree.items() if value is not None}
  with pytest.raises(UserError, match=message):
    config.from_tree(tree)


@pytest.mark.parametrize("tree", [[], 3, "text", None])
def test_what_is_no_configuration_at_all(card, tree):
  with pytest.raises(UserError, match="an object of fields, not"):
    config.from_tree(tree)
  assert "seed: absent → 0" in config.differences(tree, config.load(card))


def test_systems_turn_into_each_other():
  toys = config.load("toys:tiny")
  ease = config.replace(toys, {"system": "ease"})
  assert ease.data == toys.data
  assert ease.train.eval_batch_size == toys.train.eval_batch_size
  beam = config.load("lite_llm4rec:tiny", overrides={"system": "lite_llm4rec_beam"})
  assert beam.model.num_decoder_layers == beam.model.num_layers == 1
  assert beam.ids == config.load("toys").ids
  with pytest.raises(UserError, match="start from --config=item_decoder"):
    config.replace(toys, {"system": "item_decoder"})


def test_choices_are_those_of_the_code():
  leaves = config.leaves(config.LightLMConfig)
  choices = {name: leaf.choices for name, leaf in leaves.items()}
  assert set(choices["split.kind"]) == set(splits.SPLITS)
  assert set(choices["ids.graph"]) == set(spectral.GRAPHS)
  assert set(choices["ids.tokens"]) == set(spectral.TOKENS)
  assert set(choices["ids.quantiser"]) == set(quantise.QUANTISERS)
  assert set(choices["ids.kind"]) == set(build.KINDS)
  shop = config.load("demo").data.shop
  assert synthetic.Shop(**dataclasses.asdict(shop)) == synthetic.Shop()


def test_describe_has_a_line_for_every_field(card):
  typed = config.load(card, overrides={"train.steps": 7})
  header, *lines = config.describe(typed)
  assert header.split()[:4] == ["field", "value", "default", "range"]
  assert [line.split()[0] for line in lines] == list(config.to_flat(typed))
  (steps,) = (line for line in lines if line.startswith("train.steps "))
  assert steps.split() == ["train.steps", "7", "20000", "at", "least", "1", "steps"]
  (kind,) = (line for line in lines if line.startswith("ids.kind "))
  assert "sci | gci" in kind


def test_schema_imports_no_jax():
  script = "import sys; from lightlm_jax import config; config.load('toys'); "
  script += "assert not {'jax', 'numpy', 'flax'} & set(sys.modules)"
  subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
