"""`ecovla enable` lets the guard move the arm while it runs. When it ends, by Ctrl-C or any other way, the arm stops.

It asks again five times a second (`enable_lease`), which is what a guard with `enable_lease_s` needs. Exit code 0 when
it was stopped; 1 when the guard does not enable, or ended the motion itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.executors import SingleThreadedExecutor
from std_msgs.msg import Bool
from std_srvs.srv import SetBool

from ecovla_ros.errors import EcovlaError
from ecovla_ros.nodes.ros import qos
from ecovla_ros.nodes.ros.process import Signals, start_ros
from ecovla_ros.stage.driver import ANSWER_S, ASK_S

ENDED = ("DISARMED", "LATCHED")
"""States in which a guard that was enabled moves nothing until it is enabled again."""


def main(arguments: Sequence[str] | None = None, seconds: float = 0.0) -> int:
    """Enable, and ask again until a signal comes or `seconds` (0: no end) have passed. Raises EcovlaError."""
    signals = Signals()
    start_ros(list(arguments or []))
    node, executor = rclpy.create_node("enable"), SingleThreadedExecutor()
    executor.add_node(node)
    try:
        return _hold(node, executor, lambda: not signals.received, seconds)
    finally:
        signals.ignore()
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown()


def _hold(node: Any, executor: SingleThreadedExecutor, going: Callable[[], bool], seconds: float) -> int:
    states: list[tuple[str, str]] = []

    def heard(msg: DiagnosticStatus) -> None:
        states[:] = [({pair.key: pair.value for pair in msg.values}.get("state", ""), msg.message)]

    node.create_subscription(DiagnosticStatus, "status", heard, qos.LATCHED)
    client = node.create_client(SetBool, "guard/enable")
    asking = node.create_publisher(Bool, "guard/enable_lease", qos.REPORT)
    answer = _call(client, executor, True, going)
    if answer is None:
        return 0
    print(f"guard: {answer.message}", flush=True)
    if not answer.success:
        return 1
    end = time.monotonic() + seconds if seconds else float("inf")
    said, code, states[:] = "", 0, []
    while going() and time.monotonic() < end:
        asking.publish(Bool(data=True))
        due = time.monotonic() + ASK_S
        while (left := due - time.monotonic()) > 0.0 and going():
            executor.spin_once(timeout_sec=left)
        text = ": ".join(states[0]) if states else ""
        if text != said:
            said = text
            print(text, flush=True)
        if states and states[0][0] in ENDED:
            code = 1
            break
    _call(client, executor, False, lambda: True)
    return code


def _call(client: Any, executor: SingleThreadedExecutor, on: bool, going: Callable[[], bool]) -> Any:
    """The guard's answer; None when it was stopped before. Raises EcovlaError when none comes."""
    end, future = time.monotonic() + ANSWER_S, None
    while going():
        if time.monotonic() > end:
            raise EcovlaError(
                f"no answer of {client.srv_name} within {ANSWER_S:.0f} s; valid: a running guard in the same domain "
                "and namespace (ecovla enable --ros-args -r __ns:=/NAME)"
            )
        if future is None and client.service_is_ready():
            future = client.call_async(SetBool.Request(data=on))
        executor.spin_once(timeout_sec=0.05)
        if future is not None and future.done():
            return future.result()
    return None
