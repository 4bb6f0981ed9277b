"""The notebooks run, and find what they say; those that train most are apart."""

import json
import re

from notebook_runs import NOTEBOOKS, run
import pytest

TRAINING_MOST = ("03_decoding", "05_four_systems")  # test_notebooks_training
PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))


@pytest.mark.integration
@pytest.mark.parametrize(
  "name", [path.stem for path in PATHS if path.stem not in (*TRAINING_MOST, "02_ids")]
)
def test_it_runs(name, tmp_path):
  assert run(NOTEBOOKS / f"{name}.ipynb", tmp_path)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_it_shows_what_it_printed_and_no_error(path):
  cells = json.loads(path.read_text())["cells"]
  outputs = [output for cell in cells for output in cell.get("outputs", ())]
  assert outputs
  assert not [output for output in outputs if output["output_type"] == "error"]
  assert not [o for o in outputs if o.get("name") == "stderr"]
  assert path.stat().st_size < 400_000


@pytest.mark.integration
@pytest.mark.slow
def test_the_ids_notebook_shows_the_leak(tmp_path):
  out = run(NOTEBOOKS / "02_ids.ipynb", tmp_path, optimised=True)
  found = {
    line.split(" HR@10 ")[0].strip(): float(line.split(" HR@10 ")[1])
    for line in out.splitlines()
    if " HR@10 " in line
  }
  assert found["the reference's graph"] > 1.5 * found["training alone"] > 0
  ours, theirs = (line for line in out.splitlines() if "held-out edges" in line)
  assert "read:      0; users' ids changed: 0.0%" in ours
  assert "read:      0;" not in theirs
  assert "changed: 0.0%" not in theirs
  (row,) = re.findall(r"sci, N = 50 +([\d.]+)% +([\d.]+)% +([\d.]+)%", out)
  training, held_out, random = map(float, row)
  assert training > held_out > random
