"""Runs the benchmarks `decode`, `train` and `all` with the command line's flags."""

from collections.abc import Callable, Sequence
import importlib
import time
from typing import Any, NamedTuple

from etils import epath

from lightlm_jax.benchmarks import decode as decode_lib
from lightlm_jax.benchmarks import plot, shapes
from lightlm_jax.benchmarks import training as train_lib
from lightlm_jax.reporting import drawing as figures
from lightlm_jax.runtime import devices
from lightlm_jax.runtime.errors import UserError, first_line

_ALONE = ("decode", "train")
# The benchmarks to which a flag applies, unless it applies to all.
_APPLIES_TO = {
  "parts": _ALONE,
  "sizes": _ALONE,
  "beams": ("decode",),
  "depths": ("decode",),
  "batch": _ALONE,
  "shapes": ("train",),
  "peer": ("decode",),
  "figure": ("decode",),
  "report": _ALONE,
  "folder": ("all",),
  "minutes": ("all",),
}


class Request(NamedTuple):
  """The values of the command's flags; None or empty = not given."""

  quick: bool = False
  parts: list[str] | None = None
  sizes: list[str] | None = None
  beams: list[str] | None = None
  depths: list[str] | None = None
  batch: int | None = None
  shapes: list[str] | None = None
  repeats: int | None = None
  peer: Sequence[str] = ()
  figure: str | None = None
  report: str | None = None
  folder: str | None = None
  minutes: float | None = None
  platform: str | None = None


def run(name: str, request: Request) -> None:
  """Runs the benchmark `decode`, `train` or `all`.

  Raises:
    UserError: a flag is wrong, or does not apply to this benchmark.
  """
  for flag, names in _APPLIES_TO.items():
    if getattr(request, flag) and name not in names:
      raise UserError(f"--{flag} is for bench {' and '.join(names)}, not {name}")
  for flag in ("batch", "repeats"):
    value = getattr(request, flag)
    if value is not None and value < 1:
      raise UserError(f"--{flag} is {value}; it must be at least 1")
  {"decode": _decode, "train": _train, "all": _all}[name](request)


def _decode(request: Request) -> None:
  options = _with(
    decode_lib.QUICK if request.quick else decode_lib.Options(),
    sizes=_numbers(request, "sizes"),
    beams=_numbers(request, "beams"),
    depths=_numbers(request, "depths"),
    batch=request.batch,
    repeats=request.repeats,
  )
  peers = {name: _load(name) for name in request.peer}
  parts = _parts(request, decode_lib.PARTS)
  if request.figure:
    figures.new(1, 1)  # fails now if there is no matplotlib
    if parts and "a" not in parts:
      raise UserError("--figure draws part a; add it to --parts")
  _select_devices(request)
  options = options._replace(parts=parts or decode_lib.parts_here(request.quick))
  report = decode_lib.decode(options, peers, _path(request))
  if request.figure:
    plot.draw(report["transition"], epath.Path(request.figure))


def _train(request: Request) -> None:
  parts = _parts(request, train_lib.PARTS)
  sizes = _numbers(request, "sizes")
  for name in request.shapes or ():
    if name not in shapes.PRESETS:
      raise UserError(
        f"there is no shape {name!r}; choose from {', '.join(shapes.PRESETS)}"
      )
  _select_devices(request)
  options = _with(
    train_lib.options_here(quick=request.quick),
    parts=parts,
    shapes=request.shapes,
    log_sizes=sizes,
    repeats=request.repeats,
  )
  if request.batch:
    options = train_lib.with_batch(options, request.batch)
  train_lib.train(options, _path(request))


def _all(request: Request) -> None:
  began, seconds = time.monotonic(), 60 * (request.minutes or 7.5)
  folder = epath.Path(request.folder or "runs/bench")
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(f"--folder={folder}: {first_line(error)}")
  _select_devices(request)
  training = train_lib.options_here(quick=request.quick, short=True)
  training = _with(training, repeats=request.repeats)
  # The first benchmark ends early enough to leave time for the second.
  train_lib.train(training, folder / "train.json", began + 0.6 * seconds)
  decoding = decode_lib.QUICK if request.quick else decode_lib.SHORT
  parts = decode_lib.parts_here(request.quick)
  decoding = _with(decoding, parts=parts, repeats=request.repeats)
  decode_lib.decode(decoding, {}, folder / "decode.json", began + seconds)


def _select_devices(request: Request) -> None:
  devices.select(request.platform)
  devices.enable_compilation_cache()
  devices.check(request.platform)


def _path(request: Request) -> epath.Path | None:
  return epath.Path(request.report) if request.report else None


def _with(options: Any, **given: Any) -> Any:
  """Returns `options` with the fields in `given` that are not None."""
  return options._replace(**{k: v for k, v in given.items() if v is not None})


def _parts(request: Request, known: tuple[str, ...]) -> list[str] | None:
  for part in request.parts or ():
    if part not in known:
      raise UserError(f"there is no part {part!r}; choose from {', '.join(known)}")
  return request.parts


def _numbers(request: Request, flag: str) -> tuple[int, ...] | None:
  """Parses a list flag into positive integers; None if it is not given."""
  given = getattr(request, flag)
  if given is None:
    return None
  words = [word.replace("_", "") for word in given]
  if not words or not all(word.isdecimal() and int(word) for word in words):
    raise UserError(
      f"--{flag}={','.join(given)} is no list of numbers, such as 20,70,200"
    )
  return tuple(int(word) for word in words)


def _load(name: str) -> Callable:
  """Imports the function that `name`, MODULE:FUNCTION, refers to."""
  module_name, _, function = name.partition(":")
  try:
    return getattr(importlib.import_module(module_name), function)
  except (ModuleNotFoundError, AttributeError, ValueError) as error:
    # If the module exists but lacks one of its own imports, the traceback is shown.
    missing = getattr(error, "name", None)
    if isinstance(error, ModuleNotFoundError) and missing != module_name:
      raise
    raise UserError(
      f"--peer={name}: {error}; write MODULE:FUNCTION, with the module's folder on "
      "PYTHONPATH"
    )
