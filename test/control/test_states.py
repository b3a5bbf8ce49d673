"""The guard's table of states: whole, and the same as what the guard does."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from support.guarded_arm import GuardedArm, moving_arm, stream

from ecovla_ros.control.states import TABLE, Cause, State


def test_every_state_has_its_rule_and_every_one_can_be_reached_and_left() -> None:
    assert set(TABLE) == set(State)
    reached = {to for rule in TABLE.values() for to in rule.to.values()}
    assert reached == set(State) and all(set(rule.to.values()) - {state} for state, rule in TABLE.items())


def test_nothing_but_reset_leaves_a_latch_and_everything_can_latch() -> None:
    assert set(TABLE[State.LATCHED].to) == {Cause.RESET}
    assert all(rule.to[Cause.LATCH] is State.LATCHED for state, rule in TABLE.items() if state is not State.LATCHED)


def test_only_enable_leads_from_where_chunks_are_not_heard_to_where_they_move_the_arm() -> None:
    for state, (event, to) in itertools.chain.from_iterable(
        ((state, item) for item in rule.to.items()) for state, rule in TABLE.items()
    ):
        if TABLE[to].moves and not TABLE[state].listens:
            assert event is Cause.ENABLE


@pytest.mark.parametrize("wish", ["hold", "silence", "estop", "disable"])
def test_the_guard_walks_along_the_table(wish: str) -> None:
    arm = moving_arm(chunk_silence_s=0.42)
    seen = [State.RUNNING]

    def look() -> None:
        assert arm.last is not None
        now = State(arm.last.status.state)
        if now is not seen[-1]:
            assert now in TABLE[seen[-1]].to.values()
            seen.append(now)

    if wish == "hold":
        arm.guard.hold(arm.clock)
    elif wish == "estop":
        arm.guard.on_estop(True, arm.clock)
    elif wish == "disable":
        arm.guard.enable(False, arm.clock)
    for _ in range(120):
        arm.run(0.01)
        look()
    assert seen[-1] is {"hold": State.HELD, "silence": State.HOLD, "estop": State.LATCHED}.get(wish, State.DISARMED)
    assert not np.array(arm.speed[-1]).any()


def test_a_held_arm_hears_no_chunk_and_a_holding_one_does() -> None:
    arm = moving_arm()
    arm.guard.hold(arm.clock)
    arm.run(0.8)
    stream(arm, 0.8)
    assert arm.last is not None and arm.last.status.state == "HELD" and arm.last.status.counters["enabled"] > 0


def test_what_was_not_sent_in_time_is_taken_back_and_a_stop_is_tried_again() -> None:
    arm = moving_arm()
    arm.guard.on_estop(True, arm.clock)
    command = arm.guard.tick(arm.clock)
    assert command.trajectory is not None
    arm.now += 30_000_000  # the process was stopped: the motion in flight went on
    assert not arm.guard.in_time(arm.clock)
    begin = len(arm.sent)
    arm.run(0.5)
    assert len(arm.sent) == begin + 1 and arm.last is not None and arm.last.status.counters["unsent"] == 1
    assert not arm.speed[-1].any()


def test_auto_refuses_without_the_controllers_word_and_says_what_helps() -> None:
    arm = GuardedArm(np.array([0.3, 0.26, 3.0, -2.0, 0.4, 0.95, 1.57]), stamp_commands="auto")
    arm.silent = True
    arm.run(0.3)
    ok, why = arm.guard.enable(True, arm.clock)
    assert not ok and "controller_state is not heard" in why and "stamp_commands to always" in why
    arm.silent = False
    arm.run(0.3)
    ok, why = arm.guard.enable(True, arm.clock)
    assert ok and "as measured" in why
