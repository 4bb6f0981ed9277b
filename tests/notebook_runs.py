"""A notebook as a reader runs it, from top to bottom, at tiny size."""

import os
import pathlib

import nbclient
import nbformat
import pytest

NOTEBOOKS = pathlib.Path(__file__).parent.parent / "notebooks"


def run(path, folder, *, optimised=False):
  """What it prints; nothing on stderr. Notebooks share their compiled programs.

  A notebook that computes for longer than it compiles is `optimised`.
  """
  notebook = nbformat.read(path, 4)
  for cell in notebook.cells:
    cell.source = cell.source.replace('SIZE = ""', 'SIZE = ":tiny"')
  with pytest.MonkeyPatch.context() as patch:
    patch.delenv("LIGHTLM_DATA_DIR", raising=False)
    if optimised:
      patch.delenv("XLA_FLAGS", raising=False)
    cache = pathlib.Path(os.environ["LIGHTLM_CACHE_DIR"]) / "xla"
    patch.setenv("JAX_COMPILATION_CACHE_DIR", str(cache))
    patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    patch.setenv("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
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
