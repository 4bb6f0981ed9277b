"""What `doctor` says of the machine, and of runs that are whole or damaged."""

import os
import shutil

import pytest

from lightlm_jax import doctor as command
from lightlm_jax.runs import doctor, train
from lightlm_jax.runtime.errors import UserError


def test_the_machine_is_described(tmp_path, monkeypatch):
  (tmp_path / "pens").mkdir()
  (tmp_path / "pens" / "sequences.txt").touch()
  monkeypatch.setenv("LIGHTLM_DATA_DIR", str(tmp_path))
  lines = list(doctor.describe())
  assert lines[0].startswith("lightlm_jax ")
  assert any(line.startswith("backend cpu: ") for line in lines)
  assert any(
    line.startswith(f"data {tmp_path} (") and "; pens" in line for line in lines
  )
  assert lines[-1].endswith("training works")


def test_a_version_with_a_known_fault_is_said(monkeypatch):
  monkeypatch.setattr(doctor.jax, "default_backend", lambda: "gpu")
  monkeypatch.setattr(doctor, "_short_training", lambda: "training works")
  monkeypatch.setattr(doctor.importlib.metadata, "version", lambda name: "0.11.0")
  assert any("KNOWN FAULT of jaxlib" in line for line in doctor.describe())
  monkeypatch.setattr(doctor.importlib.metadata, "version", lambda name: "0.11.1")
  assert not any("KNOWN FAULT" in line for line in doctor.describe())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp("doctor")


@pytest.fixture
def run(small_config, folder, tmp_path):
  if not (folder / "results.json").exists():
    config = small_config(system="bpr_mf", split__kind="leave_one_out")
    train.train(config, folder)
  return shutil.copytree(folder, tmp_path / "run")


def test_a_run_that_is_whole_and_one_part_after_another_damaged(run, capsys):
  parts = dict(doctor.verify(run))
  assert set(parts.values()) == {None}
  assert "all parts are of one run" in parts
  steps = [name for name in parts if name.startswith("checkpoints/")]
  assert len(steps) > 1
  for name in parts.keys() - {"config.json", "all parts are of one run"}:
    path = run / name
    file = path if path.is_file() else max(path.rglob("*"), key=os.path.getsize)
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    found = dict(doctor.verify(run))
    # Not only the newest checkpoint is read.
    assert [part for part, problem in found.items() if problem] == [name]
    file.write_bytes(content)
  monkey = pytest.MonkeyPatch()
  with monkey.context() as patch:
    flags = type("Flags", (), {"verify": str(run), "platform": None})
    patch.setattr(command, "FLAGS", flags)
    assert command.main([]) == 0
    (run / "split.json").write_text("{")
    assert command.main([]) == 1
  assert "\nDAMAGED  split.json  " in capsys.readouterr().out


def test_no_run_is_one_line(tmp_path):
  with pytest.raises(UserError, match=r"config\.json does not exist"):
    doctor.verify(tmp_path)
