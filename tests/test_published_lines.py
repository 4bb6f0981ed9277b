"""Lines of published files, in the makers' own forms; what no such line is."""

import json

from hypothesis import given
from hypothesis import strategies as st
import pytest
import raw_files as raw

from lightlm_jax.data.published import amazon, movielens, yelp
from lightlm_jax.data.published.raw_rows import Item, Malformed, Rating

RATINGS = {
  "2014": (amazon.rating_2014, raw.review_2014("A2SUAM1J3GNN3B", "0000013714", 7)),
  "2023, raw": (amazon.rating_2023, raw.review_2023("A2SUAM1J3GNN3B", "0000013714", 7)),
  "2023": (amazon.rating_2023, "A2SUAM1J3GNN3B,0000013714,5.0,7"),
  "100k": (movielens.rating_100k, "A2SUAM1J3GNN3B\t0000013714\t5\t7"),
  "1m": (movielens.rating_1m, "A2SUAM1J3GNN3B::0000013714::5::7"),
}
PARSERS = (
  amazon.rating_2014,
  amazon.rating_2023,
  amazon.item_2014,
  amazon.item_2023,
  yelp.rating,
  yelp.item,
  movielens.rating_100k,
  movielens.rating_1m,
  movielens.item_100k,
  movielens.item_1m,
)


@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
@pytest.mark.parametrize("form", RATINGS)
def test_a_rating(form, end):
  parse, line = RATINGS[form]
  assert parse((line + end).encode()) == Rating("A2SUAM1J3GNN3B", "0000013714", 5.0, 7)


def test_the_names_above_a_csv_are_no_rating():
  names = b"user_id,parent_asin,rating,timestamp"
  assert amazon.rating_2023(names + b"\r\n") is None
  assert amazon.rating_2023(b"\xef\xbb\xbf" + names) is None


def test_times_of_2023_are_milliseconds():
  line = b"AEYV,B07JW9H4J1,5.0,1641648017857"
  assert amazon.rating_2023(line).time == 1_641_648_017_857
  with pytest.raises(Malformed, match="no unixReviewTime"):
    amazon.rating_2014(raw.review_2014("u", "i", 1_641_648_017_857).encode())


@pytest.mark.parametrize(
  ("date", "seconds"),
  [
    ("1970-01-01 00:00:00", 0),
    ("2019-01-01 00:00:00", 1_546_300_800),
    ("2019-12-13 15:51:19", 1_576_252_279),
  ],
)
def test_dates_of_yelp(date, seconds):
  found = yelp.rating(raw.review_yelp("hG7b0MtEb", "ujmEBvifd", date).encode())
  assert found == Rating("hG7b0MtEb", "ujmEBvifd", 4.0, seconds)


@pytest.mark.parametrize(
  "date", [None, 5, "", "2019-12-13", "2019-13-01 00:00:00", "1969-12-31 23:59:59"]
)
def test_no_dates_of_yelp(date):
  with pytest.raises(Malformed, match="no date"):
    yelp.rating(raw.review_yelp("u", "i", date).encode())


def test_an_item_of_2014():
  found = amazon.item_2014(
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
  bare = amazon.item_2014(b"{'asin': '0005069491', 'categories': [['Toys & Games']]}")
  assert bare == Item("0005069491")
  escaped = amazon.item_2014(rb"{'asin': 'B1', 'title': 'Men\'s \xe9 \u2603'}")
  assert escaped.title == "Men's é ☃"


def test_an_item_of_2023():
  item = Item("B1", "Lurk, the game", "LURK", ("PC", "Games"), "One. Two lines.")
  assert amazon.item_2023(raw.meta_2023("B1").encode()) == item
  store = raw.meta_2023("B1", details={"Weight": "1 lb"}).encode()
  assert amazon.item_2023(store) == item._replace(brand="Lurkers")
  bare = raw.meta_2023(
    "B1", title=None, store=None, details=None, categories=[], description=[]
  )
  assert amazon.item_2023(bare.encode()) == Item("B1")


def test_an_item_of_yelp():
  found = yelp.item(raw.business_yelp("1SWheh84").encode())
  assert found == Item("1SWheh84", "Arizona Biltmore", "", ("Golf", "Active Life"))
  assert yelp.item(raw.business_yelp("b", categories=None).encode()).categories == ()


def test_an_item_of_movielens():
  line = "73::Misérables, Les (1995)::Drama|Musical".encode("latin-1")
  film = Item("73", "Misérables, Les (1995)", "", ("Drama", "Musical"))
  assert movielens.item_1m(line) == film
  flags = "|".join("1" if g in ("Drama", "Musical") else "0" for g in movielens.GENRES)
  line = f"73|Misérables, Les (1995)|01-Jan-1995||http://us.imdb.com/M?x|{flags}"
  assert movielens.item_100k(line.encode("latin-1") + b"\r\n") == film
  unknown = "267|unknown||||1|" + "|".join("0" * 18)
  assert movielens.item_100k(unknown.encode()) == Item(
    "267", "unknown", "", ("unknown",)
  )


@pytest.mark.parametrize(
  ("parse", "line", "reason"),
  [
    (amazon.rating_2014, b"\xff{}", "not UTF-8"),
    (amazon.rating_2014, b"{'asin': 'B1'}", "not JSON"),
    (amazon.rating_2014, b"[" * 100_000, "not JSON"),
    (amazon.rating_2014, b"[]", "not a JSON object"),
    (amazon.rating_2014, b"{}", "no reviewerID"),
    (amazon.rating_2014, raw.review_2014(7, "i", 5).encode(), "no reviewerID"),
    (amazon.rating_2014, raw.review_2014("a b", "i", 5).encode(), "no reviewerID"),
    (amazon.rating_2014, raw.review_2014("u", "", 5).encode(), "no asin"),
    (amazon.rating_2014, raw.review_2014("u", "i\0", 5).encode(), "no asin"),
    (amazon.rating_2014, raw.review_2014("u", "i", 5, "good").encode(), "no overall"),
    (amazon.rating_2014, raw.review_2014("u", "i", 5, None).encode(), "no overall"),
    (amazon.rating_2014, raw.review_2014("u", "i", 5, True).encode(), "no overall"),
    (amazon.rating_2014, raw.review_2014("u", "i", 5, 1e999).encode(), "no overall"),
    (amazon.rating_2014, raw.review_2014("u", "i", -5).encode(), "no unixReviewTime"),
    (amazon.rating_2014, raw.review_2014("u", "i", 5.5).encode(), "no unixReviewTime"),
    (amazon.rating_2014, raw.review_2014("u", "i", True).encode(), "no unixReviewTime"),
    (amazon.rating_2023, b"u,i,5.0", "not four fields"),
    (amazon.rating_2023, b'u,"i,j",5.0,7', "not four fields"),
    (amazon.rating_2023, b"u,i,5.0,", "no timestamp"),
    (amazon.rating_2023, b"u,i,5.0," + b"9" * 5_000, "no timestamp"),
    (amazon.item_2014, b'{"asin": null}', "not a Python literal"),
    (amazon.item_2014, b"{'asin': 'B1'", "not a Python literal"),
    (amazon.item_2014, b"['B1']", "not a dict"),
    (amazon.item_2014, b"{'asin': 7}", "no asin"),
    (amazon.item_2014, b"{'asin': 'B', 'title': 7}", "title is no text"),
    (amazon.item_2014, b"{'asin': 'B', 'categories': ['Toys']}", "categories is no"),
    (amazon.item_2014, b"{'asin': 'B', 'categories': 'Toys'}", "categories is no"),
    (
      amazon.item_2023,
      raw.meta_2023("B", categories="PC").encode(),
      "categories is no",
    ),
    (amazon.item_2023, raw.meta_2023("B", description=[7]).encode(), "description is"),
    (movielens.rating_1m, b"1::2::3", "not four fields"),
    (movielens.rating_100k, b"1::2::3::4", "not four fields"),
    (movielens.item_1m, b"1::Toy Story (1995)", "not three fields"),
    (movielens.item_100k, b"1|Toy Story (1995)|01-Jan-1995|||0|1", "not 19 genres"),
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
    amazon.item_2014(line.encode())


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
  assert amazon.item_2023(line).title == "a? b"
  with pytest.raises(Malformed, match="no user_id"):
    amazon.rating_2023(b'{"parent_asin": "B1", "user_id": "a\\ud83d"}')


def test_a_tab_in_a_genre_is_a_blank():
  found = movielens.item_1m(b"7::Sabrina (1995)::Sci\tFi||\tDrama|Drama")
  assert found.categories == ("Sci Fi", "Drama")
