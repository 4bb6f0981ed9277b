"""Defines groups of a run's configuration: the model, its training, decoding, devices.

The other groups are in data_groups.py.
"""

import dataclasses

from lightlm_jax.config.fields import (
  ABOVE_0,
  ASCENDING,
  BELOW_1,
  DEVICES,
  NOT_NEGATIVE,
  POSITIVE,
  PROBABILITY,
  SHARE,
  Extra,
  field,
)
from lightlm_jax.runtime.errors import UserError

# Values of decoding.kind that rank items by the states of training examples (L2D).
LATENT = ("latent_global", "latent_local")
INDEXED = (*LATENT, "fused")  # values of decoding.kind that read the state index
WITHOUT_BEAMS = ("exact", *LATENT)  # values of decoding.kind that score every item


@dataclasses.dataclass(frozen=True, kw_only=True)
class VectorModel:
  """A model that consists of embedding vectors alone."""

  d_model: int = field(512, "width of the model", POSITIVE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Transformer(VectorModel):
  """The sizes common to all transformers."""

  num_layers: int = field(6, "layers (of the encoder, where there are two)", POSITIVE)
  num_heads: int = field(8, "attention heads", POSITIVE)
  d_ff: int = field(16, "width of the feed-forward layers", POSITIVE)
  dropout_rate: float = field(0.1, "dropout", BELOW_1)


_DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Repeats:
  """What the history's own items get; see models/repeats.py."""

  repeats: bool = field(False, "whether the history's items get a learned bias")
  calibrated: bool = field(
    False, "whether that and temperatures are fitted to validation, if better there"
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class LightLMModel(Repeats, Transformer):
  """The encoder-decoder of LightLM."""

  num_decoder_layers: int = field(6, "layers of the decoder", POSITIVE)
  d_kv: int = field(64, "width of an attention head", POSITIVE)
  whole_word: bool = field(True, "whether tokens get their item's place in a history")
  residual: bool = field(False, "whether the newest state is added to the decoder's")
  id_range: float = field(
    0.0, "embeddings of ids start uniform in ± this; 0 = normal, std 1", NOT_NEGATIVE
  )
  remat: bool = field(False, "whether gradients compute layers again, to save memory")
  dtype: str = field("bfloat16", "dtype of the computation", choices=_DTYPES)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SharedWidthModel(Transformer):
  """A transformer whose heads split d_model evenly."""

  def check(self) -> None:
    if self.d_model % self.num_heads:
      raise UserError(
        f"config.model.d_model {self.d_model} does not divide over "
        f"config.model.num_heads {self.num_heads}"
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SASRecModel(Repeats, SharedWidthModel):
  """The layers of SASRec and BSARec."""

  mix: float = field(0.7, "bsarec: share of the frequency branch", PROBABILITY)
  low_frequencies: int = field(5, "bsarec: frequencies that count as low", NOT_NEGATIVE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderModel(SharedWidthModel):
  """A Llama-style decoder: rotary positions, grouped-query attention."""

  num_kv_heads: int = field(
    8,
    "key and value heads; fewer than num_heads: shared",
    POSITIVE,
    like="model.num_heads",
  )
  dtype: str = field("float32", "dtype of the computation", choices=_DTYPES)

  def check(self) -> None:
    if self.num_heads % self.num_kv_heads:
      raise UserError(
        f"config.model.num_heads {self.num_heads} does not divide over "
        f"config.model.num_kv_heads {self.num_kv_heads}"
      )
    width = self.d_model // self.num_heads
    if width % 2:
      raise UserError(
        f"a head of width {width} cannot be rotated in pairs; choose "
        "config.model.d_model as an even multiple of config.model.num_heads"
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ItemDecoderModel(Repeats, DecoderModel):
  """A decoder with one token per item."""

  tied: bool = field(True, "whether the output table is the input's", signature=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextModel(DecoderModel):
  """A decoder that reads the history as the items' texts."""

  source: str = field(
    "hierarchical",
    "hierarchical = a text encoder under a history encoder, flat = one for all",
    choices=("hierarchical", "flat"),
  )
  num_item_layers: int = field(1, "hierarchical: layers of the item encoder", POSITIVE)
  item_dropout_rate: float = field(0.1, "hierarchical: dropout in it", BELOW_1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LiteModel(TextModel):
  """Lite-LLM4Rec with a head that scores all items."""

  tied: bool = field(False, "whether items are scored by their texts' vectors")

  def check(self) -> None:
    if self.tied and self.source == "flat":
      raise UserError(
        "config.model.source is 'flat', which makes no vectors of items that "
        "config.model.tied could score by; set config.model.tied=False"
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class LiteBeamModel(TextModel):
  """Lite-LLM4Rec whose head is replaced by a decoder that generates ids."""

  num_decoder_layers: int = field(
    6, "decoder layers", POSITIVE, like="model.num_layers"
  )
  remat: bool = field(False, "whether gradients compute layers again, to save memory")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluating:
  """The batch size of evaluation; the subclass `Train` adds settings of training."""

  eval_batch_size: int = field(256, "users of an evaluation batch", POSITIVE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train(Evaluating):
  """Settings of training by gradient descent."""

  steps: int = field(20_000, "steps", POSITIVE)
  batch_size: int = field(256, "examples or rows of a batch", POSITIVE)
  accumulate: int = field(1, "steps per update of the parameters", POSITIVE)
  learning_rate: float = field(1e-3, "peak learning rate of AdamW", ABOVE_0)
  embedding_rate: float = field(8.0, "embeddings: this times learning_rate", ABOVE_0)
  warmup_steps: int = field(1_000, "steps of linear warm-up", NOT_NEGATIVE)
  schedule: str = field(
    "cosine", "decay of the learning rate to 0", choices=("cosine", "linear")
  )
  weight_decay: float = field(
    0.01, "AdamW's decay, multiplied by the learning rate", NOT_NEGATIVE
  )
  average: float = field(
    0.0, "decay of the moving average of weights that is evaluated; 0 = none", BELOW_1
  )
  clip_norm: float = field(1.0, "largest norm of the gradient", ABOVE_0)
  feed: str = field(
    "device",
    "device = the log in device memory, stream = rows from disk",
    choices=("device", "stream"),
    extra=Extra("stream", ("grain", "array_record"), "stream"),
  )
  eval_every: int = field(1_000, "steps between validations and checkpoints", POSITIVE)
  eval_users: int = field(0, "users of a validation; 0 = all", NOT_NEGATIVE)
  patience: int = field(5, "validations without a new best; 0 = no limit", NOT_NEGATIVE)
  checkpoints: int = field(
    2, "latest checkpoints that are kept, and the best", POSITIVE
  )
  failed_save: str = field(
    "stop",
    "stop = a checkpoint that cannot be written ends the run, go_on = it is left out",
    choices=("stop", "go_on"),
  )
  log_every: int = field(100, "steps between lines of the log", POSITIVE)
  steps_per_dispatch: int = field(10, "steps per call of the device", POSITIVE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowTrain(Train):
  """Settings of training on rows of histories."""

  whole_histories: bool = field(False, "whether too long histories fill several rows")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LightLMTrain(RowTrain):
  """Settings of LightLM's training."""

  loss: str = field(
    "vocabulary",
    "tokens that compete: all, or the children of the target's parent in the trie",
    choices=("vocabulary", "children", "both"),
  )
  label_smoothing: float = field(0.0, "label smoothing", BELOW_1)
  pack: int = field(4, "examples that share a row; 1 = history_buckets", POSITIVE)
  history_buckets: tuple[int, ...] = field(
    (2, 5, 10), "history lengths to pad a batch to, beside input.history", ASCENDING
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ItemLossTrain(RowTrain):
  """Settings of training by next-item prediction with a loss over items."""

  loss: str = field(
    "full",
    "cross-entropy over all items, over a sample, or binary against one negative",
    choices=("full", "sampled", "binary"),
    signature=True,
  )
  negatives: int = field(8_192, "sampled: items of a batch's loss", POSITIVE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SASRecTrain(ItemLossTrain):
  """Settings of the training of SASRec and BSARec."""

  history_buckets: tuple[int, ...] = field(
    (2, 5, 10),
    "bsarec: history lengths to pad a batch to, beside input.history",
    ASCENDING,
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class BeamDecoding:
  """Settings of the decoding of ids by beam search."""

  kind: str = field("beam", "how ids are decoded", choices=("beam",))
  beam_size: int = field(20, "beams", POSITIVE)
  length_penalty: float = field(
    0.0, "exponent of the length that scores are divided by", NOT_NEGATIVE
  )
  length_offset: float = field(0.0, "added to lengths; 5 in T5 and GNMT", NOT_NEGATIVE)
  trie_bytes: int = field(
    256 * 2**20, "bytes that dense masks of the trie may take; 0 = sparse", NOT_NEGATIVE
  )

  @property
  def has_beams(self) -> bool:
    """Whether this `kind` of decoding uses `beam_size`."""
    return self.kind not in WITHOUT_BEAMS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decoding(BeamDecoding):
  """Settings of LightLM's decoding: beams, exact scores, L2D (arXiv 2509.11524), fused.

  "fused" ranks the items of the beams and of the state index by a sum of both scores.
  """

  kind: str = field(
    "beam",
    "how ids are decoded; latent, fused: `evaluate` of a trained run",
    choices=("beam", "beam_renormalised", "exact", "unconstrained", *INDEXED),
  )
  state: str = field("encoder", "latent: stored states", choices=("decoder", "encoder"))
  memory_share: float = field(1.0, "latent: share of the training examples", SHARE)
  prior: float = field(
    16.0, "latent: weight of log(purchases); 0 = L2D as published", NOT_NEGATIVE
  )
  nearest: int = field(300, "latent_local: how many nearest states are used", POSITIVE)
  index_weight: float = field(
    0.07, "fused: weight of the state index beside log p", NOT_NEGATIVE
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class FixedMesh:
  """The device mesh of a system that is not trained by gradient descent."""

  data: int = field(-1, "devices that share a batch; -1 = all that are left", DEVICES)
  model: int = field(1, "devices that share the weights", POSITIVE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mesh(FixedMesh):
  """The device mesh of a system that is trained by gradient descent."""

  shard_optimiser: bool = field(False, "shards the optimiser's state over `data`")
