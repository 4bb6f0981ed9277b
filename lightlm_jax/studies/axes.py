"""The axes of a study, their values, and the config fields that a point sets.

An axis is a dotted field of a run's config, or a shape that sets several fields:
`depth` (layers of encoder and decoder), `width` (model.d_model, shared by the heads),
`ffn` (model.d_ff as a multiple of model.d_model), `rate` (train.learning_rate times
model.d_model; the rate of the embeddings stays that of the base). This is how Adam's
learning rates transfer across widths (arXiv 2203.03466).
"""

from collections.abc import Iterable, Mapping, Sequence
import itertools
import math
import re
from typing import Any, NamedTuple
import urllib.parse

from lightlm_jax import config as config_lib
from lightlm_jax.config import RunConfig
from lightlm_jax.runtime.errors import UserError

Value = Any  # a bool, int, float or str, as the axis has it
Point = dict[str, Value]  # axis → value, in the order of the axes

# Shape → type of its values, and the fields that it sets.
SHAPES: dict[str, tuple[type, tuple[str, ...]]] = {
  "depth": (int, ("model.num_layers", "model.num_decoder_layers")),
  "width": (int, ("model.d_model", "model.d_kv")),
  "ffn": (float, ("model.d_ff",)),
  "rate": (float, ("train.learning_rate", "train.embedding_rate")),
}
# Shape → the fields that its value is made of.
_READ = {
  "depth": ("model.num_layers", "model.num_decoder_layers"),
  "width": ("model.d_model",),
  "ffn": ("model.d_ff", "model.d_model"),
  "rate": ("train.learning_rate", "model.d_model"),
}
# Fields of a shape that a system may do without.
_OPTIONAL = ("model.num_decoder_layers", "model.d_kv")
_RANGE = re.compile(r"(log:)?(.+)\.\.(.+)")
_TRUTH = {"true": True, "false": False}


class Range(NamedTuple):
  """All numbers from `low` to `high`, for random search and TPE but not for a grid."""

  low: int | float
  high: int | float
  log: bool  # sampled uniformly in the logarithm

  def rounded(self, value: int | float) -> int | float:
    """Returns a drawn number with few digits, so that a trial's name is its value."""
    short = float(f"{value:.4g}") if isinstance(value, float) else value
    return min(max(short, self.low), self.high)

  def __str__(self) -> str:
    return f"{'log:' if self.log else ''}{self.low}..{self.high}"


Values = tuple[Value, ...] | Range


def size(values: Values) -> float:
  """Returns the number of values."""
  if not isinstance(values, Range):
    return len(values)
  return values.high - values.low + 1 if isinstance(values.low, int) else math.inf


def parse(text: str, what: str) -> tuple[str, list[str]]:
  """Parses `axis=value,value` into the axis and its values as text.

  Args:
    text: the flag's value.
    what: the flag, for the error.
  """
  name, equals, values = text.partition("=")
  if not equals or not name.strip():
    raise UserError(
      f"{what}={text} is not understood; write {what}=FIELD=VALUE,VALUE, such as "
      f"{what}=model.d_ff=8,64"
    )
  return name.strip(), [v.strip() for v in values.split(",") if v.strip()]


def values_of(axis: str, given: Sequence[Any], run: RunConfig) -> Values:
  """Returns the values of an axis with the type of its field.

  Args:
    axis: a shape or a dotted field.
    given: values, or their text; a range is one text.
    run: the base configuration.

  Raises:
    UserError: there is no such field, or a value has another type.
  """
  kind = _kind(axis, run)
  found = [_value(axis, kind, value) for value in given]
  ranges = [value for value in found if isinstance(value, Range)]
  if ranges:
    if len(found) > 1:
      raise UserError(f"axis {axis} has a range and other values; give one range alone")
    return ranges[0]
  for value in found:
    if found.count(value) > 1:
      raise UserError(f"axis {axis} has the value {value!r} twice")
  return tuple(found)


def flat(group: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  """Flattens nested groups: {"data": {"share": x}} gives {"data.share": x}."""
  found = {}
  for name, inner in group.items():
    if isinstance(inner, Mapping):
      found |= flat(inner, f"{prefix}{name}.")
    else:
      found[f"{prefix}{name}"] = inner
  return found


def check_apart(axes: Iterable[str]) -> None:
  """Raises a UserError if two axes set the same field."""
  setter = {}
  for axis in axes:
    for field in SHAPES.get(axis, (None, (axis,)))[1]:
      if field in setter:
        raise UserError(
          f"axes {setter[field]} and {axis} both set {field}; leave one out, such as "
          f"by --vary={setter[field]}="
        )
      setter[field] = axis


def product(axes: Mapping[str, tuple[Value, ...]]) -> list[Point]:
  """Returns every combination, the last axis running fastest."""
  return [dict(zip(axes, values)) for values in itertools.product(*axes.values())]


def value_in(run: RunConfig, axis: str) -> Any:
  """Returns the value of an axis in a configuration, None if it has no single one."""
  if axis not in SHAPES:
    config_lib.find(type(run), axis)
    return config_lib.value_of(run, axis)
  fields = config_lib.leaves(type(run))
  own = {f: config_lib.value_of(run, f) for f in _READ[axis] if f in fields}
  if axis == "depth":
    layers = set(own.values())
    return layers.pop() if len(layers) == 1 else None
  if len(own) < len(_READ[axis]):
    return None
  if axis == "width":
    return own["model.d_model"]
  if axis == "ffn":
    return own["model.d_ff"] / own["model.d_model"]
  return own["train.learning_rate"] * own["model.d_model"]


def fields_of(run: RunConfig, point: Point) -> dict[str, Value]:
  """Returns the fields of a run's configuration that a point sets.

  Raises:
    UserError: the values do not fit together.
  """
  fields = {axis: value for axis, value in point.items() if axis not in SHAPES}

  def so_far(field) -> Any:
    return fields[field] if field in fields else value_in(run, field)

  for axis in SHAPES:
    if axis in point and not point[axis] > 0:
      raise UserError(f"{axis} is {point[axis]:g}; it must be more than 0")
  if "depth" in point:
    # A decoder-only system has one of the two fields.
    has = config_lib.leaves(type(run)).keys()
    fields |= {f: point["depth"] for f in SHAPES["depth"][1] if f in has}
  if "width" in point:
    width, heads = point["width"], so_far("model.num_heads")
    if heads < 1 or width % heads:
      raise UserError(
        f"width {width} does not divide over model.num_heads {heads}; choose a "
        f"multiple of {heads}"
      )
    fields["model.d_model"] = width
    if "model.d_kv" in config_lib.leaves(type(run)):
      fields["model.d_kv"] = width // heads
  if "ffn" in point:
    d_ff = point["ffn"] * so_far("model.d_model")
    if not d_ff < 2**31:
      raise UserError(f"ffn {point['ffn']:g} makes model.d_ff {d_ff:g}; take less")
    fields["model.d_ff"] = max(1, round(d_ff))
  if "rate" in point:
    rate = point["rate"] / so_far("model.d_model")
    embeddings = value_in(run, "train.learning_rate")
    embeddings *= value_in(run, "train.embedding_rate")
    fields |= {"train.learning_rate": rate, "train.embedding_rate": embeddings / rate}
  return fields


def name_of(point: Point) -> str:
  """Returns the name of a point and of its folder; it is unique."""
  return ",".join(f"{axis}={_word(value)}" for axis, value in point.items())


def _word(value: Value) -> str:
  text = f"{value:g}" if isinstance(value, float) else str(value)
  if isinstance(value, float) and float(text) != value:
    text = repr(value)
  return urllib.parse.quote(text, safe="+")


def _kind(axis: str, run: RunConfig) -> type:
  if axis in SHAPES:
    for field in SHAPES[axis][1]:
      if field not in _OPTIONAL:
        config_lib.find(type(run), field)
    return SHAPES[axis][0]
  close = [name for name in SHAPES if name == axis.split(".")[-1]]
  try:
    kind = config_lib.find(type(run), axis).kind
  except UserError as error:
    hint = f" ({close[0]} is a shape; write it alone)" if close else ""
    raise UserError(f"axis {axis}{hint}: {error}")
  if kind not in (bool, int, float, str):
    raise UserError(
      f"axis {axis} is a {kind.__name__}; only numbers, strings and booleans vary"
    )
  return kind


def _value(axis: str, kind: type, given: Any) -> Value | Range:
  try:
    if isinstance(given, str):
      if kind in (int, float) and (match := _RANGE.fullmatch(given)):
        low, high = (_number(kind, word) for word in match.groups()[1:])
        return _checked_range(axis, Range(low, high, bool(match[1])))
      if kind is bool:
        return _TRUTH[given.lower()]
      return given if kind is str else _number(kind, given)
    if kind is float and type(given) is int:
      return float(given)
    if type(given) is not kind:
      raise ValueError
    return given
  except (ValueError, KeyError, OverflowError):
    raise UserError(f"axis {axis} takes values of type {kind.__name__}; got {given!r}")


def _number(kind: type, word: str) -> int | float:
  number = kind(word.replace("_", ""))
  if not math.isfinite(number):
    raise ValueError
  return number


def _checked_range(axis: str, found: Range) -> Range:
  if not found.low < found.high or (found.log and found.low <= 0):
    raise UserError(
      f"axis {axis}: {found} is no range; write LOW..HIGH, or log:LOW..HIGH with LOW "
      "above 0"
    )
  return found
