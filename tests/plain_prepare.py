"""What prepare has to find in a delimited file, character by character in Python."""

from collections import Counter
import dataclasses
import datetime
import hashlib
import math
import re

import numpy as np

from lightlm_jax.data import interactions
from lightlm_jax.preprocess import delimited as lines
from lightlm_jax.preprocess import rows

SPACE = "\t\n\x0b\x0c\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(
  map(chr, range(0x2000, 0x200B))
)
NUMBER = r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?"
BEGIN, END = -62_135_596_800, 253_402_300_800  # the years 1 to 9999
FIRST, LAST = 631_152_000 * 10**6, 4_102_444_800 * 10**6  # 1990 to 2100
NULLS = ("NA", "NULL", "null", "\\N", "None", "none", "nan", "NaN", "<NA>", "-1")


def physical_lines(content):
  """(number, bytes), whatever ends a line; no byte order mark."""
  content = content.removeprefix(b"\xef\xbb\xbf")
  content = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
  found = content.split(b"\n")
  return list(enumerate(found if found[-1] else found[:-1], start=1))


def fields_of(text, delimiter, quotes):
  """The fields; "open" where a quote is not closed; None where quotes do not match."""
  if not quotes:
    return text.split(delimiter)
  fields, at = [], 0
  while True:
    if text[at : at + 1] == '"':
      end, value = at + 1, ""
      while True:
        close = text.find('"', end)
        if close < 0:
          return "open"
        value += text[end:close]
        if text[close + 1 : close + 2] != '"':
          break
        value, end = value + '"', close + 2
      fields.append(value)
      at = close + 1
      if at < len(text) and text[at] != delimiter:
        return None
    else:
      end = text.find(delimiter, at)
      fields.append(text[at:] if end < 0 else text[at:end])
      at = len(text) if end < 0 else end
    if at >= len(text):
      return fields
    at += 1


def read(content, delimiter=",", quotes=True):
  """The header, rows as (line, fields), and Counter of what is no row."""
  found = []
  for number, raw in physical_lines(content):
    try:
      found.append((number, raw.decode()))
    except UnicodeDecodeError:
      found.append((number, None))
  while found and found[0][1] is not None and not found[0][1].strip(" "):
    found.pop(0)
  if not found:
    return None, [], Counter()
  header = fields_of(found.pop(0)[1], delimiter, quotes)
  kept, bad, at = [], Counter(), 0
  while at < len(found):
    number, text = found[at]
    at += 1
    if text is None:
      bad["not_utf8"] += 1
      continue
    if not text.strip(" "):
      continue
    fields = fields_of(text, delimiter, quotes)
    if fields == "open":
      joined = text
      for more in range(at, min(at + lines.MOST_JOINED - 1, len(found))):
        if found[more][1] is None:
          break
        joined += "\n" + found[more][1]
        fields = fields_of(joined, delimiter, quotes)
        if fields != "open":
          break
      if isinstance(fields, list) and len(fields) == len(header):
        kept.append((number, fields))
        at = more + 1
      else:
        bad["quotes"] += 1
    elif fields is None:
      bad["quotes"] += 1
    elif len(fields) != len(header):
      bad["columns"] += 1
    else:
      kept.append((number, fields))
  return header, kept, bad


def is_quoted(content, delimiter):
  """Whether a TSV file, short enough to be looked at whole, has quoted fields."""
  texts = [raw.decode(errors="replace") for _, raw in physical_lines(content)]
  found = [fields_of(text, delimiter, True) for text in texts]
  begins = any(f.startswith('"') for text in texts for f in text.split(delimiter))
  return begins and all(isinstance(fields, list) for fields in found)


def micros(text, unit):
  """Microseconds since 1970, None of what is no time of that unit."""
  text = text.strip(SPACE)
  if unit == "iso":
    return _iso(text)
  a_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}.get(unit)
  is_whole = re.fullmatch(r"[+-]?[0-9]+", text)
  if unit == "epoch":
    read = (micros(text, unit) for unit in ("s", "ms", "us", "ns"))
    return next((x for x in read if x is not None and FIRST <= x < LAST), None)
  if is_whole and -(2**63) <= int(text) < 2**63:
    found = int(text) * 10**6 // a_second
  elif re.fullmatch(r"[+-]?[0-9]+(\.[0-9]*)?([eE]\+?[0-9]+)?", text):
    value = float(text)
    found = round(value * (10**6 / a_second)) if abs(value) < 1e30 else END * 10**6
  else:
    return None
  return found if BEGIN * 10**6 <= found < END * 10**6 else None


def _iso(text):
  match = re.fullmatch(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})(?:[T ]([0-9]{2}):([0-9]{2})(?::([0-9]{2})"
    r"(?:[.,]([0-9]{1,9}))?)?( ?(?:Z|z|UTC|[+-][0-9]{2}(?::?[0-9]{2})?))?)?",
    text,
  )
  if not match:
    return None
  day, hour, minute, second, fraction, zone = (part or "" for part in match.groups())
  try:
    begin = datetime.datetime.strptime(day + " +0000", "%Y-%m-%d %z")
  except ValueError:
    return None
  hour, minute, second = (int(part or 0) for part in (hour, minute, second))
  if hour > 23 or minute > 59 or second > 60:
    return None
  away = re.sub(r"[^0-9]", "", zone)
  away = (
    (int(away[:2] or 0) * 60 + int(away[2:] or 0)) * 60 * (-1 if "-" in zone else 1)
  )
  seconds = round(begin.timestamp()) + hour * 3_600 + minute * 60 + second - away
  found = seconds * 10**6 + int((fraction + "000000")[:6])
  return found if BEGIN * 10**6 <= found < END * 10**6 else None


def an_id(text):
  """An id as prepare writes it; "" of what stands for none."""
  text = re.sub(r"^(-?[0-9]+)\.0$", r"\1", text.strip(SPACE))
  return "" if text in NULLS else text


def valid(kept, roles, unit, min_rating):
  """(user, item, micros, line) of good rows; rejected and filtered as Counters."""
  good, bad, filtered = [], Counter(), Counter()
  for line, fields in kept:
    user, item = (an_id(fields[roles[role]]) for role in ("user", "item"))
    time = micros(fields[roles["time"]], unit) if unit else 0
    rating = None
    if min_rating is not None:
      text = fields[roles["rating"]].strip(SPACE)
      # Python's own reader takes digits of every script, and 1_0.
      is_number = re.fullmatch(NUMBER, text)
      rating = float(text) if is_number else math.nan
    if not user:
      bad["no_user"] += 1
    elif not item:
      bad["no_item"] += 1
    elif "\0" in user + item:
      bad["nul"] += 1
    elif max(len(user), len(item)) > rows.LONGEST:
      bad["too_long"] += 1
    elif unit and time is None:
      bad["bad_time"] += 1
    elif rating is not None and not math.isfinite(rating):
      bad["bad_rating"] += 1
    elif rating is not None and rating < min_rating:
      filtered["low_rating"] += 1
    else:
      good.append((user, item, time, line))
  return good, bad, filtered


def tie(user, item):
  """What orders a user's rows of one time, by --ties=hash."""

  def halves(raw, seed):
    key = seed.to_bytes(8, "little")
    digest = hashlib.blake2b(raw.encode(), digest_size=16, key=key).digest()
    return divmod(int.from_bytes(digest, "big"), 2**64)

  return (halves(user, 0)[1] | 1) * halves(item, 2)[0] % 2**64


def settled(
  good, *, duplicates="keep", max_len=0, k_core=0, min_len=1, ties="hash", timed=True
):
  """User → [(micros, item)], and what was filtered."""
  by_user, filtered = {}, Counter()
  is_hashed = timed and ties == "hash"
  for user, item, time, _ in sorted(  # stable
    good, key=lambda row: (row[2], tie(row[0], row[1]) if is_hashed else 0)
  ):
    by_user.setdefault(user, []).append((time, item))
  for user, row in by_user.items():
    if duplicates == "exact":
      new = list(dict.fromkeys(row))
    elif duplicates == "first":
      new = [p for n, p in enumerate(row) if p[1] not in [q[1] for q in row[:n]]]
    elif duplicates == "last":
      new = [p for n, p in enumerate(row) if p[1] not in [q[1] for q in row[n + 1 :]]]
    else:
      new = row
    filtered["duplicate"] += len(row) - len(new)
    if max_len:
      filtered["max_len"] += max(0, len(new) - max_len)
      new = new[-max_len:]
    by_user[user] = new
  while True:
    by_user = {u: row for u, row in by_user.items() if len(row) >= max(min_len, k_core)}
    many = Counter(item for row in by_user.values() for _, item in row)
    cut = {u: [p for p in row if many[p[1]] >= k_core] for u, row in by_user.items()}
    if cut == by_user:
      return by_user, filtered
    by_user = cut


def log_of(by_user, timed=True):
  """As the project numbers it."""
  log = interactions.from_sequences(
    [(user, [item for _, item in row]) for user, row in by_user.items()],
    times=[[time // 10**6 for time, _ in row] for row in by_user.values()]
    if timed
    else None,
  )
  micros_E = [time for user in log.user_ids.tolist() for time, _ in by_user[user]]
  fraction_E = np.array([time % 10**6 for time in micros_E], np.int32)
  is_finer = timed and fraction_E.any()
  return dataclasses.replace(log, fraction_E=fraction_E if is_finer else None)
