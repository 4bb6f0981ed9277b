"""LightLM on Amazon Beauty, 5-core: configs/toys.py with the changes below.

  LIGHTLM_DATA_DIR=DATA python -m lightlm_jax.train --config=configs/beauty.py:small \
    --workdir=runs/beauty

The log is `DATA/beauty/sequences.txt`, or `reviews_Beauty_5.json.gz` and
`meta_Beauty.json.gz` in its place, or it is fetched. Presets: none, `paper`, `small`,
`tiny`, as in configs/toys.py. The log is sequential: of 595 rules "b follows a", 96 %
vanish when the histories are shuffled (data/sequential.py).

`small` on one of 2 CPU cores (AMD EPYC, jax 0.10.2), 21 minutes; test, HR@10, NDCG@10:
.0889 .0521 seen excluded, .0810 .0450 allowed (EASE .0670 .0356, .0498 .0254).
"""

from lightlm_jax import config as config_lib

PRESETS = ("paper", "small", "tiny")


def get_config(preset: str | None = None) -> config_lib.Card:
  """Returns the experiment; every field can be set by --config.field=value."""
  config = config_lib.card("toys", preset)
  config.data.name = "beauty"
  if preset == "paper":
    config.train.steps = 24_030  # 10 epochs
    config.train.warmup_steps = 1_201  # 5 %
    config.train.eval_every = 2_403
  if preset == "small":
    config.train.steps = 14_400  # 12 epochs
  return config
