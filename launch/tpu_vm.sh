#!/usr/bin/env bash
# Trains on a slice of TPU VMs: gets it, starts the run on every worker, brings it back when it is
# lost, gives it back at the end.
set -euo pipefail
# shellcheck source=launch/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

USAGE="usage: launch/tpu_vm.sh ACTION --name NAME --project P --zone Z --topology T --bucket B
                        --config FILE [options] [-- TRAIN_OPTIONS]

actions:
  all        preflight, create, start, then watch
  preflight  compile for the slice on this machine: does it fit, how fast should it be
  create     ask for the slice (a queued resource) and wait for it
  start      bring the committed code to all workers and train
  logs       follow what worker 0 says
  watch      follow the slice; when it is lost, create and start again; when done, delete
  stop       have the run save a checkpoint and stop
  delete     give the slice back

options:
  --topology T       such as v5e:4x8, v6e:16x16, v5p:4x4x8
  --bucket B         Cloud Storage bucket in the slice's region, without gs://; it holds data/,
                     code/, runs/NAME/ and the compiled programs
  --config FILE      in this repository, such as configs/dialog_opendialog.py
  --fsdp N           devices that share one copy of the state (default 1)
  --step-seconds S   seconds of audio in a step, for the preflight (default 4000)
  --spot no          pay the full price; such a slice is not preempted (default yes)
  --preflight no     leave the preflight out
  --poll SECONDS     how often watch looks (default 60)
  --dry-run          print every command, do nothing"
OPTIONS="name project zone topology bucket config fsdp step_seconds spot preflight poll"
FSDP=1 STEP_SECONDS=4000 SPOT=yes PREFLIGHT=yes POLL=60
parse_options "$@"
[ ${#WORDS[@]} -eq 1 ] || fail "give one action; see --help."
need name project zone topology bucket config
read_run
# An accelerator type counts the chips of a v5e and v6e, but the cores of a v5p.
case $CHIP in
  v5e) ACCELERATOR=v5litepod-$CHIPS RUNTIME=v2-alpha-tpuv5-lite ;;
  v6e) ACCELERATOR=v6e-$CHIPS RUNTIME=v2-alpha-tpuv6e ;;
  v5p) ACCELERATOR=v5p-$((2 * CHIPS)) RUNTIME=v2-alpha-tpuv5 ;;
esac
WHERE=(--project "$PROJECT" --zone "$ZONE")

on() { # on WORKER COMMAND: in a shell of that worker, or of all
  run gcloud compute tpus tpu-vm ssh "$NAME" "${WHERE[@]}" --worker "$1" --command "$2"
}

state() { # of the queued resource; empty when there is none, UNKNOWN when gcloud cannot say
  local said
  said=$(mktemp)
  if ! ask "$1" gcloud compute tpus queued-resources describe "$NAME" "${WHERE[@]}" \
    --format 'value(state.state)' 2>"$said" && ! grep -qi 'not.found' "$said"; then
    say "the slice cannot be looked at: $(tail -n 1 "$said")"
    echo UNKNOWN
  fi
  rm -f "$said"
}

create() {
  local spot=() found
  if [ "$SPOT" = yes ]; then spot=(--spot); fi
  run gcloud compute tpus queued-resources create "$NAME" --node-id "$NAME" "${WHERE[@]}" \
    --accelerator-type "$ACCELERATOR" --runtime-version "$RUNTIME" "${spot[@]}"
  while found=$(state ACTIVE) && [ "$found" != ACTIVE ]; do
    case $found in
      FAILED | SUSPENDED | '') fail "the slice $NAME could not be had (${found:-gone})." ;;
    esac
    say "the slice is $found"
    sleep "$POLL"
  done
}

start() {
  local archive code
  archive=$(pack_code)
  code=gs://$BUCKET/code/$(basename "$archive")
  run gcloud storage cp "$archive" "$code"
  run gcloud compute tpus tpu-vm scp "$ROOT/launch/worker.sh" "$ROOT/launch/mount.sh" "$NAME:" \
    "${WHERE[@]}" --worker all
  on all "bash mount.sh $BUCKET $MOUNT"
  # nohup and setsid: the run goes on when this connection ends.
  on all "JAX_COMPILATION_CACHE_DIR=$MOUNT/cache nohup setsid bash worker.sh $code tpu $COMMAND > train.log 2>&1 < /dev/null & echo \$! > train.pid"
}

logs() { on 0 'tail -n 100 -F train.log'; }

# Nothing while the run goes on; else `ended:` and the last line of its log.
ended() {
  # shellcheck disable=SC2016  # the worker's shell expands it
  ask "ended: worker: ended with status 0" gcloud compute tpus tpu-vm ssh "$NAME" "${WHERE[@]}" \
    --worker 0 --command 'kill -0 $(cat train.pid) || echo "ended: $(tail -n 1 train.log)"' \
    2>/dev/null || true
}

delete() {
  run gcloud compute tpus queued-resources delete "$NAME" "${WHERE[@]}" --force --quiet
}

watch() {
  local found last
  while true; do
    found=$(state ACTIVE)
    case $found in
      ACTIVE)
        last=$(ended)
        case $last in
          *'ended with status 0'*)
            say "the run is done: gs://$BUCKET/runs/$NAME"
            delete
            return
            ;;
          ended:*) fail "the run is not done ($last); see \`logs\`. The slice is still there." ;;
        esac
        ;;
      FAILED | SUSPENDED | '')
        say "the slice is lost (${found:-gone}); the run goes on from its last checkpoint"
        if [ -n "$found" ]; then delete; fi
        create
        start
        ;;
    esac
    sleep "$POLL"
  done
}

case ${WORDS[0]} in
  all)
    check_committed
    preflight
    create
    start
    watch
    ;;
  preflight | create | start | logs | watch | delete) "${WORDS[0]}" ;;
  stop) on all 'xargs kill -TERM < train.pid' ;;
  *) fail "${WORDS[0]} is no action; see --help." ;;
esac
