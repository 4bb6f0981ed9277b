"""Arrays of files whose headers claim what the files do not hold."""

import io
import tracemalloc
import zipfile

import numpy as np
import pytest

from lightlm_jax.storage import arrays


def npy(array, **options):
  content = io.BytesIO()
  np.save(content, array, **options)
  return content.getvalue()


def header(shape):
  content = io.BytesIO()
  fields = {"descr": "<i4", "fortran_order": False, "shape": shape}
  np.lib.format.write_array_header_1_0(content, fields)
  return content.getvalue()


def read(content, ndim=2):
  return arrays.read(io.BytesIO(content), len(content), np.int32, ndim)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(2, 3), (0, 3), (1, 1)])
def test_what_numpy_wrote_comes_back(shape, order):
  array = np.arange(np.prod(shape), dtype=np.int32).reshape(shape, order=order)
  np.testing.assert_array_equal(read(npy(array)), array)


@pytest.mark.parametrize("shape", [(10**7, 10**6), (2**70, 3), (-1, -1), (5, 1)])
def test_a_claim_is_checked_before_memory_is_taken(shape):
  tracemalloc.start()
  with pytest.raises(ValueError, match="claims"):
    read(header(shape))
  assert tracemalloc.get_traced_memory()[1] < 2**20
  tracemalloc.stop()


@pytest.mark.parametrize(
  "content",
  [
    npy(np.zeros((2, 3))),
    npy(np.zeros(3, np.int32)),
    npy(np.array([[{}]], object), allow_pickle=True),
    npy(np.zeros((2, 3), [("a", "<i4")])),
    npy(np.zeros((2, 3), np.int32))[:-1],
    b"\x80\x04N.",
    b"",
  ],
)
def test_another_array_is_a_value_error(content):
  with pytest.raises(ValueError, match=r"."):
    read(content)


def test_a_member_of_an_archive_is_checked_likewise():
  content = io.BytesIO()
  with zipfile.ZipFile(content, "w") as archive:
    archive.writestr("items.npy", header((10**7, 10**6)))
  with pytest.raises(ValueError, match="claims"):
    arrays.read_npz(content.getvalue(), np.int32, ndim=2)
