"""Curves without steps in acceleration: between knots the acceleration is linear, so the jerk is bounded and known.

The controller runs cubics between knots with positions and velocities. A step in its acceleration is what gears
of an arm answer with a knock; so the knots are chosen such that the cubics' accelerations meet.
"""

from __future__ import annotations

import numpy as np

from ecovla_ros.control.curve import Motion
from ecovla_ros.types import Floats, Trajectory

VELOCITY_WEIGHT = 0.1
"""s: an error of 1 rad/s counts as much as one of 0.1 rad."""
ACCELERATION_WEIGHT = 0.003
"""s^2: an error of 1 rad/s^2 counts as much as one of 0.003 rad."""
REST_S = 0.02
"""Shortest time in which the braking of a stop is built up, s."""
ENTRY_S = 0.05
"""The same for a stop that replaces a motion in flight, s: where the controller's clock and the guard's are off by e,
the arm is v e from where it is taken to be, and the curve to the first knot needs 6 v e / t^2 more acceleration."""
ROUNDS = 12
"""Lengths of that time that are tried."""


def nearest(times: Floats, wished: Motion, start: Motion, give: float) -> Motion:
    """Motion at `times` (K,) that begins in `start`, is nearest to the motion `wished` (each (K, 7)), and is smooth.

    Least squares over the accelerations at the knots. `give`, rad / (rad/s^3): a jerk of 1 counts as much as an error
    of `give`. Returns positions, velocities and accelerations at the knots, each (K, 7).
    """
    p0, v0, a0 = start
    span = times - np.concatenate(([0.0], times[:-1]))
    count = np.arange(len(times))
    gains, reach = (np.zeros((len(times), len(times) + 1)) for _ in range(2))
    gains[count, count] = gains[count, count + 1] = span / 2.0
    speed = np.cumsum(gains, axis=0)
    reach[count, count], reach[count, count + 1] = span**2 / 3.0, span**2 / 6.0
    reach[1:] += span[1:, None] * speed[:-1]
    place = np.cumsum(reach, axis=0)
    change = np.zeros_like(gains)
    change[count, count + 1], change[count, count] = 1.0 / span, -1.0 / span
    own = np.eye(len(times), len(times) + 1, 1)
    rows = np.concatenate((place, VELOCITY_WEIGHT * speed, ACCELERATION_WEIGHT * own, give * change))
    free = p0 + times[:, None] * v0
    wanted = np.concatenate((
        wished[0] - free, VELOCITY_WEIGHT * (wished[1] - v0), ACCELERATION_WEIGHT * wished[2], np.zeros_like(wished[0])
    ))  # fmt: skip
    wanted -= rows[:, :1] * a0
    found = np.linalg.solve(rows[:, 1:].T @ rows[:, 1:], rows[:, 1:].T @ wanted)
    accelerations = np.concatenate((a0[None], found))
    return free + place @ accelerations, v0 + speed @ accelerations, found


def stop_times(
    velocity: Floats, acceleration: Floats, braking: Floats, jerk: Floats, shortest_s: float = REST_S
) -> tuple[Floats, Floats]:
    """Time to come to rest from `velocity` and `acceleration` (N, 7), and time in which braking is built up, s, (N,).

    That time is at least `shortest_s`.

    The acceleration goes to its braking value, stays, and goes to zero, linearly; all joints at the same times.
    """
    build_s: Floats = np.full(len(velocity), shortest_s)
    span_s: Floats = 2.0 * build_s
    for _ in range(ROUNDS):
        given_up = velocity + acceleration * build_s[:, None] / 2.0
        span_s = np.maximum(build_s + (np.abs(given_up) / braking).max(axis=1), 2.0 * build_s)
        brake = given_up / (span_s - build_s)[:, None]
        needed_s = (np.maximum(np.abs(acceleration + brake), np.abs(brake)) / jerk).max(axis=1)
        if (needed_s <= build_s).all():
            break
        build_s = np.where(needed_s > build_s, np.maximum(needed_s, 1.05 * build_s), build_s)
    return span_s, build_s


def stop(state: Motion, braking: Floats, jerk: Floats, shortest_s: float = REST_S) -> Trajectory:
    """Short smooth stop from `state` with `braking` (7,), rad/s^2, and `jerk` (7,), rad/s^3, where these allow it.

    Its first knot comes after `shortest_s` or later.
    """
    position, velocity, acceleration = state
    span_s, build_s = (
        float(part[0]) for part in stop_times(velocity[None], acceleration[None], braking, jerk, shortest_s)
    )
    steady = span_s > 2.0 * build_s + 1e-3
    if not steady:  # too short a part between: longer build-ups instead, within braking and jerk
        build_s = span_s - build_s
        build_s = max(build_s, float((np.abs(velocity + acceleration * build_s / 2.0) / braking).max()))
        span_s = 2.0 * build_s
    brake = -(velocity + acceleration * build_s / 2.0) / (span_s - build_s)
    times = [build_s, span_s - build_s, span_s] if steady else [build_s, span_s]
    accelerations = [brake] * (len(times) - 1) + [np.zeros_like(brake)]
    positions, velocities = [], []
    before = 0.0
    for time, then in zip(times, accelerations):
        span, before = time - before, time
        position = position + span * velocity + span**2 * (2.0 * acceleration + then) / 6.0
        velocity = velocity + span * (acceleration + then) / 2.0
        acceleration = then
        positions.append(position)
        velocities.append(velocity)
    velocities[-1] = np.zeros_like(velocity)
    return Trajectory(np.array(times), np.array(positions), np.array(velocities))
