"""JSON that somebody else may have written: read, or a ValueError."""

import json
from typing import Any

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
