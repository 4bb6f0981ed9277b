"""The evaluator against brute force over Python lists and sets."""

from compiled import Listed, Scored, without_scores
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lightlm_jax.data import formats, splits
from lightlm_jax.data.splits import Requests
from lightlm_jax.decoding import allowed as allowed_lib
from lightlm_jax.decoding.allowed import Recommendations
from lightlm_jax.evaluation import evaluator
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.systems import item_scores
from lightlm_jax.systems.base import Built, in_catalogue_order

NUM_ITEMS = 60
NUM_USERS = 9


@pytest.fixture(autouse=True)
def strict():
  with jax.numpy_rank_promotion("raise"), jax.transfer_guard("disallow"):
    yield


def make_requests(rows):
  """Requests from (user, history, target)."""
  users, histories, targets = zip(*rows)
  return Requests(
    user_N=np.array(users, np.int32),
    offset_N1=np.cumsum([0] + [len(h) for h in histories]),
    item_E=np.array([item for h in histories for item in h], np.int32),
    target_N=np.array(targets, np.int32),
  )


def random_rows(seed, num_rows=53):
  """Histories of 0 to 12 items with repeats, targets inside and outside of them."""
  rng = np.random.default_rng(seed)
  rows = []
  for _ in range(num_rows):
    history = rng.choice(NUM_ITEMS // 3, size=rng.integers(0, 13)).tolist()
    rows.append((int(rng.integers(NUM_USERS)), history, int(rng.integers(NUM_ITEMS))))
  # More distinct items than the first two buckets of exclusions hold.
  rows.append((3, rng.permutation(NUM_ITEMS)[:45].tolist() * 2, 7))
  rows.append((4, [5, 6, 5], 5))
  return rows


def make_scores(rng):
  """Few distinct values, so that most targets are level with other items."""
  return {
    "user": rng.integers(0, 3, (NUM_USERS, NUM_ITEMS)).astype(np.float32),
    "last": rng.integers(0, 3, (NUM_ITEMS + 1, NUM_ITEMS)).astype(np.float32),
    "third": rng.integers(0, 3, (NUM_ITEMS + 1, NUM_ITEMS)).astype(np.float32),
  }


def scores(params, tables, batch):
  """Reads the user, the last item and the last but two: alignment and cut show."""
  last_B, third_B = batch.history_BH[:, -1], batch.history_BH[:, -3]
  by_history_BI = params["last"][last_B] + params["third"][third_B]
  return params["user"][batch.user_B] + by_history_BI + tables["bonus"][None]


def oracle_scores(params, bonus, user, history):
  last = history[-1] if history else -1
  third = history[-3] if len(history) > 2 else -1
  return params["user"][user] + params["last"][last] + params["third"][third] + bonus


def scoring_system(seed):
  rng = np.random.default_rng(seed)
  host = make_scores(rng), rng.integers(0, 2, NUM_ITEMS).astype(np.float32)
  params, bonus = jax.device_put(host)
  system = Scored(max_history=3, function=scores)
  return Built(system, {"bonus": bonus}, rng.permutation(NUM_ITEMS)), params, *host


def ranks_by_hand(score_I, history, target):
  """The (rank, ties) of each rule, straight from the definition."""
  result = {}
  for rule, gone in (("seen_excluded", set(history)), ("seen_allowed", set())):
    others = [score_I[i] for i in range(NUM_ITEMS) if i not in gone | {target}]
    above = sum(score > score_I[target] for score in others)
    level = sum(score == score_I[target] for score in others)
    result[rule] = (0, 0) if target in gone else (1 + above, level)
  return result


def evaluate(system, params, requests, **arguments):
  arguments = {"num_items": NUM_ITEMS, "batch_size": 16} | arguments
  return evaluator.evaluate(system, params, requests, **arguments)


def as_pairs(ranks):
  return list(zip(ranks.rank_N.tolist(), ranks.ties_N.tolist()))


@pytest.mark.parametrize("batch_size", [1, 8, 16, 64])
def test_counts_equal_brute_force(batch_size):
  system, params, host_params, bonus = scoring_system(seed=0)
  rows = random_rows(seed=1)
  ranks = evaluate(system, params, make_requests(rows), batch_size=batch_size)
  by_hand = [
    ranks_by_hand(oracle_scores(host_params, bonus, user, history), history, target)
    for user, history, target in rows
  ]
  for rule in evaluator.RULES:
    assert as_pairs(ranks[rule]) == [expected[rule] for expected in by_hand]
    assert ranks[rule].rank_N.dtype == ranks[rule].ties_N.dtype == np.int32


def test_lists_hold_the_best_open_items():
  system, params, host_params, bonus = scoring_system(seed=0)
  rows = random_rows(seed=1)
  ranks = evaluate(system, params, make_requests(rows), k=NUM_ITEMS + 3)
  for rule, found in ranks.items():
    assert found.items_NK.shape == (len(rows), NUM_ITEMS + 3)
    for items_K, (user, history, _) in zip(found.items_NK, rows):
      score_I = oracle_scores(host_params, bonus, user, history)
      closed = set(history) if rule == "seen_excluded" else set()
      best = sorted(set(range(NUM_ITEMS)) - closed, key=lambda i: (-score_I[i], i))
      assert items_K.tolist() == best + [-1] * (NUM_ITEMS + 3 - len(best))
  short = evaluate(system, params, make_requests(rows), k=4)
  without = evaluate(system, params, make_requests(rows), lists=False)
  for rule, found in ranks.items():
    assert (short[rule].items_NK == found.items_NK[:, :4]).all()
    assert without[rule].items_NK is None
    assert as_pairs(without[rule]) == as_pairs(found)


def test_a_shelf_is_a_catalogue_of_its_own():
  """Closed items are neither above nor level with a target, nor in a list."""
  system, params, host_params, bonus = scoring_system(seed=0)
  rows = random_rows(seed=1)
  requests = make_requests(rows)
  allowed_I = np.random.default_rng(5).random(NUM_ITEMS) < 0.4
  closed = set(np.flatnonzero(~allowed_I).tolist())
  found = evaluate(system, params, requests, allowed_I=allowed_I, k=NUM_ITEMS)
  for n, (user, history, target) in enumerate(rows):
    score_I = oracle_scores(host_params, bonus, user, history)
    for rule, gone in (("seen_excluded", set(history)), ("seen_allowed", set())):
      others = [score_I[i] for i in range(NUM_ITEMS) if i not in gone | closed]
      expected = (
        1 + sum(score > score_I[target] for score in others),
        sum(score == score_I[target] for score in others) - 1,
      )
      if target in gone | closed:
        expected = (0, 0)
      assert as_pairs(found[rule])[n] == expected
      items_K = found[rule].items_NK[n]
      assert set(items_K[items_K >= 0].tolist()) == (
        set(range(NUM_ITEMS)) - gone - closed
      )


def test_a_shelf_of_a_generative_system():
  """Where no two scores are level, the place in the list is the rank."""
  system, params, *_ = scoring_system(seed=0)
  requests = make_requests(random_rows(seed=1))
  allowed_I = np.random.default_rng(5).random(NUM_ITEMS) < 0.4
  unlike_UI = jax.device_put(np.linspace(0, 0.5, NUM_ITEMS, dtype=np.float32)[None])
  unlike = params | {"user": params["user"] + unlike_UI}
  in_order = system._replace(rank_I=np.arange(NUM_ITEMS))
  finder = without_scores(in_order)
  as_scores = evaluate(in_order, unlike, requests, allowed_I=allowed_I)
  as_lists = evaluate(finder, unlike, requests, allowed_I=allowed_I, k=NUM_ITEMS)
  for rule in evaluator.RULES:
    assert as_scores[rule].ties_N.max() == 0
    assert as_scores[rule].rank_N.tolist() == as_lists[rule].rank_N.tolist()


def test_a_mesh_changes_nothing():
  system, params, *_ = scoring_system(seed=0)
  requests = make_requests(random_rows(seed=1))
  devices = jax.device_count()
  axis_types = (jax.sharding.AxisType.Auto,)
  mesh = jax.make_mesh((devices,), ("data",), axis_types=axis_types)
  alone = evaluate(system, params, requests)
  shared = evaluate(system, params, requests, mesh=mesh, batch_size=2 * devices)
  for rule in evaluator.RULES:
    assert as_pairs(alone[rule]) == as_pairs(shared[rule])
    assert (alone[rule].items_NK == shared[rule].items_NK).all()
  one_rule = evaluate(system, params, requests, rules=["seen_allowed"])
  assert list(one_rule) == ["seen_allowed"]
  assert as_pairs(one_rule["seen_allowed"]) == as_pairs(alone["seen_allowed"])


def test_other_parameters_and_tables_compile_nothing():
  traced = []

  def counted(params, tables, batch):
    traced.append(batch.history_BH.shape)
    return scores(params, tables, batch)

  requests = make_requests([(0, [1, 2], 3)] * 5)
  for seed in range(3):
    system, params, *_ = scoring_system(seed)
    watched = Scored(max_history=3, function=counted)
    evaluate(system._replace(system=watched), params, requests)
  assert traced == [(16, 3)]


def generative_system():
  """Spoils slots 1 and 2 of good lists with a repeat and an invalid beam."""

  def recommend(params, tables, batch, allowed, *, k):
    open_BI = item_scores.allowed_items(allowed, len(tables["rank"]))[:, tables["rank"]]
    best = item_scores.top_items(params["user"][batch.user_B], open_BI, k)
    items_BK = best.items_BK.at[:, 1].set(best.items_BK[:, 0])
    return Recommendations(items_BK, best.scores_BK, best.valid_BK.at[:, 2].set(False))

  rng = np.random.default_rng(5)
  rank_I = rng.permutation(NUM_ITEMS)
  order_UI = rng.permuted(np.tile(np.arange(NUM_ITEMS), (NUM_USERS, 1)), axis=1)
  params, tables = jax.device_put(
    ({"user": order_UI.astype(np.float32)}, {"rank": rank_I})
  )
  return Built(Listed(function=recommend), tables, rank_I), params, order_UI


@pytest.mark.parametrize("k", [20, NUM_ITEMS + 10])
def test_a_generative_system_is_ranked_by_its_slots(k):
  system, params, order_UI = generative_system()
  rows = random_rows(seed=2)
  ranks = evaluate(system, params, make_requests(rows), k=k)
  for rule in evaluator.RULES:
    expected = []
    for user, history, target in rows:
      gone = set(history) if rule == "seen_excluded" else set()
      best = [i for i in np.argsort(-order_UI[user]).tolist() if i not in gone][:k]
      best[1:3] = [best[0], None]
      expected.append((best.index(target) + 1 if target in best else 0, 0))
    assert as_pairs(ranks[rule]) == expected
    assert any(rank for rank, _ in expected)


def test_nan_is_an_error_that_names_the_user():
  system, _, host_params, _ = scoring_system(seed=0)
  host_params["user"][6, 11] = np.nan
  broken = jax.device_put(host_params)
  rows = [(user, [user], 20) for user in range(NUM_USERS)]
  with pytest.raises(UserError, match=r"NaN.*user index 6"):
    evaluate(system, broken, make_requests(rows), batch_size=4)
  user_ids = np.array([f"u{9 - user}" for user in range(NUM_USERS)])
  with pytest.raises(UserError, match=r"NaN.*first for user u3;"):
    evaluate(system, broken, make_requests(rows), user_ids=user_ids)
  evaluate(system, broken, make_requests(rows[:6]))


def test_mistakes_get_one_line():
  system, params, *_ = scoring_system(seed=0)
  requests = make_requests([(0, [1], 2)])
  with pytest.raises(UserError, match="no requests"):
    evaluate(system, params, requests.take(np.array([], dtype=np.int64)))
  # No device is touched before the complaint, so that any mesh of this shape will do.
  mesh = jax.sharding.AbstractMesh((8,), ("data",))
  with pytest.raises(UserError, match=r"12 requests.*8 devices"):
    evaluate(system, params, requests, mesh=mesh, batch_size=12)


def test_what_was_seen_is_excluded_by_rank():
  requests = make_requests([(7, [1, 2, 3, 4, 3, 3], 9), (8, [], 5)])
  rank_I = np.arange(10)[::-1]
  row_P, item_P = allowed_lib.seen_items(requests, np.array([1, 0]))
  excluded_BE = allowed_lib.exclusions(row_P, item_P, rank_I=rank_I, batch_size=3)
  assert excluded_BE.tolist() == [[10] * 8, [5, 6, 7, 8] + [10] * 4, [10] * 8]


def test_exclusions_have_few_widths():
  widths = [allowed_lib.exclusion_width(n) for n in (0, 8, 9, 512, 513, 2049)]
  assert widths == [8, 8, 32, 512, 2048, 8192]


def test_summaries_are_of_both_rules():
  ranks = {
    "seen_excluded": evaluator.Ranks(np.array([0, 1]), np.array([0, 0])),
    "seen_allowed": evaluator.Ranks(np.array([2, 1]), np.array([0, 1])),
  }
  summary = evaluator.summarise_rules(ranks)
  assert summary["seen_excluded"]["hr@5"] == 0.5
  assert summary["seen_allowed"]["mrr@10"] == 0.625


def test_on_yelp_a_repeated_target_is_a_miss_where_seen_items_are_excluded(data_dir):
  """The strict rule: even who knows every target cannot be shown to hit them all."""
  log = formats.read_sequences(data_dir / "yelp" / "sequences.txt")
  pairs = log.user_E.astype(np.int64) * log.num_items + log.item_E
  assert len(pairs) - len(np.unique(pairs)) == 11_830
  split = splits.leave_one_out(log)
  test = split.test
  target_NP = test.user_N.astype(np.int64) * log.num_items + test.target_N
  train_E = split.train.user_E.astype(np.int64) * log.num_items + split.train.item_E
  assert np.isin(target_NP, train_E).sum() == 1_539
  seen_N = test.repeated_N
  assert seen_N.sum() == 2_027  # with those who had it as their validation item

  def tell(params, tables, batch, allowed, *, k):
    items_BK = jnp.pad(
      batch.target_B[:, None], ((0, 0), (0, k - 1)), constant_values=-1
    )
    first_BK = jnp.broadcast_to(jnp.arange(k)[None] == 0, items_BK.shape)
    return Recommendations(items_BK, first_BK.astype(jnp.float32), first_BK)

  system = Listed(max_history=1, function=tell)
  oracle = in_catalogue_order(system, (), log.num_items)
  ranks = evaluate(oracle, (), test, num_items=log.num_items, batch_size=2_048)
  assert ranks["seen_allowed"].rank_N.tolist() == [1] * len(test)
  assert (ranks["seen_excluded"].rank_N == ~seen_N).all()
