"""Defines groups of a run's configuration: the log, its split, the input, the ids.

The defaults are those of LightLM on Toys (configs/toys.py without a preset). A field
that LightLM lacks has the default of its system's published recipe. The input has a
class for each kind of system; schema.py says which system uses which.
"""

import dataclasses

from lightlm_jax.config.fields import (
  ABOVE_0,
  BELOW_1,
  DEVICES,
  FRACTION,
  NOT_NEGATIVE,
  POSITIVE,
  PROBABILITY,
  SEED,
  SHARE,
  field,
  from_to_a_million,
)
from lightlm_jax.runtime.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shop:
  """Sizes and seed of the synthetic shop of data.name=demo; see data/synthetic.py."""

  num_users: int = field(2_800, "users", POSITIVE)
  num_items: int = field(480, "items", POSITIVE)
  num_categories: int = field(20, "categories of items", POSITIVE)
  num_shelves: int = field(80, "groups of items with the same follow-ups", POSITIVE)
  seed: int = field(0, "seed of the shop", SEED)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
  """The interaction log."""

  name: str = field("toys", "folder of the log in `dir`; demo = the synthetic shop")
  dir: str = field("", "folder of the logs; empty = $LIGHTLM_DATA_DIR")
  min_len: int = field(1, "users with fewer interactions are left out", NOT_NEGATIVE)
  share: float = field(1.0, "share of users to train on; all are evaluated", SHARE)
  shop: Shop = Shop()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Split:
  """The split into training and held-out items; see data/splits.py."""

  kind: str = field(
    "leave_one_out",
    "how validation and test are held out; none = train on everything",
    choices=("leave_one_out", "ratio", "temporal", "none"),
  )
  validation_share: float = field(0.1, "ratio, temporal: share of the log", FRACTION)
  test_share: float = field(0.1, "ratio, temporal: share of the log", FRACTION)
  gap: int = field(0, "temporal: seconds left out before each window", NOT_NEGATIVE)
  withheld: float = field(0.0, "share of the items that training never sees", BELOW_1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class HistoryInput:
  """The input of a system that reads histories."""

  history: int = field(20, "last items of the history that are read", POSITIVE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LightLMInput:
  """The source sequence of LightLM: the history, and perhaps the user."""

  user: bool = field(False, "whether the user's id opens the source")
  history: int = field(20, "last items that are read; 0 = the user alone", NOT_NEGATIVE)
  order: str = field(
    "time", "time = a sequence, none = a set", choices=("time", "none")
  )
  prompt: bool = field(False, "whether the ids stand in the paper's prompt")
  user_dropout: float = field(0.9, "probability that the user is hidden", PROBABILITY)
  every_position: bool = field(
    False, "whether each item of a row of histories is a target, one position an item"
  )
  item_dropout: float = field(
    0.0, "every_position: share of items that a step leaves out of histories", BELOW_1
  )

  def check(self) -> None:
    if not self.history and not self.user:
      raise UserError(
        "config.input.history is 0 and config.input.user false: there is nothing to "
        "read; set one of them"
      )
    if self.prompt and (self.history or not self.user):
      raise UserError(
        "config.input.prompt writes the paper's sentence about a user; it needs "
        "config.input.history=0 and config.input.user=True"
      )
    if self.every_position and (not self.history or self.user or self.order != "time"):
      raise UserError(
        "config.input.every_position learns from items in time order alone; it needs "
        "config.input.history above 0, config.input.user=False and "
        "config.input.order=time"
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextInput(HistoryInput):
  """The input of a system that reads the items' texts."""

  text_tokens: int = field(
    24, "tokens of an item's text; longer texts are cut", POSITIVE, signature=True
  )
  text_vocab: int = field(
    4_096, "tokens learned from the texts", from_to_a_million(256, " (a token a byte)")
  )
  attributes: bool = field(False, "whether item_attributes.json adds a token each")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gcn:
  """The graph convolutional network that learns ids of kind gci; see ids/gcn.py."""

  dim: int = field(64, "width of the vectors", POSITIVE)
  layers: int = field(3, "layers", POSITIVE)
  learning_rate: float = field(0.02, "Adam's learning rate", ABOVE_0)
  epochs: int = field(60, "epochs at most", POSITIVE)
  batch_size: int = field(32_768, "edges per step", POSITIVE)
  negatives: int = field(4, "negatives of each edge", POSITIVE)
  patience: int = field(10, "epochs without a better one before it stops", POSITIVE)
  held_back: float = field(0.05, "share of edges for early stopping", BELOW_1)
  weighted: bool = field(False, "whether layers have weights and a non-linearity")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ids:
  """Settings of the construction of ids for items and users; see the folder ids."""

  kind: str = field(
    "sci",
    "how ids are made: spectral, GCN, random, sequential, independent",
    choices=("sci", "gci", "rid", "sid", "iid"),
  )
  graph: str = field(
    "bipartite",
    "sci: the graph that is clustered",
    choices=(
      *("bipartite", "all_together", "separate", "items", "sequence", "users"),
      "attributes",
    ),
  )
  branching: int = field(128, "sci: clusters per level", from_to_a_million(2))
  leaf_size: int = field(20, "sci: larger clusters are clustered again", POSITIVE)
  levels: int = field(1, "sci: clusterings at most", POSITIVE)
  balanced: bool = field(False, "sci: whether clusters have equally many items")
  books: int = field(1, "sci: code books, of which each step trains one", POSITIVE)
  tokens: str = field(
    "node",
    "sci: a token of its own for every cluster and item, or one per level and place",
    choices=("level", "node"),
  )
  quantiser: str = field(
    "product", "gci: quantiser of the vectors", choices=("product", "residual")
  )
  gci_levels: int = field(3, "gci: tokens of an id before a last one", POSITIVE)
  centres: int = field(64, "gci: tokens per level", from_to_a_million(1))
  gcn: Gcn = Gcn()
  devices: int = field(1, "gci: devices that train; 1 = the CPU", DEVICES)
  cold: str = field("apart", "items without training", choices=("apart", "attributes"))
  base: int = field(64, "rid, sid: digits of a number", from_to_a_million(2))
