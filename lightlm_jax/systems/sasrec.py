"""Next-item transformers as baselines: `sasrec` and `bsarec`.

SASRec learns at every position of a user's history at once, BSARec from each beginning
of it as an example of its own, because its filter reads both ways. The blocks are in
models/item_sequence.py, all else in next_item.py.
"""

from lightlm_jax.config.schema import SASRecConfig
from lightlm_jax.models.item_sequence import BLOCKS, Config, ItemSequence
from lightlm_jax.systems import next_item
from lightlm_jax.systems.base import Built, in_catalogue_order

NAMES = BLOCKS


def build(config: SASRecConfig, num_items: int) -> Built:
  """The system `config.system`, sasrec or bsarec, over I items."""
  m = config.model
  net = ItemSequence(
    Config(
      I=num_items,
      P=config.input.history,
      block=config.system,
      D=m.d_model,
      N=m.num_layers,
      num_heads=m.num_heads,
      F=m.d_ff,
      dropout_rate=m.dropout_rate,
      mix=m.mix,
      low_frequencies=m.low_frequencies,
    )
  )
  # The frequencies of a row are those of one history.
  example = "target" if config.system == "bsarec" else "sequence"
  system = next_item.of_run(config, next_item.ItemReader(net), example=example)
  return in_catalogue_order(system, (), num_items)
