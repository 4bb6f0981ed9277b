"""LightLM over twelve items and four users, and its answers by hand."""

import functools

from compiled import Compiled
import jax
import numpy as np

from lightlm_jax import config as config_lib
from lightlm_jax.data.batch import Batch
from lightlm_jax.ids import codes as codes_lib
from lightlm_jax.models import encoder_decoder
from lightlm_jax.systems import lightlm
from lightlm_jax.systems import token_sequences as text

H = 5
ITEM_CODES = [
  (4, 1),
  (0, 3, 2),
  (5,),
  (1, 1, 1),
  (1, 1, 2),
  (4, 0, 3),
  (0, 2),
  (3, 5),
  (3, 0, 0),
  (2,),
  (1, 0),
  (4, 2, 2),
]
USER_CODES = [(6, 7), (7,), (8, 6), (8, 8)]
VOCAB = 9 + text.NUM_SPECIALS


def build(log=None, codes=ITEM_CODES, **overrides):
  overrides = {
    "input.history": H,
    "input.user_dropout": 0.0,
    "model.d_model": 16,
    "model.d_kv": 8,
    "model.dropout_rate": 0.0,
    "train.label_smoothing": 0.0,
    "decoding.beam_size": 12,
  } | {name.replace("__", "."): value for name, value in overrides.items()}
  config = config_lib.load("demo", "tiny", overrides)
  items_IL, users_UL = map(codes_lib.stack_codes, (codes, USER_CODES))
  book = codes_lib.code_book(items_IL, users_UL, {})
  system = Compiled(lightlm.build(config, book, log))
  tables = jax.device_put(system.tables)
  net = encoder_decoder.EncoderDecoder(lightlm.model_config(config, VOCAB))
  return system, tables, net


@functools.cache
def weights():
  """Of every system here: what differs among them has no weights."""
  system, *_ = build()
  return system.init(jax.random.key(0, impl="rbg"))


def make_batch(rows, width=H):
  """A batch of (user, history, target, weight)."""
  users, histories, targets, weights = zip(*rows)
  history_BH = np.full((len(rows), width), -1, np.int32)
  for row, history in zip(history_BH, histories):
    row[width - len(history) :] = history
  return Batch(
    user_B=np.array(users, np.int32),
    history_BH=history_BH,
    segment_BH=(history_BH >= 0).astype(np.int32),
    target_B=np.array(targets, np.int32),
    weight_B=np.array(weights, np.float32),
  )


ROWS = [
  (0, [3, 1, 2], 5, 1.0),
  (1, [], 2, 1.0),
  (-1, [0, 11, 4, 8, 9], 1, 1.0),
  (3, [7], 11, 1.0),
  (2, [6, 6], 3, 0.0),
]


def source_by_hand(user, history, with_user, width):
  """Tokens, words, segments of one row as lists, without the padding on the left."""
  read = []
  if with_user and user >= 0:
    read += [(token, 0) for token in USER_CODES[user]]
  for place, item in enumerate(history):
    read += [(token, len(history) - place) for token in ITEM_CODES[item]]
  tokens = [token + text.NUM_SPECIALS for token, _ in read]
  empty = [0] * (width - len(read))
  return (
    empty + tokens,
    empty + [word for _, word in read],
    empty + [1] * len(read),
  )


def log_probs(net, params, batch, item, with_user=True):
  """[B, length] log-probabilities of one item's tokens, teacher-forced, by hand."""
  code = [token + text.NUM_SPECIALS for token in ITEM_CODES[item]]
  width = H * 3 + 2
  source = [
    source_by_hand(user, [i for i in history if i >= 0], with_user, width)
    for user, history in zip(batch.user_B.tolist(), batch.history_BH.tolist())
  ]
  B = len(source)
  arrays = (np.array(array, np.int32) for array in zip(*source))
  # Codes of all lengths in one program: what follows a token cannot reach it.
  read = [text.START, *code, 0, 0][:3]
  token_BKL = np.tile(np.array(read, np.int32), (B, 1, 1))
  logits = forward(net)(params, *arrays, token_BKL, np.ones((B, 1), np.int32))
  logits_BLV = np.asarray(logits, np.float64)[:, 0, : len(code)]
  log_z_BL = np.log(np.exp(logits_BLV).sum(axis=-1))
  return logits_BLV[:, range(len(code)), code] - log_z_BL, (logits_BLV, log_z_BL)


@functools.cache
def forward(net):
  return jax.jit(lambda params, *arguments: net.apply({"params": params}, *arguments))


def direct(**overrides):
  overrides = {"input__history": 0, "input__prompt": True} | overrides
  return build(**overrides)


def no_history(rows):
  return make_batch([(user, [], *rest) for user, _, *rest in rows], width=0)
