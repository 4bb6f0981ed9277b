"""The notebooks that train most: that a notebook runs is shown by quicker ones."""

import re

from notebook_runs import NOTEBOOKS, run
import pytest

pytestmark = [pytest.mark.integration, pytest.mark.slow]


def test_the_decoding_notebook_fills_lists_that_a_filter_would_shorten(tmp_path):
  out = run(NOTEBOOKS / "03_decoding.ipynb", tmp_path)
  inside, afterwards = re.findall(r": ([\d.]+) items of 10", out)
  assert float(inside) == 10
  assert float(afterwards) < 8


def test_the_four_systems_run(tmp_path):
  assert run(NOTEBOOKS / "05_four_systems.ipynb", tmp_path)
