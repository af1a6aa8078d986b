#!/usr/bin/env bash
# What the launch scripts share: their options, and commands that --dry-run only prints.
#
# A script sets USAGE, its own defaults, and calls `parse_options "$@"`. Everything that is done
# goes through `run`, `run_with_input` or `ask`, so that --dry-run shows all of it.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
DRY_RUN=
TRAIN=()
# Options come from the command line alone: some shells export such names.
unset NAME PROJECT ZONE TOPOLOGY BUCKET CONFIG NODES GPUS

say() { printf 'launch: %s\n' "$*" >&2; }

fail() {
  printf 'launch: error: %s\n' "$*" >&2
  exit 2
}

# A command as it could be typed again.
quoted() {
  local word text=
  for word in "$@"; do
    if [[ $word =~ ^[A-Za-z0-9_./:=@%+,-]+$ ]]; then
      text+="$word "
    else
      text+="'${word//\'/\'\\\'\'}' "
    fi
  done
  printf '%s' "${text% }"
}

# Runs a command; with --dry-run, prints it.
run() {
  if [ -n "$DRY_RUN" ]; then
    printf '%s\n' "$(quoted "$@")"
  else
    "$@"
  fi
}

# run_with_input TEXT COMMAND...: the same, with TEXT as the command's input.
run_with_input() {
  local text=$1
  shift
  if [ -n "$DRY_RUN" ]; then
    printf '%s <<EOF\n%s\nEOF\n' "$(quoted "$@")" "$text"
  else
    printf '%s\n' "$text" | "$@"
  fi
}

# ask ANSWER COMMAND...: prints what a command answers; with --dry-run, shows the command on file
# descriptor 3 and answers ANSWER.
ask() {
  local answer=$1
  shift
  if [ -n "$DRY_RUN" ]; then
    printf '%s\n' "$(quoted "$@")" >&3
    printf '%s\n' "$answer"
  else
    "$@"
  fi
}

# Sets a variable for every option NAME=VALUE in OPTIONS, from --name VALUE or --name=VALUE. What
# follows `--` goes to `zipvoice-jax train`, into TRAIN; other words go into WORDS.
parse_options() {
  exec 3>&1
  local name value
  WORDS=()
  while [ $# -gt 0 ]; do
    case $1 in
      --help | -h)
        printf '%s\n' "$USAGE"
        exit 0
        ;;
      --dry-run)
        DRY_RUN=yes
        shift
        continue
        ;;
      --)
        shift
        TRAIN=("$@")
        return
        ;;
      --*=*)
        name=${1%%=*}
        value=${1#*=}
        shift
        ;;
      --*)
        name=$1
        [ $# -ge 2 ] || fail "$1 needs a value; see --help."
        value=$2
        shift 2
        ;;
      *)
        WORDS+=("$1")
        shift
        continue
        ;;
    esac
    name=${name#--}
    name=${name//-/_}
    [[ " $OPTIONS " == *" $name "* ]] || fail "--${name//_/-} is no option; see --help."
    [ -n "$value" ] || fail "--${name//_/-} is empty."
    printf -v "${name^^}" '%s' "$value"
  done
}

# need NAME...: fails unless each option has a value.
need() {
  local name
  for name in "$@"; do
    local variable=${name^^}
    [ -n "${!variable:-}" ] || fail "give --${name//_/-}; see --help."
  done
}

# What a run on a slice needs of the options: CHIP, CHIPS and HOSTS; SETTINGS for the preflight; MOUNT,
# where workers see the bucket; and the COMMAND that all of them run.
read_run() {
  [ -f "$ROOT/$CONFIG" ] || fail "--config $CONFIG is not in $ROOT."
  read_topology
  read_settings
  MOUNT=/mnt/$BUCKET
  # shellcheck disable=SC2034  # gke.sh and tpu_vm.sh read it
  COMMAND=$(quoted zipvoice-jax train --config "$CONFIG" --to "$MOUNT/runs/$NAME" \
    --checkpoints "gs://$BUCKET/runs/$NAME/checkpoints" --fsdp "$FSDP" --coordinator auto \
    "${TRAIN[@]}")
}

# Sets CHIP, CHIPS and HOSTS from TOPOLOGY, such as v5e:16x16.
read_topology() {
  local sizes size
  [[ $TOPOLOGY =~ ^(v5e|v6e):([0-9]+)x([0-9]+)$ || $TOPOLOGY =~ ^(v5p):([0-9]+)x([0-9]+)x([0-9]+)$ ]] ||
    fail "--topology $TOPOLOGY cannot be; give one such as v5e:4x8, v6e:16x16 or v5p:4x4x8."
  CHIP=${TOPOLOGY%%:*}
  sizes=${TOPOLOGY#*:}
  CHIPS=1
  for size in ${sizes//x/ }; do CHIPS=$((CHIPS * size)); done
  # Google's slices have 4 chips a host, but for the small v5e and v6e ones, whose one host has all.
  # shellcheck disable=SC2034  # gke.sh reads it
  if [ "$CHIP" != v5p ] && [ "$CHIPS" -le 8 ]; then HOSTS=1; else HOSTS=$(((CHIPS + 3) / 4)); fi
}

# Fails where workers, who get the last commit, would not run what lies here.
check_committed() {
  if [ -n "$DRY_RUN" ]; then return; fi
  if ! git -C "$ROOT" ls-files --error-unmatch -- "$CONFIG" >/dev/null 2>&1 ||
    ! git -C "$ROOT" diff --quiet HEAD -- "$CONFIG" configs zipvoice_jax; then
    fail "$CONFIG or the code has changes that are not committed, and workers get the last commit."
  fi
}

# What tells whether the programs fit, on this machine, before anything is paid for.
preflight() {
  if [ "$PREFLIGHT" = no ]; then return; fi
  say "compiling the programs for $TOPOLOGY (--preflight no leaves it out)"
  run env "PYTHONPATH=$ROOT/.venv/libtpu" "$ROOT/.venv/bin/zipvoice-jax" compile --config "$ROOT/$CONFIG" \
    --topology "$TOPOLOGY" --program train --fsdp "$FSDP" --step-seconds "$STEP_SECONDS" \
    "${SETTINGS[@]}" ||
    fail "the programs do not fit $TOPOLOGY, or cannot be compiled."
}

# The parts of TRAIN that `compile` takes too: --set NAME=VALUE, into SETTINGS.
read_settings() {
  SETTINGS=()
  local i
  for ((i = 0; i < ${#TRAIN[@]}; i++)); do
    case ${TRAIN[i]} in
      --set) SETTINGS+=(--set "${TRAIN[i + 1]:-}") ;;
      --set=*) SETTINGS+=("${TRAIN[i]}") ;;
      --fsdp | --fsdp=*) fail "give --fsdp before --, so that the preflight knows it too." ;;
    esac
  done
}

# Packs the committed code; prints where.
pack_code() {
  local commit archive
  commit=$(ask COMMIT git -C "$ROOT" rev-parse --short=12 HEAD)
  archive=${TMPDIR:-/tmp}/zipvoice_jax-$commit.tar.gz
  run git -C "$ROOT" archive --format=tar.gz --output "$archive" HEAD >&3
  printf '%s\n' "$archive"
}
