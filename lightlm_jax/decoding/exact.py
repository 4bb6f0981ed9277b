"""Scores every item of the catalogue by teacher forcing: no beam and no trie.

Tests compare beam search, which may miss the best items, with these scores. Items whose
codes differ only in the last token share one pass of the decoder over their prefix.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lightlm_jax.decoding.beam import length_norm
from lightlm_jax.decoding.trie import Trie, capacity


class Chunks(NamedTuple):
  """Codes in code order, cut into X chunks of G items with at most Q prefixes.

  A prefix is a code without its last token. Sizes are rounded up by `trie.capacity`.
  """

  prefix_XQL: jax.Array  # int32 [X, Q, L - 1], codes without last token, padded with -1
  row_XG: jax.Array  # int32, the row of each item's prefix in its chunk; 0 for padding
  token_XG: jax.Array  # int32, each item's last token; 0 for padding


def chunks(code_RL: np.ndarray, most_prefixes: int) -> Chunks:
  """Cuts codes in code order, where equal prefixes are neighbours, into chunks.

  A prefix is a code without its last token. A chunk has at most `most_prefixes` ≥ 1
  distinct prefixes. Codes are int32, padded with -1; none is empty.
  """
  num_items, depth = code_RL.shape
  place_R = np.arange(num_items)
  last_R = (code_RL >= 0).sum(axis=1) - 1
  prefix_RL = np.where(np.arange(depth) < last_R[:, None], code_RL, -1)[:, :-1]
  new_R = np.append(True, (prefix_RL[1:] != prefix_RL[:-1]).any(axis=1))

  room = capacity(num_items + 1)
  G = room
  while True:
    first_R = new_R | (place_R % G == 0)
    most = np.bincount(place_R // G, first_R).max()
    if most <= most_prefixes or G == 1:
      break
    G = -(-G // 2)
  chunk_R = place_R // G
  number_R = np.cumsum(first_R) - 1
  row_R = number_R - number_R[chunk_R * G]
  X = -(-room // G)
  Q = min(capacity(int(most)), most_prefixes, G)
  prefix_XQL: Any = np.full((X, Q, depth - 1), -1, np.int32)
  prefix_XQL[chunk_R, row_R] = prefix_RL

  def padded(value_R) -> Any:
    return np.pad(value_R, (0, X * G - num_items)).reshape(X, G).astype(np.int32)

  return Chunks(prefix_XQL, padded(row_R), padded(code_RL[place_R, last_R]))


def scores(
  force: Callable[[jax.Array], jax.Array],
  cut: Chunks,
  *,
  num_ranks: int,
  start_token: int,
  length_penalty: float,
  length_offset: float = 0.0,
  siblings_of: Trie | None = None,
) -> jax.Array:
  """Returns each item's score as in `beam.search`, [B, R] float32 in code order.

  Args:
    force: maps decoder_input_QL to logits_BQLV: for each of B requests, the float32
      next-token logits at every position of Q inputs.
    cut: the result of `chunks`.
    num_ranks: R, at least the number of items; scores of further ranks mean nothing.
    start_token, length_penalty, length_offset: as in `beam.Options`.
    siblings_of: a trie; each token's softmax is over the token and its siblings there.
      None = over the whole vocabulary.
  """

  def of_chunk(chunk: Chunks) -> jax.Array:
    prefix_QL, row_G, token_G = chunk
    start_Q1 = jnp.full((len(prefix_QL), 1), start_token, jnp.int32)
    decoder_input_QL = jnp.concatenate([start_Q1, jnp.maximum(prefix_QL, 0)], axis=1)
    logits_BQLV = force(decoder_input_QL)
    if siblings_of is None:
      log_prob_BQLV = jax.nn.log_softmax(logits_BQLV)
    else:
      log_prob_BQLV = _among_siblings(logits_BQLV, siblings_of, prefix_QL)
    is_forced_QL = prefix_QL >= 0
    length_Q = is_forced_QL.sum(axis=1)
    token_1QL1 = jnp.maximum(prefix_QL, 0)[None, :, :, None]
    path_BQL1 = jnp.take_along_axis(log_prob_BQLV[:, :, :-1], token_1QL1, axis=3)
    path_BQ = jnp.where(is_forced_QL[None], path_BQL1[..., 0], 0).sum(axis=2)
    last_BG = log_prob_BQLV[:, row_G, length_Q[row_G], token_G]
    norm_G = length_norm(length_Q[row_G] + 1, length_penalty, length_offset)
    return (path_BQ[:, row_G] + last_BG) / norm_G[None]

  score_XBG = jax.lax.map(of_chunk, cut)
  score_BXG = score_XBG.swapaxes(0, 1)
  return score_BXG.reshape(score_BXG.shape[0], -1)[:, :num_ranks]


def _among_siblings(logits_BQLV, trie: Trie, prefix_QL) -> jax.Array:
  """Returns log-probabilities among the children of each prefix, [B, Q, L, V].

  The values of tokens that are no children mean nothing.
  """
  node_1Q = jnp.zeros((1, len(prefix_QL)), jnp.int32)
  found = []
  for level in range(trie.depth):
    token_1QC, open_1QC = trie.listed(node_1Q, level)
    token_1QC = jnp.minimum(token_1QC, trie.vocab_size - 1)
    logits_BQV = logits_BQLV[:, :, level]
    child_BQC = jnp.take_along_axis(logits_BQV, token_1QC, axis=2)
    child_BQC = jnp.where(open_1QC, child_BQC, -jnp.inf)
    total_BQ1 = jax.nn.logsumexp(child_BQC, axis=2, keepdims=True)
    found.append(logits_BQV - total_BQ1)
    if level < trie.depth - 1:
      node_1Q = trie.follow(node_1Q, prefix_QL[None, :, level], level)
  return jnp.stack(found, axis=2)
