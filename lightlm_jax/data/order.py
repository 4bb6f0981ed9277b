"""The order of training examples as a pure function: no shuffle state to save.

The swap-or-not shuffle (Hoang, Morris & Rogaway, CRYPTO 2012) is a keyed permutation of
0 … n - 1. A round has a number K; it pairs each x with K - x modulo n, and swaps some
of the pairs. All arithmetic is on 32-bit integers, so numpy and jax give the same bits.
"""

import functools
from types import ModuleType

import jax
import numpy as np

_ROUNDS, _UNROLLED = 48, 8


def permute(index, n: int, key, xp: ModuleType = np):
  """Permutes 0 … n - 1; returns the new place of each index, uint32.

  Args:
    index: uint32 array or scalar, values below n.
    n: size of the domain, 1 to 2**31 - 1.
    key: uint32 array or scalar that selects the permutation, see `fold`.
    xp: numpy or jax.numpy.
  """
  size = xp.uint32(n)

  def swapped(number, x):
    pivot = fold(key, 2 * number, xp) % size
    partner = xp.where(x <= pivot, pivot - x, pivot + size - x)
    larger = xp.maximum(x, partner)
    swap = fold(fold(key, 2 * number + 1, xp), larger, xp) >> xp.uint32(31)
    return xp.where(swap == 1, partner, x)

  x = xp.asarray(index, dtype=xp.uint32)
  if xp is np:
    return functools.reduce(lambda x, number: swapped(number, x), range(_ROUNDS), x)
  # A program of all rounds would take longer to compile than a small model.
  return jax.lax.fori_loop(0, _ROUNDS, swapped, x, unroll=_UNROLLED)


def fold(key, data, xp: ModuleType = np):
  """Derives a uint32 key from `key` and `data` by a variant of MurmurHash3's mixer."""
  data = xp.asarray(data, dtype=xp.uint32)
  with np.errstate(over="ignore"):
    h = xp.asarray(key, dtype=xp.uint32) ^ (data * xp.uint32(0x9E3779B9))
    h = (h ^ (h >> xp.uint32(16))) * xp.uint32(0x85EBCA6B) + xp.uint32(0x165667B1)
    h = (h ^ (h >> xp.uint32(13))) * xp.uint32(0xC2B2AE35)
    return h ^ (h >> xp.uint32(16))
