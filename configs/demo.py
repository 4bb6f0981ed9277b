"""LightLM on an embedded synthetic shop: no data needed, done in minutes.

  python -m lightlm_jax.train --config=configs/demo.py

2 CPU cores (AMD EPYC, jax 0.10.2): 85 s; test, seen excluded, NDCG@10 .330 of .416.

We own the generator, so the table ends with the best NDCG@10 that any system could
reach. Another shop: --config.data.shop.seed=1. Presets: none, `small`, `tiny` (tests).
"""

import ml_collections

PRESETS = ("small", "tiny")  # the demo itself is small


def get_config(preset: str | None = None) -> ml_collections.ConfigDict:
  """The experiment; every field can be set by --config.field=value."""
  config = ml_collections.ConfigDict()
  config.system = "lightlm"
  config.preset = preset or "default"
  config.seed = 0
  config.profile = False  # leave a trace of some steps in the workdir
  config.baselines = ("pop", "item_knn")  # printed beside the result

  config.data = ml_collections.ConfigDict()
  config.data.name = "demo"
  config.data.min_len = 1  # users with fewer interactions are left out
  config.data.share = 1.0  # of the users, whose rows are learned from; all are asked
  config.data.shop = ml_collections.ConfigDict()  # see data/synthetic.py
  config.data.shop.num_users = 2_800
  config.data.shop.num_items = 480
  config.data.shop.num_categories = 20
  config.data.shop.num_shelves = 80
  config.data.shop.seed = 0
  config.split = ml_collections.ConfigDict()
  config.split.kind = "leave_one_out"  # or ratio, temporal, none; see data/splits.py
  config.split.validation_share = 0.1  # ratio, temporal: of the interactions
  config.split.test_share = 0.1  # ratio, temporal: of the interactions
  config.split.gap = 0  # temporal: seconds before a window that are left out
  config.split.withheld = 0.0  # share of the items that training never sees

  config.input = ml_collections.ConfigDict()
  config.input.user = True  # the user's id opens the source
  config.input.history = 20  # last items; 0 = the user alone
  config.input.order = "time"  # or "none": the history is a set
  config.input.prompt = False  # the ids in the words of the paper's prompt
  config.input.user_dropout = 0.9  # how often training hides the user

  config.ids = ml_collections.ConfigDict()
  config.ids.kind = "sci"  # sci, gci, rid, sid, iid
  # sci: or all_together, attributes, separate, items, users.
  config.ids.graph = "bipartite"
  config.ids.branching = 24  # sci: clusters a level
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
  config.ids.base = 32  # rid, sid: digits of a number

  config.model = ml_collections.ConfigDict()
  config.model.d_model = 64
  config.model.num_layers = 2
  config.model.num_decoder_layers = 2
  config.model.num_heads = 4
  config.model.d_kv = 16
  config.model.d_ff = 16
  config.model.dropout_rate = 0.1
  config.model.whole_word = True  # tokens know which item of the history they are of
  config.model.id_range = 0.0  # ids start uniform in ±; 0 = normal, std 1
  config.model.remat = False  # compute layers again for the gradient: less memory
  config.model.dtype = "float32"

  config.train = ml_collections.ConfigDict()
  config.train.steps = 4_000
  config.train.batch_size = 64  # examples
  config.train.accumulate = 1  # steps an update
  config.train.learning_rate = 2e-3
  config.train.embedding_rate = 8.0  # the embeddings' multiple of it
  config.train.warmup_steps = 200
  config.train.schedule = "cosine"  # or "linear", both to 0 at the last step
  config.train.weight_decay = 0.01
  config.train.clip_norm = 1.0
  config.train.label_smoothing = 0.0
  config.train.feed = "device"  # the log there, or a "stream" of rows from disk
  config.train.pack = 1  # examples that share a row, of all lengths; 1 = buckets:
  config.train.history_buckets = (5, 10)  # and input.history: columns of a batch
  config.train.eval_every = 1_000  # steps; a checkpoint is saved as often
  config.train.eval_users = 500  # validation users asked then; 0 = all
  config.train.eval_batch_size = 256
  config.train.patience = 0  # validations without a new best; 0 = never stop early
  config.train.log_every = 200  # steps
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

  if preset == "tiny":
    config.data.shop.num_users = 300
    config.data.shop.num_items = 80
    config.data.shop.num_categories = 5
    config.data.shop.num_shelves = 15
    config.model.d_model = 32
    config.model.num_layers = 1
    config.model.num_decoder_layers = 1
    config.model.num_heads = 2
    config.train.steps = 40
    config.train.batch_size = 32
    config.train.warmup_steps = 4
    config.train.eval_every = 10
    config.train.eval_users = 100
    config.train.eval_batch_size = 100
    config.train.log_every = 10
  return config
