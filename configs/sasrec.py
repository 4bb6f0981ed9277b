"""SASRec (Kang & McAuley 2018) with full cross-entropy: the baseline to beat.

  LIGHTLM_DATA_DIR=DATA python -m lightlm_jax.train --config=configs/sasrec.py \
    --config.data.name=beauty --workdir=runs/beauty-sasrec

`--config.train.loss=binary` is the paper's loss: each item against one random item.
Presets: none, `tiny` (tests).

On 2 CPU cores (AMD EPYC, jax 0.10.2) Beauty takes 9 minutes. With seen items excluded,
HR@10 is .0972 and NDCG@10 .0583 on test (.1172 and .0710 on validation); .0986 and
.0597 are published for this loss. Batches mix histories of all lengths (packed rows,
which ignore train.history_buckets); batches of similar lengths reached .0891 and .0536.
"""

from lightlm_jax import config as config_lib

PRESETS = ("tiny",)


def get_config(preset: str | None = None) -> config_lib.Card:
  """Returns the preset, None = the default; --config.field=value sets any field."""
  config = config_lib.card("toys", preset)
  config = config_lib.of_system(config, "sasrec", anyway=True)
  config.input.history = 50
  if preset is None:
    config.model.d_model = 64
    config.model.num_layers = 2
    config.model.num_heads = 1
    config.model.d_ff = 64
    config.model.dropout_rate = 0.6
    config.train.steps = 4_100  # 100 epochs of Beauty
    config.train.batch_size = 64  # rows of input.history items: 560 users of Beauty
    config.train.learning_rate = 1e-3
    config.train.embedding_rate = 1.0
    config.train.warmup_steps = 100
    config.train.schedule = "linear"
    config.train.weight_decay = 0.0
    config.train.clip_norm = 5.0
    config.train.eval_every = 410
    config.train.patience = 3
  return config
