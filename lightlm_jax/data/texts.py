"""Tokenizes item texts with byte-level BPE trained on the catalogue's texts.

Byte-pair encoding (Sennrich et al. 2016, arXiv 1508.07909) works on bytes, as in GPT-2,
so text in any script has tokens. The tokenizer depends on the texts alone, not on their
order and not on interactions. Texts are lowercased and normalised (NFKC), since case
and compatibility characters carry little about an item.
"""

from collections.abc import Sequence
import hashlib
from typing import NamedTuple

from etils import epath
import numpy as np

from lightlm_jax.config import ReadsTexts
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.storage import folder as folder_lib

EMPTY = 0  # the single token of an item without text
FIRST = 1  # added to the tokenizer's own token numbers
_TOKENIZER = "tokenizer.json"


class Tokens(NamedTuple):
  """The tokens of all items: the input of an item encoder."""

  token_IT: np.ndarray  # int32, left-aligned, at least one per item; -1 = padding
  vocab_size: int  # tokens of texts and attributes
  empty: int  # number of items that have neither text nor attributes
  cut: int  # number of items that were cut to the maximum number of tokens

  @property
  def sha256(self) -> str:
    shape = f"{self.token_IT.shape} {self.vocab_size} ".encode()
    return hashlib.sha256(shape + self.token_IT.tobytes()).hexdigest()


def learn(texts: Sequence[str], vocab_size: int) -> str:
  """Trains a tokenizer; returns it as JSON of Hugging Face's library `tokenizers`.

  Equal sets of texts give equal JSON. `vocab_size` is the maximum number of tokens, at
  least 256: one for every byte.
  """
  tokenizers = _library()
  tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
  tokenizer.normalizer = tokenizers.normalizers.Sequence(
    [tokenizers.normalizers.NFKC(), tokenizers.normalizers.Lowercase()]
  )
  # The prefix space gives a word the same tokens at the start of a text and inside it.
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=True)
  # No special tokens: texts could contain their names.
  trainer = tokenizers.trainers.BpeTrainer(
    vocab_size=vocab_size,
    initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,
  )
  tokenizer.train_from_iterator(map(_clean, texts), trainer)
  return tokenizer.to_str()


def write(
  tokenizer: str,
  texts: Sequence[str],
  most: int,
  attributes: Sequence[np.ndarray] | None = None,
) -> Tokens:
  """Tokenizes the texts of the catalogue, with at most `most` tokens per item.

  `tokenizer` is JSON from `learn`. `attributes` has an int array of attribute numbers,
  from 0, for each item; None = none. Attributes become tokens after those of the text;
  the text is cut to fit. An item with neither text nor attributes gets the token EMPTY.
  """
  reader = _library().Tokenizer.from_str(tokenizer)
  size = FIRST + reader.get_vocab_size()
  rows, empty, cut = [], 0, 0
  for item, text in enumerate(texts):
    row = [FIRST + token for token in reader.encode(_clean(text)).ids]
    extra = [] if attributes is None else (size + attributes[item]).tolist()
    empty += not row and not extra
    cut += len(row) + len(extra) > most
    rows.append([*row[: max(most - len(extra), 0)], *extra][:most] or [EMPTY])
  token_IT = np.full((len(rows), max(map(len, rows))), -1, np.int32)
  for item, row in enumerate(rows):
    token_IT[item, : len(row)] = row
  if attributes is not None:
    size += 1 + max((int(row.max()) for row in attributes if len(row)), default=-1)
  return Tokens(token_IT, size, empty, cut)


def check(
  config: ReadsTexts,
  texts: Sequence[str] | None,
  attributes: Sequence[np.ndarray] | None,
) -> None:
  """Checks that the catalogue has the texts and attributes that the run reads.

  Raises:
    UserError: texts or attributes are missing, or all texts are empty.
  """
  name = config.data.name
  if texts is None:
    raise UserError(
      f"config.system {config.system} reads the items' texts, and {name} has none; put "
      f"{name}/items.tsv beside the log: a line of names, such as `item_id title`, and "
      "a line for each item, by tabs"
    )
  if not any(text.strip() for text in texts):
    raise UserError(
      f"the item texts of {name} name none of the log's {len(texts):,} items, or are "
      "all empty; the first column of items.tsv has to be the raw item ids of the log"
    )
  if config.input.attributes and attributes is None:
    raise UserError(
      f"config.input.attributes is True, and {name} has no item_attributes.json; put "
      'one beside the log: {"item": ["brand", "category"], …}, or set it to False'
    )


def of_run(
  config: ReadsTexts,
  texts: Sequence[str] | None,
  attributes: Sequence[np.ndarray] | None,
  tokenizer: str | None = None,
) -> tuple[str, Tokens]:
  """Returns a tokenizer, as JSON, and the tokens that it makes of all items.

  If `tokenizer` is None, one is trained on `texts`. Raises a UserError as `check` does.
  """
  check(config, texts, attributes)
  assert texts is not None, "checked above"
  if tokenizer is None:
    tokenizer = learn(texts, config.input.text_vocab)
  used = attributes if config.input.attributes else None
  return tokenizer, write(tokenizer, texts, config.input.text_tokens, used)


def save(tokenizer: str, tokens: Tokens, folder: epath.Path) -> None:
  """Writes tokenizer.json, then a manifest with the tokenizer's and tokens' SHA-256."""
  files = {_TOKENIZER: tokenizer.encode()}
  manifest = {
    "sha256": tokens.sha256,
    "tokenizer_sha256": folder_lib.digests(files)[_TOKENIZER],
    "library": _library().__version__,
  }
  folder_lib.write(folder, files, manifest)


def load(folder: epath.Path) -> tuple[str, str] | None:
  """Returns the saved tokenizer and its tokens' SHA-256; None if missing or damaged."""
  try:
    with folder_lib.opened(folder) as whole:
      tokenizer = whole.read(_TOKENIZER, whole.manifest["tokenizer_sha256"])
      return tokenizer.decode(), whole.manifest["sha256"]
  except folder_lib.NotWhole:
    return None


def describe(tokens: Tokens) -> str:
  """Returns one line of text about the items' tokens."""
  length_I = (tokens.token_IT >= 0).sum(axis=1)
  return (
    f"texts: {tokens.vocab_size:,} tokens, {length_I.mean():.2f} an item (at most "
    f"{length_I.max()}, {tokens.cut:,} cut), {tokens.empty:,} items without text"
  )


def _clean(text: str) -> str:
  return " ".join(text.split())


def _library():
  """Returns the module `tokenizers`; raises UserError if it is not installed."""
  try:
    import tokenizers  # noqa: PLC0415, of the extra `text`
  except ImportError:
    raise UserError(
      "item texts are read by tokenizers, which is not installed; install with "
      "pip install -c constraints.txt -e '.[text]'"
    )
  return tokenizers
