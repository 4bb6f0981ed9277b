"""Lite-LLM4Rec (arXiv 2402.09543): reads items as texts, scores them without a search.

  LIGHTLM_DATA_DIR=DATA python -m lightlm_jax.train --config=configs/lite_llm4rec.py \
    --config.data.name=beauty --workdir=runs/beauty-lite-llm4rec

The texts are in `items.tsv` beside `DATA/beauty/sequences.txt`: tab-separated, a header
with `item_id … text`, then a line per item. Needs `pip install -e '.[text]'`.
`--config.model.tied=True` scores by the items' texts alone, so that new items need no
training. For the paper's comparison, `--config.system=lite_llm4rec_beam` replaces the
head by a beam search over ids (--config.train.embedding_rate=8 makes it learn faster),
and `--config.model.source=flat` reads all words of a history in one transformer.

On one of 2 CPU cores (AMD EPYC, jax 0.10.2), beside other jobs, one seed has HR@10 and
NDCG@10 on test, with seen items excluded / allowed, of: Toys .0868 .0540 / .0811 .0486
(38 minutes; NDCG@10 on validation .0645); after 2,500 steps, Beauty .0767 .0443 / .0707
.0399, Yelp .0326 .0159 / .0345 .0168, `ml-1m` .2798 .1550 / .2036 .1041 (16 minutes).
After as many steps of `ml-1m`, with embedding_rate=8, the beam search over flat texts
has .2063 .1110. With 50 items of 24 tokens, it takes 66 to 77 times as long per batch
(results/lite). With 5 % of Toys' items withheld, HR@100 of the 983 users who bought one
of these was .091 with tied=True, 0 without (.008 by chance) after 250 steps, before
texts were chunked by length.
Presets: none (Toys, Beauty, Yelp), `ml-1m` (every interaction is a training target,
the history is the last 20), `tiny` (tests).
"""

from lightlm_jax import config as config_lib

PRESETS = ("ml-1m", "tiny")


def get_config(preset: str | None = None) -> config_lib.Card:
  """Returns the preset, None = the default; --config.field=value sets any field."""
  config = config_lib.card("item_decoder", preset)
  config = config_lib.of_system(config, "lite_llm4rec", anyway=True)
  config.model.tied = False
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
