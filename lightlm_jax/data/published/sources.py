"""The published logs: their files, filters, and published sizes.

The sizes are from papers that use these logs. The Amazon Reviews 2023 sizes agree with
the rounded figures of its publishers. A log has no size or checksum if none was found.
"""

from collections.abc import Callable
import dataclasses
from typing import Any, NamedTuple

from lightlm_jax.data.published import raw_rows
from lightlm_jax.data.published.raw_files import RawFile
from lightlm_jax.data.published.raw_rows import Item, Rating

_2014 = "http://snap.stanford.edu/data/amazon/productGraph/categoryFiles/"
_2023 = "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_2023/"
_GROUPLENS = "https://files.grouplens.org/datasets/movielens/"

# Short names that papers use for categories of Amazon Reviews 2014.
SHORT = {"toys": "Toys_and_Games", "beauty": "Beauty", "sports": "Sports_and_Outdoors"}
CATEGORIES_2014 = (
  "Amazon_Instant_Video Apps_for_Android Automotive Baby Beauty Books CDs_and_Vinyl "
  "Cell_Phones_and_Accessories Clothing_Shoes_and_Jewelry Digital_Music Electronics "
  "Grocery_and_Gourmet_Food Health_and_Personal_Care Home_and_Kitchen Kindle_Store "
  "Movies_and_TV Musical_Instruments Office_Products Patio_Lawn_and_Garden "
  "Pet_Supplies Sports_and_Outdoors Tools_and_Home_Improvement Toys_and_Games "
  "Video_Games"
).split()
# Of the 34 categories, only those that have a 5-core.
CATEGORIES_2023 = (
  "All_Beauty Arts_Crafts_and_Sewing Automotive Baby_Products Beauty_and_Personal_Care "
  "Books CDs_and_Vinyl Cell_Phones_and_Accessories Clothing_Shoes_and_Jewelry "
  "Electronics Gift_Cards Grocery_and_Gourmet_Food Health_and_Household "
  "Home_and_Kitchen Industrial_and_Scientific Kindle_Store Magazine_Subscriptions "
  "Movies_and_TV Musical_Instruments Office_Products Patio_Lawn_and_Garden "
  "Pet_Supplies Software Sports_and_Outdoors Tools_and_Home_Improvement "
  "Toys_and_Games Unknown Video_Games"
).split()


class Counts(NamedTuple):
  """The number of users, items and interactions of a log."""

  users: int
  items: int
  interactions: int

  def __str__(self) -> str:
    return f"{self.users:,} users / {self.items:,} items / {self.interactions:,}"


_COUNTS_2014 = {
  "Toys_and_Games": Counts(19_412, 11_924, 167_597),
  "Beauty": Counts(22_363, 12_101, 198_502),
  "Sports_and_Outdoors": Counts(35_598, 18_357, 296_337),
  "Video_Games": Counts(24_303, 10_672, 231_780),
  "CDs_and_Vinyl": Counts(75_258, 64_443, 1_097_592),
  "Movies_and_TV": Counts(123_960, 50_052, 1_697_533),
  "Books": Counts(603_668, 367_982, 8_898_041),
}
_COUNTS_2023 = {
  "Video_Games": Counts(94_762, 25_612, 814_586),
  "Musical_Instruments": Counts(57_439, 24_587, 511_836),
  "Industrial_and_Scientific": Counts(50_985, 25_848, 412_947),
  "Office_Products": Counts(223_308, 77_551, 1_800_878),
}
_SHA256_2023 = {
  "Video_Games": "a2bde5f3b945960d161538c200dd87845e6ee471b46da96410dde61613c6901c",
  "CDs_and_Vinyl": "53811902ffb01eb22da31a35e0775f3b8351baebe7e1ab38b85b6c4aee689c20",
}


@dataclasses.dataclass(frozen=True)
class Source:
  """A published log: its files, parsers and filters."""

  name: str  # also the name of its folder
  about: str
  ratings: RawFile
  items: RawFile  # item texts; may be missing
  rating: Callable[[bytes], Rating | None]  # parses a line of `ratings`; None = header
  item: Callable[[bytes], Item]  # parses a line of `items`
  by_hand: str = ""  # an instruction to the user, if files cannot be downloaded
  ticks: int = 1  # units of its timestamps in a second
  core: int = 0  # k of the k-core; 0 = none
  once: bool = False  # keep only a user's earliest rating of an item
  first_time: int | None = None  # seconds since 1970
  last_time: int | None = None
  published: Counts | None = None  # size after filtering; None = unknown


def _file(url: str, **known: Any) -> RawFile:
  return RawFile(url.rpartition("/")[2], url, **known)


def _amazon_2014(name: str, category: str) -> Source:
  return Source(
    name=name,
    about=f"Amazon Reviews 2014, {category}, 5-core",
    ratings=_file(f"{_2014}reviews_{category}_5.json.gz"),
    items=_file(f"{_2014}meta_{category}.json.gz"),
    rating=raw_rows.amazon_2014_rating,
    item=raw_rows.amazon_2014_item,
    core=5,
    published=_COUNTS_2014.get(category),
  )


def _amazon_2023(category: str) -> Source:
  return Source(
    name=f"amazon2023-{category}",
    about=f"Amazon Reviews 2023, {category}, 5-core",
    ratings=_file(
      f"{_2023}benchmark/5core/rating_only/{category}.csv.gz",
      sha256=_SHA256_2023.get(category),
      also=(f"{category}.jsonl.gz", f"{category}.jsonl"),  # unfiltered reviews
    ),
    items=_file(f"{_2023}raw/meta_categories/meta_{category}.jsonl.gz"),
    rating=raw_rows.amazon_2023_rating,
    item=raw_rows.amazon_2023_item,
    ticks=raw_rows.TICKS_2023,
    core=5,
    once=True,
    published=_COUNTS_2023.get(category),
  )


def _movielens(
  name: str, ratings: str, items: str, sha256: str, **fields: Any
) -> Source:
  url = f"{_GROUPLENS}{name}.zip"
  return Source(
    name=name,
    ratings=RawFile(ratings, url, f"{name}/{ratings}", sha256),
    items=RawFile(items, url, f"{name}/{items}"),
    **fields,
  )


SOURCES = {
  source.name: source
  for source in (
    *(_amazon_2014(name, category) for name, category in SHORT.items()),
    Source(
      name="yelp",
      about="Yelp, the visits of 2019, 5-core",
      ratings=RawFile("yelp_academic_dataset_review.json"),
      items=RawFile("yelp_academic_dataset_business.json"),
      rating=raw_rows.yelp_rating,
      item=raw_rows.yelp_item,
      by_hand="accept the terms at https://www.yelp.com/dataset and unpack the archive "
      "(the figures in print are of the release that ends in December 2019)",
      core=5,
      first_time=raw_rows.yelp_seconds("2019-01-01 00:00:00"),
      last_time=raw_rows.yelp_seconds("2019-12-31 00:00:00"),
      published=Counts(30_431, 20_033, 316_354),
    ),
    _movielens(
      "ml-1m",
      "ratings.dat",
      "movies.dat",
      "a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20",
      about="MovieLens-1M",
      rating=raw_rows.movielens_1m_rating,
      item=raw_rows.movielens_1m_item,
      published=Counts(6_040, 3_706, 1_000_209),
    ),
    _movielens(
      "ml-100k",
      "u.data",
      "u.item",
      "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229",
      about="MovieLens-100k",
      rating=raw_rows.movielens_100k_rating,
      item=raw_rows.movielens_100k_item,
      published=Counts(943, 1_682, 100_000),
    ),
    *(
      _amazon_2014(f"amazon2014-{category}", category)
      for category in CATEGORIES_2014
      if category not in SHORT.values()
    ),
    *map(_amazon_2023, CATEGORIES_2023),
  )
}
