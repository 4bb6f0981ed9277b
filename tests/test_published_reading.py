"""From raw lines to a log, against plain Python; where every line went."""

from collections import Counter, defaultdict
import dataclasses
import gzip
import json

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import polars
import pytest
import raw_files as raw

from lightlm_jax.data.published import raw_files, reading, sources
from lightlm_jax.runtime.errors import UserError

TOYS = dataclasses.replace(sources.SOURCES["toys"], published=None)
GAMES = dataclasses.replace(sources.SOURCES["amazon2023-Video_Games"], published=None)
YELP = dataclasses.replace(sources.SOURCES["yelp"], published=None)
ML_1M = dataclasses.replace(sources.SOURCES["ml-1m"], published=None)

FEW = st.sampled_from("abcdefg")
EVENTS = st.lists(st.tuples(FEW, FEW, st.integers(0, 9)), min_size=1, max_size=60)


def rows(log):
  """Raw user → [(time, raw item), …], oldest first."""
  found = {}
  for user, item, _, seconds in log.iter_rows():
    found.setdefault(user, []).append((seconds, item))
  return found


def core_by_hand(events, k):
  """As the published preparation does: whoever has too few goes, until nobody does."""
  while True:
    users, items = Counter(e[0] for e in events), Counter(e[1] for e in events)
    left = [e for e in events if users[e[0]] >= k and items[e[1]] >= k]
    if left == events:
      return events
    events = left


def expected(events):
  found = defaultdict(list)
  for user, item, time in events:
    found[user].append((time, item))
  # Python's sort is stable: equal times stay as the file has them.
  return {user: sorted(row, key=lambda pair: pair[0]) for user, row in found.items()}


@settings(max_examples=40)
@given(events=EVENTS, core=st.integers(0, 3))
def test_a_log_is_what_plain_python_makes_of_it(tmp_path_factory, events, core):
  path = tmp_path_factory.mktemp("raw") / raw.REVIEWS
  raw.write(path, [raw.review_2014(*event) for event in events])
  source = dataclasses.replace(TOYS, core=core)
  kept = core_by_hand(events, core) if core else events
  if not kept:
    with pytest.raises(UserError, match="no interaction is left"):
      reading.read_log(source, path)
    return
  log, tally, tied = reading.read_log(source, path)
  assert rows(log) == expected(kept)
  order = [event[0] for event in events]
  users = log["user"].unique(maintain_order=True).to_list()
  assert users == sorted({event[0] for event in kept}, key=order.index)
  assert set(log["item"]) == {event[1] for event in kept}
  assert log.schema["seconds"] == polars.Int64
  assert tally.lines == len(events) == tally.kept + tally.filtered.total()
  assert reading.counts(log).interactions == tally.kept == len(kept)
  moments = Counter((user, time) for user, _, time in kept)
  assert tied == sum(count for count in moments.values() if count > 1)


@settings(max_examples=30)
@given(EVENTS)
def test_of_repeated_ratings_the_earliest_counts(tmp_path_factory, events):
  path = tmp_path_factory.mktemp("raw") / "Video_Games.jsonl"
  # Milliseconds of two seconds, so that the clock's fine order has to survive.
  events = [(user, item, 100_000 + 150 * time) for user, item, time in events]
  raw.write(path, [raw.review_2023(*event) for event in events])
  log, tally, _ = reading.read_log(dataclasses.replace(GAMES, core=0), path)
  first = {}
  for user, item, time in sorted(events, key=lambda event: event[2]):
    first.setdefault((user, item), time)
  by_user = expected([(*pair, time) for pair, time in first.items()])
  for user, row in rows(log).items():
    assert Counter(item for _, item in row) == Counter(i for _, i in by_user[user])
    assert [time for time, _ in row] == [time // 1_000 for time, _ in by_user[user]]
    if len({time for time, _ in by_user[user]}) == len(row):
      assert [item for _, item in row] == [item for _, item in by_user[user]]
  assert tally.filtered["rated before"] == len(events) - len(first)


def test_the_raw_reviews_of_2023_and_their_core_are_one_log(tmp_path):
  """What is offered as 5-core is what the raw lines give after the same filters."""
  rng = np.random.default_rng(0)
  events = [
    (f"U{u}", f"B{i}", int(t))
    for u, i, t in zip(
      rng.integers(9, size=200),
      rng.integers(9, size=200),
      rng.integers(10**12, size=200),
    )
  ]
  whole = raw.write(
    tmp_path / "Video_Games.jsonl.gz", [raw.review_2023(*event) for event in events]
  )
  log, *_ = reading.read_log(GAMES, whole)
  offered = ["user_id,parent_asin,rating,timestamp"]
  seen, kept = set(), []
  for user, item, time in sorted(events, key=lambda event: event[2]):
    if (user, item) not in seen:
      seen.add((user, item))
      kept.append((user, item, time))
  offered += [f"{u},{i},5.0,{t}" for u, i, t in core_by_hand(kept, 5)]
  csv = raw.write(tmp_path / "Video_Games.csv.gz", offered)
  other, tally, _ = reading.read_log(GAMES, csv)
  assert rows(log) == rows(other)
  assert tally.filtered == {"names or nothing": 1}


def test_yelp_is_cut_to_2019_as_published(tmp_path):
  dates = (
    "2018-12-31 23:59:59",
    "2019-01-01 00:00:00",
    "2019-12-31 00:00:00",
    "2019-12-31 00:00:01",
  )
  lines = [raw.review_yelp("u", f"b{n}", date) for n, date in enumerate(dates)]
  # A place that was visited again counts again.
  lines.append(raw.review_yelp("u", "b1", "2019-06-01 12:00:00"))
  path = raw.write(tmp_path / YELP.ratings.name, lines)
  log, tally, _ = reading.read_log(dataclasses.replace(YELP, core=0), path)
  assert [item for _, item in rows(log)["u"]] == ["b1", "b1", "b2"]
  assert tally.filtered == {"too early": 1, "too late": 1}


def test_every_line_is_kept_filtered_or_rejected(tmp_path):
  good = raw.block("uvwxy", "abcde")
  lines = [raw.review_2014(*event) for event in [*good, ("z", "a", 5)]]
  lines[3:3] = ["", "{not JSON", raw.review_2014("u", "a", "late"), " ", "{}"]
  path = raw.write(tmp_path / raw.REVIEWS, lines)
  log, tally, _ = reading.read_log(TOYS, path)
  assert rows(log) == expected(good)
  assert tally.lines == len(lines)
  assert tally.kept == len(good)
  assert tally.filtered == {"names or nothing": 2, "below 5-core": 1}
  assert tally.rejected == {"not JSON": 1, "no unixReviewTime": 1, "no reviewerID": 1}
  assert tally.kept + tally.filtered.total() + tally.rejected.total() == tally.lines
  assert str(tally) == (
    "3 of 31 lines cannot be read (1 not JSON, 1 no unixReviewTime, 1 no reviewerID; "
    "line 5: not JSON, line 6: no unixReviewTime, line 8: no reviewerID)"
  )
  assert reading.Tally(**json.loads(json.dumps(vars(tally)))) == tally


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_line_too_long_is_one_line(tmp_path, monkeypatch, number):
  monkeypatch.setattr(raw_files, "LONGEST", 1_000)
  lines = ["u::a::5::1", "u::b::5::2"]
  lines.insert(number, "v::" + "x" * 5_000)
  log, tally, _ = reading.read_log(ML_1M, raw.write(tmp_path / "ratings.dat", lines))
  assert rows(log) == {"u": [(1, "a"), (2, "b")]}
  assert tally.rejected == {"too long": 1}
  assert tally.first == [f"line {number + 1}: too long"]
  assert tally.lines == 3


@pytest.mark.parametrize("ending", ["", "\n"])
def test_a_line_of_the_longest_length(tmp_path, monkeypatch, ending):
  line = b"u::a::5::1"
  monkeypatch.setattr(raw_files, "LONGEST", len(line) + 1)
  (tmp_path / "ratings.dat").write_bytes(line + b"\n" + line + ending.encode())
  log, tally, _ = reading.read_log(ML_1M, tmp_path / "ratings.dat")
  assert reading.counts(log).interactions == tally.lines == 2


@pytest.mark.parametrize("name", ["ml-1m.zip", "ratings.dat", "ratings.dat.gz"])
def test_packed_and_unpacked_are_one_log(tmp_path, name):
  lines = ["1::661::3::978302109", "1::914::3::978301968", "2::661::4::978301968"]
  if name == "ml-1m.zip":
    members = {"ml-1m/README": ["x"], "ml-1m/ratings.dat": lines}
    path = raw.pack(tmp_path / name, members)
  else:
    path = raw.write(tmp_path / name, lines)
  log, *_ = reading.read_log(ML_1M, path)
  assert rows(log)["1"] == [(978_301_968, "914"), (978_302_109, "661")]
  assert reading.counts(log) == (2, 2, 3)


def test_a_damaged_file_is_one_line(tmp_path):
  path = raw.write(
    tmp_path / raw.REVIEWS,
    [raw.review_2014(*e) for e in raw.block("uvwxyz" * 20, "abcdefg")],
  )
  whole = path.read_bytes()
  middle = len(whole) // 2
  for spoiled in (whole[:middle], whole[:middle] + b"\0" * 50 + whole[middle + 50 :]):
    path.write_bytes(spoiled)
    with pytest.raises(UserError, match="damaged or cut off after") as error:
      reading.read_log(TOYS, path)
    assert "fetch it again" in str(error.value)
  path.write_bytes(gzip.compress(b""))
  with pytest.raises(UserError, match="is not Amazon Reviews 2014, Toys_and_Games"):
    reading.read_log(TOYS, path)
  path.write_text("<html>\n<p>404 Not Found\n</html>\n")  # what a browser may save
  with pytest.raises(UserError, match="3 of 3 lines cannot be read"):
    reading.read_log(TOYS, path)
  archive = raw.pack(tmp_path / "ml-1m.zip", {"ml-20m/ratings.csv": ["1,2,3,4"]})
  with pytest.raises(UserError, match=r"damaged.*ml-1m/ratings\.dat"):
    reading.read_log(ML_1M, archive)


def test_another_size_than_published_is_an_error_with_both(tmp_path):
  path = raw.write(
    tmp_path / raw.REVIEWS,
    [raw.review_2014(*e) for e in raw.block("uvwxy", "abcdef")] + ["{"],
  )
  published = dataclasses.replace(TOYS, published=sources.Counts(5, 6, 30))
  log, *_ = reading.read_log(published, path)
  assert log.equals(reading.read_log(TOYS, path)[0])
  for counts in ((6, 6, 30), (5, 5, 30), (5, 6, 29)):
    other = dataclasses.replace(TOYS, published=sources.Counts(*counts))
    with pytest.raises(UserError) as error:
      reading.read_log(other, path)
    assert "it has 5 users / 6 items / 30 interactions" in str(error.value)
    users, items, interactions = counts
    both = f"published one {users} users / {items} items / {interactions}"
    assert both in str(error.value)
    assert "1 of 31 lines cannot be read (1 not JSON; line 31: not JSON)" in str(
      error.value
    )


def test_items_of_the_log_alone_and_each_once(tmp_path):
  lines = [raw.meta_2014(asin, title=f"the {n}") for n, asin in enumerate("abca")]
  lines.insert(2, "{'asin': ")
  path = raw.write(tmp_path / raw.META, lines)
  found, tally = reading.read_items(TOYS, path, ["c", "a", "z"])
  assert {item: said.title for item, said in found.items()} == {
    "a": "the 0",
    "c": "the 2",
  }
  assert tally.filtered == {"not in the log": 1, "named before": 1}
  assert tally.rejected == {"not a Python literal": 1}
  assert tally.lines == tally.kept + tally.filtered.total() + tally.rejected.total()
  with pytest.raises(UserError, match="names none of the 1 items of toys"):
    reading.read_items(TOYS, path, ["q"])


def test_every_source_has_its_own_name_and_files():
  assert {"toys", "beauty", "sports", "yelp", "ml-1m", "ml-100k"} < set(sources.SOURCES)
  addresses = [s.ratings.url for s in sources.SOURCES.values() if s.ratings.url]
  assert len(set(addresses)) == len(addresses) == len(sources.SOURCES) - 1
  for name, source in sources.SOURCES.items():
    assert source.name == name
    assert source.ratings.url or source.by_hand
    assert {"\\", "/", " "}.isdisjoint(name)
