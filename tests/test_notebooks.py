"""The notebooks run from top to bottom, on the demo shop, and find what they say."""

import json
import pathlib
import re

import nbclient
import nbformat
import pytest

NOTEBOOKS = pathlib.Path(__file__).parent.parent / "notebooks"
PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))
every_notebook = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


@pytest.fixture(scope="module")
def said(tmp_path_factory):
  """What a notebook prints at tiny size, by path; each is run once."""
  found = {}

  def execute(path):
    if path not in found:
      found[path] = run(path, tmp_path_factory.mktemp(path.stem))
    return found[path]

  return execute


def run(path, folder):
  notebook = nbformat.read(path, 4)
  for cell in notebook.cells:
    cell.source = cell.source.replace('SIZE = ""', 'SIZE = ":tiny"')
  with pytest.MonkeyPatch.context() as patch:
    patch.delenv("LIGHTLM_DATA_DIR", raising=False)
    # What is compiled here runs for less time than that takes.
    patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    patch.setenv("JUPYTER_RUNTIME_DIR", str(folder / "jupyter"))
    patch.setenv("IPYTHONDIR", str(folder / "ipython"))
    client = nbclient.NotebookClient(
      notebook,
      timeout=600,
      kernel_name="python3",
      resources={"metadata": {"path": str(NOTEBOOKS)}},
    )
    client.execute()
  outputs = [o for cell in notebook.cells for o in cell.get("outputs", ())]
  assert not [o for o in outputs if o.get("name") == "stderr"]
  return "".join(o["text"] for o in outputs if o["output_type"] == "stream")


@every_notebook
def test_it_runs(said, path):
  assert said(path)


@every_notebook
def test_it_shows_what_it_printed_and_no_error(path):
  cells = json.loads(path.read_text())["cells"]
  outputs = [output for cell in cells for output in cell.get("outputs", ())]
  assert outputs
  assert not [output for output in outputs if output["output_type"] == "error"]
  assert not [o for o in outputs if o.get("name") == "stderr"]
  assert path.stat().st_size < 400_000


def test_the_ids_notebook_shows_the_leak(said):
  out = said(NOTEBOOKS / "02_ids.ipynb")
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


def test_the_decoding_notebook_fills_lists_that_a_filter_would_shorten(said):
  out = said(NOTEBOOKS / "03_decoding.ipynb")
  inside, afterwards = re.findall(r": ([\d.]+) items of 10", out)
  assert float(inside) == 10
  assert float(afterwards) < 8
