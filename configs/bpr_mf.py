"""BPR-MF (Rendle et al. 2009) on Amazon Toys & Games, 5-core: a trained baseline.

  LIGHTLM_DATA_DIR=DATA python -m lightlm_jax.train --config=configs/bpr_mf.py \
    --workdir=runs/toys-bpr_mf

Another log: --config.data.name=beauty. Presets: none, `tiny` (tests).

On 2 CPU cores (AMD EPYC, jax 0.10.2) of a shared machine it takes 3 minutes including
the other baselines; training takes 82 s. With seen items excluded it has HR@10 .0468
and NDCG@10 .0249 on test (.0800 and .0432 on validation). On Beauty it takes 98 s
without the baselines, and has .0510 and .0252 on test.

A user's vector is learned from the training items alone. At test it lacks the
validation item, which systems that read a history see; without that item ItemKNN falls
from NDCG@10 .0392 to .0240. Settings were chosen on Toys' validation; the best NDCG@10
of the few tried was .0314 at width 64, .0366 at 128, .0432 at 256, .0436 at 512.
AdamW's weight decay is the paper's regularisation: it applies to both tables and to the
item biases.
"""

from lightlm_jax import config as config_lib

PRESETS = ("tiny",)


def get_config(preset: str | None = None) -> config_lib.Card:
  """Returns the preset, None = the default; --config.field=value sets any field."""
  config = config_lib.of_system(config_lib.card("toys", preset), "bpr_mf")
  if preset is None:
    config.model.d_model = 256
    config.train.steps = 960  # 60 epochs
    config.train.batch_size = 8_192  # examples
    config.train.learning_rate = 2e-2
    config.train.warmup_steps = 16
    config.train.weight_decay = 1.0  # a step shrinks by this times the rate
    config.train.eval_every = 160
    config.train.patience = 0  # validation rises nearly to the end
    config.train.log_every = 80
  return config
