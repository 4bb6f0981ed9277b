"""Runs T5 of transformers with LightLM's weights, to compare results and speed.

Only this file and t5_training.py import torch and transformers, which the extra
`parity` installs.
"""

from collections.abc import Callable
import functools
import logging
from typing import Any

from flax import traverse_util
import jax
import numpy as np
import torch
import transformers

from lightlm_jax.benchmarks import end_to_end, timing
from lightlm_jax.decoding.allowed import Recommendations
from lightlm_jax.models import encoder_decoder
from lightlm_jax.systems.token_sequences import PAD, START, Source

logger = logging.getLogger(__name__)

SCORE_BAR = 1e-4  # tolerance: items whose scores differ less may be swapped
_PATIENCE = 30.0  # maximum seconds for all calls of either

# T5's name of each parameter of LightLM; {} = the layer, the first axis in LightLM.
_ENCODER, _DECODER = "encoder.block.{}.layer.", "decoder.block.{}.layer."
T5_NAMES = {
  "embedding": "shared.weight",
  # Only the first layer has a table; later layers reuse its biases.
  "encoder_bias/table": "encoder.block.0.layer.0.SelfAttention.relative_attention_bias"
  ".weight",
  "encoder/attention_norm/scale": _ENCODER + "0.layer_norm.weight",
  "encoder/query/kernel/kernel": _ENCODER + "0.SelfAttention.q.weight",
  "encoder/key/kernel/kernel": _ENCODER + "0.SelfAttention.k.weight",
  "encoder/value/kernel/kernel": _ENCODER + "0.SelfAttention.v.weight",
  "encoder/output/kernel": _ENCODER + "0.SelfAttention.o.weight",
  "encoder/feed_forward_norm/scale": _ENCODER + "1.layer_norm.weight",
  "encoder/feed_forward/inner/kernel": _ENCODER + "1.DenseReluDense.wi.weight",
  "encoder/feed_forward/outer/kernel": _ENCODER + "1.DenseReluDense.wo.weight",
  "encoder_norm/scale": "encoder.final_layer_norm.weight",
  "decoder_bias/table": "decoder.block.0.layer.0.SelfAttention.relative_attention_bias"
  ".weight",
  "decoder/self_norm/scale": _DECODER + "0.layer_norm.weight",
  "decoder/query/kernel/kernel": _DECODER + "0.SelfAttention.q.weight",
  "decoder/key/kernel/kernel": _DECODER + "0.SelfAttention.k.weight",
  "decoder/value/kernel/kernel": _DECODER + "0.SelfAttention.v.weight",
  "decoder/self_output/kernel": _DECODER + "0.SelfAttention.o.weight",
  "decoder/cross_norm/scale": _DECODER + "1.layer_norm.weight",
  "decoder/cross_query/kernel/kernel": _DECODER + "1.EncDecAttention.q.weight",
  "memory/cross_key/kernel/kernel": _DECODER + "1.EncDecAttention.k.weight",
  "memory/cross_value/kernel/kernel": _DECODER + "1.EncDecAttention.v.weight",
  "decoder/cross_output/kernel": _DECODER + "1.EncDecAttention.o.weight",
  "decoder/feed_forward_norm/scale": _DECODER + "2.layer_norm.weight",
  "decoder/feed_forward/inner/kernel": _DECODER + "2.DenseReluDense.wi.weight",
  "decoder/feed_forward/outer/kernel": _DECODER + "2.DenseReluDense.wo.weight",
  "decoder_norm/scale": "decoder.final_layer_norm.weight",
}
TIED = {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"}


class T5:
  """T5 with LightLM's parameters, and with the whole-word embedding that T5 lacks.

  Args:
    c: LightLM's shape.
    params: LightLM's parameters.
    dropout_rate: dropout in the model's train mode; the rate of `c` is not used.
    attention: implementation in transformers, "eager" or "sdpa".
  """

  def __init__(
    self,
    c: encoder_decoder.Config,
    params,
    *,
    dropout_rate: float = 0.0,
    attention: str = "eager",
  ):
    config = transformers.T5Config(
      vocab_size=c.V,
      d_model=c.D,
      d_kv=c.A,
      d_ff=c.F,
      num_layers=c.N,
      num_decoder_layers=c.num_decoder_layers,
      num_heads=c.H,
      relative_attention_num_buckets=c.num_buckets,
      relative_attention_max_distance=c.max_distance,
      dropout_rate=dropout_rate,
      layer_norm_epsilon=1e-6,
      feed_forward_proj="relu",
      tie_word_embeddings=True,
      pad_token_id=PAD,
      decoder_start_token_id=START,
      attn_implementation=attention,
    )
    self.model = transformers.T5ForConditionalGeneration(config).eval()
    flat: dict[str, Any] = traverse_util.flatten_dict(params, sep="/")
    self.word_WD = torch.tensor(flat.pop("word_embedding"))
    self.word_WD.requires_grad_()
    self.num_layers = {"encoder": c.N, "decoder": c.num_decoder_layers}
    state = {}
    for path, leaf in flat.items():
      leaves = torch.tensor(leaf if is_layered(path) else leaf[None])
      leaves = leaves.mT if path.endswith("kernel") else leaves
      state |= dict(zip(self.names(path), leaves, strict=True))
    loaded = self.model.load_state_dict(state, strict=False)
    # Every parameter is loaded, or tied to a loaded one.
    assert not loaded.unexpected_keys
    assert set(loaded.missing_keys) == TIED
    shared = self.model.shared.weight
    assert all(self.model.get_parameter(name) is shared for name in TIED)
    assert self.model.config.scale_decoder_outputs

  def names(self, path: str) -> list[str]:
    """Returns T5's names of the parameter of LightLM at `path`, one for each layer."""
    name = T5_NAMES[path]
    if not is_layered(path):
      return [name]
    return [name.format(i) for i in range(self.num_layers[name.partition(".")[0]])]

  def source(self, source: Source) -> dict[str, torch.Tensor]:
    """Converts the encoder's input to keyword arguments of T5."""
    token_BS, word_BS, segment_BS = (torch.tensor(np.asarray(x)) for x in source)
    embedded_BSD = self.model.shared(token_BS) + self.word_WD[word_BS]
    return {"inputs_embeds": embedded_BSD, "attention_mask": (segment_BS > 0).long()}

  @torch.no_grad()
  def search(
    self,
    source: Source,
    may_follow: Callable,
    *,
    length: int,
    beam_size: int,
    length_penalty: float,
  ) -> tuple[np.ndarray, np.ndarray]:
    """Searches with `generate`; returns the best codes, best first.

    Args:
      source: the encoder's input, as numpy arrays.
      may_follow: a function from `under_dict`; codes have `length` tokens, and none has
        the vocabulary's last token.
      length: L, tokens per code.
      beam_size: K.
      length_penalty: as in `generate`; 1 = scores are means over tokens.

    Returns:
      code_BKL int32 and score_BK float32.
    """
    found = self.model.generate(
      **self.source(source),
      # The start token does not count as new. No code has the token `eos`, so all beams
      # end after `length` tokens.
      max_new_tokens=length,
      eos_token_id=self.model.config.vocab_size - 1,
      num_beams=beam_size,
      num_return_sequences=beam_size,
      length_penalty=length_penalty,
      do_sample=False,
      # The cache of `generate` always has as many layers as the encoder.
      use_cache=self.model.config.num_layers == self.model.config.num_decoder_layers,
      prefix_allowed_tokens_fn=may_follow,
      return_dict_in_generate=True,
      output_scores=True,
    )
    rows = len(source[0]), beam_size
    code_BKL = found.sequences[:, 1:].reshape(*rows, -1).numpy()
    assert code_BKL.shape[2] == length
    return code_BKL.astype(np.int32), found.sequences_scores.reshape(rows).numpy()


def is_layered(path: str) -> bool:
  """Returns True if the parameter of LightLM at `path` is stacked over layers."""
  return "{}" in T5_NAMES[path]


def under_dict(code_IL: np.ndarray) -> Callable:
  """Builds a `prefix_allowed_tokens_fn` that looks prefixes of codes up in a dict."""
  children = {}
  for code in code_IL.tolist():
    for level, token in enumerate(code):
      children.setdefault(tuple(code[:level]), set()).add(token)
  lists = {prefix: list(tokens) for prefix, tokens in children.items()}
  return lambda _, prefix: lists[tuple(prefix[1:].tolist())]


def searcher(work: end_to_end.Workload, B: int) -> Callable[[], tuple]:
  """Returns a function without arguments that runs `T5.search` on all cores.

  Args:
    work: a workload with ids of equal length, without the vocabulary's last token.
    B: number of users.
  """
  torch.set_num_threads(timing.threads())
  t5 = T5(work.net.config, jax.device_get(work.params))
  return functools.partial(
    t5.search,
    jax.device_get(work.source(B)),
    under_dict(work.code_IL),
    length=work.code_IL.shape[1],
    beam_size=work.beam_size,
    length_penalty=work.length_penalty,
  )


def compare(work: end_to_end.Workload, B: int, repeats: int) -> dict[str, Any]:
  """Times T5 on the CPU and this package in recommendation, with the same weights.

  Args:
    work: see `searcher`.
    B: number of users.
    repeats: minimum number of timed calls of each.

  Returns:
    users_per_second of both, their ratio, `identical` (the share of users who get the
    same items, except for near ties), and the workload.
  """
  search = searcher(work, B)
  source = work.source(B)
  everything, _ = jax.device_put(end_to_end.filters(work.trie, B))
  find = end_to_end.recommender(work)

  def ours():
    # By default a GPU rounds inputs to ten bits, too few to compare four digits.
    with jax.default_matmul_precision("highest"):
      return find(work.params, work.trie, source, everything)

  time = timing.measure(ours, repeats=repeats, patience=_PATIENCE)
  t5_time = timing.measure(search, repeats=repeats, patience=_PATIENCE)
  code_BKL, score_BK = search()
  same = identical(jax.device_get(ours()), code_BKL, score_BK, work.code_IL)
  report = {
    "workload": work.name,
    "batch": B,
    "beams": work.beam_size,
    "devices": {"ours": jax.default_backend(), "t5": "cpu"},
    "threads": torch.get_num_threads(),
    "users_per_second": B / time.median,
    "t5_users_per_second": B / t5_time.median,
    "ratio": t5_time.median / time.median,
    "identical": same,
    "seconds": time._asdict(),
    "t5_seconds": t5_time._asdict(),
    "versions": {m.__name__: m.__version__ for m in (torch, transformers)},
  }
  logger.info(
    f"{work.name}, {B} users, {work.beam_size} beams, {report['threads']} CPU threads: "
    f"{report['users_per_second']:,.1f} users/s on the {jax.default_backend()}, "
    f"T5's generate (transformers {transformers.__version__}, torch "
    f"{torch.__version__}) {report['t5_users_per_second']:,.1f} on the cpu: "
    f"x {report['ratio']:.1f}; the same items for {100 * same:.0f} % of the users"
  )
  return report


def identical(
  found: Recommendations,
  code_BKL: np.ndarray,
  score_BK: np.ndarray,
  code_IL: np.ndarray,
) -> float:
  """Returns the share of users with equal items, except near ties at the last rank."""
  item_of = {tuple(code): item for item, code in enumerate(code_IL.tolist())}
  same = 0
  for items, scores, codes, expected in zip(
    found.items_BK.tolist(), found.scores_BK, code_BKL.tolist(), score_BK
  ):
    theirs = [item_of[tuple(code)] for code in codes]
    only = [s - scores[-1] for item, s in zip(items, scores) if item not in theirs]
    only += [s - expected[-1] for item, s in zip(theirs, expected) if item not in items]
    close = np.abs(scores - expected).max() < SCORE_BAR
    same += bool(close and all(gap < SCORE_BAR for gap in only))
  return same / len(score_BK)
