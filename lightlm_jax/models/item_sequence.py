"""Transformers over item sequences: SASRec, and BSARec with its frequency branch.

SASRec (Kang & McAuley 2018, arXiv 1808.09781, section III; its norms are placed as in
the authors' code). BSARec (Shin et al. 2024, arXiv 2312.10325, section 4.2). Positions
are counted from the end of a history, so that results do not depend on padding or, in
SASRec, on other histories in the row.

Letters: B batch, H history columns.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lightlm_jax.models.layers import Dropout

# Initialiser of tables, and as in the authors' code of BSARec's weights: on Beauty its
# validation NDCG@10 after three epochs is .040; .028 with variance-preserving weights.
NARROW = nn.initializers.normal(0.02)


@dataclasses.dataclass(frozen=True)
class Config:
  """Shape of a SASRec or BSARec."""

  I: int  # items
  P: int  # most history columns
  block: str = "sasrec"  # or "bsarec"
  D: int = 64  # width
  N: int = 2  # blocks
  num_heads: int = 1
  F: int = 64  # feed-forward width
  dropout_rate: float = 0.5
  mix: float = 0.7  # bsarec: the share of the frequency branch, the paper's α
  low_frequencies: int = 5  # bsarec: the paper's c


class ItemSequence(nn.Module):
  """The network; returns the hidden states [B, H, D], float32.

  `item_BH` (-1 = padding) and `segment_BH` (0 = padding) are int32. Segments separate
  the histories of one row. With "sasrec" a state depends on the items of its history
  up to its own position. With "bsarec" a row is one history, right-aligned, and states
  depend on later items too: only the last state may be used. The table `embedding`
  [I, D] is the output table too. Dropout is active if there is a "dropout" rng.
  """

  config: Config

  @nn.compact
  def __call__(self, item_BH: jax.Array, segment_BH: jax.Array) -> jax.Array:
    c = self.config
    table_ID = self.param("embedding", NARROW, (c.I, c.D))
    place_PD = self.param("position", NARROW, (c.P, c.D))
    H = item_BH.shape[1]
    real_BH1 = (segment_BH > 0)[..., None]
    x_BHD = table_ID[jnp.maximum(item_BH, 0)]
    if c.block == "sasrec":
      x_BHD *= c.D**0.5
    x_BHD += place_PD[c.P - _to_end(segment_BH)]
    if c.block == "bsarec":
      x_BHD = nn.LayerNorm(epsilon=1e-12, name="norm")(x_BHD)
    x_BHD = jnp.where(real_BH1, Dropout(c.dropout_rate)(x_BHD), 0)

    earlier_HH = jnp.tri(H, dtype=bool)[None]
    same_BHH = segment_BH[:, :, None] == segment_BH[:, None, :]
    mask_BHH = earlier_HH & same_BHH & (segment_BH > 0)[:, None, :]
    block = SasrecBlock if c.block == "sasrec" else BsarecBlock
    for n in range(c.N):
      x_BHD = block(c, name=f"block_{n}")(x_BHD, mask_BHH)
      x_BHD = jnp.where(real_BH1, x_BHD, 0)
    if c.block == "sasrec":
      x_BHD = nn.LayerNorm(epsilon=1e-8, name="norm")(x_BHD)
    return x_BHD


class SasrecBlock(nn.Module):
  """Attention of normalised queries over unnormalised keys, then a feed-forward."""

  config: Config

  @nn.compact
  def __call__(self, x_BHD: jax.Array, mask_BHH: jax.Array) -> jax.Array:
    c = self.config
    query_BHD = nn.LayerNorm(epsilon=1e-8, name="attention_norm")(x_BHD)
    x_BHD = query_BHD + _attention(self, c, query_BHD, x_BHD, mask_BHH)
    x_BHD = nn.LayerNorm(epsilon=1e-8, name="forward_norm")(x_BHD)
    inner_BHF = nn.Dense(c.F, name="inner")(x_BHD)
    inner_BHF = nn.relu(Dropout(c.dropout_rate)(inner_BHF))
    return x_BHD + Dropout(c.dropout_rate)(nn.Dense(c.D, name="outer")(inner_BHF))


class BsarecBlock(nn.Module):
  """A weighted sum of attention and a frequency filter, then a feed-forward."""

  config: Config

  @nn.compact
  def __call__(self, x_BHD: jax.Array, mask_BHH: jax.Array) -> jax.Array:
    c = self.config
    H = x_BHD.shape[1]
    # Padding is 0, so the filter over all P columns needs only its last H columns.
    low_HH = low_pass(c.P, c.low_frequencies)[c.P - H :, c.P - H :]
    low_BHD = jnp.einsum("hk,bkd->bhd", low_HH, x_BHD)
    root_D = self.param("high_scale", nn.initializers.normal(1.0), (c.D,))
    kept_BHD = low_BHD + root_D[None, None] ** 2 * (x_BHD - low_BHD)
    kept_BHD = Dropout(c.dropout_rate)(kept_BHD) + x_BHD
    kept_BHD = nn.LayerNorm(epsilon=1e-12, name="frequency_norm")(kept_BHD)

    seen_BHD = _attention(self, c, x_BHD, x_BHD, mask_BHH, kernel_init=NARROW)
    seen_BHD = Dropout(c.dropout_rate)(seen_BHD) + x_BHD
    seen_BHD = nn.LayerNorm(epsilon=1e-12, name="attention_norm")(seen_BHD)
    x_BHD = c.mix * kept_BHD + (1 - c.mix) * seen_BHD

    inner_BHF = nn.Dense(c.F, kernel_init=NARROW, name="inner")(x_BHD)
    inner_BHF = nn.gelu(inner_BHF, approximate=False)
    out_BHD = nn.Dense(c.D, kernel_init=NARROW, name="outer")(inner_BHF)
    out_BHD = Dropout(c.dropout_rate)(out_BHD)
    return nn.LayerNorm(epsilon=1e-12, name="forward_norm")(out_BHD + x_BHD)


def _to_end(segment_BH: jax.Array) -> jax.Array:
  """Returns each position's number from its segment's end; the last position has 1."""
  index_H = jnp.arange(segment_BH.shape[1])
  goes_on_BH = segment_BH[:, :-1] == segment_BH[:, 1:]
  goes_on_BH = jnp.pad(goes_on_BH, ((0, 0), (0, 1)))
  end_BH = jnp.where(goes_on_BH, segment_BH.shape[1], index_H[None] + 1)
  end_BH = jax.lax.cummin(end_BH, axis=1, reverse=True)
  return end_BH - index_H[None]


def low_pass(P: int, low_frequencies: int) -> np.ndarray:
  """Returns the low-pass filter of sequences of length P as a matrix, [P, P] float32.

  As in the authors' code, it keeps `low_frequencies // 2 + 1` Fourier coefficients.
  """
  spectrum = np.fft.rfft(np.eye(P), axis=0)
  spectrum[low_frequencies // 2 + 1 :] = 0
  return np.fft.irfft(spectrum, n=P, axis=0).astype(np.float32)


def _attention(module, c: Config, query_BHD, x_BHD, mask_BHH, **options):
  attention = nn.MultiHeadDotProductAttention(
    num_heads=c.num_heads,
    dropout_rate=c.dropout_rate,
    broadcast_dropout=False,
    deterministic=not module.has_rng("dropout"),
    name="attention",
    **options,
  )
  return attention(query_BHD, x_BHD, mask=mask_BHH[:, None])
