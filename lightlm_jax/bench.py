"""Times training, and the search under the trie, beside other ways to do them.

python -m lightlm_jax.bench decode --quick
python -m lightlm_jax.bench train --quick
python -m lightlm_jax.bench all --folder=bench

Parts of `decode`: (a) the transition step alone, by items, beams and depth; (b) size,
time and memory of building the index; (c) users a second end to end; (d) the same
weights in transformers' T5, whose `generate` asks a dict; (e) decoding by memory (L2D)
beside the search; (large) a model and a catalogue for an accelerator.

Parts of `train`: (a) examples a second by shape and batch; (b) steps to a dispatch; (c)
bfloat16; (d) the embedding's gradient; (e) how short histories fill a batch; (f) the
same training in transformers' T5; (g) growth with the model, the batch and the log.

`all` is both, in one call that ends before --minutes have passed.

--peer=MODULE:FUNCTION adds an implementation to (a) of `decode`:
benchmarks/transition.py says what the function is given and returns.
"""

from collections.abc import Callable
import importlib
import sys
import time
from typing import NamedTuple

from absl import flags
from etils import epath
import jax

from lightlm_jax import command_line
from lightlm_jax.benchmarks import decode as decode_lib
from lightlm_jax.benchmarks import plot, shapes
from lightlm_jax.benchmarks import training as train_lib
from lightlm_jax.reporting import drawing as figures
from lightlm_jax.runtime import devices
from lightlm_jax.runtime.errors import UserError

COMMANDS = ("decode", "train", "all")
_QUICK = flags.DEFINE_bool("quick", False, "small sizes: 2 minutes on 2 CPU cores")
_PARTS = flags.DEFINE_list(
  "parts",
  None,
  f"decode: of {','.join(decode_lib.PARTS)}, default all, on a CPU without large; "
  f"train: of {','.join(train_lib.PARTS)}, default all",
)
_SIZES = flags.DEFINE_list(
  "sizes",
  None,
  "decode: items of the random catalogues of a and b; train: interactions of the made "
  "logs of g",
)
_BEAMS = flags.DEFINE_list("beams", None, "decode: widths of the search of a")
_DEPTHS = flags.DEFINE_list("depths", None, "decode: tokens of a code of a")
_BATCH = flags.DEFINE_integer(
  "batch",
  None,
  "decode: rows of a call of a, default: as many beams in every call; train: examples "
  "of a step of all parts",
)
_SHAPES = flags.DEFINE_list(
  "shapes", None, f"train: models of a, of {','.join(shapes.PRESETS)}"
)
_REPEATS = flags.DEFINE_integer("repeats", None, "the fewest calls that are timed")
_PEERS = flags.DEFINE_multi_string(
  "peer", [], "decode: MODULE:FUNCTION, timed in a too"
)
_FIGURE = command_line.define_figure()
_REPORT = command_line.define_report()
# A flag of its own: --report is one file of one bench.
_FOLDER = flags.DEFINE_string(
  "folder", None, "all: where decode.json and train.json go; default runs/bench"
)
_MINUTES = flags.DEFINE_float(
  "minutes", None, "all: no further part is begun after so many; default 7.5"
)
_PLATFORM = command_line.define_platform()
_ALONE = "decode", "train"
# What each flag is for, where that is not every command.
_COMMANDS_OF = {
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


def main(argv) -> None:
  command = argv[1]
  for name, commands in _COMMANDS_OF.items():
    if flags.FLAGS[name].value and command not in commands:
      raise UserError(f"--{name} is of bench {' and '.join(commands)}, not {command}")
  {"decode": _decode, "train": _train, "all": _all}[command]()


def _decode() -> None:
  options = _with_flags(
    decode_lib.QUICK if _QUICK.value else decode_lib.Options(),
    sizes=_numbers(_SIZES),
    beams=_numbers(_BEAMS),
    depths=_numbers(_DEPTHS),
    batch=_BATCH.value,
  )
  peers = {name: _load(name) for name in _PEERS.value}
  parts = _parts(decode_lib.PARTS)
  if _FIGURE.value:
    figures.new(1, 1)  # what cannot be drawn is no surprise for the end
    if parts and "a" not in parts:
      raise UserError("--figure draws part a; add it to --parts")
  _start()
  parts = parts or decode_lib.parts_here(_QUICK.value)
  report = decode_lib.decode(options._replace(parts=parts), peers, _report())
  if _FIGURE.value:
    plot.draw(report["transition"], epath.Path(_FIGURE.value))


def _train() -> None:
  parts, wanted, sizes = _parts(train_lib.PARTS), _SHAPES.value, _numbers(_SIZES)
  for name in wanted or ():
    if name not in shapes.PRESETS:
      raise UserError(
        f"there is no shape {name!r}; choose of {', '.join(shapes.PRESETS)}"
      )
  _start()
  options = _with_flags(
    train_lib.options_here(quick=_QUICK.value),
    parts=parts,
    shapes=wanted,
    log_sizes=sizes,
  )
  if _BATCH.value:
    options = train_lib.with_batch(options, _BATCH.value)
  train_lib.train(options, _report())


def _all() -> None:
  began, seconds = time.monotonic(), 60 * (_MINUTES.value or 7.5)
  folder = epath.Path(_FOLDER.value or "runs/bench")
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(f"--folder={folder}: {error.strerror}")
  _start()
  training = _with_flags(train_lib.options_here(quick=_QUICK.value, short=True))
  # Or a slow one would leave the other nothing.
  train_lib.train(training, folder / "train.json", began + 0.6 * seconds)
  decoding = _with_flags(decode_lib.QUICK if _QUICK.value else decode_lib.SHORT)
  decoding = decoding._replace(parts=decode_lib.parts_here(_QUICK.value))
  decode_lib.decode(decoding, {}, folder / "decode.json", began + seconds)


def _start() -> None:
  devices.select(_PLATFORM.value)
  devices.enable_compilation_cache()
  devices.check(_PLATFORM.value)


def _report() -> epath.Path | None:
  return epath.Path(_REPORT.value) if _REPORT.value else None


def _with_flags(options: NamedTuple, **given) -> NamedTuple:
  """The options, with those of the flags that were given."""
  for flag in (_BATCH, _REPEATS):
    if flag.value is not None and flag.value < 1:
      raise UserError(f"--{flag.name} is {flag.value}; it must be at least 1")
  given["repeats"] = _REPEATS.value
  return options._replace(**{k: v for k, v in given.items() if v is not None})


def _parts(known: tuple[str, ...]) -> list[str] | None:
  for part in _PARTS.value or ():
    if part not in known:
      raise UserError(f"there is no part {part!r}; choose of {', '.join(known)}")
  return _PARTS.value


def _numbers(flag: flags.FlagHolder) -> tuple[int, ...] | None:
  """The integers of a list, at least 1; None where it was not given."""
  if flag.value is None:
    return None
  words = [word.replace("_", "") for word in flag.value]
  if not words or not all(word.isdecimal() and int(word) for word in words):
    raise UserError(
      f"--{flag.name}={','.join(flag.value)} is no list of numbers, such as 20,70,200"
    )
  return tuple(int(word) for word in words)


def _load(name: str) -> Callable:
  """The function `MODULE:FUNCTION`."""
  module_name, _, function = name.partition(":")
  try:
    return getattr(importlib.import_module(module_name), function)
  except (ModuleNotFoundError, AttributeError, ValueError) as error:
    # A module that lacks one of its own imports is for its author to mend.
    missing = getattr(error, "name", None)
    if isinstance(error, ModuleNotFoundError) and missing != module_name:
      raise
    raise UserError(
      f"--peer={name}: {error}; write MODULE:FUNCTION, with the module's folder on "
      "PYTHONPATH"
    )


if __name__ == "__main__":
  jax.config.update("jax_numpy_rank_promotion", "raise")
  sys.exit(command_line.main(main, COMMANDS))
