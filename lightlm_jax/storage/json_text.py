"""Reads JSON safely: files may come from other programs, or be damaged."""

from collections.abc import Collection
import contextlib
import json
from typing import Any

from etils import epath

from lightlm_jax.runtime.errors import UserError, first_line

DEEPEST = 100  # maximum levels of nesting; the files of this project have about ten


def loads(text: str | bytes) -> Any:
  """Parses JSON; refuses deep nesting, so that recursive functions can process it.

  Raises:
    ValueError: the text is not JSON, or has more than DEEPEST levels.
  """
  with contextlib.suppress(RecursionError):
    value = json.loads(text)
    level = [value]
    for _ in range(DEEPEST + 1):
      lists = [inner for inner in level if isinstance(inner, list)]
      lists += [inner.values() for inner in level if isinstance(inner, dict)]
      level = [value for inner in lists for value in inner]
      if not level:
        return value
  raise ValueError(f"more than {DEEPEST} levels of brackets")


def read(path: epath.Path, advice: str, fields: Collection[str] = ()) -> dict[str, Any]:
  """Returns the JSON object in a file; the object must have the keys `fields`.

  Raises:
    UserError: the file cannot be read, or has other content; the message ends with
      `advice`.
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
