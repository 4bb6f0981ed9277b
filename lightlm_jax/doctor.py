"""Shows versions, devices, memory and folders; verifies the files of a run.

python -m lightlm_jax.doctor
python -m lightlm_jax.doctor --verify=runs/toys

Without --verify it prints versions, devices, memory, folders and the speed of a short
training. With --verify it reads every file of a run, and compares each checkpoint with
the SHA-256 that it was written with; exit code 1 if anything is damaged.
"""

import sys

from lightlm_jax import command_line
from lightlm_jax.command_line import FLAGS
from lightlm_jax.runs import doctor
from lightlm_jax.runtime import devices

command_line.define("platform", verify="a run that `train` left, to be read whole")


def main(_) -> int:
  devices.begin(FLAGS.platform, None)
  if FLAGS.verify is None:
    for line in doctor.describe():
      print(line, flush=True)
    return 0
  parts = doctor.verify(FLAGS.verify)
  for name, problem in parts:
    print(
      f"{'whole' if problem is None else 'DAMAGED':8} {name}  {problem or ''}".rstrip()
    )
  return int(any(problem is not None for _, problem in parts))


if __name__ == "__main__":
  sys.exit(command_line.main(main))
