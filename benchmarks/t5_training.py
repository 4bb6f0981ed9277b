"""Times training steps of transformers' T5 and of this package, with equal batches."""

import logging
from typing import Any

import jax
import numpy as np
import torch
import transformers

from lightlm_jax import config as config_lib
from lightlm_jax.benchmarks import timing
from lightlm_jax.benchmarks.shapes import Source
from lightlm_jax.benchmarks.t5 import T5
from lightlm_jax.benchmarks.training_step import Trainee, row
from lightlm_jax.config import LightLMConfig
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.systems import lightlm
from lightlm_jax.systems import token_sequences as text
from lightlm_jax.systems.base import Trainable

logger = logging.getLogger(__name__)

_PATIENCE = 300.0  # maximum seconds for all calls together
_IGNORED = -100  # the label that transformers ignores


class _Peer:
  """Trains T5 with AdamW on batches that are on its device already (without a feed)."""

  def __init__(self, trainee: Trainee, *, attention: str, compiled: bool = False):
    config = trainee.config
    self._device = "cpu" if jax.default_backend() == "cpu" else "cuda"
    self._bf16 = config.model.dtype == "bfloat16"
    shape = lightlm.model_config(config, trainee.tables.trie.vocab_size)
    self.t5 = T5(
      shape,
      jax.device_get(trainee.state.params),
      dropout_rate=config.model.dropout_rate,
      attention=attention,
    )
    self.t5.model.to(self._device).train()
    self.t5.word_WD = self.t5.word_WD.detach().to(self._device).requires_grad_()
    self._loss = torch.compile(self._loss_of) if compiled else self._loss_of
    self._optimiser = torch.optim.AdamW(
      [*self.t5.model.parameters(), self.t5.word_WD],
      # The rate of our first warm-up step, so that neither diverges while timed.
      lr=config.train.learning_rate / config.train.warmup_steps,
      eps=1e-6,
      weight_decay=config.train.weight_decay,
      fused=True,
    )
    self._batches = [
      tuple(torch.tensor(x, device=self._device).long() for x in arrays)
      for arrays in tokens(trainee)
    ]

  def loss_without_dropout(self) -> float:
    self.t5.model.eval()
    with torch.no_grad():
      loss = self._loss_of(*self._batches[0]).item()
    self.t5.model.train()
    return loss

  def go(self) -> None:
    """Takes as many steps as a dispatch of this package's training."""
    for batch in self._batches:
      self._optimiser.zero_grad(set_to_none=True)
      with torch.autocast(self._device, torch.bfloat16, enabled=self._bf16):
        loss = self._loss(*batch)
      loss.backward()
      self._optimiser.step()
    loss.item()  # waits for the device

  def _loss_of(self, token_BS, word_BS, mask_BS, label_BL):
    # Plain indexing would have a slower gradient.
    word_BSD = torch.nn.functional.embedding(word_BS, self.t5.word_WD)
    embedded_BSD = self.t5.model.shared(token_BS) + word_BSD
    return self.t5.model(
      inputs_embeds=embedded_BSD,
      attention_mask=mask_BS,
      labels=label_BL,
      use_cache=False,
    ).loss


def forms() -> dict[str, dict[str, Any]]:
  """Returns common ways to run T5 on this machine: {name: arguments of `_Peer`}."""
  found: dict[str, Any] = {name: {"attention": name} for name in ("eager", "sdpa")}
  if jax.default_backend() != "cpu":
    found["sdpa, compiled"] = {"attention": "sdpa", "compiled": True}
  return found


def compare(
  config: LightLMConfig,
  source: Source,
  repeats: int,
) -> dict[str, Any]:
  """Times as many training steps of T5 as of this package, in turn; prints the result.

  Our time is that of the whole training step: it includes gathering the batch, clipping
  and the check for finite values, which T5's does not.

  Args:
    config: a configuration of the paper's task; its dtype is used for both.
    source: a log whose ids all have the same length.
    repeats: see `timing.interleaved`.

  Returns:
    ours (see `training_step.row`); T5's examples_per_second and seconds by form; the
    speed of ours over that of the fastest form: `ratio` by median wall time,
    `ratio_of_best` by the fastest calls, `ratio_of_cpu` by CPU time (least disturbed by
    other processes, but meaningless on an accelerator); both losses at T5's initial
    weights, without dropout.

  Raises:
    UserError: there is an accelerator that torch cannot use.
  """
  if jax.default_backend() != "cpu" and not torch.cuda.is_available():
    raise UserError(
      f"torch {torch.__version__} has no CUDA here; comparing its CPU with the "
      f"{jax.default_backend()} would say nothing"
    )
  torch.set_num_threads(timing.threads())
  trainee = Trainee(config, source)
  # T5 starts from our weights after the first dispatch, which compiles.
  loss = _loss_without_dropout(trainee)
  peers = {name: _Peer(trainee, **options) for name, options in forms().items()}
  t5_loss = peers["eager"].loss_without_dropout()
  calls = {"ours": trainee.go} | {name: peer.go for name, peer in peers.items()}
  times = timing.interleaved(calls, repeats=repeats, patience=_PATIENCE)
  ours = row(trainee, times.pop("ours"))
  examples = trainee.examples
  quickest = min(times, key=lambda name: times[name].median)
  best = min(time.best for time in times.values())
  cpu = min(time.cpu for time in times.values())
  report = {
    "ours": ours,
    "t5": {
      name: {"examples_per_second": examples / time.median, "seconds": time._asdict()}
      for name, time in times.items()
    },
    "quickest": quickest,
    "ratio": times[quickest].median / ours["seconds"]["median"],
    "ratio_of_best": best / ours["seconds"]["best"],
    "ratio_of_cpu": cpu / ours["seconds"]["cpu"],
    "loss": loss,
    "t5_loss": t5_loss,
    "threads": torch.get_num_threads(),
    "versions": {m.__name__: m.__version__ for m in (torch, transformers)},
  }
  rates = (
    f"T5 ({name}) {each['examples_per_second']:,.0f}"
    for name, each in report["t5"].items()
  )
  logger.info(
    f"training, paper shape, batch {ours['batch']}, {ours['dtype']}, on the "
    f"{jax.default_backend()}, transformers {transformers.__version__}, torch "
    f"{torch.__version__}: {ours['examples_per_second']:,.0f} examples/s, "
    f"{', '.join(rates)}: x {report['ratio']:.2f} by the medians, "
    f"x {report['ratio_of_best']:.2f} by the best calls, "
    f"x {report['ratio_of_cpu']:.2f} by CPU time; the losses before are {loss:.4f} and "
    f"{t5_loss:.4f}"
  )
  return report


def tokens(trainee: Trainee) -> list[tuple[np.ndarray, ...]]:
  """Returns T5's input of each batch: (token_BS, word_BS, mask_BS, label_BL)."""
  found = []
  for batch in trainee.batches():
    source = text.write_prompt(trainee.tables.user_code_UL, batch)
    target_BL = np.asarray(trainee.tables.target_IL)[np.asarray(batch.target_B)]
    label_BL = np.where(target_BL >= 0, target_BL, _IGNORED)
    mask_BS = np.asarray(source.segment_BS > 0)
    token_BS, word_BS = np.asarray(source.token_BS), np.asarray(source.word_BS)
    found.append((token_BS, word_BS, mask_BS, label_BL))
  return found


def _loss_without_dropout(trainee: Trainee) -> float:
  config = config_lib.replace(trainee.config, {"model.dropout_rate": 0.0})
  assert isinstance(config, LightLMConfig)
  built = lightlm.build(config, trainee.source.book)
  batch = next(trainee.batches())
  assert isinstance(built.system, Trainable)
  loss = jax.jit(built.system.loss)
  return float(loss(trainee.state.params, trainee.tables, batch, jax.random.key(0))[0])
