"""The notebooks run, on the demo shop, and find what they say they find."""

import json
import pathlib

import pytest

NOTEBOOKS = pathlib.Path(__file__).parent.parent / "notebooks"


@pytest.fixture
def run(monkeypatch, capsys):
  """Runs a notebook's code, all cells in one namespace, and returns what it says."""
  monkeypatch.delenv("LIGHTLM_DATA_DIR", raising=False)
  monkeypatch.setenv("MPLBACKEND", "agg")
  monkeypatch.chdir(NOTEBOOKS)

  def execute(name):
    notebook = json.loads((NOTEBOOKS / name).read_text())
    cells = [
      "".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"
    ]
    namespace = {}
    exec("\n\n".join(cells), namespace)
    return namespace, capsys.readouterr().out

  return execute


def test_the_ids_notebook_shows_the_leak(run):
  namespace, out = run("ids.ipynb")
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
  reports = namespace["reports"]
  agreement = reports["sci, N = 50"]["agreement"]
  assert agreement["training"][0] > agreement["held_out"][0] > agreement["random"][0]


@pytest.mark.parametrize(
  "path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda p: p.name
)
def test_a_notebook_shows_what_it_printed_and_no_error(path):
  cells = json.loads(path.read_text())["cells"]
  outputs = [output for cell in cells for output in cell.get("outputs", ())]
  assert outputs
  assert not [output for output in outputs if output["output_type"] == "error"]
  assert not [o for o in outputs if o.get("name") == "stderr"]
