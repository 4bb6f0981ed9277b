"""SASRec, BSARec, the item decoder: what reads what, losses by formula, learning."""

import functools
import types

from compiled import Compiled
from etils import epath
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lightlm_jax import config as config_lib
from lightlm_jax.data.batch import Batch
from lightlm_jax.models import item_sequence, repeats
from lightlm_jax.runs import describe, train
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.systems import registry
from lightlm_jax.training import checkpoint

I, H = 30, 8
NAMES = ("sasrec", "bsarec", "item_decoder")
every_net = pytest.mark.parametrize("name", NAMES)


@functools.cache
def build(name, **overrides):
  fields = {
    "input.history": H,
    "model.d_model": 16,
    "model.num_layers": 2,
    "model.num_heads": 2,
    "model.d_ff": 24,
    "model.dropout_rate": 0.0,
  } | {field.replace("__", "."): value for field, value in overrides.items()}
  system = of_items(config_lib.load(name, "tiny", fields))
  params = system.init(jax.random.key(0))
  # As initialised the logits hardly differ, and nothing would show.
  return system, jax.tree.map(lambda x: x * (5 if x.ndim > 1 else 1), params)


def of_items(config):
  log = types.SimpleNamespace(num_items=I, num_users=3)
  return Compiled(registry.build(config.system, config, log, None))


def make_batch(histories, targets, width=H):
  """A history a row, and the target of its last position."""
  history_BH = np.full((len(histories), width), -1, np.int32)
  for row_H, items in zip(history_BH, histories):
    row_H[width - len(items) :] = items
  return Batch(
    user_B=np.arange(len(histories), dtype=np.int32),
    history_BH=history_BH,
    segment_BH=(history_BH >= 0).astype(np.int32),
    target_B=np.array(targets, np.int32),
    weight_B=np.ones(len(histories), np.float32),
  )


def make_rows(histories, targets, rows):
  """Histories side by side in rows of 2 H columns; what followed each position.

  `rows` names the histories of each row.
  """
  item_BH, segment_BH, target_BH = np.zeros((3, len(rows), 2 * H), np.int32)
  for b, members in enumerate(rows):
    column = 0
    for segment, n in enumerate(members, start=1):
      inside = slice(column, column + len(histories[n]))
      item_BH[b, inside] = histories[n]
      segment_BH[b, inside] = segment
      target_BH[b, inside] = [*histories[n][1:], targets[n]]
      column = inside.stop
    assert column <= 2 * H
  return Batch(
    user_B=np.full(len(rows), -1, np.int32),
    history_BH=np.where(segment_BH > 0, item_BH, -1),
    segment_BH=segment_BH,
    target_B=np.where(segment_BH > 0, target_BH, -1),
    weight_B=np.ones(len(rows), np.float32),
  )


HISTORIES = [[3, 1, 4, 1, 5], [9], [2, 6, 5, 3, 5, 8, 9, 7], [11, 12]]
TARGETS = [9, 2, 0, 13]


@every_net
def test_the_width_of_a_batch_changes_no_score(name):
  system, params = build(name)
  whole = system.scores(params, (), make_batch(HISTORIES, TARGETS))
  for row, items in enumerate(HISTORIES):
    alone = system.scores(params, (), make_batch([items], [0], width=len(items)))
    np.testing.assert_allclose(alone[0], whole[row], rtol=1e-4, atol=1e-5)
  assert np.ptp(np.asarray(whole), axis=1).min() > 0.1, "nothing to tell apart"


@every_net
def test_who_has_no_history_gets_one_score_for_all(name):
  system, params = build(name)
  score_BI = np.asarray(system.scores(params, (), make_batch([[], [3]], [0, 0])))
  assert np.ptp(score_BI[0]) == 0
  assert np.ptp(score_BI[1]) > 0


@every_net
def test_order_matters(name):
  system, params = build(name)
  batch = make_batch([[1, 2, 3], [2, 1, 3]], [0, 0])
  score_BI = np.asarray(system.scores(params, (), batch))
  assert np.abs(score_BI[0] - score_BI[1]).max() > 1e-3


@pytest.mark.parametrize(
  "name", ["bsarec", "item_decoder", pytest.param("sasrec", marks=pytest.mark.slow)]
)
def test_a_bias_of_repeats_is_added_to_logits_and_learns_alone(name):
  (compiled, params), (also, _) = build(name), build(name, model__repeats=True)
  system, biased = compiled.system, also.system
  targets = [4, 2, 5, 13]  # two of them repeats, the latter of an item bought twice
  bias_P = jax.random.normal(jax.random.key(1), (repeats.NUMBER,)) * 3
  requests = make_batch(HISTORIES, targets)
  # bsarec learns from the last position only.
  rows = make_rows(HISTORIES, targets, [(0, 1, 3), (2,)])
  batch = requests if name == "bsarec" else rows

  def logits(bias_P, batch):
    hidden_BHD = biased.reader.read(params, (), jax.device_put(batch))
    logits_BHI = jnp.einsum(
      "bhd,id->bhi", hidden_BHD, params.get("output", params["embedding"])
    )
    recency_P, times_P, habit_P, length_P = jnp.split(bias_P, (16, 20, 24))
    segment_BH = np.asarray(batch.segment_BH)
    for b, h in np.argwhere(segment_BH > 0).tolist():
      read = np.flatnonzero(segment_BH[b, : h + 1] == segment_BH[b, h])
      items = np.asarray(batch.history_BH)[b, read].tolist()
      habit = min(len(items) - len(set(items)), 3)
      for item in set(items):
        between = items[::-1].index(item)
        bias = recency_P[between] + times_P[items.count(item) - 1] + habit_P[habit]
        bias += length_P[min(int(np.log2(len(items))), 5)]
        logits_BHI = logits_BHI.at[b, h, item].add(bias)
    return logits_BHI

  def brute(bias_P):
    logits_BHI, target_BH, real_BH = (
      logits(bias_P, batch),
      batch.target_B,
      batch.segment_BH,
    )
    if name == "bsarec":
      logits_BHI, target_BH, real_BH = logits_BHI[:, -1], target_BH, real_BH[:, -1]
    label_BH = np.maximum(target_BH, 0)
    loss_BH = optax.softmax_cross_entropy_with_integer_labels(logits_BHI, label_BH)
    return (loss_BH * (real_BH > 0)).sum() / (real_BH > 0).sum()

  def loss(params, bias_P, system=biased):
    params = params | ({"repeat_bias": bias_P[None]} if system.repeats else {})
    return system.loss(params, (), jax.device_put(batch), jax.random.key(0))[0]

  gradient = jax.value_and_grad(loss, argnums=(0, 1))
  found, (of_params, of_bias) = jax.jit(gradient)(params, bias_P)
  wanted, wanted_of_bias = jax.jit(jax.value_and_grad(brute))(bias_P)
  np.testing.assert_allclose(found, wanted, rtol=1e-5)
  np.testing.assert_allclose(of_bias, wanted_of_bias, rtol=1e-4, atol=1e-6)
  assert np.count_nonzero(of_bias) > 3
  plain = functools.partial(loss, bias_P=bias_P, system=system)
  alone = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-6)
  jax.tree.map(alone, of_params, jax.jit(jax.grad(plain))(params))

  scores_BI = also.scores(params | {"repeat_bias": bias_P[None]}, (), requests)
  wanted_BI = logits(bias_P, requests)[:, -1]
  np.testing.assert_allclose(scores_BI, wanted_BI, rtol=1e-4, atol=1e-4)
  cooled = {"repeat_bias": bias_P[None], "log_temperature": jnp.log(2.0)}
  scores_BI = also.scores(params | cooled, (), requests)
  wanted_BI = (logits(bias_P * 2, requests) / 2)[:, -1]
  np.testing.assert_allclose(scores_BI, wanted_BI, rtol=1e-4, atol=1e-4)


def test_a_bias_of_repeats_needs_the_whole_softmax():
  for name in ("repeats", "calibrated"):
    fields = {f"model.{name}": True, "train.loss": "sampled"}
    with pytest.raises(UserError, match=rf"{name} needs config\.train\.loss=full"):
      config_lib.check(config_lib.load("sasrec", "tiny", fields))


def test_sasrec_never_looks_ahead():
  _, params = build("sasrec")
  net = item_sequence.ItemSequence(
    item_sequence.Config(I=I, P=H, D=16, N=2, num_heads=2, F=24, dropout_rate=0.0)
  )
  a, b = make_batch([[1, 2, 3, 4], [1, 2, 7, 8]], [0, 0])[1:3]
  hidden_BHD = np.asarray(net.apply({"params": params}, a, b))
  np.testing.assert_allclose(hidden_BHD[0, -4:-2], hidden_BHD[1, -4:-2], rtol=1e-5)
  assert np.abs(hidden_BHD[0, -2:] - hidden_BHD[1, -2:]).max() > 1e-2


def test_low_and_high_frequencies_add_up():
  x_P = np.random.default_rng(0).normal(size=50)
  low_PP = item_sequence.low_pass(50, 5)
  spectrum = np.fft.rfft(x_P)
  spectrum[3:] = 0
  np.testing.assert_allclose(low_PP @ x_P, np.fft.irfft(spectrum, n=50), atol=1e-5)
  np.testing.assert_allclose(low_PP @ low_PP, low_PP, atol=1e-5)


def net_and_params(length=H):
  _, params = build("sasrec", input__history=length)
  config = item_sequence.Config(
    I=I, P=length, D=16, N=2, num_heads=2, F=24, dropout_rate=0.0
  )
  return item_sequence.ItemSequence(config), params


def test_sequences_of_one_row_know_nothing_of_each_other():
  net, params = net_and_params(2 * H)
  packed = make_rows(HISTORIES, TARGETS, rows=[[0, 2, 1], [3]])
  hidden_BHD = net.apply({"params": params}, packed.history_BH, packed.segment_BH)
  for row, segment, n in ((0, 1, 0), (0, 2, 2), (0, 3, 1), (1, 1, 3)):
    alone = make_batch([HISTORIES[n]], [0])
    alone_BHD = net.apply({"params": params}, alone.history_BH, alone.segment_BH)
    np.testing.assert_allclose(
      hidden_BHD[row][packed.segment_BH[row] == segment],
      alone_BHD[0, H - len(HISTORIES[n]) :],
      rtol=1e-4,
      atol=1e-4,
    )


@pytest.mark.parametrize("rows", [[[0], [1], [2], [3]], [[3, 0], [2, 1]]])
def test_sasrec_learns_at_every_position(rows):
  """The loss is the mean over all positions, however they are packed.

  Positions count from the end of a history, so the beginnings are told apart by
  cutting the end off the hidden states, not by asking anew.
  """
  system, _ = build("sasrec", input__history=2 * H)
  net, params = net_and_params(2 * H)
  losses = []
  for items, target in zip(HISTORIES, TARGETS):
    alone = make_batch([items], [0])
    hidden_HD = net.apply({"params": params}, alone.history_BH, alone.segment_BH)[0]
    log_prob_HI = jax.nn.log_softmax(hidden_HD @ params["embedding"].T)
    label_H = np.array([*items[1:], target])
    losses += (-log_prob_HI[H - len(items) :][np.arange(len(items)), label_H]).tolist()
  batch = make_rows(HISTORIES, TARGETS, rows)
  value, metrics = system.loss(params, (), batch, jax.random.key(0))
  np.testing.assert_allclose(value, np.mean(losses), rtol=1e-5)
  assert metrics["tokens"] == sum(map(len, HISTORIES))
  assert metrics["capacity_tokens"] == batch.history_BH.size


def test_bsarec_learns_at_the_last_position_alone():
  system, params = build("bsarec")
  batch = make_batch([*HISTORIES, []], [*TARGETS, 4])
  log_prob_BI = jax.nn.log_softmax(system.scores(params, (), batch))
  expected = -np.mean([log_prob_BI[row, item] for row, item in enumerate(TARGETS)])
  value, _ = system.loss(params, (), batch, jax.random.key(0))
  np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_rows_that_only_fill_a_batch_have_no_part_in_the_loss():
  system, _ = build("sasrec", input__history=2 * H)
  _, params = net_and_params(2 * H)
  batch = make_rows(HISTORIES, TARGETS, [[0, 1], [2, 3]])
  value, _ = system.loss(
    params, (), batch._replace(weight_B=np.float32([1, 0])), jax.random.key(0)
  )
  alone = make_rows(HISTORIES, TARGETS, [[0, 1]])
  value_alone, _ = system.loss(params, (), alone, jax.random.key(0))
  np.testing.assert_allclose(value, value_alone, rtol=1e-6)


def test_the_binary_loss_pulls_up_the_item_and_down_another():
  system, params = build("sasrec", train__loss="binary", input__history=2 * H)
  batch = make_rows([[1, 2]], [3], [[0]])
  losses = set()
  for seed in range(3):
    value, _ = system.loss(params, (), batch, jax.random.key(seed))
    losses.add(float(value))
    assert value > 0
  assert len(losses) == 3, "the negatives are always the same"
  zero = jax.tree.map(jnp.zeros_like, params)
  value, _ = system.loss(zero, (), batch, jax.random.key(0))
  np.testing.assert_allclose(value, 2 * np.log(2), rtol=1e-6)


@pytest.mark.parametrize(
  ("name", "loss"),
  # Every loss by one network, and every network by one loss.
  [
    ("sasrec", "full"),
    ("sasrec", "binary"),
    pytest.param("sasrec", "sampled", marks=pytest.mark.slow),
    ("bsarec", "full"),
    ("item_decoder", "full"),
  ],
)
def test_a_rule_of_succession_is_learned(name, loss):
  """Item i is followed by i + 1: after a few hundred steps it comes first."""
  overrides = {
    "train__loss": loss,
    "model__dropout_rate": 0.0,
    "input__history": 2 * H,
  }
  system, _ = build(name, **overrides)
  params = system.init(jax.random.key(0))
  rng = np.random.default_rng(0)

  tx = optax.adam(0.01)
  state = tx.init(params)

  @jax.jit
  def step(params, state, batch, key):
    grads, _ = jax.grad(system.loss, has_aux=True)(params, (), batch, key)
    updates, state = tx.update(grads, state)
    return optax.apply_updates(params, updates), state

  for n in range(250):
    starts = rng.integers(I, size=32)
    begun = [[(s + j) % I for j in range(4)] for s in starts]
    targets = (starts + 4) % I
    if system.example == "sequence":
      batch = make_rows(begun, targets, np.arange(32).reshape(8, 4))
    else:
      batch = make_batch(begun, targets)
    params, state = step(params, state, batch, jax.random.key(n))
  histories = [[(s + j) % I for j in range(4)] for s in range(I)]
  score_BI = system.scores(params, (), make_batch(histories, [0] * I))
  first_B = np.argmax(score_BI, axis=1)
  assert np.mean(first_B == (np.arange(I) + 4) % I) > 0.8


@pytest.mark.usefixtures("_compiled_once")
@pytest.mark.parametrize(
  "name",
  # The item decoder packs its histories as sasrec does.
  ["sasrec", "bsarec", pytest.param("item_decoder", marks=pytest.mark.slow)],
)
def test_the_trainer_trains_and_judges_it(name, tmp_path):
  rng = np.random.default_rng(0)
  rows = [
    " ".join([f"u{u}", *(f"i{i}" for i in rng.integers(I, size=5))]) for u in range(8)
  ]
  (tmp_path / "toys").mkdir()
  (tmp_path / "toys" / "sequences.txt").write_text("\n".join(rows))
  overrides = {
    "data.dir": str(tmp_path),
    "baselines": (),
    "input.history": 5,
    "train.history_buckets": (),
    "train.batch_size": 3,
    "train.steps": 4,
    "train.eval_every": 4,
  }
  config = config_lib.load(name, "tiny", overrides)
  results = train.train(config, tmp_path / "run")
  assert results["num_users"] == 8
  assert results["params"]["total"] > 0
  checkpoints = checkpoint.Checkpoints(epath.Path(tmp_path / "run"))
  examples = checkpoints.progress()["examples"]
  checkpoints.close()
  # Three of five items are trained on: 8 sequences of 2, in rows of 5, are 4 rows; or
  # 24 positions, an example each.
  per_epoch = [3] * 8 if name == "bsarec" else [3, 1]
  assert examples == sum((per_epoch * 4)[:4])
  assert describe.describe(config)["flops_per_step"] > 0


@pytest.mark.parametrize(
  ("name", "field", "value", "message"),
  [
    ("demo:tiny", "system", "sasrec", "start from --config=sasrec, with --config.data"),
    ("sasrec:tiny", "input.history", 0, "input.history is 0; it must be at least 1"),
    ("bsarec:tiny", "model.num_heads", 3, "d_model 32 does not divide over .* 3"),
    ("sasrec:tiny", "train.loss", "bce", "choose one of full, sampled, binary"),
    ("bsarec:tiny", "model.mix", 1.5, "from 0 to 1"),
  ],
)
def test_what_cannot_be_built_is_refused_in_a_line(name, field, value, message):
  with pytest.raises(UserError, match=message):
    config_lib.check(config_lib.load(name, overrides={field: value}))
