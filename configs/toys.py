"""LightLM on Amazon Toys & Games, 5-core: the last 20 items in, the next item out.

  LIGHTLM_DATA_DIR=DATA python -m lightlm_jax.train --config=configs/toys.py:small \
    --workdir=runs/toys

The log is `DATA/toys/sequences.txt` (a line `user item item …` for each user, in time
order). Where there is none, it is fetched into `DATA/toys/`, or made of
`reviews_Toys_and_Games_5.json.gz` and `meta_Toys_and_Games.json.gz` put there by hand;
it must have 19,412 users, 11,924 items, 167,597 interactions. It is sequential: of 348
rules "b follows a", 92 % vanish when the histories are shuffled (data/sequential.py).

Presets: none (for accelerators, not measured yet), `best` (every position is a target:
results/accuracy), `small`, `tiny` (tests) and `paper`:
task and recipe of the LightLM paper, whose prompt has the user but no history. `paper`
is trained from scratch (the reference from pretrained T5-small), with ids built from
training interactions only; docs/reference.md has more. Two of its ten epochs take an
hour on 2 CPU cores and teach it little (results/toys-paper).

`small` takes 17 minutes on one of 2 CPU cores (AMD EPYC, jax 0.10.2). Over three seeds
it has these HR@10 and NDCG@10 on test: with seen items excluded .0908 .0549 (EASE .0703
.0409), with seen items allowed .0820 .0455 (EASE .0552 .0293). See results/toys-small.
"""

from lightlm_jax import config as config_lib

PRESETS = ("best", "paper", "small", "tiny")


def get_config(preset: str | None = None) -> config_lib.Card:
  """Returns the preset, None = the default; --config.field=value sets any field."""
  config = config_lib.base("lightlm", preset)
  config.data.name = "toys"
  if preset == "paper":
    _paper(config)
  if preset == "best":
    _best(config)
  if preset in ("small", "tiny"):
    config.model.d_model = 128
    config.model.num_layers = 4
    config.model.num_decoder_layers = 4
    config.model.num_heads = 4
    config.model.d_kv = 32
    config.model.dropout_rate = 0.15
    config.model.dtype = "float32"
    config.train.batch_size = 128
    config.train.steps = 12_000  # 12 epochs
    config.train.warmup_steps = 600
    config.train.eval_users = 2_000
    config.train.eval_batch_size = 128
  if preset == "small":
    config.train.embedding_rate = 64.0  # results/toys-small compares it with 8
  if preset == "tiny":
    config.model.d_model = 32
    config.model.num_layers = 1
    config.model.num_decoder_layers = 1
    config.model.num_heads = 2
    config.model.d_kv = 16
    config.train.pack = 1
    config.train.steps = 20
    config.train.warmup_steps = 2
    config.train.eval_every = 10
    config.train.eval_users = 64
  return config


def _best(config: config_lib.Card) -> None:
  """Sets the most accurate recipe for 2 CPU cores: every position is a target."""
  config.input.history = 50
  config.input.every_position = True
  config.input.item_dropout = 0.2
  config.ids.graph = "sequence"
  config.ids.balanced = True
  config.ids.branching = 1_000  # clusters of 12 items
  config.model.d_model = 128
  config.model.num_layers = 2
  config.model.num_decoder_layers = 1
  config.model.num_heads = 4
  config.model.d_kv = 32
  config.model.d_ff = 128
  config.model.dropout_rate = 0.4
  config.model.whole_word = False
  config.model.residual = True
  config.model.repeats = True
  config.model.calibrated = True
  config.model.dtype = "float32"
  config.train.loss = "children"
  config.train.batch_size = 16  # rows of input.history items
  config.train.steps = 10_720  # 80 epochs
  config.train.warmup_steps = 100
  config.train.schedule = "linear"
  config.train.embedding_rate = 50.0
  config.train.weight_decay = 0.0
  config.train.clip_norm = 5.0
  config.train.average = 0.995
  config.train.eval_every = 1_072
  config.train.patience = 0
  config.train.eval_users = 6_000
  config.train.eval_batch_size = 128
  config.decoding.beam_size = 40
  config.decoding.state = "decoder"  # L2D; a causal encoder's mean says less


def _paper(config: config_lib.Card) -> None:
  """Sets the task and recipe of the LightLM paper."""
  config.seed = 2022
  config.input.user = True
  config.input.history = 0
  config.input.prompt = True
  config.input.user_dropout = 0.0
  config.ids.branching = 50
  config.ids.leaf_size = 100
  config.ids.levels = 10
  config.ids.tokens = "level"
  config.model.id_range = 10.0
  config.model.dtype = "float32"
  config.train.steps = 20_130  # 10 epochs
  config.train.batch_size = 64
  config.train.embedding_rate = 1.0
  config.train.warmup_steps = 1_006  # 5 %
  config.train.schedule = "linear"
  config.train.eval_every = 2_013
  config.train.patience = 0
  config.decoding.length_penalty = 1.0
