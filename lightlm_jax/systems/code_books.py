"""LightLM with several code books: an item has a cluster in each, and one last token.

A step of training draws a book and writes ids by it. The encoder reads an item's
clusters in all books, so that requests are encoded once. Answers are those of an
ensemble whose members are the books: the mean of their log-probabilities.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lightlm_jax.config import LightLMConfig
from lightlm_jax.data.batch import Batch
from lightlm_jax.decoding import trie as trie_lib
from lightlm_jax.decoding.allowed import Allowed, Recommendations
from lightlm_jax.ids.codes import CodeBook
from lightlm_jax.systems import ensemble, lightlm, token_sequences
from lightlm_jax.systems.base import Built, Loss, System, in_catalogue_order


@dataclasses.dataclass(frozen=True, kw_only=True)
class CodeBooks(System):
  """The system `lightlm` with several code books.

  Tables are a dict: "target_IL", "trie" and "rank_I", the order of the items, have an
  axis of books in front; "alike" has the rest of LightLM's `Tables`.
  """

  name: str = "lightlm"
  model: lightlm.LightLM
  books: int  # G

  def init(self, rng: jax.Array) -> Any:
    return self.model.init(rng)

  def loss(self, params: Any, tables: Any, batch: Batch, rng: jax.Array) -> Loss:
    """Returns LightLM's loss by a book that is drawn for the whole batch."""
    draw, rng = jax.random.split(rng)
    book = jax.random.randint(draw, (), 0, self.books)
    return self.model.loss(params, _of_book(tables, book).own, batch, rng)

  def recommend(
    self, params: Any, tables: Any, batch: Batch, allowed: Allowed, *, k: int
  ) -> Recommendations:
    """Returns the K items with the highest mean log-probability over the books."""
    members = ensemble.Ensemble(members=(self.model,) * self.books)
    own = tuple(_of_book(tables, book) for book in range(self.books))
    return members.recommend((params,) * self.books, own, batch, allowed, k=k)

  def nll(self, params: Any, tables: Any, batch: Batch) -> jax.Array:
    """Returns the mean over books of -log p(target | request), [B] float32."""
    own = (_of_book(tables, book).own for book in range(self.books))
    nll_GB = jnp.stack([self.model.nll(params, each, batch) for each in own])
    return nll_GB.mean(axis=0)

  def state(self, params: Any, tables: Any, batch: Batch) -> jax.Array:
    """Returns `LightLM.state`, which is the same by any book."""
    return self.model.state(params, _of_book(tables, 0).own, batch)

  def calibration(self, params: Any) -> dict[str, jax.Array]:
    return self.model.calibration(params)


def build(config: LightLMConfig, codes: CodeBook) -> Built:
  """Builds the system from codes of `spectral.several_books`."""
  item_code_IL = codes.items_IL
  G = item_code_IL.shape[1] - 1
  books = [
    dataclasses.replace(codes, items_IL=item_code_IL[:, [book, G]]) for book in range(G)
  ]
  built = [lightlm.build(config, book) for book in books]
  one = built[0]
  assert isinstance(one.system, lightlm.LightLM)
  system = CodeBooks(
    example=one.system.example,
    max_history=one.system.max_history,
    model=one.system,
    books=G,
  )
  item_code_IL = lightlm.with_room(token_sequences.shift(item_code_IL, False))
  alike = {"target_IL": None, "trie": None, "item_code_IL": item_code_IL}
  tables = {
    "alike": one.tables._replace(**alike),
    "target_IL": np.stack([each.tables.target_IL for each in built]),
    "trie": trie_lib.stack([each.tables.trie for each in built]),
    "rank_I": np.stack([each.rank_I for each in built]),
  }
  return in_catalogue_order(system, tables, len(codes.items_IL))


def _of_book(tables: dict[str, Any], book: int | jax.Array) -> ensemble.Tables:
  """Returns LightLM's tables of one book, and the book's order of the items."""
  by_book = {name: tables[name] for name in ("target_IL", "trie", "rank_I")}
  own = jax.tree.map(lambda x: x[book], by_book)
  rank_I = own.pop("rank_I")
  return ensemble.Tables(tables["alike"]._replace(**own), jnp.asarray(rank_I))
