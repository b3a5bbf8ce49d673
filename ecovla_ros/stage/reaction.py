"""How soon a command answers a changed scene: `python -m ecovla_ros.stage.reaction --json results/reaction.json`.

First in the simulator (see `bench/success/reaction`), then between processes over ROS 2, in real time: an event changes
the light while the arm is on its way, and the guard says when it published the first trajectory that answers a picture
stamped after that. There the time counts from the asking for the event, and holds the policy's own.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ecovla_ros import config
from ecovla_ros.bench import document
from ecovla_ros.bench.success import reaction
from ecovla_ros.bench.success.trials import Trial
from ecovla_ros.errors import EcovlaError
from ecovla_ros.nodes.ros.interfaces import ApplyEvent
from ecovla_ros.sim.tasks import TASKS
from ecovla_ros.stage.processes import Stage

RAMPED_S = 2.4
"""After so long the first motion has ramped up, s."""
ANSWER_S = 2.0
"""What has not been answered after so long is not waited for, s."""
ARM_S = 10.0
"""The guard must be ready to arm within so long of a scene, s."""
CHANGES_EACH = 6
"""Changes of one scene: the arm is then still on its way."""
LEVELS = (0.55, 1.0)
"""The light's levels, in turn."""


def over_ros(react_s: float, changes: int, out: Path, seed: int) -> dict[str, Any]:
    """A row of so many changes. Raises EcovlaError where a process ends, or the guard does not arm."""
    rng, answers = np.random.default_rng(seed), list[float | None]()
    with Stage(out, (f"control.react_s={react_s}", "policy.threads=1")) as stage:
        client: Any = stage.node.create_client(ApplyEvent, "sim/event")
        commands: dict[int, int] = {}

        def published() -> None:
            stamp = int(stage.values.get("chunk_stamp_ns", 0))
            if stamp:
                commands.setdefault(stamp, stamp + round(1e6 * float(stage.values["camera_to_command_ms"])))

        stage.heard.append(published)
        stage.driver.bring_up()
        for scene in range(-(-changes // CHANGES_EACH)):
            stage.driver.lay(list(TASKS)[scene % len(TASKS)], seed + scene)
            _enable(stage)
            stage.driver.spin(RAMPED_S, lambda: True)
            for change in range(min(CHANGES_EACH, changes - len(answers))):
                stage.driver.spin(float(rng.uniform(0.5, 0.9)), lambda: True)
                began_ns = stage.now_ns()
                level = LEVELS[change % len(LEVELS)]
                asked = client.call_async(ApplyEvent.Request(kind="light_level", target="", values=[level]))
                stage.driver.until(asked.done, ANSWER_S, "an answer of the simulator")
                done_ns = stage.now_ns()
                stage.driver.spin(ANSWER_S, partial(_none_after, commands, done_ns))
                first = min((at for stamp, at in commands.items() if stamp > done_ns), default=None)
                answers.append(None if first is None else (first - began_ns) * 1e-9)
        reacted = int(stage.values.get("count_reacted", 0))
    found = [a for a in answers if a is not None]
    if not found:
        raise EcovlaError("no change was answered: see the logs of guard and policy")
    return {
        "where": "ROS 2", "react_s": react_s, "n": len(found), "not_answered": len(answers) - len(found),
        "p50_s": float(np.percentile(found, 50)), "p95_s": float(np.percentile(found, 95)), "reacted": reacted,
    }  # fmt: skip


def _enable(stage: Stage) -> None:
    """Enable once joint states and a chunk are there. Raises EcovlaError with the guard's last word."""
    end = time.monotonic() + ARM_S
    while True:
        try:
            stage.driver.enable(True)
            return
        except EcovlaError:
            if time.monotonic() > end:
                raise
            stage.driver.spin(0.5, lambda: True)


def _none_after(commands: Mapping[int, int], stamp_ns: int) -> bool:
    """Whether no command answers a picture stamped later."""
    return not any(stamp > stamp_ns for stamp in commands)


def rows_of(settings: config.Config, chosen: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of the simulator, and of ROS 2 where changes are asked for there."""
    trials = [
        Trial("ecovla", "probe", settings.prune.ratio, task, "shift", chosen.seed + i)
        for i in range(chosen.episodes)
        for task in TASKS
    ]
    found = reaction.measure(settings, trials, chosen.whole) if trials else []
    with tempfile.TemporaryDirectory() as logs:
        for react_s in reaction.REACT_S if chosen.ros else ():
            found.append(over_ros(react_s, chosen.ros, Path(logs), chosen.seed))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the rows; with --json write the document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=10, help="seeds of each task in the simulator")
    parser.add_argument("--seed", type=int, default=20000, help="of the first episode")
    parser.add_argument("--whole", action="store_true", help="drive each episode to its end, and count what is solved")
    parser.add_argument("--ros", type=int, default=24, metavar="N", help="changes over ROS 2; 0: none")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="as of every command")
    parser.add_argument("--json", type=Path, help="file to write")
    chosen = parser.parse_args(arguments)
    shipped = config.override(config.load(config.shipped("mini_sim.yaml")), **{"policy.threads": 1})
    settings = config.override_texts(shipped, chosen.set)
    rows = rows_of(settings, chosen)
    for row in rows:
        sys.stdout.write(f"{row}\n")
    if chosen.json:
        document.write(chosen.json, rows, {**vars(chosen), "json": str(chosen.json), "config": asdict(settings)})
    return 0


if __name__ == "__main__":
    sys.exit(main())
