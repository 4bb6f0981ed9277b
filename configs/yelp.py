"""LightLM on Yelp 2019, 5-core: configs/toys.py with the changes below.

  LIGHTLM_DATA_DIR=DATA python -m lightlm_jax.train --config=configs/yelp.py:small \
    --workdir=runs/yelp

The log is `DATA/yelp/sequences.txt` (a line `user item item …` for each user, in time
order), or `yelp_academic_dataset_review.json` and
`yelp_academic_dataset_business.json` in its place, from https://www.yelp.com/dataset
once its terms are accepted. In the release that ends on 13 December 2019, the visits
of 2019 are 30,431 users, 20,033 items and 316,354 interactions; later releases differ.
Presets: none, `best`, `paper`, `small`, `tiny`, as in configs/toys.py.

`small` takes 35 minutes for 12,000 steps on one of 2 CPU cores (AMD EPYC, jax 0.10.2).
It has these HR@10 and NDCG@10 on test: with seen items excluded .0480 .0245 (EASE .0453
.0238), with seen items allowed .0575 .0298 (EASE .0581 .0295).

People come back to places: 11,830 of the 316,354 visits are to a place where the user
had been before, and 2,027 of the 30,431 users have their test item in their history
(1,539 of them in training). With seen items excluded these users are misses, so that no
system can exceed HR@k = .933; with seen items allowed there is no such limit. The log
is hardly sequential: of 47 rules "b follows a", 53 % vanish when the histories are
shuffled (data/sequential.py).
"""

from lightlm_jax import config as config_lib

PRESETS = ("best", "paper", "small", "tiny")


def get_config(preset: str | None = None) -> config_lib.Card:
  """Returns the preset, None = the default; --config.field=value sets any field."""
  config = config_lib.card("toys", preset)
  config.data.name = "yelp"
  if preset == "best":
    config.ids.branching = 142  # the square root of the items: 1,670 are worse
    config.train.steps = 6_552  # 24 epochs: of 80 they were best
    config.train.eval_every = 1_092
  if preset == "paper":
    config.train.steps = 39_930  # 10 epochs
    config.train.warmup_steps = 1_996  # 5 %
    config.train.eval_every = 3_993
  if preset == "small":
    config.train.steps = 24_000  # 12 epochs
  return config
