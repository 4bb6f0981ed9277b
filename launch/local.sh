#!/usr/bin/env bash
# Several processes on this machine as one run: a pod in small, or a GPU for each.
#
#   launch/local.sh [--dry-run] PROCESSES --config=configs/toys.py:small --workdir=runs/toys
#
# Where nvidia-smi lists GPUs, process k gets GPU k; otherwise each gets a CPU device.
set -euo pipefail

# --- edit here -------------------------------------------------------------------------
python=${PYTHON:-python3}
# ---------------------------------------------------------------------------------------

dry_run=false
if [[ ${1:-} == --dry-run ]]; then
  dry_run=true
  shift
fi
if [[ ! ${1:-} =~ ^[1-9][0-9]*$ ]]; then
  echo "usage: launch/local.sh [--dry-run] PROCESSES --config=… [--flag=value …]" >&2
  exit 2
fi
processes=$1
shift

gpus=0
if command -v nvidia-smi > /dev/null; then
  gpus=$(nvidia-smi --list-gpus | wc -l)
fi
platform=()
if ((gpus == 0)); then
  platform=(--platform=cpu)
elif ((gpus < processes)); then
  echo "$processes processes want a GPU each, and there are $gpus" >&2
  exit 2
fi

port=$("$python" -c 'import socket
with socket.socket() as s:
  s.bind(("127.0.0.1", 0))
  print(s.getsockname()[1])')

running=()
for ((rank = 0; rank < processes; rank++)); do
  command=("$python" -m lightlm_jax.train "${platform[@]}"
    "--distributed=127.0.0.1:$port,$processes,$rank" "$@")
  variables=()
  if ((gpus > 0)); then
    variables=("CUDA_VISIBLE_DEVICES=$rank")
  fi
  if $dry_run; then
    echo "${variables[@]}" "${command[@]}"
    continue
  fi
  # A proxy would be asked for 127.0.0.1 too.
  env -u http_proxy -u https_proxy -u HTTP_PROXY -u HTTPS_PROXY -u all_proxy \
    -u ALL_PROXY "${variables[@]}" "${command[@]}" &
  running+=($!)
done
if $dry_run; then
  exit 0
fi

# One that is told to end tells the others: they save the same step together.
trap 'kill -TERM "${running[@]}" 2> /dev/null || true' TERM INT

code=0
for process in "${running[@]}"; do
  status=0
  wait "$process" || status=$?
  # The trap ends `wait` before the process, which is saving, has ended.
  while kill -0 "$process" 2> /dev/null; do
    status=0
    wait "$process" || status=$?
  done
  if ((status != 0 && code == 0)); then
    code=$status
    # Or the others would wait for it until they give up.
    kill -TERM "${running[@]}" 2> /dev/null || true
  fi
done
exit "$code"
