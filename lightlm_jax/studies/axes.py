"""The axes of a study, their values, and the config fields that a point sets.

An axis is a dotted field of a run's config, or a shape that sets several fields:
`depth` (layers of encoder and decoder), `width` (model.d_model, divided among the
heads), `ffn` (model.d_ff as a multiple of model.d_model), `rate` (train.learning_rate
times model.d_model; the embeddings keep the rate of the base configuration). At equal
`rate`, Adam's learning rates transfer across widths (arXiv 2203.03466).
"""

from collections.abc import Iterable, Sequence
import math
import re
from typing import Any, NamedTuple
import urllib.parse

from lightlm_jax import config as config_lib
from lightlm_jax.config import RunConfig
from lightlm_jax.runtime.errors import UserError

Value = Any  # a bool, int, float or str, depending on the axis
Point = dict[str, Value]  # axis → value, in the order of the axes

# Shape → (type of its values, fields that it sets).
SHAPES: dict[str, tuple[type, tuple[str, ...]]] = {
  "depth": (int, ("model.num_layers", "model.num_decoder_layers")),
  "width": (int, ("model.d_model", "model.d_kv")),
  "ffn": (float, ("model.d_ff",)),
  "rate": (float, ("train.learning_rate", "train.embedding_rate")),
}
# Fields of shapes that some systems do not have.
_OPTIONAL = ("model.num_decoder_layers", "model.d_kv")
_RANGE = re.compile(r"(log:)?(.+)\.\.(.+)")


class Range(NamedTuple):
  """All numbers from `low` to `high`, for random search and TPE, but not for a grid."""

  low: int | float
  high: int | float
  log: bool  # sample uniformly on a logarithmic scale

  def rounded(self, value: int | float) -> int | float:
    """Rounds a float to four significant digits, within the range; keeps an int."""
    short = float(f"{value:.4g}") if isinstance(value, float) else value
    return min(max(short, self.low), self.high)

  def __str__(self) -> str:
    return f"{'log:' if self.log else ''}{self.low}..{self.high}"


Values = tuple[Value, ...] | Range


def size(values: Values) -> float:
  """Returns how many values an axis has; inf for a range of floats."""
  if not isinstance(values, Range):
    return len(values)
  return values.high - values.low + 1 if isinstance(values.low, int) else math.inf


def parse(text: str) -> tuple[str, list[str]]:
  """Parses `axis=value,value` of --vary; returns the axis and its values as strings."""
  name, equals, values = text.partition("=")
  if not equals or not name.strip():
    raise UserError(
      f"--vary={text} is not understood; write --vary=FIELD=VALUE,VALUE, such as "
      "--vary=model.d_ff=8,64"
    )
  return name.strip(), [v.strip() for v in values.split(",") if v.strip()]


def values_of(axis: str, given: Sequence[Any], run: RunConfig) -> Values:
  """Converts the values of an axis to the type of its field in the configuration `run`.

  `given` has values or strings; for a range, one string such as "log:1e-4..1e-2".

  Raises:
    UserError: `run` has no such field, a value has another type, or is given twice.
  """
  kind = _kind(axis, run)
  found = [_value(axis, kind, value) for value in given]
  if any(isinstance(value, Range) for value in found):
    if len(found) > 1:
      raise UserError(f"axis {axis} has a range and other values; give one range alone")
    return found[0]
  for value in found:
    if found.count(value) > 1:
      raise UserError(f"axis {axis} has the value {value!r} twice")
  return tuple(found)


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


def value_in(run: RunConfig, axis: str) -> Any:
  """Returns a run's axis value; None if the axis's fields are missing or differ."""
  if axis not in SHAPES:
    config_lib.find(type(run), axis)
    return config_lib.value_of(run, axis)
  flat, (_, fields) = config_lib.to_flat(run), SHAPES[axis]
  if axis == "depth":
    layers = {flat[field] for field in fields if field in flat}
    return layers.pop() if len(layers) == 1 else None
  value, width = flat.get(fields[0]), flat.get("model.d_model")
  if value is None or width is None:
    return None
  if axis == "width":
    return width
  return value / width if axis == "ffn" else value * width


def fields_of(run: RunConfig, point: Point) -> dict[str, Value]:
  """Returns {field of `run`: value} for a point; raises a UserError for a bad value."""
  fields = {axis: value for axis, value in point.items() if axis not in SHAPES}

  def so_far(field) -> Any:
    return fields[field] if field in fields else value_in(run, field)

  for axis in SHAPES:
    if axis in point and not point[axis] > 0:
      raise UserError(f"{axis} is {point[axis]:g}; it must be more than 0")
  if "depth" in point:
    fields |= dict.fromkeys(SHAPES["depth"][1], point["depth"])
  if "width" in point:
    width, heads = point["width"], so_far("model.num_heads")
    if heads < 1 or width % heads:
      raise UserError(
        f"width {width} does not divide over model.num_heads {heads}; choose a "
        f"multiple of {heads}"
      )
    fields |= {"model.d_model": width, "model.d_kv": width // heads}
  if "ffn" in point:
    d_ff = point["ffn"] * so_far("model.d_model")
    if not d_ff < 2**31:
      raise UserError(f"ffn {point['ffn']:g} makes model.d_ff {d_ff:g}; take less")
    fields["model.d_ff"] = max(1, round(d_ff))
  if "rate" in point:
    rate = point["rate"] / so_far("model.d_model")
    embeddings = math.prod(value_in(run, field) for field in SHAPES["rate"][1])
    fields |= {"train.learning_rate": rate, "train.embedding_rate": embeddings / rate}
  own = config_lib.leaves(type(run))
  return {name: value for name, value in fields.items() if name in own}


def name_of(point: Point) -> str:
  """Returns the unique name of a point, which is also the name of its folder."""
  return ",".join(f"{axis}={_word(value)}" for axis, value in point.items())


def _word(value: Value) -> str:
  text = str(value)
  if isinstance(value, float) and float(short := f"{value:g}") == value:
    text = short
  return urllib.parse.quote(text, safe="+")


def _kind(axis: str, run: RunConfig) -> type:
  if axis in SHAPES:
    kind, fields = SHAPES[axis]
    for field in fields:
      if field not in _OPTIONAL:
        config_lib.find(type(run), field)
    return kind
  try:
    kind = config_lib.find(type(run), axis).kind
  except UserError as error:
    last = axis.split(".")[-1]
    hint = f" ({last} is a shape; write it alone)" if last in SHAPES else ""
    raise UserError(f"axis {axis}{hint}: {error}")
  if kind not in (bool, int, float, str):
    raise UserError(
      f"axis {axis} is a {kind.__name__}; only numbers, strings and booleans vary"
    )
  return kind


def _value(axis: str, kind: type, given: Any) -> Value | Range:
  try:
    if not isinstance(given, str):
      value = float(given) if kind is float and type(given) is int else given
      if type(value) is not kind:
        raise ValueError
      return value
    if kind in (bool, str):
      return {"true": True, "false": False}[given.lower()] if kind is bool else given
    match = _RANGE.fullmatch(given)
    if not match:
      return _number(kind, given)
    low, high = (_number(kind, word) for word in match.groups()[1:])
  except (ValueError, KeyError, OverflowError):
    raise UserError(f"axis {axis} takes values of type {kind.__name__}; got {given!r}")
  found = Range(low, high, bool(match[1]))
  if not low < high or (found.log and low <= 0):
    raise UserError(
      f"axis {axis}: {found} is no range; write LOW..HIGH, or log:LOW..HIGH with LOW "
      "above 0"
    )
  return found


def _number(kind: type, word: str) -> int | float:
  number = kind(word.replace("_", ""))
  if not math.isfinite(number):
    raise ValueError
  return number
