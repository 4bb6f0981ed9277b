"""Config files: a card with `get_config(preset)`, loaded by path or bare name.

A card starts from `base(system)` or from another `card`, changes fields, and names its
presets in `PRESETS`. It is an ml_collections.ConfigDict, so that the command line can
set fields in it; `typed` makes the configuration that the library works with.
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

# An ml_collections.ConfigDict; type checkers know nothing of its attributes.
Card = Any
PRESETS = ("paper", "small", "tiny")  # of cards that do not name their own


def base(system: str = "lightlm", preset: str | None = None) -> Card:
  """The defaults of a system's fields, for a card to change."""
  own = leaves(schema.of_system(system))
  flat = {name: leaf.default for name, leaf in own.items()}
  return ConfigDict(nest(flat | {"system": system, "preset": preset or "default"}))


def card(name: str, preset: str | None = None) -> Card:
  """The locked ConfigDict of a config file or bare name, of a run or of a study.

  `name` is `configs/toys.py` or `toys`, also with the preset: `toys:small`.
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
  """The configuration of a `card`, with overrides by dotted field.

  Raises:
    UserError: there is no such file, preset or field, or it is a study's.
  """
  return tree_lib.replace(typed(card(name, preset)), overrides or {})


def typed(config: str | Card | RunConfig) -> RunConfig:
  """Returns the typed configuration of a run's card, or of the name of one."""
  if isinstance(config, RunConfig):
    return config
  found: Card = card(config) if isinstance(config, str) else config
  if is_study(found):
    raise UserError("this config is a study's; give it to python -m lightlm_jax.sweep")
  return tree_lib.from_tree(found.to_dict())


def of_system(config: Card, system: str, *, anyway: bool = False) -> Card:
  """A card turned into one of another system: see `tree.of_system`."""
  flat = flatten(config.to_dict())
  return ConfigDict(nest(tree_lib.of_system(flat, system, anyway=anyway)))


def is_study(config: Card) -> bool:
  """Whether a card is a scaling study's, not a run's."""
  return "axes" in config


def folder() -> pathlib.Path:
  """The configs of the installed package, or of the checkout."""
  package = pathlib.Path(__file__).resolve().parent.parent
  installed = package / "configs"
  return installed if installed.is_dir() else package.parent / "configs"


def available() -> list[str]:
  """The bare names of all cards."""
  return sorted(p.stem for p in folder().glob("*.py") if not p.stem.startswith("_"))


def presets(name: str) -> tuple[str, ...]:
  """The presets of a config file or bare name."""
  return tuple(getattr(_module(resolve(name)), "PRESETS", PRESETS))


def resolve(name: str) -> pathlib.Path:
  """The file of a path (`configs/toys.py`) or of a bare name (`toys`)."""
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
  """The value of a dotted field in a card, which the command line may set."""
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
  """Refuses a tuple whose elements are of other types than the default's."""
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
