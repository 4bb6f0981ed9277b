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
    on_all_hosts "git clone -q $repository lightlm_jax && cd lightlm_jax &&
      python3 -m venv .venv &&
      .venv/bin/pip install -q -c constraints.txt -e '.[tpu,gcs]' &&
      gcloud storage cp -r $data ."
    ;;
  train)
    overrides=""
    if (($#)); then
      overrides=$(printf ' %q' "$@")
    fi
    # Behind nohup, so that it outlives this connection.
    on_all_hosts "cd lightlm_jax && LIGHTLM_DATA_DIR=\$PWD/data nohup \
.venv/bin/python -m lightlm_jax.train --distributed=auto --platform=tpu \
--config=$config --workdir=$workdir$overrides > train.log 2>&1 < /dev/null &"
    ;;
  log)
    on_all_hosts "tail -n 5 lightlm_jax/train.log"
    ;;
  stop)
    # Whichever host hears it first, all save the same step and end with 143.
    on_all_hosts "pkill -TERM -f lightlm_jax.train || true"
    ;;
  delete)
    "${gcloud[@]}" compute tpus tpu-vm delete "$name" "${where[@]}" --quiet
    ;;
  *)
    echo "usage: launch/tpu-pod.sh [--dry-run] create|install|train|log|stop|delete" >&2
    exit 2
    ;;
esac
