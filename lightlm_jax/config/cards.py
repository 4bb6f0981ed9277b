"""Loads config files, by path or bare name, and converts what they return.

A config file defines `get_config(preset)`, which returns a card, and lists its presets
in `PRESETS`. It starts from `base(system)`, or from the `card` of another file, and
sets fields. A card is an ml_collections.ConfigDict, so that the command line can set
fields; `typed` converts it to the configuration that the library works with.
"""

from collections.abc import Mapping
import functools
import importlib.util
import operator
import pathlib
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from lightlm_jax.config import schema
from lightlm_jax.config import tree as tree_lib
from lightlm_jax.config.fields import flatten, leaves, nest
from lightlm_jax.config.schema import RunConfig
from lightlm_jax.runtime.errors import UserError

# An ml_collections.ConfigDict, whose attributes type checkers do not know.
Card = Any
PRESETS = ("paper", "small", "tiny")  # of config files that define none


def base(system: str = "lightlm", preset: str | None = None) -> Card:
  """Returns a system's defaults as an unlocked ConfigDict, with `preset` filled in."""
  own = leaves(schema.of_system(system))
  flat = {name: leaf.default for name, leaf in own.items()}
  return ConfigDict(nest(flat | {"system": system, "preset": preset or "default"}))


def card(name: str, preset: str | None = None) -> Card:
  """Loads the config file of a run or a study; returns a locked ConfigDict.

  `name` is a path or bare name, perhaps with a preset: `configs/toys.py`, `toys:small`.
  `preset` takes precedence over a preset in the name.
  """
  name, _, given = name.partition(":")
  preset = preset or given
  path = resolve(name)
  module = _module(path)
  known = getattr(module, "PRESETS", PRESETS)
  if preset and preset not in known:
    raise UserError(
      f"{path} has no preset {preset!r}{tree_lib.guess(preset, known)}; "
      f"its presets are {', '.join(known) or 'none'}"
    )
  config = module.get_config(preset) if preset else module.get_config()
  return config.lock()


def load(
  name: str, preset: str | None = None, overrides: Mapping[str, Any] | None = None
) -> RunConfig:
  """Loads a run's config file; `overrides` are values by dotted field name.

  Raises:
    UserError: there is no such file, preset or field, or the file describes a study.
  """
  return tree_lib.replace(typed(card(name, preset)), overrides or {})


def typed(config: str | Card | RunConfig) -> RunConfig:
  """Returns the typed form of `config`, a run's card or the name of its config file."""
  if isinstance(config, RunConfig):
    return config
  found: Card = card(config) if isinstance(config, str) else config
  if is_study(found):
    raise UserError("this config is a study's; give it to python -m lightlm_jax.sweep")
  return tree_lib.from_tree(found.to_dict())


def of_system(config: Card, system: str, *, anyway: bool = False) -> Card:
  """Returns an unlocked copy of a card for another system; see `tree.of_system`."""
  flat = flatten(config.to_dict())
  return ConfigDict(nest(tree_lib.of_system(flat, system, anyway=anyway)))


def is_study(config: Card) -> bool:
  """Returns whether a card describes a scaling study rather than a run."""
  return "axes" in config


def folder() -> pathlib.Path:
  """Returns the folder of config files, in the installed package or in the checkout."""
  package = pathlib.Path(__file__).resolve().parent.parent
  installed = package / "configs"
  return installed if installed.is_dir() else package.parent / "configs"


def available() -> list[str]:
  """Returns the bare names of all config files."""
  return sorted(p.stem for p in folder().glob("*.py") if not p.stem.startswith("_"))


def presets(name: str) -> tuple[str, ...]:
  """Returns the presets of a config file, given by path or bare name."""
  return tuple(getattr(_module(resolve(name)), "PRESETS", PRESETS))


def resolve(name: str) -> pathlib.Path:
  """Finds a config file by its path or bare name; raises UserError if it is missing."""
  is_path = name.endswith(".py") or pathlib.Path(name).name != name
  path = pathlib.Path(name) if is_path else folder() / f"{name}.py"
  if path.is_file():
    return path
  names = available()
  raise UserError(
    f"no config file {str(path)!r}{tree_lib.guess(path.stem, names)}; "
    f"by bare name there are {', '.join(names) or 'none'}"
  )


def settable(config: Card, field: str) -> Any:
  """Returns the value of `field`; raises UserError if no flag can set it."""
  flat = flatten(config.to_dict())
  if field not in flat:
    raise tree_lib.unknown_field(field, flat)
  *groups, leaf = field.split(".")
  kind = functools.reduce(operator.getitem, groups, config).get_type(leaf)
  if kind not in (bool, int, float, str, tuple):
    raise UserError(
      f"config field {field} ({kind.__name__}) can be set in a config file only; "
      "one that starts as None needs config_dict.placeholder(type)"
    )
  return flat[field]


def check_elements(field: str, default: Any, value: Any) -> None:
  """Raises UserError if a tuple `value` has elements of a type that `default` lacks."""
  if isinstance(value, tuple) and default:
    kinds = {type(element) for element in default}
    kinds |= {int} if float in kinds else set()
    if not {type(element) for element in value} <= kinds:
      raise tree_lib.wrong_type(field, tuple, default, value)


def _module(path: pathlib.Path) -> ModuleType:
  spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
  assert spec is not None  # the file is there
  assert spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
  except SyntaxError as error:
    raise UserError(f"{error.filename}, line {error.lineno}: {error.msg}")
  if not hasattr(module, "get_config"):
    raise UserError(f"{path} has no get_config(preset); is it a config file?")
  return module
