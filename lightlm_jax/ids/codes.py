"""Codes: the token sequences that identify items and users."""

import dataclasses
import hashlib
import io
from typing import Any

from etils import epath
import numpy as np

from lightlm_jax.runtime.errors import UserError
from lightlm_jax.storage import arrays
from lightlm_jax.storage import folder as folder_lib


@dataclasses.dataclass(frozen=True)
class CodeBook:
  """Item and user codes over one vocabulary: tokens 0 to `vocab_size - 1`.

  I items, U users; L and L' are the lengths of the longest item code and user code.
  Shorter codes are padded with -1 at the end.
  """

  items_IL: np.ndarray  # [I, L] int32
  users_UL: np.ndarray  # [U, L'] int32
  vocab_size: int
  manifest: dict[str, Any]  # what determines the codes, see `build`

  @property
  def sha256(self) -> str:
    """SHA-256 of both tables, by which processes of a run check that they agree."""
    digest = hashlib.sha256()
    for table in (self.items_IL, self.users_UL):
      digest.update(repr(table.shape).encode())
      digest.update(table.astype("<i4").tobytes())
    return digest.hexdigest()


def code_book(
  items_IL: np.ndarray, users_UL: np.ndarray, manifest: dict[str, Any]
) -> CodeBook:
  """Returns item codes and user codes, int, padded with -1, as a code book.

  Raises a UserError if a code is empty or has a gap, or two items have equal codes.
  """
  _check_codes(items_IL, users_UL)
  unique, count = np.unique(items_IL, axis=0, return_counts=True)
  if len(unique) < len(items_IL):
    twice = np.argmax(count > 1)
    a, b = np.flatnonzero((items_IL == unique[twice]).all(axis=1))[:2]
    raise UserError(f"items {a} and {b} have the same code {unique[twice].tolist()}")
  return CodeBook(
    items_IL.astype(np.int32),
    users_UL.astype(np.int32),
    _vocab_size(items_IL, users_UL),
    manifest,
  )


def _check_codes(items_IL: np.ndarray, users_UL: np.ndarray) -> None:
  for name, table in (("item", items_IL), ("user", users_UL)):
    real = table >= 0
    starts_N = real[:, :1].any(axis=1)
    if not starts_N.all():
      raise UserError(f"{name} {np.argmin(starts_N)} has an empty code")
    if (real[:, 1:] & ~real[:, :-1]).any():
      raise UserError(f"a code of the {name}s has a hole; pad with -1 at the end only")


def _vocab_size(items_IL: np.ndarray, users_UL: np.ndarray) -> int:
  return int(max(items_IL.max(initial=0), users_UL.max(initial=0))) + 1


def stack_codes(codes: list[np.ndarray]) -> np.ndarray:
  """Returns codes of different lengths as one table, padded with -1."""
  width = max(len(code) for code in codes)
  table = np.full((len(codes), width), -1, dtype=np.int32)
  for row, code in zip(table, codes, strict=True):
    row[: len(code)] = code
  return table


def split_last(code_NL: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Splits codes into all tokens but the last, [N, L] padded, and that token, [N]."""
  row_N = np.arange(len(code_NL))
  place_N = (code_NL >= 0).sum(axis=1) - 1
  stem_NL = code_NL.copy()
  stem_NL[row_N, place_N] = -1
  return stem_NL, code_NL[row_N, place_N]


def with_last_token(
  path_NL: np.ndarray, first_token: int, rng: np.random.Generator, *, apart: bool
) -> np.ndarray:
  """Returns each node's path as its code, with a last token where a path is shared.

  A node is a user or an item; its path is a row of tokens, padded with -1. Nodes with
  the same path form a leaf. Last tokens number the nodes of a leaf from `first_token`,
  in random order, because the order of indices can carry information. With `apart`
  numbering continues from leaf to leaf, so that all last tokens are distinct.
  """
  _, leaf_N, count_C = np.unique(
    path_NL, axis=0, return_inverse=True, return_counts=True
  )
  number_N = np.argsort(np.lexsort((rng.random(len(leaf_N)), leaf_N)))
  if not apart:
    start_C = np.cumsum(count_C) - count_C
    number_N -= start_C[leaf_N]
  code_NL = np.pad(path_NL, ((0, 0), (0, 1)), constant_values=-1)
  shared_N = count_C[leaf_N] > 1
  length_N = (path_NL >= 0).sum(axis=1)
  code_NL[shared_N, length_N[shared_N]] = first_token + number_N[shared_N]
  longest = (code_NL >= 0).sum(axis=1).max(initial=1)
  return code_NL[:, :longest].astype(np.int32)


def with_last_tokens(
  path_UL: np.ndarray,
  path_IL: np.ndarray,
  first_token: int,
  rng: np.random.Generator,
  *,
  apart: bool,
) -> tuple[np.ndarray, np.ndarray]:
  """Calls `with_last_token` for items, then users; `apart` applies to items only."""
  items = with_last_token(path_IL, first_token, rng, apart=apart)
  first_token = max(first_token, 1 + items.max(initial=0))
  # Users are never generated: their last tokens need no embeddings of their own.
  return items, with_last_token(path_UL, first_token, rng, apart=False)


def save(book: CodeBook, directory: epath.PathLike) -> None:
  """Writes `codes.npz`, then the manifest, without which the folder is not valid.

  Raises a UserError if the folder cannot be written.
  """
  content = io.BytesIO()
  np.savez_compressed(content, items=book.items_IL, users=book.users_UL)
  manifest = {**book.manifest, "sha256": book.sha256, "vocab_size": book.vocab_size}
  files = {"codes.npz": content.getvalue()}
  folder_lib.write(epath.Path(directory), files, manifest)


def load(directory: epath.PathLike) -> CodeBook | None:
  """Reads a book that `save` wrote; returns None if it is missing or damaged."""
  try:
    with folder_lib.opened(epath.Path(directory)) as (path, manifest):
      sha256, vocab_size = manifest.pop("sha256"), manifest.pop("vocab_size")
      content = (path / "codes.npz").read_bytes()
      found = arrays.read_npz(content, np.int32, ndim=2)
      book = CodeBook(found["items"], found["users"], vocab_size, manifest)
      _check_codes(book.items_IL, book.users_UL)
      if (
        vocab_size != _vocab_size(book.items_IL, book.users_UL)
        or not book.items_IL.size
      ):
        raise ValueError(f"its tokens are not {vocab_size!r}")
      return book if book.sha256 == sha256 else None
  except (folder_lib.NotWhole, UserError):
    return None
