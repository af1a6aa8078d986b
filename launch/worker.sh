#!/usr/bin/env bash
# Runs on every machine of a job: sets the code up, then runs the command until it is done.
#
#   bash worker.sh CODE.tar.gz EXTRA COMMAND...
#
# CODE.tar.gz may be at gs://; EXTRA is an extra of jax such as tpu, cuda13 or cpu. COMMAND is run
# from the unpacked code, with its environment first on the PATH. It is started again when it was
# stopped (75) or killed (128 and above), and not when it is done (0) or cannot work (1, 2).
#
#   ZIPVOICE_HOME          where code and environment go (default ~/zipvoice_jax)
#   ZIPVOICE_MAX_RESTARTS  how often in a row it may end within ten minutes (default 10)
#   ZIPVOICE_RESTART_WAIT  seconds before it is started again (default 20)
set -euo pipefail

code=$1 extra=$2
shift 2
home=${ZIPVOICE_HOME:-$HOME/zipvoice_jax}
place=$home/$(basename "$code" .tar.gz)

say() { printf 'worker: %s\n' "$*" >&2; }

# The official interpreter of the project where there is one.
find_python() {
  local version
  for version in 3.13 3.12 3.14 3.11; do
    if command -v "python$version"; then return; fi
  done
  if python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    command -v python3
    return
  fi
  # Images of TPU VMs come with an older one.
  python3 -m pip install --quiet --user uv >&2
  python3 -m uv python install 3.13 >&2
  python3 -m uv python find 3.13
}

set_up() {
  if [ -f "$place/.done" ]; then return; fi
  say "setting up $place"
  rm -rf "$place"
  mkdir -p "$place"
  case $code in
    gs://*) gcloud storage cp "$code" "$place/code.tar.gz" ;;
    *) cp "$code" "$place/code.tar.gz" ;;
  esac
  tar -xzf "$place/code.tar.gz" -C "$place"
  "$(find_python)" -m venv "$place/.venv"
  "$place/.venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    --constraint "$place/constraints.txt" --editable "$place" ${extra:+"jax[$extra]"}
  touch "$place/.done"
}

child='' stopped=''
stop() {
  stopped=yes
  if [ -n "$child" ]; then kill -TERM "$child" 2>/dev/null || true; fi
}
trap stop TERM INT

if [ "$extra" = none ]; then
  place=$code # already set up: a folder
else
  if [ "$extra" = cpu ]; then extra=; fi
  set_up
fi
cd "$place"
export PATH=$place/.venv/bin:$PATH

quick=0
while true; do
  [ -z "$stopped" ] || exit 75 # while it was being set up, or between two tries
  began=$SECONDS status=0
  "$@" &
  child=$!
  wait "$child" || status=$?
  while kill -0 "$child" 2>/dev/null; do # a signal ends `wait`, and not the command
    status=0
    wait "$child" || status=$?
  done
  child=
  if [ -n "$stopped" ]; then
    say "stopped (status $status)"
    exit "$status"
  fi
  if [ "$status" -ne 75 ] && [ "$status" -lt 128 ]; then
    say "ended with status $status"
    exit "$status"
  fi
  if [ $((SECONDS - began)) -lt 600 ]; then quick=$((quick + 1)); else quick=0; fi
  if [ "$quick" -gt "${ZIPVOICE_MAX_RESTARTS:-10}" ]; then
    say "status $status once more within ten minutes; given up after $quick starts"
    exit "$status"
  fi
  say "status $status; started again in ${ZIPVOICE_RESTART_WAIT:-20} s"
  sleep "${ZIPVOICE_RESTART_WAIT:-20}" &
  wait $! || true
  if [ -n "$stopped" ]; then exit 75; fi
done
