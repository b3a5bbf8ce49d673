"""`ecovla trial`: what was commanded is run again as it was planned, and the rest after a kill is seen in it; what a
controller under test commanded is judged, and the trials that are done are kept."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("ecovla_ros.msg")

from sensor_msgs.msg import JointState
from support.graph import graph, joints
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from ecovla_ros import wire
from ecovla_ros.control.limits import load
from ecovla_ros.errors import ConfigError
from ecovla_ros.nodes.ros import qos
from ecovla_ros.stage import controller_trial, mock_description, trial
from ecovla_ros.stage.mock_arm import StateTrace
from ecovla_ros.stage.recorded_controller import COMMANDS, RecordedController
from ecovla_ros.types import Trajectory


def test_commands_are_run_again_by_their_own_stamps() -> None:
    with graph() as ros:
        arm = RecordedController(ros.tester)
        states = ros.matched(ros.tester.create_publisher(JointState, "joint_states", qos.COMMAND))
        told = ros.matched(ros.tester.create_publisher(JointTrajectory, COMMANDS, qos.COMMAND))

        def now() -> int:
            return int(ros.tester.get_clock().now().nanoseconds)

        states.publish(joints(now(), 0.1))
        ros.until(lambda: arm._joints is not None, "a joint state")
        arm.begin()
        aim = Trajectory(np.array([0.5]), np.full((1, 7), 0.2), np.zeros((1, 7)))
        told.publish(wire.fill_trajectory(JointTrajectory(), aim, JointTrajectoryPoint, ns=now()))
        ros.until(lambda: arm.speed() > 0.05, "motion")
        ros.spin(0.7)
        assert arm.speed() == 0.0
        position, velocity = arm.again().commanded()
        assert np.abs(position[-1] - 0.2).max() < 1e-6 and 0.25 < np.abs(velocity).max() < 0.35
        moving = np.flatnonzero(np.abs(velocity).max(axis=1) > 1e-3)
        assert 480 <= moving[-1] - moving[0] <= 505, "half a second, at 1 kHz"
        told.publish(wire.fill_trajectory(JointTrajectory(), aim, JointTrajectoryPoint, ns=now() - 2_000_000_000))
        ros.spin(0.3)
        assert np.array_equal(arm.again().commanded()[0][: len(position)], position), "what is over is dropped"


LIMITS = load("normal")


def swing(seconds: float = 2.0, size_rad: float = 0.1) -> StateTrace:
    """A smooth swing of every joint and back, a row a millisecond."""
    times = np.arange(0.0, seconds, 1e-3)
    phase = 2.0 * np.pi * times / seconds
    place = size_rad * (0.5 - 0.5 * np.cos(phase))
    speed = size_rad * np.pi / seconds * np.sin(phase)
    return StateTrace(100.0 + times, np.tile(place[:, None], 7), np.tile(speed[:, None], 7))


def test_a_smooth_swing_breaks_no_limit_and_its_rest_is_seen() -> None:
    trace = swing()
    broken, most, cut = controller_trial.judged(trace, LIMITS, [])
    assert not broken and cut == 0.0 and most == pytest.approx(0.1 * 2.0 * (np.pi / 2.0) ** 2, rel=1e-2)
    assert controller_trial.rest(trace, (100.5, 101.0, 101.2)) == pytest.approx(0.5, abs=2e-3)
    assert controller_trial.rest(trace, (100.0, 101.0, 103.0)) == pytest.approx(1.0, abs=5e-3)
    assert controller_trial.rest(trace, (102.1, 102.5, 103.0)) == 0.0


@pytest.mark.parametrize(
    "name, spoil",
    [
        ("step", lambda t: t.positions.__setitem__((slice(1000, None), 3), t.positions[1000:, 3] + 0.01)),
        ("velocity", lambda t: t.velocities.__setitem__((slice(None), 2), t.velocities[:, 2] * 10.0)),
        ("acceleration", lambda t: t.velocities.__setitem__((1000, 5), t.velocities[1000, 5] + 0.02)),
        ("position", lambda t: t.positions.__setitem__((slice(None), 1), t.positions[:, 1] + 2.3)),
        ("finite", lambda t: t.velocities.__setitem__((10, 0), np.nan)),
    ],
)
def test_what_is_outside_is_named_unless_it_is_of_the_strike(name: str, spoil: object) -> None:
    trace = swing()
    spoil(trace)  # type: ignore[operator]
    assert name in controller_trial.judged(trace, LIMITS, [])[0]
    if name in ("step", "acceleration"):
        broken, _, cut = controller_trial.judged(trace, LIMITS, [(100.99, 101.01)])
        assert not broken and (cut == pytest.approx(0.01, rel=0.05) or name == "acceleration")


def test_rows_that_were_lost_or_are_of_a_stopped_controller_are_not_taken_for_a_jump() -> None:
    whole = swing()
    rows = np.r_[0:400, 403:900, 1400:2000]  # three messages lost; nothing commanded for half a second
    trace = StateTrace(whole.times_s[rows], whole.positions[rows], whole.velocities[rows], np.zeros((len(rows), 7)))
    assert controller_trial.judged(trace, LIMITS, []) == ([], 0.0, 0.0)


def test_the_second_controller_is_told_what_the_first_is() -> None:
    from ecovla_ros import config, documents

    shipped = documents.from_yaml(config.shipped(mock_description.FILE).read_text(encoding="utf-8"))
    made = documents.from_yaml(mock_description.second_controller())
    assert made[mock_description.OTHER] == shipped[mock_description.CONTROLLER]
    kinds = (shipped["controller_manager"]["ros__parameters"][mock_description.CONTROLLER],
             made["controller_manager"]["ros__parameters"][mock_description.OTHER])  # fmt: skip
    assert kinds[0] == kinds[1]


def test_trials_that_are_done_are_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[str, int]] = []

    def stop(what: str, how: str, seed: int, out: Path) -> dict[str, object]:
        ran.append((f"{what} {how}", seed))
        return {"trial": f"{what} {how}", "seed": seed, "rest_s": 0.1, "reached": True, "tick_jitter_p99_ms": 1.0,
                "guard_share": 0.1}  # fmt: skip

    def strike(how: str, seed: int, out: Path, prefix: object) -> dict[str, object]:
        ran.append((f"controller {how}", seed))
        return {"trial": f"controller {how}", "seed": seed, "controller": "own", "rest_s": 0.1, "reached": True}

    monkeypatch.setattr(trial, "stop", stop)
    monkeypatch.setattr(controller_trial, "strike", strike)
    monkeypatch.setattr(trial, "overhead", lambda out: {"trial": trial.OVERHEAD, "p99_ms": 1.0, "reached": True})
    result = tmp_path / "trial.json"
    assert trial.main(1, tmp_path, result, minutes=-1.0) == 1 and not ran, "what is missing is not reached"
    assert trial.main(1, tmp_path, result) == 0
    first = len(ran)
    assert first == 10 and trial.main(2, tmp_path, result, resume=True) == 0
    assert len(ran) == 2 * first and len(set(ran)) == len(ran), "every trial once, and what is measured once"
    rows = json.loads(result.read_text(encoding="utf-8"))["rows"]
    assert [row for row in rows if "share" in row], "the worst of all runs is among them"
    result.write_text("[]", encoding="utf-8")
    with pytest.raises(ConfigError, match="no result of trials"):
        trial.main(1, tmp_path, result, resume=True)


def test_a_prefix_without_ros2_control_is_refused_before_anything_is_started(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ros2_control_node; valid: the prefix"):
        trial.main(1, tmp_path / "out", None, tmp_path)
    assert not (tmp_path / "out").exists()


def test_a_controller_that_is_deactivated_under_the_guard_leads_nowhere(tmp_path: Path) -> None:
    kept = dict(os.environ)
    try:
        row = controller_trial.strike("deactivated", 0, tmp_path, None)
    finally:
        os.environ.clear()
        os.environ.update(kept)
    assert row["reached"] and row["drove_again"] and "stands still" in row["guard"], row
    assert row["cycles"] > 5000 and row["controller"] == "own", "every cycle was written down"


@pytest.mark.skipif(not os.environ.get("ECOVLA_ROS2_CONTROL"), reason="ECOVLA_ROS2_CONTROL names no ros2_control")
@pytest.mark.parametrize("how", controller_trial.WAYS)
def test_the_same_with_the_real_controllers(how: str, tmp_path: Path) -> None:
    kept = dict(os.environ)
    try:
        row = controller_trial.strike(how, 0, tmp_path, Path(os.environ["ECOVLA_ROS2_CONTROL"]))
    finally:
        os.environ.clear()
        os.environ.update(kept)
    assert row["reached"] and row["controller"] == "ros2_control", row
