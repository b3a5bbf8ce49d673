"""Attacks on who owns the arm, each against a guard that is a process of its own, and how each was met."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from ecovla_ros import wire
from ecovla_ros.nodes.ros import qos
from ecovla_ros.nodes.ros.interfaces import ActionChunk as ChunkMessage
from ecovla_ros.stage import children
from ecovla_ros.stage.children import Child
from ecovla_ros.stage.fuzz_guard import GuardRange
from ecovla_ros.stage.fuzz_range import START_RAD, Row
from ecovla_ros.types import ActionChunk, ArmState, Trajectory

ATTACK_S = 3.0
"""How long each attack lasts, s."""
AWAY_RAD = 0.15
"""Where an attacker wants the arm, rad from where it stands."""
MOVING = ("RUNNING", "ARMED", "DEGRADED")
"""States in which the guard follows its policy."""
TOPIC = "joint_trajectory_controller/joint_trajectory"


class Attacked:
    """A guard that is enabled and follows its policy, and an attacker: another node, with publishers of its own."""

    def __init__(self, out: Path, **parameters: Any) -> None:
        self.range = GuardRange(out, **parameters)
        self.attacker = rclpy.create_node("attacker")
        self.sent: list[tuple[bytes, JointTrajectory]] = []
        self.range.node.create_subscription(JointTrajectory, TOPIC, self._on_command, qos.SENSOR)

    def __enter__(self) -> Attacked:
        self.range.__enter__()
        return self

    def __exit__(self, *arguments: object) -> None:
        self.attacker.destroy_node()
        self.range.__exit__(*arguments)

    def _on_command(self, msg: JointTrajectory, info: Any) -> None:
        self.sent.append((bytes(info["publisher_gid"]["data"]), msg))

    def enable(self) -> Any:
        """Ask for it."""
        return self.range.call(SetBool, "guard/enable", SetBool.Request(data=True))

    def driven(self) -> None:
        """Enabled, with a chunk of its policy under way."""
        self.range.until(lambda: getattr(self.enable(), "success", False))
        for _ in range(10):
            self.range.publishers["action_chunk"].publish(self.range.chunk())
            self.range.spin(0.1)

    def attack(self, strike: Callable[[], None], every_s: float = 0.02) -> None:
        """Strike again and again while the policy goes on."""
        end, next_s = time.monotonic() + ATTACK_S, 0.0
        while time.monotonic() < end:
            strike()
            if time.monotonic() >= next_s:
                self.range.publishers["action_chunk"].publish(self.range.chunk())
                next_s = time.monotonic() + 0.1
            self.range.spin(every_s)

    def moved_rad(self) -> float:
        """How far the guard's own commands lead from where the arm stands, rad."""
        ends = self.range.node.get_publishers_info_by_topic(TOPIC)
        own = {bytes(end.endpoint_gid) for end in ends if end.node_name == "guard"}
        far = [np.abs(wire.trajectory(msg).positions - START_RAD).max() for gid, msg in self.sent if gid in own]
        return float(max(far, default=0.0))

    @property
    def says(self) -> str:
        """What the guard says."""
        return f"{self.range.values.get('state', '')}: {self.range.values.get('message', '')}"


def attacks(out: Path) -> list[Row]:
    """Every attack, one row each."""
    tried = (chunks, chunks_first, commands, waiting_commander, second_guard, states, releases, silent_button)
    return [attack(out) for attack in tried]


def chunks(out: Path) -> Row:
    """A second publisher of chunks."""
    with Attacked(out) as it:
        it.driven()
        away = it.attacker.create_publisher(ChunkMessage, "action_chunk", qos.COMMAND)
        it.attack(lambda: away.publish(_away_chunk(it.range.now_ns())))
        met = "/attacker" in it.says and it.range.values["state"] in MOVING
        return _row("chunks of a second publisher, 50 a second, while the first goes on", it, met)


def chunks_first(out: Path) -> Row:
    """An attacker that was first, where the guard was told whom to hear."""
    with Attacked(out, chunks_from="/range") as it:
        away = it.attacker.create_publisher(ChunkMessage, "action_chunk", qos.COMMAND)
        for _ in range(20):
            away.publish(_away_chunk(it.range.now_ns()))
            it.range.spin(0.02)
        it.driven()
        it.attack(lambda: away.publish(_away_chunk(it.range.now_ns())))
        met = it.range.values["chunks_from"] == "/range" and it.range.values["state"] in (
            "RUNNING",
            "ARMED",
            "DEGRADED",
        )
        return _row("chunks of a publisher that came first, with `chunks_from` set to the policy", it, met)


def commands(out: Path) -> Row:
    """A trajectory past the guard."""
    with Attacked(out) as it:
        it.driven()
        past = it.attacker.create_publisher(JointTrajectory, TOPIC, qos.COMMAND)
        it.attack(lambda: past.publish(_away_trajectory()), 0.2)
        met = it.range.values["state"] == "LATCHED" and "/attacker commands the arm" in it.says
        return _row("trajectories straight to the controller, while the guard is enabled", it, met)


def waiting_commander(out: Path) -> Row:
    """Somebody who could command, before the guard is enabled."""
    with Attacked(out) as it:
        past = it.attacker.create_publisher(JointTrajectory, TOPIC, qos.COMMAND)
        it.range.until(past.get_subscription_count)
        it.range.spin(1.0)
        answer = it.enable()
        met = answer is not None and not answer.success and "/attacker" in answer.message
        return _row("another publisher on the controller's topic before enable", it, met, answer.message)


def second_guard(out: Path) -> Row:
    """Another guard on the same controller."""
    with Attacked(out) as it:
        it.driven()
        second = Child("guard", {"config": "mini_sim.yaml", "gripper": "none"}, children.environment(
            int(os.environ["ROS_DOMAIN_ID"]), out), out / "second.log")  # fmt: skip
        ended = it.range.until(lambda: second.ended, 15.0)
        code = second.stop()
        met = ended and code != 0 and "is a guard on" in second.last_words()
        said = next((line for line in second.last_words().splitlines() if "is a guard on" in line), "")
        return _row("a second guard on the same controller", it, met, said.partition("]: ")[2] or f"exit code {code}")


def states(out: Path) -> Row:
    """Joint states of somebody else."""
    with Attacked(out) as it:
        it.driven()
        ghost = it.attacker.create_publisher(JointState, "joint_states", qos.COMMAND)
        elsewhere = ArmState(0, np.full(7, START_RAD + 1.0), np.zeros(7), 0.5)
        it.attack(lambda: ghost.publish(wire.fill_joint_state(JointState(), elsewhere, it.range.now_ns())))
        met = "/attacker" in it.says and it.range.values["state"] in MOVING
        return _row("joint states of a second publisher, 1 rad away", it, met)


def releases(out: Path) -> Row:
    """Somebody else releases the e-stop."""
    with Attacked(out) as it:
        it.driven()
        crowd = it.attacker.create_publisher(Bool, "estop", qos.COMMAND)
        it.range.publishers["estop"].publish(Bool(data=True))
        it.attack(lambda: crowd.publish(Bool(data=False)), 0.005)
        answer = it.range.call(Trigger, "guard/reset", Trigger.Request())
        met = it.range.values["state"] == "LATCHED" and answer is not None and not answer.success
        return _row("another publisher says that the pressed e-stop is released, 200 times a second", it, met)


def silent_button(out: Path) -> Row:
    """The button's cable is cut."""
    with Attacked(out, more=("control.estop_timeout_s=0.5",)) as it:
        beat = it.range.node.create_timer(0.05, lambda: it.range.publishers["estop"].publish(Bool(data=False)))
        it.driven()
        it.range.node.destroy_timer(beat)
        it.attack(lambda: None)
        met = it.range.values["state"] == "LATCHED" and "has said nothing" in it.says
        return _row("the e-stop falls silent, with `control.estop_timeout_s` 0.5", it, met)


def _row(what: str, it: Attacked, met: bool, said: str = "") -> Row:
    moved = it.moved_rad()
    alive = it.range.alive
    return {"node": "guard", "topic": what, "said": (said or it.says)[:300], "moved_rad": round(moved, 4),
            "ends": int(not alive), "reached": bool(met and alive and moved < 0.01)}  # fmt: skip


def _away_chunk(now_ns: int) -> ChunkMessage:
    rows = np.tile(np.linspace(START_RAD, START_RAD + AWAY_RAD, 8)[:, None], (1, 7))
    return wire.fill_chunk(ChunkMessage(), ActionChunk(now_ns, 0.1, rows, np.zeros(8)))


def _away_trajectory() -> JointTrajectory:
    there = Trajectory(np.array([2.0]), np.full((1, 7), START_RAD + AWAY_RAD))
    return wire.fill_trajectory(JointTrajectory(), there, JointTrajectoryPoint)
