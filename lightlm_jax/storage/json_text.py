"""JSON that somebody else may have written: read, or a ValueError."""

from collections.abc import Collection
import json
from typing import Any

from etils import epath

from lightlm_jax.runtime.errors import UserError, first_line

# Levels of the deepest value; what this project writes has about ten.
DEEPEST = 100


def loads(text: str | bytes) -> Any:
  """As `json.loads`, which gives up on brackets within brackets by a RecursionError.

  What it reads may still be too deep for the functions that walk through it.

  Raises:
    ValueError: this is no JSON, or has more than DEEPEST levels.
  """
  try:
    value = json.loads(text)
  except RecursionError:
    raise ValueError(f"more than {DEEPEST} levels of brackets")
  level = [value]
  for _ in range(DEEPEST + 1):
    lists = [inner for inner in level if isinstance(inner, list)]
    lists += [inner.values() for inner in level if isinstance(inner, dict)]
    level = [value for inner in lists for value in inner]
    if not level:
      return value
  raise ValueError(f"more than {DEEPEST} levels of brackets")


def read(path: epath.Path, advice: str, fields: Collection[str] = ()) -> dict[str, Any]:
  """The JSON object of a file.

  Args:
    path: of the file.
    advice: what to do where it is damaged; the end of the error's line.
    fields: that the object must have.

  Raises:
    UserError: the file cannot be read, or holds something else.
  """
  try:
    value = loads(path.read_text())
    if not isinstance(value, dict):
      raise ValueError("it holds no JSON object")
    missing = [field for field in fields if field not in value]
    if missing:
      raise ValueError(f"it has no {', '.join(missing)}")
  except (OSError, ValueError) as error:
    raise UserError(f"cannot read {path} ({first_line(error)}); {advice}")
  return value
