"""Demonstrations on disk: one folder per shard of memory-mapped arrays, readable at any moment of a run.

Arrays of a shard (F frames, all of one length; rows beyond `frames` of meta.json are unused space):
    images     uint8   (F, cameras, S, S, 3)  RGB at the policy's size
    classes    uint8   (F, cameras, S/4, S/4) class of the scene at each 4 px cell (sim.render class ids)
    state      float32 (F, 8)                 measured joints, rad, and gripper 0..1
    actions    float32 (F, H, 8)              absolute joint targets, rad, and gripper: the clean expert's next H
    places     float32 (F, 5, 3)              apple, banana, bottle, basket, cabinet in base frame, m
    tool       float32 (F, 12)                tool position, m, and rotation matrix, row-major
    task       uint8   (F,)                   index into meta "instructions"
    episode    int32   (F,)                   seed of the episode
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ecovla_ros.errors import CheckpointError

PLACES = ("apple", "banana", "bottle", "basket", "cabinet")


def layout(cameras: int, size: int, horizon: int) -> dict[str, tuple[Any, tuple[int, ...]]]:
    """Array name -> (dtype, shape of one frame)."""
    return {
        "images": (np.uint8, (cameras, size, size, 3)),
        "classes": (np.uint8, (cameras, size // 4, size // 4)),
        "state": (np.float32, (8,)),
        "actions": (np.float32, (horizon, 8)),
        "places": (np.float32, (len(PLACES), 3)),
        "tool": (np.float32, (12,)),
        "task": (np.uint8, ()),
        "episode": (np.int32, ()),
    }


class ShardWriter:
    """Appends whole episodes. After each, meta.json counts the frames that are safe to read."""

    def __init__(self, folder: Path, capacity: int, meta: Mapping[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._meta = dict(meta, frames=0, episodes=0, successes=0)
        shapes = layout(len(meta["cameras"]), meta["size"], meta["horizon"])
        self._arrays = {
            name: np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=dtype, shape=(capacity, *shape))
            for name, (dtype, shape) in shapes.items()
        }

    def append(self, frames: list[Mapping[str, Any]]) -> None:
        """Write one episode; without frames it is only counted, as one that failed and is not worth imitating."""
        at = self._meta["frames"]
        for name, array in self._arrays.items():
            if frames:
                array[at : at + len(frames)] = np.stack([f[name] for f in frames])
        self._meta["frames"] += len(frames)
        self._meta["episodes"] += 1
        self._meta["successes"] += bool(frames)
        partial = self._folder / "meta.json.partial"
        partial.write_text(json.dumps(self._meta, indent=1))
        partial.replace(self._folder / "meta.json")


class Dataset:
    """All shards of a folder as one sequence of frames. Raises CheckpointError when nothing fits together."""

    def __init__(self, folder: Path) -> None:
        paths = sorted(folder.glob("shard-*/meta.json"))
        if not paths:
            raise CheckpointError(f"no demonstrations in '{folder}'; write some with: ecovla train --stage demos")
        self.meta: dict[str, Any] = json.loads(paths[0].read_text())
        self._shards: list[dict[str, np.ndarray]] = []
        self.episodes = 0
        """Demonstrations that succeeded and are in the data."""
        same = ("cameras", "size", "horizon", "renderer", "instructions")
        for path in paths:
            meta = json.loads(path.read_text())
            odd = [k for k in same if meta[k] != self.meta[k]]
            if odd:
                raise CheckpointError(f"'{path.parent}' differs from '{paths[0].parent}' in {', '.join(odd)}")
            self.episodes += meta["successes"]
            shapes = layout(len(meta["cameras"]), meta["size"], meta["horizon"])
            shard = {n: np.load(path.parent / f"{n}.npy", mmap_mode="r")[: meta["frames"]] for n in shapes}
            self._shards.append(shard)
        self.counts = [len(s["task"]) for s in self._shards]
        self._ends = np.cumsum(self.counts)

    def __len__(self) -> int:
        return sum(self.counts)

    def column(self, name: str) -> np.ndarray:
        """One array over all frames, copied into memory."""
        return np.concatenate([s[name] for s in self._shards])

    def rows(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Some frames of one array, in the order of `rows` (n,), read from disk: what several processes share."""
        shard = np.searchsorted(self._ends, rows, side="right")
        out = np.empty((len(rows), *self._shards[0][name].shape[1:]), self._shards[0][name].dtype)
        for i in np.unique(shard):
            mine = np.flatnonzero(shard == i)
            out[mine] = self._shards[i][name][rows[mine] - (self._ends[i] - self.counts[i])]
        return out
