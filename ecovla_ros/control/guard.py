"""The guard: the only way from a chunk to the arm. No ROS, no thread, no clock of its own; one owner calls it.

What it sends is a trajectory whose curve, from the commanded state to rest, was checked against position, velocity and
acceleration limits. So the arm is safe whenever the guard is silent: what runs ends at rest, within limits, after
`max_horizon_s` at most (the way to a seat, see `Flight.seat`, is slow and takes longer). It replaces a checked
trajectory only by another one, see `flight`. What leads from state to state is `states.TABLE`. Inference is not a
safety function, and neither is this: protective stop and e-stop belong to the arm and its cell.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping

import numpy as np

from ecovla_ros.config import ControlConfig
from ecovla_ros.control import checks, tool
from ecovla_ros.control.admission import AdmissionRules, AdmittedChunk, admit
from ecovla_ros.control.checks import Refused
from ecovla_ros.control.clocks import MOVED_S, ControllerWatch
from ecovla_ros.control.flight import SEAT_MOST_RAD, Flight
from ecovla_ros.control.limits import Limits
from ecovla_ros.control.place import PlaceWatch
from ecovla_ros.control.playback import NS
from ecovla_ros.control.stall import Stall, StallWatch
from ecovla_ros.control.states import TABLE, Cause, State
from ecovla_ros.control.status import Command, GuardStatus
from ecovla_ros.control.watch import STILL_S, ArmWatch, Clock, GripperGate, LateWatch
from ecovla_ros.errors import ControlError
from ecovla_ros.types import JOINTS, ActionChunk, ArmState, ControllerState, Floats, Trajectory

WATCHES = (
    "state_finite",
    "state_order",
    "state_age",
    "state_lost",
    "unsent",
    "silence",
    "clock_jump",
    "clock_still",
    "following",
    "standing",
    "reference",
    "controller_clock",
    "controller_silent",
    "place",
    "chunk_end",
    "stop",
    "reacted",
)
"""Names of the counters beside `checks.ORDER`.

clock_still: a tick at the time of the one before, in which nothing is sent. stop: a stop that would have left the
limits was not sent. state_lost: joint states were gone for so long that the driver may have been started anew. unsent:
a trajectory was ready too late to be sent. reference: the controller said that it does not run what was sent.
standing: the arm did not move while it was commanded to. controller_clock: the controller's clock was set.
controller_silent: it said nothing. place: a chunk or a stop waited until it was
clear where the controller is on what it runs. reacted: a chunk answered a changed scene before its turn."""
FIRST = "waiting for the first chunk"
Sent = tuple[Trajectory, int]
"""A trajectory, and when it begins, ns; 0: on arrival."""
REPEATS = 3
"""Jumps in a row, or states in a row away from where the arm is commanded, that latch."""
SHORT_S = 0.4
"""Without a common clock a motion is not interrupted, but goes from rest to rest within this time, s."""
STARTS_S = 0.035
"""So late a controller may start what it is sent, s: what is left of `start_window_s` is the guard's own, from its tick
to sending."""
FOLLOWED_NS = 100_000
"""The controller's clock is followed in mid-motion when it moved by more, ns."""
SAME_RAD = 1e-6
"""A controller at rest whose reference is further from the end of what it was sent did not run that, rad."""
REFERENCE_RAD = 0.03
"""A controller whose reference is further from what it was sent runs something else, rad."""
REMEDY = "remap controller_state, or set control.stamp_commands to always (one clock) or never (short motions only)"


class Seat(enum.Enum):
    """What must happen before a chunk may move the arm."""

    TAKEN = "nothing"
    KEPT = "the controller holds what it was told last, unless the arm stands elsewhere"
    UNKNOWN = "nobody knows what the controller holds: bring it to where the arm stands"


class Guard:
    """Chunks, joint states and wishes in; at each tick a `Command` out. Times are integer nanoseconds of one clock."""

    def __init__(self, config: ControlConfig, limits: Limits, steady: bool = False) -> None:
        """`steady`: `on_clock_set` tells when the clock is set, so that a gap without a call is time that passed.

        Raises ConfigError for settings that do not go together.
        """
        checks.margin(config)
        checks.window(config)
        self._steady = steady
        self._config, self._limits = config, limits
        self._stamped, self._lag_ns = config.stamp_commands != "never", 0
        self._apart_ns: int | None = None
        horizon_s = (
            config.max_horizon_s - config.start_window_s if self._stamped else min(config.max_horizon_s, SHORT_S)
        )
        self._rules = AdmissionRules(dataclasses.replace(config, max_horizon_s=horizon_s), limits, tool.box(config))
        tool.check_singularity(config)
        self._clock = Clock(round(STILL_S * config.rate_hz))
        self._arm, self._gate, self._controller = ArmWatch(config.joint_state_age_s), GripperGate(), ControllerWatch()
        self._place, self._stall = PlaceWatch(), StallWatch()
        self._state, self._reason, self._refusal = State.DISARMED, "not enabled yet", ""
        self._counters = dict.fromkeys((*checks.ORDER, *WATCHES), 0)
        self._commands = self._refusals = self._jumps = self._strays = self._others = 0
        self._flight, self._late = Flight(), LateWatch(config.late_s)
        self._send_ns = round((config.start_window_s - STARTS_S) * NS)
        self._plan: AdmittedChunk | None = None
        self._answered: ActionChunk | None = None
        self._pending: ActionChunk | None = None
        self._newest_ns: int | None = None
        self._accepted_ns: int | None = None
        self._changed_ns: int | None = None  # stamp of an observation that saw another scene, while nothing answers it
        self._heard_ns, self._fault = 0, ""
        self._ticked_ns: int | None = None
        self._ramp_ns: int | None = None
        self._followed_ns = self._referred_ns = 0
        self._estop = self._stopping = False
        self._missed = ""  # what is missing, while that is why the guard holds
        self._deaf = False  # the controller was silent, and did not say since that it runs what it was sent
        self._seat = Seat.TAKEN

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
        self._flight, self._arm.lost_s, self._seat = Flight(), 0.0, Seat.TAKEN
        return True, "the last command is forgotten"

    def on_joint_state(self, state: ArmState, now_ns: int) -> None:
        """What the arm reports. NaN latches an enabled guard."""
        now_ns = self._see(now_ns)
        fault = self._arm.see(state, now_ns)
        if fault:
            self._counters[fault] += 1
        if fault == "state_finite" and self._state is not State.DISARMED:
            self._latch("the joint state holds NaN, infinity or not seven joints")

    def on_controller_state(self, state: ControllerState, now_ns: int) -> None:
        """What the controller says of itself; the only word on its clock, and on the turns that it counts."""
        now_ns = self._see(now_ns)
        self._controller.see(state, now_ns)
        self._place.see(state, now_ns)

    def on_chunk(self, chunk: ActionChunk, now_ns: int) -> None:
        """A chunk from the policy. The newest valid one waits for its turn; the others are counted and dropped."""
        now_ns = self._see(now_ns)
        try:
            chunk = checks.finite(chunk)
            checks.shape(chunk)
            checks.age(chunk, now_ns, self._config.chunk_age_s)
            checks.order(chunk, self._newest_ns)
            self._newest_ns, self._heard_ns = chunk.stamp_ns, now_ns
            if not TABLE[self._state].listens:
                raise Refused("enabled", f"the guard is {self._state.value}: {self._reason}")
            self._pending = chunk
        except Refused as refused:
            self._refuse(refused)

    def on_scene_change(self, stamp_ns: int, now_ns: int) -> None:
        """The observation of that stamp saw another scene: the first chunk that answers it, or a later one, need not
        wait for its turn (`react_s`). What is said here decides when a chunk is looked at, and nothing else of it.
        """
        now_ns = self._see(now_ns)
        answered = self._plan is not None and self._plan.route.stamp_ns >= stamp_ns
        if self._config.react_s and not answered and self._recent(stamp_ns, now_ns):
            self._changed_ns = max(stamp_ns, self._changed_ns or 0)

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
            self._rest(Cause.DISABLE, "disabled")
            return True, f"{self._state.value}: {self._reason}"
        if TABLE[self._state].moves:
            return True, "already enabled"
        if self._state is State.LATCHED:
            return False, f"latched: {self._reason}. Call reset first"
        fault = self._unready(now_ns) or self._judge_clock(now_ns) or self._judge_place(now_ns)
        if fault:
            return False, f"cannot enable: {fault}"
        self._enter(Cause.ENABLE, FIRST)
        self._ramp_ns, self._jumps, self._strays, self._others = None, 0, 0, 0
        self._arm.lost_s, self._missed = 0.0, ""
        self._stall.forget()
        self._gate.start(self._arm.gripper)
        return True, f"armed; the first motion ramps up; {self._clock_said()}"

    def withdraw(self, why: str, now_ns: int) -> None:
        """The permission to move has run out: a smooth stop, and enable is needed again. A latch stays."""
        self._see(now_ns)
        if TABLE[self._state].watched:
            self._rest(Cause.DISABLE, why)

    def reset(self, now_ns: int) -> tuple[bool, str]:
        """Leave LATCHED for DISARMED, unless the e-stop is still pressed."""
        self._see(now_ns)
        if self._state is not State.LATCHED:
            return True, f"not latched: {self._state.value}"
        if self._estop:
            return False, "release the e-stop first"
        if self._fault:
            return False, f"clear the arm's fault first: {self._fault}"
        self._enter(Cause.RESET, "reset; call enable to move")
        return True, "reset; call enable to move"

    def hold(self, now_ns: int) -> tuple[bool, str]:
        """Stop smoothly and stay until enable is called."""
        self._see(now_ns)
        if not self._rest(Cause.ASK, "asked to hold; call enable to go on"):
            return True, f"nothing moves: {self._state.value}, {self._reason}"
        return True, "holding; call enable to go on"

    def due(self, now_ns: int) -> bool:
        """Whether a chunk that comes at `now_ns` moves the arm at once: motion is allowed, and no earlier one runs."""
        if not TABLE[self._state].listens:
            return False
        changed = self._changed_ns is not None and self._recent(self._changed_ns, now_ns)
        return self._passed(self._config.replan_s, now_ns) or (changed and self._passed(self._config.react_s, now_ns))

    def _passed(self, seconds: float, now_ns: int) -> bool:
        """Whether the last chunk was sent so long ago, or none was."""
        return self._accepted_ns is None or now_ns - self._accepted_ns >= seconds * NS - 1e6

    def _recent(self, stamp_ns: int, now_ns: int) -> bool:
        """Whether a chunk for an observation of that stamp would be taken: it is neither old nor of the future."""
        return 0 <= now_ns - stamp_ns <= self._config.chunk_age_s * NS

    def _turn(self, chunk: ActionChunk, now_ns: int) -> bool:
        """Whether it is this chunk's turn, or it need not wait for one."""
        if not self.due(now_ns):
            return False
        answers = self._changed_ns is not None and chunk.stamp_ns >= self._changed_ns
        return answers or self._passed(self._config.replan_s, now_ns)

    def tick(self, now_ns: int) -> Command:
        """What must be sent now. Call it at `config.rate_hz`, before 0.5 s have passed in any case."""
        now_ns = self._see(now_ns)
        stands, self._ticked_ns = now_ns == self._ticked_ns, now_ns
        self._watch(now_ns)
        self._counters["clock_still"] += stands
        self._clock.stood += stands
        sent: Sent | None = None
        self._answered = None
        if not stands:  # else the arm may be further than it is taken to be: what runs comes to rest by itself
            sent = self._stop(now_ns) if self._stopping else self._take_seat(now_ns) or self._follow(now_ns)
        if self._state is State.ARMED and self._plan is None and self._seat is Seat.TAKEN:
            self._reason = FIRST
        if self._moves() and self._pending is None and not self._flight.running(now_ns) and self._stamped:
            self._counters["chunk_end"] += 1
            since = f"those after it were refused ({self._refusal})" if self._refusal else "no new chunk came"
            self._rest(Cause.MISS, f"the last chunk has ended, {since}")
        gripper = None
        if self._plan is not None and self._moves():
            gripper = self._gate.command(self._plan.gripper(now_ns), self._arm.gripper, now_ns)
        self._commands += sent is not None
        trajectory, begin_ns = sent or (None, 0)
        return Command(trajectory, gripper, self._status(now_ns), begin_ns, self._apart_ns)

    def in_time(self, now_ns: int) -> bool:
        """Whether the trajectory of the last tick may still be sent; else it must not be, and what ran before goes on.

        Ask right before sending it: a process can be stopped for any time between its tick and that.
        """
        ticked_ns, now_ns = self._ticked_ns, self._see(now_ns)
        if self._ticked_ns is not None and self._ticked_ns == ticked_ns and now_ns - self._ticked_ns <= self._send_ns:
            return True
        self._counters["unsent"] += 1
        self._place.unsent()
        if not self._flight.unsent():
            self._seat = Seat.UNKNOWN
        self._stopping = self._stopping or not TABLE[self._state].moves
        self._accepted_ns, self._pending = None, self._pending or self._answered
        return False

    @property
    def resting(self) -> bool:
        """Whether nothing moves, so that the clock of whoever calls may go after another."""
        return self._clock.last_ns is None or not self._flight.running(self._clock.last_ns)

    def _see(self, now_ns: int, step_s: float = 0.0) -> int:
        """The time to use. After a jump nothing about the flight is known but where it ends, and by when."""
        last_ns, stood = self._clock.last_ns, self._clock.stood
        now_ns, jump_s = self._clock.see(now_ns)
        jump_s = jump_s or step_s
        if not jump_s or last_ns is None:
            return now_ns
        self._counters["clock_jump"] += 1
        self._flight.lost(last_ns, now_ns, "the clock jumped, and the arm may still be coming to rest")
        self._pending = self._newest_ns = self._accepted_ns = self._ramp_ns = self._changed_ns = None
        passed_s = (now_ns - last_ns) / NS - step_s if self._steady else 0.0
        self._arm.forget(last_ns, now_ns, passed_s)
        self._late.forget()
        self._controller.forget()
        self._place.forget()
        self._stall.forget()
        said = f"the clock jumped by {jump_s:+.3f} s"
        if stood >= self._clock.patience:  # then a small step says nothing: time may have been lost
            said += f" after it stood still for {stood / self._config.rate_hz:.1f} s"
        if self._state is State.HELD:
            self._rest(Cause.ASK, f"{said}; call enable to go on")
        else:
            self._rest(Cause.MISS, f"{said}; waiting for the arm to come to rest")
        self._stopping = False
        return now_ns

    def _moves(self) -> bool:
        """Whether a chunk moves the arm, or is about to."""
        return TABLE[self._state].moves and self._plan is not None

    def _watch(self, now_ns: int) -> None:
        """Joint states and chunks must come, and the arm and its controller be near where they are commanded."""
        if not TABLE[self._state].watched:
            return
        stale = self._arm.stale(now_ns)
        self._watch_arm(stale, now_ns)
        silent_s = (now_ns - self._heard_ns) / NS
        if self._moves() and silent_s > self._config.chunk_silence_s + 1e-6:
            self._counters["silence"] += 1
            self._rest(Cause.MISS, f"no new chunk for {silent_s:.2f} s: policy or camera is silent")
        if self._flight.known and not self._flight.settling(now_ns):
            self._watch_controller(now_ns)
        if not stale and not self._flight.settling(now_ns) and self._arm.stamp_ns != self._followed_ns:
            self._watch_place(now_ns)

    def _watch_arm(self, stale: str, now_ns: int) -> None:
        """Whether joint states come at all."""
        jumped = self._arm.joints is None and self._flight.settling(now_ns)
        if stale and not self._missed and not jumped and self._state is not State.HELD:
            self._counters["state_age"] += self._state is not State.HOLD
            self._rest(Cause.MISS, stale)
            self._missed = stale
        if self._missed and not stale:
            self._missed = ""
            if self._state is State.HOLD:
                self._reason = "joint states are back; waiting for a chunk"
        if self._arm.lost_s and self._state is not State.HELD:
            self._counters["state_lost"] += 1
            gone = f"joint states were missing for {self._arm.lost_s:.1f} s, the driver may have been started anew"
            self._rest(Cause.ASK, f"{gone}; call enable to go on")

    def _watch_place(self, now_ns: int) -> None:
        """Whether the arm is where it is commanded, and moves when it is commanded to."""
        self._followed_ns, commanded = self._arm.stamp_ns, self._flight.commanded(now_ns)[0]
        stall = self._stall.see(commanded, self._measured(), now_ns)
        if stall is not None and self._state is not State.HELD:
            self._stand(stall, now_ns)
        if self._seat is Seat.UNKNOWN:
            return
        off = np.abs(checks.distance(self._measured(), commanded))
        self._strays = self._strays + 1 if off.max() > self._config.max_jump_rad else 0
        if self._strays >= REPEATS:
            self._counters["following"] += 1
            joint = JOINTS[int(off.argmax())]
            self._latch(f"{joint} is {off.max():.3f} rad from where it is commanded: blocked, in fault, or moved")

    def _stand(self, stall: Stall, now_ns: int) -> None:
        """The arm does not move as it is commanded to."""
        self._counters["standing"] += 1
        asked = "is its controller active, or does its log refuse what it is sent?"
        said = f"{JOINTS[stall.joint]} stands still while it is commanded to move: {asked}"
        self._rest(Cause.ASK, f"{said} call enable to go on")
        self._seat = Seat.UNKNOWN
        if stall.whole:  # a stop begins where the controller is not, and it may be active again when that comes
            self._flight.lost(now_ns, now_ns, "the arm did not follow what was sent")
            self._stopping = False

    def _watch_controller(self, now_ns: int) -> None:
        """Whether the controller runs what it was sent, by the clock that was measured."""
        if not self._measures():
            return
        silent = self._controller.silent(now_ns)
        if silent:
            self._hear_nothing(silent, now_ns)
            return
        if not self._controller.measured():
            return
        moved_ns = self._moved_ns(now_ns)
        if not self._flight.running(now_ns):
            self._place.forget()
            self._measure_anew(moved_ns)
        elif moved_ns:
            if TABLE[self._state].moves:
                self._counters["controller_clock"] += 1
                self._rest(Cause.MISS, f"the controller's clock moved by {moved_ns / NS:+.3f} s; waiting for a chunk")
        elif self._place.lost(now_ns):
            self._place.unsent()
            self._flight.unsent()
            self._counters["place"] += 1
            self._rest(Cause.MISS, "the controller did not take over what it was sent; waiting for a chunk")
        if not moved_ns and self._controller.stamp_ns != self._referred_ns:
            self._watch_reference(now_ns)

    def _hear_nothing(self, silent: str, now_ns: int) -> None:
        """The controller does not say what it does: one stop is sent, and then nothing until it is heard again."""
        begins, self._deaf, self._pending = not self._deaf, True, None
        self._counters["controller_silent"] += self._moves()
        if begins or TABLE[self._state].moves:
            self._rest(Cause.MISS, silent)
        elif self._controller.gone(now_ns) and self._state is not State.HELD:
            said = f"{silent}: it may have been deactivated or started anew; call enable to go on"
            self._enter(Cause.ASK, said)

    def _measures(self) -> bool:
        """Whether trajectories are stamped by what the controller says of its clock."""
        return self._config.stamp_commands == "auto"

    def _moved_ns(self, now_ns: int) -> int:
        """By how much more the controller's clock moved than it is followed, ns, by when its messages come or by where
        it is on what it runs."""
        apart_ns = None if self._apart_ns is None else self._place.apart_ns(now_ns)
        by_place = 0 if apart_ns is None or self._apart_ns is None else apart_ns - self._apart_ns
        return by_place if abs(by_place) > MOVED_S * NS else self._controller.moved_ns(self._lag_ns)

    def _in_step(self, now_ns: int) -> bool:
        """Whether it is known where the controller is on what runs, so that something else may be joined to that.

        Where its clock moved a little, it is followed.
        """
        if not self._measures():
            return True
        if not self._controller.measured() or self._moved_ns(now_ns):
            return False
        if not self._flight.running(now_ns) or not self._place.tells:
            return True
        apart_ns = None if self._apart_ns is None else self._place.apart_ns(now_ns)
        if not self._place.taken(now_ns, self._send_ns) or (self._apart_ns is not None and apart_ns is None):
            self._counters["place"] += 1
            return False
        if apart_ns is not None and self._apart_ns is not None and abs(apart_ns - self._apart_ns) > FOLLOWED_NS:
            self._apart_ns, self._lag_ns = apart_ns, -apart_ns
        return True

    def _at_rest(self, now_ns: int) -> bool:
        """Whether the controller, where it is heard and nothing should run, holds the arm still.

        Where it holds something else than it was sent (that was lost), the next motion begins there.
        """
        if self._flight.running(now_ns) or self._controller.silent(now_ns) or self._controller.reference is None:
            return True
        if not self._controller.still():
            self._counters["place"] += 1
            return False
        if self._controller.away(self._flight.commanded(now_ns)[0]) > SAME_RAD:
            self._counters["place"] += 1
            self._flight.start(self._controller.reference)
        return True

    def _measure_anew(self, moved_ns: int) -> None:
        """At rest: the controller's clock is followed, and measured from the beginning when it was set."""
        if self._controller.unclear(self._config.start_window_s):
            if moved_ns:
                self._controller.forget_clock()
        elif moved_ns or self._apart_ns is not None:
            self._lag_ns = self._controller.lag_ns()
            self._apart_ns = None if self._controller.shared() else -self._lag_ns

    def _watch_reference(self, now_ns: int) -> None:
        """Whether the controller commands what it was sent."""
        self._referred_ns = self._controller.stamp_ns
        at_ns = self._referred_ns if self._apart_ns is None else self._referred_ns + self._lag_ns
        off = self._controller.away(self._flight.commanded(at_ns)[0])
        self._others = self._others + 1 if off > REFERENCE_RAD else 0
        self._deaf = self._deaf and self._others > 0
        if self._others < REPEATS:
            return
        self._others = 0
        self._flight.lost(now_ns, now_ns, "the controller runs something else")
        elsewhere = f"the controller commands what is {off:.3f} rad from what it was sent"
        if self._deaf:
            self._rest(Cause.ASK, f"{elsewhere}, and was silent: deactivated, or started anew? call enable to go on")
            self._seat = Seat.UNKNOWN
            return
        self._counters["reference"] += 1
        self._latch(f"{elsewhere}: who else commands it?")

    def _judge_clock(self, now_ns: int) -> str:
        """Decide how trajectories are stamped from now on; why that cannot be known, empty when it is."""
        self._apart_ns, self._lag_ns = None, 0
        if not self._measures():
            return ""
        fault = self._controller.silent(now_ns) or self._controller.unclear(self._config.start_window_s)
        if fault:
            return f"{fault}; {REMEDY}"
        self._lag_ns = self._controller.lag_ns()
        self._apart_ns = None if self._controller.shared() else -self._lag_ns
        return self._controller.moving()

    def _clock_said(self) -> str:
        """How trajectories are stamped, for whoever enabled."""
        if not self._stamped:
            return f"no common clock: motions from rest to rest of {SHORT_S} s"
        if self._apart_ns is None:
            measured = " as measured" if self._config.stamp_commands == "auto" else ""
            return f"the controller has this machine's clock{measured}"
        return f"the controller's clock is {self._apart_ns / NS:+.3f} s from this one"

    def controller_known(self, now_ns: int) -> dict[str, str]:
        """What is known of the controller's clock and of the turns it counts, and whether trajectories are stamped."""
        seen, joints = self._controller, self._arm.joints
        clock = self._clock_said()
        if self._measures():
            unknown = seen.silent(now_ns) or seen.unclear(self._config.start_window_s)
            apart = (
                "this machine's, as measured" if unknown or seen.shared() else f"{-seen.lag_ns() / NS:+.3f} s from this"
            )
            clock = f"not known: {unknown}" if unknown else apart
        turns = "not known"
        if seen.reference is not None and joints is not None:
            counted = np.round((seen.reference - joints) / (2.0 * np.pi)).astype(int).tolist()
            turns = " ".join(map(str, counted)) if any(counted) else "none"
        return {"controller_clock": clock, "controller_turns": turns, "stamps": "yes" if self._stamped else "no"}

    def _judge_place(self, now_ns: int) -> str:
        """Decide what the controller holds; why the arm may not be moved from there, empty when it may."""
        measured = self._measured()
        silent = self._controller.silent(now_ns)
        if silent:
            off = self._flight.away(measured)
            unknown = not self._flight.known or self._arm.lost_s > 0.0 or self._seat is Seat.UNKNOWN
        else:
            off, unknown = self._controller.turned(measured), False
        if off > SEAT_MOST_RAD:
            return (
                f"the arm stands {off:.2f} rad from its last command; call forget if its controller was started anew "
                f"or the simulator reset, else move it to within {SEAT_MOST_RAD} rad"
            )
        if not silent and self._controller.reference is not None:
            self._flight.start(self._controller.reference)
        elif not self._flight.known:
            self._flight.start(measured)
        self._seat = Seat.UNKNOWN if unknown else Seat.KEPT
        return ""

    def _measured(self) -> Floats:
        """Where the arm is (7,), rad. Raises ControlError when nobody said."""
        if self._arm.joints is None:
            raise ControlError("no joint state yet")
        return self._arm.joints

    def _take_seat(self, now_ns: int) -> Sent | None:
        """Bring the controller to where the arm stands: once after enabling, before any chunk moves it."""
        if self._seat is Seat.TAKEN or not TABLE[self._state].listens:
            return None
        fault = self._unready(now_ns)
        if fault:
            self._reason = fault if self._state is State.ARMED else self._reason
            return None
        seat = self._flight.seat(self._measured(), now_ns, self._limits, self._seat is Seat.UNKNOWN)
        self._seat = Seat.TAKEN
        return None if seat is None else (seat, 0)

    def _follow(self, now_ns: int) -> Sent | None:
        """Trajectory of the waiting chunk when it is its turn."""
        chunk = self._pending
        if chunk is None or self._seat is not Seat.TAKEN or not self._turn(chunk, now_ns) or self._arm.stale(now_ns):
            return None
        if not self._stamped and self._flight.running(now_ns):
            return None
        if self._flight.settling(now_ns) == "" and not (self._in_step(now_ns) and self._at_rest(now_ns)):
            return None
        self._pending, self._answered = None, chunk
        try:
            return self._accept(chunk, now_ns)
        except Refused as refused:
            self._refuse(refused)
            return None

    def _accept(self, chunk: ActionChunk, now_ns: int) -> Sent:
        """Trajectory of `chunk`, from what is commanded when it may part from what runs. Raises Refused."""
        settling = self._flight.settling(now_ns)
        if settling:
            raise Refused("clock", settling)
        begin_ns = now_ns if self._ramp_ns is None else self._ramp_ns
        self._late.see(chunk.stamp_ns, now_ns)
        shares = {"ramp": self._limits.ramp((now_ns - begin_ns) / NS), "late": self._late.share(now_ns)}
        parts_ns = self._flight.parting(now_ns, self._config.start_window_s) if self._stamped else now_ns
        start = self._flight.commanded(parts_ns)
        plan = admit(chunk, now_ns, parts_ns, start, self._measured(), shares, self._rules)
        try:
            if self._stamped:
                sent = self._flight.send(plan.trajectory, parts_ns, now_ns)
                self._note(sent, now_ns)
            else:
                sent = self._flight.send_unstamped(plan.trajectory, now_ns), 0
        except ControlError as error:
            raise Refused("controller", f"the controller would refuse it: {error}") from error
        for name in plan.changed:
            self._counters[name] += 1
        self._plan, self._ramp_ns, self._accepted_ns, self._jumps, self._refusal = plan, begin_ns, now_ns, 0, ""
        if self._changed_ns is not None and chunk.stamp_ns >= self._changed_ns:
            self._counters["reacted"] += 1
            self._changed_ns = None
        self._enter(*self._motion(shares))
        return sent

    def _motion(self, shares: Mapping[str, float]) -> tuple[Cause, str]:
        """What an accepted chunk does, and why."""
        if shares["ramp"] < 1.0:
            return Cause.RAMP, f"first motion, at {shares['ramp']:.0%} of the velocity limit"
        if shares["late"] < 1.0:
            return Cause.SLOW, f"chunks come late: at {shares['late']:.0%} of the velocity limit"
        return Cause.RUN, "following chunks"

    def _stop(self, now_ns: int) -> Sent | None:
        """A smooth stop of what is in flight, sent once."""
        window_s = self._config.start_window_s
        ending = not self._flight.running(now_ns + round(window_s * NS))
        if ending or not self._stamped or self._flight.settling(now_ns):
            self._stopping = False
            return None  # what is in flight comes to rest by itself
        if not self._in_step(now_ns):
            return None  # it does, unless this is known in time
        self._stopping = False
        sent = self._flight.stop(now_ns, self._limits, window_s)
        self._counters["stop"] += sent is None
        self._note(sent, now_ns)
        return sent

    def _note(self, sent: Sent | None, now_ns: int) -> None:
        """Keep what is sent, to know it again in what the controller says."""
        if sent is not None and sent[1]:
            self._place.sent(sent[1], self._apart_ns, now_ns)

    def _enter(self, event: Cause, reason: str) -> bool:
        """Follow `states.TABLE`; whether it knows this event here."""
        to = TABLE[self._state].to.get(event)
        if to is None:
            return False
        self._state, self._reason = to, reason
        return True

    def _rest(self, event: Cause, reason: str) -> bool:
        """Enter a state in which the arm stands; whatever is in flight is stopped at the next tick."""
        ramping = self._state is State.ARMED
        if not self._enter(event, reason):
            return False
        if ramping:
            self._ramp_ns = None
        self._pending = self._plan = None
        self._stopping = True
        return True

    def _latch(self, reason: str) -> None:
        self._rest(Cause.LATCH, reason)

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
        return self._limits.outside(self._measured())

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
