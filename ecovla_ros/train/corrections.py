"""Corrections: the policy drives, and every frame is labelled with what the expert would do from there (DAgger).

S. Ross, G. Gordon, D. Bagnell, AISTATS 2011. In half of the episodes the expert takes the arm by turns, so that they
get far; in the others a grasp that misses has its consequences. The expert drives what is left when the policy has had
its time.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ecovla_ros.config import PruneConfig
from ecovla_ros.engine.engine import Engine
from ecovla_ros.engine.streams import Inline
from ecovla_ros.errors import EcovlaError
from ecovla_ros.models.pi import checkpoint
from ecovla_ros.sim.env import KinovaEnv
from ecovla_ros.sim.events import Event
from ecovla_ros.sim.tasks import TASKS
from ecovla_ros.sim.teacher import Teacher
from ecovla_ros.train.frames import DemoSettings, frame_of
from ecovla_ros.types import CONTINUOUS, ActionChunk, Observation

Answer = Callable[[Observation], ActionChunk]
TURN = 4
"""Periods one driver has the arm before it is drawn anew; the policy plans as often on the arm."""
POLICY_SHARES = (0.75, 1.0)
"""Of the turns before `PATIENCE`, drawn per episode: with help it gets far, alone a mistake has its consequences."""
PATIENCE = 110
"""Periods after which the expert drives alone."""
DISTURBED, MOVE_M, MOVE_TICKS = 0.35, 0.05, (50, 220)
"""Share of episodes in which the object is moved, how far on each axis, m, and when, control ticks."""


def episode(env: KinovaEnv, answer: Answer, seed: int, settings: DemoSettings) -> tuple[list[dict[str, Any]], bool]:
    """Drive one episode with the policy `answer`. Returns its frames (see train.dataset) and whether it was solved."""
    rng = np.random.default_rng(seed)
    names = list(TASKS)
    task = names[seed % len(names)]
    env.reset(task, seed, looks=bool(rng.random() < settings.looks), schedule=disturbances(rng, TASKS[task].object))
    teacher, share = Teacher(env.world), rng.choice(POLICY_SHARES)
    frames: list[dict[str, Any]] = []
    chunk: ActionChunk | None = None
    solved, left = False, settings.tail
    for period in range(settings.max_steps):
        teacher.follow()
        if teacher.lost or left == 0:
            break
        frames.append(frame_of(env, teacher, settings, names.index(task), seed))
        if period % TURN == 0:
            policy = period < PATIENCE and rng.random() < share
            chunk = _answered(env, answer) if policy else None
        if chunk is None:
            joints, gripper = frames[-1]["actions"][0, :7], float(frames[-1]["actions"][0, 7])
        else:
            joints = nearest(chunk.joints[period % TURN], env.world.commanded())
            gripper = float(chunk.gripper[period % TURN])
        solved = env.step(joints, gripper) or solved
        left -= solved
    return frames, solved


def disturbances(rng: np.random.Generator, target: str) -> list[Event]:
    """In some episodes the light changes, and the object is elsewhere before the arm has come to it."""
    if rng.random() >= DISTURBED:
        return []
    shift, at = rng.uniform(-MOVE_M, MOVE_M, 2), int(rng.integers(*MOVE_TICKS))
    return [
        Event("light_level", max(at - 40, 0), {"level": float(rng.uniform(0.5, 1.1))}),
        Event("object_move", at, {"object": target, "dx": float(shift[0]), "dy": float(shift[1]),
                                  "yaw": float(rng.uniform(-0.8, 0.8))}),
    ]  # fmt: skip


def answers(folder: Path) -> Answer:
    """The policy of a checkpoint, dense, on one thread. Raises CheckpointError."""
    torch.set_num_threads(1)
    engine = Engine(checkpoint.load(folder), PruneConfig(method="dense"), Inline())
    return lambda obs: engine.step(obs).chunk


def _answered(env: KinovaEnv, answer: Answer) -> ActionChunk | None:
    """The policy's chunk, or None where it has no answer: then the expert drives."""
    try:
        return answer(env.observe())
    except EcovlaError:
        return None


def nearest(joints: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Targets (7,), rad, with continuous joints turned to within pi of `reference` (7,)."""
    wrapped = (joints - reference + np.pi) % (2 * np.pi) - np.pi
    return np.where(CONTINUOUS, reference + wrapped, joints)
