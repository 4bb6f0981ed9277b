"""The options of a preparation."""

from collections.abc import Mapping
import dataclasses

from lightlm_jax.preprocess import files


@dataclasses.dataclass(frozen=True)
class Options:
  """The flags of the command, and sizes that tests change; None = guess or default."""

  input: str
  output: str
  format: str | None = None  # one of files.FORMATS
  names: Mapping[str, str] = dataclasses.field(default_factory=dict)  # role → column
  columns: tuple[str, ...] | None = None  # of files without a header
  delimiter: str | None = None
  time_unit: str | None = None  # of times.UNITS; the engines get None without times
  min_rating: float | None = None  # None = ratings are ignored
  duplicates: str = "keep"  # of sequences.DUPLICATES
  k_core: int = 0
  min_len: int = 1
  max_len: int = 0  # number of a user's last rows to keep; 0 = all
  items: str | None = None
  items_id: str | None = None
  strict: bool = False  # whether a row that cannot be read is an error
  work: str | None = None
  engine: str = "one_machine"
  beam_options: str = ""
  part_bytes: int = 2**25  # input bytes per part of the log
  shard_rows: int = 2**21  # rows per output shard
  block_bytes: int = files.BLOCK
