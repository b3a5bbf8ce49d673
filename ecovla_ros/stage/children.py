"""The other processes of the demo: started before ROS is, watched, and ended by their ids.

They end with the process that started them, also when that is killed (`nodes.ros.process.follow_parent`).
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Container, Mapping, Sequence
from pathlib import Path

from ecovla_ros import config
from ecovla_ros.errors import ConfigError, EcovlaError
from ecovla_ros.nodes.ros.process import PARENT

STOP_S = 10.0
"""A process has this long to end after SIGTERM before it is killed, s."""
DOMAINS = range(40, 101)
"""Domains to choose from; above 101 the ports of DDS run into those of outgoing connections."""
_START = "import sys; from {module} import main; sys.exit(main())"


class Process:
    """A program in a session of its own, so that a Ctrl-C at the terminal reaches it only through us."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        """Start it. What it says goes to `log`."""
        self.name, self.log = name, log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                list(command), env=dict(environment), stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Whether it has gone."""
        return self._process.poll() is not None

    def check(self) -> None:
        """Raises EcovlaError, with the end of its log, when it is gone."""
        code = self._process.poll()
        if code is not None:
            raise EcovlaError(f"{self.name} ended with code {code}; its last words in {self.log}:\n{self.last_words()}")

    def last_words(self, lines: int = 6) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])

    def kill(self) -> None:
        """SIGKILL, as a crash would."""
        self._process.kill()
        self._process.wait()

    def freeze(self, on: bool) -> None:
        """SIGSTOP, as a machine that swaps or a debugger would; off: SIGCONT."""
        self._process.send_signal(signal.SIGSTOP if on else signal.SIGCONT)

    def stop(self) -> int:
        """SIGTERM, and SIGKILL if that does not help; returns its exit code."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            self._process.send_signal(signal.SIGCONT)  # one that stands still would not hear it
        try:
            return self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


class Child(Process):
    """One node of ours."""

    def __init__(self, name: str, parameters: Mapping[str, object], environment: Mapping[str, str], log: Path,
                 remappings: Mapping[str, str] | None = None, prefix: Sequence[str] = (),
                 module: str = "") -> None:  # fmt: skip
        """Start it. `remappings`: more topics by another name than `REMAPPINGS` has. `prefix`: a command that starts
        it, and becomes it. `module`: where its `main` is, if not in `nodes`."""
        arguments = ["--ros-args"]
        for key, value in parameters.items():
            arguments += ["-p", f"{key}:={_yaml(value)}"]
        renamed = {**REMAPPINGS.get(name, {}), **(remappings or {})}
        arguments += [part for old, new in renamed.items() for part in ("-r", f"{old}:={new}")]
        start = _START.format(module=module or f"ecovla_ros.nodes.{name}")
        super().__init__(name, [*prefix, sys.executable, "-c", start, *arguments], environment, log)


REMAPPINGS: dict[str, dict[str, str]] = {
    "guard": {
        "joint_trajectory": "joint_trajectory_controller/joint_trajectory",
        "gripper_trajectory": "robotiq_gripper_controller/joint_trajectory",
    }
}
"""Node -> its topics that a real arm, and the simulator, know by another name."""


def environment(domain: int, logs: Path) -> dict[str, str]:
    """What every process of the demo needs to meet the others on this machine, and nobody else."""
    return {
        **os.environ,
        "ROS_DOMAIN_ID": str(domain),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "FASTDDS_DEFAULT_PROFILES_FILE": str(config.shipped("fastdds.xml")),
        "ROS_LOG_DIR": str(logs),
        "AMENT_PREFIX_PATH": os.environ.get("AMENT_PREFIX_PATH", sys.prefix),
        "PYTHONUNBUFFERED": "1",
        PARENT: str(os.getpid()),
    }


def free_domain(used: Container[int] = ()) -> int:
    """A domain, not among `used`, in which no participant of this machine listens. Raises ConfigError when all are
    taken."""
    start = os.getpid() % len(DOMAINS)
    for domain in (*DOMAINS[start:], *DOMAINS[:start]):
        if domain not in used and not taken(domain):
            return domain
    raise ConfigError(
        f"every ROS domain from {DOMAINS[0]} to {DOMAINS[-1]} is taken on this machine; name one: --domain"
    )


_used: set[int] = set()


def fresh_domain() -> int:
    """A free domain that this process has not asked for before: nobody in it remembers what was killed in another.

    Raises ConfigError when all are taken.
    """
    domain = free_domain(_used)
    _used.add(domain)
    return domain


def taken(domain: int) -> bool:
    """Whether somebody listens at the port of the domain's first participant (DDSI-RTPS 2.5, 9.6.2.3)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("", 7400 + 250 * domain + 10))
        except OSError:
            return True
    return False


def _yaml(value: object) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(f"'{item}'" if isinstance(item, str) else repr(item) for item in value) + "]"
    return str(value)
