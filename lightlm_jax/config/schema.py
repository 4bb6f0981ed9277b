"""Defines each system's configuration: a frozen dataclass with its own fields only.

    RunConfig
      BaselineConfig          pop, recent_pop, item_knn, ease
      EnsembleConfig          ensemble
      LearnedConfig
        BprMfConfig           bpr_mf
        WritesIds
          LightLMConfig       lightlm
          LiteBeamConfig      lite_llm4rec_beam, also ReadsTexts
        SequenceConfig
          ReadsTexts
          ItemLossConfig
            SASRecConfig      sasrec, bsarec
            ItemDecoderConfig item_decoder
            LiteConfig        lite_llm4rec, also ReadsTexts

All are hashable, so that a configuration can be a static argument of jax.jit. Their
groups are in data_groups.py and model_groups.py, the checks of fields in fields.py.
"""

from collections.abc import Sequence
import dataclasses
from typing import Any, ClassVar

from lightlm_jax.config import data_groups, fields, model_groups
from lightlm_jax.config.data_groups import Data, Gcn, Ids, LightLMInput, Split
from lightlm_jax.config.fields import Extra, field
from lightlm_jax.config.model_groups import INDEXED, LATENT, Train
from lightlm_jax.runtime.errors import UserError

BASELINES = ("pop", "recent_pop", "item_knn", "ease")
_TEXT = Extra("text", ("tokenizers",))


def _system(*names: str, **more: Any) -> str:
  return field(names[0], "the recommender", choices=names, **more)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
  """The fields of every run."""

  card: ClassVar[str] = ""  # config file to start from; "" = named like the system

  system: str
  preset: str = field("default", "preset that this configuration started from")
  seed: int = field(0, "seed of everything that is drawn", fields.SEED)
  baselines: tuple[str, ...] = field(
    ("pop", "item_knn", "ease"), "measured beside the system", choices=BASELINES
  )
  data: Data = Data()
  split: Split = Split()
  train: model_groups.Evaluating = model_groups.Evaluating()
  mesh: model_groups.FixedMesh = model_groups.FixedMesh()

  @property
  def examples_a_row(self) -> int:
    """The number of examples packed into one row of a training batch."""
    return 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class BaselineConfig(RunConfig):
  """A baseline computed from counts, without training steps."""

  system: str = _system(*BASELINES)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EnsembleConfig(RunConfig):
  """Finished runs whose items are ranked by their mean log-probability."""

  system: str = _system("ensemble")
  members: str = field("", "workdirs of two or more runs on one log: RUN,RUN")

  @property
  def runs(self) -> tuple[str, ...]:
    """The workdirs of the members."""
    return tuple(word.strip() for word in self.members.split(",") if word.strip())


@dataclasses.dataclass(frozen=True, kw_only=True)
class LearnedConfig(RunConfig):
  """A system that is trained by gradient descent."""

  profile: bool = field(False, "whether a trace of some steps is left in the workdir")
  model: model_groups.VectorModel = model_groups.VectorModel()
  train: Train = Train()
  mesh: model_groups.Mesh = model_groups.Mesh()

  @property
  def history_buckets(self) -> tuple[int, ...]:
    """The history lengths to which batches are padded; () = one length."""
    return getattr(self.train, "history_buckets", ())

  @property
  def whole_histories(self) -> bool:
    """Whether a history that is too long for a row continues in further rows."""
    return getattr(self.train, "whole_histories", False)

  @property
  def can_stream(self) -> bool:
    """Whether all training rows have one width, so that they can be read from files."""
    return False

  def check(self) -> None:
    if self.train.feed == "stream" and not self.can_stream:
      raise UserError(
        "config.train.feed is 'stream', which needs a history and rows of one width; "
        "set config.train.pack=4 (lightlm), or config.train.history_buckets=()"
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class WritesIds(LearnedConfig):
  """A system that generates items as ids, token by token."""

  ids: Ids = Ids()
  decoding: model_groups.BeamDecoding = model_groups.BeamDecoding()


@dataclasses.dataclass(frozen=True, kw_only=True)
class LightLMConfig(WritesIds):
  """LightLM: an encoder-decoder that generates ids."""

  system: str = _system("lightlm")
  input: LightLMInput = LightLMInput()
  model: model_groups.LightLMModel = model_groups.LightLMModel()
  train: model_groups.LightLMTrain = model_groups.LightLMTrain()
  decoding: model_groups.Decoding = model_groups.Decoding()

  @property
  def examples_a_row(self) -> int:
    # Without histories sources are nearly equal in length: packing saves nothing.
    alone = not self.input.history or self.input.every_position
    return 1 if alone else self.train.pack

  def check(self) -> None:
    super().check()
    if self.train.loss == "children" and self.decoding.kind == "unconstrained":
      raise UserError(
        "config.decoding.kind=unconstrained compares all tokens; it needs "
        "config.train.loss=vocabulary"
      )
    by_position, siblings = self.input.every_position, self.train.loss == "children"
    if self.model.repeats and not (by_position and siblings):
      raise UserError(
        "config.model.repeats needs config.input.every_position=True and "
        "config.train.loss=children"
      )
    if self.model.calibrated and not siblings:
      raise UserError("config.model.calibrated needs config.train.loss=children")
    if self.ids.books > 1:
      self._check_books()
    whole = ("train.whole_histories", self.train.whole_histories)
    for name, value in (("input.item_dropout", self.input.item_dropout), whole):
      if value and not by_position:
        raise UserError(f"config.{name} needs config.input.every_position=True")
    if by_position and self.train.label_smoothing and not siblings:
      raise UserError(
        "config.train.label_smoothing with config.input.every_position=True needs "
        "config.train.loss=children"
      )

  def _check_books(self) -> None:
    needed = {
      "ids.kind": "sci",
      "ids.levels": 1,
      "ids.tokens": "node",
      "ids.cold": "apart",
      "input.every_position": True,
      "train.loss": "children",
    }
    if self.decoding.kind not in LATENT:
      needed["decoding.kind"] = "beam"
    for name, value in needed.items():
      if fields.value_of(self, name) != value:
        raise UserError(f"config.ids.books above 1 needs config.{name}={value}")

  @property
  def can_stream(self) -> bool:
    packed = self.input.every_position or self.examples_a_row > 1
    return self.input.history > 0 and (packed or _one_width(self))


@dataclasses.dataclass(frozen=True, kw_only=True)
class BprMfConfig(LearnedConfig):
  """BPR matrix factorisation: a vector for each user and item."""

  system: str = _system("bpr_mf")
  model: model_groups.VectorModel = model_groups.VectorModel()


@dataclasses.dataclass(frozen=True, kw_only=True)
class SequenceConfig(LearnedConfig):
  """A system that predicts the next item of a history."""

  input: data_groups.HistoryInput = data_groups.HistoryInput()
  model: model_groups.SharedWidthModel = model_groups.SharedWidthModel()
  train: model_groups.RowTrain = model_groups.RowTrain()

  @property
  def can_stream(self) -> bool:
    return True


@dataclasses.dataclass(frozen=True, kw_only=True)
class ItemLossConfig(SequenceConfig):
  """A system that scores every item and is trained by next-item prediction."""

  train: model_groups.ItemLossTrain = model_groups.ItemLossTrain()

  def check(self) -> None:
    super().check()
    for name in ("repeats", "calibrated"):
      if getattr(self.model, name, False) and self.train.loss != "full":
        raise UserError(f"config.model.{name} needs config.train.loss=full")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReadsTexts(SequenceConfig):
  """A system that reads the items' texts."""

  input: data_groups.TextInput = data_groups.TextInput()
  model: model_groups.TextModel = model_groups.TextModel()


@dataclasses.dataclass(frozen=True, kw_only=True)
class SASRecConfig(ItemLossConfig):
  """SASRec or BSARec; for BSARec, each prefix of a history is a row of its own."""

  system: str = _system("sasrec", "bsarec")
  model: model_groups.SASRecModel = model_groups.SASRecModel()
  train: model_groups.SASRecTrain = model_groups.SASRecTrain()

  @property
  def can_stream(self) -> bool:
    # BSARec's filter is not causal, so each row trains a single target.
    return self.system == "sasrec" or _one_width(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ItemDecoderConfig(ItemLossConfig):
  """Dropping the Text (arXiv 2506.15833): a decoder with one token per item."""

  system: str = _system("item_decoder")
  model: model_groups.ItemDecoderModel = model_groups.ItemDecoderModel()


@dataclasses.dataclass(frozen=True, kw_only=True)
class LiteConfig(ItemLossConfig, ReadsTexts):
  """Lite-LLM4Rec (arXiv 2402.09543): reads texts and scores every item."""

  system: str = _system("lite_llm4rec", extra=_TEXT)
  input: data_groups.TextInput = data_groups.TextInput()
  model: model_groups.LiteModel = model_groups.LiteModel()

  def check(self) -> None:
    super().check()
    if self.model.tied and self.train.loss != "full":
      raise UserError(
        f"config.train.loss is {self.train.loss!r}, and with config.model.tied only "
        "the items of a batch are compared; set config.train.loss=full"
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class LiteBeamConfig(ReadsTexts, WritesIds):
  """Lite-LLM4Rec with beam search over ids in place of the head that scores items."""

  card: ClassVar[str] = "lite_llm4rec"

  system: str = _system("lite_llm4rec_beam", extra=_TEXT)
  model: model_groups.LiteBeamModel = model_groups.LiteBeamModel()


CONFIGS: dict[str, type[RunConfig]] = {
  "lightlm": LightLMConfig,
  "item_decoder": ItemDecoderConfig,
  "lite_llm4rec": LiteConfig,
  "lite_llm4rec_beam": LiteBeamConfig,
  **dict.fromkeys(BASELINES, BaselineConfig),
  "bpr_mf": BprMfConfig,
  "sasrec": SASRecConfig,
  "bsarec": SASRecConfig,
  "ensemble": EnsembleConfig,
}
SYSTEMS = tuple(CONFIGS)


def _one_width(config: LightLMConfig | SASRecConfig) -> bool:
  return all(width >= config.input.history for width in config.history_buckets)


def writes_ids(system: Any) -> bool:
  """Returns whether `system` is the name of a system that generates ids."""
  return system in SYSTEMS and issubclass(CONFIGS[system], WritesIds)


def of_system(name: str) -> type[RunConfig]:
  """Returns the configuration class of the system `name`.

  Raises:
    UserError: there is no such system.
  """
  if name not in SYSTEMS:  # not the dict, as `name` may be unhashable
    raise UserError(f"config.system is {name!r}; choose one of {', '.join(SYSTEMS)}")
  return CONFIGS[name]


def check(config: RunConfig, *, trained: bool = False) -> None:
  """Checks every field, and the fields against each other.

  Args:
    config: a run's configuration.
    trained: whether the run is trained already; only a trained run has a state index.

  Raises:
    UserError: a value is invalid; the message names the field and the possible values.
  """
  fields.check(config)
  if isinstance(config, LightLMConfig) and not trained:
    kind = config.decoding.kind
    if kind in INDEXED:
      raise UserError(
        f"config.decoding.kind {kind} searches the states of a trained run; train with "
        f"beam, then evaluate with --decoding={kind}"
      )


def check_batches(
  config: RunConfig,
  devices: int,
  names: Sequence[str] = ("train.batch_size", "train.eval_batch_size"),
) -> None:
  """Raises a UserError if a batch does not divide evenly over `devices` devices.

  `names` are the fields that hold batch sizes. All examples of a packed row go to one
  device, so the number of rows of a training batch must be a multiple of `devices`.
  """
  for name in names:
    if name not in fields.leaves(type(config)):
      continue
    pack = config.examples_a_row if name == "train.batch_size" else 1
    size = fields.value_of(config, name)
    if size % (devices * pack):
      rows = f" in rows of config.train.pack {pack} examples" if pack > 1 else ""
      raise UserError(
        f"config.{name} {size}{rows} does not divide over the {devices} devices of "
        f"mesh.data; choose a multiple of {devices * pack}"
      )
