"""Two transformers, one over an item's text and one over a history's items.

Lite-LLM4Rec (arXiv 2402.09543): an item model makes a vector of each item's text, a
recommendation model reads the vectors of a history in order, and a projection scores
all items in one step. We do not know the paper's sizes and pooling. Here both models
are Llama-style transformers (see decoder.py), and an item's vector is the normalised
mean of its tokens' states. `FlatText` is the alternative: one sequence of all words, as
language models read a user's texts.

Letters, in addition to decoder.py's: T tokens of a text, U unique items of a batch,
H items of a row, S = H · T, V vocabulary of the texts.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lightlm_jax.models import decoder
from lightlm_jax.models.decoder import TABLE_INIT, TABLE_STD
from lightlm_jax.models.layers import Dropout, RMSNorm

CHUNK = 256  # items whose texts are encoded at once
WIDTH = 8  # a chunk's texts are padded to a multiple of so many tokens


class Hierarchical(nn.Module):
  """Item and history encoders (`encode`, `read`), with an output table if I is set."""

  V: int  # vocabulary size of texts
  I: int | None  # items of the head's table `output` [I, D]; None = no head
  item: decoder.Config  # the item encoder, not causal
  history: decoder.Config  # the history encoder, causal, of the same width D

  def setup(self):
    self.embedding = self.param("embedding", TABLE_INIT, (self.V, self.item.D))
    if self.I is not None:
      self.output = self.param("output", TABLE_INIT, (self.I, self.history.D))
    self.item_encoder = decoder.Transformer(self.item)
    self.item_norm = RMSNorm()
    self.item_dropout = Dropout(self.item.dropout_rate)
    self.history_encoder = decoder.Transformer(self.history)
    self.history_dropout = Dropout(self.history.dropout_rate)

  def __call__(self, token_IT: jax.Array, place_BL, segment_BL) -> jax.Array:
    """Returns the states of histories whose items are rows `place_BL` of `token_IT`."""
    return self.read(self.encode(token_IT)[place_BL], segment_BL)

  def encode(self, token_IT: jax.Array) -> jax.Array:
    """Returns items' RMS-normalised vectors, float32 [I, D]; tokens -1 are padding."""
    real_IT = token_IT >= 0
    x_ITD = self.embedding[jnp.maximum(token_IT, 0)] / TABLE_STD
    x_ITD = self.item_dropout(jnp.where(real_IT[..., None], x_ITD, 0))
    x_ITD = self.item_encoder(x_ITD, real_IT.astype(jnp.int32))
    total_ID = jnp.einsum("itd,it->id", x_ITD, real_IT.astype(x_ITD.dtype))
    number_I1 = jnp.maximum(real_IT.sum(axis=1, keepdims=True), 1)
    return self.item_norm(total_ID / number_I1)

  def read(self, item_BLD: jax.Array, segment_BL: jax.Array) -> jax.Array:
    """Returns the hidden states, float32 [B, L, D], of histories of items' vectors.

    The state at a position depends on the items of its segment up to that position;
    segment 0 is padding.
    """
    x_BLD = jnp.where((segment_BL > 0)[..., None], item_BLD, 0)
    return self.history_encoder(self.history_dropout(x_BLD), segment_BL)


def item_vectors(
  net: Hierarchical,
  params: Any,
  token_UT: jax.Array,
  key: jax.Array | None = None,
  chunk: int = CHUNK,
) -> jax.Array:
  """Returns the vectors of U items from their texts, float32 [U, D], chunk by chunk.

  A chunk holds texts of similar length, because it is as wide as its longest text. The
  backward pass recomputes activations: memory holds those of one chunk at a time.

  Args:
    net: the module with the method `encode`.
    params: its parameters.
    token_UT: int32, left-aligned, -1 = padding; rows of padding alone get zeros, and
      chunks of such rows are skipped.
    key: random key of the dropout; None = no dropout.
    chunk: rows per chunk.
  """
  U, T = token_UT.shape
  chunk = min(chunk, U)
  order_U = jnp.argsort((token_UT >= 0).sum(axis=1))
  token_XCT = jnp.pad(
    token_UT[order_U], ((0, -U % chunk), (0, 0)), constant_values=-1
  ).reshape(-1, chunk, T)
  widths = (0, *range(WIDTH, T, WIDTH), T)

  def of_chunk(piece):
    number, token_CT = piece
    rngs = {} if key is None else {"dropout": jax.random.fold_in(key, number)}

    # Otherwise the backward pass would keep the activations of every width.
    @functools.partial(jax.checkpoint, static_argnums=0)
    def encode(width: int, params: Any, token_CT: jax.Array):
      if not width:
        return jnp.zeros((chunk, net.item.D), jnp.float32)
      token_CW = token_CT[:, :width]
      return net.apply({"params": params}, token_CW, rngs=rngs, method="encode")

    longest = (token_CT >= 0).sum(axis=1).max()
    which = jnp.searchsorted(jnp.array(widths), longest)
    encoders = [functools.partial(encode, width) for width in widths]
    return jax.lax.switch(which, encoders, params, token_CT)

  vector_XCD = jax.lax.map(of_chunk, (jnp.arange(len(token_XCT)), token_XCT))
  vector_UD = vector_XCD.reshape(-1, net.item.D)[:U]
  return vector_UD[jnp.argsort(order_U)]


class FlatText(nn.Module):
  """One causal transformer over the words of whole histories.

  Returns a hidden state per item, float32 [B, H, D]: the state at its last token, which
  depends on the segment's words up to that token. `token_BHT` is int32 (-1 = padding),
  with at least one token per item; `segment_BH` is int32 (0 = padding). The output
  table is the parameter `output` [I, D]; there is none if I is None.
  """

  V: int
  I: int | None
  config: decoder.Config

  @nn.compact
  def __call__(self, token_BHT: jax.Array, segment_BH: jax.Array) -> jax.Array:
    c = self.config
    table_VD = self.param("embedding", TABLE_INIT, (self.V, c.D))
    if self.I is not None:
      self.param("output", TABLE_INIT, (self.I, c.D))
    real_BHT = (token_BHT >= 0) & (segment_BH > 0)[..., None]
    segment_BHT = jnp.where(real_BHT, segment_BH[..., None], 0)
    # Padding between words is removed: distances must not depend on the width T.
    place_BS = jnp.argsort(~real_BHT.reshape(len(real_BHT), -1), axis=1, stable=True)
    token_BS, segment_BS = (
      jnp.take_along_axis(x_BHT.reshape(place_BS.shape), place_BS, axis=1)
      for x_BHT in (token_BHT, segment_BHT)
    )
    x_BSD = table_VD[jnp.maximum(token_BS, 0)] / TABLE_STD
    x_BSD = Dropout(c.dropout_rate)(jnp.where((segment_BS > 0)[..., None], x_BSD, 0))
    hidden_BSD = decoder.Transformer(c, name="transformer")(x_BSD, segment_BS)
    last_BH = jnp.cumsum(real_BHT.sum(axis=2), axis=1) - 1
    return jnp.take_along_axis(hidden_BSD, jnp.maximum(last_BH, 0)[..., None], axis=1)
