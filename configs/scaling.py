"""A scaling study of LightLM on Amazon Toys & Games: depth, width, feed-forward.

  LIGHTLM_DATA_DIR=DATA python -m lightlm_jax.sweep --config=configs/scaling.py \
    --workdir=runs/scaling

Presets: none (depth × width, the feed-forward from d_model / 16 to 16 · d_model, and
second seeds), `quick` (24 small runs), `data` (a sixteenth of the users to all of
them), `tiny` (tests: the made-up shop). Another axis, or other values of one:
`--vary=FIELD=VALUE,VALUE`; `--vary=ffn=` leaves one out.
"""

import ml_collections

PRESETS = ("quick", "data", "tiny")


def get_config(preset: str | None = None) -> ml_collections.ConfigDict:
  """The study; every field can be set by --config.field=value."""
  config = ml_collections.ConfigDict()
  config.base = "toys:small"  # a run's config, with its preset
  config.run = ml_collections.ConfigDict()  # what is set in it for all trials
  config.run.baselines = ()
  config.run.data = ml_collections.ConfigDict()
  config.run.data.name = "toys"
  config.run.train = ml_collections.ConfigDict()
  config.run.train.steps = 3_000  # 3 epochs
  config.run.train.warmup_steps = 150
  config.run.train.eval_every = 500
  config.run.train.eval_users = 2_000
  config.run.train.patience = 0  # all see as much

  # Fields of the run by name, or depth (layers of encoder and decoder), width
  # (d_model, shared by the heads), ffn (d_ff as a multiple of d_model).
  config.axes = ml_collections.ConfigDict()
  config.axes.depth = (2, 4, 8)
  config.axes.width = (32, 64, 128)
  config.axes.ffn = (0.125, 4.0)
  # Further grids of the same study. An axis that one does not name is as in the base.
  config.also = ml_collections.ConfigDict()
  config.seeds = (0,)

  config.search = "grid"  # every point; or "random", "tpe": points drawn from the axes
  config.search_seed = 0  # random, tpe
  config.trials = 0  # random, tpe: how many points are tried

  if preset is None:
    config.also.extremes = ml_collections.ConfigDict()
    config.also.extremes.depth = (6, 12)
    config.also.extremes.width = (64,)
    config.also.extremes.ffn = (0.125,)
    config.also.wide = ml_collections.ConfigDict()
    config.also.wide.depth = (2,)
    config.also.wide.width = (256,)
    config.also.wide.ffn = (0.125, 4.0)
    config.also.narrow = ml_collections.ConfigDict()  # d_ff 8, 32, 128, 512, 2,048
    config.also.narrow.depth = (4,)
    config.also.narrow.width = (128,)
    config.also.narrow.ffn = (0.0625, 0.25, 1.0, 4.0, 16.0)
    config.also.again = ml_collections.ConfigDict()
    config.also.again.depth = (2, 8)
    config.also.again.width = (64, 128)
    config.also.again.ffn = (0.125,)
    config.also.again.seed = (1,)
  if preset == "quick":
    config.run.train.steps = 600
    config.run.train.warmup_steps = 30
    config.run.train.eval_every = 300
    config.run.train.eval_users = 1_000
    config.axes.depth = (1, 2, 4)
    config.axes.width = (16, 32)
    config.axes.ffn = (0.25, 1.0, 2.0, 4.0)
  if preset == "data":
    config.axes = ml_collections.ConfigDict()
    config.axes.data = ml_collections.ConfigDict()
    config.axes.data.share = (0.0625, 0.125, 0.25, 0.5, 1.0)
    config.axes.width = (32, 64, 128)
  if preset == "tiny":
    config.base = "demo:tiny"
    config.run.data.name = "demo"
    config.run.train.steps = 20
    config.run.train.warmup_steps = 2
    config.run.train.eval_every = 10
    config.run.train.eval_users = 50
    config.axes.depth = (1, 2)
    config.axes.width = (8, 16)
    config.axes.ffn = (0.5, 4.0)
  return config
