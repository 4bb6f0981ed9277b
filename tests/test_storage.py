"""Files, folders and locks: whole or not there, and what is not whole is noticed."""

from etils import epath
import pytest

from lightlm_jax.preprocess import files
from lightlm_jax.runs import evaluate, recommend
from lightlm_jax.runtime.errors import UserError, first_line
from lightlm_jax.storage import atomic
from lightlm_jax.storage import folder as folder_lib
from lightlm_jax.storage import workdir as workdir_lib
from lightlm_jax.training import manifests

FILES = {"a.txt": b"one", "b.txt": b"two"}


def kept(folder):
  with folder_lib.opened(folder) as whole:
    return [whole.read(name) for name in FILES]


def test_an_error_inside_leaves_nothing(tmp_path):
  path = epath.Path(tmp_path) / "file"
  with pytest.raises(ZeroDivisionError), atomic.writing(path) as file:
    file.write(b"half" * (1 // 0))
  with pytest.raises(ZeroDivisionError), atomic.new_folder(path) as part:
    (part / "file").write_text("half" * (1 // 0))
  assert not list(tmp_path.iterdir())


def test_a_new_folder_does_not_replace_one(tmp_path):
  folder = epath.Path(tmp_path) / "folder"
  for content, exists_ok in (("first", False), ("second", True)):
    with atomic.new_folder(folder, exists_ok=exists_ok) as part:
      (part / "file").write_text(content)
  with (
    pytest.raises(UserError, match="cannot write"),
    atomic.new_folder(folder) as part,
  ):
    (part / "file").write_text("third")
  assert (folder / "file").read_text() == "first"
  assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize(
  "harm",
  [
    lambda folder: (folder / "manifest.json").unlink(),
    lambda folder: (folder / "manifest.json").write_text("[]"),
    lambda folder: (folder / "b.txt").unlink(),
    lambda folder: (folder / "b.txt").write_text("twO"),
  ],
)
def test_a_folder_that_changed_is_not_whole(tmp_path, harm):
  folder = epath.Path(tmp_path) / "folder"
  folder_lib.write(folder, FILES, {"sha256": folder_lib.digests(FILES)})
  assert kept(folder) == list(FILES.values())
  harm(folder)
  with pytest.raises(folder_lib.NotWhole):
    kept(folder)


def test_names_of_a_manifest_do_not_leave_the_folder(tmp_path):
  folder = epath.Path(tmp_path) / "folder"
  (tmp_path / "outside").write_text("secret")
  folder_lib.write(folder, FILES, {"sha256": {"../outside": "0"}})
  with (
    pytest.raises(folder_lib.NotWhole, match="no file of the folder"),
    folder_lib.opened(folder) as whole,
  ):
    whole.read("../outside")


def test_a_lock_refuses_until_it_is_free(tmp_path):
  folder = epath.Path(tmp_path)
  with (
    folder_lib.locked(folder),
    pytest.raises(UserError, match="another one"),
    folder_lib.locked(folder, refuse="another one"),
  ):
    raise AssertionError("two at once")
  with folder_lib.locked(folder, refuse="another one"):
    assert folder_lib.try_lock(folder / ".lock") is None


@pytest.mark.parametrize(
  ("error", "line"),
  [
    (OSError(28, "No space left", "file"), "No space left"),
    (ValueError("one\ntwo"), "one"),
    (KeyError(), "KeyError"),
  ],
)
def test_the_first_line_of_an_error(error, line):
  assert first_line(error) == line


def test_each_process_hashes_its_own_files_and_all_are_verified(tmp_path):
  folder = epath.Path(tmp_path)
  names = ["state/d/x", "state/ocdbt.process_1/d/y", "state/array_metadatas/process_1"]
  for name in names:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(name)
  for process in range(2):
    manifests.write(folder, process)
  assert {path.name for path in folder.glob("*.json")} == {
    "sha256.json",
    "sha256.process_1.json",
  }

  def found(count):
    return [manifests.changed(folder, process, count) for process in range(count)]

  assert found(3) == [None] * 3
  (folder / names[1]).write_text("changed")
  for count in (1, 2, 3):  # whoever verifies it
    (line,) = filter(None, found(count))
    assert line == f"{names[1]} is not what was written"


@pytest.mark.parametrize(
  "ask",
  [
    workdir_lib.read,
    evaluate.evaluate,
    lambda url: recommend.recommend(url, users=["u1"]),
    files.find,
  ],
)
def test_a_url_that_nothing_here_opens_is_one_line(ask):
  # As gs:// is without the extra: its package cannot be imported.
  with pytest.raises(UserError, match=r"cannot open none://bucket/run .*\[gcs\]"):
    ask("none://bucket/run")
