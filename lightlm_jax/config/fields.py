"""Fields of a configuration, each with its type, default, range and choices.

A configuration is a tree of frozen dataclasses. `leaves` lists the fields of such a
class by dotted name, `check` checks the values of a configuration.
"""

from collections.abc import Callable, Mapping
import dataclasses
import functools
import importlib.util
import math
import typing
from typing import Any, NamedTuple

from lightlm_jax.runtime.errors import UserError


class Rule(NamedTuple):
  """The range of a field: `text` describes it, `holds` tests a value."""

  text: str
  holds: Callable[[Any], bool]


POSITIVE = Rule("at least 1", lambda value: value >= 1)
NOT_NEGATIVE = Rule("0 or more", lambda value: 0 <= value < math.inf)
ABOVE_0 = Rule("above 0 and finite", lambda value: 0 < value < math.inf)
FRACTION = Rule("above 0 and below 1", lambda value: 0 < value < 1)
BELOW_1 = Rule("0 or more and below 1", lambda value: 0 <= value < 1)
SHARE = Rule("above 0 and at most 1", lambda value: 0 < value <= 1)
PROBABILITY = Rule("from 0 to 1", lambda value: 0 <= value <= 1)
SEED = Rule("from 0 to 2**31 - 1", lambda value: 0 <= value < 2**31)
DEVICES = Rule("-1 (all) or at least 1", lambda value: value == -1 or value >= 1)
ASCENDING = Rule(
  "ascending numbers from 1",
  lambda value: all(a < b for a, b in zip((0, *value), value)),
)


def from_to_a_million(low: int, text: str = "") -> Rule:
  """Returns the rule that a table has `low` to 10**6 entries; `text` explains `low`."""
  return Rule(f"from {low}{text} to a million", lambda value: low <= value <= 10**6)


class Extra(NamedTuple):
  """Optional packages that a field needs, and the pip extra that installs them."""

  name: str
  modules: tuple[str, ...]
  value: str | None = None  # the field's value that needs them; None = every value


class Leaf(NamedTuple):
  """The description of a field that holds a value rather than a group of fields."""

  name: str  # dotted
  kind: type  # bool, int, float, str or tuple
  element: type | None  # the type of a tuple's elements
  default: Any
  text: str  # the meaning of the field, with its unit
  rule: Rule | None = None  # its range; None = any value of its type
  choices: tuple[str, ...] = ()  # possible values, or elements of a tuple; () = any
  extra: Extra | None = None
  # The dotted name of another field, whose value this field gets when a configuration
  # without this field is converted to another system; "" = it gets `default`.
  like: str = ""
  # Whether only a configuration with this field can be converted to its system.
  signature: bool = False

  def fits(self, value: Any) -> bool:
    """Returns whether a value has exactly the field's type: True is not an int."""
    if self.element is None:
      return type(value) is self.kind
    return type(value) is tuple and all(type(each) is self.element for each in value)

  def accepts(self, value: Any) -> bool:
    """Returns whether `choices` is empty or has `value`; True for any tuple or list."""
    return not self.choices or value in self.choices or isinstance(value, tuple | list)

  def converted(self, value: Any) -> Any:
    """Converts an int to float for a float field, a list to tuple for a tuple field."""
    if self.kind is float and type(value) is int and abs(value) < 2**63:
      return float(value)
    if self.kind is tuple and isinstance(value, list):
      return tuple(value)
    return value

  def check_type(self, value: Any) -> None:
    """Raises a UserError if a value is not of the field's type."""
    if not self.fits(value):
      wanted = self.rule.text if self.rule else f"of type {self.kind.__name__}"
      raise UserError(f"config.{self.name} is {value!r}; it must be {wanted}")

  @property
  def range(self) -> str:
    """The choices or the range in words; empty if any value of the type is allowed."""
    return " | ".join(self.choices) or (self.rule.text if self.rule else "")


def field(default: Any, text: str, rule: Rule | None = None, **more: Any) -> Any:
  """Declares a field of a configuration; `more` sets attributes of its `Leaf`."""
  metadata = {"text": text, "rule": rule, **more}
  return dataclasses.field(default=default, metadata=metadata)


# The order of the groups in listings, after the top-level values.
_GROUPS = ("data", "split", "input", "ids", "model", "train", "decoding", "mesh")
_PLACES = {name: place for place, name in enumerate(_GROUPS, start=1)}


@functools.cache
def leaves(cls: type) -> dict[str, Leaf]:
  """Returns the fields of a configuration class by dotted name, groups' fields last."""
  found, groups = {}, {}
  kinds = typing.get_type_hints(cls)
  for own in sorted(dataclasses.fields(cls), key=lambda f: _PLACES.get(f.name, 0)):
    kind = kinds[own.name]
    if dataclasses.is_dataclass(kind):
      for name, leaf in leaves(typing.cast(type, kind)).items():
        name = f"{own.name}.{name}"
        default = value_of(own.default, name.partition(".")[2])
        groups[name] = leaf._replace(name=name, default=default)
      continue
    arguments = typing.get_args(kind)
    found[own.name] = Leaf(
      name=own.name,
      kind=typing.get_origin(kind) or kind,
      element=arguments[0] if arguments else None,
      default=own.default,
      **own.metadata,
    )
  return found | groups


def value_of(config: Any, name: str) -> Any:
  """Returns the value of a field, given its dotted name."""
  return functools.reduce(getattr, name.split("."), config)


def check(config: Any) -> None:
  """Checks each value against its field, then calls `check` of all groups and `config`.

  Raises:
    UserError: a value is invalid; the message names the field and the possible values.
  """
  for name, leaf in leaves(type(config)).items():
    _check_value(leaf, value_of(config, name))
  _check_groups(config)


def _check_value(leaf: Leaf, value: Any) -> None:
  name, listed = f"config.{leaf.name}", ", ".join(leaf.choices)
  leaf.check_type(value)
  if leaf.choices and leaf.element is None and value not in leaf.choices:
    raise UserError(f"{name} is {value!r}; choose one of {listed}")
  if leaf.choices and leaf.element is not None:
    for each in value:
      if each not in leaf.choices:
        raise UserError(f"{name} names {each!r}; choose from {listed}")
  if leaf.rule is not None and not leaf.rule.holds(value):
    raise UserError(f"{name} is {value!r}; it must be {leaf.rule.text}")
  if leaf.extra is not None and leaf.extra.value in (None, value):
    for module in leaf.extra.modules:
      if importlib.util.find_spec(module) is None:
        raise UserError(
          f"{name} is {value!r}, and there is no {module}; install with "
          f"pip install -c constraints.txt -e '.[{leaf.extra.name}]'"
        )


def _check_groups(config: Any) -> None:
  for own in dataclasses.fields(config):
    if dataclasses.is_dataclass(value := getattr(config, own.name)):
      _check_groups(value)
  # Every class in the hierarchy is called, since no `check` calls super().
  for cls in reversed(type(config).__mro__):
    if own_check := vars(cls).get("check"):
      own_check(config)


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
  """Returns the values of a nested mapping by dotted name; `prefix` opens each name.

  An empty group counts as a value, {}. If `tree` is not a mapping, the result is {}.
  """
  flat = {}
  for name, value in tree.items() if isinstance(tree, Mapping) else ():
    if isinstance(value, Mapping) and value:
      flat |= flatten(value, f"{prefix}{name}.")
    else:
      flat[prefix + name] = value
  return flat


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
  """Returns nested dicts from values by dotted name; the inverse of `flatten`."""
  tree: dict[str, Any] = {}
  for name, value in flat.items():
    *parents, leaf = name.split(".")
    inner = tree
    for parent in parents:
      inner = inner.setdefault(parent, {})
    inner[leaf] = value
  return tree
