"""The demonstrations on disk as training batches: all in memory, drawn so that every task counts alike."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ecovla_ros import documents
from ecovla_ros.errors import CheckpointError
from ecovla_ros.models.data.affine import Affine, Statistics
from ecovla_ros.models.data.statistics import OtherArmUnits
from ecovla_ros.sim.libero.objects import kind
from ecovla_ros.train.libero.demos import META, SOLVED
from ecovla_ros.train.vision import jitter
from ecovla_ros.types import CAMERAS, Observation

COLUMNS = ("images", "state", "actions", "length", "tool", "taken", "goal")
LEAST_STD = 0.02
"""Smallest deviation that a number is divided by: what hardly varies must not be blown up."""
STATE_NOISE = 0.02
"""Of normalised states, so that a policy does not read its place in an episode off the last digit."""


@dataclass(frozen=True)
class TaskMeta:
    """task.json of one task's folder."""

    name: str
    instruction: str
    things: tuple[str, ...]


class LiberoData:
    """All solved demonstrations under a folder. Raises CheckpointError where there are none, or one is damaged."""

    def __init__(self, folder: Path, suites: Sequence[str]) -> None:
        metas = [m for suite in suites for m in sorted((folder / suite).glob(f"*/{META}"), key=_number)]
        self.tasks: list[TaskMeta] = []
        self.kinds: tuple[str, ...] = ()
        columns: dict[str, list[np.ndarray]] = {name: [] for name in (*COLUMNS, "task", "places")}
        self.episodes = 0
        found = []
        for path in metas:
            document = documents.read_json(path)
            meta = TaskMeta(
                f"{path.parent.parent.name}/{path.parent.name}", document["instruction"], tuple(document["things"])
            )
            episodes = sorted(path.parent.glob(f"*{SOLVED}"))
            if episodes:
                found.append((meta, episodes))
        if not found:
            raise CheckpointError(f"no LIBERO demonstrations of {', '.join(suites)} in '{folder}'")
        self.kinds = tuple(sorted({kind(t) for meta, _ in found for t in meta.things}))
        for number, (meta, episodes) in enumerate(found):
            self.tasks.append(meta)
            for episode in episodes:
                arrays = _read(episode)
                frames = len(arrays["state"])
                for name in COLUMNS:
                    columns[name].append(arrays[name])
                columns["task"].append(np.full(frames, number, np.int64))
                columns["places"].append(_by_kind(arrays["places"], meta.things, self.kinds))
            self.episodes += len(episodes)
        self.columns = {name: np.concatenate(parts) for name, parts in columns.items() if parts}
        counts = np.bincount(self.columns["task"], minlength=len(self.tasks))
        share = 1.0 / counts[self.columns["task"]]
        self.share = share / share.sum()
        """Chance of each frame (F,): every task is drawn equally often."""

    def __len__(self) -> int:
        return len(self.columns["task"])

    @property
    def instructions(self) -> tuple[str, ...]:
        """Of every task, in the order of the column `task`; two tasks may have the same."""
        return tuple(meta.instruction for meta in self.tasks)

    def units(self) -> OtherArmUnits:
        """Statistics of states and of the actions that count."""
        state, actions = self.columns["state"], self.columns["actions"]
        counts = np.arange(actions.shape[1])[None] < self.columns["length"][:, None]
        used = actions[counts]
        parts = [Affine(a.mean(0).astype(float), np.maximum(a.std(0), LEAST_STD).astype(float)) for a in (state, used)]
        source = f"{self.episodes} demonstrations"
        return OtherArmUnits(Statistics(parts[0], parts[1], "mean_std", source), actions.shape[1])

    def normalised(self, units: OtherArmUnits) -> dict[str, Tensor]:
        """State (F, 8), actions (F, H, 7) and how much each counts (F, H), float32; the task (F,)."""
        of, c = units.of, self.columns
        assert of.state is not None
        weight = np.arange(c["actions"].shape[1])[None] < c["length"][:, None]
        return {
            "state": torch.from_numpy((c["state"] - of.state.mean) / of.state.std).float(),
            "actions": torch.from_numpy((c["actions"] - of.action.mean) / of.action.std).float(),
            "weight": torch.from_numpy(weight).float(),
            "task": torch.from_numpy(c["task"]),
        }

    def columns_on(self, device: torch.device, units: OtherArmUnits) -> dict[str, Tensor]:
        """Everything that `batch` draws from, on the device that trains: `normalised`, places and pictures."""
        labels = {name: torch.from_numpy(self.columns[name]) for name in ("tool", "taken", "goal", "places", "images")}
        return {name: values.to(device) for name, values in {**self.normalised(units), **labels}.items()}

    def batch(
        self, columns: dict[str, Tensor], size: int, rng: np.random.Generator, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Frames of `columns_on`, of all tasks alike, with pictures that vary in light and colour, and states a little.

        `generator` is of the columns' device.
        """
        rows = torch.from_numpy(rng.choice(len(self), size, p=self.share)).to(generator.device)
        out = {name: values[rows] for name, values in columns.items()}
        images, state = out["images"], out["state"]
        out["images"] = jitter(images.flatten(0, 1), generator).view_as(images)
        out["state"] = state + STATE_NOISE * torch.randn(state.shape, generator=generator, device=state.device)
        return out

    def observations(self, rows: Iterable[int]) -> Iterator[Observation]:
        """Frames as a policy sees them."""
        for row in rows:
            views = {c: np.ascontiguousarray(self.columns["images"][row, i]) for i, c in enumerate(CAMERAS)}
            text = self.instructions[int(self.columns["task"][row])]
            yield Observation(0, views, np.zeros(7), 0.0, text, self.columns["state"][row].astype(float))


def _number(path: Path) -> tuple[int, str]:
    name = path.parent.name
    return (int(name), "") if name.isdigit() else (0, name)


def _read(path: Path) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in (*COLUMNS, "places")}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise CheckpointError(
            f"'{path}' is not a whole demonstration ({error}); remove it, and it is driven again"
        ) from error


def _by_kind(places: np.ndarray, things: Sequence[str], kinds: Sequence[str]) -> np.ndarray:
    """(F, N, 3) of a scene's things to (F, K, 3) by kind; NaN for kinds that are not in it, or more than once."""
    names = [kind(t) for t in things]
    out = np.full((len(places), len(kinds), 3), np.nan, np.float32)
    for column, name in enumerate(names):
        if names.count(name) == 1:
            out[:, kinds.index(name)] = places[:, column]
    return out
