"""JSON from anywhere: what json reads, and a ValueError in place of any other end."""

import json
import pathlib

from etils import epath
from hypothesis import given
from hypothesis import strategies as st
import pytest

from lightlm_jax.data import parquet_logs, shards, texts
from lightlm_jax.ids import codes
from lightlm_jax.inference import output
from lightlm_jax.inference import state_index as latent_decoding
from lightlm_jax.preprocess import items
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
    ("results.json", workdir_lib.read_results),
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
