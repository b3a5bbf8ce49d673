"""Normalisation for policies whose actions are small motions of the tool (7-D, as of OpenVLA and CogACT)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecovla_ros.control import delta
from ecovla_ros.models.data.affine import Statistics
from ecovla_ros.models.data.inputs import joint_state
from ecovla_ros.models.data.normalise import WIDTH, raw_state
from ecovla_ros.types import ActionChunk, Observation

TOOL_WIDTH = 7
"""Translation, rotation vector, gripper."""


@dataclass(frozen=True)
class ToolMotion:
    """For actions that are small motions of the tool: translation (m), rotation vector (rad), gripper.

    These are `Units`; `control.delta` makes joint targets of the motions.
    """

    of: Statistics
    horizon: int
    gripper: tuple[float, float]
    """The data's values of an open and of a closed gripper."""
    frame: str
    """Whose axes the motions are along, one of `control.delta.FRAMES`."""

    @property
    def widths(self) -> tuple[int, int]:
        """Numbers of a state and of an action."""
        return 0 if self.of.state is None else WIDTH, TOOL_WIDTH

    @property
    def state_mean(self) -> NDArray[np.float64]:
        """Of the joints and the gripper; empty where the model takes no state."""
        return np.zeros(0) if self.of.state is None else self.of.state.mean

    @property
    def state_std(self) -> NDArray[np.float64]:
        """As `state_mean`."""
        return np.zeros(0) if self.of.state is None else self.of.state.std

    @property
    def action_mean(self) -> tuple[tuple[float, ...], ...]:
        """One row for each action."""
        return (tuple(self.of.action.mean.tolist()),) * self.horizon

    @property
    def action_std(self) -> tuple[tuple[float, ...], ...]:
        """One row for each action."""
        return (tuple(self.of.action.std.tolist()),) * self.horizon

    def observed(self, observation: Observation) -> NDArray[np.float64]:
        """Normalised state (8,), or (0,) for a model without. Raises ObservationError: a wrong shape, NaN, infinity."""
        joints, gripper = joint_state(observation)
        if self.of.state is None:
            return np.zeros(0)
        opened, closed = self.gripper
        return (raw_state(joints, opened + (closed - opened) * gripper) - self.of.state.mean) / self.of.state.std

    def chunk(self, normalised: Any, observation: Observation, period_s: float) -> ActionChunk:
        """Normalised actions (H, 7) to joint targets from the observed joints on. NaN stays NaN: the guard latches."""
        rows = np.asarray(normalised, dtype=np.float64) * self.of.action.std + self.of.action.mean
        if not np.isfinite(rows).all():
            none = np.full((len(rows), 7), np.nan)
            return ActionChunk(observation.stamp_ns, period_s, none, none[:, 0])
        opened, closed = self.gripper
        rows[:, 6] = (rows[:, 6] - opened) / (closed - opened)
        return delta.chunk(observation.stamp_ns, period_s, rows, observation.joints, self.frame)
