"""LightLM on Amazon Beauty, 5-core: configs/toys.py with the changes below.

  LIGHTLM_DATA_DIR=DATA python -m lightlm_jax.train --config=configs/beauty.py:small \
    --workdir=runs/beauty

The log is read from `DATA/beauty/sequences.txt`; if there is none, it is made of
`reviews_Beauty_5.json.gz` and `meta_Beauty.json.gz` there, or else downloaded. The log
is sequential: of 595 rules "b follows a", 96 % vanish when the histories are shuffled
(data/sequential.py). Presets: none, `best`, `paper`, `small`, `tiny`, as in
configs/toys.py.

`small` takes 21 minutes on one of 2 CPU cores (AMD EPYC, jax 0.10.2). It has these
HR@10 and NDCG@10 on test: with seen items excluded .0889 .0521 (EASE .0670 .0356), with
seen items allowed .0810 .0450 (EASE .0498 .0254).
"""

from lightlm_jax import config as config_lib

PRESETS = ("best", "paper", "small", "tiny")


def get_config(preset: str | None = None) -> config_lib.Card:
  """Returns the preset, None = the default; --config.field=value sets any field."""
  config = config_lib.card("toys", preset)
  config.data.name = "beauty"
  if preset == "best":
    config.train.steps = 12_880  # 80 epochs
    config.train.eval_every = 1_288
  if preset == "paper":
    config.train.steps = 24_030  # 10 epochs
    config.train.warmup_steps = 1_201  # 5 %
    config.train.eval_every = 2_403
  if preset == "small":
    config.train.steps = 14_400  # 12 epochs
  return config
