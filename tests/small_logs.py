"""Logs and checks that the tests of ids share."""

import numpy as np

from lightlm_jax.data.interactions import Interactions
from lightlm_jax.ids import codes


def make_log(rows, num_items):
  """A log by catalogue indices."""
  return Interactions(
    offset_U1=np.cumsum([0] + [len(row) for row in rows]),
    item_E=np.array([item for row in rows for item in row], np.int32),
    user_ids=np.array([f"u{user}" for user in range(len(rows))], np.str_),
    item_ids=np.array([f"i{item}" for item in range(num_items)], np.str_),
  )


def strip(table_NL):
  """Codes as tuples; a hole would show as -1 inside."""
  return [tuple(np.trim_zeros(row + 1, "b") - 1) for row in table_NL]


def check(items_IL, users_UL, log):
  """What every kind of code must be."""
  assert items_IL.dtype == users_UL.dtype == np.int32
  assert (len(items_IL), len(users_UL)) == (log.num_items, log.num_users)
  for table in (items_IL, users_UL):
    code_N = strip(table)
    assert len(set(code_N)) == len(code_N)
    assert all(code and min(code) >= 0 for code in code_N)
    starts = {code[:length] for code in code_N for length in range(1, len(code))}
    assert not starts & set(code_N)
  book = codes.code_book(items_IL, users_UL, {})
  assert book.vocab_size == 1 + max(items_IL.max(), users_UL.max())
