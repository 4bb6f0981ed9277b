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

# The first that fails decides; the others, which wait for it, have a minute to end.
code=0
deadline=0
while ((${#running[@]})); do
  left=()
  for process in "${running[@]}"; do
    if kill -0 "$process" 2> /dev/null; then
      left+=("$process")
      continue
    fi
    status=0
    wait "$process" || status=$?
    if ((status != 0 && code == 0)); then
      code=$status
      deadline=$((SECONDS + 60))
      kill -TERM "${running[@]}" 2> /dev/null || true
    fi
  done
  running=(${left[@]+"${left[@]}"})
  if ((deadline > 0 && SECONDS > deadline && ${#running[@]} > 0)); then
    kill -KILL "${running[@]}" 2> /dev/null || true
  fi
  sleep 0.2
done
exit "$code"
