#!/usr/bin/env bash
# One run over the GPUs of several Slurm nodes, a process for each GPU.
#
#   launch/slurm.sh [--dry-run] [--config.field=value …]
#
# Submits the job below; with --dry-run prints it. The same command goes on with a run
# that was stopped.
set -euo pipefail

# --- edit here -------------------------------------------------------------------------
job=lightlm
partition=gpu
nodes=2
gpus_per_node=8
cpus_per_gpu=8
time=24:00:00
checkout=$PWD                    # on a disk that all nodes see
python=$checkout/.venv/bin/python
config=configs/toys.py
workdir=$checkout/runs/toys      # on that disk too, or gs://…
data=$checkout/data              # holds toys/sequences.txt
# ---------------------------------------------------------------------------------------

submit=(sbatch)
if [[ ${1:-} == --dry-run ]]; then
  submit=(cat)
  shift
fi
overrides=""
if (($#)); then
  overrides=$(printf ' %q' "$@")
fi

"${submit[@]}" << EOF
#!/usr/bin/env bash
#SBATCH --job-name=$job
#SBATCH --partition=$partition
#SBATCH --nodes=$nodes
#SBATCH --ntasks-per-node=$gpus_per_node
#SBATCH --gpus-per-node=$gpus_per_node
#SBATCH --cpus-per-task=$cpus_per_gpu
#SBATCH --time=$time
#SBATCH --output=$job-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=TERM@120
cd $checkout || exit
export LIGHTLM_DATA_DIR=$data
# Slurm sends SIGTERM two minutes before the time is up: the run saves and ends with 143.
# (srun does not inherit the CPUs of a task.)
srun --kill-on-bad-exit=0 --cpus-per-task=$cpus_per_gpu $python -m lightlm_jax.train --distributed=auto \\
  --config=$config --workdir=$workdir$overrides
code=\$?
if ((code == 143)); then
  scontrol requeue "\$SLURM_JOB_ID"
fi
exit "\$code"
EOF
