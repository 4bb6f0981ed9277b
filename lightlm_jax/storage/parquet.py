"""Converts tables to and from the bytes of a Parquet file, for atomic writes."""

from collections.abc import Sequence
import io

import pyarrow
import pyarrow.parquet

from lightlm_jax.storage import arrays


def to_bytes(table: pyarrow.Table) -> bytes:
  content = io.BytesIO()
  pyarrow.parquet.write_table(table, content, compression="zstd")
  return content.getvalue()


def from_bytes(content: bytes, columns: Sequence[str] | None = None) -> pyarrow.Table:
  """Returns a Parquet file's table with its metadata; `columns` None = all columns.

  Raises:
    OSError, ValueError, pyarrow.ArrowException: the bytes are not a Parquet file, or
      they claim a table that could fill the memory.
  """
  # `read_table` uses pyarrow's datasets, whose threads always outlive the call: a
  # process that ends during that time may abort.
  with pyarrow.parquet.ParquetFile(io.BytesIO(content), pre_buffer=False) as file:
    about = file.metadata
    groups = (about.row_group(n) for n in range(about.num_row_groups))
    unpacked = sum(group.total_byte_size for group in groups)
    arrays.check_unpacked(len(content), max(unpacked, 8 * about.num_rows))
    return file.read(columns=columns, use_threads=False)
