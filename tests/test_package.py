"""What is installed: the right dependencies, every folder, the configs."""

import configparser
import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

from packaging.requirements import Requirement
import pytest

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="module")
def setup():
  parser = configparser.ConfigParser()
  parser.read(ROOT / "setup.cfg")
  return parser


def requirements(text):
  lines = [line for line in text.splitlines() if line and not line.startswith("#")]
  return {r.name: r for r in map(Requirement, lines)}


def test_every_folder_is_a_package(setup):
  listed = set(setup["options"]["packages"].split())
  folders = {path.parent for path in (ROOT / "lightlm_jax").rglob("*.py")}
  found = {".".join(path.relative_to(ROOT).parts) for path in folders}
  beside = {"lightlm_jax.benchmarks", "lightlm_jax.configs"}
  assert listed == found | beside


def test_hashed_requirements_are_those_of_the_constraints(setup):
  lines = (ROOT / "requirements-hashed.txt").read_text().splitlines()
  hashed = [line.rstrip(" \\") for line in lines if "==" in line]
  assert sum("--hash=sha256:" in line for line in lines) >= len(hashed)
  assert "http" not in "".join(lines)  # from wherever pip looks
  for python in ("3.11", "3.12", "3.13"):
    about = {"python_version": python, "python_full_version": f"{python}.0"}
    pins = {
      pin.name.lower().replace("_", "-"): pin
      for pin in map(Requirement, hashed)
      if not pin.marker or pin.marker.evaluate(about)
    }
    for name in requirements(setup["options"]["install_requires"]):
      assert name.lower().replace("_", "-") in pins, (python, name)
    for constraint in (ROOT / "constraints.txt").read_text().splitlines():
      if constraint.startswith("#"):
        continue
      one = Requirement(constraint)
      pin = pins.get(one.name.lower().replace("_", "-"))
      if pin and (not one.marker or one.marker.evaluate(about)):
        (clause,) = pin.specifier
        assert one.specifier.contains(clause.version, prereleases=True), constraint


def test_constraints_leave_room_for_every_requirement(setup):
  constraints = [
    Requirement(line)
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if not line.startswith("#")
  ]
  extras = setup["options.extras_require"]
  needed = requirements(setup["options"]["install_requires"])
  needed |= requirements(extras["test"])
  for python in ("3.11", "3.12", "3.13"):
    pins = {
      pin.name.lower().replace("_", "-"): pin.specifier
      for pin in constraints
      if not pin.marker or pin.marker.evaluate({"python_version": python})
    }
    for requirement in needed.values():
      pin = pins.get(requirement.name.lower().replace("_", "-"))
      for clause in pin or ():
        if clause.operator in ("==", "<="):
          assert requirement.specifier.contains(clause.version, prereleases=True)
  # The constraint and the cuda extra meet at 0.10.1 on Python 3.11.
  on_311 = [c for c in constraints if c.marker and c.name in ("jax", "jaxlib")]
  cuda = requirements(extras["cuda"])
  for constraint in on_311:
    if constraint.marker.evaluate({"python_version": "3.11"}):
      assert "0.10.1" in constraint.specifier & cuda[constraint.name].specifier


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
  """The wheel of a copy of the checkout, built without a network."""
  pytest.importorskip("setuptools", "77", reason="no setuptools: no wheel was tested")
  source = tmp_path_factory.mktemp("source")
  for name in ("lightlm_jax", "benchmarks", "configs"):
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / name, source / name, ignore=ignore)
  for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
    shutil.copy(ROOT / name, source / name)
  out = tmp_path_factory.mktemp("wheel")
  build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
  build += ["--no-index", "--wheel-dir", str(out), str(source)]
  done = subprocess.run(build, capture_output=True, text=True, timeout=300)
  assert done.returncode == 0, done.stdout + done.stderr
  (path,) = out.glob("*.whl")
  return path


@pytest.mark.integration
def test_wheel_holds_all_files_of_the_package(wheel):
  names = set(zipfile.ZipFile(wheel).namelist())
  files = set()
  for folder, inside in (("lightlm_jax", ""), ("benchmarks", "benchmarks/")):
    for path in (ROOT / folder).rglob("*"):
      if path.is_file() and "__pycache__" not in path.parts:
        files.add(f"lightlm_jax/{inside}{path.relative_to(ROOT / folder)}")
  configs = {f"lightlm_jax/configs/{p.name}" for p in (ROOT / "configs").glob("*.py")}
  # What is no module is easily left behind: templates, a page, py.typed.
  assert len([name for name in files if not name.endswith(".py")]) >= 4
  assert configs
  assert files | configs <= names
  beside = ("benchmarks/", "configs/", "tests/")
  assert not [name for name in names if name.startswith(beside)]
  assert any(name.endswith("LICENSE") for name in names)


@pytest.mark.integration
def test_bare_name_works_from_the_wheel(wheel, tmp_path):
  zipfile.ZipFile(wheel).extractall(tmp_path)
  script = (
    "from lightlm_jax import config; print(config.__file__); "
    "assert config.available(); "
    "[config.card(name, 'tiny') for name in config.available() if name != 'ensemble']"
  )
  done = subprocess.run(
    [sys.executable, "-c", script],
    env=os.environ | {"PYTHONPATH": str(tmp_path)},
    cwd=tmp_path,
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.startswith(str(tmp_path))
