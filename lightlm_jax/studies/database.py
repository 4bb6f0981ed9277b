"""Where a study's trials are kept: a journal beside it, a database, or its proxy."""

from collections.abc import Iterator
import contextlib
import hashlib
import importlib.util
import json
import pathlib
import re
import sys
import time
import warnings

import optuna
import sqlalchemy.exc

from lightlm_jax.runtime.errors import UserError
from lightlm_jax.studies import plan as plan_lib
from lightlm_jax.studies.plan import Plan

# Tables are made in less; a database that does not make them says so after all.
TABLE_ATTEMPTS, TABLE_SECONDS = 5, 1.0

optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


def open_study(workdir: pathlib.Path, plan: Plan, storage: str | None) -> optuna.Study:
  """The study of a plan, made or found.

  Args:
    workdir: where the journal is, if `storage` names no other place.
    plan: what the study is, wherever its hosts have the data; in a database another
      one is another study, and so is the same one in a folder of another name.
    storage: a database as SQLAlchemy writes it (postgresql://…), or grpc://host:port of
      an Optuna proxy.

  Raises:
    UserError: the storage cannot be had.
  """
  definition = plan_lib.definition(plan)
  for name in ("base", "trials"):  # in which two starts of one study may differ
    del definition[name]
  definition["run"].get("data", {}).pop("dir", None)
  text = json.dumps(definition, sort_keys=True)
  name = f"{workdir.name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
  with _one_line(storage or workdir / "journal.log"):
    return optuna.create_study(
      storage=_storage(workdir, storage),
      study_name=name,
      direction="maximize",
      load_if_exists=True,
      sampler=optuna.samplers.RandomSampler(),
    )


def shown(url: object) -> str:
  """An address without its password."""
  return re.sub("//.*@", "//…@", str(url))


@contextlib.contextmanager
def told(workdir: pathlib.Path) -> Iterator[None]:
  """Inside, what breaks of the folder or the storage is told in one line."""
  try:
    yield
  except Exception as error:
    grpc = sys.modules.get("grpc")
    known = (OSError, optuna.exceptions.StorageInternalError)
    if not isinstance(error, known + ((grpc.RpcError,) if grpc else ())):
      raise
    raise UserError(
      f"{workdir} or its storage: {_first_line(error)}; start again to go on"
    )


def _first_line(error: BaseException) -> str:
  return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _storage(workdir: pathlib.Path, url: str | None):
  if url is None:
    journal = optuna.storages.journal
    backend = journal.JournalFileBackend(str(workdir / "journal.log"))
    return optuna.storages.JournalStorage(backend)
  if not url.startswith("grpc://"):
    return _database(url)
  if importlib.util.find_spec("grpc") is None:
    raise UserError(f"--storage={url} wants grpcio; install with pip install grpcio")
  host, _, port = url.removeprefix("grpc://").rstrip("/").rpartition(":")
  if not host or not port.isdecimal():
    raise UserError(f"--storage={url} is not understood; write grpc://host:port")
  proxy = optuna.storages.GrpcStorageProxy(host=host, port=int(port))
  proxy.wait_server_ready(timeout=30)
  return proxy


def _database(url: str) -> optuna.storages.RDBStorage:
  """Optuna makes the tables if there are none; of hosts that come at once one can."""
  for _ in range(TABLE_ATTEMPTS - 1):
    try:
      return optuna.storages.RDBStorage(url)
    except sqlalchemy.exc.IntegrityError:
      pass
    except sqlalchemy.exc.DBAPIError as error:
      if "already exists" not in str(error):
        raise
    time.sleep(TABLE_SECONDS)
  return optuna.storages.RDBStorage(url)


@contextlib.contextmanager
def _one_line(where):
  try:
    yield
  except UserError:
    raise
  except Exception as error:  # each database has errors of its own
    if isinstance(error, ImportError):  # Optuna does not say which module it misses
      error = error.__cause__ or error
    raise UserError(f"cannot open the study in {shown(where)}: {_first_line(error)}")
