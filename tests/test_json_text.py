"""JSON from anywhere: what json reads, and a ValueError in place of any other end."""

import json
import pathlib
import re
from typing import Annotated, Literal, NotRequired, TypedDict

from etils import epath
from hypothesis import given
from hypothesis import strategies as st
import pytest

from lightlm_jax.data import parquet_logs, shards, texts
from lightlm_jax.ids import codes
from lightlm_jax.inference import output
from lightlm_jax.inference import state_index as latent_decoding
from lightlm_jax.preprocess import items
from lightlm_jax.runs import results
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.storage import json_text
from lightlm_jax.storage import workdir as workdir_lib

ROOT = pathlib.Path(json_text.__file__).parent
values = st.recursive(
  st.none() | st.booleans() | st.integers() | st.text(),
  lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
# Too deep for json itself, and for who walks through what json read.
DEEP = ["[" * 100_000, '{"a":' * 100_000, "[" * 600 + "]" * 600]


@given(values)
def test_it_reads_what_json_reads(value):
  assert json_text.loads(json.dumps(value)) == value


@pytest.mark.parametrize("opens", ["[", '{"a":'])
def test_it_reads_so_many_levels_and_not_one_more(opens):
  closes = {"[": "]", '{"a":': "}"}[opens]

  def nested(levels):
    return opens * levels + "1" + closes * levels

  assert json_text.loads(nested(json_text.DEEPEST))
  with pytest.raises(ValueError, match="more than 100 levels"):
    json_text.loads(nested(json_text.DEEPEST + 1))


@pytest.mark.parametrize("text", DEEP)
def test_too_deep_is_a_value_error(text):
  with pytest.raises(ValueError, match="levels"):
    json_text.loads(text)


@pytest.mark.parametrize("text", [*DEEP, "[]", "3", '"a"'])
@pytest.mark.parametrize(
  ("name", "read"),
  [
    ("config.json", lambda folder: workdir_lib.read(folder)),
    ("results.json", results.read_finished),
    ("manifest.json", parquet_logs.read_prepared),
    ("manifest.json", parquet_logs.read_snapshot),
    ("manifest.json", shards.Shards),
    ("recs.csv.json", lambda folder: output._claim(folder / "recs.csv", {"k": 1}, 1)),
  ],
)
def test_a_folder_with_such_a_file_is_refused_in_a_line(tmp_path, name, read, text):
  (tmp_path / name).write_text(text)
  with pytest.raises(UserError) as error:
    read(epath.Path(tmp_path))
  assert len(str(error.value)) < 500


@pytest.mark.parametrize("text", [*DEEP, "[]", "3", '"a"'])
def test_what_can_be_made_anew_is_taken_for_none(tmp_path, text):
  (tmp_path / "manifest.json").write_text(text)
  folder = epath.Path(tmp_path)
  assert codes.load(folder) is None
  assert texts.load(folder) is None
  assert items._object(text.encode()) is None
  about = {"ids_sha256": "x"}
  with pytest.raises(ZeroDivisionError):  # it goes on to make it
    latent_decoding.cached(folder, about, lambda: 1 / 0)


def test_files_are_read_by_it_alone():
  for path in ROOT.rglob("*.py"):
    assert "json.loads(path" not in path.read_text(), path
    assert "json.loads((" not in path.read_text(), path


class Kind(TypedDict):
  """What `misfit` is tried on."""

  count: int
  share: NotRequired[float | None]
  rules: Annotated[dict[str, dict[str, float]], ("a", "b")]
  ends: tuple[float, float]
  split: Literal["test", "validation"]
  names: list[str]
  passed: bool


@pytest.mark.parametrize(
  ("field", "value", "wrong"),
  [
    ("count", 3, None),
    ("count", 3.0, "count is 3.0, not a whole number"),
    ("count", True, "count is True, not a whole number"),
    ("count", 10**400, "count is 1000.*, not a whole number"),
    ("share", None, None),
    ("share", 1, None),
    ("share", float("nan"), "share is nan, not a finite number"),
    ("share", "x", "share is 'x', not a finite number"),
    ("rules", {"a": {"x": 1}, "b": {}}, None),
    ("rules", {"a": {}}, "rules has no b"),
    ("rules", {"a": {"x": None}, "b": {}}, "rules.a.x is None, not a finite number"),
    ("rules", [], r"rules is \[\], not an object"),
    ("ends", [0.1, 2], None),
    ("ends", [0.1], r"ends is \[0.1\], not a list of 2"),
    ("ends", [0.1, None], "ends.1 is None, not a finite number"),
    ("split", "test", None),
    ("split", "train", "split is 'train', not test or validation"),
    ("names", ["a", 3], "names.1 is 3, not a text"),
    ("passed", 1, "passed is 1, not true or false"),
    ("other", object(), None),
  ],
)
def test_a_value_of_another_type_is_named(field, value, wrong):
  found = json_text.misfit({field: value}, Kind)
  if wrong is None:
    assert found is None
  else:
    assert re.fullmatch(wrong, found)


@pytest.mark.parametrize("text", ['"\\ud800"', '{"\\ud800": 1}', '[["\\udfff"]]'])
def test_a_lone_surrogate_which_no_file_could_hold_is_a_value_error(text):
  with pytest.raises(ValueError, match="surrogates"):
    json_text.loads(text)


def test_a_file_that_is_too_large_for_json_of_ours_is_not_read(tmp_path):
  path = epath.Path(tmp_path / "results.json")
  with path.open("wb") as file:
    file.truncate(2**40)  # without taking the disk
  with pytest.raises(UserError, match="it has 1,099,511,627,776 bytes"):
    json_text.read(path, "remove it")
