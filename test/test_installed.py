"""The package as it is installed, by pip or by colcon: what `ros2 run` and `ros2 launch` look for is there and starts.

`make colcon` runs this file against its install folder. Nothing here imports the source tree.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

packages = pytest.importorskip("ament_index_python.packages")
pytest.importorskip("rclpy")

ROOT = Path(__file__).resolve().parents[1]
LIMIT_S = 60.0
LAUNCH = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
service = LaunchService()
source = PythonLaunchDescriptionSource(sys.argv[1])
told = [("autostart", "false"), ("discovery", "localhost")]
service.include_launch_description(LaunchDescription([IncludeLaunchDescription(source, launch_arguments=told)]))
sys.exit(service.run())
"""


@pytest.fixture
def prefix() -> Path:
    os.environ.setdefault("AMENT_PREFIX_PATH", sys.prefix)
    try:
        return Path(packages.get_package_prefix("ecovla_ros"))
    except packages.PackageNotFoundError:
        pytest.skip("the package is not installed with its messages")


def surroundings(prefix: Path, tmp_path: Path) -> dict[str, str]:
    domain = {"ROS_DOMAIN_ID": str(1 + os.getpid() % 100), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # as in an environment that is active
    return os.environ | domain | {"PATH": path, "ROS_LOG_DIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}


def test_every_program_message_launch_file_and_configuration_is_installed(prefix: Path, tmp_path: Path) -> None:
    for script in (ROOT / "scripts").iterdir():
        installed = prefix / "lib/ecovla_ros" / script.name
        assert os.access(installed, os.X_OK), f"ros2 run ecovla_ros {script.name}"
    share = prefix / "share/ecovla_ros"
    for folder, pattern in (("launch", "*.py"), ("config", "**/*.*"), ("msg", "*.msg"), ("srv", "*.srv")):
        for path in (ROOT / folder).glob(pattern):
            assert (share / path.relative_to(ROOT)).read_bytes() == path.read_bytes()
    code = "import ecovla_ros, ecovla_ros.msg as m, ecovla_ros.srv as s; print(ecovla_ros.__file__, m.ActionChunk())"
    said = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert str(prefix) in said.stdout or str(ROOT) in said.stdout, "an editable install is where its source is"


def test_an_installed_program_says_what_is_wrong_with_its_configuration(prefix: Path, tmp_path: Path) -> None:
    command = [prefix / "lib/ecovla_ros/guard", "--ros-args", "-p", "config:=no_such.yaml"]
    told = surroundings(prefix, tmp_path)
    said = subprocess.run(command, cwd=tmp_path, env=told, capture_output=True, text=True, timeout=LIMIT_S)
    assert said.returncode == 2 and "no_such.yaml" in said.stderr and "Traceback" not in said.stderr


def test_the_installed_launch_file_starts_the_nodes_and_ends_with_them(prefix: Path, tmp_path: Path) -> None:
    pytest.importorskip("launch")
    pytest.importorskip("launch_ros")
    file = prefix / "share/ecovla_ros/launch/ecovla_sim.launch.py"
    output = (tmp_path / "said").open("wb")
    process = subprocess.Popen(
        [sys.executable, "-c", LAUNCH, str(file)], cwd=tmp_path, env=surroundings(prefix, tmp_path),
        stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    try:
        end, wanted = time.monotonic() + LIMIT_S, ("disarmed; profile normal", "simulating in real time")
        while not all(text in (tmp_path / "said").read_text() for text in wanted):
            assert time.monotonic() < end and process.poll() is None, (tmp_path / "said").read_text()
            time.sleep(0.1)
        for _ in range(2):  # people press Ctrl-C more than once
            process.send_signal(signal.SIGINT)
        assert process.wait(LIMIT_S) == 0
        said = (tmp_path / "said").read_text()
        assert said.count("process has finished cleanly") == 3, said
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        output.close()
