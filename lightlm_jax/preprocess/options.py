"""The options of a preparation."""

from collections.abc import Mapping
import dataclasses

from lightlm_jax.preprocess import files


@dataclasses.dataclass(frozen=True)
class Options:
  """The flags of `prepare`, and sizes that only tests change; None = not given."""

  input: str
  output: str
  format: str | None = None  # one of files.FORMATS
  names: Mapping[str, str] = dataclasses.field(default_factory=dict)  # role → column
  columns: tuple[str, ...] | None = None  # column names of files without a header
  delimiter: str | None = None
  encoding: str | None = None  # of the log and of the file of items
  # A key of times.UNITS, or a format; None = found, in engines no times.
  time_unit: str | None = None
  clock: str | None = None  # of times.CLOCKS, in engines: of a column beside the date
  keep: tuple[str, ...] = ()  # kinds of events; () = all
  yes: bool = False  # take what the values propose, without asking
  explain: bool = False  # log why each column was chosen
  min_rating: float | None = None  # None = ratings are ignored
  ties: str = "hash"  # a key of sequences.TIES
  duplicates: str = "keep"  # a key of sequences.DUPLICATES
  k_core: int = 0
  min_len: int = 1
  max_len: int = 0  # number of last rows to keep of each user; 0 = all
  items: str | None = None
  items_id: str | None = None
  strict: bool = False  # raise an error for a row that cannot be read
  work: str | None = None
  engine: str = "one_machine"
  beam_options: str = ""
  part_bytes: int = 2**25  # input bytes per part of the log
  shard_rows: int = 2**21  # rows per output shard
  block_bytes: int = files.BLOCK
