#!/usr/bin/env bash
# Trains with several processes on this machine; restarts all of them when one is lost.
set -euo pipefail
# shellcheck source=launch/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

USAGE="usage: launch/local.sh [--processes N] [--devices N] [--port P] [--dry-run] -- TRAIN_OPTIONS

Runs \`zipvoice-jax train TRAIN_OPTIONS\` as N processes (default 2) on this machine, which have
--devices CPU devices each (default 1). To try a run of several processes; a machine with
accelerators needs one process only."
OPTIONS="processes devices port"
PROCESSES=2
DEVICES=1
PORT=7777
parse_options "$@"
[ ${#TRAIN[@]} -gt 0 ] || fail "give the options of train after --; see --help."
[[ $PROCESSES =~ ^[1-9][0-9]*$ ]] || fail "--processes $PROCESSES is no number."

command=${ZIPVOICE_JAX:-$ROOT/.venv/bin/zipvoice-jax}
export XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=$DEVICES"
export ZIPVOICE_RESTART_WAIT=${ZIPVOICE_RESTART_WAIT:-1}
children=()
trap 'kill -TERM "${children[@]}" 2>/dev/null || true' TERM INT
for ((i = 0; i < PROCESSES; i++)); do
  words=(bash "$ROOT/launch/worker.sh" "$PWD" none "$command" train "${TRAIN[@]}"
    --coordinator "localhost:$PORT" --num-processes "$PROCESSES" --process-id "$i")
  if [ -n "$DRY_RUN" ]; then
    run "${words[@]}"
    continue
  fi
  "${words[@]}" &
  children+=($!)
done
status=0
for child in "${children[@]}"; do
  wait "$child" || status=$?
  while kill -0 "$child" 2>/dev/null; do wait "$child" || status=$?; done
done
exit "$status"
