"""Draws random catalogues and requests, with fixed seeds."""

import numpy as np

from lightlm_jax.decoding import allowed
from lightlm_jax.runtime.errors import UserError

EXCLUSIONS = 20  # excluded items of each request that has any


def random_codes(number: int, vocab_size: int, depth: int) -> np.ndarray:
  """Returns distinct random codes, [I, L] int32, with I = `number` and L = `depth`.

  Raises:
    UserError: `number` is more than half the number of possible codes.
  """
  if 2 * number > vocab_size**depth:
    raise UserError(
      f"{number:,} random items need more codes than {depth} tokens of {vocab_size:,} "
      f"give; use --sizes up to {vocab_size**depth // 2:,}"
    )
  rng = np.random.default_rng(number)
  # As many tokens as fit into a 64-bit integer make codes distinct; others are free.
  places = depth
  while vocab_size**places >= 2**63:
    places -= 1
  key_I = np.zeros(0, np.int64)
  while len(key_I) < number:
    drawn_I = rng.integers(vocab_size**places, size=number - len(key_I))
    key_I = np.unique(np.append(key_I, drawn_I))
  rng.shuffle(key_I)
  code_IL = rng.integers(vocab_size, size=(number, depth), dtype=np.int32)
  for place in range(places):
    code_IL[:, place] = key_I // vocab_size**place % vocab_size
  return code_IL


def random_exclusions(number: int, B: int) -> np.ndarray:
  """Draws EXCLUSIONS of `number` items per row, for B rows of `Allowed.excluded_BE`."""
  rng = np.random.default_rng(B)
  rank_BE = [rng.choice(number, EXCLUSIONS, replace=False) for _ in range(B)]
  return allowed.exclusions(
    np.repeat(np.arange(B), EXCLUSIONS),
    np.concatenate(rank_BE),
    rank_I=np.arange(number),
    batch_size=B,
  )
