"""Converts tables to and from the bytes of a Parquet file, for atomic writes."""

from collections.abc import Sequence
import io

import pyarrow
import pyarrow.parquet


def to_bytes(table: pyarrow.Table) -> bytes:
  content = io.BytesIO()
  pyarrow.parquet.write_table(table, content, compression="zstd")
  return content.getvalue()


def from_bytes(content: bytes, columns: Sequence[str] | None = None) -> pyarrow.Table:
  """Returns a Parquet file's table with its metadata; `columns` None = all columns.

  Raises:
    OSError, ValueError, pyarrow.ArrowException: the bytes are not a Parquet file.
  """
  # `read_table` uses pyarrow's datasets, whose threads always outlive the call: a
  # process that ends during that time may abort.
  with pyarrow.parquet.ParquetFile(io.BytesIO(content), pre_buffer=False) as file:
    return file.read(columns=columns, use_threads=False)
