"""A Gen3 as kortex_api shows it, on a port of loopback: what the reference says of the real one, in real time.

Joint speeds are latched: the arm moves on until the next command, Stop, a fault, or a silence longer than the session's
connection time-out. A command takes effect at the next tick of 25 ms. Calls can be slow, replies can be lost, and a
speed beyond the soft limits is cut; without soft limits the arm has none.
"""

from __future__ import annotations

import json
import math
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

TICK_S = 0.025
STEP_S = 0.001
SPEED, ACCELERATION = 80.0, 500.0


def until(condition: Callable[[], Any], what: str, timeout_s: float = 20.0) -> None:
    """Wait for what other processes do: nothing here can be told of it, so it is asked for again and again."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"not seen: {what}"
        time.sleep(0.01)


class Robot:
    def __init__(self, positions: np.ndarray, password: str = "admin") -> None:
        self._password = password
        self.position = np.degrees(positions)
        self.speed, self.asked, self._waiting = np.zeros(7), np.zeros(7), None
        self.soft: dict[str, np.ndarray] = {}
        self.calls: list[str] = []
        self.fault, self.gripper, self.servoing = 0, 0.0, 0
        self.slow_s, self.lose = 0.0, ""
        """Time a call takes; name of calls whose reply does not come."""
        self.stray = ""
        """What it sends, unasked, before its next answer."""
        self.session: dict[str, Any] | None = None
        self.track: list[np.ndarray] = []
        self.speeds: list[np.ndarray] = []
        self._heard, self._open = time.monotonic(), True
        self._connections: list[socket.socket] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self._threads = [threading.Thread(target=part, daemon=True) for part in (self._live, self._listen)]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        self._open = False
        self._server.close()
        self._threads[0].join()

    def hang_up(self) -> None:
        """The connections break; nobody logs out."""
        for connection in self._connections:
            connection.shutdown(socket.SHUT_RDWR)

    def rests(self) -> bool:
        return bool(np.abs(self.speed).max() < 1e-9)

    def _live(self) -> None:
        began, steps = time.monotonic(), 0
        while self._open:
            for _ in range(int((time.monotonic() - began) / STEP_S) - steps):
                steps += 1
                self._step(steps)
            time.sleep(STEP_S)

    def _step(self, steps: int) -> None:
        if steps % round(TICK_S / STEP_S) == 0 and self._waiting is not None:
            self.asked, self._waiting = self._waiting, None
        silence = time.monotonic() - self._heard
        gone = self.session is None or silence > self.session["connection_inactivity_timeout"] / 1000.0
        target = np.zeros(7) if self.fault or gone else self.asked
        if self.fault or gone:
            self.asked, self._waiting = np.zeros(7), None
        most = self.soft.get("acceleration", np.full(7, ACCELERATION)) * STEP_S
        self.speed = self.speed + np.clip(target - self.speed, -most, most)
        self.position = self.position + self.speed * STEP_S
        self.track.append(np.radians(self.position))
        self.speeds.append(np.radians(self.speed))

    def _listen(self) -> None:
        while self._open:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            self._connections.append(connection)
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        with connection:
            try:
                for line in connection.makefile("r"):
                    call = json.loads(line)
                    time.sleep(self.slow_s)
                    answer = self._answer(call)
                    if self.stray:
                        connection.sendall((json.dumps({"stray": self.stray}) + "\n").encode())
                        self.stray = ""
                    if call["call"] != self.lose:
                        connection.sendall((json.dumps({"id": call["id"], **answer}) + "\n").encode())
            except OSError:
                return

    def _answer(self, call: dict[str, Any]) -> dict[str, Any]:
        name = call["call"]
        self._heard = time.monotonic()
        self.calls.append(name)
        if self.session is None and name != "CreateSession":
            return {"error": "INVALID_SESSION"}
        if name == "CreateSession":
            if call["login"]["password"] != self._password:
                return {"error": "INVALID_PASSWORD"}
            self.session = call["login"]
        elif name == "CloseSession":
            self.session = None
        elif name == "SetServoingMode":
            self.servoing = call["mode"]
        elif name == "SoftLimits":
            self.soft[call["kind"]] = np.array(call["values"])
        elif name == "SendJointSpeedsCommand":
            if self.fault:
                return {"error": "ROBOT_IN_FAULT"}
            if self.servoing != 2:
                return {"error": "WRONG_SERVOING_MODE"}
            most = self.soft.get("speed", np.full(7, SPEED))
            self._waiting = np.clip(np.array(call["speeds"]), -most, most)
        elif name == "SendGripperCommand":
            self.gripper = call["value"]
        elif name == "Stop":
            self.asked, self._waiting = np.zeros(7), None
        elif name == "ClearFaults":
            self.fault = 0
        elif name == "RefreshFeedback":
            return {"feedback": self._feedback()}
        return {}

    def _feedback(self) -> dict[str, Any]:
        joints = [
            {"position": math.fmod(p, 360.0) % 360.0, "velocity": v, "fault_bank_a": self.fault if i == 3 else 0}
            for i, (p, v) in enumerate(zip(self.position.tolist(), self.speed.tolist()))
        ]
        motor = [{"position": 100.0 * self.gripper}]
        return {
            "actuators": joints, "interconnect": {"gripper_feedback": {"motor": motor}},
            "base": {"active_state": 4 if self.fault else 7},
        }  # fmt: skip
