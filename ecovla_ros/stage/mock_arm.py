"""An arm on mock hardware whose controller can be killed, frozen, deactivated and switched: ours, or ros2_control's.

`OwnArm` is `stage.mock_controller`, which has the rules of Kilted's. `Ros2ControlArm` is the real `ros2_control_node`
with the real controllers, where it is installed: in a sourced ROS 2, or below a prefix of its own.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from std_msgs.msg import String
from std_srvs.srv import SetBool

from ecovla_ros import config, wire
from ecovla_ros.errors import ConfigError, EcovlaError
from ecovla_ros.nodes.ros import qos
from ecovla_ros.nodes.ros.controller_state import MOST_BYTES
from ecovla_ros.nodes.ros.polling import PolledTopic
from ecovla_ros.stage import mock_description
from ecovla_ros.stage.children import Child, Process
from ecovla_ros.stage.mock_controller import ROW
from ecovla_ros.stage.mock_description import CONTROLLER, OTHER

READY_S, ANSWER_S = 30.0, 10.0
"""A controller has so long to be there, and to answer, s."""
KEPT = QoSProfile(depth=2000, reliability=ReliabilityPolicy.RELIABLE)
POLL_S = 0.1
"""Every `controller_state`, at 1 kHz, and the time between two looks for them, s."""
LIMIT_TEXT = 300
_FOLLOWER = (
    "import os, sys; from ecovla_ros.nodes.ros.process import follow_parent; "
    "follow_parent() or sys.exit(2); os.execv(sys.argv[1], sys.argv[1:])"
)
"""Becomes the program of its arguments, and ends with whoever started it."""
Until = Callable[[Callable[[], Any], float, str], Any]
"""Wait for a condition, spinning: condition, seconds, what it is."""


@dataclass(frozen=True)
class StateTrace:
    """What a controller commanded, in rows."""

    times_s: np.ndarray
    """(N,), by the system's clock, s."""
    positions: np.ndarray
    """(N, 7), rad."""
    velocities: np.ndarray
    """(N, 7), rad/s."""
    accelerations: np.ndarray | None = None
    """(N, 7), rad/s^2, where the controller tells them."""


class MockArm(Protocol):
    """What `ecovla trial` does to a controller."""

    def start(self, place: np.ndarray) -> None:
        """Start it on an arm that stands at `place` (7,), rad. Raises EcovlaError when it does not come up."""

    def kill(self) -> None:
        """SIGKILL."""

    def freeze(self, on: bool) -> None:
        """SIGSTOP; off: SIGCONT."""

    def activate(self, on: bool) -> None:
        """Deactivate the trajectory controller; on: activate it."""

    def switch(self, away: bool) -> None:
        """Another controller takes its place in one cycle; back: it takes the place of that."""

    def trace(self) -> StateTrace:
        """What was commanded since the first `start`."""

    def stop(self) -> None:
        """End it."""


class OwnArm:
    """Our own controller."""

    def __init__(self, out: Path, surroundings: Mapping[str, str], node: Node, until: Until) -> None:
        """Logs and what was commanded go to `out`."""
        self._out, self._surroundings, self._until = out, surroundings, until
        self._child: Child | None = None
        self._file = out / "trace.f64"
        self._file.unlink(missing_ok=True)
        self._node = node
        self._activate: Any = node.create_client(SetBool, "mock_controller/activate")

    def start(self, place: np.ndarray) -> None:
        """See `MockArm`."""
        self._node.destroy_client(self._activate)  # one that knew the killed one takes it for ready
        told = {"start": [float(q) for q in place], "trace": str(self._file)}
        log = self._out / "controller.log"
        self._child = Child("mock_controller", told, self._surroundings, log, module="ecovla_ros.stage.mock_controller")
        self._activate = self._node.create_client(SetBool, "mock_controller/activate")
        self._until(self._activate.service_is_ready, READY_S, "our controller")

    def kill(self) -> None:
        """See `MockArm`."""
        assert self._child is not None
        self._child.kill()

    def freeze(self, on: bool) -> None:
        """See `MockArm`."""
        assert self._child is not None
        self._child.freeze(on)

    def activate(self, on: bool) -> None:
        """See `MockArm`."""
        future = self._activate.call_async(SetBool.Request(data=on))
        self._until(future.done, ANSWER_S, "an answer of our controller")

    def switch(self, away: bool) -> None:
        """See `MockArm`. One that holds the arm and drops what it is told looks the same, whatever its name."""
        self.activate(not away)

    def trace(self) -> StateTrace:
        """See `MockArm`."""
        raw = np.fromfile(self._file)
        rows = raw[: len(raw) // ROW * ROW].reshape(-1, ROW)  # the last one may be half written
        return StateTrace(rows[:, 0], rows[:, 1:8], rows[:, 8:])

    def stop(self) -> None:
        """See `MockArm`."""
        if self._child is not None:
            self._child.stop()


class Ros2ControlArm:
    """The real one. Asked in the words of controller_manager_msgs."""

    def __init__(self, out: Path, surroundings: Mapping[str, str], node: Node, until: Until, prefix: Path) -> None:
        """`prefix`: where lib/controller_manager/ros2_control_node is. Raises ConfigError where it is not."""
        self._program = prefix / "lib/controller_manager/ros2_control_node"
        if not self._program.is_file():
            raise ConfigError(f"there is no {self._program}; valid: the prefix of a ROS 2 with ros2_control")
        try:
            self._srv: Any = import_module("controller_manager_msgs.srv")
            self._kind: Any = import_module("control_msgs.msg").JointTrajectoryControllerState
        except ImportError as error:
            raise ConfigError(
                f"ros2_control's messages cannot be imported ({error}); valid: a sourced ROS 2"
            ) from error
        libraries = os.pathsep.join((str(prefix / "lib"), surroundings.get("LD_LIBRARY_PATH", "")))
        known = os.pathsep.join((str(prefix), surroundings["AMENT_PREFIX_PATH"]))
        self._surroundings = {**surroundings, "LD_LIBRARY_PATH": libraries, "AMENT_PREFIX_PATH": known}
        self._out, self._node, self._until = out, node, until
        self._second = out / "second_controller.yaml"
        self._second.write_text(mock_description.second_controller(), encoding="utf-8")
        self._process: Process | None = None
        self._told = node.create_publisher(String, "robot_description", qos.LATCHED)
        self._raw: list[bytes] = []
        self._states = PolledTopic(node, self._kind, f"{CONTROLLER}/controller_state", KEPT, MOST_BYTES)
        node.create_timer(POLL_S, self._poll)

    def start(self, place: np.ndarray) -> None:
        """See `MockArm`."""
        self._told.publish(String(data=mock_description.description(place.tolist())))
        ghosts = self._managers()
        files = (config.shipped(mock_description.FILE), self._second)
        command = [
            sys.executable,
            "-c",
            _FOLLOWER,
            str(self._program),
            "--ros-args",
            *(part for file in files for part in ("--params-file", str(file))),
        ]
        self._process = Process("ros2_control_node", command, self._surroundings, self._out / "ros2_control.log")
        self._until(lambda: self._managers() > ghosts, READY_S, "ros2_control's manager")
        for name in ("joint_state_broadcaster", CONTROLLER, OTHER):
            for verb, kind in (("load", self._srv.LoadController), ("configure", self._srv.ConfigureController)):
                if not self._ask(kind, f"{verb}_controller", kind.Request(name=name), READY_S).ok:
                    raise EcovlaError(f"ros2_control cannot {verb} {name}: {self._process.last_words()}")
        self._switch(["joint_state_broadcaster", CONTROLLER], [])

    def _poll(self) -> None:
        """All that came: an executor that was woken by each would be too slow for them."""
        self._raw += [raw for raw, _ in reversed(self._states.newest())]

    def _managers(self) -> int:
        """How many there are, with those that were killed and are not forgotten yet, which answer nobody."""
        return int(self._node.count_services("controller_manager/load_controller"))

    def kill(self) -> None:
        """See `MockArm`."""
        assert self._process is not None
        self._process.kill()

    def freeze(self, on: bool) -> None:
        """See `MockArm`."""
        assert self._process is not None
        self._process.freeze(on)

    def activate(self, on: bool) -> None:
        """See `MockArm`."""
        self._switch([CONTROLLER] if on else [], [] if on else [CONTROLLER])

    def switch(self, away: bool) -> None:
        """See `MockArm`."""
        self._switch([OTHER if away else CONTROLLER], [CONTROLLER if away else OTHER])

    def trace(self) -> StateTrace:
        """See `MockArm`. A message that was lost on the way is missing."""
        self._poll()
        states = [deserialize_message(raw, self._kind) for raw in self._raw]
        rows = [state.reference for state in states]
        return StateTrace(
            np.array([wire.stamp_ns(state.header.stamp) / 1e9 for state in states]),
            np.array([row.positions for row in rows]), np.array([row.velocities for row in rows]),
            np.array([row.accelerations if len(row.accelerations) else [0.0] * 7 for row in rows]),
        )  # fmt: skip

    def stop(self) -> None:
        """See `MockArm`."""
        if self._process is not None:
            self._process.stop()

    def _switch(self, on: Sequence[str], off: Sequence[str]) -> None:
        kind = self._srv.SwitchController
        asked = kind.Request(activate_controllers=list(on), deactivate_controllers=list(off), strictness=2)
        answer = self._ask(kind, "switch_controller", asked, ANSWER_S)
        if not answer.ok:
            raise EcovlaError(f"ros2_control does not switch to {on} from {off}: {answer.message[:LIMIT_TEXT]}")

    def _ask(self, kind: Any, name: str, request: Any, timeout_s: float) -> Any:
        """By a client of its own: one that knew a killed manager takes it for ready."""
        client: Any = self._node.create_client(kind, f"controller_manager/{name}")
        try:
            self._until(client.service_is_ready, timeout_s, f"ros2_control's {name}")
            future = client.call_async(request)
            self._until(future.done, timeout_s, f"an answer of ros2_control's {name}")
            return future.result()
        finally:
            self._node.destroy_client(client)


def real(prefix: Path) -> tuple[Path, Any, Any]:
    """ros2_control's program below `prefix`, the services of its manager, and what a trajectory controller says.

    Raises ConfigError where one of them is not there.
    """
    program = prefix / "lib/controller_manager/ros2_control_node"
    if not program.is_file():
        raise ConfigError(f"there is no {program}; valid: the prefix of a ROS 2 with ros2_control")
    try:
        state = import_module("control_msgs.msg").JointTrajectoryControllerState
        return program, import_module("controller_manager_msgs.srv"), state
    except ImportError as error:
        raise ConfigError(f"ros2_control's messages cannot be imported ({error}); valid: a sourced ROS 2") from error
