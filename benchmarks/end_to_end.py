"""Times whole recommendations, in users per second: encoder, decoder and beam search.

The weights are not trained, which does not change the cost.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
import logging
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lightlm_jax.benchmarks import catalogue, ours, shapes, timing
from lightlm_jax.data import batch as batch_lib
from lightlm_jax.decoding import allowed as allowed_lib
from lightlm_jax.decoding import beam
from lightlm_jax.decoding import trie as trie_lib
from lightlm_jax.decoding.allowed import Allowed, Recommendations
from lightlm_jax.models import encoder_decoder
from lightlm_jax.models.encoder_decoder import EncoderDecoder
from lightlm_jax.systems import lightlm
from lightlm_jax.systems import token_sequences as text
from lightlm_jax.systems.base import Trainable

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Workload:
  """A model, a catalogue, and the settings of the search."""

  name: str
  net: EncoderDecoder
  params: Any
  code_IL: np.ndarray  # the item codes in the model's tokens
  trie: trie_lib.Trie
  source: Callable[[int], text.Source]  # makes the input of B users
  beam_size: int = 20
  end_token: int | None = None
  length_penalty: float = 1.0


@functools.cache  # the comparison with T5 uses it too
def paper() -> Workload:
  """Builds LightLM of its paper's size, for 12,000 random ids of 5 tokens (V = 500)."""
  config = encoder_decoder.Config(V=500, W=20)
  # No code has the last token, because T5 of transformers uses it as end token.
  code_IL = catalogue.random_codes(12_000, config.V - text.NUM_SPECIALS - 1, 5)
  return random_workload("paper shape, 12,000 items", config, code_IL, source_length=20)


def toys() -> Workload:
  """Builds LightLM of its paper's size, with the paper's prompt, for Toys and its ids.

  Raises:
    UserError: the log of Toys is missing.
  """
  config = shapes.config("paper")
  split, book = shapes.toys(config)
  built = lightlm.build(config, book)
  assert isinstance(built.system, Trainable)
  tables = jax.device_put(built.tables)
  shape = lightlm.model_config(config, tables.trie.vocab_size)

  def source(B):
    index = np.arange(B) % len(split.test)
    asked = batch_lib.request_batch(split.test, index, batch_size=B, width=5)
    return text.write_prompt(tables.user_code_UL, jax.device_put(asked))

  return Workload(
    name=f"paper shape, Toys, {split.train.num_items:,} items",
    net=EncoderDecoder(shape),
    params=jax.jit(built.system.init)(jax.random.key(0)),
    code_IL=np.asarray(tables.target_IL),
    trie=tables.trie,
    source=source,
    end_token=text.END,
    length_penalty=config.decoding.length_penalty,
  )


def large() -> Workload:
  """Builds 8 + 8 layers of width 1,024 in bfloat16, for a million items, 200 beams."""
  config = encoder_decoder.Config(
    V=2048 + text.NUM_SPECIALS,
    W=65,
    D=1024,
    N=8,
    num_decoder_layers=8,
    H=16,
    A=64,
    F=4096,
    dtype=jnp.bfloat16,
  )
  code_IL = catalogue.random_codes(1_000_000, 2048, 4)
  name = "8 + 8 x 1,024, feed-forward 4,096, bfloat16, 1,000,000 items"
  return random_workload(name, config, code_IL, source_length=256, beam_size=200)


def run(
  make: Callable[[], Workload],
  batches: Sequence[int],
  repeats: int,
) -> list[dict[str, Any]]:
  """Times the workload by `make` at all batch sizes, prints a table, returns its rows.

  Raises:
    UserError: the data of the workload are missing.
  """
  work = make()
  logger.info(f"{work.name}, {work.beam_size} beams: ms per user")
  heads = ("batch", "users/s", "ms", "encoder", "decoder", "search", "20 excl.")
  logger.info("  " + "".join(f"{head:>10}" for head in heads))
  rows = []
  for B in batches:
    row: dict[str, Any] = {"workload": work.name} | measure(work, B, repeats)
    rows.append(row)
    parts = row["ms_a_user"], *row["breakdown"].values()
    cells = [f"{B}", f"{row['users_per_second']:,.1f}", *(f"{ms:,.3f}" for ms in parts)]
    cells.append(f"x {row['filter_ratio']:.2f}")
    logger.info("  " + "".join(f"{cell:>10}" for cell in cells))
  return rows


def measure(work: Workload, B: int, repeats: int) -> dict[str, Any]:
  """Times a workload at batch size B.

  Returns:
    users_per_second and ms_a_user, from medians; `seconds` per batch as a
    `timing.Time`, also with 20 exclusions per user; filter_ratio, the fastest call with
    exclusions over the fastest without; and the breakdown of ms_a_user: encoder (with
    the cross-attention keys and values), choice (mask and top-k on precomputed logits)
    and steps (the decoder: all the rest).
  """
  clock = functools.partial(timing.measure, repeats=repeats)
  source = work.source(B)
  everything, excluding = (jax.device_put(allowed) for allowed in filters(work.trie, B))
  find, encode, choose = recommender(work), _encoder(work), _chooser(work)
  whole = clock(lambda: find(work.params, work.trie, source, everything))
  filtered = clock(lambda: find(work.params, work.trie, source, excluding))
  encoder = clock(lambda: encode(work.params, source))
  logits = _random_logits(work, B)
  choice = clock(lambda: choose(work.trie, logits, everything))
  ms = 1e3 / B
  return {
    "batch": B,
    "beams": work.beam_size,
    "users_per_second": B / whole.median,
    "ms_a_user": ms * whole.median,
    "breakdown": {
      "encoder": ms * encoder.median,
      "steps": ms * (whole.median - encoder.median - choice.median),
      "choice": ms * choice.median,
    },
    "filter_ratio": filtered.best / whole.best,
    "seconds": whole._asdict(),
    "seconds_with_exclusions": filtered._asdict(),
    "encoder_seconds": encoder._asdict(),
    "choice_seconds": choice._asdict(),
  }


def recommender(work: Workload) -> Callable:
  """Returns a compiled function (params, trie, source, allowed) → Recommendations."""

  @jax.jit
  def find(params, trie, source, allowed) -> Recommendations:
    kv = _cross_kv(work, params, source)

    def step(token_BK, parent_BK, cache):
      segment_BK = jnp.ones_like(token_BK)
      apply = functools.partial(work.net.apply, {"params": params})
      arguments = token_BK, parent_BK, kv, segment_BK, cache
      state_BKD, cache = apply(*arguments, method="extend")
      return apply(state_BKD, method="logits"), cache

    return _search(work, step, encoder_decoder.Cache(), trie, allowed)

  return find


def random_workload(name, config, code_IL, *, source_length, **options) -> Workload:
  """Builds a workload with random weights and random inputs of `source_length` tokens.

  Tokens in code_IL count from 0; `options` are further fields of `Workload`.
  """
  net = EncoderDecoder(config)
  ones = functools.partial(jnp.ones, dtype=jnp.int32)
  init = jax.jit(net.init)(
    jax.random.key(0), *[ones((1, 1))] * 3, ones((1, 1, 1)), ones((1, 1))
  )
  code_IL = code_IL + text.NUM_SPECIALS
  trie, _ = trie_lib.build(code_IL, config.V, ours.TRIE_BYTES)

  def source(B):
    rng = np.random.default_rng(B)
    size = {"size": (B, source_length), "dtype": np.int32}
    token_BS = rng.integers(text.NUM_SPECIALS, config.V, **size)
    word_BS = rng.integers(config.W, **size)
    return jax.device_put(text.Source(token_BS, word_BS, np.ones_like(token_BS)))

  return Workload(
    name, net, init["params"], code_IL, jax.device_put(trie), source, **options
  )


def filters(trie: trie_lib.Trie, B: int) -> tuple[Allowed, Allowed]:
  """Returns two filters of B rows: one allows everything, one has random exclusions."""
  number = int((np.asarray(trie.item_R) >= 0).sum())
  mask_B: Any = np.zeros(B, np.int32)
  no_mask: Any = allowed_lib.no_shared_mask()
  nothing_BE: Any = np.zeros((B, 0), np.int32)
  return jax.device_put(
    (
      Allowed(no_mask, mask_B, nothing_BE),
      Allowed(no_mask, mask_B, catalogue.random_exclusions(number, B)),
    )
  )


def _cross_kv(work: Workload, params, source: text.Source):
  apply = functools.partial(work.net.apply, {"params": params})
  encoded_BSD = apply(*source, method="encode")
  return apply(encoded_BSD, source.segment_BS, method="precompute_cross_kv")


def _encoder(work: Workload) -> Callable:
  return jax.jit(lambda params, source: _cross_kv(work, params, source))


def _chooser(work: Workload) -> Callable:
  """Returns a compiled beam search of (trie, logits [B, K, V] by level, allowed)."""

  @jax.jit
  def choose(trie, logits, allowed) -> Recommendations:
    def step(token_BK, parent_BK, level):
      return logits[level][:, : token_BK.shape[1]], level + 1

    return _search(work, step, 0, trie, allowed)

  return choose


def _random_logits(work: Workload, B: int) -> list[jax.Array]:
  shapes = [(B, work.beam_size if level else 1) for level in range(work.trie.depth)]
  return [
    jax.random.normal(jax.random.key(level), (*shape, work.trie.vocab_size))
    for level, shape in enumerate(shapes)
  ]


def _search(work: Workload, step, cache, trie, allowed) -> Recommendations:
  options = beam.Options(
    beam_size=work.beam_size,
    start_token=text.START,
    end_token=work.end_token,
    length_penalty=work.length_penalty,
  )
  beams = beam.search(step, cache, trie, allowed, options, B=len(allowed.mask_B))
  return beam.recommendations(beams, trie, options, k=work.beam_size)
