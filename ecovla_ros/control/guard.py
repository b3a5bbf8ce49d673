"""The guard: the only way from a chunk to the arm. No ROS, no thread, no clock of its own; one owner calls it.

What it sends is a trajectory whose curve, from the commanded state to rest, was checked against position, velocity and
acceleration limits. So the arm is safe whenever the guard is silent: what runs ends at rest, within limits, after
`max_horizon_s` at most (the way to a seat, see `Flight.seat`, is slow and takes longer). It replaces a checked
trajectory only by another one. Inference is not a safety function, and neither is this: protective stop and e-stop
belong to the arm and its cell.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ecovla_ros.config import ControlConfig
from ecovla_ros.control import checks, tool
from ecovla_ros.control.admission import AdmissionRules, AdmittedChunk, admit
from ecovla_ros.control.checks import Refused
from ecovla_ros.control.flight import SEAT_MOST_RAD, Flight
from ecovla_ros.control.limits import Limits
from ecovla_ros.control.playback import NS
from ecovla_ros.control.status import Command, GuardStatus, State
from ecovla_ros.control.watch import STILL_S, ArmWatch, Clock, GripperGate, LateWatch
from ecovla_ros.errors import ControlError
from ecovla_ros.types import JOINTS, ActionChunk, ArmState, Trajectory

WATCHES = (
    "state_finite",
    "state_order",
    "state_age",
    "state_lost",
    "silence",
    "clock_jump",
    "clock_still",
    "following",
    "chunk_end",
    "stop",
)
"""Names of the counters beside `checks.ORDER`. clock_still: a tick at the time of the one before, in which nothing is
sent. stop: a stop that would have left the limits was not sent. state_lost: joint states were gone for so long that the
driver may have been started anew."""
MOVING = (State.ARMED, State.RUNNING, State.DEGRADED)
FIRST = "waiting for the first chunk"
REPEATS = 3
"""Jumps in a row, or joint states in a row away from where the arm is commanded, that latch."""


class Guard:
    """Chunks, joint states and wishes in; at each tick a `Command` out. Times are integer nanoseconds of one clock."""

    def __init__(self, config: ControlConfig, limits: Limits, steady: bool = False) -> None:
        """`steady`: `on_clock_set` tells when the clock is set, so that a gap without a call is time that passed.

        Raises ConfigError for settings that do not go together.
        """
        checks.margin(config)
        self._steady = steady
        self._config, self._limits = config, limits
        self._rules = AdmissionRules(config, limits, tool.box(config))
        tool.check_singularity(config)
        self._clock = Clock(round(STILL_S * config.rate_hz))
        self._arm, self._gate = ArmWatch(config.joint_state_age_s), GripperGate()
        self._state, self._reason, self._refusal = State.DISARMED, "not enabled yet", ""
        self._counters = dict.fromkeys((*checks.ORDER, *WATCHES), 0)
        self._commands = self._refusals = self._jumps = self._strays = 0
        self._flight, self._late = Flight(), LateWatch(config.late_s)
        self._plan: AdmittedChunk | None = None
        self._pending: ActionChunk | None = None
        self._newest_ns: int | None = None
        self._accepted_ns: int | None = None
        self._heard_ns, self._fault = 0, ""
        self._ticked_ns: int | None = None
        self._ramp_ns: int | None = None
        self._followed_ns = 0
        self._estop = self._asked_to_hold = self._stopping = self._blind = False
        self._unseated = self._anew = False

    def on_clock_set(self, step_s: float, now_ns: int) -> None:
        """Whoever has a second clock tells that the one of `now_ns` was set by `step_s` since the last call."""
        self._see(now_ns, step_s)

    def forget(self, now_ns: int) -> tuple[bool, str]:
        """An operator's word: the controller is a new one, or a simulator was reset; it holds the arm where it is."""
        now_ns = self._see(now_ns)
        if self._state is not State.DISARMED:
            return False, f"disable first: the guard is {self._state.value}"
        if self._flight.running(now_ns) or self._flight.settling(now_ns):
            return False, self._flight.settling(now_ns) or "the last motion is still coming to rest"
        self._flight, self._arm.lost_s, self._anew = Flight(), 0.0, False
        return True, "the last command is forgotten"

    def on_joint_state(self, state: ArmState, now_ns: int) -> None:
        """What the arm reports. NaN latches an enabled guard."""
        now_ns = self._see(now_ns)
        fault = self._arm.see(state, now_ns)
        if fault:
            self._counters[fault] += 1
        if fault == "state_finite" and self._state is not State.DISARMED:
            self._latch("the joint state holds NaN, infinity or not seven joints")

    def on_chunk(self, chunk: ActionChunk, now_ns: int) -> None:
        """A chunk from the policy. The newest valid one waits for its turn; the others are counted and dropped."""
        now_ns = self._see(now_ns)
        try:
            chunk = checks.finite(chunk)
            checks.shape(chunk)
            checks.age(chunk, now_ns, self._config.chunk_age_s)
            checks.order(chunk, self._newest_ns)
            self._newest_ns, self._heard_ns = chunk.stamp_ns, now_ns
            if self._state in (State.DISARMED, State.LATCHED) or self._asked_to_hold:
                raise Refused("enabled", f"the guard is {self._state.value}: {self._reason}")
            self._pending = chunk
        except Refused as refused:
            self._refuse(refused)

    def on_estop(self, on: bool, now_ns: int, why: str = "e-stop is pressed") -> None:
        """The e-stop topic: pressed latches, `why` says by whom; released only allows a reset."""
        self._see(now_ns)
        self._estop = bool(on)
        if on:
            self._latch(why)

    def latch(self, reason: str, now_ns: int) -> None:
        """Whoever carries messages has seen what must not be: the arm comes to rest, and stays until a reset."""
        self._see(now_ns)
        self._latch(reason)

    def on_fault(self, fault: str, now_ns: int) -> None:
        """What the arm says is wrong with it latches; "" only allows a reset."""
        self._see(now_ns)
        self._fault = fault
        if fault:
            self._latch(f"the arm is in fault: {fault}")

    def enable(self, on: bool, now_ns: int) -> tuple[bool, str]:
        """Allow or forbid motion. Returns whether it is so now, and why. Forbidding stops the arm smoothly."""
        now_ns = self._see(now_ns)
        if not on:
            if self._state is not State.LATCHED:
                self._rest(State.DISARMED, "disabled")
            return True, f"{self._state.value}: {self._reason}"
        if self._state in MOVING:
            return True, "already enabled"
        if self._state is State.LATCHED:
            return False, f"latched: {self._reason}. Call reset first"
        fault = self._unready(now_ns)
        if fault:
            return False, f"cannot enable: {fault}"
        assert self._arm.joints is not None
        off = self._flight.away(self._arm.joints)
        if off > SEAT_MOST_RAD:
            return False, (
                f"the arm stands {off:.2f} rad from its last command; call forget if its controller was started anew "
                f"or the simulator reset, else move it to within {SEAT_MOST_RAD} rad"
            )
        if self._flight.known:
            self._unseated, self._anew = True, self._anew or self._arm.lost_s > 0.0
        else:
            self._flight.start(self._arm.joints)
        self._state, self._reason = State.ARMED, FIRST
        self._asked_to_hold, self._ramp_ns, self._jumps, self._strays = False, None, 0, 0
        self._arm.lost_s, self._blind = 0.0, False
        self._gate.start(self._arm.gripper)
        return True, "armed; the first motion ramps up"

    def withdraw(self, why: str, now_ns: int) -> None:
        """The permission to move has run out: a smooth stop, and enable is needed again. A latch stays."""
        self._see(now_ns)
        if self._state in (*MOVING, State.HOLD):
            self._rest(State.DISARMED, why)

    def reset(self, now_ns: int) -> tuple[bool, str]:
        """Leave LATCHED for DISARMED, unless the e-stop is still pressed."""
        self._see(now_ns)
        if self._state is not State.LATCHED:
            return True, f"not latched: {self._state.value}"
        if self._estop:
            return False, "release the e-stop first"
        if self._fault:
            return False, f"clear the arm's fault first: {self._fault}"
        self._state, self._reason = State.DISARMED, "reset; call enable to move"
        return True, "reset; call enable to move"

    def hold(self, now_ns: int) -> tuple[bool, str]:
        """Stop smoothly and stay until enable is called."""
        self._see(now_ns)
        if self._state in (State.DISARMED, State.LATCHED):
            return True, f"nothing moves: {self._state.value}, {self._reason}"
        self._rest(State.HOLD, "asked to hold; call enable to go on")
        self._asked_to_hold = True
        return True, "holding; call enable to go on"

    def due(self, now_ns: int) -> bool:
        """Whether a chunk that comes at `now_ns` moves the arm at once: motion is allowed, and no earlier one runs."""
        if self._state not in (*MOVING, State.HOLD):
            return False
        return self._accepted_ns is None or now_ns - self._accepted_ns >= self._config.replan_s * NS - 1e6

    def tick(self, now_ns: int) -> Command:
        """What must be sent now. Call it at `config.rate_hz`, before 0.5 s have passed in any case."""
        now_ns = self._see(now_ns)
        stands, self._ticked_ns = now_ns == self._ticked_ns, now_ns
        self._watch(now_ns)
        self._counters["clock_still"] += stands
        self._clock.stood += stands
        trajectory = None
        if not stands:  # else the arm may be further than it is taken to be: what runs comes to rest by itself
            trajectory = self._stop(now_ns) if self._stopping else self._take_seat(now_ns) or self._follow(now_ns)
        if self._state is State.ARMED and self._plan is None and not self._unseated:
            self._reason = FIRST
        moving = self._state in MOVING and self._plan is not None
        if moving and self._pending is None and not self._flight.running(now_ns):
            self._counters["chunk_end"] += 1
            since = f"those after it were refused ({self._refusal})" if self._refusal else "no new chunk came"
            self._rest(State.HOLD, f"the last chunk has ended, {since}")
        gripper = None
        if self._state in MOVING and self._plan is not None:
            gripper = self._gate.command(self._plan.gripper(now_ns), self._arm.gripper, now_ns)
        self._commands += trajectory is not None
        return Command(trajectory, gripper, self._status(now_ns))

    def _see(self, now_ns: int, step_s: float = 0.0) -> int:
        """The time to use. After a jump nothing about the flight is known but where it ends, and by when."""
        last_ns = self._clock.last_ns
        now_ns, jump_s = self._clock.see(now_ns)
        jump_s = jump_s or step_s
        if not jump_s or last_ns is None:
            return now_ns
        self._counters["clock_jump"] += 1
        self._flight.clock_jumped(last_ns, now_ns)
        self._pending = self._newest_ns = self._accepted_ns = self._ramp_ns = None
        passed_s = (now_ns - last_ns) / NS - step_s if self._steady else 0.0
        self._arm.forget(last_ns, now_ns, passed_s)
        self._late.forget()
        if self._state in (*MOVING, State.HOLD):
            then = "call enable to go on" if self._asked_to_hold else "waiting for the arm to come to rest"
            self._rest(State.HOLD, f"the clock jumped by {jump_s:+.3f} s; {then}")
        self._stopping = False
        return now_ns

    def _watch(self, now_ns: int) -> None:
        """Joint states and chunks must come, and the arm be near where it is commanded."""
        if self._state not in (*MOVING, State.HOLD):
            return
        stale = self._arm.stale(now_ns)
        jumped = self._arm.joints is None and self._flight.settling(now_ns)
        if stale and not self._blind and not self._asked_to_hold and not jumped:
            self._counters["state_age"] += self._state is not State.HOLD
            self._rest(State.HOLD, stale)
            self._blind = True
        if self._blind and not stale:
            self._blind = False
            self._reason = self._reason if self._asked_to_hold else "joint states are back; waiting for a chunk"
        if self._arm.lost_s and not self._asked_to_hold:
            self._counters["state_lost"] += 1
            gone = f"joint states were missing for {self._arm.lost_s:.1f} s, the driver may have been started anew"
            self._rest(State.HOLD, f"{gone}; call enable to go on")
            self._asked_to_hold = True
        silent_s = (now_ns - self._heard_ns) / NS
        if self._state in MOVING and self._plan is not None and silent_s > self._config.chunk_silence_s + 1e-6:
            self._counters["silence"] += 1
            self._rest(State.HOLD, f"no new chunk for {silent_s:.2f} s: policy or camera is silent")
        if stale or self._flight.settling(now_ns) or self._arm.stamp_ns == self._followed_ns:
            return
        assert self._arm.joints is not None
        self._followed_ns = self._arm.stamp_ns
        off = np.abs(checks.distance(self._arm.joints, self._flight.commanded(now_ns)[0]))
        self._strays = self._strays + 1 if off.max() > self._config.max_jump_rad else 0
        if self._strays >= REPEATS:
            self._counters["following"] += 1
            joint = JOINTS[int(off.argmax())]
            self._latch(f"{joint} is {off.max():.3f} rad from where it is commanded: blocked, in fault, or moved")

    def _take_seat(self, now_ns: int) -> Trajectory | None:
        """Bring the controller to where the arm stands: once after enabling, before any chunk moves it."""
        if not self._unseated or self._asked_to_hold or self._state not in (*MOVING, State.HOLD):
            return None
        fault = self._unready(now_ns)
        if fault:
            self._reason = fault if self._state is State.ARMED else self._reason
            return None
        assert self._arm.joints is not None
        anew, self._unseated, self._anew = self._anew, False, False
        return self._flight.seat(self._arm.joints, now_ns, self._limits, anew)

    def _follow(self, now_ns: int) -> Trajectory | None:
        """Trajectory of the waiting chunk when it is its turn."""
        chunk = self._pending
        if chunk is None or self._unseated or not self.due(now_ns) or self._arm.stale(now_ns):
            return None
        self._pending = None
        try:
            return self._accept(chunk, now_ns)
        except Refused as refused:
            self._refuse(refused)
            return None

    def _accept(self, chunk: ActionChunk, now_ns: int) -> Trajectory:
        """Trajectory of `chunk`, from what is commanded now. Raises Refused."""
        assert self._arm.joints is not None
        settling = self._flight.settling(now_ns)
        if settling:
            raise Refused("clock", settling)
        begin_ns = now_ns if self._ramp_ns is None else self._ramp_ns
        self._late.see(chunk.stamp_ns, now_ns)
        shares = {"ramp": self._limits.ramp((now_ns - begin_ns) / NS), "late": self._late.share(now_ns)}
        start = self._flight.commanded(now_ns)
        plan = admit(chunk, now_ns, start, self._arm.joints, shares, self._rules)
        try:
            self._flight.send(plan.trajectory, now_ns)
        except ControlError as error:
            raise Refused("controller", f"the controller would refuse it: {error}") from error
        for name in plan.changed:
            self._counters[name] += 1
        self._plan, self._ramp_ns, self._accepted_ns, self._jumps, self._refusal = plan, begin_ns, now_ns, 0, ""
        self._state, self._reason = self._motion(shares)
        return plan.trajectory

    def _motion(self, shares: Mapping[str, float]) -> tuple[State, str]:
        """State and reason while an accepted chunk moves the arm."""
        if shares["ramp"] < 1.0:
            return State.ARMED, f"first motion, at {shares['ramp']:.0%} of the velocity limit"
        if shares["late"] < 1.0:
            return State.DEGRADED, f"chunks come late: at {shares['late']:.0%} of the velocity limit"
        return State.RUNNING, "following chunks"

    def _stop(self, now_ns: int) -> Trajectory | None:
        """A smooth stop of what is in flight, sent once."""
        self._stopping = False
        if not self._flight.running(now_ns) or self._flight.settling(now_ns):
            return None
        trajectory = self._flight.stop(now_ns, self._limits)
        self._counters["stop"] += trajectory is None
        return trajectory

    def _rest(self, state: State, reason: str) -> None:
        """Enter a state in which the arm stands; whatever is in flight is stopped at the next tick."""
        if self._state is State.ARMED:
            self._ramp_ns = None
        self._state, self._reason = state, reason
        self._pending = self._plan = None
        self._stopping = True

    def _latch(self, reason: str) -> None:
        if self._state is not State.LATCHED:
            self._rest(State.LATCHED, reason)

    def _refuse(self, refused: Refused) -> None:
        self._counters[refused.check] += 1
        self._refusals += 1
        self._refusal = f"{refused.check}: {refused}"
        if refused.check == "finite" and self._state is not State.DISARMED:
            self._latch(f"the policy is broken: {refused}")
        if refused.check == "age":
            self._late.missed(self._clock.last_ns)
        self._jumps += refused.check == "jump"
        if self._jumps >= REPEATS:
            self._jumps = 0
            self._latch(f"{REPEATS} chunks in a row do not start where the arm is; the last: {refused}")

    def _unready(self, now_ns: int) -> str:
        """Why motion cannot be allowed now; empty when it can."""
        fault = self._arm.stale(now_ns) or self._arm.moving()
        if fault:
            return fault
        if self._flight.settling(now_ns) or self._flight.running(now_ns):
            return self._flight.settling(now_ns) or "the last motion is still coming to rest"
        assert self._arm.joints is not None
        return self._limits.outside(self._arm.joints)

    def _status(self, now_ns: int) -> GuardStatus:
        flying = self._plan is not None and self._flight.running(now_ns)
        stamp_ns = self._plan.route.stamp_ns if flying and self._plan else 0
        age_s = (now_ns - stamp_ns) / NS if stamp_ns else float("nan")
        stretch = self._plan.stretch if self._plan else 1.0
        settling = self._flight.settling(now_ns)
        reason = f"{self._reason}; {settling}" if settling and "the clock jumped" not in self._reason else self._reason
        return GuardStatus(
            self._state.value, reason, self._refusal, dict(self._counters), age_s, stamp_ns, stretch,
            self._commands, self._refusals,
        )  # fmt: skip
