"""Defines the flags that commands share, and runs a command with one-line errors.

A command defines its flags at import, reads them from absl's FLAGS, and ends with
`sys.exit(command_line.main(main))`. Modules that are not commands use no flags.
"""

from collections.abc import Callable, Sequence
import functools
import re
import resource
import sys
from typing import Any

from absl import app, flags, logging
from etils import epath
import jax
from ml_collections import config_flags

from lightlm_jax import config as config_lib
from lightlm_jax.config import Card, RunConfig
from lightlm_jax.runtime import errors, liveness, log, stops
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.storage import atomic

_FEWEST_FILES = 64  # training on one CPU device takes 40
FLAGS = flags.FLAGS
# --help shows the flags of the entry point: --config counts as one of its own.
flags.disclaim_key_flags()

_string, _float = flags.DEFINE_string, flags.DEFINE_float
_count = functools.partial(flags.DEFINE_integer, lower_bound=0)
_positive = functools.partial(flags.DEFINE_integer, lower_bound=1)
_weight = functools.partial(flags.DEFINE_float, lower_bound=0)
_bool = flags.DEFINE_bool
_split = functools.partial(flags.DEFINE_enum, enum_values=["test", "validation"])
# Flag → (absl function that defines it, default, help text).
_SHARED: dict[str, tuple[Callable[..., Any], Any, str]] = {
  "platform": (_string, None, "cpu, gpu or tpu; default: the best that jax finds"),
  "distributed": (
    _string,
    None,
    "several processes as one run: auto (Slurm, Open MPI, GKE, Cloud TPU), "
    "host:port,N,rank, or off; see launch/README.md",
  ),
  "report": (_string, None, "also write the results to FILE (JSON)"),
  "figure": (_string, None, "draw the results: FILE.png"),
  "compare": (_string, None, "other runs, side by side: --compare RUN [RUN …]"),
  "data_dir": (_string, None, "in place of the run's data.dir"),
  "split": (_split, "test", "which held-out items"),
  "strict": (_bool, False, "stop if a checkpoint of the run is damaged"),
  "k": (_positive, 10, "the most items a user gets"),
  "batch_size": (_count, 0, "users at once; 0 = the run's train.eval_batch_size"),
  "decoding": (_string, None, "as config.decoding.kind; default: the run's own"),
  "beam_size": (_count, 0, "beams of a search; 0 = the run's own"),
  "nearest": (_count, 0, "latent_local: examples to compare; 0 = the run's own"),
  "memory_share": (_float, 0.0, "latent: share of the examples; 0 = the run's own"),
  "prior": (_weight, None, "latent: weight of log(purchases); default: the run's own"),
  "index_weight": (_weight, None, "fused: weight of the index; default: the run's own"),
  "state": (_string, None, "latent: decoder or encoder; default: the run's own"),
}
_OPTIONS = ("beam_size", "nearest", "memory_share", "prior", "state", "index_weight")
DECODING = ("decoding", *_OPTIONS)
# Flag → the field of the run that it overrides.
_FIELDS = {
  "data_dir": "data.dir",
  "batch_size": "train.eval_batch_size",
  "decoding": "decoding.kind",
  **{name: f"decoding.{name}" for name in _OPTIONS},
}


def define(*names: str, **texts: str) -> None:
  """Defines the shared flags `names` and the string flags of `texts`, {name: help}."""
  wanted = {name: _SHARED[name] for name in names}
  wanted |= {name: (_string, None, text) for name, text in texts.items()}
  for name, (definition, default, text) in wanted.items():
    # A notebook may run two commands in one process.
    if name not in FLAGS:
      definition(name, default, help=text)


def define_config(*, studies: bool = False) -> Any:
  """Defines --config=FILE[:preset], --config.a.b=value and --help-config.

  Returns absl's flag --config. `studies`: whether a scaling study's config is accepted.
  """
  if "config" not in FLAGS:
    config_flags.DEFINE_config_file(
      "config",
      help_string="a config file or bare name, with a preset: configs/toys.py:small; "
      "--config.train.steps=20 sets one field",
    )
    FLAGS["config"].parser = _ConfigParser(studies)
    flags.DEFINE_bool("help-config", False, "print the fields of --config, and end")
  return FLAGS["config"]


def config() -> RunConfig:
  """Returns the configuration given by --config and --config.a.b."""
  return config_lib.typed(FLAGS.config)


def config_overrides() -> dict[str, Any]:
  """Returns {dotted name: value} of the fields that --config.a.b=value set."""
  return config_flags.get_override_values(FLAGS["config"])


def workdir() -> str:
  """Returns the value of --workdir; raises UserError if it is not given."""
  if FLAGS.workdir is None:
    others = ""
    if "compare" in FLAGS and FLAGS.compare:
      others = "; the first run goes to --workdir, the others to --compare"
    raise UserError(f"no run; give --workdir=RUN, a folder that `train` left{others}")
  return FLAGS.workdir


def overrides() -> dict[str, Any]:
  """Returns the run's fields that flags change, such as {"decoding.beam_size": 50}."""
  given = {field: FLAGS[name] for name, field in _FIELDS.items() if name in FLAGS}
  return {field: f.value for field, f in given.items() if f.value != f.default}


def write_report(found: Any) -> None:
  """Writes a command's findings as JSON to --report, if that is given."""
  if FLAGS.report:
    atomic.write_json(epath.Path(FLAGS.report), found)


def study() -> tuple[str, dict[str, Any], Card | None]:
  """Returns --config as it was written, the `config_overrides`, and the study's card.

  The card is None unless --config names a study.
  """
  flag: Any = FLAGS["config"]
  card = flag.value if config_lib.is_study(flag.value) else None
  return flag.parser.argument, config_overrides(), card


def main(
  entry: Callable[[Sequence[str]], int | None],
  commands: Sequence[str] = (),
  after: str | None = None,
  instead: str | None = None,
) -> int:
  """Parses sys.argv, calls `entry([program])` and returns the exit code.

  Args:
    entry: the command's main function; if it returns None, the exit code is 0.
    commands: the subcommands; exactly one must be given, and `entry` then gets
      [program, command]. () = the command has none.
    after: the name of a flag that further words may follow, as in `--compare RUN RUN`;
      they are passed to `entry` too.
    instead: a flag that can replace --config; exactly one of the two must be given.
  """

  def run(argv: Sequence[str]) -> int | None:
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= allowed < _FEWEST_FILES:
      raise UserError(
        f"a process may open {allowed} files here, and this one needs up to "
        f"{_FEWEST_FILES}; raise the limit first: ulimit -n 1024"
      )
    words = _parse(argv, commands, after, instead)
    if words is None:
      return 0
    for name in ("report", "figure", "export"):
      if name in FLAGS and FLAGS[name].value:
        atomic.check_folder(epath.Path(FLAGS[name].value).parent)
    log.set_up()
    jax.config.update("jax_numpy_rank_promotion", "raise")
    try:
      return entry(words)
    except Exception as error:
      liveness.wait_if_lost(error)
      raise

  failed = True
  try:
    code = stops.limited(lambda: errors.run(run, sys.argv))
    failed = code != 0
    return code
  finally:
    liveness.stop(failed)


class _ConfigParser(flags.ArgumentParser):
  """Loads a card by name, and checks that the fields set by --config.a.b exist.

  The parser of config_flags notices a missing file only at the first access, and
  reports an unknown field by a traceback.
  """

  def __init__(self, studies: bool):
    self._studies = studies
    self.argument = None  # the value of --config
    self.defaults = {}  # the card's values of the fields that --config.a.b sets

  def parse(self, argument: str) -> Card:
    if self.argument is not None:
      raise UserError(f"--config={argument} is a second config; give one")
    try:
      loaded = config_lib.card(argument)
    except (TypeError, ValueError) as error:
      # absl would hide the traceback of these errors, which are bugs of the card.
      raise RuntimeError(f"{argument} did not load") from error
    self.argument = argument
    is_study = config_lib.is_study(loaded)
    if is_study and not self._studies:
      raise UserError(
        f"--config={argument} is a study's; give it to python -m lightlm_jax.sweep"
      )
    argv = FLAGS.read_flags_from_files(sys.argv, force_gnu=False)
    if (system := _system(argv)) and not is_study:
      loaded = config_lib.of_system(loaded, system).lock()
    for word in argv:
      if match := re.match(r"--?(?:no)?config\.([^=]*)", word):
        self.defaults[match[1]] = config_lib.settable(loaded, match[1])
    return loaded


def _system(argv: Sequence[str]) -> str | None:
  """Returns the value of --config.system, on which the fields depend; None if unset."""
  for word, after in zip(argv, [*argv[1:], ""]):
    if match := re.fullmatch(r"--?config\.system(?:=(.*))?", word):
      return after if match[1] is None else match[1]
  return None


def _parse(
  argv: Sequence[str], commands: Sequence[str], after: str | None, instead: str | None
) -> list[str] | None:
  """Sets FLAGS from `argv`, see `main`; returns the other words, None after --help."""
  logging.use_absl_handler()
  app.define_help_flags()
  if commands or after:
    FLAGS.set_gnu_getopt()  # otherwise absl ignores flags after a non-flag word
  try:
    rest = FLAGS(argv)
  except SystemExit:
    return None  # --help was printed; absl exits with a failure
  except flags.UnrecognizedFlagError as error:
    if "config" in FLAGS and error.flagname.startswith("config."):
      raise _no_config(instead)
    raise UserError(f"{error}; --help lists the flags")
  except (flags.Error, ValueError) as error:  # ValueError: --noname=value
    raise UserError(str(error))
  if commands and not set(rest[1:2]) & set(commands):
    given = f"no command {rest[1]!r}" if rest[1:] else "no command"
    raise UserError(f"{given}; there is {', '.join(commands)}")
  words = rest[2:] if commands else rest[1:]
  if words and not (after and FLAGS[after].value):
    raise UserError(f"{words[0]!r} is not a flag; write --flag=value")
  if "config" not in FLAGS:
    return rest
  _check_config(instead)
  if not FLAGS["help-config"].value or FLAGS.config is None:
    return rest
  print("\n".join(config_lib.describe(config())))
  return None


def _no_config(instead: str | None) -> UserError:
  names = ", ".join(config_lib.available())
  text = f"no config; give --config=FILE.py[:preset] or a name: {names}"
  if instead:
    text += f"; or --{instead}=RUN for a run's own, without any --config"
  return UserError(text)


def _check_config(instead: str | None) -> None:
  """Raises UserError unless either a valid --config or the flag `instead` is given."""
  flag: Any = FLAGS["config"]
  has_other = instead is not None and FLAGS[instead].value is not None
  if flag.value is None:
    if not has_other:
      raise _no_config(instead)
    return
  if has_other:
    raise UserError(f"--config and --{instead} are two configurations; give one")
  for field, value in config_overrides().items():
    # config_flags does not check the types of a tuple's elements.
    config_lib.check_elements(field, flag.parser.defaults[field], value)
