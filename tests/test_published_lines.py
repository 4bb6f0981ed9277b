"""Lines of published files, in the makers' own forms; what no such line is."""

import json

from hypothesis import given
from hypothesis import strategies as st
import pytest
import raw_files as raw

from lightlm_jax.data.published import raw_rows as rows
from lightlm_jax.data.published.raw_rows import Item, Malformed, Rating

RATINGS = {
  "2014": (rows.amazon_2014_rating, raw.review_2014("A2SUAM1J3GNN3B", "0000013714", 7)),
  "2023, raw": (
    rows.amazon_2023_rating,
    raw.review_2023("A2SUAM1J3GNN3B", "0000013714", 7),
  ),
  "2023": (rows.amazon_2023_rating, "A2SUAM1J3GNN3B,0000013714,5.0,7"),
  "100k": (rows.movielens_100k_rating, "A2SUAM1J3GNN3B\t0000013714\t5\t7"),
  "1m": (rows.movielens_1m_rating, "A2SUAM1J3GNN3B::0000013714::5::7"),
}
PARSERS = (
  rows.amazon_2014_rating,
  rows.amazon_2023_rating,
  rows.amazon_2014_item,
  rows.amazon_2023_item,
  rows.yelp_rating,
  rows.yelp_item,
  rows.movielens_100k_rating,
  rows.movielens_1m_rating,
  rows.movielens_100k_item,
  rows.movielens_1m_item,
)


@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
@pytest.mark.parametrize("form", RATINGS)
def test_a_rating(form, end):
  parse, line = RATINGS[form]
  assert parse((line + end).encode()) == Rating("A2SUAM1J3GNN3B", "0000013714", 5.0, 7)


def test_the_names_above_a_csv_are_no_rating():
  names = b"user_id,parent_asin,rating,timestamp"
  assert rows.amazon_2023_rating(names + b"\r\n") is None
  assert rows.amazon_2023_rating(b"\xef\xbb\xbf" + names) is None


def test_times_of_2023_are_milliseconds():
  line = b"AEYV,B07JW9H4J1,5.0,1641648017857"
  assert rows.amazon_2023_rating(line).time == 1_641_648_017_857
  with pytest.raises(Malformed, match="no unixReviewTime"):
    rows.amazon_2014_rating(raw.review_2014("u", "i", 1_641_648_017_857).encode())


@pytest.mark.parametrize(
  ("date", "seconds"),
  [
    ("1970-01-01 00:00:00", 0),
    ("2019-01-01 00:00:00", 1_546_300_800),
    ("2019-12-13 15:51:19", 1_576_252_279),
  ],
)
def test_dates_of_yelp(date, seconds):
  found = rows.yelp_rating(raw.review_yelp("hG7b0MtEb", "ujmEBvifd", date).encode())
  assert found == Rating("hG7b0MtEb", "ujmEBvifd", 4.0, seconds)


@pytest.mark.parametrize(
  "date", [None, 5, "", "2019-12-13", "2019-13-01 00:00:00", "1969-12-31 23:59:59"]
)
def test_no_dates_of_yelp(date):
  with pytest.raises(Malformed, match="no date"):
    rows.yelp_rating(raw.review_yelp("u", "i", date).encode())


def test_an_item_of_2014():
  found = rows.amazon_2014_item(
    raw.meta_2014(
      "0000191639",
      paths=[["Toys & Games", "Puzzles", "Jigsaw"], ["Baby", "Puzzles", "Felt"]],
    ).encode()
  )
  assert found == Item(
    "0000191639",
    'Nursery Rhymes\' "Felt" Book',
    "Dr. Seuss",
    ("Puzzles", "Jigsaw", "Felt"),
    "Fractions and decimals.",
  )
  bare = rows.amazon_2014_item(
    b"{'asin': '0005069491', 'categories': [['Toys & Games']]}"
  )
  assert bare == Item("0005069491")
  escaped = rows.amazon_2014_item(rb"{'asin': 'B1', 'title': 'Men\'s \xe9 \u2603'}")
  assert escaped.title == "Men's é ☃"


def test_an_item_of_2023():
  item = Item("B1", "Lurk, the game", "LURK", ("PC", "Games"), "One. Two lines.")
  assert rows.amazon_2023_item(raw.meta_2023("B1").encode()) == item
  store = raw.meta_2023("B1", details={"Weight": "1 lb"}).encode()
  assert rows.amazon_2023_item(store) == item._replace(brand="Lurkers")
  bare = raw.meta_2023(
    "B1", title=None, store=None, details=None, categories=[], description=[]
  )
  assert rows.amazon_2023_item(bare.encode()) == Item("B1")


def test_an_item_of_yelp():
  found = rows.yelp_item(raw.business_yelp("1SWheh84").encode())
  assert found == Item("1SWheh84", "Arizona Biltmore", "", ("Golf", "Active Life"))
  assert (
    rows.yelp_item(raw.business_yelp("b", categories=None).encode()).categories == ()
  )


def test_an_item_of_movielens():
  line = "73::Misérables, Les (1995)::Drama|Musical".encode("latin-1")
  film = Item("73", "Misérables, Les (1995)", "", ("Drama", "Musical"))
  assert rows.movielens_1m_item(line) == film
  flags = "|".join("1" if g in ("Drama", "Musical") else "0" for g in rows.GENRES)
  line = f"73|Misérables, Les (1995)|01-Jan-1995||http://us.imdb.com/M?x|{flags}"
  assert rows.movielens_100k_item(line.encode("latin-1") + b"\r\n") == film
  unknown = "267|unknown||||1|" + "|".join("0" * 18)
  assert rows.movielens_100k_item(unknown.encode()) == Item(
    "267", "unknown", "", ("unknown",)
  )


@pytest.mark.parametrize(
  ("parse", "line", "reason"),
  [
    (rows.amazon_2014_rating, b"\xff{}", "not UTF-8"),
    (rows.amazon_2014_rating, b"{'asin': 'B1'}", "not JSON"),
    (rows.amazon_2014_rating, b"[" * 100_000, "not JSON"),
    (rows.amazon_2014_rating, b"[]", "not a JSON object"),
    (rows.amazon_2014_rating, b"{}", "no reviewerID"),
    (rows.amazon_2014_rating, raw.review_2014(7, "i", 5).encode(), "no reviewerID"),
    (rows.amazon_2014_rating, raw.review_2014("a b", "i", 5).encode(), "no reviewerID"),
    (rows.amazon_2014_rating, raw.review_2014("u", "", 5).encode(), "no asin"),
    (rows.amazon_2014_rating, raw.review_2014("u", "i\0", 5).encode(), "no asin"),
    (
      rows.amazon_2014_rating,
      raw.review_2014("u", "i", 5, "good").encode(),
      "no overall",
    ),
    (
      rows.amazon_2014_rating,
      raw.review_2014("u", "i", 5, None).encode(),
      "no overall",
    ),
    (
      rows.amazon_2014_rating,
      raw.review_2014("u", "i", 5, True).encode(),
      "no overall",
    ),
    (
      rows.amazon_2014_rating,
      raw.review_2014("u", "i", 5, 1e999).encode(),
      "no overall",
    ),
    (
      rows.amazon_2014_rating,
      raw.review_2014("u", "i", -5).encode(),
      "no unixReviewTime",
    ),
    (
      rows.amazon_2014_rating,
      raw.review_2014("u", "i", 5.5).encode(),
      "no unixReviewTime",
    ),
    (
      rows.amazon_2014_rating,
      raw.review_2014("u", "i", True).encode(),
      "no unixReviewTime",
    ),
    (rows.amazon_2023_rating, b"u,i,5.0", "not four fields"),
    (rows.amazon_2023_rating, b'u,"i,j",5.0,7', "not four fields"),
    (rows.amazon_2023_rating, b"u,i,5.0,", "no timestamp"),
    (rows.amazon_2023_rating, b"u,i,5.0," + b"9" * 5_000, "no timestamp"),
    (rows.amazon_2014_item, b'{"asin": null}', "not a Python literal"),
    (rows.amazon_2014_item, b"{'asin': 'B1'", "not a Python literal"),
    (rows.amazon_2014_item, b"['B1']", "not a dict"),
    (rows.amazon_2014_item, b"{'asin': 7}", "no asin"),
    (rows.amazon_2014_item, b"{'asin': 'B', 'title': 7}", "title is no text"),
    (
      rows.amazon_2014_item,
      b"{'asin': 'B', 'categories': ['Toys']}",
      "categories is no",
    ),
    (rows.amazon_2014_item, b"{'asin': 'B', 'categories': 'Toys'}", "categories is no"),
    (
      rows.amazon_2023_item,
      raw.meta_2023("B", categories="PC").encode(),
      "categories is no",
    ),
    (
      rows.amazon_2023_item,
      raw.meta_2023("B", description=[7]).encode(),
      "description is",
    ),
    (rows.movielens_1m_rating, b"1::2::3", "not four fields"),
    (rows.movielens_100k_rating, b"1::2::3::4", "not four fields"),
    (rows.movielens_1m_item, b"1::Toy Story (1995)", "not three fields"),
    (
      rows.movielens_100k_item,
      b"1|Toy Story (1995)|01-Jan-1995|||0|1",
      "not 19 genres",
    ),
  ],
)
def test_what_no_line_is(parse, line, reason):
  with pytest.raises(Malformed, match=reason):
    parse(line)


@pytest.mark.parametrize(
  "hostile",
  [
    "__import__('os').system('touch {0}')",
    "{{'asin': __import__('os').system('touch {0}')}}",
    "{{'asin': [open('{0}', 'w') for _ in '1']}}",
    "{{'asin': f'{{open(\"{0}\", \"w\")}}'}}",
    "{{**dict(asin=open('{0}', 'w'))}}",
    "(lambda: open('{0}', 'w'))()",
    "open('{0}', 'w')",
  ],
)
def test_a_literal_calls_nothing(hostile, tmp_path):
  line = hostile.format(tmp_path / "touched")
  # Whoever evaluated it would leave the file.
  for parse in PARSERS:
    with pytest.raises(Malformed):
      parse(line.encode())
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  "line",
  ["(" * 10_000, "-" * 100_000 + "1", "[" * 100_000, "{'a':" * 50_000, "9" * 9_999],
)
def test_deep_literals_end_no_process(line):
  with pytest.raises(Malformed):
    rows.amazon_2014_item(line.encode())


NEAR = st.sampled_from(
  [line.encode() for _, line in RATINGS.values()]
) | st.sampled_from(
  [
    raw.meta_2014("B1").encode(),
    raw.meta_2023("B1").encode(),
    raw.business_yelp("B1").encode(),
    raw.review_yelp("u", "i", "2019-01-01 00:00:00").encode(),
  ]
)


@st.composite
def spoiled(draw):
  """A true line with some bytes cut out, put in or written over."""
  line = bytearray(draw(NEAR))
  for _ in range(draw(st.integers(1, 4))):
    at = draw(st.integers(0, len(line)))
    line[at : at + draw(st.integers(0, 9))] = draw(st.binary(max_size=4))
  return bytes(line).replace(b"\n", b"")


@given(spoiled() | st.binary(max_size=40))
def test_a_line_is_read_or_refused(line):
  """No other exception, and ids that a table by tabs can hold."""
  for parse in PARSERS:
    try:
      found = parse(line)
    except Malformed:
      continue
    ids = (
      []
      if found is None
      else [v for n, v in found._asdict().items() if n in "user item"]
    )
    for name in ids:
      assert name.split() == [name]
      assert name.isprintable()
    if isinstance(found, Item):
      texts = [found.title, found.brand, found.description, *found.categories]
      assert not any(set(text) & set("\t\r\n") for text in texts)
      assert all(text.encode() or not text for text in texts)


JSON = st.recursive(
  st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
  lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
  max_leaves=5,
)


@given(
  st.dictionaries(
    st.sampled_from(
      "reviewerID asin overall unixReviewTime user_id parent_asin rating timestamp "
      "business_id stars date title brand store details categories description "
      "name".split()
    ),
    JSON,
  )
)
def test_any_value_is_read_or_refused(fields):
  for line in (json.dumps(fields), repr(fields)):
    test_a_line_is_read_or_refused.hypothesis.inner_test(
      line.encode("utf-8", "replace")
    )


def test_half_a_character_is_replaced():
  line = b'{"parent_asin": "B1", "title": "a\\ud83d b"}'
  assert rows.amazon_2023_item(line).title == "a? b"
  with pytest.raises(Malformed, match="no user_id"):
    rows.amazon_2023_rating(b'{"parent_asin": "B1", "user_id": "a\\ud83d"}')


def test_a_tab_in_a_genre_is_a_blank():
  found = rows.movielens_1m_item(b"7::Sabrina (1995)::Sci\tFi||\tDrama|Drama")
  assert found.categories == ("Sci Fi", "Drama")
