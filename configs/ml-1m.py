"""LightLM on MovieLens-1M: configs/toys.py with long histories, of which none is cut.

  LIGHTLM_DATA_DIR=DATA python -m lightlm_jax.train --config=configs/ml-1m.py:best \
    --workdir=runs/ml-1m

The log is downloaded into `DATA/ml-1m/`, or read from `DATA/ml-1m/sequences.txt`: 6,040
users, 3,706 items, 1,000,209 interactions, whose last items depend on how ties in time
are broken. Presets: none, `best`, `small`, `tiny`, as in configs/toys.py.

`best` took 80 minutes on one of 2 CPU cores (Intel Xeon, jax 0.10.2). HR@10 and NDCG@10
on test, three seeds: with seen items excluded .3021 .1705, with seen items allowed
.2969 .1673. See results/accuracy.
"""

from lightlm_jax import config as config_lib

PRESETS = ("best", "small", "tiny")


def get_config(preset: str | None = None) -> config_lib.Card:
  """Returns the preset, None = the default; --config.field=value sets any field."""
  config = config_lib.card("toys", preset)
  config.data.name = "ml-1m"
  if preset == "best":
    config.input.history = 200
    config.input.item_dropout = 0.0
    config.ids.branching = 61  # the square root of the items: 310 are worse
    config.decoding.beam_size = 20
    config.model.dropout_rate = 0.2
    config.train.whole_histories = True
    config.train.learning_rate = 0.002  # of the layers; the embeddings' is Toys'
    config.train.embedding_rate = 25.0
    config.train.steps = 9_270  # 30 epochs
    config.train.eval_every = 1_545
  return config
