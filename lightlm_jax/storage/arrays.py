"""Reads NumPy arrays from files whose headers may say anything."""

import io
import math
from typing import IO, Any
import zipfile

import numpy as np

_format: Any = np.lib.format
_HEADERS = {
  (1, 0): _format.read_array_header_1_0,
  (2, 0): _format.read_array_header_2_0,
}


def read(file: IO[bytes], size: int, dtype: Any, ndim: int) -> np.ndarray:
  """Reads an .npy file of `size` bytes, which must have this dtype and so many axes.

  The header is compared with `size` before memory is allocated.

  Raises:
    ValueError: the file has other content.
  """
  read_header = _HEADERS.get(_format.read_magic(file))
  if read_header is None:
    raise ValueError("an .npy file of an unknown version")
  shape, fortran, found = read_header(file)
  if found != np.dtype(dtype) or len(shape) != ndim:
    raise ValueError(f"an array {shape} of {found}, not one of {np.dtype(dtype)}")
  if min(shape) < 0 or math.prod(shape) * found.itemsize != size - file.tell():
    raise ValueError(f"its header claims {shape} values, which it does not hold")
  values = np.frombuffer(file.read(), found)
  return values.reshape(shape, order="F" if fortran else "C")


def check_unpacked(packed: int, unpacked: int) -> None:
  """Raises a ValueError if so many bytes unpack to more than real data would."""
  if unpacked > 2**30 + 1_000 * packed:
    raise ValueError(f"its {packed:,} bytes claim to unpack to {unpacked:,}")


def read_npz(content: bytes, dtype: Any, ndim: int) -> dict[str, np.ndarray]:
  """Reads the arrays of an .npz file by name; see `read`.

  Raises:
    ValueError: an array has another form.
    zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError: the
      file is damaged.
  """
  arrays = {}
  with zipfile.ZipFile(io.BytesIO(content)) as archive:
    check_unpacked(len(content), sum(entry.file_size for entry in archive.infolist()))
    for entry in archive.infolist():
      with archive.open(entry) as file:
        name = entry.filename.removesuffix(".npy")
        arrays[name] = read(file, entry.file_size, dtype, ndim)
  return arrays
