"""What the guard believes to run on the arm's controller, and how one motion is handed over to the next.

The arm is measured late and droops under its weight, so a motion goes on from what is commanded, not from what is
measured. No release of the controller can be trusted to join two trajectories: Jazzy and Kilted make one cycle's motion
twice, others step, and all depend on when a message arrives. So nothing is left to be joined. A message begins
`BACK_S` ago and repeats what runs until `start_window_s` from now; only there does it part from it. Whichever instant
between these two the controller changes over at, it commands the same before and after.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ecovla_ros.control.checks import distance
from ecovla_ros.control.curve import STEP_S, Motion, rates
from ecovla_ros.control.limits import Limits
from ecovla_ros.control.pace import smooth_stop
from ecovla_ros.control.trajectory import NS, TrajectoryController, ordered
from ecovla_ros.errors import ControlError
from ecovla_ros.types import JOINTS, Floats, Trajectory

BACK_S = 0.02
"""A trajectory begins so long before it is sent, s: the controller's clock may be behind the guard's by as much."""
NEAR_S = 0.001
"""Knots are at least so far apart, s."""
SEAT_RAD = 0.05
"""An arm at rest this near to its last command still holds it: the rest is droop (the arm warns at 3 degrees)."""
DROOP_RAD, JOLT_S = 0.01, 0.01
"""So far an arm may droop from an unknown command; the step of acceleration with which it is then brought to its place
counts as jerk over so long, s."""
SEAT_SHARE = 0.9
"""Share of the limits that the way to the seat uses."""
SEAT_MOST_RAD = 1.0
"""An arm further from its last command is not brought there: it would take minutes."""
LATEST_S = 0.1
"""So late a controller may start what has no stamp, s. Until that is over it may be moving: in no state of the guard,
and after no jump of a clock, does its motion count as ended earlier."""
SEATED_S = 0.1
"""After the way to the seat the controller is waited for so long, s."""


Knots = tuple[NDArray[np.int64], Floats, Floats]
"""Times, ns, (N,), positions, rad, and velocities, rad/s, (N, 7)."""


class Flight:
    """The commanded state over time. Unknown until the first `start`."""

    def __init__(self) -> None:
        self._model: TrajectoryController | None = None
        self._knots: Knots = (np.zeros(0, np.int64), np.zeros(0), np.zeros(0))
        self._late_ns = 0
        self._before: tuple[TrajectoryController, Knots, int] | None = None
        self._settled_ns = 0
        self._settles = ""

    @property
    def known(self) -> bool:
        """Whether a commanded state is known at all."""
        return self._model is not None

    def running(self, now_ns: int) -> bool:
        """Whether a trajectory has not ended yet, or may not have: see `LATEST_S`."""
        return self._model is not None and now_ns < self.end_ns

    @property
    def end_ns(self) -> int:
        """By when what runs has come to rest, ns. Raises ControlError when nothing is known."""
        return self._running().end_ns + self._late_ns

    def settling(self, now_ns: int) -> str:
        """Why what is commanded now is not known, only where it ends; empty when it is known."""
        return self._settles if now_ns < self._settled_ns else ""

    def commanded(self, now_ns: int) -> Motion:
        """Commanded position (7,), rad, velocity (7,), rad/s, and acceleration (7,), rad/s^2. Raises ControlError."""
        return self._running().state(now_ns)

    def away(self, measured: Floats) -> float:
        """How far an arm at `measured` (7,) is from where its last motion ends, rad; 0 when nothing was commanded."""
        return 0.0 if self._model is None else float(np.abs(distance(measured, self._end())).max())

    def start(self, held: Floats) -> None:
        """Nothing was commanded yet, or what was is void: the controller holds the arm at `held` (7,)."""
        self._model, self._late_ns = TrajectoryController(held), 0
        self._knots = (np.zeros(0, np.int64), np.zeros((0, len(JOINTS))), np.zeros((0, len(JOINTS))))
        self._before = None

    def seat(self, measured: Floats, now_ns: int, limits: Limits, anew: bool) -> Trajectory | None:
        """Let the next motion start where the arm rests, at `measured` (7,), rad.

        None where the last command ends near that place: then nothing is to be sent. Otherwise the arm was blocked or
        pushed, or its driver was started anew (`anew`: it may have been), and the controller commands either the old
        place or this one; nobody can tell which. The trajectory returned is right in both cases and must be sent now.
        Its only point is `measured`. A controller that commands this place moves nothing. One that commands the old
        place gets enough time to move slowly, and its acceleration steps by no more than the jerk limit gives in one
        cycle. With `anew` it is sent in any case: what the controller holds is not known.
        """
        way = distance(measured, self._end())
        off, place = np.abs(way), self._end() + way
        if off.max() <= SEAT_RAD and not anew:
            return None
        slow = 1.5 * off / (limits.ramp_start * limits.velocity)
        smooth = np.sqrt(6.0 * off / np.minimum(limits.acceleration, limits.jerk * STEP_S))
        if anew:  # also an arm that seems to be in its place has an unknown droop
            smooth = np.maximum(
                smooth, np.sqrt(6.0 * DROOP_RAD / np.minimum(limits.acceleration, limits.jerk * JOLT_S))
            )
        length_s = max(float(slow.max()), float(smooth.max()), SEATED_S) / SEAT_SHARE
        self.start(place)
        self._settled_ns = now_ns + round((length_s + SEATED_S) * NS)
        self._settles = f"for {length_s:.1f} s the controller is brought from its last command to where the arm stands"
        return Trajectory(np.array([length_s]), place[None], np.zeros((1, len(place))))

    def parting(self, now_ns: int, window_s: float) -> int:
        """When a motion that is sent now may part from what runs, ns: `window_s` from now, at a knot if one is near."""
        at_ns = now_ns + round(window_s * NS)
        near = self._knots[0][np.abs(self._knots[0] - at_ns) < NEAR_S * NS]
        return int(near[0]) if len(near) else at_ns

    def send(self, motion: Trajectory, parts_ns: int, now_ns: int) -> tuple[Trajectory, int]:
        """What to send now for a `motion` that begins with what is commanded at `parts_ns`, and when it begins, ns.

        Raises ControlError for what the controller would refuse.
        """
        running, times = self._running(), self._knots[0]
        begin_ns = now_ns - round(BACK_S * NS)
        near = times[np.abs(times - begin_ns) < NEAR_S * NS]
        begin_ns = int(near[0]) if len(near) else begin_ns
        kept = (times > begin_ns) & (times < parts_ns)
        ends = np.array([begin_ns, parts_ns], np.int64) if parts_ns > begin_ns else np.array([begin_ns], np.int64)
        here = [running.sample(int(at_ns)) for at_ns in ends]
        after_ns = parts_ns + np.round(motion.times_s * NS).astype(np.int64)
        knots = (
            np.concatenate((ends[:1], times[kept], ends[1:], after_ns)),
            np.vstack((here[0][0][None], self._knots[1][kept], *(p[None] for p, _ in here[1:]), motion.positions)),
            np.vstack((here[0][1][None], self._knots[2][kept], *(v[None] for _, v in here[1:]), rates(motion))),
        )
        message = Trajectory((knots[0] - begin_ns) / NS, knots[1], knots[2])
        ordered(message)
        self._before = running, self._knots, self._late_ns
        self._model, self._late_ns = TrajectoryController(message.positions[0]), 0
        self._model.play(message, begin_ns)
        self._knots = knots
        return message, begin_ns

    def send_unstamped(self, motion: Trajectory, now_ns: int) -> Trajectory:
        """`motion`, which begins at rest, to be started whenever it arrives. Raises ControlError as `send`."""
        ordered(motion)
        before = self._running(), self._knots, self._late_ns
        self.start(before[0].sample(now_ns)[0])
        self._running().accept(motion, now_ns)
        self._before, self._late_ns = before, round(LATEST_S * NS)
        return motion

    def unsent(self) -> bool:
        """What was returned last was not sent: what ran before goes on; False when that is not known (a seat)."""
        if self._before is None:
            return False
        (self._model, self._knots, self._late_ns), self._before = self._before, None
        return True

    def stop(self, now_ns: int, limits: Limits, window_s: float) -> tuple[Trajectory, int] | None:
        """A smooth stop from what is commanded, as `send`. None where it would pass a position limit."""
        parts_ns = self.parting(now_ns, window_s)
        trajectory = smooth_stop(self.commanded(parts_ns), limits)
        return None if trajectory is None else self.send(trajectory, parts_ns, now_ns)

    def lost(self, last_ns: int, now_ns: int, why: str) -> None:
        """Only the end of the trajectory is known any more, and by when; the clock went from `last_ns` to `now_ns`."""
        end_ns = self._settled_ns
        if self._model is not None:
            end_ns = max(end_ns, self.end_ns)
            self.start(self._end())
        self._settled_ns = now_ns + max(end_ns - last_ns, 0)
        self._settles = why

    def _running(self) -> TrajectoryController:
        if self._model is None:
            raise ControlError("nothing is known of what the controller commands; enable first")
        return self._model

    def _end(self) -> Floats:
        running = self._running()
        return running.sample(running.end_ns + 1)[0]
