"""Flags that commands share, --config among them, and their one-line errors.

A command defines its flags at import and ends with `sys.exit(command_line.main(main))`.
Only commands and this file know of flags. What `define_…` returns is a flags.Flag.
"""

from collections.abc import Callable, Mapping, Sequence
import re
import sys
from typing import Any

from absl import app, flags, logging
from etils import epath
from ml_collections import config_flags

from lightlm_jax import config as config_lib
from lightlm_jax.config import Card, RunConfig
from lightlm_jax.runtime import errors, log
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.storage import atomic

# --help shows the flags of the entry point: --config counts as one of its own.
flags.disclaim_key_flags()


def define_config(*, studies: bool = False) -> Any:
  """Defines --config=FILE[:preset], --config.a.b=value and --help-config.

  Args:
    studies: whether a study's config will do, beside a run's.
  """
  if "config" not in flags.FLAGS:
    config_flags.DEFINE_config_file(
      "config",
      help_string="a config file or bare name, with a preset: configs/toys.py:small; "
      "--config.train.steps=20 sets one field",
    )
    flags.FLAGS["config"].parser = _ConfigParser(studies)
    flags.DEFINE_bool("help-config", False, "print the fields of --config, and end")
  return flags.FLAGS["config"]


def config() -> RunConfig:
  """The configuration that --config and --config.a.b give.

  Raises:
    UserError: it is not a run's, or a value is of another type than its field.
  """
  return config_lib.typed(flags.FLAGS["config"].value)


def config_overrides() -> dict[str, Any]:
  """The fields that were set on the command line, by dotted name."""
  return config_flags.get_override_values(flags.FLAGS["config"])


def study() -> tuple[str, dict[str, Any], Card | None]:
  """--config of `sweep`: its name, the fields that were set, and a study's config."""
  flag: Any = flags.FLAGS["config"]
  return (
    flag.parser.argument,
    config_overrides(),
    (flag.value if config_lib.is_study(flag.value) else None),
  )


def define_workdir(help_text: str) -> Any:
  return _define_once("workdir", help_text)


def workdir() -> str:
  """--workdir of a command that asks a run.

  Raises:
    UserError: it is not given.
  """
  if flags.FLAGS["workdir"].value is None:
    raise UserError("no run; give --workdir=RUN, a folder that `train` left")
  return flags.FLAGS["workdir"].value


def define_platform() -> Any:
  return _define_once("platform", "cpu, gpu or tpu; default: the best that jax finds")


def define_distributed() -> Any:
  return _define_once(
    "distributed",
    "several processes as one run: auto (Slurm, Open MPI, GKE, Cloud TPU), "
    "host:port,N,rank, or off; see launch/README.md",
  )


def define_report() -> Any:
  return _define_once("report", "also write the results to FILE (JSON)")


def write_report(found: Any) -> None:
  """Writes what a command found to --report, if it is given."""
  if path := flags.FLAGS["report"].value:
    atomic.write_json(epath.Path(path), found)


def define_split() -> Any:
  if "split" not in flags.FLAGS:
    choices = ["test", "validation"]
    flags.DEFINE_enum("split", "test", choices, "which held-out items")
  return flags.FLAGS["split"]


def define_compare() -> Any:
  return _define_once("compare", "other runs, side by side: --compare RUN [RUN …]")


def define_data_dir() -> Any:
  return _define_once("data_dir", "in place of the run's data.dir")


def define_users(help_text: str) -> Any:
  return _define_once("users", help_text)


def define_decoding() -> dict[str, Any]:
  """The flags that decode a run in another way than its own, by the fields they set."""
  _define_once("decoding", "as config.decoding.kind; default: the run's own")
  if "beam_size" not in flags.FLAGS:
    for name, what in (
      ("beam_size", "beams of a search"),
      ("nearest", "latent_local: training examples that are compared"),
    ):
      flags.DEFINE_integer(name, 0, f"{what}; 0 = the run's own", lower_bound=0)
    flags.DEFINE_float(
      "memory_share", 0.0, "latent: share of the training examples; 0 = the run's own"
    )
    flags.DEFINE_float(
      "prior",
      None,
      "latent: weight of how often an item was bought; default: the run's own",
      lower_bound=0,
    )
    flags.DEFINE_string(
      "state", None, "latent: decoder or encoder; default: the run's own"
    )
  names = ("beam_size", "nearest", "memory_share", "prior", "state")
  fields = {f"decoding.{name}": flags.FLAGS[name] for name in names}
  return {"decoding.kind": flags.FLAGS["decoding"], **fields}


def define_batch_size() -> Any:
  if "batch_size" not in flags.FLAGS:
    flags.DEFINE_integer(
      "batch_size",
      0,
      "users at once; 0 = the run's train.eval_batch_size",
      lower_bound=0,
    )
  return flags.FLAGS["batch_size"]


def overrides(asked: Mapping[str, Any]) -> dict[str, Any]:
  """The fields whose flags differ from their defaults, and their values."""
  return {
    field: flag.value for field, flag in asked.items() if flag.value != flag.default
  }


def define_output(help_text: str) -> Any:
  return _define_once("output", help_text)


def output(form: str) -> str:
  """--output of a command that needs one.

  Args:
    form: what it is, for the message: "FOLDER".

  Raises:
    UserError: it is not given.
  """
  if flags.FLAGS["output"].value is None:
    raise UserError(f"no place for the output; give --output={form}")
  return flags.FLAGS["output"].value


def define_k() -> Any:
  if "k" not in flags.FLAGS:
    flags.DEFINE_integer("k", 10, "the most items a user gets", lower_bound=1)
  return flags.FLAGS["k"]


def define_figure() -> Any:
  return _define_once("figure", "draw the results: FILE.png")


def main(
  entry: Callable[[Sequence[str]], int | None],
  commands: Sequence[str] = (),
  after: str | None = None,
  instead: str | None = None,
) -> int:
  """Parses sys.argv, calls `entry([program])` and returns the exit code.

  Where there are `commands`, one of them has to be given: `entry([program, command])`.
  With the flag `after` further words may follow its first: they come behind. Either
  --config or the flag `instead`, whose run has a config, is to be given, not both.
  """

  def run(argv: Sequence[str]) -> int | None:
    words = _parse(argv, commands, after, instead)
    log.set_up()
    return entry(words)

  return errors.run(run, sys.argv)


class _ConfigParser(flags.ArgumentParser):
  """Loads as `config.load` does, and looks at the fields that are to be set.

  config_flags' own parser finds a missing file only at the first access and ends an
  unknown field with a traceback; a tuple it takes for any other.
  """

  def __init__(self, studies: bool):
    self._studies = studies
    self.argument = None
    self.defaults = None

  def parse(self, argument: str) -> Card:
    if self.defaults is not None:
      raise UserError(f"--config={argument} is a second config; give one")
    try:
      loaded = config_lib.card(argument)
    except (TypeError, ValueError) as error:
      # absl would shorten these to a complaint about the flag; it is a bug's trace.
      raise RuntimeError(f"{argument} did not load") from error
    self.argument = argument
    if config_lib.is_study(loaded) and not self._studies:
      raise UserError(
        f"--config={argument} is a study's; give it to python -m lightlm_jax.sweep"
      )
    self.defaults = {}
    argv = flags.FLAGS.read_flags_from_files(sys.argv, force_gnu=False)
    if (system := _system(argv)) and not config_lib.is_study(loaded):
      loaded = config_lib.of_system(loaded, system).lock()
    for word in argv:
      if match := re.match(r"--?(?:no)?config\.([^=]*)", word):
        group, name = config_lib.place(loaded, match[1])
        self.defaults[match[1]] = group[name]
    return loaded


def _system(argv: Sequence[str]) -> str | None:
  """The value of --config.system, whose fields --config.a.b are."""
  for word, after in zip(argv, [*argv[1:], ""]):
    if match := re.fullmatch(r"--?config\.system(?:=(.*))?", word):
      return after if match[1] is None else match[1]
  return None


def _define_once(name: str, help_text: str) -> Any:
  # A notebook trains and evaluates: both entry points in one process.
  if name not in flags.FLAGS:
    flags.DEFINE_string(name, None, help_text)
  return flags.FLAGS[name]


def _parse(
  argv: Sequence[str],
  commands: Sequence[str],
  after: str | None,
  instead: str | None,
) -> list[str]:
  """Sets the flags; returns what is left of `argv`: the program, then other words."""
  logging.use_absl_handler()
  app.define_help_flags()
  has_config = "config" in flags.FLAGS
  no_config = "no config; give --config=FILE.py[:preset] or a name: " + ", ".join(
    config_lib.available()
  )
  if instead:
    no_config += f"; or --{instead}=RUN for a run's own, without any --config"
  if commands or after:
    flags.FLAGS.set_gnu_getopt()  # or absl reads no flag behind a word
  try:
    rest = flags.FLAGS(argv)
  except SystemExit:
    sys.exit(0)  # --help was answered, which absl counts as a failure
  except flags.UnrecognizedFlagError as error:
    if has_config and error.flagname.startswith("config."):
      raise UserError(no_config)
    raise UserError(f"{error}; --help lists the flags")
  except flags.Error as error:
    raise UserError(str(error))
  if commands and not set(rest[1:2]) & set(commands):
    given = f"no command {rest[1]!r}" if rest[1:] else "no command"
    raise UserError(f"{given}; there is {', '.join(commands)}")
  words = rest[2:] if commands else rest[1:]
  if words and not (after and flags.FLAGS[after].value):
    raise UserError(f"{words[0]!r} is not a flag; write --flag=value")
  if has_config:
    flag: Any = flags.FLAGS["config"]
    other = flags.FLAGS[instead].value if instead else None
    if flag.value is None and other is None:
      raise UserError(no_config)
    if flag.value is not None and other is not None:
      raise UserError(f"--config and --{instead} are two configurations; give one")
    fields = {} if flag.value is None else config_flags.get_override_values(flag)
    for field, value in fields.items():
      config_lib.check_value(field, type(value), flag.parser.defaults[field], value)
    if flags.FLAGS["help-config"].value and flag.value is not None:
      for line in config_lib.describe(config_lib.typed(flag.value)):
        print(line)
      sys.exit(0)
  return rest
