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
A shard of recorded episodes (`import_demonstrations`) has no labels: its meta says "labels": false, classes, places and
tool are zero, and training leaves these losses out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ecovla_ros.errors import CheckpointError
from ecovla_ros.types import Demonstration, Observation

PLACES = ("apple", "banana", "bottle", "basket", "cabinet")
PERIOD_NS = 100_000_000
"""Time between two frames of an episode."""


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
        """Goes on with a shard of the same meta and capacity, and starts anew otherwise."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        fresh = json.loads(json.dumps({**meta, "capacity": capacity}))
        self._meta = {**fresh, "frames": 0, "episodes": 0, "successes": 0}
        if (folder / "meta.json").is_file():
            before = json.loads((folder / "meta.json").read_text())
            if {**before, **fresh} == before:
                self._meta = before
        mode = "r+" if self._meta["episodes"] else "w+"
        shapes = layout(len(meta["cameras"]), meta["size"], meta["horizon"])
        self._arrays = {
            name: _open(folder / f"{name}.npy", mode, dtype, (capacity, *shape))
            for name, (dtype, shape) in shapes.items()
        }

    @property
    def episodes(self) -> int:
        """Episodes it holds."""
        return int(self._meta["episodes"])

    def append(self, frames: Sequence[Mapping[str, Any]]) -> None:
        """Write one episode; without frames it is only counted, as one that failed and is not worth imitating."""
        at = self._meta["frames"]
        for name, array in self._arrays.items():
            if frames:
                array[at : at + len(frames)] = np.stack([f[name] for f in frames])
        self._meta["frames"] += len(frames)
        self._meta["episodes"] += 1
        self._meta["successes"] += bool(frames)
        self._write_meta()

    def reserve(self, frames: int) -> None:
        """Make room for so many frames more, at least doubling what there is, as files are mapped anew for it."""
        used = int(self._meta["frames"])
        if used + frames > len(self._arrays["task"]):
            self._resize(max(used + frames, 2 * used))

    def _resize(self, rows: int) -> None:
        for name in list(self._arrays):
            del self._arrays[name]  # what was written is in the file's pages before it is mapped anew
            self._arrays[name] = _resized(self._folder / f"{name}.npy", rows)

    def complete(self) -> None:
        """Nothing will be added: a later run need not write this shard again. Room that was not used is given back."""
        if self._meta["frames"] < len(self._arrays["task"]):
            self._resize(max(1, int(self._meta["frames"])))
        self._meta["complete"] = True
        self._write_meta()

    @property
    def room(self) -> int:
        """Frames that still fit."""
        return len(self._arrays["task"]) - int(self._meta["frames"])

    def _write_meta(self) -> None:
        partial = self._folder / "meta.json.partial"
        partial.write_text(json.dumps(self._meta, indent=1))
        partial.replace(self._folder / "meta.json")


def _open(path: Path, mode: str, dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
    """An array on disk: a new one, or with mode "r+" the one there is."""
    if mode == "r+":
        return np.load(path, mmap_mode="r+")
    return np.lib.format.open_memmap(path, mode=mode, dtype=dtype, shape=shape)


def _resized(path: Path, rows: int) -> np.ndarray:
    """The array of a file that is made longer, with zeros, or shorter, in place: numpy leaves room in its header."""
    old = np.load(path, mmap_mode="r")
    offset, dtype, shape = int(old.offset), old.dtype, (rows, *old.shape[1:])
    del old
    with path.open("r+b") as file:
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        if file.tell() != offset:
            raise CheckpointError(f"'{path}' cannot be made {rows} rows long in place")
        file.truncate(offset + dtype.itemsize * math.prod(shape))
    return _open(path, "r+", dtype, shape)


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
        self.labelled = True
        """Whether every shard knows classes and places."""
        same = ("cameras", "size", "horizon", "renderer", "instructions")
        for path in paths:
            meta = json.loads(path.read_text())
            odd = [k for k in same if meta[k] != self.meta[k]]
            if odd:
                raise CheckpointError(f"'{path.parent}' differs from '{paths[0].parent}' in {', '.join(odd)}")
            self.episodes += meta["successes"]
            self.labelled &= bool(meta.get("labels", True))
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

    def demonstrations(self) -> Iterator[Demonstration]:
        """Episode by episode: what was seen, and the first action of each label. Labels beyond these stay behind."""
        cameras, texts = self.meta["cameras"], self.meta["instructions"]
        for shard in self._shards:
            episode = np.asarray(shard["episode"])
            starts = np.flatnonzero(np.r_[True, np.diff(episode) != 0])
            for start, stop in zip(starts, [*starts[1:], len(episode)]):
                part = {name: array[start:stop] for name, array in shard.items()}
                seen = tuple(
                    Observation(
                        1 + i * PERIOD_NS,
                        dict(zip(cameras, part["images"][i])),
                        part["state"][i, :7].astype(float),
                        float(part["state"][i, 7]),
                        texts[int(part["task"][i])],
                    )
                    for i in range(stop - start)
                )
                yield Demonstration(seen, part["actions"][:, 0, :7], part["actions"][:, 0, 7], PERIOD_NS * 1e-9)


def import_demonstrations(folder: Path, episodes: Iterable[Demonstration], meta: Mapping[str, Any]) -> int:
    """Write recorded episodes as one shard without labels; returns how many. A folder that is complete is kept.

    `meta` as `ShardWriter` takes it. Raises CheckpointError: another period, a camera that is missing, or an
    instruction that is not among those of `meta`.
    """
    if (folder / "meta.json").is_file() and json.loads((folder / "meta.json").read_text()).get("complete"):
        return int(json.loads((folder / "meta.json").read_text())["episodes"])
    (folder / "meta.json").unlink(missing_ok=True)  # of a run that was interrupted: it would hold its episodes twice
    writer = ShardWriter(folder, 1, {**meta, "labels": False})
    try:
        for number, episode in enumerate(episodes):  # one at a time: a data set of hours does not fit into memory
            writer.reserve(len(episode.gripper))
            writer.append(list(_frames(episode, number, meta)))
    except BaseException:
        (folder / "meta.json").unlink(missing_ok=True)  # part of a source is never taken for all of it
        raise
    writer.complete()
    return writer.episodes


def _frames(episode: Demonstration, number: int, meta: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    size, horizon, texts = meta["size"], meta["horizon"], list(meta["instructions"])
    if abs(episode.period_s - PERIOD_NS * 1e-9) > 1e-6:
        needed = PERIOD_NS * 1e-9
        raise CheckpointError(f"episode {number} has a period of {episode.period_s:g} s; needed: {needed:g} s")
    for i, seen in enumerate(episode.observations):
        missing = [c for c in meta["cameras"] if c not in seen.images]
        if missing or seen.instruction not in texts:
            wrong = f"no camera {', '.join(missing)}" if missing else f"the instruction '{seen.instruction}'"
            cameras = ", ".join(meta["cameras"])
            raise CheckpointError(f"episode {number} has {wrong}; needed: cameras {cameras}; known tasks: {texts}")
        rows = np.minimum(np.arange(i, i + horizon), len(episode.gripper) - 1)  # at the end the arm stays
        empty = {n: np.zeros(shape, kind) for n, (kind, shape) in layout(len(meta["cameras"]), size, horizon).items()}
        views = [cv2.resize(seen.images[c], (size, size), interpolation=cv2.INTER_AREA) for c in meta["cameras"]]
        yield empty | {
            "images": np.stack(views),
            "state": np.append(seen.joints, seen.gripper),
            "actions": np.column_stack((episode.joints[rows], episode.gripper[rows])),
            "task": texts.index(seen.instruction),
            "episode": number,
        }
