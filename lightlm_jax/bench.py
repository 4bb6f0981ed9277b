"""Times training and constrained decoding, against other implementations.

python -m lightlm_jax.bench decode --quick
python -m lightlm_jax.bench train --quick
python -m lightlm_jax.bench all --folder=bench

Parts of `decode`: (a) a step of constrained beam search by number of items, beams and
levels; (b) size, build time and memory of the trie; (c) users per second end to end;
(d) the same weights in transformers' T5; (e) L2D (arXiv 2509.11524); (large) a model
and a catalogue for an accelerator. Parts of `train`: (a) examples per second by shape
and batch; (b) steps per dispatch; (c) bfloat16; (d) the embedding gradient; (e) packing
of short histories; (f) the same training in T5; (g) time per example as model, batch
and log grow.

--peer=MODULE:FUNCTION adds an implementation to (a) of `decode`; its interface is
described in benchmarks/transition.py. `all` runs both; no part starts after --minutes.
"""

import sys

from absl import flags

from lightlm_jax import command_line
from lightlm_jax.benchmarks import command  # pyright: ignore[reportMissingImports]

COMMANDS = ("decode", "train", "all")
flags.DEFINE_bool("quick", False, "small sizes: 2 minutes on 2 CPU cores")
flags.DEFINE_list("parts", None, "parts to run; default: all that suit the device")
flags.DEFINE_list(
  "sizes", None, "decode: items of the catalogues; train: interactions of the logs of g"
)
flags.DEFINE_list("beams", None, "decode: beam sizes of a")
flags.DEFINE_list("depths", None, "decode: tokens per code of a")
flags.DEFINE_integer(
  "batch", None, "decode: rows per call of a; train: examples per step of all parts"
)
flags.DEFINE_list("shapes", None, "train: model presets of a, such as paper,small")
flags.DEFINE_integer("repeats", None, "minimum number of timed calls")
flags.DEFINE_multi_string("peer", [], "decode: MODULE:FUNCTION, timed in a too")
flags.DEFINE_string("folder", None, "all: folder of the reports; default runs/bench")
flags.DEFINE_float("minutes", None, "all: no part starts after them; default 7.5")
command_line.define("figure", "report", "platform")


def main(argv) -> None:
  values = {name: getattr(flags.FLAGS, name) for name in command.Request._fields}
  command.run(argv[1], command.Request(**values))


if __name__ == "__main__":
  sys.exit(command_line.main(main, COMMANDS))
