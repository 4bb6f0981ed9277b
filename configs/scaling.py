"""A scaling study of LightLM on Amazon Toys & Games: depth, width, feed-forward.

  LIGHTLM_DATA_DIR=DATA python -m lightlm_jax.sweep --config=configs/scaling.py \
    --workdir=runs/scaling

Presets: none (depth × width, the feed-forward from d_model / 8 to 32 · d_model, two
smaller shares of the users, second seeds: 21 runs), `quick` (24 small runs), `data` (a
sixteenth of the users to all of them), `tiny` (tests, on the synthetic shop). Another
axis, or other values of one: `--vary=FIELD=VALUE,VALUE`; `--vary=ffn=` leaves one out.
"""

import ml_collections

PRESETS = ("quick", "data", "tiny")


def get_config(preset: str | None = None) -> ml_collections.ConfigDict:
  """Returns the preset, None = the default; --config.field=value sets any field."""
  config = ml_collections.ConfigDict()
  config.base = "toys:small"  # a run's config, with its preset
  config.run = ml_collections.ConfigDict()  # overrides of that config in every trial
  config.run.baselines = ()
  config.run.data = ml_collections.ConfigDict()
  config.run.data.name = "toys"
  config.run.train = ml_collections.ConfigDict()
  config.run.train.steps = 3_000  # 3 epochs
  config.run.train.warmup_steps = 150
  config.run.train.eval_every = 1_000
  config.run.train.eval_users = 2_000
  config.run.train.patience = 0  # every trial sees as many examples

  # Fields of the run by name, or depth (layers of encoder and decoder), width
  # (d_model, shared by the heads), ffn (d_ff as a multiple of d_model), rate (the
  # learning rate times d_model; that of the embeddings stays).
  config.axes = ml_collections.ConfigDict()
  config.axes.depth = (2, 4, 8)
  config.axes.width = (32, 64, 128)
  config.axes.ffn = (0.125,)
  config.axes.rate = (0.128,)  # 4e-3 at width 32, 1e-3 at 128
  # Further grids of the same study; an axis that a grid lacks is as in the base.
  config.also = ml_collections.ConfigDict()
  config.seeds = (0,)

  config.search = "grid"  # every point; or "random", "tpe": points drawn from the axes
  config.search_seed = 0  # random, tpe
  config.trials = 0  # random, tpe: number of trials

  if preset is None:
    one = config.axes.to_dict() | {"depth": (4,), "width": (64,)}
    config.also = ml_collections.ConfigDict(
      {
        "extremes": one | {"depth": (12,), "width": (32,)},
        "wide": one | {"depth": (2,), "width": (256,)},
        "narrow": one | {"ffn": (0.125, 0.5, 2.0, 8.0, 32.0)},  # d_ff 8 … 2,048
        "again": one | {"depth": (2, 8), "seed": (1,)},
        "small_again": one | {"depth": (8,), "width": (32,), "seed": (1,)},
        "large_again": one | {"depth": (2,), "width": (128,), "seed": (1,)},
        "data": one | {"data": {"share": (0.25, 0.5)}},
      }
    )
  if preset == "quick":
    config.run.train.steps = 600
    config.run.train.warmup_steps = 30
    config.run.train.eval_every = 300
    config.run.train.eval_users = 1_000
    config.axes.depth = (1, 2, 4)
    config.axes.width = (16, 32)
    config.axes.ffn = (0.25, 1.0, 2.0, 4.0)
  if preset == "data":
    config.axes = ml_collections.ConfigDict(
      {
        "data": {"share": (0.0625, 0.125, 0.25, 0.5, 1.0)},
        "width": (32, 64, 128),
        "rate": config.axes.rate,
      }
    )
  if preset == "tiny":
    config.base = "demo:tiny"
    config.run.data.name = "demo"
    config.run.train.steps = 20
    config.run.train.warmup_steps = 2
    config.run.train.eval_every = 10
    config.run.train.eval_users = 50
    config.axes = ml_collections.ConfigDict(
      {"depth": (1, 2), "width": (8, 16), "ffn": (0.5, 4.0)}
    )
  return config
