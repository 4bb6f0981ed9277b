"""Times a step of constrained beam search without a model: mask, top-k, advance.

An implementation is a function `make(code_IL, vocab_size)`; code_IL is int32 [I, L],
distinct codes without padding. It returns an object with

- `start(B)` → state: the state at the root for B rows, with score 0;
- `step(level, state, log_prob_BKV, width)` → score_BK, parent_BK, token_BK, state: the
  best `width` of all valid continuations of the K beams by summed log-probability, best
  first, with fewer columns or -inf if there are fewer. `parent_BK` is the beam that
  each one continues. K is 1 at level 0.

`level` and `width` are static. The object and the state are pytrees (a NamedTuple or a
flax.struct.dataclass). The steps are compiled with both as arguments, so no table
becomes a constant of the program. Host code sets `jit = False` and is not compiled.
`make` raises a UserError if the catalogue is too large for it.
"""

from collections.abc import Callable, Sequence
import functools
import logging
import statistics
from typing import Any

import jax
import numpy as np

from lightlm_jax.benchmarks import catalogue, ours, peers, timing
from lightlm_jax.runtime.errors import UserError

logger = logging.getLogger(__name__)

VOCAB_SIZE = 2048
IMPLEMENTATIONS = {
  "sparse": ours.sparse,
  "hybrid": ours.hybrid,
  "dense": ours.dense,
  "hybrid, 20 exclusions": ours.hybrid_excluding,
  "shared mask": ours.shared_mask,
  "naive": peers.naive,
  "binary search": peers.binary_search,
  "dict trie": peers.dict_trie,
}
# Growth is reported between these sizes or, unless both are timed, the extreme ones.
_GROWTH = (100_000, 10_000_000)
_TOLERANCE = 1e-6


def run(
  implementations: dict[str, Callable],
  *,
  sizes: Sequence[int],
  depths: Sequence[int],
  beams: Sequence[int],
  batch: Callable[[int], int],
  repeats: int,
  seconds: float,
) -> dict[str, Any]:
  """Times implementations that agree with the dict trie; prints and returns results.

  Args:
    implementations: functions `make` by name.
    sizes: numbers of items of the random catalogues.
    depths: numbers of tokens per code.
    beams: beam sizes.
    batch: function from the beam size to the rows per call.
    repeats: see `timing.measure`; slow calls, as of host code, are repeated less often.
    seconds: see `timing.measure`.
  """
  clock = functools.partial(
    timing.measure, repeats=repeats, seconds=seconds, patience=5 * seconds
  )
  nothing = jax.jit(lambda zero: zero + 1)
  dispatch = clock(lambda: nothing(np.float32(0))).best
  logger.info(f"calling an empty program takes {1e6 * dispatch:.0f} μs")
  widths = {width: batch(width) for width in beams}
  notes, rows = [], []
  for depth in depths:
    agreeing = _agreeing(implementations, depth, notes)
    for size in sizes:
      rows += _time_all(agreeing, depth, size, widths, clock, notes)
  growth, ratios = growth_of(rows), filter_ratios(rows)
  for found in growth:
    logger.info(
      f"growth, depth {found['depth']}, {found['beams']} beams, "
      f"{found['implementation']}: step x {found['step']:.2f} from {found['from']:,} "
      f"to {found['to']:,} items"
    )
  for found in ratios:
    logger.info(
      f"20 exclusions, depth {found['depth']}, {found['items']:,} items, "
      f"{found['beams']} beams: step x {found['step']:.2f}"
    )
  return {
    "vocab_size": VOCAB_SIZE,
    "dispatch": dispatch,
    "rows": rows,
    "growth": growth,
    "filter_ratio": ratios,
    "notes": notes,
  }


def _agreeing(makers: dict[str, Callable], depth: int, notes: list[str]):
  """Returns the makers of correct implementations; adds a note on each wrong one."""
  found = {}
  for name, make in makers.items():
    complaint = disagreement(make, depth)
    if complaint:
      _note(notes, f"{name}: not timed, at depth {depth} it {complaint}")
    else:
      found[name] = make
  return found


def _time_all(
  makers: dict[str, Callable],
  depth: int,
  size: int,
  widths: dict[int, int],
  clock: Callable,
  notes: list[str],
) -> list[dict[str, Any]]:
  """Times all implementations on one catalogue; `widths` is {beam size: rows}."""
  code_IL = catalogue.random_codes(size, VOCAB_SIZE, depth)
  logger.info(f"depth {depth}, {size:,} items: fastest call, μs per row")
  levels = "".join(f"{f'level {level}':>9}" for level in range(depth))
  logger.info(f"  {'':22}{'beams':>6}{'rows':>6}{'step':>9}{levels}")
  rows = []
  for name, make in makers.items():
    try:
      subject = make(code_IL, VOCAB_SIZE)
    except UserError as error:
      _note(notes, f"{name}: skipped, {error}")
      continue
    for width, B in widths.items():
      row = {"implementation": name, "depth": depth, "items": size, "beams": width}
      row |= {"rows": B, "bytes": _bytes(subject)}
      rows.append(row | measure(subject, depth, width, B, clock))
      logger.info(_line(rows[-1]))
  return rows


def _note(notes: list[str], line: str) -> None:
  notes.append(line)
  logger.info(line)


def disagreement(make: Callable, depth: int) -> str | None:
  """Returns how results on a small catalogue differ from the dict trie's, or None."""
  vocab_size, B, width = 50, 3, 8
  number = min(600, vocab_size**depth // 2)
  code_IL = catalogue.random_codes(number, vocab_size, depth)
  subject = make(code_IL, vocab_size)
  open_BI = np.ones((B, number), bool)
  if hasattr(subject, "open_items"):
    open_BI = subject.open_items(B)
  truth = peers.DictTrie([peers.root(code_IL[open_I]) for open_I in open_BI])
  step = compiled(subject, "step")
  state, true_state = subject.start(B), truth.start(B)
  K = true_K = 1
  for level in range(depth):
    log_prob_BKV = np.asarray(log_probs(level, (B, width, vocab_size)))
    *expected, true_state = truth.step(
      level, true_state, log_prob_BKV[:, :true_K], width
    )
    *found, state = step(level, state, jax.device_put(log_prob_BKV[:, :K]), width)
    K, true_K = found[0].shape[1], expected[0].shape[1]
    score_BK, parent_BK, token_BK = (_padded(value, width) for value in found)
    true_BK, *true_beams = (_padded(value, width) for value in expected)
    real_BK = true_BK > -np.inf
    if ((score_BK > -np.inf) != real_BK).any():
      return f"has another number of beams at level {level}"
    error_X = np.abs(score_BK[real_BK] - true_BK[real_BK])
    if not (error_X <= _TOLERANCE * np.maximum(1, np.abs(true_BK[real_BK]))).all():
      return f"has other scores at level {level}, by up to {error_X.max():.1e}"
    for value_BK, true_value_BK in zip((parent_BK, token_BK), true_beams):
      if (value_BK != true_value_BK)[real_BK].any():
        return f"has other beams at level {level}"
  return None


def measure(
  subject: Any, depth: int, width: int, B: int, clock: Callable
) -> dict[str, Any]:
  """Times each level, in the state that the search reaches at that level.

  Args:
    subject: the object that `make` returned.
    depth: number of levels.
    width: beam size.
    B: number of rows.
    clock: function that times a call and returns a `timing.Time`.

  Returns:
    step_levels, a `timing.Time` as a dict for each level, and `step`, the mean of their
    fastest calls, in seconds per call.
  """
  state, step = subject.start(B), compiled(subject, "step")
  levels, K = [], 1
  for level in range(depth):
    log_prob_BKV = log_probs(level, (B, K, VOCAB_SIZE))
    levels.append(clock(lambda: step(level, state, log_prob_BKV, width)))  # noqa: B023
    score_BK, _, _, state = step(level, state, log_prob_BKV, width)
    K = score_BK.shape[1]
  # Fastest calls, because other load on the machine may disturb short calls.
  return {
    "step": statistics.fmean(time.best for time in levels),
    "step_levels": [time._asdict() for time in levels],
  }


def compiled(subject: Any, method: str) -> Callable:
  """Returns the method of `subject` named `method`, compiled unless it is host code."""
  if not getattr(subject, "jit", True):
    return getattr(subject, method)
  if jax.tree.leaves(subject) == [subject]:
    raise UserError(
      f"{type(subject).__name__} is no pytree; make it a NamedTuple or a "
      "flax.struct.dataclass, or set `jit = False` if it is host code"
    )

  @functools.partial(jax.jit, static_argnums=(1, 4))
  def call(subject, level, state, log_prob_BKV, *width):
    return getattr(subject, method)(level, state, log_prob_BKV, *width)

  return functools.partial(call, subject)


@functools.partial(jax.jit, static_argnames="shape")
def log_probs(seed: int, shape: tuple[int, ...]) -> jax.Array:
  """Draws random log-probabilities, normalised over the last axis, float32."""
  return jax.nn.log_softmax(jax.random.normal(jax.random.key(seed), shape))


def growth_of(rows: list[dict]) -> list[dict]:
  """Returns a row per case: the step time with many items over that with few."""
  found = []
  sizes = {row["items"] for row in rows}
  if not sizes:
    return found
  few, many = _GROWTH if sizes >= set(_GROWTH) else (min(sizes), max(sizes))
  by_key = {_key(row): row for row in rows}
  for (name, depth, items, width), row in by_key.items():
    more = by_key.get((name, depth, many, width))
    if items == few and few < many and more:
      place = {"implementation": name, "depth": depth, "beams": width}
      ratio = {"step": more["step"] / row["step"]}
      found.append(place | {"from": few, "to": many} | ratio)
  return found


def filter_ratios(rows: list[dict]) -> list[dict]:
  """Returns a row per case: the step time with exclusions over that without."""
  found = []
  by_key = {_key(row): row for row in rows}
  for (name, *place), row in by_key.items():
    plain = by_key.get(("hybrid", *place))
    if name == "hybrid, 20 exclusions" and plain:
      ratio = {"step": row["step"] / plain["step"]}
      found.append(dict(zip(("depth", "items", "beams"), place)) | ratio)
  return found


def _key(row: dict) -> tuple:
  return row["implementation"], row["depth"], row["items"], row["beams"]


def _bytes(subject: Any) -> int | None:
  """Returns the bytes of an implementation's tables; None for host code."""
  leaves = jax.tree.leaves(subject)
  return None if leaves == [subject] else sum(leaf.nbytes for leaf in leaves)


def _padded(value_BK, width: int) -> np.ndarray:
  """Pads [B, K] to [B, width] with -inf, or integers with their dtype's minimum."""
  value_BK = np.asarray(value_BK)
  integers = np.issubdtype(value_BK.dtype, np.integer)
  fill = np.iinfo(value_BK.dtype).min if integers else -np.inf
  missing = width - value_BK.shape[1]
  return np.pad(value_BK, ((0, 0), (0, missing)), constant_values=fill)


def _line(row: dict) -> str:
  cells = []
  for time in (row["step"], *(level["best"] for level in row["step_levels"])):
    micros = 1e6 * time / row["rows"]
    cells.append(f"{micros:,.{0 if micros >= 1000 else 1}f}")
  head = f"  {row['implementation']:22}{row['beams']:>6}{row['rows']:>6}"
  return head + "".join(f"{cell:>9}" for cell in cells)
