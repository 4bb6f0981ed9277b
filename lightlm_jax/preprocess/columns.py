"""Finds the columns of user, item, time, … by flags, by common names and by values."""

from collections.abc import Mapping, Sequence
import logging
import re
from typing import NamedTuple

from etils import epath
import polars as pl

from lightlm_jax.preprocess import headers, readers, times, values
from lightlm_jax.preprocess.files import Source
from lightlm_jax.preprocess.options import Options
from lightlm_jax.preprocess.values import Column
from lightlm_jax.runtime.errors import UserError

logger = logging.getLogger(__name__)

ROLES = ("user", "item", "time", "rating", "event")
# Names of a column that may be a time, if no column has one of KNOWN.
_MAY_BE_TIME = r"time|date|stamp|(?:^|_)(?:ts|at|dt|ms)(?:$|_)"
_MOST_KINDS = 20  # more different values are no kinds of events
# Numbers up to this are taken for a count that orders rows, if they are no dates.
_MOST_COUNTED = 10**11


class Times(NamedTuple):
  """How the columns of times are read; None = the log has no times."""

  unit: str | None  # a key of times.UNITS, or a format
  clock: str | None = None  # of times.CLOCKS, if a column is added to the date


def decide(
  found: Sequence[tuple[epath.Path, str]], options: Options
) -> tuple[list[Source], Times]:
  """Decides how to read each file of `found` (path, format); logs the decision.

  Returns the files, with their columns' roles, and how times are read.

  Raises:
    UserError: a file's columns are unclear, or files have columns for different roles.
  """
  sources: list[Source] = []
  for path, form in found:
    source = headers.named(path, form, options, sources[0] if sources else None)
    if source.names and not (source.header or options.columns or sources):
      source = headers.without_header(source, options)
    if source.names or form == "sequences":  # no empty files
      sources.append(source._replace(index=len(sources)))
  if not sources:
    raise UserError(f"{found[0][0]} is empty, as is every other file; give a log")
  if sources[0].form == "sequences":
    logger.info(f"{sources[0].path}: a line `user item item …` for each user")
    roles = {"user": 0, "item": 1}
    return [source._replace(roles=roles) for source in sources], Times(None)
  return with_roles(sources, options)


def with_roles(sources: list[Source], options: Options) -> tuple[list[Source], Times]:
  """Decides as `decide` does, for files or tables whose columns have names."""
  looks = [values.look(source) for source in sources]
  roles, why = {}, {}
  for n, (source, columns) in enumerate(zip(sources, looks)):
    found, reasons = _roles(source, columns, options)
    sources[n] = source._replace(roles=found)
    if n and found.keys() != roles.keys():
      raise UserError(
        f"{source.path} has {', '.join(found)}, and {sources[0].path} "
        f"{', '.join(roles)}; give files of one kind"
      )
    if not n:
      roles, why = found, reasons
  read = _times(sources, looks, options)
  filled = (n for n, columns in enumerate(looks) if len(columns[0].values))
  n = next(filled, 0)
  _show(sources[n], looks[n], read, why, options)
  if not options.keep and "event" in roles:
    for n, source in enumerate(sources):
      rest = {role: place for role, place in source.roles.items() if role != "event"}
      sources[n] = source._replace(roles=rest)
  return sources, read


def _roles(
  source: Source, columns: list[Column], options: Options
) -> tuple[dict[str, int], dict[str, str]]:
  """Returns the places of a file's columns by role, and why each was chosen.

  Raises:
    UserError: no column or no single one has a role that is needed.
  """
  roles, why = {}, {}
  proposed = _proposed(source, columns, options)
  for role in ROLES:
    if role == "rating" and options.min_rating is None:
      continue
    wanted = options.names.get(role)
    if role in proposed:
      roles[role], why[role] = source.names.index(proposed[role]), "as proposed, --yes"
      continue
    if wanted is not None:
      roles[role], why[role] = _given(source, role, wanted), "given"
      continue
    found = headers.known_in(source.names, headers.KNOWN[role])
    places = [_one(source, name) for name in found]
    choose = {"user": _user, "item": _item, "time": _time, "event": _event}.get(role)
    taken = set(roles.values())
    if choose is not None:
      chosen = choose(source, columns, [p for p in places if p not in taken], options)
    else:
      chosen = (places[0], "by its name") if places else None
    if chosen is not None:
      roles[role], why[role] = chosen
      if role in ("user", "item"):
        _check_type(source, columns[chosen[0]])
    elif role in ("user", "item", "rating"):
      _missing(source, role)
  _add_clock(source, columns, roles, why, options)
  history = headers.known_in(source.names, headers.HISTORY)
  if history and source.names.index(history[0]) in source.lists:
    roles["history"], why["history"] = source.names.index(history[0]), "by its name"
  return roles, why


def _user(source, columns, places, options) -> tuple[int, str] | None:
  odd = {place: values.objection(columns[place]) for place in places}
  fine = [place for place in places if odd[place] is None]
  if not places or odd[places[0]] is None:
    return (places[0], "by its name") if places else None
  name, reason = source.names[places[0]], odd[places[0]]
  if options.yes:
    return (fine or places)[0], f"{name!r} {reason}" if fine else "by its name, --yes"
  other = f"--user={source.names[fine[0]]}" if fine else "--user=NAME of another column"
  raise UserError(
    f"{name!r} of {source.path} {reason}; give {other}, or --user={name} to take it as "
    "it is"
  )


def _item(source, columns, places, options) -> tuple[int, str] | None:
  del source, options
  fine = [place for place in places if not columns[place].is_time]
  return (fine[0], "by its name") if fine else None


def _time(source, columns, places, options) -> tuple[int, str] | None:
  """Chooses the first column that has times finer than a day, or else days."""
  if options.time_unit:
    return (places[0], "by its name") if places else None
  reason = "by its name"
  if not places:
    named = [
      n for n, x in enumerate(source.names) if re.search(_MAY_BE_TIME, x.lower())
    ]
    places = [n for n in named if columns[n].readings]
    places = places or [n for n, column in enumerate(columns) if column.is_time]
    reason = "by its values"
  timed = [n for n in places if columns[n].readings]
  fine = [
    n for n in timed if times.has_clock(columns[n].readings[0], columns[n].values)
  ]
  chosen = (fine or timed or places)[:1]
  return (chosen[0], reason) if chosen else None


def _event(source, columns, places, options) -> tuple[int, str] | None:
  if options.keep and not places:
    raise UserError(
      f"--keep chooses kinds of events, and {source.path} has no column of them; give "
      "--event=NAME"
    )
  kinds = [n for n in places if 1 < columns[n].distinct <= _MOST_KINDS]
  chosen = (places if options.keep else kinds)[:1]
  return (chosen[0], "by its name") if chosen else None


def _add_clock(source, columns, roles, why, options) -> None:
  """Adds a column with the time of day to `roles`, if the time is a date alone."""
  place = roles.get("time")
  if place is None or options.time_unit not in (None, "iso"):
    return
  column = columns[place]
  if not column.readings or times.has_clock(column.readings[0], column.values):
    return
  for name in headers.known_in(source.names, headers.KNOWN["clock"]):
    other = source.names.index(name)
    if other not in roles.values() and times.clock(columns[other].values):
      roles["clock"], why["clock"] = other, f"{source.names[place]!r} is a date alone"
      return


def _times(sources, looks, options: Options) -> Times:
  """Returns how times are read; raises a UserError if it is unclear."""
  if "time" not in sources[0].roles:
    return Times(None)
  samples = [
    (source, columns[source.roles["time"]]) for source, columns in zip(sources, looks)
  ]
  filled = [(s, c) for s, c in samples if c.values.drop_nulls().len()]
  kind = None
  if "clock" in sources[0].roles:
    kind = times.clock(looks[0][sources[0].roles["clock"]].values)
  if options.time_unit:
    return Times(options.time_unit, kind)
  if not filled:
    raise UserError(
      f"{sources[0].path} begins with no row that has a time, as does every other "
      "file; give a log with rows, or --time_unit"
    )
  units = {}
  for source, column in filled:
    units.setdefault(_unit(source, column), source.path)
  if len(units) > 1:
    (one, path), (other, its) = list(units.items())[:2]
    raise UserError(
      f"times of {path} are {_words(one)}, of {its} {_words(other)}; prepare files of "
      "one kind, or give --time_unit or --time_format"
    )
  return Times(next(iter(units)), kind)


def _unit(source: Source, column: Column) -> str:
  """Returns the unit of a file's times; raises a UserError if it is unclear."""
  name, readings = column.name, column.readings
  if len(readings) == 1:
    return readings[0]
  if readings:
    first = column.values.drop_nulls()[0]
    ways = " or ".join(f"--time_format={form}" for form in readings)
    raise UserError(
      f"{str(first)!r} of {name!r} in {source.path} can be read in {len(readings)} "
      f"ways; give {ways}"
    )
  number = column.values.cast(pl.String).cast(pl.Float64, strict=False).drop_nulls()
  of_day = times.clock(column.values) in ("hhmm", "hhmmss", "text")
  counted = 2 * len(number) > len(column.values.drop_nulls()) and not number.is_empty()
  if counted and of_day and number.max() >= 100:  # pyright: ignore
    raise UserError(
      f"{name!r} of {source.path} is a time of day without a date; give --time=NAME of "
      "another column, or --time_unit=s if it only orders rows"
    )
  if counted and number.min() >= 0 and number.max() < _MOST_COUNTED:  # pyright: ignore
    logger.warning(
      f"{name!r} of {source.path} has numbers that are no dates after 1990: they only "
      "order rows (give --time=NAME of another column, or --time_unit, if they are not "
      "what orders them)"
    )
    return "s"
  advice = (
    f"--time_unit, one of {', '.join(times.UNITS)}, --time_format=FORMAT such as "
    "%d.%m.%Y, or --time=NAME of another column"
  )
  raise UserError(
    f"cannot tell the unit of {name!r} in {source.path} ({column.examples()}); give "
    + (advice if source.table is None else "dates, or seconds since 1970")
  )


def _words(unit: str) -> str:
  return times.UNITS.get(unit, f"of the form {unit}")


def _show(
  source: Source, columns, read: Times, why: Mapping[str, str], options: Options
) -> None:
  """Logs a table of the columns chosen, with examples and the span of times."""
  logger.info(f"columns of {source.path}:")
  if not source.header:
    logger.info(f"  no header: they are taken for {', '.join(source.names)}")
  width = max(len(f"{name!r}") for name in source.columns.values())
  for role, name in source.columns.items():
    column = columns[source.roles[role]]
    about = column.examples()
    if role == "time" and read.unit:
      about = _span(column, read.unit)
    elif role == "event":
      counts = column.values.drop_nulls().value_counts(sort=True).head(_MOST_KINDS)
      about = ", ".join(f"{kind} {number:,}" for kind, number in counts.iter_rows())
      about += " in the first rows" + (
        "" if options.keep else "; all are kept (--keep)"
      )
    reason = f"  [{why[role]}]" if options.explain or why[role][:2] != "by" else ""
    logger.info(f"  {role:7} {name!r:{width}}  {about}{reason}")
  if read.unit is None:
    logger.info("  no time: rows keep the order of the files")
  if options.explain:
    for column in columns:
      if column.name not in source.columns.values():
        logger.info(f"  –       {column.name!r:{width}}  {column.examples()}")


def _span(column: Column, unit: str) -> str:
  micros = times.micros(column.values, unit).drop_nulls()
  if unit == "s" and not column.readings:
    return f"{column.examples()} (numbers that order rows)"
  about = _words(unit)
  if unit == "epoch":
    names = {"s": "seconds", "ms": "milliseconds", "us": "microseconds"}
    sizes = [names.get(u, "nanoseconds") for u in times.magnitudes(column.values)]
    about = f"{' and '.join(sizes)} since 1970"
  if micros.is_empty():
    return about
  first, last = (
    pl.from_epoch(pl.Series([x]), "us")[0] for x in (micros.min(), micros.max())
  )
  return (
    f"{first:%Y-%m-%d %H:%M:%S} to {last:%Y-%m-%d %H:%M:%S} in the first rows ({about})"
  )


def _given(source: Source, role: str, wanted: str) -> int:
  if wanted not in source.names:
    raise UserError(
      f"{source.path} has no column {wanted!r} (--{role}); it has "
      f"{', '.join(source.names[:30])}"
    )
  return _one(source, wanted)


def _one(source: Source, name: str) -> int:
  if source.names.count(name) > 1:
    raise UserError(
      f"{source.path} has {source.names.count(name)} columns {name!r}; rename them"
    )
  return source.names.index(name)


def _check_type(source: Source, column: Column) -> None:
  """Raises a UserError if a Parquet column's type is that of no ids."""
  kind = None
  if source.table is not None:
    kind = source.table.schema.field(column.name).type
  elif source.form == "parquet":
    kind = readers.parquet_schema(epath.Path(source.path)).field(column.name).type
  if kind is not None and not readers.may_be_ids(kind):
    raise UserError(
      f"{column.name!r} of {source.path} is of type {kind}; ids are texts or whole "
      "numbers"
    )


def _proposed(source: Source, columns, options: Options) -> dict[str, str]:
  """Returns columns for users and items that neither a flag nor a known name tells.

  Raises:
    UserError: there are such, and the options do not say that they are taken.
  """
  known, names = {}, options.names
  for role in ("user", "item"):
    found = headers.known_in(source.names, headers.KNOWN[role])
    known[role] = names[role] if role in names else next(iter(found), None)
  missing = [role for role, name in known.items() if name is None]
  taken = {*known.values(), *names.values()}
  ids = [c for c in columns if c.name not in taken and values.may_be_ids(c)]
  if not missing or len(ids) < len(missing):
    return {}
  proposed = dict(zip(missing, ids))
  if not options.yes:
    shown = "; ".join(f"{role} {c.examples()}" for role, c in proposed.items())
    flags = " ".join(f"--{role}={c.name!r}" for role, c in proposed.items())
    listed = f"{source.path} has {', '.join(source.names[:30])}"
    if source.table is None:
      advice = f"if these are right ({shown}), give {flags} or --yes"
    else:
      advice = f"rename those that are {' and '.join(missing)}"
    raise UserError(f"cannot tell the {' and the '.join(missing)}: {listed}; {advice}")
  return {role: column.name for role, column in proposed.items()}


def _missing(source: Source, role: str) -> None:
  """Raises a UserError: no column has the role."""
  listed = ", ".join(source.names[:30])
  if role == "rating":
    raise UserError(
      f"{source.path} has no column of ratings, give --rating=NAME; has {listed}"
    )
  advice = f"--{role}=NAME, or --columns=NAME,NAME,… if no line has the names"
  raise UserError(
    f"cannot tell which column of {source.path} is the {role}; it has {listed}: "
    + (f"give {advice}" if source.table is None else f"rename it to {role!r}")
  )
