"""Opens the storage of a study's trials: a journal file, a database or a proxy."""

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
from optuna.storages import journal
import sqlalchemy.exc

from lightlm_jax.runtime.errors import UserError, first_line
from lightlm_jax.studies import plan as plan_lib
from lightlm_jax.studies.plan import Plan

optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


def open_study(workdir: pathlib.Path, plan: Plan, storage: str | None) -> optuna.Study:
  """Returns the Optuna study of a plan; creates it if there is none.

  Args:
    workdir: the study's folder; the Optuna study's name begins with the folder's name.
    plan: the study's plan; that name ends with a hash of what resuming must not change.
    storage: an SQLAlchemy URL (postgresql://…), or grpc://host:port of an Optuna proxy;
      None = journal.log in `workdir`.

  Raises:
    UserError: the storage cannot be opened.
  """
  definition = plan_lib.definition(plan)
  # These may change when a study is resumed.
  del definition["base"], definition["trials"], definition["run"]["data"]["dir"]
  text = json.dumps(definition, sort_keys=True)
  name = f"{workdir.name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
  try:
    return optuna.create_study(
      storage=_storage(workdir, storage),
      study_name=name,
      direction="maximize",
      load_if_exists=True,
    )
  except UserError:
    raise
  except Exception as error:  # every database driver has its own exceptions
    if isinstance(error, ImportError):  # Optuna does not name the missing module
      error = error.__cause__ or error
    where = shown(storage or workdir / "journal.log")
    raise UserError(f"cannot open the study in {where}: {first_line(error)}")


def shown(url: object) -> str:
  """Returns a URL without its user and password."""
  return re.sub("//.*@", "//…@", str(url))


@contextlib.contextmanager
def user_errors(workdir: pathlib.Path) -> Iterator[None]:
  """Turns I/O and storage errors in a `with` block into a UserError about `workdir`."""
  try:
    yield
  except Exception as error:
    grpc = sys.modules.get("grpc")
    known = (OSError, optuna.exceptions.StorageInternalError)
    if not isinstance(error, known + ((grpc.RpcError,) if grpc else ())):
      raise
    raise UserError(
      f"{workdir} or its storage: {first_line(error)}; start again to go on"
    )


def _storage(workdir: pathlib.Path, url: str | None):
  if url is None:
    backend = journal.JournalFileBackend(str(workdir / "journal.log"))
    return optuna.storages.JournalStorage(backend)
  if not url.startswith("grpc://"):
    return _database(url)
  if importlib.util.find_spec("grpc") is None:
    raise UserError(f"--storage={url} needs grpcio; install with pip install grpcio")
  host, _, port = url.removeprefix("grpc://").rstrip("/").rpartition(":")
  if not host or not port.isdecimal():
    raise UserError(f"--storage={url} is not understood; write grpc://host:port")
  proxy = optuna.storages.GrpcStorageProxy(host=host, port=int(port))
  proxy.wait_server_ready(timeout=30)
  return proxy


def _database(url: str) -> optuna.storages.RDBStorage:
  """Opens a database; waits if another host is creating Optuna's tables in it."""
  for _ in range(4):  # seconds; creating the tables takes less
    try:
      return optuna.storages.RDBStorage(url)
    except sqlalchemy.exc.DBAPIError as error:
      exists = isinstance(error, sqlalchemy.exc.IntegrityError)
      if not exists and "already exists" not in str(error):
        raise
    time.sleep(1)
  return optuna.storages.RDBStorage(url)
