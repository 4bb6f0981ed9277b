"""Lite-LLM4Rec (arXiv 2402.09543): items by their texts, and a head without a search.

  LIGHTLM_DATA_DIR=DATA python -m lightlm_jax.train --config=configs/lite_llm4rec.py \
    --config.data.name=beauty --workdir=runs/beauty-lite-llm4rec

Beside `DATA/beauty/sequences.txt` lies `items.tsv`: under a line of names a line
`item_id … text` an item, tab-separated. Wants `pip install -e '.[text]'`.
`--config.model.tied=True` scores by the items' texts alone, so that new items need no
training. `--config.system=lite_llm4rec_beam` writes ids under a beam search instead of
the head, `--config.model.source=flat` reads all words of a history in one transformer:
the paper's comparison (the search learns faster with --config.train.embedding_rate=8).

Not measured to its end yet. First looks at Toys, with dropout also on what attention
reads, which decoder.py has no more, 2 busy CPU cores (jax 0.10.2), rows of
20 items, 16 a batch, dropout .2, after 250 steps of 3e-3: validation NDCG@10 of 1,000
users .0133 (head, 46 s of training), tied .0182, flat .0161. In batches of 100 users, a
list of 20 for one of them takes .04 ms (flat .9 ms, the search .6 ms, of a flat history
1.3 ms). With 5 % of the items withheld, HR@100 of the 983 users who bought one is .091
tied and 0 untied (.008 by chance).
Presets: none, `tiny` (tests).
"""

import ml_collections

from lightlm_jax import config as config_lib

PRESETS = ("ml-1m", "tiny")


def get_config(preset: str | None = None) -> ml_collections.ConfigDict:
  """The experiment; every field can be set by --config.field=value."""
  config = config_lib.load("item_decoder", preset)
  config.system = "lite_llm4rec"
  config.model.tied = False  # the head's table is its own; or the items' vectors
  with config.unlocked():
    config.input.text_tokens = 24  # of an item; what is longer is cut
    config.input.text_vocab = 4_096  # tokens that are learned from the texts
    config.input.attributes = False  # item_attributes.json: a token each
    config.model.source = "hierarchical"  # or "flat": all words in one transformer
    config.model.num_item_layers = 1  # of the item encoder
    config.model.item_dropout_rate = 0.1
  config.model.num_decoder_layers = config.model.num_layers  # lite_llm4rec_beam
  if preset == "tiny":
    config.input.text_vocab = 300
  if preset == "ml-1m":
    config.input.history = 20
    config.input.text_tokens = 12
    config.model.num_item_layers = 2
    config.train.batch_size = 128
    config.train.learning_rate = 2e-3
    config.train.steps = 2_500
    config.train.eval_every = 500
    config.train.eval_users = 2_000
  return config
