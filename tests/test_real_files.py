"""Logs in the forms that people have them: read rightly, or refused in one line."""

import csv
import datetime
import json
import pathlib

from etils import epath
import numpy as np
import polars as pl
import pyarrow
import pyarrow.parquet
import pytest

from lightlm_jax.data import parquet_logs
from lightlm_jax.preprocess import pipeline, tables, values
from lightlm_jax.runtime import log as log_lib
from lightlm_jax.runtime.errors import UserError


@pytest.fixture(scope="module")
def cases(data_dir):
  folder = data_dir.parent / "cases"
  if not folder.is_dir():
    pytest.skip(f"{folder} is missing: no published form was tried")
  return folder


def prepared(path, out, **options):
  """{user: items} of what prepare makes, and the manifest."""
  manifest = pipeline.prepare(pipeline.Options(str(path), str(out), **options))
  log = parquet_logs.read_prepared(epath.Path(out)).log
  return sequences(log), manifest


def sequences(log):
  return {
    user: log.item_ids[log.row(n)].tolist() for n, user in enumerate(log.user_ids)
  }


def by_time(rows):
  """{user: items} of (user, item, time), rows of equal times as they come."""
  found = {}
  for user, item, _ in sorted(rows, key=lambda row: row[2]):
    found.setdefault(user, []).append(item)
  return found


def table_of(path, delimiter=",", names=None):
  with open(path, newline="", encoding="utf-8") as file:
    return list(csv.DictReader(file, delimiter=delimiter, fieldnames=names))


def lines_of(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def of_otto(path):
  for row in lines_of(path):
    for event in row["events"]:
      yield str(row["session"]), str(event["aid"]), event["ts"]


CLICKS = ("user", "time", "item", "category")
CHECK_INS = ("user", "time", "latitude", "longitude", "item")
# The case's file, and what plain Python reads of it: (user, item, what orders).
TRUTH = {
  "yoochoose/yoochoose-clicks.dat": lambda path: [
    (r["user"], r["item"], r["time"]) for r in table_of(path, names=CLICKS)
  ],
  "kuairand/log_standard_4_08_to_4_21_pure.csv": lambda path: [
    (r["user_id"], r["video_id"], int(r["time_ms"])) for r in table_of(path)
  ],
  "retailrocket/events.csv": lambda path: [
    (r["visitorid"], r["itemid"], int(r["timestamp"])) for r in table_of(path)
  ],
  "gowalla/loc-gowalla_totalCheckins.txt": lambda path: [
    (r["user"], r["item"], r["time"]) for r in table_of(path, "\t", CHECK_INS)
  ],
  "ml32m/ratings.csv": lambda path: [
    (r["userId"], r["movieId"], int(r["timestamp"])) for r in table_of(path)
  ],
  "amazon2023/Toys.jsonl": lambda path: [
    (r["user_id"], r["parent_asin"], r["timestamp"]) for r in lines_of(path)
  ],
  "yelp/yelp_academic_dataset_review.json": lambda path: [
    (r["user_id"], r["business_id"], r["date"]) for r in lines_of(path)
  ],
  "otto/train.jsonl": of_otto,
}


@pytest.mark.parametrize("name", TRUTH)
def test_published_forms_are_read_as_they_are(cases, tmp_path, name):
  found, manifest = prepared(cases / name, tmp_path / "out")
  wanted = by_time(TRUTH[name](cases / name))
  assert len(found) == 40
  assert found == wanted
  assert manifest["rejected"] == {}


# Two rows of one user as the publisher writes them, the later one first: b, then a.
TWO_ROWS = {
  "UserBehavior.csv": "u,a,2520377,pv,1511544071\nu,b,2520377,buy,1511544070\n",
  "transactions_train.csv": "t_dat,customer_id,article_id,price,sales_channel_id\n"
  "2018-09-21,u,a,0.05,2\n2018-09-20,u,b,0.03,2\n",
  "dataset_TSMC2014_NYC.txt": "u\ta\t4bf\tBar\t40.7\t-74.0\t-240\t"
  "Tue Apr 03 18:00:10 +0000 2012\n"
  "u\tb\t4bf\tCaf\xe9\t40.7\t-74.0\t-240\tTue Apr 03 18:00:09 +0000 2012\n",
  "goodreads.json": '{"user_id": "u", "book_id": "a", "date_added": '
  '"Fri Dec 02 08:17:08 -0800 2011"}\n{"user_id": "u", "book_id": "b", "date_added": '
  '"Fri Dec 02 08:17:07 -0800 2011"}\n',
  "big_matrix.csv": "user_id,video_id,play_duration,time,date,timestamp\n"
  "u,a,13838,2020-07-05 00:08:24.438,20200705,1593878904.438\n"
  "u,b,13665,2020-07-05 00:08:23.297,20200705,1593878903.297\n",
  "ratings_Toys.csv": "A1C6M8LCIX4M6M,B0000000AA,5.0,1123804801\n"
  "A1C6M8LCIX4M6M,B0000000BB,5.0,1123804800\n",
  "train_sessions.csv": "SessionID,Time,ItemID\nu,1462752001.5,a\nu,1462752001.2,b\n",
}


@pytest.mark.parametrize("name", TWO_ROWS)
def test_published_rows(tmp_path, name):
  (tmp_path / name).write_text(TWO_ROWS[name], encoding="latin-1")
  (items,) = prepared(tmp_path / name, tmp_path / "out")[0].values()
  assert items == (["B0000000BB", "B0000000AA"] if "Toys" in name else ["b", "a"])


SMALL = {
  "mixed_units/one_file.csv": {"1": list("abcde")},
  "mixed_units/two-*.csv": {"u": list("bcad")},
  "split_header_once/p-*.csv": {"1": ["10", "11", "12"], "2": ["13", "14"]},
  "subsecond_table/log.csv": {"u": ["early", "late"]},
  "tsv_quotes/log.tsv": {"u1": ["a", "b"]},
  "recbole_session/d.inter": {"1": ["11", "12", "13", "14"], "2": ["21", "22", "23"]},
  "foreign_dates/us.csv": {"1": ["a", "b"]},
  "foreign_dates/ctime.csv": {"1": ["a"]},
  "compressed/LOG.CSV.GZ": {"1": ["2", "3"]},
  "compressed/log.csv.bz2": {"1": ["2", "3"]},
}


@pytest.mark.parametrize("name", SMALL)
def test_small_ones(cases, tmp_path, name):
  found, manifest = prepared(cases / name, tmp_path / "out")
  assert manifest["rejected"] == {}
  assert found == SMALL[name]


def test_users_that_are_mostly_no_value_are_asked_about(cases, tmp_path):
  path = cases / "diginetica" / "train-item-views.csv"
  with pytest.raises(
    UserError, match=r"'userId' .* is 'NA' in 73% .* --user=sessionId"
  ):
    prepared(path, tmp_path / "out")
  rows = table_of(path, ";")
  order = [(r["eventdate"], int(r["timeframe"])) for r in rows]
  ids = [(r["sessionId"], r["itemId"]) for r in rows]
  wanted = by_time((*pair, time) for pair, time in zip(ids, order))
  for n, options in enumerate(({"yes": True}, {"names": {"user": "sessionId"}})):
    assert prepared(path, tmp_path / f"{n}", **options)[0] == wanted
  _, manifest = prepared(path, tmp_path / "users", names={"user": "userId"})
  assert manifest["rejected"] == {"no_user": sum(r["userId"] == "NA" for r in rows)}


def test_kinds_of_events_are_counted_and_chosen(cases, tmp_path, capsys):
  path = cases / "retailrocket" / "events.csv"
  log_lib.set_up()
  bought, manifest = prepared(path, tmp_path / "out", keep=("transaction",))
  rows = [r for r in table_of(path) if r["event"] == "transaction"]
  assert bought == by_time((r["visitorid"], r["itemid"], r["timestamp"]) for r in rows)
  assert manifest["filtered"] == {"event": 361}
  assert "view 282, addtocart 79, transaction 79" in capsys.readouterr().out
  (tmp_path / "log.csv").write_text("user,item\nu,a\n")
  with pytest.raises(
    UserError, match=r"--keep .* no column of them; give --event=NAME"
  ):
    prepared(tmp_path / "log.csv", tmp_path / "none", keep=("buy",))


def test_one_intent_is_one_row(tmp_path):
  kinds = ["view", "cart", "buy", "view", "view"]
  rows = zip(["a", "a", "a", "b", "a"], kinds, range(5))
  text = "".join(f"u,{item},{kind},{time}\n" for item, kind, time in rows)
  (tmp_path / "log.csv").write_text("user,item,event,time\n" + text)
  options = {"duplicates": "adjacent"}
  found, manifest = prepared(tmp_path / "log.csv", tmp_path / "out", **options)
  assert found == {"u": ["a", "b", "a"]}
  assert manifest["filtered"] == {"duplicate": 2}


def test_reasons_are_those_of_the_rows(cases, tmp_path):
  folder = cases / "rows_rejected_no_time"
  for name in ("r_row_names.csv", "trailing_comma.csv"):
    with pytest.raises(UserError, match=r"line 2: another number of columns"):
      prepared(folder / name, tmp_path / name)


def test_titles_of_books_have_quotes_and_letters_of_their_own(cases, tmp_path):
  books = cases / "bookcrossing" / "BX-Books.csv"
  log = cases / "bookcrossing" / "BX-Book-Ratings.csv"
  _, manifest = prepared(log, tmp_path / "out", items=str(books))
  dataset = parquet_logs.read_prepared(epath.Path(tmp_path / "out"))
  titles = dict(zip(dataset.log.item_ids.tolist(), dataset.titles))
  assert titles["034510000X"] == 'Les Misérables "0"; vol'
  assert manifest["items_file"]["rejected"] == 0


def test_quotes_may_be_escaped_by_backslashes(tmp_path):
  rows = ['"u";"a \\"b\\"; c"', '"v";"d"']
  (tmp_path / "log.csv").write_text("user;item\n" + "\n".join(rows) + "\n")
  found, _ = prepared(tmp_path / "log.csv", tmp_path / "out")
  assert found == {"u": ['a "b"; c'], "v": ["d"]}


def test_uuids_are_texts(tmp_path):
  raw = [bytes([n // 3] * 16) for n in range(9)]
  for name, kind in (("uuid", pyarrow.uuid()), ("binary", pyarrow.binary(16))):
    table = pyarrow.table({"user": pyarrow.array(raw, kind), "item": list("abcabcabc")})
    pyarrow.parquet.write_table(table, tmp_path / f"{name}.parquet")
    found, _ = prepared(tmp_path / f"{name}.parquet", tmp_path / name)
    assert sorted(found) == [
      "00000000-0000-0000-0000-000000000000",
      "01010101-0101-0101-0101-010101010101",
      "02020202-0202-0202-0202-020202020202",
    ]


@pytest.mark.parametrize(
  ("column", "kind"),
  [([True, False], "bool"), ([{"a": 1}] * 2, "struct<a: int64>")],
)
def test_columns_that_are_no_ids_are_named(tmp_path, column, kind):
  path = tmp_path / "log.parquet"
  pyarrow.parquet.write_table(pyarrow.table({"user": column, "item": ["a", "b"]}), path)
  with pytest.raises(UserError, match=f"'user' of .* is of type {kind}; ids are"):
    prepared(path, tmp_path / "out")


def test_an_unused_column_is_nobodys_business(cases, tmp_path):
  for name in ("price.csv", "mixed_ids.jsonl"):
    assert prepared(cases / "infer_100" / name, tmp_path / name)[1]["rejected"] == {}
    assert tables.dataset(cases / "infer_100" / name).log.num_items


def test_lists_of_a_row_are_its_history(tmp_path):
  rows = {"user": ["u", "v", "w"], "items": [[3, 1, 2], [], [5]]}
  wanted = {"u": ["3", "1", "2"], "w": ["5"]}
  pyarrow.parquet.write_table(pyarrow.table(rows), tmp_path / "log.parquet")
  lines = [dict(zip(rows, row)) for row in zip(*rows.values())]
  (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, lines)))
  text = "".join(f"{r['user']}\t{' '.join(map(str, r['items']))}\n" for r in lines)
  (tmp_path / "log.tsv").write_text("user\titems\n" + text)
  for name in ("log.parquet", "log.jsonl", "log.tsv"):
    found, manifest = prepared(tmp_path / name, tmp_path / f"{name}-out")
    assert found == wanted
    assert manifest["rejected"] == {"no_item": 1}


def test_mind_has_histories_and_clicks(tmp_path):
  rows = [
    "1\tU1\t11/11/2019 9:05:58 AM\tN1 N2\tN3-0 N4-1",
    "2\tU2\t11/12/2019 6:11:30 PM\t\tN5-1 N6-0",
    "3\tU1\t11/13/2019 1:00:00 PM\tN1 N2\tN7-1 N3-1",
  ]
  (tmp_path / "behaviors.tsv").write_text("\n".join(rows) + "\n")
  options = {"duplicates": "first"}
  found, _ = prepared(tmp_path / "behaviors.tsv", tmp_path / "out", **options)
  assert found == {"U1": ["N1", "N2", "N4", "N7", "N3"], "U2": ["N5"]}


def test_a_field_of_ones_own_may_be_called_place_or_line(tmp_path):
  rows = [{"user": "u", "item": item, "place": "Paris", "line": "M1"} for item in "ab"]
  (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, rows)))
  pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "log.parquet")
  for name in ("log.jsonl", "log.parquet"):
    found, _ = prepared(tmp_path / name, tmp_path / f"{name}-out")
    assert found == {"u": ["a", "b"]}


def test_dicts_as_python_writes_them(tmp_path):
  rows = [{"user_id": f"u{n % 2}", "product_id": n, "it's": None} for n in range(4)]
  (tmp_path / "steam.json").write_text("".join(f"{row!r}\n" for row in rows))
  found, _ = prepared(tmp_path / "steam.json", tmp_path / "out")
  assert found == {"u0": ["0", "2"], "u1": ["1", "3"]}


DATES = {
  "31.12.2019 08:00": "%d.%m.%Y %H:%M",
  "12/31/2019 8:00:00 PM": "%m/%d/%Y %I:%M:%S %p",
  "Tue Dec 31 08:00:00 -0500 2019": "%a %b %d %H:%M:%S %z %Y",
  "Tue, 31 Dec 2019 08:00:00 GMT": "%a, %d %b %Y %H:%M:%S %z",
  "Dec 31, 2019": "%b %d, %Y",
  "12 31, 2019": "%m %d, %Y",
  "Posted December 31, 2019.": "Posted %B %d, %Y.",
  "31/Dec/2019:08:00:00 +0100": "%d/%b/%Y:%H:%M:%S %z",
  "20191231": "%Y%m%d",
  "20191231080000": "%Y%m%d%H%M%S",
  "2019/12/31 08:00:00": "%Y/%m/%d %H:%M:%S",
}


@pytest.mark.parametrize("text", DATES)
def test_dates_of_many_forms(tmp_path, text):
  moment = datetime.datetime.strptime(text.replace("GMT", "+0000"), DATES[text])
  if moment.tzinfo is None:
    moment = moment.replace(tzinfo=datetime.UTC)
  (tmp_path / "log.csv").write_text(f'user,item,time\nu,a,"{text}"\n')
  pipeline.prepare(pipeline.Options(str(tmp_path / "log.csv"), str(tmp_path / "out")))
  log = parquet_logs.read_prepared(epath.Path(tmp_path / "out")).log
  assert log.time_E.tolist() == [round(moment.timestamp())]


def test_a_date_that_may_be_read_twice_is_refused(tmp_path):
  (tmp_path / "log.csv").write_text("user,item,time\nu,a,03/04/2020\nu,b,05/06/2020\n")
  ways = r"'03/04/2020' .* --time_format=%d/%m/%Y or --time_format=%m/%d/%Y"
  with pytest.raises(UserError, match=ways):
    prepared(tmp_path / "log.csv", tmp_path / "out")
  for n, form in enumerate(("%d/%m/%Y", "%m/%d/%Y")):
    found, _ = prepared(tmp_path / "log.csv", tmp_path / f"{n}", time_unit=form)
    assert found == {"u": ["a", "b"]}


@pytest.mark.parametrize(
  ("name", "clocks"),
  [
    ("hourmin", ["930", "15", "2359"]),
    ("hms", ["93000", "1500", "235959"]),
    ("time", ["9:30", "0:15:00", "23:59"]),
    ("timeframe", ["900000", "800", "86000000"]),
  ],
)
def test_a_clock_beside_a_date_orders_its_rows(tmp_path, name, clocks):
  rows = "".join(f"u,{item},20200101,{t}\n" for item, t in zip("bac", clocks))
  (tmp_path / "log.csv").write_text(
    f"user,item,date,{name}\n{rows}u,z,20191231,{clocks[2]}\n"
  )
  assert prepared(tmp_path / "log.csv", tmp_path / "out")[0] == {"u": list("zabc")}


def test_a_clock_alone_is_no_time(tmp_path):
  (tmp_path / "log.csv").write_text("user,item,time\nu,a,0930\nu,b,2215\n")
  with pytest.raises(UserError, match="is a time of day without a date"):
    prepared(tmp_path / "log.csv", tmp_path / "out")


def test_numbers_that_are_no_dates_order_rows_and_are_warned_of(tmp_path, caplog):
  (tmp_path / "log.csv").write_text("user,item,time\nu,a,70\nu,b,2\nu,c,99\n")
  found, _ = prepared(tmp_path / "log.csv", tmp_path / "out")
  assert found == {"u": ["b", "a", "c"]}
  assert "no dates after 1990: they only order rows" in caplog.text


def test_one_user_for_all_strangers_is_asked_about(tmp_path):
  rng = np.random.default_rng(0)
  users = [f"u{n}" for n in rng.integers(40, size=400)]
  for n in range(0, 400, 4):
    users[n] = "guest"
  text = "".join(f"{user},i{n % 7}\n" for n, user in enumerate(users))
  (tmp_path / "log.csv").write_text("user,item\n" + text)
  with pytest.raises(UserError, match=r"'user' .* is 'guest' in 25% .* --user=user"):
    prepared(tmp_path / "log.csv", tmp_path / "out")
  # A log sorted by user begins with few of them, and that is no fault.
  users = [f"u{n // 20}" for n in range(400)] + ["last"] * 100
  text = "".join(f"{user},i{n % 7}\n" for n, user in enumerate(users))
  (tmp_path / "log.csv").write_text("user,item\n" + text)
  assert len(prepared(tmp_path / "log.csv", tmp_path / "out")[0]) == 21


def test_a_file_without_a_header_is_proposed(tmp_path):
  path = tmp_path / "log.csv"
  path.write_text("7,2020-01-01,5,900\n7,2020-01-02,4,800\n8,2020-01-01,5,900\n")
  proposal = r"user 7, 8; time 2020-01-01, 2020-01-02; rating 5, 4; item 900, 800"
  advice = r"--columns=user,time,rating,item or --yes"
  with pytest.raises(UserError, match=f"{proposal}.* {advice}"):
    prepared(path, tmp_path / "out")
  wanted = {"7": ["900", "800"], "8": ["900"]}
  assert prepared(path, tmp_path / "out", yes=True)[0] == wanted
  # Amazon's ids tell which they are, and 2018's file has items first.
  path.write_text("0001713353,A1C6M8LCIX4M6M,5.0,1123804800\n")
  assert prepared(path, tmp_path / "a")[0] == {"A1C6M8LCIX4M6M": ["0001713353"]}


def test_columns_of_another_language_are_proposed(tmp_path):
  rows = ["4711;Hose;31.12.2023;19,90", "4712;Rock;30.12.2023;20,00"]
  text = "\n".join(["Kundin;Artikel;Gekauft am;Preis", *rows])
  (tmp_path / "log.csv").write_text(text)
  proposal = (
    r"user 4711, 4712; item Hose, Rock\), give --user='Kundin' --item='Artikel'"
  )
  with pytest.raises(UserError, match=proposal):
    prepared(tmp_path / "log.csv", tmp_path / "out")
  wanted = {"4711": ["Hose"], "4712": ["Rock"]}
  assert prepared(tmp_path / "log.csv", tmp_path / "out", yes=True)[0] == wanted


@pytest.mark.parametrize(
  "name",
  [
    *("one_item/log.csv", "two_items/log.csv", "single_events/log.csv"),
    *("all_items_seen/log.csv", "slash_ids/log.csv", "grown_log/day2.csv"),
  ],
)
def test_edges_are_read_as_they_are(cases, tmp_path, name):
  rows = table_of(cases / name)
  wanted = by_time((r["user_id"], r["item_id"], int(r["timestamp"])) for r in rows)
  found, manifest = prepared(cases / name, tmp_path / "out", ties="file")
  assert found == wanted
  assert manifest["rejected"] == {}


def test_lastfm_has_names_and_no_times(cases, tmp_path):
  folder = cases / "lastfm"
  options = {"items": str(folder / "artists.dat")}
  found, _ = prepared(folder / "user_artists.dat", tmp_path / "out", **options)
  rows = table_of(folder / "user_artists.dat", "\t")
  assert found == by_time((r["userID"], r["artistID"], 0) for r in rows)
  dataset = parquet_logs.read_prepared(epath.Path(tmp_path / "out"))
  names = {r["id"]: r["name"] for r in table_of(folder / "artists.dat", "\t")}
  titles = dict(zip(dataset.log.item_ids.tolist(), dataset.titles))
  assert titles == {item: names[item] for item in titles}


def test_the_order_of_a_file_says_nothing_where_times_are_equal(cases, tmp_path):
  folder = cases / "ties_by_movie_id"
  sorted_by_film, _ = prepared(folder / "ratings.csv", tmp_path / "sorted")
  shuffled, _ = prepared(folder / "shuffled.csv", tmp_path / "shuffled")
  as_it_is, _ = prepared(folder / "ratings.csv", tmp_path / "file", ties="file")
  assert sorted_by_film == shuffled != as_it_is


def test_categories_are_split_at_commas(cases, tmp_path):
  folder = cases / "yelp_categories"
  options = {"items": str(folder / "business.json")}
  prepared(folder / "log.csv", tmp_path / "out", **options)
  dataset = parquet_logs.read_prepared(epath.Path(tmp_path / "out"))
  one, other = dataset.attributes
  assert len(one) == len(other) == 2
  assert len(set(one) & set(other)) == 1


def test_a_column_that_numbers_the_rows_is_no_user(tmp_path):
  rows = [f"{900 + n},u{n % 5},{100 + n % 7},2020-01-0{1 + n % 9}" for n in range(30)]
  (tmp_path / "log.csv").write_text("\n".join(rows))
  proposal = (
    r"user u0, u1, u2; item 100, 101, 102; .* --columns=column_1,user,item,time"
  )
  with pytest.raises(UserError, match=proposal):
    prepared(tmp_path / "log.csv", tmp_path / "out")


def test_later_files_have_the_first_ones_columns(tmp_path):
  (tmp_path / "p-0.csv").write_text("item,user\na,u\n")
  (tmp_path / "p-1.csv").write_text("b,u\n")
  assert prepared(tmp_path / "p-*.csv", tmp_path / "out")[0] == {"u": ["a", "b"]}
  (tmp_path / "p-2.csv").write_text("b,u,7\n")
  with pytest.raises(UserError, match=r"p-0.csv has 2 columns, .*p-2.csv has 3"):
    prepared(tmp_path / "p-*.csv", tmp_path / "three")


def test_tables_and_files_are_read_alike(cases, tmp_path):
  for name in (
    "subsecond_table/log.csv",
    "kuairand/log_standard_4_08_to_4_21_pure.csv",
  ):
    wanted, _ = prepared(cases / name, tmp_path / pathlib.Path(name).stem)
    assert sequences(tables.dataset(cases / name).log) == wanted
    assert sequences(tables.dataset(pl.read_csv(cases / name)).log) == wanted


def test_addresses_are_told_from_texts():
  urls = pl.Series(["http://x/1", "https://x/2", "", "//cdn/x.png"])
  assert values.is_url(values.look_at("a", urls))
  assert not values.is_url(values.look_at("a", pl.Series(["see http://x", "b"])))
