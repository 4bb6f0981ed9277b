"""BSARec (Shin et al. 2024): SASRec's attention mixed with a frequency filter.

  LIGHTLM_DATA_DIR=DATA python -m lightlm_jax.train --config=configs/bsarec.py \
    --config.data.name=beauty --workdir=runs/beauty-bsarec

Every prefix of a history is a training example. Presets: none, `tiny` (tests).

On Beauty, with seen items excluded, it has HR@10 .0983 and NDCG@10 .0592 on test (.1222
and .0741 on validation). The authors' log has .1008 and .0611.
"""

from lightlm_jax import config as config_lib

PRESETS = ("tiny",)


def get_config(preset: str | None = None) -> config_lib.Card:
  """Returns the preset, None = the default; --config.field=value sets any field."""
  config = config_lib.of_system(config_lib.card("sasrec", preset), "bsarec")
  if preset is None:
    config.model.d_ff = 256
    config.model.dropout_rate = 0.5
    config.train.steps = 24_000  # 40 epochs of Beauty
    config.train.batch_size = 256  # examples
    config.train.history_buckets = (5, 10, 20)
    config.train.learning_rate = 1e-3
    config.train.eval_every = 2_400
  return config
