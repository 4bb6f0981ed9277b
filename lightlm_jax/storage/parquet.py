"""Tables as the bytes of a Parquet file, to be written atomically."""

from collections.abc import Sequence
import io

import pyarrow
import pyarrow.parquet


def to_bytes(table: pyarrow.Table) -> bytes:
  content = io.BytesIO()
  pyarrow.parquet.write_table(table, content, compression="zstd")
  return content.getvalue()


def from_bytes(content: bytes, columns: Sequence[str] | None = None) -> pyarrow.Table:
  """Returns the table, or some columns of it, with its metadata.

  Raises:
    OSError, ValueError, pyarrow.ArrowException: the bytes are no such file.
  """
  # `read_table` goes through pyarrow's datasets, whose threads outlive the reading with
  # every option: a process that ends then may be aborted.
  with pyarrow.parquet.ParquetFile(io.BytesIO(content), pre_buffer=False) as file:
    return file.read(columns=columns, use_threads=False)
