#!/usr/bin/env bash
# One run on a Cloud TPU slice without Kubernetes: the same command on every host.
#
#   launch/tpu-pod.sh [--dry-run] create | install | train [--config.field=value …] |
#     log | stop | delete
#
# With --dry-run prints the gcloud commands.
set -euo pipefail

# --- edit here -------------------------------------------------------------------------
name=lightlm
project=PROJECT
zone=us-west4-a
type=v5litepod-16
runtime=v2-alpha-tpuv5-lite
python=3.12
repository=https://github.com/OWNER/lightlm_jax.git
config=configs/toys.py
workdir=gs://BUCKET/runs/toys
data=gs://BUCKET/data             # copied to every host by `install`
# ---------------------------------------------------------------------------------------

gcloud=(gcloud)
if [[ ${1:-} == --dry-run ]]; then
  gcloud=(echo gcloud)
  shift
fi
action=${1:-}
shift || true
where=("--project=$project" "--zone=$zone")

on_all_hosts() {
  "${gcloud[@]}" compute tpus tpu-vm ssh "$name" "${where[@]}" --worker=all \
    "--command=$1"
}

case $action in
  create)
    "${gcloud[@]}" compute tpus tpu-vm create "$name" "${where[@]}" \
      "--accelerator-type=$type" "--version=$runtime"
    ;;
  install)
    # The image's own Python is older than 3.11: uv brings one along.
    on_all_hosts "(test -d lightlm_jax || git clone -q $repository lightlm_jax) &&
      cd lightlm_jax && git pull -q &&
      python3 -m pip install -q --user uv &&
      python3 -m uv venv -q --allow-existing --python $python .venv &&
      python3 -m uv pip install -q --python .venv/bin/python -c constraints.txt \
        -e '.[tpu,gcs]' &&
      gcloud storage cp -r $data ."
    ;;
  train)
    overrides=""
    if (($#)); then
      overrides=$(printf ' %q' "$@")
    fi
    # In the background without a hold on this connection, which it outlives.
    on_all_hosts "cd lightlm_jax || exit; LIGHTLM_DATA_DIR=\$PWD/data nohup \
.venv/bin/python -m lightlm_jax.train --distributed=auto --platform=tpu \
--config=$config --workdir=$workdir$overrides > train.log 2>&1 < /dev/null &"
    ;;
  log)
    on_all_hosts "tail -n 5 lightlm_jax/train.log"
    ;;
  stop)
    # Whichever host hears it first, all save the same step and end with 143.
    # (The brackets keep pkill from finding the shell that runs it.)
    on_all_hosts "pkill -TERM -f '[l]ightlm_jax.train' || true"
    ;;
  delete)
    "${gcloud[@]}" compute tpus tpu-vm delete "$name" "${where[@]}" --quiet
    ;;
  *)
    echo "usage: launch/tpu-pod.sh [--dry-run] create|install|train|log|stop|delete" >&2
    exit 2
    ;;
esac
