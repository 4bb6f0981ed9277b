"""A notebook as a reader runs it, from top to bottom, at tiny size."""

import pathlib

import nbclient
import nbformat
import pytest

NOTEBOOKS = pathlib.Path(__file__).parent.parent / "notebooks"


def run(path, folder):
  """What it prints; nothing on stderr."""
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
