"""Two trials of every kind of fault; `python -m tests.faults` makes all of them."""

import shutil

import pytest

from tests.faults import __main__ as faults
from tests.faults import suite

KINDS = faults.kinds()
del KINDS["soak"]  # which takes long by its nature


@pytest.mark.faults
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", KINDS)
def test_what_is_damaged_holds(name):
  if name in ("disks", "limits") and not shutil.which("mount"):
    pytest.skip("small disks need mount: no full disk was tested")
  said = []
  found = suite.run(KINDS[name], seed=1, trials=2, seconds=60, say=said.append)
  assert not found.failed, said
