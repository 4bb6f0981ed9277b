"""LightLM on Amazon Toys & Games, 5-core: the last 20 items in, the next item out.

  LIGHTLM_DATA_DIR=DATA python -m lightlm_jax.train --config=configs/toys.py:small \
    --workdir=runs/toys

The log is `DATA/toys/sequences.txt` (a line `user item item …` for each user, in time
order). Where there is none, it is fetched into `DATA/toys/`, or made of
`reviews_Toys_and_Games_5.json.gz` and `meta_Toys_and_Games.json.gz` put there by hand:
19,412 users, 11,924 items, 167,597 interactions, or an error. It is sequential: of 348
rules that one item follows another the order makes 92 % (data/sequential.py).

Presets: none (accelerator size, not measured yet), `small`, `tiny` (tests), `paper`:
LightLM's own task and recipe, the user alone in the published sentence. It is trained
from scratch, where the reference starts from pretrained T5-small, and its ids are from
training interactions only; docs/reference.md has the rest. Two of its ten epochs take
an hour on 2 CPU cores and teach it little (results/toys-paper).

`small` on one of 2 CPU cores (AMD EPYC, jax 0.10.2), 17 minutes; test, HR@10, NDCG@10,
three seeds: .0908 .0549 seen excluded, .0820 .0455 allowed (EASE .0703 .0409, .0552
.0293). See results/toys-small.
"""

import ml_collections

PRESETS = ("paper", "small", "tiny")


def get_config(preset: str | None = None) -> ml_collections.ConfigDict:
  """The experiment; every field can be set by --config.field=value."""
  config = ml_collections.ConfigDict()
  config.system = "lightlm"
  config.preset = preset or "default"
  config.seed = 0
  config.profile = False  # leave a trace of some steps in the workdir
  config.baselines = ("pop", "item_knn", "ease")  # printed beside the result

  config.data = ml_collections.ConfigDict()
  config.data.name = "toys"
  config.data.dir = ""  # empty: the environment's LIGHTLM_DATA_DIR
  config.data.min_len = 1  # users with fewer interactions are left out
  config.data.share = 1.0  # of the users, whose rows are learned from; all are asked
  config.split = ml_collections.ConfigDict()
  config.split.kind = "leave_one_out"  # or ratio, temporal, none; see data/splits.py
  config.split.validation_share = 0.1  # ratio, temporal: of the interactions
  config.split.test_share = 0.1  # ratio, temporal: of the interactions
  config.split.gap = 0  # temporal: seconds before a window that are left out
  config.split.withheld = 0.0  # share of the items that training never sees

  config.input = ml_collections.ConfigDict()
  config.input.user = False  # whether the user's id opens the source
  config.input.history = 20  # last items; 0 = the user alone
  config.input.order = "time"  # or "none": the history is a set (lightlm)
  config.input.prompt = False  # the ids in the words of the paper's prompt
  config.input.user_dropout = 0.9  # how often training hides the user

  config.ids = ml_collections.ConfigDict()
  config.ids.kind = "sci"  # sci, gci, rid, sid, iid
  # sci: or all_together, attributes, separate, items, users.
  config.ids.graph = "bipartite"
  config.ids.branching = 128  # sci: clusters a level
  config.ids.leaf_size = 20  # sci: larger clusters are clustered again
  config.ids.levels = 1  # sci: at most so many clusterings
  config.ids.tokens = "node"  # sci: a token for every cluster and item, or "level"
  config.ids.quantiser = "product"  # gci: or residual
  config.ids.gci_levels = 3  # gci: tokens of a code before a last one
  config.ids.centres = 64  # gci: tokens a level
  config.ids.gcn = ml_collections.ConfigDict()  # gci: see ids/gcn.py
  config.ids.gcn.dim = 64
  config.ids.gcn.layers = 3
  config.ids.gcn.learning_rate = 0.02
  config.ids.gcn.epochs = 60  # at most
  config.ids.gcn.batch_size = 32_768  # edges a step
  config.ids.gcn.negatives = 4
  config.ids.gcn.patience = 10  # epochs without a better one
  config.ids.gcn.held_back = 0.05  # share of the training edges to stop by
  config.ids.gcn.weighted = False
  config.ids.devices = 1  # gci: one CPU, whatever its threads; -1 = all devices
  config.ids.cold = "apart"  # items without training; or "attributes": by their like
  config.ids.base = 64  # rid, sid: digits of a number

  config.model = ml_collections.ConfigDict()
  config.model.d_model = 512
  config.model.num_layers = 6
  config.model.num_decoder_layers = 6
  config.model.num_heads = 8
  config.model.d_kv = 64
  config.model.d_ff = 16
  config.model.dropout_rate = 0.1
  config.model.whole_word = True  # tokens know which item of the history they are of
  config.model.id_range = 0.0  # ids start uniform in ±; 0 = normal, std 1
  config.model.remat = False  # compute layers again for the gradient: less memory
  config.model.dtype = "bfloat16"

  config.train = ml_collections.ConfigDict()
  config.train.steps = 20_000
  config.train.batch_size = 256  # examples
  config.train.accumulate = 1  # steps an update
  config.train.learning_rate = 1e-3
  config.train.embedding_rate = 8.0  # the embeddings' multiple of it
  config.train.warmup_steps = 1_000
  config.train.schedule = "cosine"  # or "linear", both to 0 at the last step
  config.train.weight_decay = 0.01
  config.train.clip_norm = 1.0
  config.train.label_smoothing = 0.0
  config.train.feed = "device"  # the log there, or a "stream" of rows from disk
  config.train.pack = 4  # examples that share a row, of all lengths; 1 = buckets:
  config.train.history_buckets = (2, 5, 10)  # and input.history: columns of a batch
  # Of systems that learn at every item of a row: what is longer than input.history goes
  # on in further rows, or is cut to its last items.
  config.train.whole_histories = False
  config.train.eval_every = 1_000  # steps; a checkpoint is saved as often
  config.train.eval_users = 0  # validation users asked then; 0 = all
  config.train.eval_batch_size = 256
  config.train.patience = 5  # validations without a new best; 0 = never stop early
  config.train.log_every = 100  # steps
  config.train.steps_per_dispatch = 10  # that the device takes in one go

  config.decoding = ml_collections.ConfigDict()
  # Or beam_renormalised, exact, unconstrained; evaluate: latent_global, latent_local.
  config.decoding.kind = "beam"
  config.decoding.beam_size = 20
  config.decoding.length_penalty = 0.0  # 0 = summed log-probability
  config.decoding.length_offset = 0.0  # 5 = T5's and GNMT's form of the penalty
  config.decoding.state = "encoder"  # latent: what is remembered; or "decoder"
  config.decoding.memory_share = 1.0  # latent: of the training examples
  config.decoding.prior = 16.0  # latent: weight of log purchases; 0 = L2D as published
  config.decoding.nearest = 300  # latent_local: examples of which items are the means
  config.decoding.trie_bytes = (
    256 * 2**20
  )  # the most that dense masks may take; 0 = lists

  config.mesh = ml_collections.ConfigDict()
  config.mesh.data = -1  # devices that share a batch; -1 = all that are left
  config.mesh.model = 1  # devices that share the weights
  config.mesh.shard_optimiser = False  # over `data`: less memory, more traffic

  if preset == "paper":
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
    config.train.embedding_rate = 64.0  # results/toys-small has it beside 8
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
