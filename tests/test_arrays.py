"""Arrays of files whose headers claim what the files do not hold."""

import io
import tracemalloc
import zipfile

import numpy as np
import pyarrow
import pytest

from lightlm_jax.storage import arrays, parquet


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


def test_an_archive_that_claims_more_than_real_data_is_not_unpacked():
  content = io.BytesIO()
  np.savez(content, codes=np.zeros((3, 2), np.int32))
  packed = bytearray(content.getvalue())
  with zipfile.ZipFile(io.BytesIO(packed)) as archive:
    claim = archive.start_dir + 24  # the size in the archive's directory
  packed[claim : claim + 4] = (2**31).to_bytes(4, "little")
  with pytest.raises(ValueError, match="bytes claim to unpack to 2,147,483,648"):
    arrays.read_npz(bytes(packed), np.int32, ndim=2)


def test_a_table_that_claims_more_than_real_data_is_not_unpacked(monkeypatch):
  table = pyarrow.table({"user": ["a"] * 5_000})
  content = parquet.to_bytes(table)
  assert parquet.from_bytes(content).equals(table)
  claims = []
  monkeypatch.setattr(arrays, "check_unpacked", lambda *sizes: claims.append(sizes))
  parquet.from_bytes(content)
  ((packed, unpacked),) = claims
  assert packed == len(content)
  assert unpacked >= 8 * 5_000  # though a text is repeated in few bytes


def test_so_much_may_be_unpacked_and_not_a_byte_more():
  arrays.check_unpacked(10, 2**30 + 10_000)
  with pytest.raises(ValueError, match="claim to unpack"):
    arrays.check_unpacked(10, 2**30 + 10_001)
