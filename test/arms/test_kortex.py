"""The pipe and the loop of the kortex server: what is no report, and what is lost, late or malformed."""

from __future__ import annotations

import fcntl
import json
import logging
import queue
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from support.kortex_robot import Robot, until

from ecovla_ros.arms.kortex import server
from ecovla_ros.arms.kortex.process import SERVER, KortexArm
from ecovla_ros.control.flight import Flight
from ecovla_ros.control.limits import load
from ecovla_ros.control.trajectory import still_due
from ecovla_ros.types import Trajectory

HOME = np.array([0.1, 0.3, 0.5, -1.8, -0.4, 0.9, 1.5])
LIMITS = load("normal")
FAKE = Path(__file__).parents[1] / "support" / "fake_kortex"
STATE = {"joints": [0.0] * 7, "velocity": [0.0] * 7, "gripper": 0.0, "fault": ""}


def test_only_reports_reach_standard_output_whoever_prints() -> None:
    lines = [
        f"import os, sys; sys.path.insert(0, {str(SERVER.parent)!r}); import server",
        "out = server.reports()",
        "print('from Python'); os.write(1, b'from C\\n'); os.system('echo from a child')",
        "out('a report')",
    ]
    ran = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True)
    assert ran.stdout == "a report\n"
    assert all(f"from {who}" in ran.stderr for who in ("Python", "C", "a child"))


def test_a_connection_that_breaks_is_a_named_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(FAKE))
    robot = Robot(HOME)
    arm = KortexArm(sys.executable, LIMITS, time.time_ns, ["--ip", "127.0.0.1", "--port", str(robot.port)])
    try:
        until(lambda: arm.state() is not None, "a state")
        robot.stray = "a message for nobody"
        until(lambda: not robot.stray, "that it is sent")
        count = len(robot.calls)
        until(lambda: len(robot.calls) > count + 3, "calls after it")
        assert arm.fault == ""
        robot.hang_up()
        until(lambda: "does not answer" in arm.fault, "the fault by name")
    finally:
        arm.close()
        robot.close()


@pytest.mark.parametrize("line", ["[Errno 32] Broken pipe", "5", "{}", '{"fault": "", "joints": ["a"]}', "\\xff"])
def test_what_is_no_report_is_skipped_and_logged_once(
    line: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    print_it = f"sys.stdout.buffer.write(b'{line}\\n' * 2)"
    with caplog.at_level(logging.WARNING):
        python = program(tmp_path, print_it, f"print({json.dumps(STATE)!r}, flush=True)", "sys.stdin.read()")
        arm = KortexArm(python, LIMITS, lambda: 7)
        try:
            until(lambda: arm.state() is not None, "the state after it")
            assert arm.fault == "" and len(caplog.records) == 1
        finally:
            arm.close()


def test_a_process_that_reports_no_more_is_a_named_fault(tmp_path: Path) -> None:
    python = program(tmp_path, "sys.stdout.flush(); os.close(1)", "sys.stdin.read(); os._exit(0)")
    arm = KortexArm(python, LIMITS, lambda: 7)
    try:
        until(lambda: arm.fault == "the kortex process runs and reports no more", "the fault by name")
    finally:
        arm.close()


def program(folder: Path, *lines: str) -> str:
    """An interpreter that runs these lines whatever it is told to run."""
    made = folder / "python"
    made.write_text("\n".join([f"#!{sys.executable}", "import os, sys", *lines]))
    made.chmod(0o755)
    return str(made)


class Lost(Exception):
    """A reply did not come."""


class Bench:
    """The loop before an arm that obeys at once, in a time of their own. `lose`: the replies that do not come."""

    def __init__(self) -> None:
        self.now, self.at, self.speed = 0.0, HOME.copy(), np.zeros(7)
        self.track, self.asked, self.said = [self.at[0]], queue.Queue(), []
        self.lose: list[str] = []
        self.stops = 0
        self.api = SimpleNamespace(KServerException=Lost, KClientException=Lost)
        options = SimpleNamespace(velocity=LIMITS.velocity.tolist())
        self.loop = server.Loop(self, self.asked, self.hear, options, lambda: self.now)
        self.turn()

    def hear(self, line: str) -> None:
        self.said.append(json.loads(line))

    def turn(self) -> None:
        """One turn, no sooner than 25 ms after the last."""
        began = self.now
        assert self.loop.turn(began, server.PERIOD_S)
        self.wait(max(0.0, began + server.PERIOD_S - self.now))

    def wait(self, seconds: float) -> None:
        self.now, self.at = self.now + seconds, self.at + self.speed * seconds
        self.track.append(self.at[0])

    def send(self, trajectory: Trajectory) -> None:
        self.asked.put(order(trajectory, self.now))

    def feedback(self) -> tuple[list[float], list[float], float, str]:
        self.answer("feedback", 0.002)
        return self.at.tolist(), self.speed.tolist(), 0.0, ""

    def speeds(self, values: list[float]) -> None:
        assert (np.abs(values) <= LIMITS.velocity + 1e-9).all()
        self.speed = np.array(values)
        self.answer("speeds", 0.0)

    def stop(self) -> None:
        self.stops += 1
        if self.lose[:1] != ["stop"]:
            self.speed = np.zeros(7)
        self.answer("stop", 0.0)

    def answer(self, name: str, seconds: float) -> None:
        if self.lose[:1] == [name]:
            self.lose.pop(0)
            self.wait(1e-3 * server.CALL_MS)
            raise Lost(name)
        self.wait(seconds)


def order(trajectory: Trajectory, sent: float = 0.44) -> str:
    names = {"times": trajectory.times_s, "positions": trajectory.positions, "velocities": trajectory.velocities}
    return json.dumps(
        {"op": "trajectory", "sent": sent, **{name: np.asarray(value).tolist() for name, value in names.items()}}
    )


def move(step: float = 0.35, seconds: float = 1.0) -> Trajectory:
    """From rest to rest along a smooth step."""
    s = np.linspace(0.0, 1.0, 11)[1:, None]
    shape, slope = 3 * s**2 - 2 * s**3, (6 * s - 6 * s**2) / seconds
    return Trajectory(s[:, 0] * seconds, HOME + step * shape, step * slope * np.ones(7))


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_stop_is_carried_out_while_nobody_sees_the_arm(lost: int) -> None:
    bench, flight = Bench(), Flight()
    flight.start(HOME)
    bench.send(move())
    now_ns = round(bench.now * 1e9)
    flight.send(move(), now_ns, now_ns)
    while bench.now < 0.45:
        bench.turn()
    now_ns = round(bench.now * 1e9)
    stopped = flight.stop(now_ns, LIMITS, 0.0)
    assert stopped is not None
    stop = still_due(stopped[0], now_ns, stopped[1])
    rest = stop.positions[-1][0] - HOME[0]
    bench.send(stop)
    late = bench.speed[0] * 1e-3 * server.CALL_MS * min(lost, 1)
    bench.lose = ["feedback"] * lost
    while bench.now < 3.0:
        bench.turn()
    assert max(bench.track) - HOME[0] < rest + max(0.004, late - 0.05), "the first costs its wait, the next nothing"
    assert abs(bench.at[0] - HOME[0] - rest) < 0.005 and not bench.speed.any() and bench.said[-1]["fault"] == ""


def test_three_lost_in_a_row_are_a_fault_at_rest_and_what_was_not_seen_is_not_reported() -> None:
    bench = Bench()
    bench.send(move())
    while bench.now < 0.45:
        bench.turn()
    said = len(bench.said)
    bench.lose = ["feedback"] * 3
    for _ in range(3):
        bench.turn()
    assert not bench.speed.any()
    assert [state["joints"] for state in bench.said[said:]] == [None]
    assert bench.said[-1]["fault"] == "the arm does not answer: feedback"


def test_pairs_of_lost_replies_again_and_again_are_a_fault_single_ones_are_not() -> None:
    bench = Bench()
    for _ in range(6):
        bench.lose = ["feedback"]
        bench.turn()
        bench.turn()
    assert bench.said[-1]["fault"] == ""
    for _ in range(2):
        bench.lose = ["feedback"] * 2
        for _ in range(3):
            bench.turn()
    assert "does not answer" in bench.said[-1]["fault"]


def test_latched_speeds_without_a_trajectory_are_stopped_until_it_is_answered() -> None:
    bench = Bench()
    bench.send(move())
    bench.lose = ["stop"]
    while bench.now < 2.5:
        bench.turn()
    assert bench.stops == 2 and not bench.speed.any() and bench.said[-1]["moving"] is False


@pytest.mark.parametrize(
    "line",
    [
        "no JSON", "[]", "{}", '{"op": "dance", "sent": 0.44}', '{"op": "trajectory", "sent": 0.44}',
        '{"op": "gripper", "closed": NaN, "sent": 0.44}', order(move(-0.3), float("nan")), order(move(-0.3), 0.1),
        order(Trajectory(np.array([1.0]), np.full((1, 1), 0.5), np.zeros((1, 1)))),
        order(Trajectory(np.array([1.0]), np.full((1, 7), np.nan), np.zeros((1, 7)))),
        order(Trajectory(np.array([1.0]), HOME[None], np.full((1, 7), np.inf))),
        order(Trajectory(np.array([1.0, 1.0]), np.stack([HOME, HOME]), np.zeros((2, 7)))),
        order(Trajectory(np.array([0.0]), HOME[None], np.zeros((1, 7)))),
        order(Trajectory(np.array([]), np.zeros((0, 7)), np.zeros((0, 7)))),
        order(Trajectory(np.array([1.0, 2.0]), HOME[None], np.zeros((1, 7)))),
        '{"op": "trajectory", "sent": 0.44, "times": ["now"], "positions": [[0,0,0,0,0,0,0]], '
        '"velocities": [[0,0,0,0,0,0,0]]}',
    ],
)  # fmt: skip
def test_an_order_that_cannot_be_carried_out_is_refused_and_the_motion_goes_on(
    line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = Bench()
    bench.send(move())
    while bench.now < 0.45:
        bench.turn()
    bench.asked.put(line)
    while bench.now < 2.5:
        bench.turn()
    assert np.abs(bench.at - HOME - 0.35).max() < 0.005 and bench.said[-1]["fault"] == ""
    assert capsys.readouterr().err.count("refused") == 1


def test_a_first_point_at_time_zero_is_where_the_motion_starts_anyway() -> None:
    bench, then = Bench(), move()
    rows = np.vstack((HOME, then.positions)), np.vstack((np.zeros(7), then.velocities))
    bench.send(Trajectory(np.append(0.0, then.times_s), *rows))
    while bench.now < 2.5:
        bench.turn()
    assert np.abs(bench.at - HOME - 0.35).max() < 0.005


def test_an_arm_that_was_pushed_away_is_brought_back_no_faster_than_the_limit() -> None:
    bench = Bench()
    bench.send(move())
    while bench.now < 0.5:
        bench.turn()
    bench.at = bench.at - 0.8  # 1.6 rad/s by the gain alone
    fastest = 0.0
    while bench.now < 4.0:
        bench.turn()  # `speeds` refuses what is beyond the limits
        fastest = max(fastest, float(np.abs(bench.speed).max()))
    assert fastest == pytest.approx(LIMITS.velocity.max()), "as fast as is allowed"


class SlowBench(Bench):
    """An arm that carries out one call after the other, each after `slow` seconds, waited for or not. As the session's
    time-out asks, it stops by itself when no call was carried out for `SILENCE_S`.
    """

    SILENCE_S = 0.2

    def __init__(self) -> None:
        self.slow, self.busy, self.due, self.heard = 0.0, 0.0, [], 0.0
        super().__init__()

    def wait(self, seconds: float) -> None:
        end = self.now + seconds
        while self.due and self.due[0][0] <= end:
            at, speed = self.due.pop(0)
            self.move(at)
            self.speed, self.heard = self.speed if speed is None else speed, at
        self.move(end)

    def move(self, end: float) -> None:
        """Until then, or until nothing was heard for too long."""
        super().wait(min(max(0.0, end - self.now), max(0.0, self.heard + self.SILENCE_S - self.now)))
        if self.now < end:
            self.speed = np.zeros(7)
            super().wait(end - self.now)

    def call(self, name: str, speed: np.ndarray | None) -> None:
        began = self.now
        self.busy = max(self.busy, began) + self.slow
        self.due.append((self.busy, speed))
        late = self.busy - began
        self.wait(min(late, 1e-3 * server.CALL_MS))
        if late > 1e-3 * server.CALL_MS:
            raise Lost(f"{name}: no reply")

    def feedback(self) -> tuple[list[float], list[float], float, str]:
        self.call("feedback", None)
        return self.at.tolist(), self.speed.tolist(), 0.0, ""

    def speeds(self, values: list[float]) -> None:
        assert (np.abs(values) <= LIMITS.velocity + 1e-9).all()
        self.call("speeds", np.array(values))

    def stop(self) -> None:
        self.stops += 1
        self.call("stop", np.zeros(7))


@pytest.mark.parametrize("slow_ms", [30, 60, 90, 110, 150, 200, 300, 400])
@pytest.mark.parametrize("begins_s", [0.2, 0.45, 0.7, 0.85])
def test_replies_that_come_late_are_a_fault_by_name_or_do_no_harm(slow_ms: int, begins_s: float) -> None:
    bench = SlowBench()
    bench.send(move())
    while bench.now < begins_s:
        bench.turn()
    bench.slow = 1e-3 * slow_ms
    while bench.now < 6.0:
        bench.turn()
    farthest, fault = max(bench.track) - HOME[0], bench.loop._fault
    if slow_ms < server.CALL_MS:
        assert not fault and abs(bench.at[0] - HOME[0] - 0.35) < 0.01
        assert farthest < 0.35 + 0.06
    else:
        assert "does not answer" in fault and not bench.speed.any()
        assert farthest < 0.35 + 0.12, "the speed that lasts and the one on its way, each until the arm's own time-out"


def test_a_server_that_stood_still_takes_up_neither_the_motion_nor_orders_of_before() -> None:
    bench = Bench()
    bench.send(move())
    while bench.now < 0.4:
        bench.turn()
    bench.send(move(-0.3))
    bench.speed = np.zeros(7)  # the arm's own time-out has stopped it meanwhile
    began = bench.now
    bench.wait(2.0)
    assert bench.loop.turn(bench.now, bench.now - began)
    at = bench.at.copy()
    while bench.now < 4.0:
        bench.turn()
    assert np.array_equal(bench.at, at) and not bench.said[-1]["fault"]
    bench.send(Trajectory(np.array([1.0]), at[None] + 0.1, np.zeros((1, 7))))
    while bench.now < 6.0:
        bench.turn()
    assert np.abs(bench.at - at - 0.1).max() < 0.005, "a new order is carried out"


def test_the_password_is_in_no_list_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(FAKE))
    robot = Robot(HOME, password="between us")
    arm = KortexArm(
        sys.executable, LIMITS, time.time_ns, ["--ip", "127.0.0.1", "--port", str(robot.port)], "between us"
    )
    try:
        until(lambda: arm.state() is not None, "a state: it was let in")
        for name in ("cmdline", "environ"):
            assert b"between us" not in Path(f"/proc/{arm.pid}/{name}").read_bytes()
    finally:
        arm.close()
        robot.close()


def test_a_signal_ends_it_at_rest_also_when_nobody_reads_its_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(FAKE))
    robot = Robot(HOME)
    command = [sys.executable, str(SERVER), "--ip", "127.0.0.1", "--port", str(robot.port)]
    for name in ("velocity", "acceleration"):
        command += [f"--{name}", ",".join(map(str, getattr(LIMITS, name)))]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
    assert process.stdin is not None and process.stdout is not None
    fcntl.fcntl(process.stdout, 1031, 4096)  # F_SETPIPE_SZ: full after some lines
    try:
        process.stdin.write('{"password": "admin"}\n')
        until(lambda: robot.calls.count("RefreshFeedback") > 40, "turns beyond what fits into the pipe")
        process.stdin.write(order(move(0.3), time.monotonic()) + "\n")
        until(lambda: not robot.rests(), "motion")
        process.terminate()
        assert process.wait(10.0) == 0
        until(robot.rests, "rest")
        assert robot.calls[-2:] == ["Stop", "CloseSession"]
    finally:
        process.kill()
        process.wait()
        robot.close()
