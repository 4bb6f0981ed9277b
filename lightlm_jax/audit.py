"""Audits ids for leaks of held-out interactions and of item numbers.

python -m lightlm_jax.audit --config=configs/toys.py
python -m lightlm_jax.audit --workdir=runs/toys

Builds the ids six times, without the cache: once from the log as it is, once with
held-out items swapped between users, once with users and items renumbered, and three
times with other seeds. It trains nothing, except the GCN of GCI ids. It also tests
whether the order of a history tells what comes next (whether the log is sequential),
and whether the order of rows with equal times does, which is a failure. Exit code 1 if
a leak or such an order was found. With --workdir it writes audit.json for `lightlm
report`, and refuses a run if its configuration builds other ids today.
"""

import sys

from lightlm_jax import command_line
from lightlm_jax.command_line import FLAGS
from lightlm_jax.runs.audit import audit, audit_run

command_line.define_config()
command_line.define("report", workdir="a run that `train` left, in place of --config")


def main(_) -> int:
  workdir = FLAGS.workdir
  found = audit(command_line.config()) if workdir is None else audit_run(workdir)
  command_line.write_report(found)
  return 0 if found["passed"] else 1


if __name__ == "__main__":
  sys.exit(command_line.main(main, instead="workdir"))
