"""Runs the parts of `bench train`: training steps on synthetic logs and on Toys."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import functools
import logging
from typing import Any, NamedTuple

from etils import epath
import jax

from lightlm_jax.benchmarks import growth, record, scatter, shapes, training_step
from lightlm_jax.benchmarks.record import Record
from lightlm_jax.config import LightLMConfig

logger = logging.getLogger(__name__)

PARTS = ("a", "b", "c", "d", "e", "f", "g")
MADE_LOG = 100_000  # interactions of the synthetic log, except in (g)
# Ways to fill a batch with short histories: {name: fields of the config}.
ROWS = {
  "padded to the window": {"train__pack": 1, "train__history_buckets": ()},
  "buckets by length": {"train__pack": 1},
  "4 examples a row": {"train__pack": 4},
}


class Options(NamedTuple):
  """Options of the parts.

  The parts are (a) shapes, (b) steps per dispatch, (c) dtypes, (d) embedding gradient,
  (e) padded or packed rows, (f) T5, (g) growth.

  Attributes:
    parts: parts to run, from PARTS.
    shapes, batches: presets in (a), and batch sizes of each preset.
    dtype: type of activations, except in (c).
    on_toys: run (a) also on Toys, if it is available.
    per_dispatch: steps per dispatch in (b); each divides the last.
    dispatch_shapes: presets in (b).
    dispatch_batch: batch size in (b).
    dtype_shape: preset in (c).
    dtype_batch: batch size in (c).
    dtype_steps: steps per dispatch in (c).
    gradients: sizes in (d), see `scatter.run`.
    rows_batches: batch size of each preset in (e).
    t5_batch: batch size in (f).
    t5_steps: steps per call in (f).
    widths, depths, growth_batches: sizes in (g).
    log_sizes: interactions of the logs in (g).
    repeats: minimum number of timed calls.
  """

  parts: Sequence[str] = PARTS
  shapes: Sequence[str] = ("paper", "small", "default")
  batches: Mapping[str, Sequence[int]] = {
    "paper": (64, 1_024, 8_192),
    "small": (128, 1_024, 8_192),
    "default": (256, 1_024),
    "tiny": (128,),
  }
  dtype: str = "bfloat16"
  on_toys: bool = True
  per_dispatch: Sequence[int] = (1, 10, 100)
  dispatch_shapes: Sequence[str] = ("tiny", "small")
  dispatch_batch: int = 128
  dtype_shape: str = "paper"
  dtype_batch: int = 1_024
  dtype_steps: int = 10
  gradients: Sequence[tuple[int, int, int]] = (
    (1_664, 500, 512),
    (65_536, 2_048, 512),
  )
  rows_batches: Mapping[str, int] = {"paper": 256, "small": 256}
  t5_batch: int = 64
  t5_steps: int = 10
  widths: Sequence[int] = (64, 128, 256, 512)
  depths: Sequence[int] = (2, 6, 12)
  growth_batches: Sequence[int] = (8, 64, 512)
  log_sizes: Sequence[int] = (10_000, 100_000, 1_000_000, 10_000_000)
  repeats: int = 5


SHORT = Options(  # for a few minutes on an accelerator, most of which are compilation
  batches={"paper": (64, 4_096), "small": (1_024,), "default": (256,), "tiny": (128,)},
  on_toys=False,
  dispatch_shapes=("tiny",),
  widths=(64, 512),
  depths=(6, 12),
  growth_batches=(64, 512),
  log_sizes=(10_000, 10_000_000),
  repeats=3,
)
ON_A_CPU = Options(
  batches={"paper": (16, 64), "small": (32, 128), "default": (16,), "tiny": (128,)},
  dtype="float32",
  dispatch_batch=16,
  dtype_batch=64,
  dtype_steps=2,
  gradients=((1_664, 500, 512), (16_384, 2_048, 512)),
  rows_batches={"paper": 16, "small": 128},
  repeats=3,
)
QUICK = ON_A_CPU._replace(
  shapes=("small",),  # (f) covers the paper's shape
  batches={"paper": (64,), "small": (128,), "default": (16,), "tiny": (128,)},
  on_toys=False,
  per_dispatch=(1, 10),
  dispatch_shapes=("tiny",),
  dtype_shape="small",
  dtype_batch=16,
  dtype_steps=1,
  gradients=((1_664, 500, 512),),
  rows_batches={"tiny": 32},
  t5_steps=1,
  widths=(64, 128),
  depths=(2, 6),
  growth_batches=(64,),
  log_sizes=(10_000, 100_000),
)


def options_here(*, quick: bool, short: bool = False) -> Options:
  """Returns options for this backend; `short` leaves time for `bench decode`."""
  if quick:
    return QUICK
  if jax.default_backend() == "cpu":
    return ON_A_CPU
  return SHORT if short else Options()


def with_batch(options: Options, B: int) -> Options:
  """Returns options with batch size B, in (g) only for the case of a growing batch."""
  return options._replace(
    batches=dict.fromkeys(options.batches, (B,)),
    dispatch_batch=B,
    dtype_batch=B,
    rows_batches=dict.fromkeys(options.rows_batches, B),
    t5_batch=B,
    growth_batches=(B,),
  )


def train(
  options: Options, path: epath.Path | None = None, end: float | None = None
) -> dict[str, Any]:
  """Times the parts, prints their tables and returns the report.

  Args:
    options: the options.
    path: JSON file for the report, written after every row; None = no file.
    end: see `Record`.

  Raises:
    UserError: an option or a file is wrong.
  """
  parts = {
    "shapes": [],
    "steps_per_dispatch": [],
    "dtypes": [],
    "embedding_gradient": [],
    "rows": [],
    "t5": None,
    "growth": [],
    "exponents": None,
  }
  to = Record(options._asdict(), parts, path, end)
  report, o = to.report, options
  if "a" in o.parts:
    to.rows("shapes", "shapes", by_shape(o))
    if o.on_toys:
      to.rows("shapes", "shapes on Toys", by_shape(o, on_toys=True))
  if "b" in o.parts:
    to.rows("steps_per_dispatch", "steps per dispatch", by_dispatch(o))
  if "c" in o.parts:
    to.rows("dtypes", "bfloat16", by_dtype(o))
  if "d" in o.parts:
    found = scatter.run(o.gradients, o.repeats, to.note)
    to.rows("embedding_gradient", "embedding gradient", found)
  if "f" in o.parts and to.in_time("T5"):
    if t5_training := to.of_parity("t5_training", "T5"):
      to.only("t5", "T5", lambda: t5(t5_training.compare, o))
  if "e" in o.parts:
    to.rows("rows", "rows", by_rows(o))
  if "g" in o.parts:
    grown = list(growth.model(o.widths, o.depths, o.growth_batches, o.dtype))
    found = growth.run(grown, o.log_sizes, o.repeats)
    to.rows("growth", "growth", found)
    report["exponents"] = growth.exponents(report["growth"])
    if report["exponents"]:
      growth.say_exponents(report["exponents"])
    to.save()
  return report


def by_shape(o: Options, *, on_toys: bool = False) -> Iterator[dict[str, Any]]:
  """Yields the rows of (a): every preset at each of its batch sizes.

  Raises:
    UserError: Toys is missing.
  """
  logger.info(f"training steps, {o.dtype}, {'Toys' if on_toys else 'synthetic log'}")
  line = record.table(("shape, batch", *training_step.HEADS))
  for preset in o.shapes:
    for B in o.batches[preset]:
      config = shapes.config(preset, train__batch_size=B, model__dtype=o.dtype)
      source = shapes.toys_source(config) if on_toys else _made(config)
      (row,) = training_step.compare({"": config}, source, o.repeats).values()
      line(f"{preset}, {B:,}", *training_step.cells(row))
      yield row


def by_dispatch(o: Options) -> Iterator[dict[str, Any]]:
  """Yields the rows of (b), with `host_share`, the host's share of a step's time.

  It is estimated against the longest dispatch, whose share is taken to be 0.
  """
  logger.info("steps per dispatch")
  line = record.table(("shape, batch, steps", *training_step.HEADS, "host"))
  for preset in o.dispatch_shapes:
    config = functools.partial(
      shapes.config,
      preset,
      train__batch_size=o.dispatch_batch,
      train__history_buckets=(),  # so that all steps are alike
      model__dtype=o.dtype,
    )
    configs = {K: config(train__steps_per_dispatch=K) for K in o.per_dispatch}
    rows = training_step.compare(
      configs, _made(config()), o.repeats, steps=max(o.per_dispatch)
    )
    least = rows[max(rows)]["step_seconds"]
    for K, row in rows.items():
      share = 1 - least / row["step_seconds"]
      name = f"{preset}, {o.dispatch_batch:,}, {K:,}"
      line(name, *training_step.cells(row), f"{100 * share:.1f} %")
      yield row | {"host_share": share}


def by_dtype(o: Options) -> Iterator[dict[str, Any]]:
  """Yields the rows of (c): both dtypes, with `speedup` over float32."""
  logger.info("bfloat16 against float32")
  line = record.table(("shape, batch, dtype", *training_step.HEADS, "speedup"))
  configs = {
    dtype: shapes.config(
      o.dtype_shape,
      train__batch_size=o.dtype_batch,
      train__steps_per_dispatch=o.dtype_steps,
      model__dtype=dtype,
    )
    for dtype in ("float32", "bfloat16")
  }
  source = _made(configs["float32"])
  rows = training_step.compare(configs, source, o.repeats)
  yield from _beside(o.dtype_shape, rows, "float32", line)


def by_rows(o: Options) -> Iterator[dict[str, Any]]:
  """Yields the rows of (e): each way in ROWS to fill a batch with histories of Toys.

  `speedup` is over the first way. Ways that do not divide the batch size are left out.

  Raises:
    UserError: Toys is missing.
  """
  logger.info("packing of the histories of Toys")
  heads = ("shape, batch, rows", *training_step.HEADS, "filled", "speedup")
  line = record.table(heads, first=40)
  for preset, B in o.rows_batches.items():
    configs = {
      name: shapes.config(
        preset,
        input__history=20,
        input__prompt=False,
        train__batch_size=B,
        model__dtype=o.dtype,
        **how,
      )
      for name, how in ROWS.items()
      if B % how.get("train__pack", 1) == 0
    }
    first, *_ = ROWS
    source = shapes.toys_source(configs[first])
    rows = training_step.compare(configs, source, o.repeats)
    for row in rows.values():
      row["filled"] = row["tokens"] / row["places"]
    yield from _beside(preset, rows, first, line, lambda row: f"{row['filled']:.2f}")


def t5(compare: Callable, o: Options) -> dict[str, Any]:
  """Returns the report of (f); `compare` is `t5_training.compare`."""
  config = shapes.config(
    "paper",
    train__batch_size=o.t5_batch,
    train__steps_per_dispatch=o.t5_steps,
    model__dtype=o.dtype,
  )
  return compare(config, _made(config), o.repeats)


def _beside(
  preset: str,
  rows: Mapping[str, dict[str, Any]],
  first: str,
  line: Callable[..., None],
  *more: Callable[[dict[str, Any]], str],
) -> Iterator[dict[str, Any]]:
  """Yields `rows` with `speedup` over row `first`; prints them, with `more` cells."""
  for name, row in rows.items():
    speedup = row["examples_per_second"] / rows[first]["examples_per_second"]
    cells = *training_step.cells(row), *(cell(row) for cell in more)
    line(f"{preset}, {row['batch']:,}, {name}", *cells, f"x {speedup:.2f}")
    yield {"name": name} | row | {"speedup": speedup}


def _made(config: LightLMConfig) -> shapes.Source:
  return shapes.made(MADE_LOG, prompt=config.input.prompt)
