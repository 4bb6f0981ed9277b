"""Puts hostile files in the place of what the commands leave: none of them is run."""

from collections.abc import Callable
import pathlib
import pickle
import random
from typing import Any

from etils import epath
import hostile_files
import numpy as np

from lightlm_jax.data import formats
from lightlm_jax.evaluation import users
from lightlm_jax.ids import codes
from lightlm_jax.inference import queries, state_index
from lightlm_jax.preprocess import tables
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.storage import json_text

from .suite import Kind


def _states(path: epath.Path) -> Any:
  """An index of states with such a file in it, which is built anew."""
  whole = np.zeros((2, 3), np.float16), np.arange(2, dtype=np.int32)
  folder, about = path.parent / "latent", {"ids_sha256": "0"}
  state_index.cached(folder, about, lambda: whole)
  path.copy(folder / "states.npy", overwrite=True)
  return state_index.cached(folder, about, lambda: whole)


def _codes(path: epath.Path) -> Any:
  """Ids with such a file in them."""
  folder = path.parent / "codes"
  one_N1 = np.arange(3)[:, None]
  codes.save(codes.code_book(one_N1, one_N1, {}), folder)
  path.copy(folder / "codes.npz", overwrite=True)
  return codes.load(folder)


# The suffix of a file, and what reads it.
READERS: dict[str, tuple[str, Callable[[epath.Path], Any]]] = {
  "sequences": (".txt", formats.read_sequences),
  "ratings": (".data", formats.read_ratings),
  "attributes": (
    ".json",
    lambda path: formats.read_item_attributes(path, np.array(["x"])),
  ),
  "histories": (".jsonl", lambda path: list(queries.read_histories(path))),
  "users": (".parquet", users.read),
  "json": (".json", lambda path: json_text.read(path, "write it anew")),
  "ids": (".npz", _codes),
  "states": (".npy", _states),
  **{
    f"log{suffix}": (suffix, tables.dataset)
    for suffix in (".parquet", ".csv", ".tsv", ".jsonl", ".inter")
  },
}


def prepare(folder: pathlib.Path) -> list[tuple[str, str]]:
  """Every kind of file with every reader; the bomb in them does work."""
  mark = folder / "mark"
  pickle.loads(hostile_files.bomb(mark)).close()
  assert mark.exists()
  return [(kind, name) for kind in hostile_files.kinds(mark) for name in READERS]


def trial(
  prepared: list[tuple[str, str]], rng: random.Random, folder: pathlib.Path
) -> str:
  kind, name = rng.choice(prepared)
  suffix, read = READERS[name]
  mark, path = folder / "mark", epath.Path(folder / f"hostile{suffix}")
  path.write_bytes(hostile_files.kinds(mark)[kind])
  try:
    read(path)
    how = "read as data"
  except UserError:
    how = "refused"
  assert not mark.exists(), f"{kind}, read as {name}, was run"
  assert not list(folder.parent.rglob("escaped*")), f"{kind}, read as {name}, escaped"
  return how


KINDS = (Kind("hostile", "a hostile file is data or refused", 40, prepare, trial),)
