#!/usr/bin/env bash
# colcon build and colcon test with the ROS 2 wheels of a virtual environment: tools/colcon.sh VENV
# The tests are those that ask the installed package; `make test` runs the whole suite. Leaves out/colcon/install/setup.bash.
set -euo pipefail
cd "$(dirname "$0")/.."

VENV=$(realpath -m "$1")
OUT=$PWD/out/colcon
TESTS=test/test_installed.py
STAMP=$VENV/.ecovla/colcon

# a sourced ROS 2 and these wheels must not meet in one process
unset PYTHONPATH PYTHONHOME COLCON_PREFIX_PATH _ROS_WHEELS_BOOTSTRAP_COMPLETE
export PATH=$VENV/bin:$PATH AMENT_PREFIX_PATH=$VENV CMAKE_PREFIX_PATH=$VENV ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST

mapfile -t needed < <(grep -E '^(colcon-|ros-kilted-ament-cmake-pytest)' constraints.txt)
if [[ ! -f $STAMP || $(<"$STAMP") != "${needed[*]}" ]]; then
  "$VENV/bin/python" -m pip --disable-pip-version-check install --quiet -c constraints.txt "${needed[@]}"
  printf '%s' "${needed[*]}" >"$STAMP"
fi

where=(--paths . --build-base "$OUT/build" --install-base "$OUT/install")
"$VENV/bin/colcon" --log-base "$OUT/log" build "${where[@]}" --event-handlers console_direct- \
  --cmake-args -GNinja "-DPython3_EXECUTABLE=$VENV/bin/python" "-DECOVLA_TESTS=$TESTS" -DBUILD_TESTING=ON --no-warn-unused-cli
# shellcheck disable=SC1091
set +u && source "$OUT/install/setup.bash" && set -u
"$VENV/bin/colcon" --log-base "$OUT/log" test "${where[@]}" --return-code-on-test-failure --event-handlers console_cohesion+
"$VENV/bin/colcon" test-result --test-result-base "$OUT/build"
