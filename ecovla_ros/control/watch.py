"""What the guard knows of the clock, of the arm and of the gripper. Time is handed in, nanoseconds."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from ecovla_ros.control.checks import distance
from ecovla_ros.control.playback import NS
from ecovla_ros.types import JOINTS, ArmState, Floats
from ecovla_ros.wire import causes

UNSTAMPED_S = 1e8
"""A stamp of zero that lies so far back, s, is none: simulations begin at zero, and none lasts for years."""
BACK_S = 0.001
"""A clock that steps back by less than this is taken to stand still, s."""
STILL_S = 0.1
"""A clock that stood still while the guard ticked for this time, s, and then goes on is taken to have jumped: it may
have lost time, or may have been set back unseen. Even a slow simulation clock steps more often than that."""
LOST_S = 1.0
"""Joint states that come again after a longer gap, s, and after twice the time that makes them stale, may come from a
driver that was started anew, together with its controller."""
GAP_S = 0.5
"""If the guard was not called for longer, s, it was stopped or the clock leapt: what the arm does now is not known."""
STEADY_RAD = 0.02
"""Largest difference of two joint states of an arm at rest, rad."""
REST_VELOCITY = 0.1
"""Largest measured speed of an arm at rest, rad/s."""
DEGRADED_SHARE = 0.5
"""Share of the velocity limit while chunks come late."""
RECOVER_S = 1.0
"""Chunks must come in time for this long before the full speed is allowed again, s."""
GRIPPER_STEP = 0.05
"""The gripper is commanded when its target has moved this far, and at the ends of its stroke."""
GRIPPER_PERIOD_S = 0.2
"""Time between two gripper commands, s."""
GRIPPER_AGAIN_S, GRIPPER_AGAIN, GRIPPER_OFF = 1.0, 3, 0.2
"""A command can be lost. A gripper that after the first time, s, is further from its target than the last number is
commanded again, at most so often: one that holds something never reaches its target."""


@dataclass
class Clock:
    """Tells a clock that walks from one that jumps."""

    patience: int
    """Ticks in a row for which it may stand still."""
    last_ns: int | None = None
    stood: int = 0
    """Ticks in a row at the same time; counted by whoever ticks."""

    def see(self, now_ns: int) -> tuple[int, float]:
        """The time to use, and by how many seconds the clock jumped (0.0: it did not)."""
        last = now_ns if self.last_ns is None else self.last_ns
        step = (now_ns - last) / NS
        if -BACK_S <= step <= 0.0:
            now_ns = last
        self.last_ns = now_ns
        jumped = step < -BACK_S or step > GAP_S or (step > 0.0 and self.stood >= self.patience)
        if step > 0.0:
            self.stood = 0
        return now_ns, step if jumped else 0.0


@dataclass
class ArmWatch:
    """The last joint states."""

    age_s: float
    """A joint state older than this is stale, s."""
    joints: Floats | None = None
    """Newest measured positions, rad, (7,)."""
    gripper: float = 0.0
    stamp_ns: int = 0
    lost_s: float = 0.0
    """For how long joint states were missing, s; 0.0 unless for so long that the driver may be another. Whoever acts on
    it clears it."""
    _ahead_s: float = 0.0
    _broken: bool = False
    _velocity: Floats = field(default_factory=lambda: np.zeros(len(JOINTS)))
    _before: Floats | None = None
    _received_ns: int | None = None
    _missing_s: float = 0.0

    def see(self, state: ArmState, now_ns: int) -> str:
        """Keep a joint state. Returns why it was not kept: "state_finite", "state_order", or empty."""
        joints, velocity = _seven(state.joints), _seven(state.velocity)
        if joints is None or velocity is None or not isinstance(state.stamp_ns, (int, np.integer)):
            self._broken = True
            return "state_finite"
        ahead_s = (state.stamp_ns - now_ns) / NS
        if self.joints is not None and state.stamp_ns < self.stamp_ns or ahead_s > self.age_s:
            self._ahead_s = max(ahead_s, 0.0)
            return "state_order"
        gap_s = 0.0 if self._received_ns is None else self._missing_s + (now_ns - self._received_ns) / NS
        self.lost_s = gap_s if gap_s > max(LOST_S, 2.0 * self.age_s) else self.lost_s
        self._ahead_s, self._missing_s, self._broken = 0.0, 0.0, False
        self._before, self.joints, self._velocity = self.joints, joints, velocity
        if isinstance(state.gripper, (int, float, np.number)) and math.isfinite(state.gripper):
            self.gripper = float(state.gripper)
        self.stamp_ns, self._received_ns = int(state.stamp_ns), now_ns
        return ""

    def forget(self, last_ns: int, now_ns: int, passed_s: float) -> None:
        """The clock went from `last_ns` to `now_ns` while `passed_s` passed: no stamp can be compared any more."""
        if self._received_ns is not None:
            self._missing_s += max((last_ns - self._received_ns) / NS, 0.0) + max(passed_s, 0.0)
            self._received_ns = now_ns
        self.joints = self._before = None
        self._ahead_s = 0.0

    def stale(self, now_ns: int) -> str:
        """Why the joint states cannot be trusted now; empty when they can."""
        ahead = f"; they are stamped {self._ahead_s:.3f} s ahead of this clock" if self._ahead_s else ""
        ahead += "; the last one has positions or velocities that are not finite (NaN)" if self._broken else ""
        if self.joints is None or self._received_ns is None:
            return f"no joint state yet{ahead}"
        age = (now_ns - min(self.stamp_ns, self._received_ns)) / NS
        if age <= self.age_s:
            return ""
        if self.stamp_ns == 0 and age > UNSTAMPED_S:
            return causes.unstamped("joint_states")
        return f"the last joint state is {age:.3f} s old; at most {self.age_s} s is valid{ahead}"

    def moving(self) -> str:
        """Why the arm does not count as standing still; empty when it does."""
        if self.joints is None or self._before is None:
            return "two joint states are needed"
        if np.abs(self._velocity).max() > REST_VELOCITY:
            return f"the arm moves with {np.abs(self._velocity).max():.2f} rad/s"
        step = float(np.abs(distance(self.joints, self._before)).max())
        return f"two joint states differ by {step:.3f} rad" if step > STEADY_RAD else ""


@dataclass
class LateWatch:
    """Whether the policy keeps up."""

    late_s: float
    """An observation older than this, when its chunk's turn comes, is late, s."""
    _late_ns: int | None = None

    def see(self, stamp_ns: int, now_ns: int) -> None:
        """A chunk's turn has come."""
        if now_ns - stamp_ns > self.late_s * NS:
            self.missed(now_ns)

    def missed(self, now_ns: int | None) -> None:
        """A chunk was too late, now."""
        self._late_ns = now_ns

    def forget(self) -> None:
        """The clock jumped."""
        self._late_ns = None

    def share(self, now_ns: int) -> float:
        """Share of the velocity limit that is left."""
        late = self._late_ns is not None and now_ns - self._late_ns < RECOVER_S * NS
        return DEGRADED_SHARE if late else 1.0


@dataclass
class GripperGate:
    """Gripper on change, with hysteresis."""

    last: float = 0.0
    _sent_ns: int | None = None
    _again: int = 0

    def start(self, measured: float) -> None:
        """The gripper stands at `measured` and was not commanded yet."""
        self.last, self._sent_ns = min(max(measured, 0.0), 1.0), None

    def command(self, target: float, measured: float, now_ns: int) -> float | None:
        """What to send for `target` (0 open .. 1 closed), or None. Next to an end of the stroke the end is meant."""
        target = 0.0 if target <= GRIPPER_STEP else 1.0 if target >= 1.0 - GRIPPER_STEP else target
        since_s = math.inf if self._sent_ns is None else abs(now_ns - self._sent_ns) / NS
        if since_s < GRIPPER_PERIOD_S:
            return None
        if abs(target - self.last) < GRIPPER_STEP - 1e-9:
            there = self._sent_ns is None or abs(measured - self.last) <= GRIPPER_OFF
            if there or since_s < GRIPPER_AGAIN_S or self._again >= GRIPPER_AGAIN:
                return None
            self._again, self._sent_ns = self._again + 1, now_ns
            return self.last
        self.last, self._sent_ns, self._again = target, now_ns, 0
        return target


def _seven(values: object) -> Floats | None:
    """Seven finite floats, or None."""
    try:
        array = np.array(values, float)
    except (TypeError, ValueError):
        return None
    return array if array.shape == (len(JOINTS),) and all(map(math.isfinite, array.tolist())) else None
