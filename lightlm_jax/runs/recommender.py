"""A recommender for programs and notebooks: fit, recommend, evaluate, save, load.

    from lightlm_jax import Recommender

    model = Recommender.from_config("sasrec:tiny", train__steps=200).fit(interactions)
    model.recommend(users=["anna"], k=5)
    model.recommend(histories={"somebody new": ["B00X", "B00Y"]})
    model.save("model")

A fitted recommender is a run like those of `python -m lightlm_jax.train`, with a copy
of its log in its folder: every command with --workdir accepts that folder.

The modules for training, restoring and serving take a second to import (Orbax, SciPy,
pyarrow), so methods import them when needed.
"""

from collections.abc import Iterable, Mapping, Sequence
import os
import tempfile
from typing import TYPE_CHECKING, Any, Self
import warnings

from etils import epath
import numpy as np
import polars

from lightlm_jax import config as config_lib
from lightlm_jax.config import Card, RunConfig
from lightlm_jax.runtime import log
from lightlm_jax.runtime import mesh as mesh_lib
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.storage import workdir as workdir_lib

if TYPE_CHECKING:
  from lightlm_jax.inference import queries as queries_lib
  from lightlm_jax.inference import serve
  from lightlm_jax.runs.context import Run
  from lightlm_jax.runs.results import Results


class Recommender:
  """A system that is fitted to a log and recommends by raw ids, which are strings.

  Errors that the caller can fix, such as calling a method before `fit` or naming a file
  that cannot be read, are raised as runtime.errors.UserError with a one-line message.
  """

  def __init__(
    self, config: RunConfig | Card, *, workdir: epath.PathLike | None = None
  ):
    """Creates a recommender that is not fitted yet.

    Args:
      config: the run's configuration; `from_config` takes a name and overrides too.
      workdir: the folder where `fit` saves the run and resumes it after a kill; None =
        a temporary folder, which is removed together with this object.
    """
    self._config = config_lib.typed(config)
    self._workdir = None if workdir is None else workdir_lib.absolute(workdir)
    self._temporary = None
    self._run: Run | None = None
    self._served: serve.Served | None = None
    self._index: queries_lib.IdIndex | None = None

  @classmethod
  def from_config(
    cls,
    config: str | RunConfig | Card,
    *,
    workdir: epath.PathLike | None = None,
    **overrides: Any,
  ) -> Self:
    """Creates a recommender from a config file or a configuration.

    Args:
      config: a config file or its name ("toys", "toys:small"), or a configuration.
      workdir: the folder of the run; None = a temporary one, see `__init__`.
      **overrides: fields, with two underscores for a dot: train__steps=200,
        system="ease", split__kind="none" (learn from everything, hold nothing out).
    """
    fields = {name.replace("__", "."): value for name, value in overrides.items()}
    typed = config_lib.replace(config_lib.typed(config), fields)
    return cls(typed, workdir=workdir)

  @property
  def workdir(self) -> epath.Path:
    """The folder of the run, for commands with --workdir."""
    return self._fitted().workdir

  def fit(self, interactions: Any = None, items: Any = None) -> Self:
    """Trains as `python -m lightlm_jax.train` does; returns this recommender.

    Prints the same lines; see runtime/log.py to silence them.

    Args:
      interactions: a table (pandas, polars, Arrow) with the columns `user`, `item` and
        perhaps `timestamp`, see `tables.dataset`; a file or glob that `prepare` reads,
        or a folder that it wrote; None = the log of the configuration.
      items: a table or file with the column `item`, and title, brand, category or
        description: for systems that read texts, and for `recommend(text=True)`.
    """
    from lightlm_jax.data import datasets, parquet_logs  # noqa: PLC0415, slow
    from lightlm_jax.preprocess import tables  # noqa: PLC0415, slow
    from lightlm_jax.runs import members, restore  # noqa: PLC0415, slow
    from lightlm_jax.runs import train as train_lib  # noqa: PLC0415, slow

    config, fields = self._config, {}
    is_path = isinstance(interactions, str | os.PathLike)
    if isinstance(config, config_lib.EnsembleConfig):
      if interactions is not None or items is not None:
        raise UserError("an ensemble has its members' log; call fit() without one")
      config, dataset, _ = members.find_log(config)
    elif interactions is None or (is_path and epath.Path(interactions).is_dir()):
      if items is not None:
        raise UserError("items go with a table or file; a folder has its items.tsv")
      if interactions is not None:
        folder = workdir_lib.absolute(interactions)
        fields = {"data.dir": str(folder.parent), "data.name": folder.name}
      dataset = datasets.load(config_lib.replace(config, fields))
    else:
      fields = {"data.name": "interactions"}
      table = tables.dataset(interactions, items)
      dataset = datasets.long_enough(table, config)
    # The workdir gets a copy of the log.
    fields |= {"data.dir": "", "data.share": 1.0}
    config = config_lib.replace(config, fields)
    workdir = self._workdir
    if workdir is None:
      self._temporary = tempfile.TemporaryDirectory(prefix="lightlm_jax-")
      workdir = epath.Path(self._temporary.name)
    _, run = train_lib.train_run(config, workdir, dataset)
    parquet_logs.write_snapshot(dataset, workdir / restore.LOG)
    # A run that had finished before must be restored from disk; one that was trained on
    # another mesh must move to the mesh that serves.
    if run is None or run.mesh != mesh_lib.make(-1, 1):
      run = restore.load(workdir)
    self._run, self._served, self._index = run, None, None
    return self

  def recommend(
    self,
    users: Iterable[str | int] | None = None,
    histories: Mapping[Any, Sequence[str | int]]
    | Sequence[Sequence[str | int]]
    | None = None,
    *,
    k: int = 10,
    exclude_seen: bool = True,
    allow: Iterable[str | int] | None = None,
    deny: Iterable[str | int] | None = None,
    text: bool = False,
  ) -> polars.DataFrame:
    """Recommends items for `users` or `histories`; for all users if neither is given.

    The history of a user of the log includes the held-out items. Users without a
    history, and items outside the catalogue, are left out with a warning.

    Args:
      users: N raw ids.
      histories: the items of N users, oldest first: a mapping from the users' names, or
        a list, whose users are called 0, 1, ….
      k: K, the most items that a user gets.
      exclude_seen: whether to exclude the items of a user's history.
      allow: raw ids of the only items that may be recommended; None = all.
      deny: raw ids of items that may not be recommended; None = none.
      text: whether to add a column `text` with the items' titles.

    Returns:
      At most N × K rows: `user` and `item` (text), `rank` (int32, from 1), `score`
      (float32, comparable within a user; a log-probability for systems that write ids).

    Raises:
      UserError: `fit` was not called, no user can be served, or no item is allowed.
    """
    from lightlm_jax.inference import queries as queries_lib  # noqa: PLC0415, slow
    from lightlm_jax.inference import serve  # noqa: PLC0415, slow
    from lightlm_jax.runs import restore  # noqa: PLC0415, slow

    run = self._fitted()
    if users is not None and histories is not None:
      raise UserError("users and histories are given; ask for one after the other")
    if not isinstance(k, int | np.integer) or isinstance(k, bool) or k < 1:
      raise UserError(f"k is {k!r}; ask for a whole number of items, at least 1")
    for name, value in (("exclude_seen", exclude_seen), ("text", text)):
      if not isinstance(value, bool | np.bool_):
        raise UserError(f"{name} is {value!r}; give True or False")
    titles = restore.titles(run.dataset, run.config) if text else None
    if self._index is None:
      self._index = queries_lib.id_index(run.dataset.log)
    rows = None if histories is None else _rows(histories)
    queries = queries_lib.select(self._index, _raw(users, "users"), rows)
    lines = queries_lib.check(queries)
    lists = _raw(allow, "allow"), _raw(deny, "deny")
    allowed_I, lost = queries_lib.allowed_items(self._index, *lists)
    for line in [*lines, *queries_lib.notes(queries, lost, run.built.system)]:
      warnings.warn(line, stacklevel=2)
    if self._served is None:
      batch_size = run.config.train.eval_batch_size
      self._served = serve.ready(run.built, run.params, run.mesh, batch_size)
    found = serve.recommend(
      self._served,
      queries.requests,
      k=min(k, run.dataset.log.num_items),
      exclude_seen=exclude_seen,
      allowed_I=allowed_I,
    )
    for line in queries_lib.left_without(queries.names, found[0]):
      warnings.warn(line, stacklevel=2)
    table = serve.table(queries.names, *found, run.dataset.log.item_ids, titles)
    return polars.DataFrame(table)

  def evaluate(self, split: str = "test") -> "Results":
    """Evaluates on the held-out items, as `python -m lightlm_jax.evaluate` does.

    Args:
      split: "test", or "validation" to choose between models.

    Returns:
      The results, which are also written to the workdir: see runs/results.py. `metrics`
      holds means over users by rule, seen_excluded and seen_allowed.
    """
    from lightlm_jax.runs.evaluate import evaluate_run  # noqa: PLC0415, slow

    run = self._fitted()
    if split not in ("test", "validation"):
      raise UserError(f"split is {split!r}; give test or validation")
    return evaluate_run(run, split)

  def save(self, path: epath.PathLike) -> None:
    """Copies the run, with its log, to a new folder."""
    workdir = self._fitted().workdir
    path = workdir_lib.absolute(path)
    if path.exists():
      raise UserError(f"{path} exists already; remove it, or give another path")
    workdir_lib.copy(workdir, path)

  @classmethod
  def load(cls, path: epath.PathLike, *, strict: bool = False) -> Self:
    """Loads a recommender from a folder that `save` wrote, or from a run's workdir.

    If the newest checkpoint is damaged, the one before it is used, with a warning; with
    `strict` that is an error.
    """
    from lightlm_jax.runs import restore  # noqa: PLC0415, slow

    log.set_up()
    run = restore.load(path, strict=strict)
    loaded = cls(run.config, workdir=run.workdir)
    loaded._run = run
    return loaded

  def _fitted(self) -> "Run":
    if self._run is None:
      raise UserError("this recommender has learned nothing yet; call fit, or load one")
    return self._run


def _rows(
  histories: Mapping[Any, Any] | Sequence[Any],
) -> list[tuple[str, list[str] | None]]:
  """Returns pairs (user name, items); users of a list are called 0, 1, ….

  None as the items of a named user means those of the log.
  """
  if isinstance(histories, Mapping):
    names = _ids(histories, "names of users")
    found = [_raw(items, "a history") for items in histories.values()]
  else:
    found = [_ids(items, "a history") for items in _listed(histories, "histories")]
    names = map(str, range(len(found)))
  return list(zip(names, found))


def _raw(ids: Iterable[Any] | None, what: str) -> list[str] | None:
  """Converts raw ids as `_ids` does; None stays None."""
  return None if ids is None else _ids(ids, what)


def _ids(ids: Iterable[Any], what: str) -> list[str]:
  """Converts raw ids, strings or integers (also numpy's), to strings.

  `what` names the argument in error messages.
  """
  found = [id.item() if isinstance(id, np.generic) else id for id in _listed(ids, what)]
  for id in found:
    # A lone surrogate, such as "\ud800", can be written nowhere.
    whole = str(id).encode("utf-8", "ignore").decode()
    if type(id) not in (str, int) or str(id) != whole:
      raise UserError(f"{what}: {id!r:.60} is no id; ids are texts or whole numbers")
  return [str(id) for id in found]


def _listed(given: Any, what: str) -> list[Any]:
  """Returns the elements of an argument that should be a list."""
  if isinstance(given, str | bytes):
    raise UserError(f"{what}: {given!r:.60} is a text; give a list of ids")
  if not np.iterable(given):
    raise UserError(f"{what}: {given!r:.60} is no list; give a list of ids")
  # Arrow yields scalars of its own.
  as_python = getattr(given, "to_pylist", None)
  return list(given) if as_python is None else as_python()
