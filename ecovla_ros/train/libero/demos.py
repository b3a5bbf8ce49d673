"""Demonstrations of LIBERO's tasks: the expert drives, is pushed now and then, and pictures are drawn where a policy
would look.

No demonstration begins from an initial state of the benchmark: every episode draws its own scene from the regions of
the task, so that all of the benchmark's states are left to be evaluated on. One file an episode, named by its seed:

    images   uint8   (F, 2, S, S, 3)  third_person, wrist; RGB
    state    float32 (F, 8)           tool position, axis times angle, fingers, see `sim.libero.scene`
    actions  float32 (F, H, 7)        the expert's next H actions, without what pushed it
    length   uint8   (F,)             how many of these H count: up to the next push; after success the arm stays
    places   float32 (F, N, 3)        where the scene's things are, m, in the order of task.json
    tool     float32 (F, 12)          point between the finger tips, m, and rotation matrix, row-major
    taken, goal  float32 (F, 3)       what the task takes, and where to, m

An episode that the expert did not solve leaves an empty file SEED.failed, so that it is counted and not tried again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ecovla_ros.sim.libero import objects
from ecovla_ros.sim.libero.expert import LiberoExpert, able
from ecovla_ros.sim.libero.scene import CAMERAS, STAY, LiberoScene
from ecovla_ros.sim.libero.suites import LiberoTask

FIRST_SEED = 1_000_000
"""Seed of a task's first demonstration; the benchmark's initial states use seeds below 1000."""
SOLVED, FAILED, META = ".npz", ".failed", "task.json"
LEFT_OUT = "left_out.json"
"""The expert cannot do this task, and why."""
TRIED = 10
"""A task of which the expert solved none of its first so many scenes is left out."""


@dataclass(frozen=True)
class LiberoDemos:
    """What a data set is made of."""

    size: int = 96
    """Side of the pictures, px."""
    horizon: int = 12
    every: int = 6
    """Control steps between two looks."""
    push_chance: float = 0.15
    """Chance that a push comes before a look."""
    push_steps: int = 7
    """Longest push, control steps."""
    push: float = 0.6
    """Largest part of a push along each axis, as an action."""


def collect(
    folder: Path,
    tasks: Sequence[LiberoTask],
    episodes: int,
    settings: LiberoDemos,
    report: Callable[[dict[str, Any]], None],
    stop: Callable[[], bool] = lambda: False,
    round_of: int = 5,
    part: tuple[int, int] = (0, 1),
) -> None:
    """Bring every task to `episodes` attempts under `folder`, in rounds, so that all tasks grow alike.

    `part` (i, n): of n processes this is the i-th, which has every n-th task.
    """
    for upto in range(round_of, episodes + round_of, round_of):
        for task in tasks[part[0] :: part[1]]:
            if (folder / task.name / LEFT_OUT).exists():
                continue
            todo = [s for s in seeds(min(upto, episodes)) if not _there(folder / task.name, s)]
            if todo and _hopeless(folder / task.name):
                reason = f"the expert solved none of {TRIED} scenes"
                write_json(folder / task.name / LEFT_OUT, {"cannot": reason})
                report({"task": task.name, "left_out": reason})
            elif todo and not stop():
                for row in _round(folder / task.name, task, todo, settings, stop):
                    report(row)


def seeds(count: int) -> range:
    """Seeds of a task's first `count` demonstrations."""
    return range(FIRST_SEED, FIRST_SEED + count)


def write_json(path: Path, value: Any) -> None:
    """All of it, or what was there before."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def _there(folder: Path, seed: int) -> bool:
    return any((folder / f"{seed}{end}").exists() for end in (SOLVED, FAILED))


def _hopeless(folder: Path) -> bool:
    return not any(folder.glob(f"*{SOLVED}")) and len(list(folder.glob(f"*{FAILED}"))) >= TRIED


def _round(
    folder: Path, task: LiberoTask, todo: Sequence[int], settings: LiberoDemos, stop: Callable[[], bool]
) -> Iterator[dict[str, Any]]:
    folder.mkdir(parents=True, exist_ok=True)
    scene = LiberoScene(task)
    try:
        if reason := able(scene):
            write_json(folder / LEFT_OUT, {"cannot": reason})
            yield {"task": task.name, "left_out": reason}
            return
        things = {"instruction": task.instruction, "things": objects.movable(scene), **asdict(settings)}
        write_json(folder / META, things)
        for seed in todo:
            if stop():
                return
            began = time.process_time()
            arrays = episode(scene, seed, settings)
            path = folder / f"{seed}{FAILED if arrays is None else SOLVED}"
            partial = path.with_suffix(".partial")
            with partial.open("wb") as file:
                if arrays is not None:
                    np.savez(file, **arrays)  # type: ignore[arg-type]  # its stub takes the next option to be one of them
            partial.replace(path)
            spent = time.process_time() - began
            yield {"task": task.name, "seed": seed, "solved": arrays is not None, "steps": scene.steps, "cpu_s": spent}
    finally:
        scene.close()


def episode(scene: LiberoScene, seed: int, settings: LiberoDemos) -> dict[str, np.ndarray] | None:
    """One demonstration's arrays; None where the expert did not come to the end."""
    rng = np.random.default_rng(seed)
    scene.begin(None, seed % 2**32)
    expert = LiberoExpert(scene)
    frames: list[dict[str, Any]] = []
    done, most = False, int(scene.task.max_steps * 1.3)
    actions: list[np.ndarray] = []
    while not done and scene.steps < most:
        if frames and rng.random() < settings.push_chance:
            _mark(frames, len(actions))
            done = _push(scene, expert, settings, rng)
        if not done:
            frames.append(_frame(scene, expert, settings, len(actions)))
        for _ in range(settings.every):
            if not done and scene.steps < most:
                actions.append(expert.act())
                done = scene.step(actions[-1])
    if not done:
        return None
    return _arrays(frames, actions, settings.horizon)


def _push(scene: LiberoScene, expert: LiberoExpert, settings: LiberoDemos, rng: np.random.Generator) -> bool:
    """Some steps in a direction of its own, with the gripper as the expert wants it."""
    push = rng.uniform(-settings.push, settings.push, 6) * [1, 1, 1, 0.25, 0.25, 0.5]
    done = False
    for _ in range(int(rng.integers(3, settings.push_steps + 1))):
        if not done:
            done = scene.step(np.append(0.3 * expert.act()[:6] + push, expert.gripper))
    return done


def _mark(frames: list[dict[str, Any]], count: int) -> None:
    """Actions after a push are not answers to what was seen before it."""
    for frame in frames:
        frame["end"] = min(frame["end"], count)


def _frame(scene: LiberoScene, expert: LiberoExpert, settings: LiberoDemos, at: int) -> dict[str, Any]:
    seen = scene.observe()
    size = (settings.size, settings.size)
    place, turn = scene.tool()
    return {
        "at": at,
        "end": 2**30,
        "images": np.stack([cv2.resize(seen.images[c], size, interpolation=cv2.INTER_AREA) for c in CAMERAS]),
        "state": seen.state,
        "places": np.stack([objects.position(scene, name) for name in objects.movable(scene)]),
        "tool": np.concatenate((place, turn.ravel())),
        "taken": objects.position(scene, expert.taken),
        "goal": expert.place,
    }


def _arrays(frames: Sequence[dict[str, Any]], actions: Sequence[np.ndarray], horizon: int) -> dict[str, np.ndarray]:
    padded = np.array([*actions, *[STAY] * horizon], dtype=np.float32)
    kept = [f for f in frames if min(f["end"], len(padded)) > f["at"]]
    out = {
        name: np.stack([f[name] for f in kept]).astype(np.uint8 if name == "images" else np.float32)
        for name in ("images", "state", "places", "tool", "taken", "goal")
    }
    out["actions"] = np.stack([padded[f["at"] : f["at"] + horizon] for f in kept])
    out["length"] = np.array([min(horizon, f["end"] - f["at"]) for f in kept], dtype=np.uint8)
    return out
