"""Typed configurations and trees: reading, writing, changing, comparing."""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import difflib
import json
import typing
from typing import Any

from lightlm_jax.config import migrate, schema
from lightlm_jax.config.fields import Leaf, flatten, leaves, nest, value_of
from lightlm_jax.config.schema import RunConfig
from lightlm_jax.runtime.errors import UserError


def from_tree(tree: Mapping[str, Any]) -> RunConfig:
  """The configuration of a nested dict, such as config.json of a run, also an old one.

  Raises:
    UserError: it has an unknown field, lacks one, or has a value of another type.
  """
  if not isinstance(tree, Mapping):  # JSON of something else
    raise UserError(f"a configuration is an object of fields, not {tree!r:.40}")
  flat = flatten(tree)
  cls = schema.of_system(flat.get("system", "lightlm"))
  for name, value in flat.items():
    if name not in migrate.all_fields() and value != {}:
      raise unknown_field(name, leaves(cls))
  if missing := migrate.lacking(flat):
    raise UserError(f"config has no {', '.join(missing[:3])}, which its system needs")
  values = {}
  for name, value in migrate.current(flat).items():
    leaf = leaves(cls)[name]
    values[name] = leaf.converted(value)
    leaf.check_type(values[name])
  return _build(cls, values)


def to_tree(config: RunConfig) -> dict[str, Any]:
  """The configuration as a nested dict, groups in order."""
  return nest(to_flat(config))


def to_flat(config: RunConfig) -> dict[str, Any]:
  """The values of a configuration by dotted name."""
  return {name: value_of(config, name) for name in leaves(type(config))}


def to_json(config: RunConfig) -> str:
  """The text of a workdir's config.json: the same for equal configurations."""
  return json.dumps(to_tree(config), indent=2, sort_keys=True) + "\n"


def replace(config: RunConfig, overrides: Mapping[str, Any]) -> RunConfig:
  """The configuration with some fields changed.

  Args:
    config: is left as it is.
    overrides: values by dotted field, such as {"train.steps": 20}. Another `system`
      comes first: see `of_system`.

  Raises:
    UserError: there is no such field, or the value is of another type.
  """
  overrides = dict(overrides)
  system = overrides.pop("system", config.system)
  flat = to_flat(config)
  if system != config.system:
    flat = of_system(flat, system)
  cls = schema.of_system(system)
  for name, value in overrides.items():
    leaf = find(cls, name)
    value = leaf.converted(value)
    if not leaf.fits(value):
      raise wrong_type(name, leaf.kind, flat[name], value)
    flat[name] = value
  return _build(cls, flat)


def of_system(
  flat: Mapping[str, Any], system: str, *, anyway: bool = False
) -> dict[str, Any]:
  """The values of a configuration, turned into those of another system.

  Fields that the system does not have are dropped, those that are new have their
  defaults.

  Args:
    flat: values by dotted name.
    system: its name.
    anyway: also where the recipe is of quite another system, because the caller goes on
      to set what is particular to this one.

  Raises:
    UserError: there is no such system, or the configuration was not made for it.
  """
  cls = schema.of_system(system)
  own = leaves(cls)
  lacks = [n for n, leaf in own.items() if leaf.about.signature and n not in flat]
  if lacks and not anyway:
    raise UserError(
      f"config.system {system} needs fields that this config lacks, such as "
      f"{lacks[0]}; start from --config={cls.card or system}, with --config.data.name "
      "for the log"
    )
  values = {name: flat.get(name, _default(leaf, flat)) for name, leaf in own.items()}
  return values | {"system": system}


def find(cls: type[RunConfig], name: str) -> Leaf:
  """The field of a configuration class by its dotted name.

  Raises:
    UserError: there is none, or it is a group.
  """
  own = leaves(cls)
  if name in own:
    return own[name]
  raise unknown_field(name, own)


def unknown_field(name: str, names: Iterable[str]) -> UserError:
  """The error for a field that is not among `names`, with a guess."""
  names = list(names)
  inside = [other for other in names if other.startswith(f"{name}.")]
  if inside:
    return UserError(
      f"config field {name} is a group; set one field, such as {inside[0]}"
    )
  parent, _, last = name.rpartition(".")
  close = [other for other in names if other.split(".")[-1] == last]
  inside = [n.removeprefix(f"{parent}.") for n in names if n.startswith(f"{parent}.")]
  listed = sorted({other.split(".")[0] for other in (inside if parent else names)})
  listed = listed or sorted({other.split(".")[0] for other in names})
  hint = guess(name, names, close)
  if not close and name in migrate.all_fields():
    having = [s for s, cls in schema.CONFIGS.items() if name in leaves(cls)]
    hint = f" (it is a field of {', '.join(having)})"
  return UserError(
    f"config has no field {name!r}{hint}; its groups and fields are {', '.join(listed)}"
  )


def wrong_type(name: str, kind: type, default: Any, value: Any) -> UserError:
  """The error for a value of another type than its field."""
  like = "" if default is None else f", such as {default!r}"
  return UserError(
    f"config field {name} is of type {kind.__name__}{like}; got {value!r}"
  )


def guess(name: str, names: Sequence[str], close: Sequence[str] = ()) -> str:
  """A hint at names that are like a wrong one, or nothing."""
  close = close or difflib.get_close_matches(name, names)
  return f" (did you mean {' or '.join(close)}?)" if close else ""


def differences(
  old: Mapping[str, Any], new: RunConfig, ignore: Sequence[str] = ()
) -> list[str]:
  """What changed, as "field: old → new", by field.

  Args:
    old: a configuration as read back from JSON, perhaps of an older run.
    new: a configuration.
    ignore: dotted fields that may differ, each with all that is below it.
  """
  before = own_fields(old)
  after = to_flat(new)
  names = before.keys() | after.keys()
  if before.get("system", after["system"]) != after["system"]:
    names = before.keys() & after.keys()  # the other fields follow from the system
  found = []
  for name in sorted(names):
    # As texts, because a NaN differs from itself.
    one, other = (
      json.dumps(side[name]) if name in side else "absent" for side in (before, after)
    )
    ignored = any(name == known or name.startswith(f"{known}.") for known in ignore)
    if one != other and not ignored:
      found.append(f"{name}: {one} → {other}")
  return found


def own_fields(tree: Mapping[str, Any]) -> dict[str, Any]:
  """The own fields of a config.json by dotted name; all of one that is unreadable.

  What it lacks as an older run's has the value that the run worked by.
  """
  try:
    return to_flat(from_tree(tree))
  except UserError:
    flat = flatten(tree) if isinstance(tree, Mapping) else {}
    return migrate.known_defaults(flat) | flat


def lacking(tree: Any) -> list[str]:
  """The fields without which a config.json cannot be read; none = it can."""
  return migrate.lacking(flatten(tree) if isinstance(tree, Mapping) else {})


def _default(leaf: Leaf, flat: Mapping[str, Any]) -> Any:
  if leaf.about.like is None:
    return leaf.default
  group = leaf.name.rpartition(".")[0]
  return flat.get(f"{group}.{leaf.about.like}", leaf.default)


def _build(cls: type, flat: Mapping[str, Any], prefix: str = "") -> Any:
  kinds = typing.get_type_hints(cls)
  values = {}
  for own in dataclasses.fields(cls):
    name, kind = prefix + own.name, kinds[own.name]
    if dataclasses.is_dataclass(kind):
      values[own.name] = _build(typing.cast(type, kind), flat, f"{name}.")
    else:
      values[own.name] = flat[name]
  return cls(**values)
