#!/usr/bin/env bash
# One run on a TPU slice in GKE, as a JobSet: a pod for each host of the slice.
#
#   launch/gke.sh [--dry-run] [--config.field=value …]
#
# Applies the JobSet below with kubectl; with --dry-run prints it.
set -euo pipefail

# --- edit here -------------------------------------------------------------------------
name=lightlm
accelerator=tpu-v5-lite-podslice  # the node pool's cloud.google.com/gke-tpu-accelerator
topology=4x4                      # … and gke-tpu-topology
hosts=4                           # chips of the topology / chips of a host
chips_per_host=4
image=REGION-docker.pkg.dev/PROJECT/REPOSITORY/lightlm_jax:latest  # launch/Dockerfile
config=toys
workdir=gs://BUCKET/runs/toys
data=/data                        # in the image, or a volume of yours
restarts=10                       # after a preemption or a lost host
# ---------------------------------------------------------------------------------------

apply=(kubectl apply -f -)
if [[ ${1:-} == --dry-run ]]; then
  apply=(cat)
  shift
fi
overrides=""
for argument in "$@"; do
  overrides+=$'\n'"                - '${argument//\'/\'\'}'"
done

"${apply[@]}" << EOF
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $name
  annotations:
    alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool
spec:
  failurePolicy:
    maxRestarts: $restarts
  replicatedJobs:
    - name: slice
      replicas: 1
      template:
        spec:
          parallelism: $hosts
          completions: $hosts
          backoffLimit: 0
          template:
            spec:
              restartPolicy: Never
              terminationGracePeriodSeconds: 60
              nodeSelector:
                cloud.google.com/gke-tpu-accelerator: $accelerator
                cloud.google.com/gke-tpu-topology: $topology
              containers:
              - name: train
                image: $image
                ports:
                - containerPort: 8471
                - containerPort: 8476
                env:
                - name: LIGHTLM_DATA_DIR
                  value: $data
                resources:
                  requests:
                    google.com/tpu: $chips_per_host
                  limits:
                    google.com/tpu: $chips_per_host
                command: [python, -m, lightlm_jax.train]
                args:
                - --distributed=auto
                - --platform=tpu
                - --config=$config
                - --workdir=$workdir$overrides
EOF
