"""Points, fronts and comparisons of a study, against brute force."""

import itertools

import numpy as np
import polars as pl
import pytest
import scipy.stats
import studies

from lightlm_jax.studies import findings, fronts, points, wording
from lightlm_jax.studies.points import DECIDING, LOSS


def one_family(**options):
  (family,) = studies.families(studies.rows(**options))
  return family


def test_points_are_means_over_seeds_in_the_order_of_the_table():
  found = studies.rows(depths=(4, 2), widths=(64,), ffns=(1.0,), seeds=(0, 1, 2))
  (family,) = studies.families([*found, studies.failed(found[0])])
  assert family.axes == ("depth",)
  assert family.names() == ["depth 4", "depth 2"]
  assert family.points["runs"].to_list() == [3, 3]
  losses = [row["validation_loss"] for row in found]
  for place, seeds in enumerate((losses[:3], losses[3:])):
    row = family.points.row(place, named=True)
    assert row["validation_loss"] == pytest.approx(np.mean(seeds))
    assert row["validation_loss:std"] == pytest.approx(np.std(seeds, ddof=1))
  within = [np.subtract(seeds, np.mean(seeds)) for seeds in (losses[:3], losses[3:])]
  spread = family.spread(LOSS)
  assert spread.freedom == 4
  assert spread.std == pytest.approx((np.square(within).sum() / 4) ** 0.5)


def test_families_part_data_sets_and_words_but_not_numbers():
  found = [
    row | {"dataset": dataset, "ids.kind": kind, "train.learning_rate": rate}
    for dataset in ("toys", "beauty")
    for kind in ("sci", "rid")
    for rate in (1e-3, 3e-3)
    for row in studies.rows(depths=(2,), widths=(32, 64), ffns=(1.0,))
  ]
  families = studies.families(found)
  assert [family.title for family in families] == [
    f"lightlm on {dataset}, ids.kind {kind}"
    for dataset in ("toys", "beauty")
    for kind in ("sci", "rid")
  ]
  assert all(f.axes == ("width", "train.learning_rate") for f in families)
  assert all(len(family.points) == 4 for family in families)


def test_two_seeds_are_compared_as_the_textbook_does():
  # With two points the pooled spread is that of the classic two-sample t-test.
  family = one_family(depths=(2, 4), widths=(64,), ffns=(1.0,), seeds=range(5))
  values = [
    family.runs.filter(pl.col("point") == place)[LOSS.column].to_numpy()
    for place in (0, 1)
  ]
  theirs = scipy.stats.ttest_ind(*values)
  ours = points.compare(family, LOSS, 0, 1)
  assert ours.p == pytest.approx(theirs.pvalue)
  interval = theirs.confidence_interval(0.95)
  np.testing.assert_allclose(ours.interval(), interval, rtol=1e-9)
  back = points.compare(family, LOSS, 1, 0)
  assert (back.value, back.half) == (-ours.value, ours.half)


def test_equal_points_are_seldom_told_apart_and_different_ones_are():
  rng = np.random.default_rng(0)
  told = 0
  for _ in range(60):
    found = studies.rows(depths=(2, 4, 8), widths=(64,), ffns=(1.0,), seeds=(0, 1))
    for row in found:
      row[LOSS.column] = 4 + 0.02 * rng.normal()
    (family,) = studies.families(found)
    pairs = list(itertools.combinations(range(3), 2))
    told += any(points.significant(family, LOSS, pairs))
  assert told <= 6  # Binomial(60, at most 0.05): more has a chance of 3 %
  family = one_family(depths=(2, 8), widths=(64,), ffns=(1.0,), noise=0.001)
  assert points.significant(family, LOSS, [(0, 1)]) == [True]
  alone = one_family(depths=(2, 8), widths=(64,), ffns=(1.0,), seeds=(0,))
  assert points.compare(alone, LOSS, 0, 1)[1:] == (None, None)
  assert points.significant(alone, LOSS, [(0, 1)]) == [False]


@pytest.mark.parametrize("lower", [True, False])
def test_the_front_is_what_no_other_beats(lower):
  rng = np.random.default_rng(0)
  for _ in range(200):
    P = rng.integers(1, 12)
    cost_P = rng.integers(0, 6, P).astype(float)
    value_P = rng.integers(0, 6, P).astype(float)
    cost_P[rng.random(P) < 0.1] = np.nan
    worth_P = value_P if lower else -value_P

    def beaten(p, cost_P=cost_P, worth_P=worth_P, P=P):
      return any(
        cost_P[q] <= cost_P[p]
        and worth_P[q] <= worth_P[p]
        and (cost_P[q] < cost_P[p] or worth_P[q] < worth_P[p])
        for q in range(P)
      )

    expected = [p for p in range(P) if np.isfinite(cost_P[p]) and not beaten(p)]
    found = fronts.pareto(cost_P, value_P, lower=lower)
    assert sorted(found) == expected
    assert (np.diff(cost_P[found]) >= 0).all()


def test_bins_are_the_fewest():
  rng = np.random.default_rng(1)
  for _ in range(60):
    values = np.exp(rng.normal(size=6))
    groups = fronts.bins(values, 1.5)
    assert sorted(np.concatenate(groups)) == list(range(6))
    assert all(values[g].max() <= 1.5 * values[g].min() for g in groups)
    ordered = np.sort(values)
    # Every way to cut the sorted values.
    fewest = min(
      sum(cuts) + 1
      for cuts in itertools.product((0, 1), repeat=5)
      if all(
        part[-1] <= 1.5 * part[0]
        for part in np.split(ordered, [n + 1 for n, cut in enumerate(cuts) if cut])
      )
    )
    assert len(groups) == fewest


def test_pairs_of_equal_parameters_are_all_there_are():
  family = one_family(depths=(1, 2, 4, 8), widths=(32, 64, 128), ffns=(0.25, 1, 4))
  rows = family.points.to_dicts()
  expected = set()
  for (a, one), (b, two) in itertools.permutations(enumerate(rows), 2):
    ratio = one["params_non_embedding"] / two["params_non_embedding"]
    shape = [(r["num_layers"], r["d_model"], r["d_ff"]) for r in (one, two)]
    if 1 / 1.1 <= ratio <= 1.1 and shape[0][0] > shape[1][0]:
      if shape[0][1] <= shape[1][1] and shape[0][2] <= shape[1][2]:
        expected.add((a, b))
  found = fronts.equal_size(family)
  assert set(found) == expected
  assert len(found) == len(expected) >= 5
  groups = fronts.equal_groups(family)
  assert sorted(p for g in groups for p in g) == sorted(
    {p for pair in found for p in pair}
  )
  assert all(any({*pair} <= {*g} for g in groups) for pair in found)


def test_pairs_share_all_other_axes():
  family = one_family(depths=(2, 8), widths=(32, 64), ffns=(1.0,), shares=(0.5, 1.0))
  pairs = fronts.equal_size(family)
  share = family.points["data.share"].to_list()
  assert len(pairs) == 2
  assert all(share[deep] == share[wide] for deep, wide in pairs)


def test_other_heads_are_other_points():
  rows = [
    row
    for heads in (2, 4)
    for row in studies.rows(
      depths=(2, 8), widths=(32, 64), ffns=(1.0,), extra={"model.num_heads": heads}
    )
  ]
  (family,) = studies.families(rows)
  heads = family.points["model.num_heads"].to_list()
  pairs = fronts.equal_size(family)
  assert len(pairs) == 2
  assert all(heads[deep] == heads[wide] for deep, wide in pairs)
  grids = fronts.grids(family)
  assert [grid.name for grid in grids] == ["model.num_heads 2", "model.num_heads 4"]
  assert all((grid.point_DW >= 0).all() for grid in grids)


def test_lines_of_feed_forwards_and_grids_hold_all_else_equal():
  family = one_family(depths=(2, 4), widths=(32, 64), ffns=(4.0, 0.25, 1.0))
  rows = family.points.to_dicts()
  lines = fronts.narrowing(family)
  shapes = [(rows[line[0]]["depth"], rows[line[0]]["width"]) for line in lines]
  assert shapes == [(depth, width) for depth in (2, 4) for width in (32, 64)]
  for (depth, width), line in zip(shapes, lines):
    d_ff = [rows[p]["d_ff"] for p in line]
    assert d_ff == [width / 4, width, 4 * width]
    assert {(rows[p]["depth"], rows[p]["width"]) for p in line} == {(depth, width)}
  grids = fronts.grids(family)
  assert [grid.name for grid in grids] == ["ffn 4", "ffn 0.25", "ffn 1"]
  for grid in grids:
    for (row, place), point in np.ndenumerate(grid.point_DW):
      found = rows[point]["depth"], rows[point]["width"]
      assert found == (grid.depths[row], grid.widths[place])
  less = one_family(depths=(2, 4), widths=(32, 64), ffns=(1.0,), shares=(0.5, 1.0))
  assert [grid.name for grid in fronts.grids(less)] == [
    "data.share 1",
    "data.share 0.5",
  ]
  ragged = studies.rows(depths=(2, 4), widths=(32, 64), ffns=(1.0,))[:-2]
  (grid,) = fronts.grids(studies.families(ragged)[0])
  assert grid.point_DW.tolist() == [[0, 1], [2, -1]]


def planted(best, noise=0.0, seeds=(0, 1, 2), draw=0):
  """Points of equal FLOPs whose loss is a parabola in log N."""
  found = studies.rows(depths=(1, 2, 4, 8, 16), widths=(64,), ffns=(1.0,), seeds=seeds)
  rng = np.random.default_rng(draw)
  for row in found:
    size = row["params_non_embedding"]
    row["train_flops"] = 1e15
    row[LOSS.column] = 4 + 0.1 * np.log(size / best) ** 2 + noise * rng.normal()
  return studies.families(found)[0]


def test_the_best_size_at_equal_flops_is_the_planted_one():
  sizes = planted(1e5).column("params_non_embedding")
  best = float(np.sqrt(sizes.min() * sizes.max())) * 1.3
  (exact,) = fronts.iso_flop(planted(best))
  assert exact.best_size == pytest.approx(best, rel=1e-6)
  np.testing.assert_allclose(exact.interval, best, rtol=1e-6)
  np.testing.assert_allclose(np.polyval(exact.curve, np.log(best)), 4, rtol=1e-9)
  intervals = [
    fronts.iso_flop(planted(best, 0.02, draw=n))[0].interval for n in range(40)
  ]
  held = sum(low <= best <= high for low, high in intervals)
  assert held >= 35  # Binomial(40, 0.95): fewer has a chance of 1 %
  (alone,) = fronts.iso_flop(planted(best, 0.02, seeds=(0,)))
  assert alone.best_size
  assert alone.interval is None
  (beyond,) = fronts.iso_flop(planted(3 * sizes.max()))
  assert beyond.reason == "the best size lies beyond the largest that was tried"
  (loud,) = fronts.iso_flop(planted(best, 1.0))
  assert loud.best_size is None
  # Three sizes fix a parabola whatever they are.
  assert not fronts.iso_flop(one_family(depths=(1, 2, 3), widths=(64,)))


def test_no_winner_is_named_where_seeds_do_not_tell():
  loud = findings.find(one_family(noise=0.05), resamples=5)
  assert {by.measure for by in loud.depth_width} == set(loud.measures)
  assert all(by.better is None for by in loud.depth_width)
  text = " ".join(wording.said(loud))
  assert "not significant" in text
  assert "is better." not in text
  alone = findings.find(one_family(seeds=(0,), noise=0), resamples=5)
  text = " ".join(wording.said(alone))
  assert "No point has a second seed" in text
  assert "is better." not in text
  assert "is significantly better than every" not in text
  # A deep one that is better by far more than seeds deviate.
  found = studies.rows(noise=0.001)
  for row in found:
    for name in row:
      if "@10" in name:
        row[name] *= 1 + 0.1 * row["depth"]
  clear = findings.find(studies.families(found)[0], resamples=5)
  text = " ".join(wording.said(clear))
  assert "depth 8 × width 32 × ffn 0.125 is better." in text
  assert clear.best.place == len(clear.family.points) - 1


def test_the_choice_is_by_validation_whatever_the_test_says():
  found = studies.rows(noise=0.001)
  plain = findings.find(studies.families(found)[0], resamples=5)
  for number, row in enumerate(found):
    for name in ("ndcg", "hr"):
      for rule in ("seen_excluded", "seen_allowed"):
        row[f"{name}@10_{rule}"] = 1 / (1 + number)  # the test turned round
  turned = findings.find(studies.families(found)[0], resamples=5)
  for field in ("best", "fronts", "depth_width", "narrowing", "iso_flop", "laws"):
    assert getattr(plain, field) == getattr(turned, field)


def test_laws_hold_the_other_variable_at_one_value():
  law = studies.LAW._replace(b=90.0, beta=0.4)
  family = one_family(seeds=(0,), shares=(0.1, 0.25, 0.5, 0.75, 1.0), law=law)
  found = findings.find(family, resamples=20)
  assert found.laws["parameters"].runs == 18
  assert found.laws["data"].runs == 5
  assert found.laws["both"].runs == 90
  low, high = found.laws["both"].intervals["alpha"]
  assert low <= law.alpha <= high
  alone = findings.find(one_family(), resamples=5)
  reason = "the number of training interactions has only one value"
  assert alone.laws["data"].reason == reason
  assert DECIDING in alone.measures
