"""The real `ros2 launch` system on our launch files, with stand-ins for the packages that are not here.

`Prefix` makes an ament prefix: packages with launch files of the arguments that the real ones declare, and programs
that only say what they were told and wait.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 60.0
_RUN = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.substitutions import FindPackageShare
from launch.substitutions import PathJoinSubstitution
file, *told = sys.argv[1:]
path = PathJoinSubstitution([FindPackageShare("ecovla_ros"), "launch", file])
source = PythonLaunchDescriptionSource(path)
arguments = [tuple(text.split(":=", 1)) for text in told]
service = LaunchService(argv=told)
service.include_launch_description(LaunchDescription([IncludeLaunchDescription(source, launch_arguments=arguments)]))
sys.exit(service.run())
"""
"""What `ros2 launch ecovla_ros FILE NAME:=VALUE ...` does."""
PROGRAM = '#!/bin/sh\necho "$(basename $0) was told: $@"\nexec sleep 300\n'
LATE_PROGRAM = '#!/bin/sh\necho "$(basename $0) was told: $@"\nsleep 1\n'


class Prefix:
    """An ament prefix with our launch files and stand-ins."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.package("ecovla_ros")
        for part in ("launch", "config"):
            (path / "share/ecovla_ros" / part).symlink_to(ROOT / part)
        programs = path / "lib/ecovla_ros"
        programs.mkdir(parents=True)
        for script in (ROOT / "scripts").iterdir():
            body = script.read_text(encoding="utf-8").replace("/usr/bin/env python3", sys.executable)
            self._write(programs / script.name, body)

    def package(self, name: str, launch: Mapping[str, str] | None = None, **programs: str) -> None:
        """A package with these launch files (name -> text) and programs (name -> shell script)."""
        index = self.path / "share/ament_index/resource_index/packages" / name
        index.parent.mkdir(parents=True, exist_ok=True)
        index.touch()
        (self.path / "share" / name / "launch").mkdir(parents=True, exist_ok=True) if name != "ecovla_ros" else (
            self.path / "share" / name
        ).mkdir(parents=True)
        for file, text in (launch or {}).items():
            (self.path / "share" / name / "launch" / file).write_text(text, encoding="utf-8")
        for program, text in programs.items():
            (self.path / "lib" / name).mkdir(parents=True, exist_ok=True)
            self._write(self.path / "lib" / name / program, text)

    def _write(self, path: Path, text: str) -> None:
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)


class Launched:
    """A launch as a process of its own session. A context manager: it is gone at its end."""

    def __init__(self, prefix: Prefix, file: str, *told: str) -> None:
        named = os.environ.get("AMENT_PREFIX_PATH", sys.prefix)
        environment = os.environ | {
            "AMENT_PREFIX_PATH": f"{prefix.path}{os.pathsep}{named}",
            "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
            "ROS_DOMAIN_ID": str(1 + os.getpid() % 100),
            "ROS_LOG_DIR": str(prefix.path / "log"),
            "OMP_NUM_THREADS": "1",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-c", _RUN, file, *told], env=environment, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Launched:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip())

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def until(self, condition: Callable[[], object], what: str, timeout_s: float = LIMIT_S) -> None:
        end = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < end, f"not seen: {what}\n{self.text}"
            time.sleep(0.05)

    def says(self, text: str) -> None:
        """Wait for a line with this text."""
        self.until(lambda: any(text in line for line in list(self.lines)), text)

    def pids(self) -> list[int]:
        """Of the processes that the launch started."""
        return [
            int(line.rpartition("pid [")[2][:-1]) for line in list(self.lines) if "process started with pid" in line
        ]

    def told(self, name: str) -> str:
        """The text of the parameter files that a node of ours was started with."""
        line = next(line for line in list(self.lines) if f"[{name}-" in line and "process started with pid" in line)
        arguments = Path(f"/proc/{line.rpartition('pid [')[2][:-1]}/cmdline").read_text(encoding="utf-8").split("\0")
        files = [path for key, path in zip(arguments, arguments[1:], strict=False) if key == "--params-file"]
        return "\n".join(Path(path).read_text(encoding="utf-8") for path in files)

    def ends(self) -> int:
        """Its exit code, and all that it said is in `lines`."""
        code = self.process.wait(LIMIT_S)
        self._reader.join(LIMIT_S)
        return code


def gone(pid: int) -> bool:
    """Whether a process is no more, or only waits for its parent to look."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"
