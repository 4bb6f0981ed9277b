"""Ids without collaborative signal: random, sequential, and one token per item.

Hua et al., "How to Index Item IDs for Recommendation Foundation Models" (SIGIR-AP
2023), sections 4.1-4.3, compare them with collaborative ids.
"""

import numpy as np

from lightlm_jax.data.interactions import Interactions


def numbers_in_base(number_N: np.ndarray, base: int) -> np.ndarray:
  """Returns the digits of numbers ≥ 0 as tokens, [N, L] int32, highest digit first.

  The digits at position l are the tokens `l * base` to `l * base + base - 1`.
  """
  length = 1
  while base**length <= number_N.max(initial=0):
    length += 1
  power_L = base ** np.arange(length)[::-1]
  digit_NL = number_N[:, None] // power_L % base
  return (digit_NL + np.arange(length) * base).astype(np.int32)


def random_ids(
  train: Interactions, base: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns RID codes of items and users: distinct random numbers, in base `base`."""
  rng = np.random.default_rng(seed)
  items_IL = random_numbers(train.num_items, base, rng)
  return apart(items_IL, random_numbers(train.num_users, base, rng))


def random_numbers(number: int, base: int, rng: np.random.Generator) -> np.ndarray:
  """Returns 0 to `number` - 1 in random order, as tokens of `numbers_in_base`."""
  return numbers_in_base(rng.permutation(number), base)


def sequential_ids(train: Interactions, base: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns sequential (SID) codes of items and of users: their numbers in `base`.

  Items are numbered by first appearance in the training log, user by user; items that
  never appear come last. Users are numbered by index. Items that a user bought one
  after the other often get consecutive numbers, which hint at the next item.
  """
  seen, first = np.unique(train.item_E, return_index=True)
  first_I = np.full(train.num_items, len(train.item_E))
  first_I[seen] = first
  number_I = np.argsort(np.argsort(first_I, kind="stable"))
  users_U = np.arange(train.num_users)
  return apart(numbers_in_base(number_I, base), numbers_in_base(users_U, base))


def independent_ids(train: Interactions) -> tuple[np.ndarray, np.ndarray]:
  """Returns IID codes of items and of users: a token of its own for each of them."""
  items_I1 = np.arange(train.num_items, dtype=np.int32)[:, None]
  users_U1 = np.arange(train.num_users, dtype=np.int32)[:, None]
  return apart(items_I1, users_U1)


def apart(items_IL: np.ndarray, users_UL: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns both tables; users' tokens are shifted beyond the largest item token."""
  first = items_IL.max(initial=0) + 1
  return items_IL, np.where(users_UL >= 0, users_UL + first, -1).astype(np.int32)
