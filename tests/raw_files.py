"""Raw files as their makers write them, small: for the tests of published logs."""

import gzip
import json
import zipfile

REVIEWS = "reviews_Toys_and_Games_5.json.gz"
META = "meta_Toys_and_Games.json.gz"


def review_2014(user, item, time, rating=5.0):
  """A line of reviews_CATEGORY_5.json.gz."""
  return json.dumps(
    {
      "reviewerID": user,
      "asin": item,
      "reviewerName": 'J. "Mc" Döe',
      "helpful": [2, 3],
      "reviewText": "It's, well, a toy::with\ttabs | and {braces}.\u2028Fine.",
      "overall": rating,
      "summary": "Five Stars",
      "unixReviewTime": time,
      "reviewTime": "09 13, 2009",
    }
  )


def meta_2014(
  item, title='Nursery Rhymes\' "Felt" Book', brand="Dr. Seuss", paths=None
):
  """A line of meta_CATEGORY.json.gz, which is no JSON."""
  said = {
    "asin": item,
    "description": "Fractions\n and\tdecimals.",
    "title": title,
    "price": 37.12,
    "salesRank": {"Toys & Games": 612379},
    "imUrl": "http://ecx.images-amazon.com/images/I/414PLROXy-L._SY300_.jpg",
    "related": {"also_bought": ["B00JHONN1S"]},
    "brand": brand,
    "categories": paths or [["Toys & Games", "Puzzles", "Jigsaw Puzzles"]],
  }
  return repr({key: value for key, value in said.items() if value is not None})


def review_2023(user, item, time, rating=5.0):
  """A line of the raw CATEGORY.jsonl.gz; the time is in milliseconds."""
  return json.dumps(
    {
      "rating": rating,
      "title": "Such a lovely scent, but",
      "text": "not overpowering.",
      "images": [],
      "asin": f"{item}-variant",
      "parent_asin": item,
      "user_id": user,
      "timestamp": time,
      "helpful_vote": 0,
      "verified_purchase": True,
    }
  )


def meta_2023(item, **other):
  """A line of meta_CATEGORY.jsonl.gz."""
  said = {
    "main_category": "Video Games",
    "title": "Lurk, the game",
    "average_rating": 4.8,
    "rating_number": 10,
    "features": ["plain"],
    "description": ["One.", "Two  lines."],
    "price": None,
    "images": [{"hi_res": None}],
    "videos": [],
    "store": "Lurkers",
    "categories": ["Video Games", "PC", "Games"],
    "details": {"Brand": "LURK", "Weight": "1 lb"},
    "parent_asin": item,
    "bought_together": None,
  }
  return json.dumps(said | other)


def review_yelp(user, item, date, stars=4.0):
  """A line of yelp_academic_dataset_review.json."""
  return json.dumps(
    {
      "review_id": "xQY8N_XvtGbearJ5X4QryQ",
      "user_id": user,
      "business_id": item,
      "stars": stars,
      "useful": 0,
      "funny": 0,
      "cool": 0,
      "text": "As someone\nwho has worked …",
      "date": date,
    }
  )


def business_yelp(item, name="Arizona Biltmore", categories="Golf, Active Life, Golf"):
  """A line of yelp_academic_dataset_business.json."""
  return json.dumps(
    {
      "business_id": item,
      "name": name,
      "city": "Phoenix",
      "stars": 3.0,
      "attributes": {"GoodForKids": "False"},
      "categories": categories,
      "hours": None,
    }
  )


def block(users, items, first_time=1_000_000_000, step=86_400):
  """Every user with every item, one a day: (user, item, time)."""
  return [
    (user, item, first_time + step * place)
    for user in users
    for place, item in enumerate(items)
  ]


def write(path, lines):
  """Lines as the file's name says: packed by gzip or not."""
  path.parent.mkdir(parents=True, exist_ok=True)
  content = "".join(line + "\n" for line in lines)
  content = content.encode("latin-1" if path.suffix == ".dat" else "utf-8")
  path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
  return path


def pack(path, members):
  """A zip archive of {name: lines}, their texts in Latin-1."""
  path.parent.mkdir(parents=True, exist_ok=True)
  with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
    for name, lines in members.items():
      archive.writestr(name, "".join(f"{line}\n" for line in lines).encode("latin-1"))
  return path
