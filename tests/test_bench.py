"""The command `bench`: what it times agrees, and its report holds what it promises."""

import gc
import json
import os
import subprocess
import sys
import textwrap

from conftest import ROOT
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lightlm_jax.benchmarks import (
  catalogue,
  end_to_end,
  l2d,
  ours,
  peers,
  timing,
  transition,
)
from lightlm_jax.decoding import beam
from lightlm_jax.decoding.allowed import Allowed
from lightlm_jax.models import encoder_decoder
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.systems.token_sequences import START

OURS = {
  name: make
  for name, make in transition.IMPLEMENTATIONS.items()
  if make.__module__ == ours.__name__
}


@pytest.mark.parametrize("name", transition.IMPLEMENTATIONS)
def test_every_implementation_agrees_with_the_dict_trie_at_every_level(name):
  assert transition.disagreement(transition.IMPLEMENTATIONS[name], depth=3) is None


def test_both_forms_of_the_trie_are_compared():
  """By lists, by masks and by both, or the comparison would miss a form."""
  code_IL = catalogue.random_codes(600, 50, 3)
  forms = {
    name: [level.mask_NW is not None for level in make(code_IL, 50).trie.levels]
    for name, make in OURS.items()
  }
  assert forms["sparse"] == forms["shared mask"] == [False] * 3
  assert forms["hybrid"] == forms["hybrid, 20 exclusions"] == [True, True, False]
  assert forms["dense"] == [True] * 3


@pytest.mark.parametrize("name", OURS)
def test_the_steps_are_those_of_the_search(name):
  """`ours` takes the search apart; together its levels still find the same items."""
  B, K, V, depth = 3, 8, 50, 2
  code_IL = catalogue.random_codes(600, V, depth)
  subject = OURS[name](code_IL, V)
  logits = [
    jax.random.normal(jax.random.key(level), (B, K if level else 1, V))
    for level in range(depth)
  ]
  state = subject.start(B)
  allowed = Allowed(subject.prefix_MI1, jnp.zeros(B, jnp.int32), state.excluded_BE)

  @jax.jit
  def search(trie, logits, allowed):
    return beam.search(
      lambda token_BK, parent_BK, level: (logits[level], level + 1),
      0,
      trie,
      allowed,
      beam.Options(beam_size=K, start_token=START, length_penalty=0.0),
      B=B,
    )

  beams = search(subject.trie, logits, allowed)
  step = transition.compiled(subject, "step")
  for level in range(depth):
    log_prob_BKV = jax.nn.log_softmax(logits[level])
    score_BK, parent_BK, token_BK, state = step(level, state, log_prob_BKV, K)
  np.testing.assert_allclose(score_BK, beams.log_prob_BK, rtol=1e-6)
  for mine, searched in (
    (state.node_BK, beams.state_BK),
    (parent_BK, beams.parent_BK),
    (token_BK, beams.token_BK),
  ):
    np.testing.assert_array_equal(mine, searched)
  open_BI = subject.open_items(B)
  item_BK = np.asarray(subject.trie.item_R)[state.node_BK]
  assert np.take_along_axis(open_BI, item_BK, axis=1).all()
  filtered = name in ("hybrid, 20 exclusions", "shared mask")
  assert open_BI.all() != filtered


def other_scores(log_prob_BKV, score_BK, parent_BK, token_BK):
  return score_BK + np.float32(1e-3), parent_BK, token_BK


def other_parents(log_prob_BKV, score_BK, parent_BK, token_BK):
  return score_BK, parent_BK[:, ::-1], token_BK


def other_tokens(log_prob_BKV, score_BK, parent_BK, token_BK):
  return score_BK, parent_BK, token_BK ^ 1


def one_beam_less(log_prob_BKV, score_BK, parent_BK, token_BK):
  return score_BK[:, :-1], parent_BK[:, :-1], token_BK[:, :-1]


def no_trie(log_prob_BKV, score_BK, parent_BK, token_BK):
  B, K, V = log_prob_BKV.shape
  flat_BX = np.asarray(log_prob_BKV).reshape(B, K * V)
  flat_BK = np.argsort(-flat_BX, axis=1)[:, :8]
  return np.take_along_axis(flat_BX, flat_BK, axis=1), flat_BK // V, flat_BK % V


@pytest.mark.parametrize(
  ("slip", "complaint"),
  [
    (lambda _, *beams: beams, None),
    (other_scores, "has other scores at level 0, by up to 1.0e-03"),
    (other_parents, "has other beams at level 1"),
    (other_tokens, "has other beams at level 0"),
    (one_beam_less, "has another number of beams at level 0"),
    (no_trie, "has other scores at level"),
  ],
)
def test_a_wrong_step_is_told_by_its_level(slip, complaint):
  class Peer(peers.DictTrie):
    def step(self, level, state, log_prob_BKV, width):
      *beams, state = super().step(level, state, log_prob_BKV, width)
      return *slip(log_prob_BKV, *beams), state

  def make(code_IL, vocab_size):
    return Peer([peers.root(code_IL)])

  found = transition.disagreement(make, depth=3)
  assert found == complaint or found.startswith(complaint)


def test_what_is_no_pytree_is_one_line():
  class Peer:
    pass

  with pytest.raises(UserError, match="Peer is no pytree; make it a NamedTuple or"):
    transition.compiled(Peer(), "step")


def test_too_large_an_index_is_a_note(monkeypatch):
  monkeypatch.setattr(ours, "DENSE_BYTES", 1000)
  monkeypatch.setattr(peers, "MOST_IN_DICTS", 100)
  names = "dense", "dict trie"
  found = transition.run(
    {name: lambda c, v, name=name: make_small(name, c, v) for name in names},
    sizes=(200,),
    depths=(2,),
    beams=(4,),
    batch=lambda width: 2,
    repeats=1,
    seconds=0,
  )
  assert not found["rows"]
  assert found["growth"] == found["filter_ratio"] == []
  assert [note.partition(",")[0] for note in found["notes"]] == [
    "dense: skipped",
    "dict trie: skipped",
  ]


def make_small(name, code_IL, vocab_size):
  """What the check is given may be made; what is timed is too large."""
  if vocab_size < transition.VOCAB_SIZE:
    return ours.sparse(code_IL, vocab_size)
  return transition.IMPLEMENTATIONS[name](code_IL, vocab_size)


@pytest.mark.parametrize(
  ("number", "vocab_size", "depth"), [(32, 8, 2), (900, 5000, 6)]
)
def test_random_codes_are_distinct(number, vocab_size, depth):
  code_IL = catalogue.random_codes(number, vocab_size, depth)
  assert code_IL.shape == (number, depth)
  assert len(np.unique(code_IL, axis=0)) == number
  assert 0 <= code_IL.min() < code_IL.max() < vocab_size
  assert (code_IL == catalogue.random_codes(number, vocab_size, depth)).all()
  order = np.lexsort(code_IL.T[::-1])
  assert (np.diff(order) < 0).any(), "the catalogue is sorted"


def test_more_items_than_codes_is_one_line():
  with pytest.raises(UserError, match=r"33 random items need more .* up to 32"):
    catalogue.random_codes(33, 8, 2)


def test_a_time_leaves_out_the_first_call():
  calls = []
  time = timing.measure(lambda: calls.append(gc.isenabled()), repeats=4, seconds=0)
  assert len(calls) == 1 + time.repeats == 5
  assert calls == [True] + 4 * [False]
  assert gc.isenabled()
  assert time.best <= time.median
  slow = timing.measure(lambda: None, repeats=10**9, seconds=0, patience=0.01)
  assert slow.repeats < 10**9


def row(name, items, step, *, depth=4, beams=20):
  place = {"implementation": name, "depth": depth, "items": items, "beams": beams}
  return place | {"step": step}


def test_growth_and_filter_ratios_compare_like_with_like():
  rows = [
    row("hybrid", 10_000, 1.0),
    row("hybrid", 100_000, 2.0),
    row("hybrid", 10_000_000, 5.0),
    row("hybrid", 100_000, 9.0, beams=70),
    row("hybrid, 20 exclusions", 100_000, 3.0),
    row("a peer", 100_000, 4.0),
    row("a peer", 10_000_000, 12.0),
  ]
  place = {"depth": 4, "beams": 20, "from": 100_000, "to": 10_000_000}
  assert transition.growth_of(rows) == [
    {"implementation": "hybrid", **place, "step": 2.5},
    {"implementation": "a peer", **place, "step": 3.0},
  ]
  assert transition.growth_of(rows[:2])[0]["from"] == 10_000
  assert transition.filter_ratios(rows) == [
    {"depth": 4, "items": 100_000, "beams": 20, "step": 1.5}
  ]


PEER = """
  import flax.struct
  from lightlm_jax.benchmarks import ours

  right = ours.sparse

  @flax.struct.dataclass
  class Wrong:
    inner: ours.Ours

    def start(self, B):
      return self.inner.start(B)

    def step(self, level, state, log_prob_BKV, width):
      score_BK, *others = self.inner.step(level, state, log_prob_BKV, width)
      return score_BK + 1, *others

  def wrong(code_IL, vocab_size):
    return Wrong(ours.sparse(code_IL, vocab_size))
"""


def bench(*arguments, path=""):
  return subprocess.run(
    [sys.executable, "-m", "lightlm_jax.bench", *arguments],
    cwd=ROOT,
    env=os.environ | {"PYTHONPATH": path},
    capture_output=True,
    text=True,
    timeout=300,
  )


@pytest.mark.integration
def test_a_tiny_run_reports_and_draws_what_it_promises(tmp_path):
  (tmp_path / "a_peer.py").write_text(textwrap.dedent(PEER))
  done = bench(
    "decode",
    "--quick",
    "--platform=cpu",
    "--parts=a,b",
    "--sizes=200,400",
    "--beams=4",
    "--depths=2",
    "--batch=2",
    "--repeats=1",
    "--peer=a_peer:right",
    "--peer=a_peer:wrong",
    f"--report={tmp_path / 'report.json'}",
    f"--figure={tmp_path / 'a.png'}",
    path=str(tmp_path),
  )
  assert done.returncode == 0, done.stderr
  assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
  report = json.loads((tmp_path / "report.json").read_text())
  for said in (report["command"], "jax " + report["versions"]["jax"]):
    assert said in done.stdout
  assert report["command"].startswith("python -m lightlm_jax.bench decode --quick")
  assert (report["backend"], report["end_to_end"], report["t5"]) == ("cpu", [], None)

  found = report["transition"]
  names = {*transition.IMPLEMENTATIONS, "a_peer:right"}
  assert len(found["rows"]) == 2 * len(names)
  assert {row["implementation"] for row in found["rows"]} == names
  for row in found["rows"]:
    assert (row["depth"], row["beams"], row["rows"]) == (2, 4, 2)
    assert len(row["step_levels"]) == 2
    for time in row["step_levels"]:
      assert 0 < time["best"] <= time["median"]
      assert time["repeats"] >= 1
    mean = np.mean([time["best"] for time in row["step_levels"]])
    assert row["step"] == pytest.approx(mean)
    assert (row["bytes"] is None) == (row["implementation"] == "dict trie")
  assert {found["implementation"] for found in found["growth"]} == names
  assert {(f["from"], f["to"]) for f in found["growth"]} == {(200, 400)}
  assert [ratio["items"] for ratio in found["filter_ratio"]] == [200, 400]
  (note,) = found["notes"]
  assert note.startswith("a_peer:wrong: not timed, at depth 2 it has other scores")
  assert note in done.stdout

  assert [row["items"] for row in report["index"]] == [200, 400]
  for row in report["index"]:
    assert (
      row["list_bytes"] <= row["bytes"] == row["bytes_a_million"] * row["items"] / 1e6
    )
    assert row["seconds"] > 0
    assert row["peak_bytes"] >= 0


@pytest.mark.integration
@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["encode", "--quick"], "no command 'encode'; there is decode"),
    (["decode", "--beams=20,x"], "--beams=20,x is no list of numbers"),
    (["decode", "--peer=nowhere:make"], "--peer=nowhere:make: No module named"),
    (["decode", "--parts=b", "--figure=a.png"], "--figure draws part a"),
  ],
)
def test_a_slip_is_one_line(arguments, message):
  done = bench(*arguments)
  assert done.returncode == 2
  assert message in done.stderr
  assert len(done.stderr.splitlines()) == 1


def tiny():
  config = encoder_decoder.Config(
    V=40, W=5, D=16, N=1, num_decoder_layers=1, H=2, A=8, F=8
  )
  code_IL = catalogue.random_codes(100, 37, 2)
  return end_to_end.random_workload(
    "tiny", config, code_IL, source_length=6, beam_size=4
  )


@pytest.mark.slow
def test_end_to_end_divides_its_time(logged):
  (row,) = end_to_end.run(tiny, (2,), 1)
  assert len(logged) == 3
  assert row["batch"] == 2
  assert row["users_per_second"] == pytest.approx(1e3 / row["ms_a_user"])
  assert sum(row["breakdown"].values()) == pytest.approx(row["ms_a_user"])
  assert row["filter_ratio"] > 0


@pytest.mark.integration
def test_l2d_is_timed_against_beam_search(logged):
  (row,) = l2d.run(tiny(), (2,), 150, 1, lambda work, B: lambda: None)
  assert len(logged) == 3
  ms = row["ms_a_user"]
  assert ms.keys() == {"beam", "global", "local", "t5"}
  assert row["speedup_over_beam"]["global"] == ms["beam"] / ms["global"]
  assert (row["batch"], row["examples"]) == (2, 150)


@pytest.mark.slow
def test_t5_recommends_the_same(logged):
  pytest.importorskip("transformers", reason="no extra `parity`: no T5 was asked")
  from lightlm_jax.benchmarks import t5  # noqa: PLC0415

  report = t5.compare(tiny(), 3, 1)
  assert report["identical"] == 1
  assert len(logged) == 1
  assert report["ratio"] == pytest.approx(
    report["users_per_second"] / report["t5_users_per_second"]
  )
