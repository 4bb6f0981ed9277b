"""Reads, writes, changes, compares and describes typed configurations."""

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
  """Builds a configuration from the nested dicts of a config.json, old or current.

  Raises:
    UserError: a field is unknown or missing, or a value is of the wrong type.
  """
  if not isinstance(tree, Mapping):  # JSON may hold a list or a number
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
  return _build(cls, nest(values))


def to_tree(config: RunConfig) -> dict[str, Any]:
  """Returns the configuration as a nested dict: top-level values, then the groups."""
  return nest(to_flat(config))


def to_flat(config: RunConfig) -> dict[str, Any]:
  """Returns the values of a configuration by dotted name."""
  return {name: value_of(config, name) for name in leaves(type(config))}


def to_json(config: RunConfig) -> str:
  """Returns the text of config.json, which is the same for equal configurations."""
  return json.dumps(to_tree(config), indent=2, sort_keys=True) + "\n"


def replace(config: RunConfig, overrides: Mapping[str, Any]) -> RunConfig:
  """Returns a copy with the fields in `overrides` set, such as {"train.steps": 20}.

  If `overrides` change `system`, the configuration is first converted by `of_system`.

  Raises:
    UserError: a field is unknown, a value is of the wrong type, or `of_system` fails.
  """
  system = overrides.get("system", config.system)
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
  return _build(cls, nest(flat))


def of_system(
  flat: Mapping[str, Any], system: str, *, anyway: bool = False
) -> dict[str, Any]:
  """Converts a configuration, given as values by dotted name, to another system.

  Fields that the new system lacks are dropped, and so are values that are not among its
  choices. A field that is then missing gets the value of the field that its `Leaf.like`
  names, or else its default. A missing field with `Leaf.signature` is an error; with
  `anyway` it gets a value too, but the caller should set it.

  Raises:
    UserError: no such system, or a signature field is missing and `anyway` is false.
  """
  cls = schema.of_system(system)
  own = leaves(cls)
  # Fields of one name, such as train.loss, have other choices in other systems.
  flat = {n: v for n, v in flat.items() if n not in own or own[n].accepts(v)}
  lacks = [n for n, leaf in own.items() if leaf.signature and n not in flat]
  if lacks and not anyway:
    raise UserError(
      f"config.system {system} needs fields that this config lacks, such as "
      f"{lacks[0]}; start from --config={cls.card or system}, with --config.data.name "
      "for the log"
    )
  alike = {name: flat.get(leaf.like, leaf.default) for name, leaf in own.items()}
  return {name: flat.get(name, alike[name]) for name in own} | {"system": system}


def find(cls: type[RunConfig], name: str) -> Leaf:
  """Returns the field with dotted name `name`; raises UserError if there is none."""
  own = leaves(cls)
  if name in own:
    return own[name]
  raise unknown_field(name, own)


def unknown_field(name: str, names: Iterable[str]) -> UserError:
  """Returns the error that there is no field `name`, with suggestions from `names`."""
  names = list(names)
  inside = [other for other in names if other.startswith(f"{name}.")]
  if inside:
    return UserError(
      f"config field {name} is a group; set one field, such as {inside[0]}"
    )
  parent, _, last = name.rpartition(".")
  close = [other for other in names if other.split(".")[-1] == last]
  inside = [n.removeprefix(f"{parent}.") for n in names if n.startswith(f"{parent}.")]
  listed = sorted({n.split(".")[0] for n in (inside if parent else names) or names})
  hint = guess(name, names, close)
  if not close and name in migrate.all_fields():
    having = [s for s, cls in schema.CONFIGS.items() if name in leaves(cls)]
    hint = f" (it is a field of {', '.join(having)})"
  return UserError(
    f"config has no field {name!r}{hint}; its groups and fields are {', '.join(listed)}"
  )


def wrong_type(name: str, kind: type, default: Any, value: Any) -> UserError:
  """Returns the error that `value` is not of type `kind`, with `default` as example."""
  like = "" if default is None else f", such as {default!r}"
  return UserError(
    f"config field {name} is of type {kind.__name__}{like}; got {value!r}"
  )


def guess(name: str, names: Sequence[str], close: Sequence[str] = ()) -> str:
  """Returns " (did you mean …?)" for a wrong name, or "" if there is no suggestion.

  The suggestions are `close`, or if `close` is empty, the `names` spelt like `name`.
  """
  close = close or difflib.get_close_matches(name, names)
  return f" (did you mean {' or '.join(close)}?)" if close else ""


def differences(
  old: Mapping[str, Any], new: RunConfig, ignore: Sequence[str] = ()
) -> list[str]:
  """Returns the fields that differ, sorted, as "field: old → new".

  If the systems differ, fields that only one system has are left out.

  Args:
    old: a configuration read from JSON, perhaps of an older run.
    new: the configuration to compare it with.
    ignore: dotted fields or groups that may differ.
  """
  before, after = own_fields(old), to_flat(new)
  names = before.keys() | after.keys()
  if before.get("system", new.system) != new.system:
    names = before.keys() & after.keys()  # fields of one system only need no mention
  found = []
  for name in sorted(names):
    # Compared as texts, because NaN != NaN.
    one, other = (
      json.dumps(side[name]) if name in side else "absent" for side in (before, after)
    )
    ignored = any(name == known or name.startswith(f"{known}.") for known in ignore)
    if one != other and not ignored:
      found.append(f"{name}: {one} → {other}")
  return found


def own_fields(tree: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the values of a config.json by dotted name.

  A field that was added after the run has the value that describes how the run behaved.
  If `tree` is a valid configuration, fields that its system lacks are dropped.
  """
  try:
    return to_flat(from_tree(tree))
  except UserError:
    flat = flatten(tree)
    return flat | migrate.current(flat)


def lacking(tree: Any) -> list[str]:
  """Returns the fields that a config.json lacks and `migrate` cannot fill, sorted."""
  return migrate.lacking(flatten(tree))


def describe(config: RunConfig) -> list[str]:
  """Returns a header and a line per field: name, value, default, range, meaning.

  A dot in the column of defaults means that the value is the default.
  """
  rows: list[tuple[str, ...]] = [("field", "value", "default", "range", "meaning")]
  for name, leaf in leaves(type(config)).items():
    value = value_of(config, name)
    default = "·" if value == leaf.default else _text(leaf.default)
    allowed = leaf.range or leaf.kind.__name__
    rows.append((name, _text(value), default, allowed, leaf.text))
  widths = [max(len(row[column]) for row in rows) for column in range(3)]
  # Fixed, or a long list of choices would push every meaning off the screen.
  widths.append(24)
  return [
    "  ".join([*map(str.ljust, row[:4], widths), row[4]]).rstrip() for row in rows
  ]


def _text(value: Any) -> str:
  return repr(value) if isinstance(value, str) else f"{value}"


def _build(cls: type, tree: dict[str, Any]) -> Any:
  kinds = typing.get_type_hints(cls)
  groups = [name for name in tree if dataclasses.is_dataclass(kinds[name])]
  return cls(**tree | {name: _build(kinds[name], tree[name]) for name in groups})
