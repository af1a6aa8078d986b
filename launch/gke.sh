#!/usr/bin/env bash
# Trains on a TPU slice of a GKE cluster, as a JobSet (which is what XPK makes, too).
set -euo pipefail
# shellcheck source=launch/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

USAGE="usage: launch/gke.sh ACTION --name NAME [options] [-- TRAIN_OPTIONS]

actions:
  all        preflight, upload, apply
  preflight  compile for the slice on this machine: does it fit, how fast should it be
  apply      upload the committed code and create the JobSet
  logs       follow what worker 0 says
  delete     end the run; its checkpoints stay

options:
  --topology T       such as v5e:4x8, v6e:16x16, v5p:4x4x8; the cluster has a node pool of it
  --bucket B         Cloud Storage bucket, without gs://; it holds data/, code/, runs/NAME/ and
                     the compiled programs
  --config FILE      in this repository, such as configs/dialog_opendialog.py
  --service-account  of Kubernetes, allowed to read and write the bucket (default: default)
  --fsdp N           devices that share one copy of the state (default 1)
  --step-seconds S   seconds of audio in a step, for the preflight (default 4000)
  --restarts N       how often the JobSet starts anew (default 100)
  --image IMAGE      with Python 3.11 or later (default python:3.13)
  --preflight no     leave the preflight out
  --dry-run          print every command and the manifest, do nothing

The cluster needs the JobSet controller and the Cloud Storage FUSE driver (XPK installs both)."
OPTIONS="name topology bucket config service_account fsdp step_seconds restarts image preflight"
SERVICE_ACCOUNT=default FSDP=1 STEP_SECONDS=4000 RESTARTS=100 IMAGE=python:3.13 PREFLIGHT=yes
parse_options "$@"
[ ${#WORDS[@]} -eq 1 ] || fail "give one action; see --help."
need name

prepare() {
  need topology bucket config
  read_run
  case $CHIP in
    v5e) ACCELERATOR=tpu-v5-lite-podslice ;;
    v6e) ACCELERATOR=tpu-v6e-slice ;;
    v5p) ACCELERATOR=tpu-v5p-slice ;;
  esac
}

manifest() { # manifest CODE: that is the archive's name in the bucket
  local worker
  worker=$(quoted bash "$MOUNT/code/worker.sh" "$MOUNT/code/$1" tpu)
  # The controller starts all pods anew when one fails (75: stopped or lost its peers; above 127:
  # killed), but not when the command cannot work (1, 2). So a worker itself starts nothing anew.
  cat <<YAML
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $NAME
  annotations:
    alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool
spec:
  failurePolicy:
    maxRestarts: $RESTARTS
    rules:
      - action: FailJobSet
        onJobFailureReasons: [PodFailurePolicy]
  replicatedJobs:
    - name: slice
      replicas: 1
      template:
        spec:
          parallelism: $HOSTS
          completions: $HOSTS
          completionMode: Indexed
          backoffLimit: 0
          podFailurePolicy:
            rules:
              - action: FailJob
                onExitCodes:
                  containerName: train
                  operator: In
                  values: [1, 2]
          template:
            metadata:
              annotations:
                gke-gcsfuse/volumes: "true"
            spec:
              restartPolicy: Never
              terminationGracePeriodSeconds: 120
              serviceAccountName: $SERVICE_ACCOUNT
              nodeSelector:
                cloud.google.com/gke-tpu-accelerator: $ACCELERATOR
                cloud.google.com/gke-tpu-topology: ${TOPOLOGY#*:}
              containers:
                - name: train
                  image: $IMAGE
                  command: [bash, -c]
                  args:
                    - |
                      exec $worker $COMMAND
                  env:
                    - name: ZIPVOICE_MAX_RESTARTS
                      value: "-1"
                    - name: ZIPVOICE_HOME
                      value: /tmp/zipvoice_jax
                    - name: JAX_COMPILATION_CACHE_DIR
                      value: $MOUNT/cache
                  resources:
                    limits:
                      google.com/tpu: $((CHIPS / HOSTS))
                  volumeMounts:
                    - name: bucket
                      mountPath: $MOUNT
              volumes:
                - name: bucket
                  csi:
                    driver: gcsfuse.csi.storage.gke.io
                    volumeAttributes:
                      bucketName: $BUCKET
                      mountOptions: implicit-dirs
YAML
}

apply() {
  local archive
  archive=$(pack_code)
  run gcloud storage cp "$archive" "$ROOT/launch/worker.sh" "gs://$BUCKET/code/"
  run_with_input "$(manifest "$(basename "$archive")")" kubectl apply -f -
}

logs() {
  run kubectl logs --follow --tail 100 \
    --selector "jobset.sigs.k8s.io/jobset-name=$NAME,batch.kubernetes.io/job-completion-index=0"
}

case ${WORDS[0]} in
  all)
    prepare
    check_committed
    preflight
    apply
    ;;
  preflight | apply)
    prepare
    "${WORDS[0]}"
    ;;
  logs) logs ;;
  delete) run kubectl delete jobset "$NAME" ;;
  *) fail "${WORDS[0]} is no action; see --help." ;;
esac
