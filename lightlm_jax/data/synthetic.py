"""A synthetic shop with planted preferences, whose best possible NDCG is known.

Each user belongs to a hidden community. With probability `habit` a purchase is a
follow-up of the previous one; otherwise it is drawn from the community's preferences.
Nobody buys an item twice. Late items can only be a user's last purchase.
"""

from collections.abc import Sequence
import dataclasses
from typing import NamedTuple

import numpy as np

from lightlm_jax.data.interactions import Interactions, from_sequences, keep_rows
from lightlm_jax.runtime.errors import UserError

CATEGORIES: Sequence[str] = (
  "tea coffee honey bread cheese spice soap candle paper ink "
  "yarn lamp mug plate vase basket scarf glove seed tool"
).split()


@dataclasses.dataclass(frozen=True)
class Shop:
  """The shop's parameters; comments give the letters of array axes (U: users)."""

  num_users: int = 2800  # U
  num_items: int = 480  # I
  num_communities: int = 10  # C, hidden and equally common
  num_categories: int = 20  # G, at most 20; items are spread over them evenly
  num_shelves: int = 80  # S, groups of items within a category with the same follow-ups
  num_favourites: int = 3  # F, categories that a community prefers, best first
  favour: float = 0.9  # share of a community's taste that goes to its favourites
  popularity_skew: float = 0.8  # exponent of Zipf's law inside a category
  habit: float = 0.45  # probability that a purchase is a follow-up of the previous one
  follow_odds: tuple[float, ...] = (0.45, 0.3, 0.15, 0.1)  # of each shelf's follow-ups
  stray: float = 0.25  # probability that a follow-up lies in another category
  late_items: float = 0.04  # share of the catalogue that is late
  late_rate: float = 0.03  # probability that the last purchase is a late item
  min_length: int = 5  # purchases per user
  mean_length: float = 9.0  # purchases per user: geometric above the minimum
  max_length: int = 40  # purchases per user
  seed: int = 0


class Tastes(NamedTuple):
  """The generator's true probabilities, indexed by item number; no model sees them."""

  prior_C: np.ndarray  # float64, probability of each hidden community
  taste_CI: np.ndarray  # float64, preferences of a community; rows sum to 1, late = 0
  late_CI: np.ndarray  # float64, a community's preferences among late items, others 0
  follow_II: np.ndarray  # float64, row a: follow-ups of item a; rows sum to 1
  habit: float  # probability that a purchase is a follow-up of the previous one
  late_rate: float  # probability that a user's last purchase is a late item


def make_shop(config: Shop) -> tuple[Interactions, Tastes]:
  """Generates the log; returns it and the true probabilities that it was drawn from.

  Equal configs give equal logs. The catalogue also has the items that nobody bought.
  """
  _check(config)
  rng = np.random.default_rng(config.seed)
  tastes = _plant(config, rng)
  I, G = config.num_items, config.num_categories
  raw_I = [f"{CATEGORIES[item % G]}-{item // G:03d}" for item in range(I)]
  sequences = [
    (f"u{user:05d}", [raw_I[item] for item in row])
    for user, row in enumerate(_buy(config, tastes, rng))
  ]
  # A catalogue has only the rows' items: add a user with all of them, and remove it.
  shown = from_sequences([*sequences, ("window", raw_I)])
  log = keep_rows(shown, shown.user_ids != "window")

  item_of = {raw: item for item, raw in enumerate(raw_I)}
  order_I = np.array([item_of[raw] for raw in log.item_ids])
  return log, tastes._replace(
    taste_CI=tastes.taste_CI[:, order_I],
    late_CI=tastes.late_CI[:, order_I],
    follow_II=tastes.follow_II[order_I][:, order_I],
  )


def item_titles(log: Interactions) -> list[str]:
  """Returns the title of each catalogue item, such as "tea 017"."""
  return [str(raw).replace("-", " ") for raw in log.item_ids]


def item_attributes(log: Interactions) -> list[np.ndarray]:
  """Returns the category of each catalogue item, an int64 array of shape [1]."""
  return [
    np.array([CATEGORIES.index(str(raw).partition("-")[0])]) for raw in log.item_ids
  ]


def _check(config: Shop) -> None:
  I, G, S = config.num_items, config.num_categories, config.num_shelves
  on_sale = I - round(config.late_items * I)
  if not 2 <= G <= len(CATEGORIES) or S % G or not 2 * G <= S <= I:
    raise UserError(
      f"shop: num_shelves ({S}) must be 2, 3, … times num_categories ({G}, from 2 to "
      f"{len(CATEGORIES)}) and at most num_items ({I})"
    )
  if not 1 <= config.num_favourites <= G:
    raise UserError(
      f"shop: num_favourites ({config.num_favourites}) must be from 1 to "
      f"num_categories ({G})"
    )
  low, mean, high = config.min_length, config.mean_length, config.max_length
  if not 1 <= low <= mean <= high <= on_sale:
    raise UserError(
      f"shop: 1 <= min_length ({low}) <= mean_length ({mean}) <= max_length ({high}) "
      f"<= items on sale from the start ({on_sale}) does not hold"
    )


def _plant(config: Shop, rng: np.random.Generator) -> Tastes:
  """Draws the true probabilities; item i is in category i % config.num_categories."""
  I, C, G = config.num_items, config.num_communities, config.num_categories
  F, S = config.num_favourites, config.num_shelves
  category_I, shelf_I = np.arange(I) % G, np.arange(I) % S
  late_I = np.zeros(I, dtype=bool)
  late_I[rng.permutation(I)[: round(config.late_items * I)]] = True

  popularity_I = np.zeros(I)
  for category in range(G):
    inside = np.flatnonzero(category_I == category)
    # An item's number must not reveal its group.
    shelf_I[inside] = rng.permutation(shelf_I[inside])
    popularity = (1.0 + rng.permutation(len(inside))) ** -config.popularity_skew
    popularity_I[inside] = popularity / popularity.sum()
  # Favourites are dealt from shuffled decks, so that every category is a favourite.
  decks = np.concatenate([rng.permutation(G) for _ in range(-(-C * F // G))])
  favourite_CF = decks[: C * F].reshape(C, F)
  share_F = 1.0 / (1.0 + np.arange(F))
  share_F *= config.favour / share_F.sum()
  like_CG = np.full((C, G), (1.0 - config.favour) / G)
  np.add.at(like_CG, (np.arange(C)[:, None], favourite_CF), share_F)
  like_CI = like_CG[:, category_I] * popularity_I

  follow_SI, dealt_I = np.zeros((S, I)), np.zeros(I, dtype=np.int64)
  for shelf in range(S):
    near_I = ~late_I & (category_I == shelf % G) & (shelf_I != shelf)
    far_I = ~late_I & (category_I != shelf % G)
    for odds in config.follow_odds:
      allowed_I = far_I if rng.random() < config.stray else near_I
      allowed_I = allowed_I & (follow_SI[shelf] == 0.0)
      if not allowed_I.any():
        raise UserError(
          f"shop: {I} items in {G} categories leave group {shelf} fewer than "
          f"{len(config.follow_odds)} follow-ups: raise num_items"
        )
      # The least used candidates come first, so that follow-ups cover the catalogue.
      rare_I = allowed_I & (dealt_I == dealt_I[allowed_I].min())
      item = rng.choice(np.flatnonzero(rare_I))
      follow_SI[shelf, item] = odds
      dealt_I[item] += 1
  return Tastes(
    prior_C=np.full(C, 1.0 / C),
    taste_CI=_rows_to_one(np.where(late_I, 0.0, like_CI)),
    late_CI=_rows_to_one(np.where(late_I, like_CI, 0.0)),
    follow_II=_rows_to_one(follow_SI)[shelf_I],
    habit=config.habit,
    late_rate=config.late_rate if late_I.any() else 0.0,
  )


def _rows_to_one(weight: np.ndarray) -> np.ndarray:
  # Without late items some rows have no weight: they stay zero.
  total = weight.sum(1, keepdims=True)
  return np.divide(weight, total, out=np.zeros_like(weight), where=total > 0.0)


def _buy(config: Shop, tastes: Tastes, rng: np.random.Generator) -> list[np.ndarray]:
  """Draws each user's purchases, oldest first, as column numbers of `taste_CI`."""
  U, low = config.num_users, config.min_length
  length_U = low - 1 + rng.geometric(1.0 / (1.0 + config.mean_length - low), U)
  length_U = np.minimum(length_U, config.max_length)
  community_U = rng.choice(config.num_communities, size=U, p=tastes.prior_C)
  bought_UL = np.zeros((U, config.max_length), dtype=np.int64)
  unseen_UI = np.ones((U, config.num_items))
  for place in range(length_U.max()):
    user_B = np.flatnonzero(length_U > place)
    weight_BI = tastes.taste_CI[community_U[user_B]]
    if place:
      follow_BI = tastes.follow_II[bought_UL[user_B, place - 1]]
      weight_BI = (1.0 - tastes.habit) * weight_BI + tastes.habit * follow_BI
    late_B = rng.random(len(user_B)) < tastes.late_rate
    late_B &= length_U[user_B] == place + 1
    weight_BI[late_B] = tastes.late_CI[community_U[user_B[late_B]]]
    sum_BI = np.cumsum(weight_BI * unseen_UI[user_B], axis=1)
    item_B = (sum_BI <= rng.random((len(user_B), 1)) * sum_BI[:, -1:]).sum(1)
    bought_UL[user_B, place] = item_B
    unseen_UI[user_B, item_B] = 0.0
  return [row[:length] for row, length in zip(bought_UL, length_U)]
