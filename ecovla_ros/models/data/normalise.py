"""Between radians and the zero-mean, unit-variance numbers the model works with. numpy only.

Joint actions are relative: target minus the joints measured at the observation, for continuous joints the short way
round. The gripper is absolute, 0..1 mapped to -1..1. State is absolute: seven joints and the gripper opening 0..1.
Actions are normalised row by row: a relative target one period ahead varies far less than one a whole chunk ahead, and
the near ones, which the arm executes, must not drown in the noise of the far ones.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ecovla_ros.errors import CheckpointError, unknown
from ecovla_ros.models.data.inputs import joint_state
from ecovla_ros.types import CONTINUOUS, ActionChunk, Observation

Array = NDArray[np.float64]

STATISTICS = ("state_mean", "state_std", "action_mean", "action_std")
WIDTH = 8
"""Seven joints and the gripper."""


@dataclass(frozen=True)
class Normaliser:
    """Mean and standard deviation over the demonstrations: of the state, (8,), and of the relative actions, (H, 8)."""

    state_mean: tuple[float, ...]
    state_std: tuple[float, ...]
    action_mean: tuple[tuple[float, ...], ...]
    action_std: tuple[tuple[float, ...], ...]
    relative: bool = True
    """Whether joint actions are differences from the measured joints, or targets."""
    state_gripper: tuple[float, float] = (0.0, 1.0)
    """Raw values of an open and of a closed gripper, in the state."""
    action_gripper: tuple[float, float] = (-1.0, 1.0)
    """The same in the actions."""

    def __post_init__(self) -> None:
        """Raises CheckpointError for a statistic that is missing, not finite, or a standard deviation of zero."""
        if not isinstance(self.relative, bool):
            raise CheckpointError(f"normalisation: relative must be true or false, got {self.relative!r}")
        for name in ("state_gripper", "action_gripper"):
            object.__setattr__(self, name, ends_of(name, getattr(self, name)))
        for name in STATISTICS:
            value = getattr(self, name)
            try:
                array = np.asarray(value, dtype=np.float64)
            except (TypeError, ValueError) as error:
                raise CheckpointError(f"normalisation: {name} is not numbers: {value!r}") from error
            shape = "(H, 8)" if name.startswith("action") else "(8,)"
            if array.shape[-1:] != (WIDTH,) or array.ndim != (2 if name.startswith("action") else 1):
                raise CheckpointError(f"normalisation: {name} must have shape {shape}, got {array.shape}")
            if not np.isfinite(array).all():
                raise CheckpointError(f"normalisation: {name} is not finite")
            if name.endswith("_std") and (array <= 0.0).any():
                raise CheckpointError(f"normalisation: {name} must be positive")
            object.__setattr__(self, name, _frozen(array.tolist()))
        if np.shape(self.action_mean) != np.shape(self.action_std):
            raise CheckpointError("normalisation: action_mean and action_std differ in shape")

    @classmethod
    def fit(cls, states: ArrayLike, actions: ArrayLike) -> Normaliser:
        """Statistics of raw states (n, 8) and relative actions (n, H, 8), see `relative`. Raises CheckpointError."""
        state, action = (np.asarray(a, dtype=np.float64) for a in (states, actions))
        parts = (state.mean(0), state.std(0), action.mean(0), action.std(0))
        return cls(*(_frozen(p.tolist()) for p in parts))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Normaliser:
        """The inverse of `to_dict`. Raises CheckpointError for a missing or unknown key or a bad statistic."""
        names = [f.name for f in dataclasses.fields(cls)]
        if not isinstance(data, Mapping):
            raise CheckpointError(f"normalisation: expected a mapping of {', '.join(names)}, got {data!r}")
        for key in data:
            if key not in names:
                raise CheckpointError("normalisation: " + unknown("key", key, names))
        missing = [n for n in STATISTICS if n not in data]
        if missing:
            raise CheckpointError(f"normalisation: missing {', '.join(missing)}; needed: {', '.join(STATISTICS)}")
        return cls(**data)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {k: v if isinstance(v, bool) else np.asarray(v).tolist() for k, v in values.items()}

    @property
    def widths(self) -> tuple[int, int]:
        """Numbers of a state and of an action."""
        return WIDTH, WIDTH

    def observed(self, observation: Observation) -> Array:
        """Normalised state (8,) of an observation. Raises ObservationError: a wrong shape, NaN, infinity."""
        return self.state(*joint_state(observation))

    def chunk(self, normalised: ArrayLike, observation: Observation, period_s: float) -> ActionChunk:
        """Normalised actions (H, 8) as the answer to an observation."""
        joints, gripper = self.targets(normalised, observation.joints)
        return ActionChunk(observation.stamp_ns, period_s, joints, gripper)

    def state(self, joints: ArrayLike, gripper: ArrayLike) -> Array:
        """Joints (…, 7) rad and gripper (…) 0..1 to the normalised state (…, 8)."""
        opened, closed = self.state_gripper
        raw = raw_state(joints, opened + (closed - opened) * np.asarray(gripper, dtype=np.float64))
        return (raw - np.array(self.state_mean)) / np.array(self.state_std)

    def actions(self, joints: ArrayLike, gripper: ArrayLike, measured: ArrayLike) -> Array:
        """Targets: joints (…, h, 7) rad, gripper (…, h) 0..1; `measured` (…, 7) rad: normalised actions (…, h, 8).

        `h`: the first so many actions of a chunk, or all H.
        """
        opened, closed = self.action_gripper
        raw = relative(joints, gripper, measured)
        if not self.relative:
            raw[..., :7] += np.asarray(measured, dtype=np.float64)[..., None, :]
        raw[..., 7] = opened + (closed - opened) * np.asarray(gripper, dtype=np.float64)
        rows = raw.shape[-2]
        return (raw - np.array(self.action_mean)[:rows]) / np.array(self.action_std)[:rows]

    def targets(self, normalised: ArrayLike, measured: ArrayLike) -> tuple[Array, Array]:
        """Normalised actions (…, H, 8) to joint targets (…, H, 7) rad and gripper targets (…, H) within 0..1.

        Joint targets continue from `measured`: a continuous joint may pass pi instead of jumping to -pi.
        """
        raw = np.asarray(normalised, dtype=np.float64) * np.array(self.action_std) + np.array(self.action_mean)
        now, (opened, closed) = np.asarray(measured, dtype=np.float64)[..., None, :], self.action_gripper
        joints = now + (raw[..., :7] if self.relative else _short_way(raw[..., :7] - now))
        return joints, np.clip((raw[..., 7] - opened) / (closed - opened), 0.0, 1.0)


def raw_state(joints: ArrayLike, gripper: ArrayLike) -> Array:
    """Joints (…, 7) rad and gripper (…) 0..1 side by side, (…, 8)."""
    angles, opening = np.asarray(joints, dtype=np.float64), np.asarray(gripper, dtype=np.float64)
    return np.concatenate((angles, opening[..., None]), axis=-1)


def relative(joints: ArrayLike, gripper: ArrayLike, measured: ArrayLike) -> Array:
    """Joint targets (…, H, 7) less `measured` (…, 7), rad, and the gripper (…, H) on -1..1: raw actions (…, H, 8)."""
    difference = np.asarray(joints, dtype=np.float64) - np.asarray(measured, dtype=np.float64)[..., None, :]
    return raw_state(_short_way(difference), 2.0 * np.asarray(gripper, dtype=np.float64) - 1.0)


def _short_way(difference: Array) -> Array:
    """Differences (…, 7) rad; those of continuous joints within -pi..pi."""
    return np.where(np.array(CONTINUOUS), (difference + np.pi) % (2.0 * np.pi) - np.pi, difference)


def ends_of(name: str, value: Any) -> tuple[float, float]:
    """A gripper's values open and closed. Raises CheckpointError unless they are two different numbers."""
    ends = tuple(float(v) for v in value) if isinstance(value, (list, tuple)) else ()
    if len(ends) != 2 or not np.isfinite(ends).all() or ends[0] == ends[1]:
        raise CheckpointError(f"normalisation: {name} must be two different numbers, open and closed, got {value!r}")
    return ends[0], ends[1]


def _frozen(value: Any) -> Any:
    return tuple(_frozen(v) for v in value) if isinstance(value, list) else value
