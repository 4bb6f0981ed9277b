"""Runs a scaling study: many trials of one configuration, in parallel.

python -m lightlm_jax.sweep --config=configs/scaling.py --workdir=runs/scaling

An axis is a field with the values that it takes. The config lists a study's axes;
--vary=FIELD=VALUE,VALUE adds one, or replaces the values of FIELD's axis. With --vary,
--config may also be the config of a run:

python -m lightlm_jax.sweep --config=configs/toys.py:small --vary=model.d_ff=8,64,512 \
  --workdir=runs/d_ff

The same command again resumes the study. On a shared disk several commands may work on
it at once; without one, --storage names a database that all hosts reach. At its end a
study is analysed; `report --workdir=STUDY` repeats that. Exit code 1 if a trial failed.
"""

import sys

from absl import flags

from lightlm_jax import command_line
from lightlm_jax.command_line import FLAGS
from lightlm_jax.studies.launch import launch

command_line.define_config(studies=True)
command_line.define("report", "platform", workdir="the study's folder")
flags.DEFINE_multi_string(
  "vary", [], "FIELD=VALUE,VALUE, such as model.d_ff=8,64; FIELD= removes an axis"
)
flags.DEFINE_integer("jobs", None, "parallel trials; default: one a GPU or CPU core", 1)
flags.DEFINE_string(
  "storage",
  None,
  "for hosts without a shared disk, whose --workdir ends in the same name: a database, "
  "postgresql://…, or grpc://host:port",
)
flags.DEFINE_bool("retry_failed", False, "run failed trials again")


def main(_) -> int:
  base, overrides, study = command_line.study()
  names = ("storage", "jobs", "platform", "retry_failed")
  options = {name: getattr(FLAGS, name) for name in names}
  where = FLAGS.workdir, study, base, {} if study else overrides
  report = launch(*where, FLAGS.vary, FLAGS.report, **options)
  return 1 if report["failed"] else 0


if __name__ == "__main__":
  sys.exit(command_line.main(main))
