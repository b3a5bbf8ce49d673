"""The policy on another machine than the guard, with two network namespaces for the machines: `ecovla trial --link`.

The arm's side holds simulator, guard and this process; the far side holds the policy alone. Between them is one cable,
a pair of virtual network cards, which is unplugged in mid-motion. Only the kernel's network is another: processors,
memory and clock are those of this machine, so that nothing is said of clocks that differ. Needs root and iproute2.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ecovla_ros import config
from ecovla_ros.bench import document
from ecovla_ros.control.limits import load
from ecovla_ros.errors import ConfigError
from ecovla_ros.nodes.ros import qos
from ecovla_ros.nodes.ros.interfaces import LatencyReport
from ecovla_ros.stage.processes import CONFIG, Far, Stage

ARM, FAR = "ecovla-arm", "ecovla-far"
CARDS = {ARM: "ecovla0", FAR: "ecovla1"}
ADDRESSES = {ARM: "10.77.45.1/24", FAR: "10.77.45.2/24"}
CLONE_NEWNET = 0x40000000
"""setns(2)."""
CUTS_S = (0.05, 0.5, 5.0)
"""How long the cable is unplugged, s."""
MOVE_RAD_S, MOVE_S = 0.15, 30.0
RAMPED_S, STEADY_S, AFTER_S, BACK_S = 2.2, 8.0, 1.6, 10.0
"""The ramp is over; latency is measured; a cut is watched at least so long; motion is back so long after it, s."""
STILL_RAD_S = 1e-4
REST_S = 0.8
"""A joint slower than this is at rest, rad/s; the arm must be within so long after chunks stop, s."""
DRAWN = ("sim.width=96", "sim.height=96", "sim.image_hz=6", "node.image_age_s=0.6")
"""Pictures that leave the processors to policy and guard: the simulator draws them on the same cores."""


def main(repeat: int, out: Path, json: Path | None) -> int:
    """Run the trials. Exit code 1 when something was not reached. Raises ConfigError without root or iproute2."""
    out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    with cable() as far:  # from the first participant on: Fast DDS looks at a process's network cards once
        for where in (None, far):
            rows.append(steady(out, where))
            print(rows[-1], flush=True)
        for cut_s in CUTS_S:
            for seed in range(repeat):
                rows.append(unplugged(cut_s, seed, out, far))
                print(rows[-1], flush=True)
    if json:
        document.write(json, rows, {"repeat": repeat, "config": CONFIG, "simulated": "two network namespaces"})
    return int(not all(row["reached"] for row in rows))


@contextlib.contextmanager
def cable() -> Iterator[Far]:
    """Two namespaces with a cable between them; this process is in the arm's meanwhile."""
    if os.geteuid() != 0:
        raise ConfigError("--link makes network namespaces, which needs root")
    with open("/proc/self/ns/net", "rb") as before:
        try:
            for name in (ARM, FAR):
                _ip("netns", "add", name)
            _ip("link", "add", CARDS[ARM], "netns", ARM, "type", "veth", "peer", "name", CARDS[FAR], "netns", FAR)
            for name in (ARM, FAR):
                _ip("-n", name, "addr", "add", ADDRESSES[name], "dev", CARDS[name])
                _ip("-n", name, "link", "set", "lo", "up")
                _plug(name, True)
            with open(f"/run/netns/{ARM}", "rb") as arm:
                _enter(arm.fileno())
            profile = str(config.shipped("fastdds_link.xml"))
            yield Far(("ip", "netns", "exec", FAR), profile)
        finally:
            _enter(before.fileno())
            for name in (ARM, FAR):
                subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def steady(out: Path, far: Far | None) -> dict[str, Any]:
    """Latency and traffic of a motion; without `far` all on one machine, with compressed pictures too."""
    with Stage(out, DRAWN, relayed=True, compressed=True, far=far) as stage:
        chunk_ms, policy_ms, arrived = [], [], {}

        def called(msg: LatencyReport) -> None:
            chunk_ms.append(msg.camera_to_chunk_ms - msg.policy_ms)
            policy_ms.append(msg.policy_ms)

        def answered() -> None:
            arrived[stage.values.get("chunk_stamp_ns")] = float(stage.values.get("camera_to_command_ms", "nan"))

        stage.node.create_subscription(LatencyReport, "latency", called, qos.REPORT)
        stage.begin("apple", 0)
        stage.heard.append(answered)
        stage.driver.spin(RAMPED_S, lambda: True)
        for kept in (chunk_ms, policy_ms):
            kept.clear()
        arrived.clear()
        bytes_before, began = _traffic() if far else (0, 0), time.monotonic()
        stage.driver.spin(STEADY_S, lambda: True)
        passed = time.monotonic() - began
        sent, came = (after - before for after, before in zip(_traffic() if far else (0, 0), bytes_before))
        command = [ms for ms in arrived.values() if np.isfinite(ms)]
    return {
        "trial": "apart, plugged" if far else "one machine", "frames": len(chunk_ms),
        "camera_to_command_p50_ms": _p(command, 50), "camera_to_command_p99_ms": _p(command, 99),
        "beside_policy_p50_ms": _p(chunk_ms, 50), "policy_p50_ms": _p(policy_ms, 50),
        "to_policy_mbit_s": 8e-6 * sent / passed if far else None,
        "to_arm_mbit_s": 8e-6 * came / passed if far else None,
        "pictures": f"2 x {stage.picture_text}, JPEG", "reached": bool(command),
    }  # fmt: skip


def unplugged(cut_s: float, seed: int, out: Path, far: Far) -> dict[str, Any]:
    """The cable is out for so long in mid-motion."""
    with Stage(out, DRAWN, relayed=True, compressed=True, far=far) as stage:
        states: list[tuple[float, str]] = []

        def told() -> None:
            state = stage.values.get("state", "")
            if not states or states[-1][1] != state:
                states.append((time.monotonic(), state))

        stage.begin("apple", seed)
        stage.arm.begin()
        stage.driver.spin(RAMPED_S, lambda: True)
        stage.driver.until(lambda: stage.arm.speed() > MOVE_RAD_S, MOVE_S, "motion")
        stage.heard.append(told)
        told()
        cycle = len(stage.arm.again().commanded()[0])
        began = time.monotonic()
        _plug(ARM, False)
        stage.driver.spin(cut_s, lambda: True)
        _plug(ARM, True)
        back = time.monotonic()
        watched = len(stage.arm.again().commanded()[0])
        rested = len(states) > 1 and states[-1][1] != "RUNNING"
        stage.driver.spin(max(AFTER_S - cut_s, 0.5), lambda: True)
        again_s = None
        with contextlib.suppress(TimeoutError):
            again_s = _again(stage, back)
        controller = stage.arm.again()
        _, velocity, *_ = controller.commanded()
        limits = load("normal")
        broken = sorted(controller.violations(limits) - {"jerk"})
        moving = np.abs(velocity[cycle:watched]).max(axis=1) > STILL_RAD_S
        rest_s = 1e-3 * (int(np.flatnonzero(moving)[-1]) + 1) if moving.any() else 0.0
        at_rest = not moving[-1] if len(moving) else False
        seen = [state for at, state in states if at >= began]
    stops = cut_s >= REST_S
    return {
        "trial": "unplugged", "cut_s": cut_s, "really_s": back - began, "seed": seed, "states": seen,
        "rest_s": rest_s if at_rest else None, "violations": broken, "running_again_s": again_s, "degraded": rested,
        "reached": not broken and again_s is not None and (not stops or (at_rest and rest_s <= REST_S)),
    }  # fmt: skip


def _again(stage: Stage, back: float) -> float:
    """Seconds from the cable to a guard that runs and has a new chunk. Raises TimeoutError."""
    first = int(stage.values.get("chunks_answered", 0))
    until = time.monotonic() + BACK_S
    while time.monotonic() < until:
        stage.driver.spin(0.1, lambda: True)
        if stage.values.get("state") == "RUNNING" and int(stage.values.get("chunks_answered", 0)) > first:
            return time.monotonic() - back
    raise TimeoutError


def _ip(*arguments: str) -> str:
    """Run ip(8). Raises ConfigError with what it said."""
    try:
        run = subprocess.run(["ip", *arguments], capture_output=True, text=True, timeout=10)
    except OSError as error:
        raise ConfigError(f"--link needs ip of iproute2, which does not run: {error}") from error
    if run.returncode:
        raise ConfigError(f"ip {' '.join(arguments)}: {run.stderr.strip()}")
    return run.stdout


def _plug(name: str, plugged: bool) -> None:
    """The cable's end at a machine. Its routes go with it: multicast, by which nodes find each other, needs one."""
    _ip("-n", name, "link", "set", CARDS[name], "up" if plugged else "down")
    if plugged:
        _ip("-n", name, "route", "replace", "default", "dev", CARDS[name])


def _enter(namespace: int) -> None:
    """This thread, and what it starts, are in a network namespace from now on. Raises ConfigError."""
    if ctypes.CDLL(None, use_errno=True).setns(namespace, CLONE_NEWNET):
        raise ConfigError(f"cannot enter a network namespace: {os.strerror(ctypes.get_errno())}")


def _traffic() -> tuple[int, int]:
    """Bytes that the arm's side has sent and got over the cable, with the headers of all layers."""
    told = json.loads(_ip("-n", ARM, "-s", "-j", "link", "show", CARDS[ARM]))[0]["stats64"]
    return int(told["tx"]["bytes"]), int(told["rx"]["bytes"])


def _p(values: list[float], percentile: float) -> float | None:
    return float(np.percentile(values, percentile)) if values else None
