"""Item texts as tokens: any script, the same bytes every time, nothing left out."""

import importlib.util
import json
import random
import subprocess
import sys

from etils import epath
import numpy as np
import pytest

from lightlm_jax import config as config_lib
from lightlm_jax.data import formats, texts
from lightlm_jax.runtime.errors import UserError

TEXTS = [
  "red wooden train with wooden track",
  "blue wooden train",
  "Teddybär, groß",
  "木製の列車 セット",
  "قطار خشبي",
  "поезд деревянный 🚂",
  "red wooden train with a bridge",
  "  ",
]


def tokenizer(vocab_size=300):
  return texts.learn(TEXTS, vocab_size)


def rows(tokens):
  return [row[row >= 0].tolist() for row in tokens.token_IT]


def test_every_script_has_tokens_that_spell_it():
  reader = texts._library().Tokenizer.from_str(tokenizer())
  reader.decoder = texts._library().decoders.ByteLevel()
  tokens = texts.write(tokenizer(), TEXTS, 100)
  for text, row in zip(TEXTS[:-1], rows(tokens)):
    assert texts.EMPTY not in row
    spelled = reader.decode([token - texts.FIRST for token in row])
    assert spelled.strip() == reader.normalizer.normalize_str(text)
  assert rows(tokens)[-1] == [texts.EMPTY]
  assert (tokens.empty, tokens.cut) == (1, 0)
  assert tokens.token_IT.dtype == np.int32
  assert tokens.token_IT.max() < tokens.vocab_size == 301


def test_equal_texts_give_equal_tokenizers_in_any_order_and_process():
  shuffled = TEXTS * 2
  random.Random(1).shuffle(shuffled)
  assert texts.learn(TEXTS * 2, 300) == texts.learn(shuffled, 300)
  script = (
    "import json, sys; from lightlm_jax.data import texts; "
    "print(texts.learn(json.loads(sys.argv[1]), 300))"
  )
  done = subprocess.run(
    [sys.executable, "-c", script, json.dumps(TEXTS)],
    capture_output=True,
    text=True,
    check=True,
  )
  assert done.stdout.rstrip("\n") == tokenizer()


def test_frequent_words_become_one_token():
  red, blue, *_ = rows(texts.write(tokenizer(), TEXTS, 100))
  shared = set(red) & set(blue)
  assert len(blue) < len("blue wooden train")
  assert len(shared) >= 2, "wooden, train"


def test_case_spaces_and_width_of_letters_are_no_difference():
  like = ["Red  WOODEN\ttrain", "ｒｅｄ wooden train ", "red wooden train"]
  first, *others = rows(texts.write(tokenizer(), like, 100))
  assert all(row == first for row in others)


def test_a_long_text_is_cut_and_leaves_room_for_attributes():
  attributes = [np.array([0, 4]), np.array([], int), *[np.array([2])] * 6]
  plain = texts.write(tokenizer(), TEXTS, 5)
  both = texts.write(tokenizer(), TEXTS, 5, attributes)
  assert plain.token_IT.shape == both.token_IT.shape == (8, 5)
  text, whole = rows(plain), rows(both)
  assert whole[0] == [*text[0][:3], 301, 305]
  assert whole[1] == text[1]
  assert whole[-1] == [303], "an attribute alone is no empty text"
  assert (plain.empty, both.empty) == (1, 0)
  lengths = [len(row) for row in rows(texts.write(tokenizer(), TEXTS, 100))]
  assert plain.cut == sum(length > 5 for length in lengths)
  assert both.vocab_size == 301 + 5
  only = texts.write(tokenizer(), TEXTS, 1, attributes)
  assert rows(only)[0] == [301]


def test_what_is_saved_is_read_and_what_is_damaged_is_not(tmp_path):
  folder = epath.Path(tmp_path) / "texts"
  assert texts.load(folder) is None
  tokens = texts.write(tokenizer(), TEXTS, 8)
  texts.save(tokenizer(), tokens, folder)
  assert texts.load(folder) == (tokenizer(), tokens.sha256)
  (folder / "tokenizer.json").write_text(tokenizer()[:-1])
  assert texts.load(folder) is None


def test_the_columns_that_say_what_an_item_is(tmp_path):
  path, item_ids = tmp_path / "items.tsv", np.array(["2", "9", "1"])
  assert formats.read_items(path, item_ids) == (None, None)
  path.write_text("item_id\tyear\tTitle\tgenres\n1\t1982\tGandhi\tDrama|War\n2\t1990\n")
  titles, texts = formats.read_items(path, item_ids)
  assert (titles, texts) == (["", "", "Gandhi"], ["", "", "Gandhi Drama|War"])
  path.write_text("item_id\tasin\ttextual_id\n1\tB00\tteddy bear\n")
  assert formats.read_items(path, item_ids) == (["", "", "teddy bear"],) * 2
  path.write_text("")
  assert formats.read_items(path, item_ids) == (["", "", ""],) * 2


@pytest.mark.parametrize(
  ("given", "fields", "message"),
  [
    (None, {}, "toys/items.tsv beside the log"),
    (["", " "], {}, "name none of the log's 2 items"),
    (["a", "b"], {"input.attributes": True}, "toys has no item_attributes.json"),
  ],
)
def test_a_catalogue_without_texts_costs_a_line(given, fields, message):
  config = config_lib.load("lite_llm4rec", "tiny", fields)
  with pytest.raises(UserError, match=message):
    texts.of_run(config, given, None)


def test_without_the_library_the_line_says_what_to_install(monkeypatch):
  monkeypatch.setitem(sys.modules, "tokenizers", None)
  with pytest.raises(UserError, match=r"pip install .*\[text\]"):
    texts.learn(TEXTS, 300)
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(UserError, match=r"no tokenizers; install with .*\[text\]"):
    config_lib.check(config_lib.load("lite_llm4rec", "tiny"))
