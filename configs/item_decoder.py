"""Dropping the Text (arXiv 2506.15833): a Llama-style decoder, one token per item.

  LIGHTLM_DATA_DIR=DATA python -m lightlm_jax.train --config=configs/item_decoder.py \
    --config.data.name=beauty --workdir=runs/beauty-item-decoder

The training recipe is that of configs/sasrec.py. Presets: none (Toys, Beauty, Yelp),
`ml-1m` (MovieLens-1M: long histories, none of them cut, less dropout), `tiny` (tests).

HR@10 and NDCG@10 on test, with seen items excluded, on 2 CPU cores (AMD EPYC, jax
0.10.2): Beauty, three seeds, 5 to 9 minutes of training, .0974 and .0581 (SASRec .0969
and .0584; NDCG@10 on validation is .0722, that of SASRec .0710); Toys, one seed, .1024
and .0628 (SASRec .1063 and .0648); Yelp, one seed, .0451 and .0226; `ml-1m`, one seed,
9 minutes on one core, .2879 and .1661. With seen items allowed they are .0672 and .0378
on Yelp, .2147 and .1092 on `ml-1m`. See results/baselines.
"""

from lightlm_jax import config as config_lib

PRESETS = ("ml-1m", "tiny")


def get_config(preset: str | None = None) -> config_lib.Card:
  """Returns the preset, None = the default; --config.field=value sets any field."""
  config = config_lib.card("sasrec", preset if preset == "tiny" else None)
  config = config_lib.of_system(config, "item_decoder", anyway=True)
  config.preset = preset or "default"
  if preset != "tiny":
    config.model.d_ff = 168  # 8/3 of model.d_model, to a multiple of 8
  if preset == "ml-1m":
    config.data.name = "ml-1m"
    config.input.history = 200
    config.model.dropout_rate = 0.2
    config.train.whole_histories = True
    config.train.batch_size = 16  # rows of input.history items
  return config
