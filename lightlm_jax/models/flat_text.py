"""A causal transformer over the words of a whole history: no vectors of items between.

Language models read a user's texts so. Lite-LLM4Rec (arXiv 2402.09543) replaces it by
two short passes; it is here for comparison. Letters, beside decoder.py's: H items of a
row, T tokens of a text, S = H · T, V tokens of the texts.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from lightlm_jax.models import decoder
from lightlm_jax.models.layers import Dropout


class FlatText(nn.Module):
  """token_BHT, segment_BH int32 (0 = nothing there) → hidden float32 [B, H, D].

  Texts are int32, -1 = padding, at least one token an item. The state of an item is
  that at its last token, which knows its history's words up to there. Scores are made
  by the table `output` [I, D]; with I None there is none.
  """

  V: int
  I: int | None
  config: decoder.Config

  @nn.compact
  def __call__(self, token_BHT: jax.Array, segment_BH: jax.Array) -> jax.Array:
    c = self.config
    init = nn.initializers.normal(decoder.TABLE_STD)
    table_VD = self.param("embedding", init, (self.V, c.D))
    if self.I is not None:
      self.param("output", init, (self.I, c.D))
    real_BHT = (token_BHT >= 0) & (segment_BH > 0)[..., None]
    segment_BHT = jnp.where(real_BHT, segment_BH[..., None], 0)
    # Words close up: the distance to one must not depend on how wide texts are kept.
    place_BS = jnp.argsort(~real_BHT.reshape(len(real_BHT), -1), axis=1, stable=True)
    token_BS, segment_BS = (
      jnp.take_along_axis(x_BHT.reshape(place_BS.shape), place_BS, axis=1)
      for x_BHT in (token_BHT, segment_BHT)
    )
    x_BSD = table_VD[jnp.maximum(token_BS, 0)] / decoder.TABLE_STD
    x_BSD = Dropout(c.dropout_rate)(jnp.where((segment_BS > 0)[..., None], x_BSD, 0))
    hidden_BSD = decoder.Transformer(c, name="transformer")(x_BSD, segment_BS)
    last_BH = jnp.cumsum(real_BHT.sum(axis=2), axis=1) - 1
    return jnp.take_along_axis(hidden_BSD, jnp.maximum(last_BH, 0)[..., None], axis=1)
