"""Configs: a file, a preset, single fields; a person's slip costs one line.

A config file has `get_config(preset)`, called without an argument for no preset, and
names its presets in `PRESETS` where they are not the usual three.
"""

from collections.abc import Mapping, Sequence
import difflib
import functools
import importlib.util
import json
import pathlib
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from lightlm_jax.runtime.errors import UserError

PRESETS = ("paper", "small", "tiny")
SETTABLE = (bool, int, float, str, tuple)
# Fields younger than some runs, and what those did without them.
LATER = {
  "data.share": 1.0,
  "split.validation_share": 0.1,
  "split.test_share": 0.1,
  "split.gap": 0,
  "split.withheld": 0.0,
  "input.order": "time",
  "ids.cold": "apart",
  "model.remat": False,
  "train.steps_per_dispatch": 1,
  "train.pack": 1,
  "train.feed": "device",
  "train.whole_histories": False,
  "train.negatives": 8_192,
  "decoding.length_offset": 0.0,
  "decoding.state": "decoder",
  "decoding.memory_share": 1.0,
  "decoding.nearest": 100,
  "decoding.prior": 0.0,
  "mesh.shard_optimiser": False,
  "profile": False,
}


def folder() -> pathlib.Path:
  """The configs of the installed package, or of the checkout."""
  package = pathlib.Path(__file__).resolve().parent.parent
  installed = package / "configs"
  return installed if installed.is_dir() else package.parent / "configs"


def available() -> list[str]:
  """The bare names that `load` knows."""
  return sorted(p.stem for p in folder().glob("*.py") if not p.stem.startswith("_"))


def presets(name: str) -> tuple[str, ...]:
  """The presets of a config file or bare name, none left out."""
  return _presets(_module(resolve(name)))


def resolve(name: str) -> pathlib.Path:
  """The file of a path (`configs/toys.py`) or of a bare name (`toys`)."""
  is_path = name.endswith(".py") or pathlib.Path(name).name != name
  path = pathlib.Path(name) if is_path else folder() / f"{name}.py"
  if path.is_file():
    return path
  names = available()
  raise UserError(
    f"no config file {str(path)!r}{_guess(path.stem, names)}; "
    f"by bare name there are {_listed(names)}"
  )


def load(
  name: str, preset: str | None = None, overrides: Mapping[str, Any] | None = None
) -> ConfigDict:
  """The locked config of a file or bare name, as the command line would give it.

  Args:
    name: `configs/toys.py` or `toys`, also with the preset: `toys:small`.
    preset: one of the file's presets; None for none.
    overrides: values by dotted field, such as {"train.steps": 20}.
  """
  name, _, given = name.partition(":")
  preset = preset or given or None
  path = resolve(name)
  module = _module(path)
  known = _presets(module)
  if preset and preset not in known:
    raise UserError(
      f"{path} has no preset {preset!r}{_guess(preset, known)}; "
      f"its presets are {_listed(known)}"
    )
  config = module.get_config(preset) if preset else module.get_config()
  return _locked(config, overrides or {})


def with_overrides(tree: Mapping[str, Any], overrides: Mapping[str, Any]) -> ConfigDict:
  """The locked config of what a config.json holds, with what it lacks of LATER."""
  config = ConfigDict(tree)
  for field, value in LATER.items():
    *groups, leaf = field.split(".")
    parent = functools.reduce(lambda group, name: group.get(name, {}), groups, config)
    if isinstance(parent, ConfigDict) and leaf not in parent:
      parent[leaf] = value
  return _locked(config, overrides)


def missing_fields(tree: Any) -> list[str]:
  """What every config has and this one, read back from JSON, has not."""
  every = set(_flatten(json.loads(load("toys").to_json()))) - {"data.dir", *LATER}
  return sorted(every - set(_flatten(tree if isinstance(tree, Mapping) else {})))


def to_json(config: ConfigDict) -> str:
  """The text of a workdir's config.json: the same for equal configs."""
  return config.to_json(indent=2, sort_keys=True) + "\n"


def differences(
  old: Mapping[str, Any], new: ConfigDict, ignore: Sequence[str] = ()
) -> list[str]:
  """What changed, as "field: old → new", by field.

  A field of LATER that the old config lacks has the value that stands there.

  Args:
    old: a config as read back from JSON.
    new: a config.
    ignore: dotted fields that may differ, each with all that is below it.
  """
  after = _flatten(json.loads(to_json(new)))
  later = {name: json.dumps(value) for name, value in LATER.items() if name in after}
  before = later | _flatten(old)
  # As texts, because a NaN differs from itself.
  return [
    f"{field}: {before.get(field, 'absent')} → {after.get(field, 'absent')}"
    for field in sorted(before.keys() | after.keys())
    if before.get(field) != after.get(field)
    and not any(field == name or field.startswith(f"{name}.") for name in ignore)
  ]


def place(config: ConfigDict, field: str) -> tuple[ConfigDict, str]:
  """Where a dotted field stands: its group and its name, if it can be set."""
  *groups, leaf = field.split(".")
  parent = config
  for group in groups:
    inner = parent[group] if group in parent else None
    parent = inner if isinstance(inner, ConfigDict) else {}
  if leaf not in parent:
    fields = list(_flatten(json.loads(config.to_json())))
    close = [name for name in fields if name.split(".")[-1] == leaf]
    raise UserError(
      f"config has no field {field!r}{_guess(field, fields, close)}; "
      f"its groups and fields are {_listed(sorted(parent or config))}"
    )
  kind = parent.get_type(leaf)
  if issubclass(kind, ConfigDict):
    example = f"{field}.{next(iter(parent[leaf]), '…')}"
    raise UserError(
      f"config field {field} is a group; set one field, such as {example}"
    )
  if kind not in SETTABLE:
    raise UserError(
      f"config field {field} ({kind.__name__}) can be set in a config file only; "
      "one that starts as None wants config_dict.placeholder(type)"
    )
  return parent, leaf


def check_value(field: str, kind: type, default: Any, value: Any) -> None:
  """Refuses what is not a `kind`, and a tuple of other things than the default's."""
  fits = isinstance(value, kind) and (kind is bool) == isinstance(value, bool)
  if fits and isinstance(value, tuple) and default:
    kinds = {type(element) for element in default}
    kinds |= {int} if float in kinds else set()
    fits = {type(element) for element in value} <= kinds
  if not fits:
    like = "" if default is None else f", such as {default!r}"
    raise UserError(
      f"config field {field} is of type {kind.__name__}{like}; got {value!r}"
    )


def _module(path: pathlib.Path) -> ModuleType:
  spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
  except SyntaxError as error:
    raise UserError(f"{error.filename}, line {error.lineno}: {error.msg}")
  if not hasattr(module, "get_config"):
    raise UserError(f"{path} has no get_config(preset); is it a config file?")
  return module


def _presets(module: ModuleType) -> tuple[str, ...]:
  return tuple(getattr(module, "PRESETS", PRESETS))


def _locked(config: ConfigDict, overrides: Mapping[str, Any]) -> ConfigDict:
  config.lock()
  for field, value in overrides.items():
    _set(config, field, value)
  return config


def _set(config: ConfigDict, field: str, value: Any) -> None:
  parent, leaf = place(config, field)
  kind = parent.get_type(leaf)
  if (kind, type(value)) in ((float, int), (tuple, list)):
    value = kind(value)
  if value is not None:
    check_value(field, kind, parent[leaf], value)
  parent[leaf] = value


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
  """Values as JSON by dotted field; an empty group is a value."""
  flat = {}
  for name, value in tree.items():
    if isinstance(value, Mapping) and value:
      flat |= _flatten(value, f"{prefix}{name}.")
    else:
      flat[f"{prefix}{name}"] = json.dumps(value)
  return flat


def _guess(name: str, names: Sequence[str], close: Sequence[str] = ()) -> str:
  close = close or difflib.get_close_matches(name, names)
  return f" (did you mean {' or '.join(close)}?)" if close else ""


def _listed(names: Sequence[str]) -> str:
  return ", ".join(names) or "none"
