"""`ecovla trial` kills or freezes a process, or stops a camera, in mid-motion and checks how the simulated arm comes to
rest. A frozen process (SIGSTOP) goes on later (SIGCONT), and what it does then is judged too. `controller_trial` does
the same to the controller.

It also measures how evenly the guard ticks, and the time from a picture to the command. The processes run over ROS 2
on this machine. The commands that the controller got are run again here at 1 kHz, to see every step of the motion.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ecovla_ros import documents
from ecovla_ros.bench import document
from ecovla_ros.control.limits import load
from ecovla_ros.errors import ConfigError
from ecovla_ros.nodes.ros import qos
from ecovla_ros.nodes.ros.interfaces import LatencyReport
from ecovla_ros.stage import controller_trial, mock_arm
from ecovla_ros.stage.processes import CONFIG, Stage
from ecovla_ros.wire import stamp_ns

MOVE_RAD_S = 0.15
"""The arm is in mid-motion when a joint is commanded to be faster, rad/s."""
RAMPED_S, MOVE_S, AFTER_S, THAWED_S = 2.2, 30.0, 1.6, 2.0
"""The ramp is over after the first, s; motion must come within the second; the third is watched, and the fourth after a
frozen process goes on."""
OVERHEAD = "picture to command, beside the policy call"
KILLED, FROZEN = ("policy", "guard"), ("policy", "guard", "sim")
STILL_RAD_S = 1e-4
"""A joint slower than this is at rest, rad/s."""
REST_S, JITTER_MS, SHARE, BESIDE_MS = 0.8, 5.0, 0.15, 15.0
"""What is asked for."""
SIZE_PX, PICTURE_S, OVERHEAD_S, TURNS = 224, 0.15, 14.0, 8
"""Size of a picture, time between two, time after which the arm starts anew, s (a policy that sees nothing drives it to
the edge of its box, where chunks are refused), and how often."""
DRAWN = ("sim.width=96", "sim.height=96", "sim.image_hz=6", "node.image_age_s=0.6")
"""Pictures that leave the processors to policy and guard: the simulator draws them on the same cores."""
UNDRAWN = ("control.replan_s=0.02", "sim.image_hz=1", "sim.width=32", "sim.height=32")
"""The simulator's pictures are not looked at: they are drawn after their stamp. The guard takes every chunk."""


Carry = Callable[[], dict[str, Any]]
"""Carries one trial out and says what it was like."""


def main(repeat: int, out: Path, json: Path | None, prefix: Path | None = None, resume: bool = False,
         minutes: float = math.inf) -> int:  # fmt: skip
    """Run the trials. Exit code 1 when a figure that was asked for is not reached, or not everything was run.

    `prefix`: of a ROS 2 with ros2_control, whose controllers are tried beside our own. `resume`: what `json` has
    already is not run again. `minutes`: begin nothing after so long. Raises ConfigError, EcovlaError.
    """
    if prefix is not None:
        mock_arm.real(prefix)  # what is wrong with it is said before anything is started
    out.mkdir(parents=True, exist_ok=True)
    ends_s = time.monotonic() + 60.0 * minutes
    rows = kept(json) if resume and json is not None else []
    done = {_key(row) for row in rows}
    work = todo(repeat, out, prefix)
    for key, carry in work:
        if key in done:
            continue
        if time.monotonic() > ends_s:
            break
        rows.append(carry() | {"commit": document.commit()})
        print(rows[-1], flush=True)
        if json:
            _write(json, rows + measured(rows), repeat)
    missing = len({key for key, _ in work} - {_key(row) for row in rows})
    for row in measured(rows):
        print(row)
    if missing:
        print(f"{missing} of {len(work)} trials are to be run yet; valid: the same command with --resume")
    return int(bool(missing) or not all(row["reached"] for row in rows + measured(rows)))


def todo(repeat: int, out: Path, prefix: Path | None) -> list[tuple[tuple[str, int, str], Carry]]:
    """Every trial: its key, and what carries it out."""
    struck = [*(("killed", name) for name in KILLED), ("stopped", "camera"), *(("frozen", name) for name in FROZEN)]
    work: list[tuple[tuple[str, int, str], Carry]] = [
        ((f"{what} {how}", seed, ""), partial(stop, what, how, seed, out))
        for how, what in struck
        for seed in range(repeat)
    ]
    for place in (None, prefix) if prefix else (None,):
        work += [
            ((f"controller {how}", seed, controller_trial.KINDS[place is not None]),
             partial(controller_trial.strike, how, seed, out, place))
            for how in controller_trial.WAYS for seed in range(repeat)
        ]  # fmt: skip
    return [*work, ((OVERHEAD, 0, ""), partial(overhead, out))]


def _key(row: Mapping[str, Any]) -> tuple[str, int, str]:
    return row["trial"], row.get("seed", 0), row.get("controller", "")


def measured(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Figures of the guard, the worst of all runs beside a policy."""
    beside = [row for row in rows if "guard_share" in row]
    if not beside:
        return []
    jitter, share = (max(row[key] for row in beside) for key in ("tick_jitter_p99_ms", "guard_share"))
    return [
        {"trial": "guard tick jitter while the policy runs, worst run", "p99_ms": jitter,
         "reached": jitter <= JITTER_MS},
        {"trial": "guard share of one core, worst run", "share": share, "reached": share <= SHARE},
    ]  # fmt: skip


def kept(json: Path) -> list[dict[str, Any]]:
    """Rows of trials in a result file; none where it is not there. Raises ConfigError for one that cannot be read."""
    if not json.is_file():
        return []
    try:
        rows = documents.read_json(json)["rows"]
        return [dict(row) for row in rows if "commit" in row]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{json} is no result of trials: {error}; valid: without --resume, or another file"
        ) from error


def _write(json: Path, rows: Sequence[Mapping[str, Any]], repeat: int) -> None:
    commits = sorted({row["commit"] for row in rows if "commit" in row})
    document.write(json, rows, {"repeat": repeat, "config": CONFIG}, commits=commits)


def stop(what: str, how: str, seed: int, out: Path) -> dict[str, Any]:
    """Drive, kill `what` with signal 9, freeze it, or stop passing pictures on in mid-motion, and look at the commands.

    With the simulator frozen, joint states stop, and the controller that is judged is the recorded one, which runs on.
    """
    with Stage(out, DRAWN, relayed=what == "camera") as stage:
        stage.begin("apple", seed)
        stage.arm.begin()
        used, began = stage.cpu_s("guard"), time.monotonic()
        stage.driver.spin(RAMPED_S, lambda: True)
        stage.driver.until(lambda: stage.arm.speed() > MOVE_RAD_S, MOVE_S, "motion")
        speed = stage.arm.speed()
        share = (stage.cpu_s("guard") - used) / (time.monotonic() - began)
        if how == "stopped":
            stage.passing = False
        elif how == "killed":
            stage.kill(what)
        else:
            stage.freeze(what, True)
        cycle = len(stage.arm.again().commanded()[0])
        stage.driver.spin(AFTER_S, lambda: True)
        watched = len(stage.arm.again().commanded()[0])
        if how == "frozen":
            stage.freeze(what, False)
            stage.driver.spin(THAWED_S, lambda: True)
        controller = stage.arm.again()
        velocity = controller.commanded()[1]
        moving = np.abs(velocity[cycle:watched]).max(axis=1) > STILL_RAD_S
        rest_s = 1e-3 * (int(np.flatnonzero(moving)[-1]) + 1) if moving.any() else 0.0
        limits = load("normal")
        broken = sorted(controller.violations(limits) - {"jerk"})  # said as a step: stamps and transport blur jerk
        step = float(np.abs(np.diff(velocity, 2, axis=0)).max()) * 1e3
        calm = rest_s <= REST_S and not moving[-1] and not broken and step <= limits.acceleration.min()
        return {
            "trial": f"{what} {how}", "seed": seed, "speed_rad_s": speed,
            "rest_s": rest_s, "violations": broken, "step_rad_s2": step, "guard": stage.values.get("state", ""),
            "reached": calm, "tick_jitter_p99_ms": float(stage.values.get("tick_jitter_p99_ms", "nan")),
            "guard_share": share,
        }  # fmt: skip


def overhead(out: Path) -> dict[str, Any]:
    """Two 224 px cameras of this process, the real policy and guard: picture to command without the policy call.

    The guard tells the time from the stamp of the picture that it answers to the published command, and that stamp;
    the policy tells how long its call for that picture took, and when the chunk was published: `to_policy` is all that
    comes before the chunk but the call, `to_command` what comes after it.
    """
    with Stage(out, UNDRAWN, relayed=True) as stage:
        stage.passing = False
        picture = np.full((SIZE_PX, SIZE_PX, 3), 128, np.uint8)
        policy_ms: dict[int, tuple[float, float]] = {}  # the call; from the stamp to the chunk
        whole_ms: dict[int, float] = {}

        def answered() -> None:
            stamp = int(stage.values.get("chunk_stamp_ns", 0))
            if stamp:
                whole_ms.setdefault(stamp, float(stage.values["camera_to_command_ms"]))

        def called(msg: LatencyReport) -> None:
            policy_ms[stamp_ns(msg.header.stamp)] = msg.policy_ms, msg.camera_to_chunk_ms

        stage.node.create_timer(PICTURE_S, lambda: stage.shoot(picture))
        stage.node.create_subscription(LatencyReport, "latency", called, qos.REPORT)
        stage.begin("apple", 0)
        stage.heard.append(answered)
        stage.driver.spin(OVERHEAD_S, lambda: True)
        for seed in range(1, TURNS):
            stage.driver.lay("apple", seed)
            stage.driver.enable(True)
            stage.driver.spin(OVERHEAD_S, lambda: True)
    answered_ms = [(ms, *policy_ms[stamp]) for stamp, ms in whole_ms.items() if stamp in policy_ms]
    beside = _percentiles("", [whole - call for whole, call, _ in answered_ms])
    parts = _percentiles("to_policy_", [chunk - call for _, call, chunk in answered_ms])
    parts |= _percentiles("to_command_", [whole - chunk for whole, _, chunk in answered_ms])
    p99 = beside["p99_ms"]
    return {
        "trial": OVERHEAD, "n": len(answered_ms), **beside, **parts,
        "reached": p99 is not None and p99 <= BESIDE_MS,
    }  # fmt: skip


def _percentiles(name: str, values_ms: Sequence[float]) -> dict[str, float | None]:
    found = np.percentile(values_ms, [50, 99]).tolist() if values_ms else (None, None)
    return {f"{name}p{q}_ms": value for q, value in zip((50, 99), found, strict=True)}
