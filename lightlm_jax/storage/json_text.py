"""Reads JSON safely: files may come from other programs, or be damaged."""

from collections.abc import Collection
import contextlib
import json
import types
import typing
from typing import Annotated, Any, Literal, NotRequired, Union

from etils import epath

from lightlm_jax.runtime.errors import UserError, first_line

DEEPEST = 100  # maximum levels of nesting; the files of this project have about ten
_MOST_BYTES = 2**26  # of a file; those of this project have a thousandth of it
_LARGEST = 2**63  # numbers beyond it overflow in arrays
_WORDS = {
  bool: "true or false",
  int: "a whole number",
  float: "a finite number",
  str: "a text",
  list: "a list",
  dict: "an object",
}


def loads(text: str | bytes) -> Any:
  """Parses JSON; refuses deep nesting, so that recursive functions can process it.

  Raises:
    ValueError: the text is not JSON, or has more than DEEPEST levels or a lone
      surrogate.
  """
  with contextlib.suppress(RecursionError):
    value = json.loads(text)
    level = [value]
    for _ in range(DEEPEST + 1):
      for inner in level:
        if isinstance(inner, str):
          inner.encode()  # raises for a lone surrogate, which no file could hold
      lists = [inner for inner in level if isinstance(inner, list)]
      lists += [[*inner, *inner.values()] for inner in level if isinstance(inner, dict)]
      level = [value for inner in lists for value in inner]
      if not level:
        return value
  raise ValueError(f"more than {DEEPEST} levels of brackets")


def read(
  path: epath.Path, advice: str, fields: Collection[str] = (), kind: Any = dict
) -> dict[str, Any]:
  """Returns the JSON object in a file, of the type `kind`, see `misfit`.

  The object must have the keys `fields`.

  Raises:
    UserError: the file cannot be read, or has other content; the message ends with
      `advice`.
  """
  try:
    if path.stat().length > _MOST_BYTES:
      raise ValueError(f"it has {path.stat().length:,} bytes")
    value = loads(path.read_bytes())
    if not isinstance(value, dict):
      raise ValueError("it holds no JSON object")
    missing = [field for field in fields if field not in value]
    if missing:
      raise ValueError(f"it has no {', '.join(missing)}")
    if wrong := misfit(value, kind):
      raise ValueError(wrong)
  except (OSError, ValueError) as error:
    raise UserError(f"cannot read {path} ({first_line(error)}); {advice}")
  return value


def misfit(value: Any, kind: Any, name: str = "it") -> str | None:
  """Returns in words where a JSON value is not of a type; None = it fits.

  Args:
    value: what `loads` returned, or a part of it.
    kind: bool, int, float, str, None, dict, list, Any, Literal, or built of these as
      dict[str, …], list[…], tuple[…], a union, a TypedDict, whose keys may all be
      missing, or Annotated[dict[str, …], keys that must not be missing].
    name: what the words call the value.
  """
  origin, inner = typing.get_origin(kind) or kind, typing.get_args(kind)
  if origin is NotRequired:
    return misfit(value, inner[0], name)
  if origin is Annotated:
    if wrong := misfit(value, inner[0], name):
      return wrong
    missing = [key for key in inner[1] if key not in value]
    return f"{name} has no {', '.join(missing)}" if missing else None
  if origin in (Union, types.UnionType):
    wrong = [misfit(value, one, name) for one in inner]
    return None if None in wrong else wrong[0]
  if not _is(value, origin, inner):
    wanted = _WORDS.get(origin) or " or ".join(map(str, inner)) or "an object"
    wanted = f"a list of {len(inner)}" if origin is tuple else wanted
    return f"{name} is {repr(value)[:40]}, not {wanted}"
  parts: dict[Any, Any] = {}  # the types of what the value holds
  if typing.is_typeddict(kind):
    parts = typing.get_type_hints(kind, include_extras=True)
  elif origin in (dict, list) and inner:
    parts = dict.fromkeys(value if origin is dict else range(len(value)), inner[-1])
  elif origin is tuple:
    parts = dict(enumerate(inner))
  held = value if isinstance(value, dict) else dict(enumerate(value)) if parts else {}
  inside = "" if name == "it" else f"{name}."
  wrong = (misfit(held[k], parts[k], f"{inside}{k}") for k in parts if k in held)
  return next(filter(None, wrong), None)


def is_number(value: Any) -> bool:
  """Returns whether a JSON value is a finite number that fits an array."""
  return type(value) in (int, float) and -_LARGEST < value < _LARGEST


def _is(value: Any, origin: Any, inner: tuple[Any, ...]) -> bool:
  """Returns whether a JSON value is of a type, without looking at what it holds."""
  if origin is Any:
    return True
  if origin is Literal:
    return value in inner
  if origin in (int, float):
    return is_number(value) and (origin is float or type(value) is int)
  if origin is tuple:
    return isinstance(value, list) and len(value) == len(inner)
  if typing.is_typeddict(origin):
    return isinstance(value, dict)
  return value is None if origin in (None, type(None)) else type(value) is origin
