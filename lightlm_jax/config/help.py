"""Help about the fields of a configuration."""

from typing import Any

from lightlm_jax.config.fields import leaves, value_of
from lightlm_jax.config.schema import RunConfig

_HEADER = ("field", "value", "default", "range", "meaning")


def describe(config: RunConfig) -> list[str]:
  """A line for each field, under a header: value, default, range, meaning.

  A dot in the column of defaults says that the value is the default.
  """
  rows: list[tuple[str, ...]] = [_HEADER]
  for name, leaf in leaves(type(config)).items():
    value = value_of(config, name)
    default = "·" if value == leaf.default else _text(leaf.default)
    allowed = leaf.range or leaf.kind.__name__
    rows.append((name, _text(value), default, allowed, leaf.about.text))
  widths = [max(len(row[column]) for row in rows) for column in range(3)]
  # A long list of choices would push every description off the screen.
  widths.append(24)
  return [
    "  ".join([*map(str.ljust, row[:4], widths), row[4]]).rstrip() for row in rows
  ]


def _text(value: Any) -> str:
  return repr(value) if isinstance(value, str) else f"{value}"
