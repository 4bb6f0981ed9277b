"""Item texts as tokens, by byte-level BPE learned on the catalogue's own texts.

Byte pairs (Sennrich et al. 2016, arXiv 1508.07909) over bytes, as GPT-2 has them, so
that text in any script has tokens. What is learned is a function of the texts alone, in
whatever order: no interaction has a part in it. Case and compatibility forms of
characters, which tell little of an item, are folded.
"""

from collections.abc import Sequence
import hashlib
from typing import NamedTuple

from etils import epath
import numpy as np

from lightlm_jax.config import ReadsTexts
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.storage import folder as folder_lib

EMPTY = 0  # the one token of an item without text
FIRST = 1  # of the tokenizer's own tokens
_TOKENIZER = "tokenizer.json"
FEWEST = 256  # tokens: every byte is one


class Tokens(NamedTuple):
  """What an item encoder reads.

  Attributes:
    token_IT: int32, left-aligned, at least one an item; -1 = padding.
    vocab_size: tokens of texts and attributes; all are below it.
    empty: items that have neither.
    cut: items that had more than T.
  """

  token_IT: np.ndarray
  vocab_size: int
  empty: int
  cut: int

  @property
  def sha256(self) -> str:
    shape = f"{self.token_IT.shape} {self.vocab_size} ".encode()
    return hashlib.sha256(shape + self.token_IT.tobytes()).hexdigest()


def learn(texts: Sequence[str], vocab_size: int) -> str:
  """A tokenizer of at most `vocab_size` tokens, as the JSON of Hugging Face's library.

  Args:
    texts: of a catalogue; equal sets of them give equal JSON.
    vocab_size: at least FEWEST.

  Raises:
    UserError: the library is not installed.
  """
  tokenizers = _library()
  tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
  tokenizer.normalizer = tokenizers.normalizers.Sequence(
    [tokenizers.normalizers.NFKC(), tokenizers.normalizers.Lowercase()]
  )
  # A word is the same at the beginning of a text and inside it.
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=True)
  # No special tokens: a text that spells one would be read as it.
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
  """The catalogue in the tokenizer's tokens, each item at most `most` of them.

  Args:
    tokenizer: from `learn`.
    texts: [I]; an empty one becomes the token EMPTY.
    most: where a text is cut.
    attributes: [I] int arrays, numbered from 0: a token each, behind the text, which is
      cut to leave room for them. None = none.

  Raises:
    UserError: the library is not installed.
  """
  reader = _library().Tokenizer.from_str(tokenizer)
  size = FIRST + reader.get_vocab_size()
  rows, empty, cut = [], 0, 0
  for item, text in enumerate(texts):
    row = [FIRST + token for token in reader.encode(_clean(text)).ids]
    extra = [] if attributes is None else [size + a for a in attributes[item].tolist()]
    empty += not row and not extra
    cut += len(row) + len(extra) > most
    extra = extra[:most]
    rows.append([*row[: most - len(extra)], *extra] or [EMPTY])
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
  """Refuses a catalogue that a run has nothing to read of.

  Args:
    config: of the run.
    texts: of the catalogue's items; None = there is no file of them.
    attributes: likewise.

  Raises:
    UserError: there are none, or they are of other items.
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
  """The tokenizer of a run, and its catalogue in it.

  Args:
    config: of the run: `input.text_vocab`, `text_tokens` and `attributes`.
    texts: see `check`, which is made first.
    attributes: likewise.
    tokenizer: that the run has; None = it is learned.

  Raises:
    UserError: see `check`.
  """
  check(config, texts, attributes)
  if not config.input.attributes:
    attributes = None
  if tokenizer is None:
    tokenizer = learn(texts, config.input.text_vocab)
  return tokenizer, write(tokenizer, texts, config.input.text_tokens, attributes)


def save(tokenizer: str, tokens: Tokens, folder: epath.Path) -> None:
  """Writes `tokenizer.json` and, last, the manifest that makes it valid."""
  files = {_TOKENIZER: tokenizer.encode()}
  manifest = {
    "sha256": tokens.sha256,
    "tokenizer_sha256": folder_lib.digests(files)[_TOKENIZER],
    "library": _library().__version__,
  }
  folder_lib.write(folder, files, manifest)


def load(folder: epath.Path) -> tuple[str, str] | None:
  """The tokenizer, and the SHA-256 of the tokens; None where they are not whole."""
  try:
    with folder_lib.opened(folder) as whole:
      tokenizer = whole.read(_TOKENIZER, whole.manifest["tokenizer_sha256"])
      return tokenizer.decode(), whole.manifest["sha256"]
  except folder_lib.NotWhole:
    return None


def describe(tokens: Tokens) -> str:
  """The line that says what the items are written in."""
  length_I = (tokens.token_IT >= 0).sum(axis=1)
  return (
    f"texts: {tokens.vocab_size:,} tokens, {length_I.mean():.2f} an item (at most "
    f"{length_I.max()}, {tokens.cut:,} cut), {tokens.empty:,} items without text"
  )


def _clean(text: str) -> str:
  return " ".join(text.split())


def _library():
  try:
    import tokenizers  # noqa: PLC0415, of the extra `text`
  except ImportError:
    raise UserError(
      "item texts are read by tokenizers, which is not installed; install with "
      "pip install -c constraints.txt -e '.[text]'"
    )
  return tokenizers
