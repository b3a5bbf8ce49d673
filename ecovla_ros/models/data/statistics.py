"""Normalisation statistics as published checkpoints carry them: openpi's, lerobot's, and Open X-Embodiment's files.

Every mode is an affine map, raw = mean + std * normalised. A quantile pair q01, q99 that maps to -1, 1 has the mean
(q01 + q99) / 2 and the deviation (q99 - q01) / 2.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from ecovla_ros.config import EmbodimentConfig
from ecovla_ros.control import delta
from ecovla_ros.errors import CheckpointError, ObservationError, unknown
from ecovla_ros.models.data import meaning
from ecovla_ros.models.data.affine import Affine, Statistics
from ecovla_ros.models.data.folder import of_weights_file
from ecovla_ros.models.data.normalise import Normaliser, ends_of
from ecovla_ros.models.data.tool_motion import TOOL_WIDTH, ToolMotion
from ecovla_ros.models.data.units import Units
from ecovla_ros.models.data.weights import read_json
from ecovla_ros.types import ActionChunk, Observation

WIDTH = 8
"""Seven joints and the gripper."""

PADDING = 1e-6
"""Mean and deviation of a dimension that is padding: zero, or what was added to every range."""

OTHER_ARM = "other"
"""What `arm` says in the statistics of a checkpoint of another arm; this arm's do not say it."""
OTHER_ARM_KEYS = ("arm", "source", "horizon", "state_mean", "state_std", "action_mean", "action_std")

MODES = {"mean_std": ("mean", "std"), "quantiles": ("q01", "q99"), "min_max": ("min", "max")}
"""How a data set was normalised -> the two statistics that say it."""


def affine(values: Any, mode: str, floor: float, where: str) -> Affine:
    """One group of statistics, a mapping of mean, std, q01, q99, min, max to lists. `floor`: added to every range.

    With `mask`, dimensions that are False are left as they are. Raises CheckpointError: missing, not finite, turned
    round.
    """
    needed = MODES[mode]
    if not isinstance(values, Mapping) or any(name not in values for name in needed):
        have = ", ".join(values) if isinstance(values, Mapping) else type(values).__name__
        raise CheckpointError(f"{where}: statistics {', '.join(needed)} are needed for mode {mode}; there are: {have}")
    first, second = (_numbers(values[name], f"{where}: {name}") for name in needed)
    if first.shape != second.shape:
        raise CheckpointError(f"{where}: {needed[0]} has {first.size} numbers, {needed[1]} {second.size}")
    if (second < (0.0 if mode == "mean_std" else first)).any():
        raise CheckpointError(f"{where}: {needed[1]} is below {'zero' if mode == 'mean_std' else needed[0]}")
    mean, std = (first, second + floor) if mode == "mean_std" else (0.0, 0.0)
    if mode != "mean_std":
        std = (second - first + floor) / 2.0
        mean = first + std
    mask = np.asarray(values.get("mask", np.ones(first.shape, bool)), dtype=bool)
    return Affine(np.where(mask, mean, 0.0), np.where(mask, std, 1.0))


def of_openpi(folder: Path, name: str, mode: str) -> Statistics:
    """assets/NAME/norm_stats.json, or norm_stats.json in the folder. Raises CheckpointError listing what there is."""
    here = folder / "norm_stats.json"
    found = (
        {"": here}
        if here.is_file()
        else {
            str(p.parent.relative_to(folder / "assets")): p
            for p in sorted((folder / "assets").rglob("norm_stats.json"))
        }
    )
    path = _choose(found, name, f"'{folder}' has no norm_stats.json, in it or under assets/")
    document = read_json(path)
    stats = document.get("norm_stats", document) if isinstance(document, dict) else {}
    for key in ("state", "actions"):
        if key not in stats:
            raise CheckpointError(f"'{path}' has no statistics of '{key}'; it has {', '.join(stats) or 'none'}")
    state, action = (affine(stats[k], mode, 1e-6, f"'{path}': {k}") for k in ("state", "actions"))
    return Statistics(state, action, mode, str(path))


def of_lerobot(folder: Path, modes: Mapping[str, Any]) -> Statistics:
    """The normaliser step beside policy_preprocessor.json. `modes`: normalization_mapping of config.json."""
    paths = sorted(folder.glob("policy_preprocessor_step_*_normalizer_processor.safetensors"))
    if len(paths) != 1:
        raise CheckpointError(
            f"'{folder}' must hold one policy_preprocessor_step_*_normalizer_processor.safetensors; found {len(paths)}"
        )
    try:
        flat = load_file(paths[0])
    except (SafetensorError, OSError) as error:
        if why := of_weights_file(paths[0]):
            raise CheckpointError(f"'{paths[0]}' {why}") from error
        raise CheckpointError(f"'{paths[0]}' is not a complete safetensors file: {error}") from error
    out = []
    for key, kind in (("observation.state", "STATE"), ("action", "ACTION")):
        mode = {"MEAN_STD": "mean_std", "QUANTILES": "quantiles", "MIN_MAX": "min_max"}.get(str(modes.get(kind)))
        if mode is None:
            raise CheckpointError(
                f"'{folder}': normalization_mapping of {kind}: {modes.get(kind)!r}; valid: MEAN_STD, QUANTILES, MIN_MAX"
            )
        values = {name.removeprefix(key + "."): v for name, v in flat.items() if name.startswith(key + ".")}
        if not values:
            raise CheckpointError(f"'{paths[0]}' has no statistics of '{key}'; it has {', '.join(sorted(flat))}")
        out.append((affine(values, mode, 1e-8, f"'{paths[0]}': {key}"), mode))
    return Statistics(out[0][0], out[1][0], out[1][1], str(paths[0]))


def of_data_sets(path: Path, table: Any, name: str, mode: str, floor: float, with_state: bool) -> Statistics:
    """dataset_statistics.json, or norm_stats of config.json: data set -> action, proprio. `name`: its unnorm_key."""
    if not isinstance(table, Mapping) or not table:
        raise CheckpointError(f"'{path}' holds no statistics of any data set")
    key = _choose({str(k): k for k in table}, name, f"'{path}' holds no statistics")
    entry = table[key]
    if not isinstance(entry, Mapping) or "action" not in entry or (with_state and "proprio" not in entry):
        raise CheckpointError(f"'{path}': '{key}' lacks statistics of action" + (" or proprio" if with_state else ""))
    state = affine(entry["proprio"], mode, floor, f"'{path}': {key}.proprio") if with_state else None
    return Statistics(state, affine(entry["action"], mode, floor, f"'{path}': {key}.action"), mode, str(path))


@dataclass(frozen=True)
class OtherArmUnits:
    """Of another arm: states come, and actions go, in the units of its data (`Units`)."""

    of: Statistics
    horizon: int

    @classmethod
    def from_dict(cls, data: Any) -> OtherArmUnits:
        """The inverse of `to_dict`. Raises CheckpointError for a key that is missing or unknown, or a bad statistic."""
        if not isinstance(data, Mapping) or set(data) != set(OTHER_ARM_KEYS):
            have = ", ".join(map(str, data)) if isinstance(data, Mapping) else type(data).__name__
            raise CheckpointError(
                f"normalisation of another arm: needed {', '.join(OTHER_ARM_KEYS)}; there are: {have}"
            )
        state, action = (
            affine(
                {"mean": data[f"{name}_mean"], "std": data[f"{name}_std"]}, "mean_std", 0.0, f"normalisation: {name}"
            )
            for name in ("state", "action")
        )
        if (state.std <= 0.0).any() or (action.std <= 0.0).any():
            raise CheckpointError("normalisation: standard deviations must be positive")
        horizon = data["horizon"]
        if not isinstance(horizon, int) or isinstance(horizon, bool) or horizon < 1:
            raise CheckpointError(f"normalisation: horizon must be a number of actions, got {horizon!r}")
        return cls(Statistics(state, action, "mean_std", str(data["source"])), horizon)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON. Raises CheckpointError for a model without a state."""
        if self.of.state is None:
            raise CheckpointError("normalisation of another arm: this format needs statistics of the state")
        pairs = (("state", self.of.state), ("action", self.of.action))
        numbers = {f"{n}_{part}": getattr(a, part).tolist() for n, a in pairs for part in ("mean", "std")}
        return {"arm": OTHER_ARM, "source": self.of.source, "horizon": self.horizon, **numbers}

    @property
    def widths(self) -> tuple[int, int]:
        """Numbers of a state and of an action."""
        return 0 if self.of.state is None else self.of.state.mean.size, self.of.action.mean.size

    @property
    def action_mean(self) -> tuple[tuple[float, ...], ...]:
        """One row for each action."""
        return (tuple(self.of.action.mean.tolist()),) * self.horizon

    def observed(self, observation: Observation) -> NDArray[np.float64]:
        """Normalised state (D,). Raises ObservationError: none, of another width, NaN, infinity."""
        if self.of.state is None:
            return np.zeros(0)
        width = self.widths[0]
        raw = np.asarray(() if observation.state is None else observation.state, dtype=np.float64)
        if raw.shape != (width,) or not np.isfinite(raw).all():
            raise ObservationError(f"the state must be {width} finite numbers, got shape {raw.shape}")
        return (raw - self.of.state.mean) / self.of.state.std

    def chunk(self, normalised: Any, observation: Observation, period_s: float) -> ActionChunk:
        """Normalised actions (H, D) as `raw`; joints are zero, or NaN where an action is not finite."""
        raw = np.asarray(normalised, dtype=np.float64) * self.of.action.std + self.of.action.mean
        none = np.where(np.isfinite(raw).all(1), 0.0, np.nan)
        return ActionChunk(observation.stamp_ns, period_s, np.repeat(none[:, None], 7, 1), none, raw)


def normaliser(of: Statistics, horizon: int, embodiment: EmbodimentConfig) -> Units:
    """For seven joints and the gripper, or for another arm. Raises CheckpointError where the data do not fit."""
    if embodiment.other:
        return OtherArmUnits(of, horizon)
    frame = embodiment.actions.removeprefix("delta_")
    moves = frame in delta.FRAMES
    joints = f"{WIDTH}: seven joints, the gripper"
    motion = f"{TOOL_WIDTH}: translation, rotation vector, gripper"
    of = dataclasses.replace(
        of, state=of.state and _unpadded(of.state, WIDTH), action=_unpadded(of.action, TOOL_WIDTH if moves else WIDTH)
    )
    for what, values, needed in (("state", of.state, joints), ("actions", of.action, motion if moves else joints)):
        if values is not None and values.mean.shape != (int(needed.partition(":")[0]),):
            raise CheckpointError(
                f"{of.source}: {what} of {values.mean.size} dimensions; this arm has {needed} "
                f"(policy.embodiment.actions={embodiment.actions})"
            )
    if moves:
        meaning.check_motion(of)
        return ToolMotion(of, horizon, ends_of("gripper", embodiment.gripper), frame)
    state = of.state or Affine(np.zeros(WIDTH), np.ones(WIDTH))
    ends = ends_of("gripper", embodiment.gripper)
    meaning.check_joints(of, embodiment.actions == "relative", ends)
    row, spread = tuple(of.action.mean.tolist()), tuple(of.action.std.tolist())
    return Normaliser(
        tuple(state.mean.tolist()), tuple(state.std.tolist()), (row,) * horizon, (spread,) * horizon,
        embodiment.actions == "relative", ends, ends,
    )  # fmt: skip


def _unpadded(values: Affine, width: int) -> Affine:
    """Without the zeros that some trainers append up to the width of the model: they stand for nothing."""
    mean, std = values.mean[width:], values.std[width:]
    empty = (np.abs(mean) <= PADDING).all() and ((std <= PADDING) | (std == 1.0)).all()
    return Affine(values.mean[:width], values.std[:width]) if mean.size and empty else values


def _choose(found: Mapping[str, Any], name: str, nothing: str) -> Any:
    if not found:
        raise CheckpointError(f"{nothing}: without statistics of its training data a checkpoint drives nothing")
    if name:
        if name not in found:
            raise CheckpointError(unknown("statistics (policy.embodiment.statistics)", name, found))
        return found[name]
    if len(found) > 1:
        raise CheckpointError(f"statistics of several data sets: {', '.join(found)}; set policy.embodiment.statistics")
    return next(iter(found.values()))


def _numbers(value: Any, where: str) -> NDArray[np.float64]:
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{where} is not numbers") from error
    if array.ndim != 1 or not array.size or not np.isfinite(array).all():
        raise CheckpointError(f"{where} must be finite numbers in one row, got shape {array.shape}")
    return array
