"""Every command that README and docs/ print runs as printed, on small logs.

A few flags behind it make it small: SMALL. What installs is .ci/run's to try; here its
extras have to exist.
"""

import configparser
import os
import pathlib
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
STEPS = ["--config.train.steps=4", "--config.train.eval_every=2"]
NARROW = ["--config.model.d_model=16", "--config.model.num_layers=1"]
NARROW += ["--config.model.num_decoder_layers=1"]
FEW = ["--config.data.shop.num_users=300"]
# Each width of a batch is a program to compile.
FEW += ["--config.train.history_buckets=()", "--config.train.eval_batch_size=300"]
SMALL = {
  "train --config=configs/demo.py": [*STEPS, *NARROW, *FEW],
  "train --config=configs/toys.py:best": [*STEPS, *NARROW],
  "train --config=configs/toys.py --config.system=ease": [],
  "train --config=configs/ensemble.py": [],
  "train": STEPS,
  "sweep": ["--vary=depth=1", "--vary=width=8", "--vary=ffn=1", "--jobs=1"]
  + [f"--config.run.train.{field}" for field in ("steps=4", "eval_every=2")],
  "bench decode": ["--parts=b", "--sizes=500"],
  "bench train": ["--parts=a", "--shapes=tiny", "--batch=8"],
  "bench all": ["--minutes=1e-6"],
}
# .ci/run installs and tests, test_package makes the wheel, test_parity asks T5,
# test_gpus compiles for GPUs.
ELSEWHERE = r"-m (venv|pip|pytest) |bin/pip |tests/parity_t5.py|--topology=h100"


def commands() -> list[str]:
  """The printed commands in the order of the pages, each once, at every `&&` apart."""
  found = {}
  for page in PAGES:
    for block in re.findall(r"^```bash\n(.*?)^```", page.read_text(), re.S | re.M):
      for line in block.splitlines():
        found |= dict.fromkeys(line.split(" && "))
  return list(found)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> pathlib.Path:
  """A checkout's configs, logs in DATA and log.csv, and a python as README's."""
  folder = tmp_path_factory.mktemp("newcomer")
  (folder / "configs").symlink_to(ROOT / "configs")
  (folder / ".venv/bin").mkdir(parents=True)
  python = folder / ".venv/bin/python"
  python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
  python.chmod(0o755)
  rng = np.random.default_rng(0)
  rows = [rng.permutation(40)[: rng.integers(6, 12)] + 1 for _ in range(60)]
  (folder / "DATA/toys").mkdir(parents=True)
  lines = [" ".join(map(str, [user, *row])) for user, row in enumerate(rows, 1)]
  (folder / "DATA/toys/sequences.txt").write_text("\n".join(lines) + "\n")
  items = [f"{item}\tTitle of {item}" for item in range(1, 41)]
  (folder / "DATA/toys/items.tsv").write_text("\n".join(["item_id\ttext", *items]))
  events = [f"{u},{i},{t}" for u, row in enumerate(rows) for t, i in enumerate(row)]
  (folder / "log.csv").write_text("\n".join(["user,item,time", *events]) + "\n")
  return folder


@pytest.mark.integration
@pytest.mark.parametrize(
  "command", [one for one in commands() if not re.search(ELSEWHERE, one)]
)
def test_what_is_printed_runs(command, place):
  """In order: later commands go on with what earlier ones left."""
  said = command.partition("-m lightlm_jax.")[2]
  small = next((flags for name, flags in SMALL.items() if said.startswith(name)), [])
  done = subprocess.run(
    ["bash", "-c", f"{command} {shlex.join(small)}"],
    cwd=place,
    env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
    timeout=900,
  )
  assert done.returncode == 0, done.stdout + done.stderr


def test_what_installs_has_its_extra():
  parser = configparser.ConfigParser()
  parser.read(ROOT / "setup.cfg")
  text = "".join(page.read_text() for page in PAGES)
  named = set(re.findall(r"-e '\.\[(\w+)\]'", text))
  assert named > {"cuda", "tpu", "sweep"}
  assert named <= set(parser["options.extras_require"])


def test_pages_link_to_what_is_there():
  for page in PAGES:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
      assert (page.parent / target).exists(), f"{page.name}: {target}"
