"""The values that packages hand to each other: frozen, in SI units, radians and nanosecond stamps. Needs only numpy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
"""An array of numbers: joints, times, points."""
Pixels = NDArray[np.uint8]
"""An image, RGB, (H, W, 3)."""

JOINTS: tuple[str, ...] = tuple(f"joint_{i}" for i in range(1, 8))
"""Arm joint names in the order of every (7,) array of this package."""

CONTINUOUS: tuple[bool, ...] = (True, False, True, False, True, False, True)
"""Which arm joints turn without end (reported in [-pi, pi])."""

GRIPPER_JOINT = "robotiq_85_left_knuckle_joint"
"""Gripper joint of the 2F-85: 0 rad open, `GRIPPER_CLOSED_RAD` closed."""

GRIPPER_CLOSED_RAD = 0.8


@dataclass(frozen=True)
class ArmJoints:
    """What the joints are called on the topics, and where the gripper is closed; set by `config.ArmConfig`."""

    arm: tuple[str, ...] = JOINTS
    """Seven names, in the order of `JOINTS`."""
    gripper: str = GRIPPER_JOINT
    """Empty: there is no gripper; it then counts as open."""
    closed_rad: float = GRIPPER_CLOSED_RAD
    """Position of a closed gripper, rad; open is 0."""

    @property
    def wanted(self) -> tuple[str, ...]:
        """Every joint that a whole joint state names: the arm's, then the gripper's if there is one."""
        return (*self.arm, self.gripper) if self.gripper else self.arm

    def plain(self, names: Iterable[str]) -> list[str]:
        """The same names with the arm's own as this package calls them (`JOINTS`); foreign ones stay as they are."""
        known = dict(zip(self.arm, JOINTS))
        return [known.get(name, name) for name in names]


GEN3 = ArmJoints()
"""As ros2_kortex calls them without a prefix."""


CAMERAS: tuple[str, ...] = ("third_person", "wrist")


@dataclass(frozen=True)
class Observation:
    """What the policy sees at one instant."""

    stamp_ns: int
    """Stamp of the newest image, nanoseconds of the ROS clock."""
    images: Mapping[str, Pixels]
    """Camera name -> RGB image, uint8, (H, W, 3)."""
    joints: Floats
    """Measured joint positions, rad, (7,), in the order of `JOINTS`."""
    gripper: float
    """Measured gripper opening: 0 open, 1 closed."""
    instruction: str
    state: Floats | None = None
    """State of another arm than this one, as its data have it; only `ecovla serve` fills it."""


@dataclass(frozen=True)
class ActionChunk:
    """H future actions. Row i is due at `stamp_ns` + (i + 1) * `period_s`."""

    stamp_ns: int
    """Stamp of the observation this chunk answers."""
    period_s: float
    joints: Floats
    """Absolute joint position targets, rad, (H, 7)."""
    gripper: Floats
    """Gripper targets, 0 open .. 1 closed, (H,)."""
    raw: Floats | None = None
    """Actions of another arm, (H, D), in the units of its data: joints and gripper then mean nothing."""

    @property
    def horizon(self) -> int:
        """Number of actions H."""
        return len(self.joints)


@dataclass(frozen=True)
class Demonstration:
    """One episode somebody drove: what was seen, and where the arm was sent, once a period."""

    observations: tuple[Observation, ...]
    joints: Floats
    """Absolute joint targets due one period after each observation, rad, (T, 7)."""
    gripper: Floats
    """Gripper targets due then, 0 open .. 1 closed, (T,)."""
    period_s: float


@dataclass(frozen=True)
class ArmState:
    """What the arm reports."""

    stamp_ns: int
    joints: Floats
    """Positions, rad, (7,)."""
    velocity: Floats
    """Velocities, rad/s, (7,)."""
    gripper: float
    """0 open .. 1 closed."""


@dataclass(frozen=True)
class ControllerState:
    """What the arm's controller says of itself: control_msgs/JointTrajectoryControllerState."""

    stamp_ns: int
    """By the controller's own clock."""
    reference: Floats
    """What it commands, rad, (7,), with the whole turns that it counts."""
    velocity: Floats
    """rad/s, (7,)."""
    place_s: float | None = None
    """How long after the start of the trajectory that it runs this is, s; None: it does not say."""


@dataclass(frozen=True)
class Trajectory:
    """One `JointTrajectory` message: strictly rising times after its start, last velocity zero."""

    times_s: Floats
    """Seconds after the start of the trajectory, (N,)."""
    positions: Floats
    """rad, (N, 7)."""
    velocities: Floats | None = None
    """rad/s, (N, 7); None: linear interpolation."""


@dataclass(frozen=True)
class FrameReport:
    """Timing and pruning facts of one policy frame."""

    stamp_ns: int
    stages_ms: Mapping[str, float] = field(default_factory=dict)
    """Stage name -> milliseconds: decode, encode, trigger, join, prefill, act, post."""
    total_ms: float = 0.0
    exposed_ms: float = 0.0
    """Time the frame waited for the refresh: the host in `join`, or on CUDA the device behind it."""
    refresh_ms: float = 0.0
    """Duration of the last refresh that has ended."""
    method: str = "dense"
    kind: str = "dense"
    """Which frame this was: dense, sparse, or refresh (one that recorded for a new pattern, sparse or dense)."""
    similarity: float = float("nan")
    """Mean cosine similarity of vision tokens with the frame before (Eq. 5); NaN on a first frame."""
    threshold: float = float("nan")
    """Sliding quantile the similarity was compared with (Eq. 6)."""
    triggered: bool = False
    ratio: float = 0.0
    """Share of prunable channels left out in this frame."""
    pattern_age: int = 0
    """Frames since the pattern last changed."""
    pattern_id: int = 0
    swaps: int = 0
    """Rows swapped by the last refresh that has ended."""
    fault: str = ""
    """What went wrong though a chunk was answered: a refresh that failed, a frame that fell back to dense; or empty."""
    refresh: str = "none"
    """How an adaptive method measures: probe or dense; none for the others."""
    reused: bool = False
    """Whether vision tokens kept K and V of an earlier frame (VLA-Cache)."""
    cold_frames: int = 0
    """Dense frames to come before the first pattern, where there is no calibration; 0: a pattern is in place."""
