"""Two clocks: the one that the guard plans with, and the one that the arm's controller begins trajectories by.

The guard plans with a steady clock, because the motion of an arm goes on evenly whatever is done to the system's clock.
The controller looks at a stamp with the clock of its own machine. Whether that is this machine's is not configured but
read from the stamps of its `controller_state`; on another clock the earliest of many messages tells how far it is off.
Time is handed in, nanoseconds.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from ecovla_ros.control.checks import distance
from ecovla_ros.control.trajectory import NS
from ecovla_ros.types import JOINTS, ControllerState, Floats

SET_S = 0.002
"""A system clock that parts by more from the steady one between two calls was set, s."""
APART_S = 0.02
"""So far the planning clock may be from the system's before it is set too, s: stamps of observations are compared."""
FOLLOW = 0.05
"""While the arm rests the planning clock goes after the system's at this rate, s per s."""
NOISE_NS = 20_000
"""Two clocks are read one after the other: smaller differences are none, ns."""
READ_S = 0.0005
"""Two clocks read further apart than this cannot be compared, s."""

HEARD = 20
"""Messages of `controller_state` that are needed for a judgement."""
OVER_S = 2.0
"""They are kept for so long, s."""
FRESH_S = 0.2
"""The newest must be younger, s."""
EARLY_S, LATE_S = 0.002, 0.015
"""A controller whose messages come between so much before and so much after their stamp has this machine's clock, s."""
DRIFT_S = 0.003
"""The earliest messages of the older half and of the newer half may differ by so much, s."""
MOVED_S = 0.01
"""A clock whose earliest messages are this far from where they were is not the one that was measured, s."""
LAGGING_S = 0.025
"""Nor is one whose newest message is this much later, s; or it was held up, which looks the same."""
GONE_S = 1.0
"""A controller that was silent for longer, s, may be another one when it comes back, and a person may be at the arm."""
STILL_RAD_S = 1e-3
"""A controller slower than this holds the arm, rad/s."""


@dataclass
class PlanClock:
    """Steady time with the system's date: what the guard takes for now."""

    base_ns: int | None = None
    """What is added to the steady clock."""
    apart_ns: int = 0
    """System's clock minus steady clock, last read."""
    _steady_ns: int = 0

    def now(self, system_ns: int, steady_ns: int, resting: bool, read_s: float = 0.0) -> tuple[int, float]:
        """The time to plan with, and by how many seconds the system's clock was set since the last call (0.0: not).

        `resting`: nothing moves, so that this clock may go after the system's. `read_s`: time between both readings.
        """
        passed_ns, self._steady_ns = max(steady_ns - self._steady_ns, 0), steady_ns
        if self.base_ns is None:
            self.base_ns = self.apart_ns = system_ns - steady_ns
        set_s = 0.0
        apart = system_ns - steady_ns
        if read_s <= READ_S and abs(apart - self.apart_ns) > NOISE_NS:
            moved, self.apart_ns = apart - self.apart_ns, apart
            if abs(moved) > SET_S * NS or abs(apart - self.base_ns) > APART_S * NS:
                set_s, self.base_ns = (apart - self.base_ns) / NS, apart
        if resting:
            most = FOLLOW * passed_ns
            self.base_ns += round(min(max(self.apart_ns - self.base_ns, -most), most))
        return steady_ns + self.base_ns, set_s

    def stamp(self, planned_ns: int) -> int:
        """What the system's clock says at the planned instant."""
        return planned_ns + self.apart_ns - (self.base_ns or 0)


@dataclass
class ControllerWatch:
    """What the controller says of itself: its clock, and what it commands."""

    reference: Floats | None = None
    """Last commanded positions, rad, (7,), with the turns that the controller counts."""
    heard_ns: int = 0
    stamp_ns: int = 0
    """When the reference was commanded, by the controller's clock."""
    _velocity: Floats = field(default_factory=lambda: np.zeros(len(JOINTS)))
    _before: Floats | None = None
    """The reference of the message before."""
    _lags: deque[tuple[int, int]] = field(default_factory=deque)

    def see(self, state: ControllerState, now_ns: int) -> None:
        """Keep a message. One that is not seven finite numbers is dropped: silence is what the guard acts upon."""
        reference, velocity = np.asarray(state.reference, float), np.asarray(state.velocity, float)
        if reference.shape != (len(JOINTS),) or velocity.shape != (len(JOINTS),):
            return
        if not (np.isfinite(reference).all() and np.isfinite(velocity).all()):
            return
        self._before = self.reference
        self.reference, self._velocity, self.heard_ns, self.stamp_ns = reference, velocity, now_ns, state.stamp_ns
        self._lags.append((now_ns, now_ns - state.stamp_ns))
        while now_ns - self._lags[0][0] > OVER_S * NS:
            self._lags.popleft()

    def forget(self) -> None:
        """The guard's clock jumped: nothing that was heard can be compared any more."""
        self.forget_clock()
        self.reference = self._before = None

    def forget_clock(self) -> None:
        """The controller's clock is to be measured anew."""
        self._lags.clear()

    def silent(self, now_ns: int) -> str:
        """Why the controller's state is not known; empty when it is."""
        if self.reference is None:
            return (
                "the controller's controller_state is not heard, so its clock and the turns of its joints are not known"
            )
        age_s = (now_ns - self.heard_ns) / NS
        return f"the last controller_state is {age_s:.2f} s old" if age_s > FRESH_S else ""

    def gone(self, now_ns: int) -> bool:
        """Whether it was heard, and is silent for so long now that it must not go on by itself."""
        return self.reference is not None and now_ns - self.heard_ns > GONE_S * NS

    def moving(self) -> str:
        """Why the controller does not count as holding the arm; empty when it does."""
        fastest = float(np.abs(self._velocity).max())
        return f"the controller moves the arm with {fastest:.2f} rad/s" if fastest > STILL_RAD_S else ""

    def still(self) -> bool:
        """Whether two messages, one after the other, say that the controller commands the same place."""
        same = self._before is not None and self.reference is not None and (self._before == self.reference).all()
        return bool(same) and not self._velocity.any()

    def lag_ns(self) -> int:
        """How much later than their stamp the earliest messages come, ns, by this clock."""
        return min(lag for _, lag in self._lags)

    def moved_ns(self, lag_ns: int) -> int:
        """By how much its clock is not where it was when the earliest messages came `lag_ns` after their stamp, ns."""
        earliest, newest = self.lag_ns() - lag_ns, self._lags[-1][1] - lag_ns
        if abs(earliest) > MOVED_S * NS:
            return earliest
        return newest if newest > LAGGING_S * NS else 0

    def measured(self) -> bool:
        """Whether enough messages were heard."""
        return len(self._lags) >= HEARD

    def unclear(self, window_s: float) -> str:
        """Why the controller's clock is not known well enough; empty when it is. Call it when it is not silent."""
        if not self.measured():
            return f"only {len(self._lags)} of {HEARD} messages of controller_state were heard yet"
        lags = [lag for _, lag in self._lags]
        half = len(lags) // 2
        drift_s = abs(min(lags[:half]) - min(lags[half:])) / NS
        if drift_s > DRIFT_S:
            return f"the controller's clock runs {1e3 * drift_s:.1f} ms apart from this one within {OVER_S} s"
        spread_s = (sorted(lags)[math.ceil(0.9 * len(lags)) - 1] - min(lags)) / NS
        if spread_s > window_s:
            return f"controller_state comes up to {1e3 * spread_s:.0f} ms late; at most {1e3 * window_s:.0f} is valid"
        return ""

    def shared(self) -> bool:
        """Whether the controller has this machine's clock."""
        return -EARLY_S <= self.lag_ns() / NS <= LATE_S

    def away(self, expected: Floats) -> float:
        """How far the reference is from where it is `expected` (7,), rad; whole turns count."""
        return 0.0 if self.reference is None else float(np.abs(self.reference - expected).max())

    def turned(self, measured: Floats) -> float:
        """How far the reference is from the arm `measured` (7,), rad, whole turns not counted."""
        return 0.0 if self.reference is None else float(np.abs(distance(measured, self.reference)).max())
