"""Plans a study: a base configuration, axes, and how points are chosen."""

from collections.abc import Iterable, Mapping, Sequence
import itertools
import json
import math
from typing import Any, NamedTuple

from lightlm_jax import config as config_lib
from lightlm_jax.config import Card, RunConfig
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.studies import axes as axes_lib
from lightlm_jax.studies.axes import Point, Range, Values

FILE = "study.json"  # in the study's folder: its definition and storage
SEARCHES = ("grid", "random", "tpe")
_NOTHING = "nothing is varied; give --vary=FIELD=VALUE,VALUE, such as --vary=depth=2,4"


class Plan(NamedTuple):
  """What defines the trials of a study; `points` is None if they will be drawn."""

  base: str  # config file or bare name of a run, with its preset
  fixed: dict[str, Any]  # overrides for all trials, by dotted field
  run: RunConfig  # the base configuration with the overrides in `fixed`
  axes: dict[str, Values]  # all values of each axis; `seed` is the last axis
  search: str  # one of SEARCHES
  search_seed: int  # seed of random search and TPE
  trials: int  # number of points
  points: list[Point] | None  # all points of a grid, in order; None if they are drawn


def of_study(config: Card, vary: Sequence[str] = ()) -> Plan:
  """Builds the plan of a study's config; configs/scaling.py is an example.

  Each `axis=value,value` in `vary` replaces or adds an axis; `axis=` removes it.

  Raises:
    UserError: the search, an axis, a value or the number of points is invalid.
  """
  if config.search not in SEARCHES:
    raise UserError(
      f"config.search is {config.search!r}; choose one of {', '.join(SEARCHES)}"
    )
  if not config.search_seed >= 0:
    raise UserError(f"config.search_seed is {config.search_seed}; it must be 0 or more")
  fixed = config_lib.flatten(config.run.to_dict())
  groups = [config.axes.to_dict()]
  if config.search == "grid":
    groups += config.also.to_dict().values()
    return _of_grids(config.base, fixed, groups, config.seeds, vary)
  # A search draws from `axes` only; the further grids in `also` are chosen by hand.
  run, (axes,) = _grids(config.base, fixed, groups, config.seeds, vary)
  return _drawn(config, fixed, run, axes)


def of_run(base: str, overrides: Mapping[str, Any], vary: Sequence[str]) -> Plan:
  """Plans a grid over the axes in `vary`, for the config `base` with `overrides`."""
  return _of_grids(base, dict(overrides), [{}], (), vary)


def overrides(plan: Plan, point: Point) -> dict[str, Any]:
  """Returns {dotted field: value}, a trial's changes to the base configuration."""
  return plan.fixed | axes_lib.fields_of(plan.run, point)


def config_of(plan: Plan, point: Point) -> RunConfig:
  """Returns a point's configuration; raises a UserError if it cannot be trained."""
  config = config_lib.load(plan.base, overrides=overrides(plan, point))
  config_lib.check(config)
  config_lib.check_batches(config, 1)
  if config.split.kind == "none":
    raise UserError(
      "config.split.kind is 'none', but a study compares by validation; choose "
      "leave_one_out"
    )
  return config


def check(plan: Plan) -> None:
  """Raises a UserError if any point cannot be trained.

  If points are to be drawn, it checks the first 10,000 combinations of the axes'
  values; of a range it takes only the two ends.
  """
  points = plan.points
  if points is None:
    ends = {
      name: (values.low, values.high) if isinstance(values, Range) else values
      for name, values in plan.axes.items()
    }
    points = list(itertools.islice(_product(ends), 10_000))
  errors = []
  for point in points:
    try:
      config_of(plan, point)
    except UserError as error:
      errors.append(f"{axes_lib.name_of(point)}: {error}")
  if errors:
    of = f"{len(errors)} of {len(points)} points" if len(points) > 1 else "the point"
    raise UserError(f"{of} cannot be trained; the first is {errors[0]}")


def definition(plan: Plan) -> dict[str, Any]:
  """Returns what defines a study, such as its axes and seeds, as values for JSON."""
  axes = {
    name: str(values) if isinstance(values, Range) else list(values)
    for name, values in plan.axes.items()
  }
  seeds = axes.pop("seed")
  return {
    "base": {"config": plan.base, "overrides": plan.fixed},
    "run": json.loads(config_lib.to_json(plan.run)),
    "axes": axes,
    "seeds": seeds,
    "search": plan.search,
    "search_seed": plan.search_seed,
    "trials": plan.trials,
    "points": plan.points and [axes_lib.name_of(point) for point in plan.points],
  }


def differences(old: Mapping[str, Any], plan: Plan) -> list[str]:
  """Returns the plan's differences from the definition `old`, as "field: old → new".

  More trials of a random search or TPE do not count as a difference. Another base or
  other overrides do not count either if they make the same configuration.
  """
  new = json.loads(json.dumps(definition(plan)))
  found = config_lib.differences(old["run"], plan.run)
  ignored = {"run", "base", "points"}
  if plan.points is None and old["trials"] <= plan.trials:
    ignored.add("trials")
  for name, value in new.items():
    if name not in ignored and old.get(name) != value:
      found.append(f"{name}: {json.dumps(old.get(name))} → {json.dumps(value)}")
  if not found and old.get("points") != new["points"]:
    found.append("other points of the same axes")
  return found


def _of_grids(base, fixed, groups, seeds, vary) -> Plan:
  """Builds the plan of all grids; an axis that a grid lacks takes the base's value."""
  run, grids = _grids(base, fixed, groups, seeds, vary)
  names = _in_order(name for grid in grids for name in grid)
  points = {}
  for grid in grids:
    for name, values in grid.items():
      if isinstance(values, Range):
        raise UserError(
          f"axis {name} is the range {values}, which a grid cannot list; give values, "
          "or --config.search=random"
        )
    whole = {name: grid.get(name) or (axes_lib.value_in(run, name),) for name in names}
    for name, values in whole.items():
      if values == (None,):
        raise UserError(f"a grid has no {name}, and the base has no single value of it")
    points |= {axes_lib.name_of(point): point for point in _product(whole)}
  points = list(points.values())
  if len(names) == 1 and len(points) == 1:
    raise UserError(_NOTHING)
  axes = {name: tuple(dict.fromkeys(p[name] for p in points)) for name in names}
  return Plan(base, fixed, run, axes, "grid", 0, len(points), points)


def _grids(base, fixed, groups, seeds, vary):
  """Returns `base` with overrides `fixed`, and {axis: values} of each grid in `groups`.

  A grid without seeds gets `seeds`. An axis in `vary` is added to every grid, or
  replaces the axis of the same name; an axis without values is removed.
  """
  run = config_lib.load(base, overrides=fixed)
  given = {}
  for name, values in map(axes_lib.parse, vary):
    if name in given:
      raise UserError(f"--vary gives {name} twice; write all its values once")
    given[name] = values
  grids = []
  for group in groups:
    listed = {"seed": seeds} | config_lib.flatten(group) | given
    listed["seed"] = listed["seed"] or (run.seed,)
    grid = {}
    for name in _in_order(name for name, values in listed.items() if values):
      values = listed[name]
      texts = [values] if isinstance(values, str) else values
      grid[name] = axes_lib.values_of(name, texts, run)
    grids.append(grid)
  axes_lib.check_apart({name: None for grid in grids for name in grid})
  return run, grids


def _in_order(names: Iterable[str]) -> list[str]:
  """Returns the distinct axes, with shapes first and the seed last."""
  place = {name: n for n, name in enumerate(axes_lib.SHAPES)} | {"seed": math.inf}
  return sorted(dict.fromkeys(names), key=lambda name: place.get(name, len(place)))


def _product(axes: Mapping[str, Sequence[Any]]) -> Iterable[Point]:
  """Yields a point for every combination of values; the last axis changes fastest."""
  return (dict(zip(axes, values)) for values in itertools.product(*axes.values()))


def _drawn(config, fixed, run: RunConfig, axes: dict[str, Values]) -> Plan:
  if len(axes) == 1:
    raise UserError(_NOTHING)
  if len(axes["seed"]) != 1 or isinstance(axes["seed"], Range):
    raise UserError(
      f"config.search is {config.search!r}, which takes one seed; train the best "
      "points with more seeds as a grid"
    )
  if config.trials < 1:
    raise UserError(
      f"config.trials is {config.trials}; give the number of points of "
      f"{config.search}, such as --config.trials=20"
    )
  size = math.prod(map(axes_lib.size, axes.values()))
  if config.trials > size:
    raise UserError(
      f"config.trials is {config.trials}, but the axes have {size} points; give "
      f"--config.search=grid, or at most {size} trials"
    )
  seed = config.search_seed
  return Plan(config.base, fixed, run, axes, config.search, seed, config.trials, None)
