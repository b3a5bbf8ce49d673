"""Runs a node as a process: it spins in one thread and ends cleanly at SIGINT or SIGTERM, however often they come."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.logging import get_logger
from rclpy.signals import SignalHandlerOptions

from ecovla_ros.errors import EcovlaError
from ecovla_ros.nodes.ros import cdr_bounds
from ecovla_ros.nodes.ros.executor import SturdyExecutor
from ecovla_ros.nodes.ros.polling import OncePerSecond

WAKE_S = 0.1
"""A signal is noticed within this time, s."""
SWITCH_S = 0.0005
"""How long a thread that draws or infers may keep the interpreter while the executor waits for it, s. Python's own 5 ms
is half a control tick."""


PRIORITY = 10
"""Real-time priority that is asked for, 1 to 99: above everything ordinary, below ros2_control's 50."""


PARENT = "ECOVLA_PARENT"
"""Environment variable: the id of the process whose end is ours, however it ends."""
PR_SET_PDEATHSIG = 1
"""prctl(2)."""


def follow_parent() -> bool:
    """End with SIGTERM when the process named by `PARENT` has ended, as one that was killed can end nobody itself.

    Returns False when it is gone already. Linux only; elsewhere, and when the variable is not set, nothing is done.
    """
    named = os.environ.pop(PARENT, "")  # it is ours, and not that of what we start
    if not named or sys.platform != "linux":
        return True
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    try:
        os.kill(int(named), 0)
    except (ProcessLookupError, PermissionError, ValueError):
        return False
    return True


def ask_for_priority() -> bool:
    """Real-time scheduling for this process and the threads it starts from now on, where the system allows it.

    Allowed to root, and to users with an rtprio limit (/etc/security/limits.conf), as ros2_control asks for it too.
    """
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
    except (AttributeError, OSError):  # not Linux, or not allowed
        return False
    return True


def keep_loaded() -> None:
    """What is loaded stays: the collector need not walk through it beside a tick or a frame. `gc.unfreeze` ends it."""
    gc.collect()
    gc.freeze()


class Signals:
    """Remembers SIGINT, SIGTERM and SIGHUP instead of raising in the middle of something."""

    def __init__(self) -> None:
        self.received = 0
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # ignored: started by nohup
                signal.signal(number, self._remember)

    def _remember(self, number: int, _frame: Any) -> None:
        self.received = number

    @staticmethod
    def ignore() -> None:
        """From now on: what is told again while the interpreter ends must not change the exit code."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)


def start_ros(arguments: Sequence[str] | None = None) -> None:
    """`rclpy.init` without its signal handlers, with the ros-* wheels' prefix known."""
    os.environ.setdefault("AMENT_PREFIX_PATH", sys.prefix)  # the wheels set it nowhere
    rclpy.init(args=None if arguments is None else list(arguments), signal_handler_options=SignalHandlerOptions.NO)


def _drive(node: Any, executor: SingleThreadedExecutor, going: Callable[[], bool]) -> None:
    """Spin while going, and look at events once a second; a node with a method `drive` of its own is driven by that."""
    events = OncePerSecond()
    while going():
        events.turn(node, time.monotonic())
        executor.spin_once(timeout_sec=WAKE_S)


def run(name: str, make: Callable[[], Any], arguments: Sequence[str] | None = None) -> int:
    """Make the node, spin it until a signal, close it. Exit code: 0; 1 when it failed; 2 when it could not start."""
    signals = Signals()
    if not follow_parent():
        return 2
    sys.setswitchinterval(SWITCH_S)
    try:
        start_ros(arguments)
        return _serve(name, make, signals)
    finally:
        signals.ignore()
        rclpy.try_shutdown()


def _serve(name: str, make: Callable[[], Any], signals: Signals) -> int:
    try:
        node = make()
    except EcovlaError as error:
        get_logger(name).fatal(str(error))
        return 2
    cdr_bounds.warn(node)
    executor = SturdyExecutor()
    executor.add_node(node)
    try:
        if hasattr(node, "claim"):
            node.claim(executor)
        drive = getattr(node, "drive", partial(_drive, node))
        drive(executor, lambda: not signals.received and rclpy.ok())
    except ExternalShutdownException:
        pass
    except EcovlaError as error:
        get_logger(name).fatal(str(error))
        return 1
    finally:
        node.close()
        executor.shutdown()
        node.destroy_node()
    return 0
